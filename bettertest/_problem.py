"""What went wrong, in the shape of common/wire's `problem`: what, a hint, where in the user's files, a traceback."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable, Optional

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LONGEST_LINE = 500
_LONGEST_TRACEBACK = 64 * 1024


class Refusal(Exception):
    """Something in a user's file that is not as it has to be, in our words."""

    def __init__(self, error: str, hint: str, file: Optional[str] = None, line: Optional[int] = None) -> None:
        super().__init__(error)
        self.hint = hint
        self.file = file
        self.line = line

    def problem(self) -> dict[str, Any]:
        return _without_none(error=one_line(str(self)), hint=self.hint, file=self.file, line=self.line)


def of_exception(error: BaseException, is_users: Callable[[str], bool]) -> dict[str, Any]:
    """`is_users` tells the user's files from others: the deepest line within them is where it went wrong."""
    file, line = _place(error, is_users)
    hint = getattr(error, "hint", None)
    return _without_none(
        error=one_line(f"{type(error).__name__}: {_text_of(error)}".rstrip(": ")),
        hint=hint if isinstance(hint, str) else None,
        file=file,
        line=line,
        traceback=_traceback(error),
    )


def one_line(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "").strip()
    return first if len(first) <= _LONGEST_LINE else first[: _LONGEST_LINE - 1] + "…"


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _text_of(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return str(error.msg)
    try:
        return str(error)
    # Whatever it raises: an exception that asks for Python's end as it is told is told all the same.
    except BaseException:
        return "(its text cannot be had: its __str__ raised)"


def _place(error: BaseException, is_users: Callable[[str], bool]) -> tuple[Optional[str], Optional[int]]:
    if isinstance(error, SyntaxError) and error.filename and is_users(error.filename):
        return error.filename, error.lineno or None
    file, line = None, None
    at: Optional[TracebackType] = error.__traceback__
    while at is not None:
        if is_users(at.tb_frame.f_code.co_filename):
            file, line = at.tb_frame.f_code.co_filename, at.tb_lineno
        at = at.tb_next
    return file, line


def _traceback(error: BaseException) -> str:
    import traceback

    whole = traceback.TracebackException(type(error), error, error.__traceback__)
    _drop_our_frames(whole, set())
    text = "".join(whole.format())
    if len(text) > _LONGEST_TRACEBACK:
        text = text[: _LONGEST_TRACEBACK // 2] + "\n  ...\n" + text[-_LONGEST_TRACEBACK // 2 :]
    return text


def _drop_our_frames(whole: Any, seen: set[int]) -> None:
    """Ours and the import system's say nothing to the author. Libraries that the pipedef called do: they stay."""
    if whole is None or id(whole) in seen:
        return
    seen.add(id(whole))
    whole.stack[:] = [
        frame
        for frame in whole.stack
        if not is_ours(frame.filename) and not frame.filename.startswith("<frozen importlib")
    ]
    for other in (whole.__cause__, whole.__context__, *(getattr(whole, "exceptions", None) or ())):
        _drop_our_frames(other, seen)


def is_ours(file: str) -> bool:
    return file.startswith(_OURS)


def python() -> str:
    return f"Python {sys.version_info[0]}.{sys.version_info[1]}"
