"""Plays the boss against a real pipedef process, so that a test reads as a story."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

from bettertest._spawn import PipedefProcess

# Far more than anything here takes: a test that waits so long has failed.
PATIENCE_S = 20.0

Files = dict[str, Union[str, bytes]]


def write(folder: Path, files: Files) -> str:
    """Writes them and returns the path of `pipedef.py`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder / "pipedef.py")


def discover(pipedef: str) -> dict[str, Any]:
    with tempfile.TemporaryFile() as printed:
        process = PipedefProcess(pipedef, printed)
        try:
            process.say({"order": "discover", "pipedef": pipedef})
            said: list[dict[str, Any]] = list(process.messages(PATIENCE_S))
        finally:
            process.end()
        printed.seek(0)
        assert len(said) == 1, (said, printed.read().decode())
    return said[0]


def stages(pipedef: str) -> dict[str, list[str]]:
    said = discover(pipedef)
    assert said["say"] == "discovered", said
    return {
        stage["name"]: [task["name"] for task in stage["tasks"]] for stage in said["pipeline"]["stages"]
    }


class Task:
    """A task's process that has its order."""

    def __init__(self, pipedef: str, name: str, files: dict[str, str], printed: Any) -> None:
        stage, task = name.split(".")
        self._printed = printed
        self.process = PipedefProcess(pipedef, printed)
        self._messages = self.process.messages(PATIENCE_S)
        order = {"order": "task", "pipedef": pipedef, "files": files, "stage": stage, "task": task}
        self.process.say(order)

    def asked(self) -> dict[str, Any]:
        said: dict[str, Any] = self.last()
        assert said is not None and said["say"] == "step_asked", (said, self.printed())
        return said

    def last(self) -> Any:
        """What it says next; None if it ends without."""
        return next(self._messages, None)

    def answer(self, call: int, exit_code: int = 0, **fields: Any) -> None:
        passed = exit_code == 0
        answer = {
            "answer": "step_result",
            "call": call,
            "outcome": "passed" if passed else "failed",
            "reason": None if passed else "command_failed",
            "exit_code": exit_code,
            "oom": False,
            "took_ms": 5,
            "message": None,
            "hint": None,
        }
        self.process.say({**answer, **fields})

    def record(self, call: int) -> None:
        self.process.say({"answer": "recorded", "call": call})

    def hang_up(self) -> None:
        """Closes our end, as the kernel does for a boss that dies."""
        self.process._socket.shutdown(socket.SHUT_RDWR)

    def pass_all(self) -> Any:
        """Lets every step pass; returns the last word."""
        for said in self._messages:
            if said["say"] == "imported":
                self.record(said["call"])
            elif said["say"] != "step_asked":
                return said
            else:
                self.answer(said["call"])
        return None

    def printed(self) -> str:
        self._printed.seek(0)
        text: str = self._printed.read().decode("utf-8", "replace")
        return text


@contextmanager
def task(pipedef: str, name: str, files: Union[dict[str, str], None] = None) -> Iterator[Task]:
    """The files are, unless given, what discovery would have read now."""
    if files is None:
        files = {pipedef: Path(pipedef).read_text("utf-8")}
    with tempfile.TemporaryFile() as printed:
        running = Task(pipedef, name, files, printed)
        try:
            yield running
        finally:
            running.process.end()
