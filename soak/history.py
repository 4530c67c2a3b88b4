"""A run as its events tell it, read by rules of our own: what was asked, what each step came to, what was stored."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

ENDS = ("exited", "timed_out", "cancelled", "errored")
WORST = ["passed", "cancelled", "failed", "timed_out", "errored"]


@dataclass
class StepSeen:
    id: str
    worker: str
    command: str
    asked_at: float
    end: Optional[Dict[str, Any]] = None
    ended_at: float = 0.0


@dataclass
class AttemptSeen:
    task: str
    number: int
    began: float
    steps: Dict[str, StepSeen] = field(default_factory=dict)
    end: Optional[Dict[str, Any]] = None
    ended: float = 0.0

    def verdict(self) -> Tuple[Optional[str], Optional[str]]:
        return (self.end["outcome"], self.end["reason"]) if self.end else (None, None)


@dataclass
class RunSeen:
    number: int
    plan: int
    began: float
    #: Task names by stage, with whether the stage runs always.
    stages: List[Tuple[str, bool, List[str]]]
    only: Optional[List[str]]
    attempts: Dict[str, List[AttemptSeen]] = field(default_factory=dict)
    skipped: Dict[str, str] = field(default_factory=dict)
    #: A verdict for each time that it ended.
    ends: List[Tuple[float, str, Optional[str]]] = field(default_factory=list)
    cancels: List[float] = field(default_factory=list)
    reruns: List[float] = field(default_factory=list)
    running: bool = True
    #: What contradicts itself in its events.
    wrong: List[str] = field(default_factory=list)

    def tasks(self) -> List[str]:
        return [task for _, _, tasks in self.stages for task in tasks]

    def outcome_due(self) -> str:
        """The worst of the latest attempts, as the design has it."""
        worst = "passed"
        ran = False
        for task in self.tasks():
            latest = None
            if task in self.skipped:
                latest = {"cancelled": "cancelled", "abandoned": "errored"}.get(self.skipped[task])
            elif self.attempts.get(task):
                latest = self.attempts[task][-1].verdict()[0]
                ran = True
            if latest is not None and WORST.index(latest) > WORST.index(worst):
                worst = latest
        return worst if ran or worst != "passed" else "errored"


def read(number: int, events: List[Tuple[int, str]]) -> Optional[RunSeen]:
    """None where the events are of no run of ours."""
    seen: Optional[RunSeen] = None
    for place, (seq, text) in enumerate(events):
        event = json.loads(text)
        what, at = event["event"], event["at_ms"] / 1000
        if what == "run_started":
            stages = [
                (stage["name"], bool(stage["always"]), [f"{stage['name']}.{task['name']}" for task in stage["tasks"]])
                for stage in event["pipeline"]["stages"]
            ]
            plan = int(stages[0][0].rpartition("_p")[2])
            seen = RunSeen(number, plan, at, stages, event["only"])
            continue
        if seen is None:
            return None
        if seq != place + 1:
            seen.wrong.append(f"event {seq} stands in place {place + 1}")
        if not seen.running and what != "rerun_started":
            seen.wrong.append(f"{what} after the run's end")
        take(seen, what, at, event)
    return seen


def take(seen: RunSeen, what: str, at: float, event: Dict[str, Any]) -> None:
    task = event.get("task", "")
    attempts = seen.attempts.setdefault(task, []) if task else []
    if what == "task_started":
        seen.skipped.pop(task, None)
        if event["attempt"] != len(attempts) + 1 or (attempts and attempts[-1].end is None):
            seen.wrong.append(f"{task}: attempt {event['attempt']} out of order")
        attempts.append(AttemptSeen(task, event["attempt"], at))
    elif what in ("step_asked", "step", "task_ended"):
        if not attempts or attempts[-1].number != event["attempt"] or attempts[-1].end is not None:
            seen.wrong.append(f"{what} for attempt {event['attempt']} of {task}, which is not running")
            return
        attempt = attempts[-1]
        if what == "step_asked":
            if event["step"] in attempt.steps:
                seen.wrong.append(f"step {event['step']} asked for twice")
            attempt.steps[event["step"]] = StepSeen(event["step"], event["worker"], event["spec"]["command"], at)
        elif what == "task_ended":
            attempt.end, attempt.ended = event, at
        else:
            step = attempt.steps.get(event["step"])
            if step is None or step.end is not None:
                seen.wrong.append(f"{event['said']['event']} of step {event['step']} out of place")
            elif event["said"]["event"] in ENDS:
                step.end, step.ended_at = event["said"], at
    elif what == "task_skipped":
        seen.skipped[task] = event["why"]
    elif what == "cancel_asked":
        seen.cancels.append(at)
    elif what == "rerun_started":
        seen.reruns.append(at)
        seen.running = True
        for name in event["only"]:
            seen.skipped.pop(name, None)
    elif what == "run_ended":
        seen.ends.append((at, event["outcome"], event["reason"]))
        seen.running = False


@dataclass
class Stored:
    """What is stored of a step: by stream the pieces between the places where some is missing."""

    pieces: Dict[str, List[bytearray]] = field(default_factory=lambda: {"stdout": [bytearray()], "stderr": [bytearray()]})
    #: `gap` or `dropped`, and how many bytes, where that is known.
    missing: List[Tuple[str, Optional[int]]] = field(default_factory=list)


def outputs(folder: Path, run: int, place: int, attempt: int) -> Tuple[Dict[str, Stored], bytes, List[str]]:
    """By step what an attempt printed, what its Python printed, and what is wrong with the index."""
    path = folder / "output" / str(run) / f"{place}-{attempt}.out"
    steps: Dict[str, Stored] = {}
    own = bytearray()
    if not path.exists():
        return steps, b"", [f"{path.name} is not there"]
    content = path.read_bytes()
    marks = [json.loads(line) for line in path.with_suffix(".index").read_text().splitlines()]
    wrong = []
    if content and (not marks or marks[0]["offset"] != 0):
        wrong.append("bytes that no mark owns")
    for mark, following in zip(marks, [*marks[1:], None]):
        end = len(content) if following is None else following["offset"]
        if not mark["offset"] <= end <= len(content):
            wrong.append(f"a mark from {mark['offset']} to {end} of {len(content)}")
        data = content[mark["offset"] : end]
        if mark["mark"] == "output":
            steps.setdefault(mark["step"], Stored()).pieces[mark["stream"]][-1] += data
        elif mark["mark"] == "pipedef":
            own += data
        elif mark["mark"] in ("gap", "dropped"):
            stored = steps.setdefault(mark["step"], Stored())
            stored.missing.append((mark["mark"], mark["bytes"]))
            for pieces in stored.pieces.values():
                pieces.append(bytearray())
            if data:
                wrong.append(f"{len(data)} bytes after a {mark['mark']} that no mark owns")
    return steps, bytes(own), wrong
