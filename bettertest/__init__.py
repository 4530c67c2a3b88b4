"""Pipelines in Python: stages of tasks, each a few `run(...)` calls that a worker executes in containers.

    from bettertest import Stage, run

    class TestUnit(Stage):
        @staticmethod
        def task_models():
            run("http://localhost:9009", "myproject-test", "pytest -xvs test/test_models.py")

Such a file, a pipedef, is run by `bettertest run`, by `bettertest --boss`, or by `python -m bettertest pipedef.py`.
"""

from ._build import build
from ._errors import (
    BettertestError,
    CommandFailed,
    EngineFault,
    SpecRefused,
    StepCancelled,
    StepTimedOut,
    WorkerUnreachable,
)
from ._run import StepResult, run
from ._stage import Stage

__all__ = [
    "BettertestError",
    "CommandFailed",
    "EngineFault",
    "SpecRefused",
    "Stage",
    "StepCancelled",
    "StepResult",
    "StepTimedOut",
    "WorkerUnreachable",
    "build",
    "run",
]
