"""From an executed pipedef to the pipeline that it declares, or to what is wrong with it.

What would silently not run is refused: a method that overwrites another, a stage that was only imported, a class
with tasks that is no stage.
"""

from __future__ import annotations

import ast
import os
import sys

from . import _stage, _tasks
from ._problem import Refusal

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Optional

    from ._source import Texts

MOST_TASKS = 20_000


def pipeline(module: str, texts: Texts) -> dict[str, Any]:
    """The pipeline of common/wire. Raises Refusal."""
    try:
        return _pipeline(module, texts)
    except Refusal as refusal:
        if refusal.file is None:
            refusal.file = texts.pipedef
        if refusal.line is not None and refusal.file in texts.files:
            refusal.line = _lines_of_defs(texts.text(refusal.file)).get(refusal.line, refusal.line)
        raise


def _pipeline(module: str, texts: Texts) -> dict[str, Any]:
    declared = [(cls, line) for cls, line in _stage.declared() if cls.__module__ == module]
    _refuse_strangers(module, [cls for cls, _ in declared], os.path.basename(texts.pipedef))
    stages = [(cls, line) for cls, line in declared if _is_to_run(cls, line)]
    if not stages:
        name = declared[0][0].__name__
        raise Refusal(
            f"{os.path.basename(texts.pipedef)} declares no stage to run",
            f"{_tasks.shortened(name)} is only a base: name one without the _ at its beginning",
        )
    _refuse_two_stages_of_one_name(stages)
    _refuse_overwritten_tasks([cls for cls, _ in stages], texts)
    lines = _lines_of_defs(texts.text(texts.pipedef))
    found = [_stage_of(cls, line, texts.pipedef, lines) for cls, line in stages]
    count = sum(len(stage["tasks"]) for stage in found)
    if count > MOST_TASKS:
        raise Refusal(
            f"the pipedef declares {count} tasks, and {MOST_TASKS} are the most", "let a task do more than one thing"
        )
    return {"stages": found}


def _is_to_run(cls: type[_stage.Stage], line: Optional[int]) -> bool:
    name = _tasks.shortened(cls.__name__)
    if cls.__name__.startswith("_"):
        return False
    is_abstract = bool(getattr(cls, "__abstractmethods__", None))
    if _tasks.of(cls) and not is_abstract:
        return True
    if cls.__subclasses__():
        return False
    if is_abstract:
        raise Refusal(f"the stage {name} leaves methods abstract", "write them, or name it _" + name, line=line)
    raise Refusal(
        f"the stage {name} has no task",
        f"a task is a method whose name begins with task_; a stage that is only a base is named _{name}",
        line=line,
    )


def _stage_of(
    cls: type[_stage.Stage], line: Optional[int], pipedef: str, lines: dict[int, int]
) -> dict[str, Any]:
    name = cls.__name__
    if not name.isidentifier() or len(name) > _tasks.LONGEST_NAME:
        raise Refusal(
            f"a stage has the name {_tasks.shortened(name)!r}",
            f"name it as Python names a class, with at most {_tasks.LONGEST_NAME} letters, digits and _",
            line=line,
        )
    if not isinstance(cls.always, bool):
        raise Refusal(
            f"always of the stage {name} is {cls.always!r}", "write always = True, or leave it out", line=line
        )
    tasks = []
    for attribute_name, attribute in _tasks.of(cls).items():
        _tasks.check(cls, attribute_name, attribute)
        task: dict[str, Any] = {"name": attribute_name[len(_tasks.PREFIX) :]}
        code = _tasks.code_of(attribute)
        if code is not None and code.co_filename == pipedef:
            task["line"] = lines.get(code.co_firstlineno, code.co_firstlineno)
        tasks.append(task)
    return {"name": name, "always": cls.always, "tasks": tasks}


def _refuse_strangers(module: str, declared: list[type[_stage.Stage]], pipedef: str) -> None:
    """Looks for what the author may well think is run, though it is not."""
    known = {base for cls in declared for base in cls.__mro__}
    for name, value in list(vars(sys.modules[module]).items()):
        if not isinstance(value, type) or value in known or value.__name__.startswith("_"):
            continue
        if not _tasks.of(value):
            continue
        if not issubclass(value, _stage.Stage):
            if value.__module__ == module:
                raise Refusal(
                    f"{value.__name__} has tasks, but does not derive from Stage",
                    f"write class {value.__name__}(Stage):, or name it _{value.__name__} if it is no stage",
                    *_tasks.place_of(next(iter(_tasks.of(value).values()))),
                )
        elif value.__module__ != module:
            raise Refusal(
                f"the stage {name} is only imported, from {value.__module__}, and would not run",
                f"declare it in {pipedef}: class {name}({name}): pass (or name it _{name} if it is only a base)",
            )
    if len(_stage.declared()) < len(set(_all_below(_stage.Stage))):
        raise Refusal(
            "a stage overrides __init_subclass__ and does not call the one it overrides",
            "let it call super().__init_subclass__()",
        )
    if not declared:
        raise Refusal(
            f"{pipedef} declares no stage",
            "declare one: class TestUnit(Stage), with a method task_models(self) that calls run(...)",
        )


def _all_below(cls: type) -> Iterator[type]:
    for below in cls.__subclasses__():
        yield below
        yield from _all_below(below)


def _refuse_two_stages_of_one_name(stages: list[tuple[type[_stage.Stage], Optional[int]]]) -> None:
    lines: dict[str, Optional[int]] = {}
    for cls, line in stages:
        name = cls.__name__
        if name in lines:
            raise Refusal(
                f"two stages are named {_tasks.shortened(name)}, in lines {lines[name]} and {line}",
                "rename one of them",
                line=line,
            )
        lines[name] = line


def _refuse_overwritten_tasks(stages: list[type[_stage.Stage]], texts: Texts) -> None:
    """Of two methods of one name in a class Python silently keeps the second: only the text shows both."""
    classes: dict[str, set[str]] = {}
    for cls in {base for stage in stages for base in stage.__mro__}:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if isinstance(file, str) and file in texts.files:
            classes.setdefault(file, set()).add(cls.__name__)
    for file, names in sorted(classes.items()):
        for node in ast.walk(ast.parse(texts.text(file))):
            if isinstance(node, ast.ClassDef) and node.name in names:
                _refuse_overwritten(node, file)


def _refuse_overwritten(node: ast.ClassDef, file: str) -> None:
    lines: dict[str, int] = {}
    for inner in node.body:
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and inner.name.startswith(_tasks.PREFIX):
            if inner.name in lines:
                task = f"{_tasks.shortened(node.name)}.{_tasks.shortened(inner.name[len(_tasks.PREFIX) :])}"
                raise Refusal(
                    f"two tasks are named {task}, in lines {lines[inner.name]} and {inner.lineno}",
                    "rename one of them: Python keeps only the second",
                    file,
                    inner.lineno,
                )
            lines[inner.name] = inner.lineno


def _lines_of_defs(text: str) -> dict[int, int]:
    """For a decorated function Python knows the line of its first decorator; people look for its `def`."""
    lines = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            lines[node.decorator_list[0].lineno] = node.lineno
    return lines
