"""What a pipedef may look like, and what is found in it."""

from __future__ import annotations

import sys
from pathlib import Path

from .boss import discover, stages, write

HEAD = "from bettertest import Stage, run\n"


def test_the_pipedef_of_the_design(tmp_path: Path) -> None:
    text = """from bettertest import Stage, run

WORKER = "http://localhost:9009"
IMAGE = "myproject-test"

class TestUnit(Stage):
    @staticmethod
    def task_models():
        run(WORKER, IMAGE, "pytest -xvs test/test_models.py")
"""
    pipedef = write(tmp_path, {"pipedef.py": text})
    assert discover(pipedef) == {
        "say": "discovered",
        "pipeline": {
            "stages": [{"name": "TestUnit", "always": False, "tasks": [{"name": "models", "line": 8}]}]
        },
        "files": {pipedef: text},
        "python": sys.executable,
        "addresses": ["http://localhost:9009"],
    }


def test_every_kind_of_task(tmp_path: Path) -> None:
    text = HEAD + """
import functools

def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

class Kinds(Stage):
    def task_plain(): pass
    def task_self(self): pass
    @staticmethod
    def task_static(): pass
    @classmethod
    def task_class(cls): pass
    @logged
    def task_wrapped(self): pass
    task_lambda = lambda: None
    task_partial = functools.partial(print, "x")
    for task_bound in []: pass
    def helper(self): pass

for n in (1, 2):
    setattr(Kinds, f"task_{n}", lambda n=n: n)
"""
    pipedef = write(tmp_path, {"pipedef.py": text})
    names = ["plain", "self", "static", "class", "wrapped", "lambda", "partial", "1", "2"]
    assert stages(pipedef) == {"Kinds": names}


def test_stages_stand_in_the_order_of_their_declaration(tmp_path: Path) -> None:
    text = HEAD + """
class _Hidden(Stage):
    def task_x(): pass

class Base(Stage):
    def task_shared(): pass

class Empty(Stage): pass

class Second(Base):
    always = True
    def task_own(): pass

class First(Empty):
    def task_z(): pass
    def task_a(): pass

class Without(Base):
    task_shared = None
    def task_other(): pass

class Changed(_Hidden):
    def task_first(): pass
    def task_x(self): pass

Made = type("Made", (Stage,), {"task_x": lambda: None})
"""
    pipedef = write(tmp_path, {"pipedef.py": text})
    assert list(stages(pipedef).items()) == [
        ("Base", ["shared"]),
        ("Second", ["shared", "own"]),
        ("First", ["z", "a"]),
        ("Without", ["other"]),
        ("Changed", ["x", "first"]),
        ("Made", ["x"]),
    ]
    found = discover(pipedef)["pipeline"]["stages"]
    assert [stage["always"] for stage in found] == [False, True, False, False, False, False]


def test_modules_of_the_folder_are_stored_and_no_others(tmp_path: Path) -> None:
    files = {
        "pipedef.py": HEAD + "import json, helpers.deep, flat\nclass A(helpers.deep.Base):\n    pass\n",
        "helpers/__init__.py": "",
        "helpers/deep.py": HEAD + "class Base(Stage):\n    def task_x(): pass\n",
        "flat.py": "import vendored\nimport sys; sys.path.append(__file__[:-7] + 'lib'); import plain.inner\n",
        "lib/plain/inner.py": "",
        "unused.py": "",
        "site-packages/vendored.py": "",
    }
    # A folder of installed packages within the project is no part of it.
    files["flat.py"] = "import sys; sys.path.append(__file__[:-7] + 'site-packages')\n" + str(files["flat.py"])
    said = discover(write(tmp_path, dict(files)))
    assert said["say"] == "discovered", said
    stored = {str(Path(path).relative_to(tmp_path)): text for path, text in said["files"].items()}
    wanted = ["pipedef.py", "helpers/__init__.py", "helpers/deep.py", "flat.py", "lib/plain/inner.py"]
    assert stored == {name: files[name] for name in wanted}
    # The inherited task's line is in another file, of which the page shows nothing.
    assert said["pipeline"]["stages"][0]["tasks"] == [{"name": "x"}]


def test_every_usual_encoding_is_read(tmp_path: Path) -> None:
    body = HEAD + "NAME = 'été'\nclass A(Stage):\n    def task_x(): pass\n"
    latin = "# -*- coding: latin-1 -*-\n" + body
    for data, text in [
        (b"\xef\xbb\xbf" + body.encode(), body),
        (body.replace("\n", "\r\n").encode(), body.replace("\n", "\r\n")),
        (latin.encode("latin-1"), latin),
        (("#!/usr/bin/env python3\n" + latin).encode("latin-1"), "#!/usr/bin/env python3\n" + latin),
    ]:
        pipedef = write(tmp_path, {"pipedef.py": data})
        said = discover(pipedef)
        assert said["say"] == "discovered", said
        assert said["files"] == {pipedef: text}


def test_what_a_pipedef_prints_is_noise(tmp_path: Path) -> None:
    text = HEAD + "print('{\"say\": \"returned\"}')\nimport os; os.write(2, b'x' * 100000)\n"
    pipedef = write(tmp_path, {"pipedef.py": text + "class A(Stage):\n    def task_x(): pass\n"})
    assert stages(pipedef) == {"A": ["x"]}


def test_modules_beside_the_pipedef_cannot_pass_for_ours(tmp_path: Path) -> None:
    files = {"pipedef.py": HEAD + "class A(Stage):\n    def task_x(): pass\n", "bettertest/__init__.py": "1/0"}
    assert stages(write(tmp_path, {**files, "json.py": "1/0", "threading.py": "1/0"})) == {"A": ["x"]}


def test_a_module_may_import_the_pipedef_back(tmp_path: Path) -> None:
    files = {
        "pipedef.py": HEAD + "class A(Stage):\n    def task_x(): pass\nimport more\n",
        "more.py": "import pipedef\nassert pipedef.A\n",
    }
    assert stages(write(tmp_path, dict(files))) == {"A": ["x"]}


def test_twenty_thousand_tasks(tmp_path: Path) -> None:
    text = HEAD + "class A(Stage): pass\nfor n in range({}):\n    setattr(A, f'task_{{n}}', lambda n=n: n)\n"
    pipedef = write(tmp_path, {"pipedef.py": text.format(20_000)})
    assert len(stages(pipedef)["A"]) == 20_000
    write(tmp_path, {"pipedef.py": text.format(20_001)})
    problem = discover(pipedef)["problem"]
    assert problem["error"] == "the pipedef declares 20001 tasks, and 20000 are the most"
