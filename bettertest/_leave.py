"""The end of a fork. Python's own takes all that there is apart, in memory that was shared until then: that costs more
than all else that a fork does.

Instead a fork does what is to be done at the end, and leaves the rest to the kernel. But where it has made something that
acts when it is taken apart, such as a file that nobody has closed, its end is Python's own.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import threading

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from typing import Any, Optional

# What these print may wait in buffers of C's own.
_FOREIGN = ("_ctypes", "_cffi_backend")
_SO = (".so", ".dylib", ".pyd")


class Leave:
    """Made before the first fork: what forks inherit may wait to be written, too. Each ends as it leaves the `with`."""

    def __init__(self) -> None:
        standard = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
        buffers = (io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair, io.TextIOWrapper)
        self._buffers = any(
            isinstance(each, buffers) and not any(each is one for one in standard) for each in gc.get_objects()
        )

    def __enter__(self) -> None:
        pass

    def __exit__(self, raised: Optional[type[BaseException]], *_: object) -> None:
        # Python says itself what ends it.
        if raised is None:
            self._at_once()
        # What is frozen is not taken apart, nor what it alone holds.
        gc.unfreeze()

    def _at_once(self) -> None:
        """Returns where the end is to be Python's own. Of what is done here nothing is done twice."""
        threading._shutdown()  # type: ignore[attr-defined]
        try:
            atexit._run_exitfuncs()
        except BaseException:
            pass  # it was printed
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        if not self._buffers and not _has_foreign_code() and not _has_finalizers():
            os._exit(0)


def _has_foreign_code() -> bool:
    own = os.path.dirname(os.__file__) + os.sep
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        outside = isinstance(file, str) and file.endswith(_SO) and not file.startswith(own)
        if outside or name in _FOREIGN:
            return True
    return False


def _has_finalizers() -> bool:
    """Of what was there before the first fork, and is frozen, the host does that."""
    harmless: set[type[Any]] = set()
    for each in gc.get_objects():
        kind = type(each)
        if kind in harmless:
            continue
        if any("__del__" in vars(base) for base in kind.__mro__):
            return True
        harmless.add(kind)
    return False
