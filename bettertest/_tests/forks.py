"""Plays the boss against a process that stays and is forked for each task."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

from bettertest._spawn import PipedefProcess

from .boss import PATIENCE_S


class Fork:
    """A task that was forked, and has its order."""

    def __init__(self, host: PipedefProcess, name: str) -> None:
        self._socket, its = socket.socketpair()
        self._printed = tempfile.TemporaryFile()
        with its:
            order = b'{"order":"fork"}\n'
            control = socket.socket(fileno=os.dup(host.fileno()))
            with control:
                socket.send_fds(control, [order], [its.fileno(), self._printed.fileno()])
        self._socket.settimeout(PATIENCE_S)
        self._lines = self._socket.makefile("rb")
        ready = self.hear()
        assert ready is not None and ready["say"] == "ready", ready
        self.pid = int(ready["pid"])
        stage, task = name.split(".")
        self.say({"order": "forked", "stage": stage, "task": task})

    def say(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> Any:
        """What it says next; None if it ends without."""
        try:
            line = self._lines.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def asked(self) -> str:
        """The command that it asks for."""
        said = self.hear()
        assert said is not None and said["say"] == "step_asked", (said, self.printed())
        self.call = said["call"]
        return str(said["spec"]["command"])

    def pass_it(self) -> None:
        answer = {"answer": "step_result", "call": self.call, "outcome": "passed", "reason": None}
        self.say({**answer, "exit_code": 0, "oom": False, "took_ms": 1, "message": None, "hint": None})

    def record(self, call: int) -> None:
        self.say({"answer": "recorded", "call": call})

    def hang_up(self) -> None:
        self._lines.close()
        self._socket.close()

    def printed(self) -> str:
        self._printed.seek(0)
        return self._printed.read().decode("utf-8", "replace")

    def close(self) -> None:
        self.hang_up()
        self._printed.close()


class Host:
    def __init__(self, pipedef: str, printed: Any, files: Optional[dict[str, str]]) -> None:
        self._printed = printed
        self.process = PipedefProcess(pipedef, printed)
        order = {"order": "discover", "pipedef": pipedef, "stay": True}
        self.process.say(order if files is None else {**order, "files": files})
        said = next(self.process.messages(PATIENCE_S), None)
        assert said is not None and said["say"] == "discovered", (said, self.printed())
        self.discovered: dict[str, Any] = said
        self._forks: list[Fork] = []

    def fork(self, name: str) -> Fork:
        self._forks.append(Fork(self.process, name))
        return self._forks[-1]

    def reap(self, *pids: int) -> None:
        self.process.say({"order": "reap", "pids": pids})

    def end(self) -> int:
        """Tells it to end; returns its exit code."""
        self.process.say({"order": "end"})
        return int(self.process._process.wait(PATIENCE_S))

    def printed(self) -> str:
        self._printed.seek(0)
        text: str = self._printed.read().decode()
        return text

    def close(self) -> None:
        for fork in self._forks:
            fork.close()
            try:
                os.killpg(fork.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.end()


@contextmanager
def host(pipedef: str, files: Optional[dict[str, str]] = None) -> Iterator[Host]:
    with tempfile.TemporaryFile() as printed:
        running = Host(pipedef, printed, files)
        try:
            yield running
        finally:
            running.close()
