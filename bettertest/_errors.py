"""What `run(...)` raises unless all went well.

    Exception
    └── BettertestError        something of bettertest; catch this for all of them
        ├── CommandFailed      the command ended with an exit code other than 0
        ├── StepTimedOut       the step ran longer than its `timeout_s`
        ├── StepCancelled      somebody cancelled the step
        ├── SpecRefused        the worker refuses what was asked for; no step was started
        ├── WorkerUnreachable  the worker does not answer, no longer answers, or does not take our token
        └── EngineFault        any other fault of worker, engine or machine: no such image, a full disk, ...

A task whose step ended in `WorkerUnreachable` or `EngineFault` is `errored` even where it catches them: nobody
knows what the command would have said.

    from bettertest import Stage, StepTimedOut, run

    WORKER = "http://localhost:9009"

    class TestSoak(Stage):
        @staticmethod
        def task_survives_a_minute():
            try:
                run(WORKER, "myproject-test", "./myproject --serve", timeout_s=60)
            except StepTimedOut as error:
                print(f"it still ran after {error.result.took_ms} ms")
            else:
                raise AssertionError("it ended by itself")
"""

from __future__ import annotations

TYPE_CHECKING = False  # known to type checkers; `typing` itself would cost every task's start a few ms
if TYPE_CHECKING:
    from typing import Optional

    from ._run import StepResult


class BettertestError(Exception):
    """The base of all that `run(...)` raises.

    `hint` says what to do next, where that is known. `result` is how the step ended; None where there was none.
    """

    def __init__(
        self, message: str, *, hint: Optional[str] = None, result: Optional[StepResult] = None
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.result = result
        # Which call of `run` raised this; what drives the pipedef wants to know when nobody caught it.
        self._call: Optional[int] = None


class CommandFailed(BettertestError):
    """The command ended with an exit code other than 0: `error.result.exit_code`."""


class StepTimedOut(BettertestError):
    """The step ran longer than its `timeout_s`."""


class StepCancelled(BettertestError):
    """Somebody cancelled the step; `error.result.reason` says how."""


class SpecRefused(BettertestError):
    """The worker refuses what `run(...)` asked for, and names the field. No step was started."""


class WorkerUnreachable(BettertestError):
    """The worker does not answer, no longer answers, or does not take our token: see `error.result.reason`."""


class EngineFault(BettertestError):
    """A fault of worker, engine or machine; `error.result.reason` says which, such as `image_not_found`."""
