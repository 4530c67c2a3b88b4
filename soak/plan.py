"""What a run is to do, made from a seed, and what has to come of it: the oracle.

A plan is stages of tasks, a task is calls of `run(...)` in some order, a call is one step whose every byte and whose
end are known beforehand. `expect` walks a task as Python would and says which steps it asks for and how it ends.
Nothing here has ever seen the product.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

#: Engines of workers. `own` has no worker: a local run brings one.
DOCKER, FAKE, NATIVE, SECOND, OWN = "docker", "fake", "native", "second", "own"

FOREVER_S = 60


def lines(key: str, begin: int, count: int) -> List[str]:
    """Numbered and hashed, each hash made from the one before: none can be missing, doubled or moved unnoticed."""
    value = (zlib.crc32(key.encode()) + begin) % 65521
    made = []
    for number in range(begin, begin + count):
        value = (value * 31 + number) % 65521
        made.append(f"{key} {number} {value}")
    return made


@dataclass(frozen=True)
class Piece:
    """`out` or `err`: lines. `bulk`: many lines. `raw`: all byte values. `sleep`: seconds."""

    what: str
    begin: int = 0
    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Step:
    key: str
    worker: str
    pieces: Tuple[Piece, ...]
    #: 0 to 255; a step that a signal ends has 128 and the signal.
    exit_code: int
    timeout_s: Optional[int] = None
    by_signal: bool = False
    stubborn: bool = False
    cap_bytes: Optional[int] = None

    @property
    def times_out(self) -> bool:
        return self.timeout_s is not None

    def command(self) -> str:
        words = [f"echo {self.key} begin"]
        if self.stubborn:
            words.append("trap '' TERM")
        for piece in self.pieces:
            if piece.what == "sleep":
                words.append(f"sleep {piece.seconds}")
            elif piece.what == "raw":
                words.append("printf '" + "".join(f"\\{byte:03o}" for byte in RAW) + "'")
            elif piece.what == "bulk":
                seed = (zlib.crc32(self.key.encode()) + piece.begin) % 65521
                words.append(
                    f"awk 'BEGIN {{ h = {seed}; for (i = {piece.begin}; i < {piece.begin + piece.count}; i++)"
                    f' {{ h = (h * 31 + i) % 65521; print "{self.key} " i " " h }} }}\''
                )
            else:
                to = " >&2" if piece.what == "err" else ""
                words += [f"echo {line}{to}" for line in lines(self.key, piece.begin, piece.count)]
        if self.times_out:
            words.append(f"sleep {FOREVER_S}")
        words.append(f"kill -{self.exit_code - 128} $$" if self.by_signal else f"exit {self.exit_code}")
        return "; ".join(words)

    def printed(self) -> Dict[str, bytes]:
        """By stream: what has to be stored of it, byte for byte."""
        streams = {"stdout": bytearray(f"{self.key} begin\n".encode()), "stderr": bytearray()}
        for piece in self.pieces:
            if piece.what == "raw":
                streams["stdout"] += bytes(RAW)
            elif piece.what != "sleep":
                text = "".join(line + "\n" for line in lines(self.key, piece.begin, piece.count))
                streams["stderr" if piece.what == "err" else "stdout"] += text.encode()
        return {name: bytes(text) for name, text in streams.items()}

    def raises(self) -> bool:
        return self.times_out or self.exit_code != 0

    def reason(self) -> str:
        return "step_timeout" if self.times_out else "command_failed"


RAW = [byte for byte in range(256) for _ in range(2)] + [0xE2, 0x82, 0xE2, 0x82, 0xAC, 0x0D, 0x00]

# How a call is written down: uncaught, in a `try`, with `check=False`.
PLAIN, CAUGHT, UNCHECKED = "plain", "caught", "unchecked"


@dataclass
class Call:
    step: Step
    how: str = PLAIN
    #: Asked once more only where the exit code of this one (`check=False`) is what it has to be.
    then: Optional[Step] = None
    #: So often in all, each an equal call.
    times: int = 1


@dataclass
class Task:
    name: str
    #: Each entry is a call, or several at once in threads.
    calls: List[List[Call]]
    #: How its Python ends after them: `returns`, `raises`, `exits`.
    last: str = "returns"

    def steps(self) -> List[Step]:
        calls = [call for group in self.calls for call in group]
        return [call.step for call in calls] + [call.then for call in calls if call.then is not None]


@dataclass
class StagePlan:
    name: str
    tasks: List[Task]
    always: bool = False


@dataclass
class Expected:
    """What has to come of an attempt of a task."""

    outcome: str
    reason: Optional[str]
    #: How often each step is asked for.
    asked: Counter[str] = field(default_factory=Counter)


@dataclass
class Plan:
    number: int
    stages: List[StagePlan]
    #: What else is done to it.
    cancel_after_s: Optional[float] = None
    rerun: bool = False
    only: Optional[List[str]] = None
    local: bool = False

    def steps(self) -> Dict[str, Step]:
        known = {}
        for stage in self.stages:
            for task in stage.tasks:
                for group in task.calls:
                    for call in group:
                        known[call.step.key] = call.step
                        if call.then is not None:
                            known[call.then.key] = call.then
        return known

    def task(self, name: str) -> Task:
        return next(task for stage in self.stages for task in stage.tasks if f"{stage.name}.{task.name}" == name)

    def task_names(self) -> List[str]:
        return [f"{stage.name}.{task.name}" for stage in self.stages for task in stage.tasks]


def expect(task: Task) -> Expected:
    asked: Counter[str] = Counter()
    for group in task.calls:
        raised = None
        for call in group:
            asked[call.step.key] += call.times if not (call.how == PLAIN and call.step.raises()) else 1
            if call.then is not None:
                asked[call.then.key] += 1
            if call.how == PLAIN and call.step.raises() and raised is None:
                raised = call.step.reason()
        if raised is not None:
            return Expected("timed_out" if raised == "step_timeout" else "failed", raised, asked)
    if task.last == "raises":
        return Expected("failed", "raised", asked)
    if task.last == "exits":
        return Expected("errored", "runner_died", asked)
    if not asked:
        return Expected("errored", "ran_nothing", asked)
    return Expected("passed", None, asked)


class Author:
    """Writes plans; the same seed and number give the same plan."""

    def __init__(self, seed: int, workers: List[str]) -> None:
        self.seed = seed
        self.workers = workers

    def plan(self, number: int) -> Plan:
        chance = random.Random(f"{self.seed}/plan/{number}")
        # A local run is one whole run of a process of its own; half of them bring their own worker.
        local = chance.random() < 0.12
        workers = list(self.workers)
        if local and chance.random() < 0.5:
            workers = [OWN]
        # Most plans pass: a false red is as bad as a green one, and a lost step shows best among many good ones.
        trouble = chance.random() < 0.4
        stages = []
        for place in range(chance.choice((1, 1, 2, 2, 3))):
            tasks = [
                self.task(chance, f"p{number}.{place}.{name}", f"t{name}", workers, trouble)
                for name in range(chance.choice((1, 2, 2, 3)))
            ]
            stages.append(StagePlan(f"S{place}_p{number}", tasks, always=place > 0 and chance.random() < 0.3))
        plan = Plan(number, stages, local=local)
        if not local:
            if chance.random() < 0.12:
                plan.cancel_after_s = round(chance.uniform(0.0, 5.0), 2)
            plan.rerun = chance.random() < 0.5
            if len(plan.task_names()) > 1 and chance.random() < 0.12:
                plan.only = chance.sample(plan.task_names(), chance.randint(1, len(plan.task_names()) - 1))
        return plan

    def task(self, chance: random.Random, key: str, name: str, workers: List[str], trouble: bool) -> Task:
        groups: List[List[Call]] = []
        count = 0
        for _ in range(chance.choice((1, 1, 2, 2, 3))):
            group: List[Call] = []
            for _ in range(chance.choice((1, 1, 1, 3))):
                call = self.call(chance, f"{key}.{count}", workers, trouble)
                if call.how == PLAIN and any(other.how == PLAIN and other.step.raises() for other in group):
                    # One uncaught error per group: which of two comes first is up to chance.
                    call = Call(self.step(chance, f"{key}.{count}", workers, 0))
                group.append(call)
                count += 1
            groups.append(group)
        last = "returns"
        if trouble and chance.random() < 0.12:
            last = chance.choice(("raises", "exits"))
        elif trouble and chance.random() < 0.04:
            groups = []
        return Task(name, groups, last)

    def call(self, chance: random.Random, key: str, workers: List[str], trouble: bool) -> Call:
        fails = chance.random() < (0.35 if trouble else 0.2)
        code = chance.choice((1, 2, 3, 77, 125, 126, 127, 128, 137, 143, 255, chance.randint(1, 255))) if fails else 0
        step = self.step(chance, key, workers, code)
        how = chance.choice((CAUGHT, UNCHECKED))
        if trouble and chance.random() < 0.35:
            how = PLAIN
        if not fails and not step.times_out:
            how = chance.choice((PLAIN, PLAIN, UNCHECKED))
        if step.times_out and how == UNCHECKED:
            how = CAUGHT
        call = Call(step, how)
        if how == UNCHECKED and chance.random() < 0.5:
            call.then = self.step(chance, key + "b", workers, 0)
        elif how == PLAIN and not step.raises() and chance.random() < 0.1:
            call.times = 2
        return call

    def step(self, chance: random.Random, key: str, workers: List[str], code: int) -> Step:
        worker = chance.choice(workers)
        real = worker != FAKE
        pieces = []
        at = 0
        for _ in range(chance.randint(1, 5)):
            what = chance.choice(("out", "out", "err", "sleep", "sleep", "bulk" if real else "out"))
            if what == "sleep":
                pieces.append(Piece("sleep", seconds=round(chance.uniform(0.05, 1.5), 2)))
            else:
                count = chance.choice((200, 2000, 20000)) if what == "bulk" else chance.randint(1, 12)
                pieces.append(Piece(what, at, count))
                at += count
        if chance.random() < 0.15:
            pieces.append(Piece("raw"))
        if code and chance.random() < 0.12:
            return Step(key, worker, tuple(pieces), 0, timeout_s=chance.choice((1, 2)), stubborn=chance.random() < 0.2)
        if code in (137, 143) and real and chance.random() < 0.7:
            return Step(key, worker, tuple(pieces), code, by_signal=True)
        if real and chance.random() < 0.05:
            # Longer than what is kept: a head, a counted rest, a tail.
            bulk = tuple(piece for piece in pieces if piece.what == "sleep") + (Piece("bulk", at, 5000),)
            return Step(key, worker, bulk, code, cap_bytes=chance.choice((100, 4096, 20000)))
        return Step(key, worker, tuple(pieces), code)
