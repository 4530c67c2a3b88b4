"""Starts a pipedef's process as the boss does, and speaks the boss's side of its descriptor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any, Optional, Union

from ._child import BOOT

_LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class PipedefProcess:
    """One process for one order. `output` is where its stdout and stderr go, as `subprocess` has it."""

    def __init__(self, pipedef: str, output: Union[int, IO[bytes]]) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", BOOT, _LIBRARY, str(its.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output == subprocess.PIPE else output,
                pass_fds=[its.fileno()],
                cwd=_project_of(pipedef),
                # A group of its own: Ctrl-C is for us to act on, and what it starts can be ended with it.
                start_new_session=True,
            )
        self._socket = ours
        self._writing = threading.Lock()
        self._killing = threading.Lock()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def output(self) -> Optional[IO[bytes]]:
        return self._process.stdout

    def say(self, message: dict[str, Any]) -> None:
        with self._writing:
            try:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except (BrokenPipeError, ConnectionResetError):
                # It has ended; whoever reads its messages sees that.
                pass

    def messages(self, silence_s: Optional[float] = None) -> Iterator[dict[str, Any]]:
        """What it says, until it closes its end. Raises TimeoutError when it is silent for longer."""
        self._socket.settimeout(silence_s)
        parts: list[bytes] = []
        while True:
            try:
                chunk = self._socket.recv(1 << 16)
            except socket.timeout:
                raise TimeoutError from None  # one class from Python 3.10 on
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                yield json.loads(b"".join([*parts, line]))
                parts = []
            parts.append(rest)

    def kill(self) -> None:
        """Ends it, if it has not ended, and all that it started. Any thread may ask for it, at any time."""
        with self._killing:
            # Until it is waited for, its number means this group and no other.
            if self._process.returncode is None:
                try:
                    os.killpg(self._process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def end(self) -> int:
        """Kills it and forgets it; returns its exit code. Nobody else may be using it any more."""
        self.kill()
        with self._killing:
            code = self._process.wait()
        self._socket.close()
        return code


def _project_of(pipedef: str) -> Optional[str]:
    """The folder that holds `.bettertest/`, else the pipedef's own. None, to stay here, where there is none."""
    folder = os.path.dirname(pipedef)
    if os.path.basename(folder) == ".bettertest":
        folder = os.path.dirname(folder)
    return folder if os.path.isdir(folder) else None
