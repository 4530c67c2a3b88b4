"""`Stage`, from which a pipedef's stages derive, and the list of those that were declared."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from typing import Optional


class Stage:
    """A stage of the pipeline; derive from it, directly or through another stage.

    Stages run one after another, in the order in which the pipedef declares them. Their tasks run at once: each
    method whose name begins with `task_`, whether it is a plain function with `self` or without any parameter, a
    staticmethod, a classmethod, inherited, or set in a loop by `setattr`.

    A stage whose name begins with `_`, and one without tasks from which others derive, is only a base of stages.
    `task_x = None` takes an inherited task away.

    always  runs even where an earlier stage did not pass (but not after a cancel); False unless a stage says otherwise

        from bettertest import Stage, run

        WORKER = "http://localhost:9009"

        class TestUnit(Stage):
            pass

        for python in ("3.9", "3.13"):
            def task(python=python):
                run(WORKER, f"myproject-test:{python}", "pytest -x")
            setattr(TestUnit, f"task_python_{python.replace('.', '_')}", task)

        class Report(Stage):
            always = True

            def task_report(self):
                run(WORKER, "myproject-test:3.13", "./report.sh")
    """

    always: bool = False

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        _declared.append((cls, _line_of_class(cls)))


_declared: list[tuple[type[Stage], Optional[int]]] = []


def declared() -> list[tuple[type[Stage], Optional[int]]]:
    """Every class that derives from Stage, in the order of their making, with the line of its `class`."""
    return list(_declared)


def _line_of_class(cls: type[Stage]) -> Optional[int]:
    """The class is being made: somewhere below on the stack its file is at the line of its `class` statement."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") != cls.__module__:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return frame.f_lineno
