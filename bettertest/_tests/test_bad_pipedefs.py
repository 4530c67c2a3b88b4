"""Each bad pipedef gets two lines: what is wrong, and what to do; and the line where that is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest

from bettertest import _source
from bettertest._problem import Refusal

from .boss import Files, discover, write

HEAD = "from bettertest import Stage, run\n"
GOOD = "class Good(Stage):\n    def task_x(): pass\n"
PYTHON = f"Python {sys.version_info[0]}.{sys.version_info[1]}"


class Bad(NamedTuple):
    name: str
    text: Any
    error: str
    hint: str
    line: Optional[int]
    beside: Files = {}
    file: str = "pipedef.py"


CORPUS = [
    Bad("empty", "", "pipedef.py declares no stage",
        "declare one: class TestUnit(Stage), with a method task_models(self) that calls run(...)", None),
    Bad("no stage", "x = 1\n", "pipedef.py declares no stage",
        "declare one: class TestUnit(Stage), with a method task_models(self) that calls run(...)", None),
    Bad("no task", HEAD + "\nclass TestUnit(Stage):\n    def test_x(self): pass\n",
        "the stage TestUnit has no task",
        "a task is a method whose name begins with task_; a stage that is only a base is named _TestUnit", 3),
    Bad("no task beside a good stage", HEAD + GOOD + "class TestUnit(Stage): pass\n",
        "the stage TestUnit has no task",
        "a task is a method whose name begins with task_; a stage that is only a base is named _TestUnit", 4),
    Bad("only a private stage", HEAD + "class _A(Stage):\n    def task_x(): pass\n",
        "pipedef.py declares no stage to run", "_A is only a base: name one without the _ at its beginning", None),
    Bad("abstract", HEAD + "import abc\nclass A(Stage, metaclass=abc.ABCMeta):\n    @abc.abstractmethod\n"
        "    def task_x(self): pass\n",
        "the stage A leaves methods abstract", "write them, or name it _A", 3),
    Bad("two stages of one name", HEAD + GOOD + "\n" + GOOD, "two stages are named Good, in lines 2 and 5",
        "rename one of them", 5),
    Bad("two tasks of one name", HEAD + "class A(Stage):\n    def task_x(): pass\n    def task_y(): pass\n"
        "    @staticmethod\n    def task_x(): pass\n",
        "two tasks are named A.x, in lines 3 and 6", "rename one of them: Python keeps only the second", 6),
    Bad("two tasks of one name in a base elsewhere", HEAD + "import base\nclass A(base.B): pass\n",
        "two tasks are named B.x, in lines 3 and 4", "rename one of them: Python keeps only the second", 4,
        {"base.py": HEAD + "class B(Stage):\n    def task_x(): pass\n    def task_x(): pass\n"}, "base.py"),
    Bad("only imported", HEAD + GOOD + "from more import TestMore\n",
        "the stage TestMore is only imported, from more, and would not run",
        "declare it in pipedef.py: class TestMore(TestMore): pass (or name it _TestMore if it is only a base)",
        None, {"more.py": HEAD + "class TestMore(Stage):\n    def task_x(): pass\n"}),
    Bad("no Stage as base", HEAD + GOOD + "class TestUnit:\n    def task_x(): pass\n",
        "TestUnit has tasks, but does not derive from Stage",
        "write class TestUnit(Stage):, or name it _TestUnit if it is no stage", 5),
    Bad("__init_subclass__", HEAD + "class _B(Stage):\n    def __init_subclass__(cls): pass\n"
        "class A(_B):\n    def task_x(): pass\n",
        "a stage overrides __init_subclass__ and does not call the one it overrides",
        "let it call super().__init_subclass__()", None),
    Bad("always is no bool", HEAD + "class A(Stage):\n    always = 'yes'\n    def task_x(): pass\n",
        "always of the stage A is 'yes'", "write always = True, or leave it out", 2),
    Bad("an async task", HEAD + "class A(Stage):\n    async def task_x(self): pass\n",
        "A.task_x is async, so that calling it would run nothing", "make it a plain method: def task_...", 3),
    Bad("a generator", HEAD + "class A(Stage):\n    def task_x(self): yield\n",
        "A.task_x has a yield in it, so that calling it would run nothing",
        "make it a plain method: def task_...", 3),
    Bad("two parameters", HEAD + "class A(Stage):\n    def task_x(self, name): pass\n",
        "A.task_x needs arguments (2), and a task gets only self",
        "give its parameters default values: def task_x(self, name=name)", 3),
    Bad("a static one with self", HEAD + "class A(Stage):\n    @staticmethod\n    def task_x(self): pass\n",
        "A.task_x needs arguments (1), and a task gets none",
        "give its parameters default values: def task_x(self, name=name)", 4),
    Bad("no method", HEAD + "class A(Stage):\n    task_x = 'ls'\n",
        "A.task_x is no method but of type str", "make it a method: def task_...", None),
]
for _name in ("task_a/b", "task_..", "task_a\nb", "task_\U0001f600", "task_", "task_a b", "task_a.b"):
    CORPUS.append(Bad(
        f"the name {_name!r}", HEAD + f"class A(Stage): pass\nsetattr(A, {_name!r}, lambda: None)\n",
        f"A has a task of the name {_name!r}",
        "name it so that Python could: letters, digits and _ after task_", 3,
    ))
_LONG = "x" * 4096
CORPUS += [
    Bad("a name of 4 KiB", HEAD + f"class A(Stage):\n    def task_{_LONG}(): pass\n",
        f"the name of the task A.task_{'x' * 54}… is longer than 200 characters",
        "name it so that Python could: letters, digits and _ after task_", 3),
    Bad("a stage's name", HEAD + "type('a/b', (Stage,), {'task_x': lambda: None})\n",
        "a stage has the name 'a/b'",
        "name it as Python names a class, with at most 200 letters, digits and _", 2),
    Bad("a stage's empty name", HEAD + "type('', (Stage,), {'task_x': lambda: None})\n",
        "a stage has the name ''", "name it as Python names a class, with at most 200 letters, digits and _", 2),
    Bad("run at import", HEAD + "run('http://localhost:9009', 'i', 'ls')\n" + GOOD,
        "BettertestError: run(...) was called outside of a task",
        "call it in a task_* method of a Stage, and run the file by `python -m bettertest FILE`", 2),
    Bad("sys.exit(0)", HEAD + "import sys\nsys.exit(0)\n" + GOOD,
        "the pipedef called sys.exit(0) while it was read",
        "remove the call from line 3 of pipedef.py: a pipedef is read to the end to learn its stages", 3),
    Bad("raises", HEAD + "1 / 0\n", "ZeroDivisionError: division by zero",
        "mend line 2 of pipedef.py: it is executed to learn which stages there are", 2),
    Bad("raises in a module", HEAD + "import more\n", "KeyError: 'x'",
        "mend line 2 of more.py: it is executed to learn which stages there are", 2,
        {"more.py": "\n{}['x']\n"}, "more.py"),
    Bad("a text of many lines", HEAD + "raise ValueError('first\\nsecond')\n", "ValueError: first",
        "mend line 2 of pipedef.py: it is executed to learn which stages there are", 2),
    Bad("half a character", HEAD + "raise ValueError('\\udc80')\n", "ValueError: ?",
        "mend line 2 of pipedef.py: it is executed to learn which stages there are", 2),
    Bad("reads stdin", HEAD + "input()\n", "EOFError: EOF when reading a line",
        "ask for nothing in line 2 of pipedef.py: standard input is empty", 2),
    Bad("too much memory", HEAD + "x = []\nwhile True: x.append(bytearray(1 << 20))\n", "MemoryError",
        "mend line 3 of pipedef.py: reading a pipedef may take 512 MiB of memory", 3),
    Bad("too much memory in small pieces", HEAD + "x = []\nwhile True: x.append([0] * 2000)\n", "MemoryError",
        "mend line 3 of pipedef.py: reading a pipedef may take 512 MiB of memory", 3),
    Bad("a text that raises", HEAD + "class E(Exception):\n    def __str__(self): raise SystemExit(0)\nraise E()\n",
        "E: (its text cannot be had: its __str__ raised)",
        "mend line 4 of pipedef.py: it is executed to learn which stages there are", 4),
    Bad("KeyboardInterrupt", HEAD + "raise KeyboardInterrupt\n", "KeyboardInterrupt",
        "mend line 2 of pipedef.py: it is executed to learn which stages there are", 2),
    Bad("a missing module", HEAD + "import requests_that_is_not_there.api\n",
        "ModuleNotFoundError: No module named 'requests_that_is_not_there'",
        "install requests_that_is_not_there for this Python: {python} -m pip install requests_that_is_not_there; "
        "or put requests_that_is_not_there.py into {folder}", 2),
    Bad("a missing submodule", HEAD + "import json.nothing\n",
        "ModuleNotFoundError: No module named 'json.nothing'",
        "the module json is there, but it has no nothing: mend the import", 2),
    Bad("a missing name", HEAD + "from bettertest import Stages\n",
        "ImportError: cannot import name 'Stages' from 'bettertest'...", "mend the import in line 2 of pipedef.py", 2),
    Bad("syntax", HEAD + "class\n", "SyntaxError: invalid syntax",
        f"mend line 2 of pipedef.py (it was read by {PYTHON})", 2),
    Bad("syntax in a module", HEAD + "import more\n", "SyntaxError: invalid syntax",
        f"mend line 1 of more.py (it was read by {PYTHON})", 1, {"more.py": "class\n"}, "more.py"),
    Bad("a tab mix", HEAD + "class A(Stage):\n    def task_x():\n        x = 1\n\ty = 2\n",
        "TabError: inconsistent use of tabs and spaces in indentation",
        "indent line 5 of pipedef.py and its neighbours by spaces only", 5),
    Bad("indentation", HEAD + "class A(Stage):\ndef task_x(): pass\n",
        "IndentationError: expected an indented block...",
        "mend the indentation of line 3 of pipedef.py", 3),
    Bad("Python 2", HEAD + "print 'hello'\n",
        "SyntaxError: Missing parentheses in call to 'print'...",
        "write line 2 of pipedef.py for Python 3: this is Python 2", 2),
    Bad("merge conflict", HEAD + "<<<<<<< HEAD\nX = 1\n=======\nX = 2\n>>>>>>> other\n" + GOOD,
        "SyntaxError: invalid syntax",
        "settle the merge conflict: keep one side of it, and remove the markers (lines 2, 4, 6)", 2),
    Bad("no UTF-8", (HEAD + "# été\n").encode("latin-1"), "line 2 of pipedef.py is not utf-8: byte 0xe9",
        "save pipedef.py as UTF-8, or name its encoding in its first line: # -*- coding: latin-1 -*-", 2),
    Bad("a module that is no UTF-8", HEAD + "import more\n", "line 1 of more.py is not utf-8: byte 0xe9",
        "save more.py as UTF-8, or name its encoding in its first line: # -*- coding: latin-1 -*-", 1,
        {"more.py": "# été\n".encode("latin-1")}, "more.py"),
    Bad("UTF-16", (HEAD + GOOD).encode("utf-16"), "pipedef.py is UTF-16, which Python does not read",
        "save pipedef.py as UTF-8", 1),
    Bad("NUL", HEAD.encode() + b"x = '\0'\n", "line 2 of pipedef.py holds a NUL character",
        "remove it, or save pipedef.py as UTF-8", 2),
    Bad("an unknown encoding", "# coding: klingon\n" + HEAD,
        "line 1 of pipedef.py names the encoding klingon, which Python does not know",
        "save pipedef.py as UTF-8, and remove that line", 1),
    Bad("too large", b"#" * (16 * 1024 * 1024 + 1), "pipedef.py is larger than 16 MiB",
        "a pipedef holds code only; keep data in other files", None),
    # In JSON each of these characters takes six bytes.
    Bad("too large together", HEAD + "import a\n" + GOOD,
        "the pipedef and the modules in its folder are larger than 16 MiB",
        "move what is no part of the pipeline out of that folder", None,
        {"a.py": "#" + "\1" * 2_900_000}),
]


@pytest.mark.parametrize("bad", CORPUS, ids=[bad.name[:40] for bad in CORPUS])
def test_two_lines_and_the_place(bad: Bad, tmp_path: Path) -> None:
    said = discover(write(tmp_path, {"pipedef.py": bad.text, **bad.beside}))
    assert said["say"] == "broken", str(said)[:1000]
    problem = said["problem"]
    hint = bad.hint.replace("{python}", sys.executable).replace("{folder}", str(tmp_path))
    if bad.error.endswith("..."):
        # The rest of what Python itself says differs from version to version.
        assert problem["error"].startswith(bad.error[:-3]), problem
    else:
        assert problem["error"] == bad.error, problem
    assert problem["hint"] == hint, problem
    assert problem.get("line") == bad.line, problem
    assert problem["file"] == str(tmp_path / bad.file), problem


def test_tracebacks_show_the_users_frames_and_none_of_ours(tmp_path: Path) -> None:
    files: Files = {"pipedef.py": HEAD + "import more\n", "more.py": "import json\njson.loads('{')\n"}
    traceback = discover(write(tmp_path, files))["problem"]["traceback"]
    places = [line.strip() for line in traceback.splitlines() if line.startswith("  File")]
    assert places[0] == f'File "{tmp_path}/pipedef.py", line 2, in <module>'
    assert places[1] == f'File "{tmp_path}/more.py", line 2, in <module>'
    assert f'{os.sep}json{os.sep}' in places[2]
    assert "bettertest/_" not in traceback and "importlib" not in traceback


def test_a_syntax_error_has_its_caret(tmp_path: Path) -> None:
    traceback = discover(write(tmp_path, {"pipedef.py": HEAD + "x = (1 +\n"}))["problem"]["traceback"]
    assert f'File "{tmp_path}/pipedef.py", line 2\n    x = (1 +\n        ^\n' in traceback


def test_a_pipedef_that_ends_python_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"\[\]"):
        discover(write(tmp_path, {"pipedef.py": "import os\nos._exit(0)\n"}))


def test_what_is_no_file(tmp_path: Path) -> None:
    def refused(path: Path) -> tuple[str, str]:
        said = discover(str(path))
        assert said["say"] == "broken" and said["problem"]["file"] == str(path)
        return said["problem"]["error"], said["problem"]["hint"]

    missing, folder, fifo = tmp_path / "missing.py", tmp_path / "folder.py", tmp_path / "fifo.py"
    folder.mkdir()
    os.mkfifo(fifo)
    assert refused(missing) == (f"there is no pipedef at {missing}", "mend the path, or write the file there")
    assert refused(missing / "x")[0] == f"there is no pipedef at {missing / 'x'}"
    assert refused(folder) == (f"{folder} is a folder", "name the pipedef in it: a Python file")
    assert refused(fifo) == (f"{fifo} is no ordinary file", "a pipedef is a Python file")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, and tests may run as root: so it is `open` that refuses.
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, {"pipedef.py": ""})
    monkeypatch.setattr(_source, "open", refuse, raising=False)
    with pytest.raises(Refusal, match="cannot be read") as refused:
        _source.read(path)
    assert refused.value.hint == f"allow it: chmod a+r {path}"
