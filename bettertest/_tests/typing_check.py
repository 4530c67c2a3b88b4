"""Never executed: mypy reads it, and so it holds what an author's editor and type checker see."""

from __future__ import annotations

import sys
from typing import Optional

import bettertest
from bettertest import (
    BettertestError,
    CommandFailed,
    EngineFault,
    SpecRefused,
    Stage,
    StepCancelled,
    StepResult,
    StepTimedOut,
    WorkerUnreachable,
    build,
    run,
)

if sys.version_info >= (3, 11):
    from typing import assert_type
else:
    from typing_extensions import assert_type


class TestUnit(Stage):
    always = True

    @staticmethod
    def task_models() -> None:
        result = run("http://localhost:9009", "image", "ls")
        assert_type(result, StepResult)
        assert_type(result.outcome, str)
        assert_type(result.reason, Optional[str])
        assert_type(result.exit_code, Optional[int])
        assert_type(result.took_ms, int)
        assert_type(result.oom, bool)
        assert_type(result.message, Optional[str])
        assert_type(result.hint, Optional[str])
        assert_type(result.passed, bool)

    def task_image(self) -> None:
        assert_type(build("http://localhost:9009", "image", "docker/Dockerfile", "docker", timeout_s=60), StepResult)

    def task_options(self) -> None:
        run(
            "http://localhost:9009",
            image="image",
            command=["python", "-c", "print(1)"],
            workdir="/srv",
            env={"LANG": "C.UTF-8"},
            user="1000:1000",
            timeout_s=600,
            memory_bytes=2**30,
            cpus=1.5,
            pids=256,
            shm_bytes=2**26,
            network="none",
            output_cap_bytes=2**20,
            entrypoint=True,
            source_at="/app",
            check=False,
        )
        run("w", "i", ("a", "tuple"), cpus=2, network="egress")

    def task_errors(self) -> None:
        try:
            run("w", "i", "ls")
        except CommandFailed as error:
            assert_type(error.result, Optional[StepResult])
            assert_type(error.hint, Optional[str])
        except (StepTimedOut, StepCancelled, SpecRefused, WorkerUnreachable, EngineFault) as other:
            caught: BettertestError = other
            raise caught


# What has to be an error is one: mypy refuses an `ignore` that ignores nothing.
run("w", "i")  # type: ignore[call-arg]
run("w", "i", 7)  # type: ignore[arg-type]
run("w", "i", "ls", "/srv")  # type: ignore[misc]
run("w", "i", "ls", network="host")  # type: ignore[arg-type]
run("w", "i", "ls", timeout_s=1.5)  # type: ignore[arg-type]
run("w", "i", "ls", env={"A": 1})  # type: ignore[dict-item]
run("w", "i", "ls", privileged=True)  # type: ignore[call-arg]
bettertest.drive  # type: ignore[attr-defined]


class Odd(Stage):
    always = "yes"  # type: ignore[assignment]
