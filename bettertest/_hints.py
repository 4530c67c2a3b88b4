"""What to tell the author of a pipedef that could not be executed: one problem, one hint."""

from __future__ import annotations

import importlib.util
import os
import re
import sys

from . import _limits, _problem

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from typing import Any, Optional

    from ._source import Texts

_MARKERS = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")


def broken(error: BaseException, texts: Texts) -> dict[str, Any]:
    from ._source import BadText

    if isinstance(error, BadText):
        return error.refusal.problem()
    problem = _problem.of_exception(error, texts.is_users)
    if isinstance(error, SystemExit):
        problem["error"] = f"the pipedef called sys.exit({_code(error)}) while it was read"
    if "hint" not in problem:
        problem["hint"] = _hint(error, problem, texts)
    return problem


def _hint(error: BaseException, problem: dict[str, Any], texts: Texts) -> str:
    file = os.path.basename(problem.get("file", texts.pipedef))
    where = f"line {problem['line']} of {file}" if "line" in problem else file
    if isinstance(error, SyntaxError):
        return _syntax_hint(error, where, texts)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _module_hint(error.name, texts)
    if isinstance(error, ImportError):
        return f"mend the import in {where}"
    if isinstance(error, SystemExit):
        return f"remove the call from {where}: a pipedef is read to the end to learn its stages"
    if isinstance(error, MemoryError):
        return f"mend {where}: reading a pipedef may take {_limits.MEMORY_BYTES >> 20} MiB of memory"
    if isinstance(error, EOFError):
        return f"ask for nothing in {where}: standard input is empty"
    return f"mend {where}: it is executed to learn which stages there are"


def _syntax_hint(error: SyntaxError, where: str, texts: Texts) -> str:
    message = str(error.msg)
    markers = _marker_lines(texts.files.get(error.filename or "", ""))
    if markers:
        listed = ", ".join(map(str, markers))
        return f"settle the merge conflict: keep one side of it, and remove the markers (lines {listed})"
    if isinstance(error, TabError):
        return f"indent {where} and its neighbours by spaces only"
    if isinstance(error, IndentationError):
        return f"mend the indentation of {where}"
    if message.startswith(("Missing parentheses in call to", "multiple exception types must")):
        return f"write {where} for Python 3: this is Python 2"
    return f"mend {where} (it was read by {_problem.python()})"


def _marker_lines(text: str) -> list[int]:
    """Only where a conflict begins and ends: a line of equal signs alone may be anything."""
    marked = [
        (number, line[:7])
        for number, line in enumerate(text.splitlines(), start=1)
        if line.startswith(_MARKERS) and (len(line) == 7 or line[7] == " ")
    ]
    kinds = {marker for _, marker in marked}
    return [number for number, _ in marked] if {"<<<<<<<", ">>>>>>>"} <= kinds else []


def _module_hint(name: str, texts: Texts) -> str:
    top = name.partition(".")[0]
    folder = os.path.dirname(texts.pipedef)
    if top != name and top in sys.modules:
        return f"the module {top} is there, but it has no {name[len(top) + 1 :]}: mend the import"
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", top) and _is_standard(top):
        return f"{top} belongs to another version of Python, and this is {_problem.python()}"
    return f"install {top} for this Python: {sys.executable} -m pip install {top}; or put {top}.py into {folder}"


def _is_standard(name: str) -> bool:
    # Known from Python 3.10 on; also modules that other platforms have are in it.
    return name in getattr(sys, "stdlib_module_names", ()) and importlib.util.find_spec(name) is None


def _code(error: SystemExit) -> str:
    code: Optional[object] = error.code
    return "" if code is None else repr(code)[:60]
