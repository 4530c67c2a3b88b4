"""Judges runs: what each came to against what the oracle expects, and which faults may excuse the difference.

A verdict that is neither expected nor excused is a violation; a green one that is not expected is the worst. A fault
excuses nothing but `errored`, only with a reason that fits it, and only of an attempt that it met.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, FrozenSet, List, Optional, Set, Tuple

from faults import BOSS, Fault
from history import AttemptSeen, RunSeen, StepSeen, Stored, outputs
from plan import Plan, Step, Task, expect

KEY = re.compile(r"^echo (p\d+\.[\w.]+) begin")
LOCAL = "local"
UNKNOWN = 255


@dataclass
class Violation:
    invariant: str
    at: float
    #: Which run, or which process, it is about.
    about: str
    what: str


@dataclass
class Tally:
    runs: int = 0
    attempts: int = 0
    steps: int = 0
    true: int = 0
    cancelled: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    #: What was excused, in words.
    excused: List[str] = field(default_factory=list)
    #: Attempts that met faults of one kind only: kind -> true, explained.
    by_kind: Dict[str, List[int]] = field(default_factory=dict)


class Judge:
    def __init__(self, plans: Dict[int, Plan], faults: List[Fault], workers: Dict[str, str]) -> None:
        self.plans = plans
        self.faults = faults
        #: Address -> worker.
        self.workers = workers
        self.violations: List[Violation] = []
        self.tally = Tally()

    def run(self, seen: RunSeen, folder: Path, local: bool) -> None:
        name = f"{'local run of plan' if local else 'run'} {seen.plan if local else seen.number}"
        self.tally.runs += 1
        plan = self.plans.get(seen.plan)
        if plan is None:
            self.say("I1", seen.began, name, f"it is of plan {seen.plan}, which was never written")
            return
        for wrong in seen.wrong:
            self.say("I3", seen.began, name, wrong)
        if seen.running:
            workers = {step.worker for step in plan.steps().values()}
            faults = self.met(seen.began, time.time(), workers | {LOCAL if local else BOSS})
            unended = [attempt.task for attempts in seen.attempts.values() for attempt in attempts if attempt.end is None]
            self.say("I2", seen.began, name, f"it has not ended (tasks: {', '.join(unended) or 'none'}); {met(faults)}")
            return
        if sorted(seen.only or []) != sorted(plan.only or []) or seen.tasks() != plan.task_names():
            self.say("I4", seen.began, name, f"it is not of the tasks {plan.only or plan.task_names()}")
        for place, task in enumerate(seen.tasks()):
            for attempt in seen.attempts.get(task, []):
                self.attempt(name, seen, plan, attempt, folder, place, local)
        self.skips(name, seen, plan, local)
        outcome = seen.ends[-1][1]
        if outcome != seen.outcome_due():
            self.say("I4", seen.ends[-1][0], name, f"it is {outcome}, its tasks make it {seen.outcome_due()}")

    def skips(self, name: str, seen: RunSeen, plan: Plan, local: bool) -> None:
        before: List[str] = []
        for (_, always, tasks), stage in zip(seen.stages, plan.stages):
            fine = all(self.latest(seen, task) in ("passed", "not_selected") for task in before)
            earlier = [attempt for task in before for attempt in seen.attempts.get(task, [])]
            for task in tasks:
                why = seen.skipped.get(task)
                attempts = seen.attempts.get(task, [])
                excused = {reason for fault in self.met(seen.began, seen.ends[-1][0], {BOSS, LOCAL}) for reason in fault.excuses}
                wrong = None
                if why is None and not attempts:
                    wrong = "neither begun nor skipped"
                elif why == "earlier_stage" and (fine or stage.always):
                    wrong = "skipped for an earlier stage, though none is in its way"
                elif why == "cancelled" and not seen.cancels and "cancel_asked" not in excused:
                    wrong = "skipped for a cancel that nobody asked for"
                elif why == "not_selected" and (plan.only is None or task in plan.only):
                    wrong = "skipped though it was selected"
                elif why == "abandoned" and "abandoned" not in excused:
                    wrong = "skipped as abandoned, though nothing happened to its process"
                elif attempts and plan.only is not None and task not in plan.only:
                    wrong = "begun though it was not selected"
                elif any(other.began <= attempt.began < other.ended for attempt in attempts for other in earlier):
                    wrong = "begun before an earlier stage had ended"
                if wrong is not None:
                    self.say("I4", seen.began, name, f"{task} {wrong}")
            before += tasks

    @staticmethod
    def latest(seen: RunSeen, task: str) -> Optional[str]:
        if task in seen.skipped:
            return seen.skipped[task]
        attempts = seen.attempts.get(task)
        return attempts[-1].verdict()[0] if attempts else None

    def met(self, began: float, ended: float, parties: Set[str]) -> List[Fault]:
        return [fault for fault in self.faults if fault.met(began, ended, parties)]

    def attempt(
        self, run: str, seen: RunSeen, plan: Plan, attempt: AttemptSeen, folder: Path, place: int, local: bool
    ) -> None:
        name = f"{run} {attempt.task} attempt {attempt.number}"
        self.tally.attempts += 1
        if attempt.end is None:
            self.say("I2", attempt.began, name, "it has not ended")
            return
        task = plan.task(attempt.task)
        # A task of which a fault let nothing begin has to do with all the workers that it would have asked.
        parties = {step.worker for step in task.steps()} | {LOCAL if local else BOSS}
        faults = self.met(attempt.began, attempt.ended, parties)
        if local:
            faults += [f for f in self.met(attempt.began, attempt.ended, {BOSS}) if f.kind == "disk_full"]
        cancelled = any(at <= attempt.ended for at in seen.cancels)
        printed, _, wrong = outputs(folder, seen.number, place, attempt.number)
        outcome, reason = attempt.verdict()
        if reason != "output_lost":
            for what in wrong:
                self.say("I7", attempt.ended, name, what)
        asked: Counter[str] = Counter()
        for step in attempt.steps.values():
            self.tally.steps += 1
            found = KEY.match(step.command)
            planned = plan.steps().get(found.group(1)) if found else None
            if planned is None:
                self.say("I4", step.asked_at, name, f"a step that is not in the plan: {step.command[:60]!r}")
                continue
            asked[planned.key] += 1
            mine = [fault for fault in faults if fault.step in (None, step.id)]
            self.step(name, step, planned, mine, cancelled, outcome)
            for what in compare(planned, step, printed.get(step.id, Stored()), any(fault.gaps for fault in mine), reason == "output_lost"):
                self.say("I7", attempt.ended, name, f"step {planned.key} ({step.id}): {what}")
        self.verdict(name, attempt, task, asked, faults, cancelled)

    def step(
        self, name: str, step: StepSeen, planned: Step, faults: List[Fault], cancelled: bool, outcome: Optional[str]
    ) -> None:
        due = "timed_out" if planned.times_out else f"exited {planned.exit_code}"
        if step.end is None:
            # The attempt was ended by one who knew nothing of it, and has to say so.
            if outcome != "errored":
                self.say("I4", step.asked_at, name, f"step {planned.key} has no end, though the task is {outcome}")
            return
        what = step.end["event"]
        said = f"exited {step.end['exit_code']}" if what == "exited" else f"{what} {step.end.get('reason') or ''}".strip()
        fine = said == due
        if what == "cancelled":
            fine = cancelled or outcome in ("errored", "cancelled")
        elif what == "errored":
            fine = any(step.end["reason"] in excuses(fault, planned.exit_code == UNKNOWN) for fault in faults)
        if not fine:
            self.say("I4", step.ended_at, name, f"step {planned.key} ({step.id}) {said}, expected: {due}; {met(faults)}"
                     + (f"; {step.end['message']}" if what == "errored" else ""))  # fmt: skip
        elif what == "exited" and step.end["oom"]:
            self.say("I4", step.ended_at, name, f"step {planned.key} is said to have run out of memory")

    def verdict(
        self, name: str, attempt: AttemptSeen, task: Task, asked: Counter[str], faults: List[Fault], cancelled: bool
    ) -> None:
        expected = expect(task)
        outcome, reason = attempt.verdict()
        true = (outcome, reason) == (expected.outcome, expected.reason)
        if true and asked != expected.asked:
            missing, more = expected.asked - asked, asked - expected.asked
            green = "FALSE GREEN: " if outcome == "passed" else ""
            self.say("I4", attempt.ended, name, f"{green}{outcome}, without steps {dict(missing)}, with {dict(more)}")
        elif true:
            self.tally.true += 1
        elif outcome == "cancelled" and reason == "cancel_asked" and cancelled:
            self.tally.cancelled += 1
            return
        elif outcome in ("errored", "cancelled") and any(
            reason in excuses(fault, any(step.exit_code == UNKNOWN for step in task.steps())) for fault in faults
        ):
            self.tally.explained[str(reason)] += 1
            problem = (attempt.end or {}).get("problem") or {}
            self.tally.excused.append(f"{name}: {reason}; {met(faults)}; {problem.get('error')}")
        else:
            green = "FALSE GREEN: " if outcome == "passed" else ""
            problem = (attempt.end or {}).get("problem") or {}
            self.say("I4", attempt.ended, name, f"{green}{outcome} {reason}, expected: {expected.outcome} "
                     f"{expected.reason}; {met(faults)}; {problem.get('error')}")  # fmt: skip
            return
        kinds = {fault.kind for fault in faults}
        if len(kinds) == 1:
            self.tally.by_kind.setdefault(kinds.pop(), [0, 0])[0 if true else 1] += 1

    def say(self, invariant: str, at: float, about: str, what: str) -> None:
        self.violations.append(Violation(invariant, at, about, what))


def excuses(fault: Fault, unknown: bool) -> FrozenSet[str]:
    """What it may excuse; Docker says 255 for a code that it has lost, so a real 255 may not be believed after a pause."""
    return fault.excuses | {"exit_unknown"} if unknown and fault.gaps else fault.excuses


def met(faults: List[Fault]) -> str:
    return "met " + (", ".join(sorted({f"{fault.kind} {fault.target}" for fault in faults})) or "no fault")


def compare(planned: Step, step: StepSeen, stored: Stored, may_miss: bool, lost: bool) -> List[str]:
    """What is wrong with what is stored of a step, byte for byte. `lost`: the attempt says that it is not all there."""
    due = planned.printed()
    exited = step.end is not None and step.end["event"] == "exited" and not lost
    wrong = []
    gaps = [count for what, count in stored.missing if what == "gap"]
    dropped = [count for what, count in stored.missing if what == "dropped"]
    if gaps and not may_miss:
        wrong.append(f"a gap that nothing explains ({gaps})")
    if dropped and (planned.cap_bytes is None or len(due["stdout"]) <= 2 * planned.cap_bytes):
        wrong.append(f"{dropped} bytes dropped of an output within its cap")
    for stream, text in due.items():
        problem = in_order(text, [bytes(piece) for piece in stored.pieces[stream]], exited, bool(gaps))
        if problem is not None:
            wrong.append(f"{stream}: {problem}")
    known: List[Tuple[str, int]] = [(what, count) for what, count in stored.missing if count is not None]
    if exited and len(known) == len(stored.missing):
        total = sum(len(piece) for pieces in stored.pieces.values() for piece in pieces)
        total += sum(count for _, count in known)
        if total != sum(map(len, due.values())):
            wrong.append(f"{total} bytes with what is said to be missing, expected {sum(map(len, due.values()))}")
    return wrong


def in_order(text: bytes, pieces: List[bytes], exited: bool, gap: bool) -> Optional[str]:
    """The pieces stand in the text in this order, the first at its beginning, the last at its end."""
    at = 0
    for place, piece in enumerate(pieces):
        last = place == len(pieces) - 1
        if place == 0:
            found = 0 if text.startswith(piece) else -1
        elif last and exited and (piece or not gap):
            found = len(text) - len(piece) if text.endswith(piece) else -1
        else:
            found = text.find(piece, at)
        if found < at:
            return f"piece {place + 1} of {len(pieces)}, {len(piece)} bytes, is not what was printed: {differs(text, piece, at)}"
        at = found + len(piece)
    if exited and len(pieces) == 1 and at != len(text):
        return f"{at} bytes of {len(text)}, and no mark for the rest"
    return None


def differs(text: bytes, piece: bytes, at: int) -> str:
    for place, (one, other) in enumerate(zip(text[at:], piece)):
        if one != other:
            return f"at {at + place} {piece[place : place + 40]!r} instead of {text[at + place : at + place + 40]!r}"
    return f"{len(piece)} bytes where {len(text) - at} are due"
