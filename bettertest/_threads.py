"""The threads that a task has started: the task has ended when they have, and their errors are the task's.

`run(...)` in a thread raises in that thread. Were that lost, a failing test would show green.
"""

from __future__ import annotations

import sys
import threading

from . import _run

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from typing import Optional

    from ._channel import Channel

# How long a daemon thread gets to say what became of its last step. It may be meant to go on for ever.
_DAEMON_S = 1.0

_uncaught: list[BaseException] = []


def watch() -> None:
    """From now on what no thread catches is remembered."""
    report = threading.excepthook

    def remember(args: threading.ExceptHookArgs) -> None:
        # SystemExit is how a thread ends itself.
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            _uncaught.append(args.exc_value)
        report(args)

    threading.excepthook = remember


def join(channel: Channel) -> None:
    """Waits until everything that the task started in threads has ended, and every step with it."""
    _join_pools()
    while True:
        busy = [thread for thread in threading.enumerate() if _is_awaited(thread)]
        if not busy:
            break
        for thread in busy:
            thread.join()
    daemons = channel.waiting()
    channel.join_calls()
    for thread in daemons:
        thread.join(_DAEMON_S)


def first_error() -> Optional[BaseException]:
    """What was raised in a thread and reached nobody."""
    if _uncaught:
        return _uncaught[0]
    return next((error for error in _run.raised() if _is_left_in_a_future(error)), None)


def _is_awaited(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.current_thread() and thread.is_alive()


def _join_pools() -> None:
    """A pool that was not shut down keeps idle threads for ever. Python itself ends them so at its end."""
    pools = sys.modules.get("concurrent.futures.thread")
    end = getattr(pools, "_python_exit", None)
    if end is not None:
        end()


def _is_left_in_a_future(error: BaseException) -> bool:
    """`.result()` raises the error again, which puts the caller's frame before the pool's."""
    at = error.__traceback__
    if at is None:
        return False
    code = at.tb_frame.f_code
    return code.co_name == "run" and at.tb_frame.f_globals.get("__name__") == "concurrent.futures.thread"
