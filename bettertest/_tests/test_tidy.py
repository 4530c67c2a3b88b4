"""What the library promises of itself: old Pythons, no dependencies, no environment, a quick start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import bettertest

LIBRARY = Path(bettertest.__file__).parent
FILES = sorted(LIBRARY.glob("*.py"))
ROOT = LIBRARY.parent


def trees() -> list[tuple[str, ast.Module]]:
    return [(file.name, ast.parse(file.read_text("utf-8"), feature_version=(3, 9))) for file in FILES]


def test_the_syntax_is_that_of_python_3_9() -> None:
    """`feature_version` refuses newer statements; what the annotations say is never evaluated; mypy does the rest."""
    for name, tree in trees():
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        lazy = any(node.module == "__future__" for node in imports)
        assert lazy or name == "__init__.py", f"{name} evaluates its annotations"
        for node in ast.walk(tree):
            assert type(node).__name__ not in ("Match", "TryStar"), f"{name} is too new for Python 3.9"


def test_nothing_but_the_standard_library_is_imported() -> None:
    known = getattr(sys, "stdlib_module_names", None)
    if known is None:
        # Python 3.9 does not know its own modules; a newer one has checked the same files.
        return
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            for module in modules:
                assert module.partition(".")[0] in known or module == "bettertest._child", f"{name}: {module}"


def test_no_environment_variable_is_read() -> None:
    for file in FILES:
        text = file.read_text("utf-8")
        assert "environ" not in text and "getenv" not in text and "expanduser" not in text, file.name


def test_the_start_of_a_task_imports_little() -> None:
    """A task may have to start a Python, and a run always has to: what is slow to import stays out of its way."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules)\n"
        "import bettertest._child, bettertest._host, bettertest._tasks, linecache\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    # -I -S: without what this machine's own set-up imports into every Python.
    out = subprocess.check_output([sys.executable, "-I", "-S", "-c", code, str(ROOT)], text=True)
    slow = "ast dataclasses http inspect socket ssl subprocess traceback typing urllib concurrent logging pathlib"
    assert not set(slow.split()) & set(out.split()), out
    ours = {module for module in out.split() if module.startswith("bettertest.")}
    assert not ours & {"bettertest._discovery", "bettertest._laptop", "bettertest._worker"}


def test_the_public_names_are_all_there() -> None:
    assert all(hasattr(bettertest, name) for name in bettertest.__all__)
    public = [name for name in vars(bettertest) if not name.startswith("_")]
    assert sorted(public) == sorted(bettertest.__all__)
    tree = bettertest._errors.__doc__ or ""
    for name in bettertest.__all__:
        if issubclass(type(getattr(bettertest, name)), type) and issubclass(getattr(bettertest, name), Exception):
            assert name in tree, f"{name} is not drawn in the tree of errors"


def test_files_stay_small() -> None:
    sizes = {file.name: len(file.read_text("utf-8").split("\n")) for file in FILES}
    assert max(sizes.values()) <= 350, sizes
