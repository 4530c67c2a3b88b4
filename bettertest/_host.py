"""A process that has executed the pipedef, and forks itself for each task: a task has no Python to start then.

Each task has its process, its group and its descriptors, as if it were started anew. That is so only where nothing
but memory is there to be inherited; `unforkable` says what else there is, and then the boss starts a process for
each task. The boss speaks on the descriptor that the order came by, and sends those of a task along.

What a forked process gets is not its own until its order comes: the boss sends that once it knows whom to kill.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time

from . import _channel

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

# A thread that was joined may still be on its way out for so long.
_GONE_MS = 100

# What these modules do at the end they do for what a task has made, too.
_AT_EXIT = (("logging", "shutdown"), ("multiprocessing.util", "_exit_function"))


class Before:
    """What this process was before the pipedef was executed; and who ends it meanwhile, should the boss be gone."""

    def __init__(self, fd: int) -> None:
        import fcntl

        self._fd = fd
        self._flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        self._seeded = _watch_seeds()
        self._descriptors = _descriptors()
        # Nothing is sent until we have spoken: what comes is the end of the boss. The kernel then ends this group,
        # even where the pipedef hangs. A thread that waits for it, as a task has, might be there when we fork.
        fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, self._flags | os.O_ASYNC)
        _leave_if_over(fd)

    def end(self) -> None:
        """From now on there is talk on the descriptor."""
        import fcntl

        fcntl.fcntl(self._fd, fcntl.F_SETFL, self._flags)
        _leave_if_over(self._fd)

    def unforkable(self) -> Optional[str]:
        """What the pipedef does that would not be the same in a fork; None where there is nothing."""
        if _has_threads():
            return "starts a thread"
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return "starts a process"
        except ChildProcessError:
            pass
        if self._descriptors != _descriptors():
            # What lies in a cycle of references is closed when that is found.
            gc.collect()
            if self._descriptors != _descriptors():
                return "leaves files or sockets open"
        if _shares_memory():
            return "shares memory with other processes"
        timers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
        if any(signal.getitimer(timer) != (0.0, 0.0) for timer in timers):
            return "sets a timer"
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL:
            return "handles SIGCHLD"
        if "numpy.random" in sys.modules:
            return "imports numpy.random, whose numbers would be those of every task"
        return None

    def random_state(self) -> Any:
        """That of the pipedef's own seed, which every task begins with; None where it has set none."""
        return sys.modules["random"].getstate() if self._seeded() else None


def serve(control: _channel.Channel, random_state: Any) -> Optional[_channel.Channel]:
    """Forks until it is told to end. Returns in each fork, with its descriptor, and None at the end."""
    import _socket

    # What is there now is a part of every task: nothing has to look through it again, and so copy it.
    gc.collect()
    gc.freeze()
    fd = control.fileno()
    socket = _socket.socket(fileno=fd)
    rest, sent = b"", b""
    while True:
        data, ancillary, _, _ = socket.recvmsg(1 << 16, _socket.CMSG_SPACE(8))
        if not data:
            _channel.leave()
        sent += b"".join(piece for _, _, piece in ancillary)
        *lines, rest = (rest + data).split(b"\n")
        for order in map(json.loads, lines):
            if order["order"] == "reap":
                for pid in order["pids"]:
                    os.waitpid(pid, 0)
            elif order["order"] == "fork":
                descriptors = [int.from_bytes(sent[at : at + 4], sys.byteorder) for at in range(0, len(sent), 4)]
                sent = b""
                # Without a fork (too many processes, or files) nobody is at the other ends, and the boss sees that.
                if len(descriptors) == 2 and _forks():
                    # The fork has closed its descriptor, and the number is to mean another one.
                    socket.detach()
                    return _become(fd, descriptors[0], descriptors[1], random_state)
                for descriptor in descriptors:
                    os.close(descriptor)
            else:
                return None


def _forks() -> bool:
    """True in the fork."""
    try:
        return os.fork() == 0
    except OSError:
        return False


def _become(fd: int, descriptor: int, printed: int, random_state: Any) -> _channel.Channel:
    os.setpgid(0, 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.dup2(descriptor, fd, False)
    os.close(printed)
    os.close(descriptor)
    _forget_exits()
    if random_state is not None:
        # A fork has seeded it anew, which else is what a new process does.
        sys.modules["random"].setstate(random_state)
    channel = _channel.Channel(fd)
    channel.say({"say": "ready", "pid": os.getpid()})
    return channel


def _forget_exits() -> None:
    """What was registered while the pipedef was executed is done once, when the host ends, and not by each task."""
    import atexit

    atexit._clear()
    finalize = getattr(sys.modules.get("weakref"), "finalize", None)
    if finalize is not None and finalize._registered_with_atexit:
        for info in finalize._registry.values():
            info.atexit = False
        atexit.register(finalize._exitfunc)
    for name, function in _AT_EXIT:
        if name in sys.modules:
            atexit.register(getattr(sys.modules[name], function))


def _watch_seeds() -> Callable[[], bool]:
    """Tells later whether `random` was given a state: its numbers are to be those, in every task."""
    import random

    given = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*args: Any, **options: Any) -> Any:
            given.append(True)
            return function(*args, **options)

        return watching

    own = random.seed, random.setstate
    random.seed, random.setstate = watched(own[0]), watched(own[1])

    def seeded() -> bool:
        random.seed, random.setstate = own
        return bool(given)

    return seeded


def _leave_if_over(fd: int) -> None:
    import _socket

    socket = _socket.socket(fileno=fd)
    try:
        if not socket.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT):
            _channel.leave()
    except BlockingIOError:
        pass
    except OSError:
        _channel.leave()
    finally:
        socket.detach()


def _has_threads() -> bool:
    """Python's own and those of libraries."""
    for _ in range(_GONE_MS):
        if threading.active_count() > 1:
            return True
        if len(os.listdir("/proc/self/task")) == 1:
            return False
        time.sleep(0.001)
    return True


def _descriptors() -> dict[int, tuple[int, int]]:
    """What each open descriptor leads to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            kind = os.fstat(int(name))
        except OSError:
            continue  # that of the list itself
        found[int(name)] = (kind.st_dev, kind.st_ino)
    return found


def _shares_memory() -> bool:
    with open("/proc/self/maps", "rb") as maps:
        # Such as 7f5b6c000000-7f5b6c021000 rw-s ...
        return any(line.split(b" ", 2)[1][1:4:2] == b"ws" for line in maps)
