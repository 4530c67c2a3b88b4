"""The descriptor between the boss and a pipedef's process: one JSON object per line, in both directions.

The boss speaks first, with an order. After that a thread reads its answers and hands each to the call of
`run(...)` that waits for it. When the descriptor closes the boss is gone, and this process ends at once. (One that
forks has no thread: see `_host.py`.)
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time

from ._errors import BettertestError

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from typing import Any, Optional


# Whoever reads the descriptor takes no longer line.
LONGEST_BYTES = 16 * 1024 * 1024

# What a process that has said its last word still gets, after whoever drove it is gone.
LAST_BREATH_S = 2.0


class Channel:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()
        self._rest = b""
        # Held while writing, which can take as long as the boss likes; the other one only for moments.
        self._writing = threading.Lock()
        self._change = threading.Condition()
        self._calls = 0
        # By call: who waits, and what came for them.
        self._waiting: dict[int, threading.Thread] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._over = False
        os.set_blocking(fd, True)
        # Programs that the pipedef starts get no part in it, nor do its forks: only so does it close when we end.
        os.set_inheritable(fd, False)
        os.register_at_fork(after_in_child=self._close)

    def _close(self) -> None:
        # Once only: by the next fork the number may mean something else.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def fileno(self) -> int:
        return self._fd

    def order(self) -> dict[str, Any]:
        """The first line."""
        line = self._line()
        if line is None:
            os._exit(1)
        order: dict[str, Any] = json.loads(line)
        return order

    def listen(self) -> None:
        """From now on answers are read in the background."""
        threading.Thread(target=self._read_answers, daemon=True, name="bettertest").start()

    def say(self, message: dict[str, Any]) -> None:
        with self._writing:
            self._write(message)

    def say_last(self, message: dict[str, Any]) -> None:
        """Nothing may follow: a later call of `run(...)` is an error."""
        with self._writing:
            self._over = True
            self._write(message)

    def ask(self, worker: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Asks for a step, and waits for its result."""
        return self._call({"say": "step_asked", "worker": worker, "spec": spec})

    def tell_import(self, path: str, sha256: str) -> None:
        """Says that this text is about to be executed; returns when that is recorded."""
        self._call({"say": "imported", "path": path, "sha256": sha256})

    def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        if os.getpid() != self._pid:
            raise BettertestError(
                "run(...) was called in another process than the task's", hint="call it in threads instead"
            )
        # Asked under the lock that numbers them, calls stand on the wire in the order of their numbers.
        with self._writing:
            if self._over:
                raise BettertestError(
                    "run(...) was called after the task's end", hint="join the thread before the task returns"
                )
            self._calls += 1
            call = self._calls
            with self._change:
                self._waiting[call] = threading.current_thread()
            self._write({**message, "call": call})
        with self._change:
            try:
                self._change.wait_for(lambda: call in self._answers)
                return self._answers.pop(call)
            finally:
                del self._waiting[call]
                self._change.notify_all()

    def waiting(self) -> list[threading.Thread]:
        """The threads that are in a call of `run(...)` now."""
        with self._change:
            return list(self._waiting.values())

    def join_calls(self) -> None:
        """Returns when no thread is in a call of `run(...)`."""
        with self._change:
            self._change.wait_for(lambda: not self._waiting)

    def _write(self, message: dict[str, Any]) -> None:
        rest = memoryview(encoded(message) + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            leave()

    def _read_answers(self) -> None:
        while True:
            line = self._line()
            if line is None:
                break
            answer = json.loads(line)
            with self._change:
                self._answers[answer["call"]] = answer
                self._change.notify_all()
        with self._change:
            over = self._over and not self._waiting
        if over:
            # After the last word Python's own end, with the user's clean-up, may take a little time.
            time.sleep(LAST_BREATH_S)
        leave()

    def _line(self) -> Optional[bytes]:
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            try:
                chunk = os.read(self._fd, 1 << 16)
            except OSError:
                return None
            if not chunk:
                return None
            parts.append(chunk)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line


def leave() -> None:
    """Ends this process and all that it started: nobody is there any more to do that."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def encoded(message: dict[str, Any]) -> bytes:
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    # Half a character, as an exception's text may hold one, is no UTF-8.
    return text.encode("utf-8", "replace")
