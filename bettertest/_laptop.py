"""`python -m bettertest pipedef.py`: drives a pipedef without a boss, in the terminal, for one run.

Each task has a Python process of its own here too, so that a pipedef does on a laptop what it does under a boss.
Nothing is kept: no history, no resuming.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
from collections import deque
from typing import Any, Optional

from . import _verdict
from ._artifacts import lines
from ._problem import Refusal
from ._screen import Screen, duration
from ._spawn import PipedefProcess
from ._tokens import Tokens
from ._verdict import CANCELLED, Verdict
from ._worker import Step

DISCOVERY_S = 10.0
MOST_PROCESSES = 64
# TERM, 10 s, KILL, 30 s: by then a worker has ended a step, or says that it cannot.
CANCEL_S = 45.0
# For what a task's Python still does after its last word, such as removing its temporary files.
LEAVE_S = 5.0

# A snapshot is a boss's to take and to send.
NO_SOURCE = {
    "answer": "refused",
    "problem": {
        "error": "source_at and build(...) need a boss, and python -m bettertest is none",
        "hint": "run it with: bettertest run FILE",
    },
}


def discover(pipedef: str) -> dict[str, Any]:
    """`discovered` of common/wire. Raises Refusal."""
    path = os.path.abspath(pipedef)
    process = PipedefProcess(path, subprocess.DEVNULL)
    try:
        process.say({"order": "discover", "pipedef": path})
        said = next(process.messages(DISCOVERY_S), None)
    except TimeoutError:
        raise Refusal(
            f"{pipedef} did not end within {DISCOVERY_S:.0f} s of being read",
            "let it only declare stages; what takes time or waits belongs in a task",
            path,
        ) from None
    finally:
        code = process.end()
    if said is None:
        raise Refusal(
            f"Python ended with exit code {code} while it read {pipedef}",
            f"try it: python3 {pipedef}",
            path,
        )
    if said["say"] == "broken":
        raise Broken(said["problem"])
    return said


class Broken(Refusal):
    """A pipedef that cannot be executed, with the traceback where it raised."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["error"], problem["hint"], problem.get("file"), problem.get("line"))
        self.traceback: Optional[str] = problem.get("traceback")


class LaptopRun:
    def __init__(
        self, pipedef: str, discovered: dict[str, Any], tokens: Tokens, screen: Screen, artifacts: Optional[str]
    ) -> None:
        self._pipedef = os.path.abspath(pipedef)
        self._files = discovered["files"]
        self._stages = discovered["pipeline"]["stages"]
        self._tokens = tokens
        self._screen = screen
        self._artifacts = artifacts
        # What stands before the `-` of a step's id is, for a worker's queue, its run.
        self._key = os.urandom(16).hex()
        self._ended: queue.Queue[tuple[str, Verdict, int]] = queue.Queue()
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._attempts: set[_Attempt] = set()

    def run(self) -> Verdict:
        """Runs everything, shows it, and returns the run's verdict. Ctrl-C cancels, a second one leaves at once."""
        began = time.monotonic()
        verdicts: list[Verdict] = []
        rows: list[tuple[str, str, str]] = []
        going_on = True
        for stage in self._stages:
            names = [f"{stage['name']}.{task['name']}" for task in stage["tasks"]]
            if self._cancelled.is_set() or not (going_on or stage["always"]):
                why = "cancelled" if self._cancelled.is_set() else "earlier_stage"
                rows += [("skipped", name, why) for name in names]
                continue
            for name, verdict, took_ms in self._run_stage(names):
                verdicts.append(verdict)
                going_on = going_on and verdict.outcome == "passed"
                rows.append((verdict.outcome, name, duration(took_ms)))
        if self._cancelled.is_set():
            verdicts.append(CANCELLED)
        whole = _verdict.worst(verdicts)
        self._screen.say()
        width = max(len(name) for _, name, _ in rows)
        for word, name, note in rows:
            self._screen.say(f"  {word:9}  {name:{width}}  {note}")
        self._screen.say(f"\n{whole} in {duration(_ms_since(began))}")
        return whole

    def _run_stage(self, names: list[str]) -> list[tuple[str, Verdict, int]]:
        waiting, running = deque(names), 0
        ended: dict[str, tuple[str, Verdict, int]] = {}
        deadline: Optional[float] = None
        while waiting or running:
            try:
                while waiting and running < MOST_PROCESSES and not self._cancelled.is_set():
                    threading.Thread(target=self._run_task, args=(waiting.popleft(),), daemon=True).start()
                    running += 1
                if not running:
                    break
                one = self._ended.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
                running -= 1
                ended[one[0]] = one
                self._show(*one)
            except KeyboardInterrupt:
                if deadline is not None:
                    raise
                self._screen.say("cancelling; press Ctrl-C again to leave at once")
                deadline = time.monotonic() + CANCEL_S
                self._cancel()
            except queue.Empty:
                self._screen.say(f"a step has not ended {CANCEL_S:.0f} s after its cancel was asked for")
                break
        return [ended.get(name, (name, CANCELLED, 0)) for name in names]

    def _run_task(self, name: str) -> None:
        began = time.monotonic()
        stage, task = name.split(".")
        order = {"order": "task", "pipedef": self._pipedef, "files": self._files, "stage": stage, "task": task}
        attempt = _Attempt(name, self._key, self._tokens, self._screen, self._artifacts)
        with self._lock:
            self._attempts.add(attempt)
        verdict = CANCELLED if self._cancelled.is_set() else attempt.run(order)
        with self._lock:
            self._attempts.discard(attempt)
        self._ended.put((name, verdict, _ms_since(began)))

    def _cancel(self) -> None:
        self._cancelled.set()
        with self._lock:
            attempts = list(self._attempts)
        for attempt in attempts:
            threading.Thread(target=attempt.cancel, daemon=True).start()

    def _show(self, name: str, verdict: Verdict, took_ms: int) -> None:
        lines = self._screen.of(name)
        lines.say(f"{verdict} in {duration(took_ms)}")
        problem = verdict.problem or {}
        if "traceback" in problem:
            # Its last line is the error.
            for line in problem["traceback"].splitlines():
                lines.say(line)
        elif "error" in problem:
            place = f" ({os.path.basename(problem['file'])}:{problem['line']})" if "line" in problem else ""
            lines.say(problem["error"] + place)
        if problem.get("hint"):
            lines.say(f"hint: {problem['hint']}")


class _Attempt:
    """One task: its Python process and the steps that it asks for."""

    def __init__(self, name: str, run_key: str, tokens: Tokens, screen: Screen, artifacts: Optional[str]) -> None:
        self._name = name
        self._key = run_key
        self._tokens = tokens
        self._screen = screen
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._process: Optional[PipedefProcess] = None
        self._cancelled = False
        self._steps: set[Step] = set()
        self._answers: dict[int, dict[str, Any]] = {}

    def run(self, order: dict[str, Any]) -> Verdict:
        process = PipedefProcess(order["pipedef"], subprocess.PIPE)
        with self._lock:
            self._process = process
        printed = threading.Thread(target=self._show_output, args=(process,), daemon=True)
        printed.start()
        process.say(order)
        last = None
        followers: list[threading.Thread] = []
        for said in process.messages():
            if said["say"] == "step_asked" and _needs_source(said["spec"]):
                self._answers[said["call"]] = NO_SOURCE
                process.say({**NO_SOURCE, "call": said["call"]})
            elif said["say"] == "step_asked":
                # Of its steps the first has the task's folder; files of several may have one name.
                within = [self._name] if not followers else [self._name, f"step-{len(followers) + 1}"]
                folder = None if self._artifacts is None else os.path.join(self._artifacts, *within)
                followers.append(threading.Thread(target=self._follow, args=(process, said, folder), daemon=True))
                followers[-1].start()
            elif said["say"] == "imported":
                # There is no later process that could find another text.
                process.say({"answer": "recorded", "call": said["call"]})
            else:
                last = said
                break
        # Steps that nobody waits for any more; after `returned` there are none.
        self._cancel_steps()
        if last is not None:
            # Its output closes when it has ended, and all that it started.
            printed.join(LEAVE_S)
        process.kill()
        for follower in followers:
            follower.join()
        printed.join()
        process.end()
        if self._cancelled:
            return CANCELLED
        return _verdict.of_task(last, self._answers)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            process = self._process
        self._cancel_steps()
        if process is not None:
            process.kill()

    def _cancel_steps(self) -> None:
        with self._lock:
            steps = list(self._steps)
        for step in steps:
            step.cancel()

    def _follow(self, process: PipedefProcess, asked: dict[str, Any], folder: Optional[str]) -> None:
        streams = {name: self._screen.of(self._name) for name in ("stdout", "stderr")}
        step = Step(
            asked["worker"],
            asked["spec"],
            self._key,
            self._tokens,
            lambda stream, data: streams[stream].feed(data),
            lambda mark: streams["stdout"].say(f"-- {mark}"),
        )
        with self._lock:
            self._steps.add(step)
        answer = step.follow()
        for stream in streams.values():
            stream.end()
        for line in lines(step.files, folder, step.ask_for_file):
            streams["stdout"].say(f"-- {line}")
        with self._lock:
            self._steps.discard(step)
            self._answers[asked["call"]] = answer
        process.say({**answer, "call": asked["call"]})

    def _show_output(self, process: PipedefProcess) -> None:
        lines = self._screen.of(self._name)
        assert process.output is not None
        with process.output as output:
            for data in iter(lambda: output.read1(65536), b""):  # type: ignore[attr-defined]
                lines.feed(data)
        lines.end()


def _needs_source(spec: dict[str, Any]) -> bool:
    return "source_at" in spec or isinstance(spec["command"], dict)


def _ms_since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
