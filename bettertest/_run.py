"""`run(...)`: what the author of a pipedef calls.

It turns its arguments into a StepSpec, hands that to whatever drives the pipedef, and turns the answer into a
StepResult or an exception. Who drives it, and how the step comes to a worker, is not known here. `_build.py` is the same
for images.
"""

from __future__ import annotations

from . import _report
from ._errors import (
    BettertestError,
    CommandFailed,
    EngineFault,
    SpecRefused,
    StepCancelled,
    StepTimedOut,
    WorkerUnreachable,
)

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Callable, Literal, Optional, Union

    Command = Union[str, Sequence[str]]
    # Worker and spec in; a `step_result` or `refused` of common/wire out, when the step has ended.
    Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


class StepResult:
    """How a step ended. It cannot be changed.

    outcome    `passed`, `failed`, `timed_out`, `cancelled` or `errored`
    reason     why, unless it passed, such as `command_failed`
    exit_code  0 to 255; of a step that neither passed nor failed it is evidence only, or None
    took_ms    milliseconds from the start of the container to its end
    oom        out of memory, on evidence only
    message    what went wrong, where the worker has words for it
    hint       what to do next, where the worker knows it
    passed     the command ended with exit code 0

    Without `check=False` only a result that passed comes back from `run(...)`; of all others the exception has it.

        from bettertest import Stage, run

        WORKER = "http://localhost:9009"

        class TestSpeed(Stage):
            @staticmethod
            def task_is_quick():
                result = run(WORKER, "myproject-test", "./myproject --help")
                assert result.passed and result.took_ms < 2000, result
    """

    __slots__ = ("exit_code", "hint", "message", "oom", "outcome", "reason", "took_ms")

    outcome: str
    reason: Optional[str]
    exit_code: Optional[int]
    took_ms: int
    oom: bool
    message: Optional[str]
    hint: Optional[str]

    def __init__(
        self,
        outcome: str,
        reason: Optional[str],
        exit_code: Optional[int],
        took_ms: int,
        oom: bool = False,
        message: Optional[str] = None,
        hint: Optional[str] = None,
    ) -> None:
        fields = {"outcome": outcome, "reason": reason, "exit_code": exit_code, "took_ms": took_ms}
        fields.update(oom=oom, message=message, hint=hint)
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def passed(self) -> bool:
        """The command ended with exit code 0."""
        return self.outcome == "passed" and self.exit_code == 0

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a StepResult cannot be changed: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a StepResult cannot be changed: {name}")

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"StepResult({fields})"


def run(
    worker: str,
    image: str,
    command: Command,
    *,
    workdir: Optional[str] = None,
    env: Optional[Mapping[str, str]] = None,
    user: Optional[str] = None,
    timeout_s: Optional[int] = None,
    memory_bytes: Optional[int] = None,
    cpus: Optional[float] = None,
    pids: Optional[int] = None,
    shm_bytes: Optional[int] = None,
    network: Optional[Literal["egress", "none"]] = None,
    output_cap_bytes: Optional[int] = None,
    entrypoint: bool = False,
    source_at: Optional[str] = None,
    allow_no_tests: bool = False,
    only_tests: Optional[str] = None,
    artifacts: Optional[Sequence[str]] = None,
    junit: Union[str, Sequence[str], None] = None,
    check: bool = True,
) -> StepResult:
    """Runs one command in one fresh container, waits for its end, and raises unless all went well.

    It may be called several times in a task, and from several threads at once. What is None is left to the
    worker's default.

    worker            the worker's address, such as `http://localhost:9009`
    image             the image's name; looked for on the worker, then pulled once
    command           a string runs by `/bin/sh -c`, a list is executed as it is; standard input is empty
    workdir           absolute path in the container; by default the image's
    env               variables beside the image's own
    user              `name`, `uid` or `uid:gid`; by default the image's
    timeout_s         seconds from the start of the container, 1 to 604800; by default 3600
    memory_bytes      at least 6 MiB
    cpus              cores, such as 1.5
    pids              how many processes and threads there may be at once; by default 1024
    shm_bytes         size of `/dev/shm`
    network           `egress` (out to the world, nothing in; the default) or `none`
    output_cap_bytes  how much of the beginning, and as much again of the end, of the output is kept
    entrypoint        run the command through the image's ENTRYPOINT instead of replacing it
    source_at         absolute path in the container: the project's files, as they were when the run began, lie there
    allow_no_tests    True: a test runner that says that it ran no test does not make the task fail
    only_tests        the command that runs some tests only, such as `pytest {tests}`; see below
    artifacts         files to keep, whatever the exit code, such as `["report/**", "*.xml"]`; below workdir, or absolute
    junit             JUnit XML that the command writes, `report.xml` or a list: what it says of tests is shown; or `[]`
    check             False: an exit code other than 0 is returned, not raised. Nothing else is let through

    `only_tests` is for `bettertest rerun --failed-tests`, which runs it instead of the command, with the names of the tests
    that had failed where `{tests}` stands: `python -m pytest -v {tests}`, `cargo test -- --exact {tests}`. Runners that
    take an expression get one at `{tests:regex}`: `go test -run {tests:regex} ./...`, `npx jest -t {tests:regex}`.

    A command that is pytest and nothing else (`pytest -q test`, `python -m pytest -n 4`) gets two options more, by which
    it writes such a report, unless `junit` is given or `artifacts` has an `.xml`; the command that ran is shown. With
    `junit=[]` it runs as it stands.

    Raises CommandFailed, StepTimedOut, StepCancelled, SpecRefused, WorkerUnreachable or EngineFault (all of them
    BettertestError), and TypeError for arguments of the wrong type. Uncaught, it ends the task; so it does when it
    is raised in a thread, or left in a Future whose `.result()` nobody asks for.

        from bettertest import Stage, run

        WORKER = "http://localhost:9009"
        IMAGE = "myproject-test"

        class TestUnit(Stage):
            @staticmethod
            def task_models():
                run(WORKER, IMAGE, "pytest -x test/test_models.py", timeout_s=600, network="none")

            @staticmethod
            def task_no_fixme():
                found = run(WORKER, IMAGE, ["grep", "-rn", "FIXME", "src"], check=False)
                assert found.exit_code == 1, "grep found some"
    """
    words, reports = _command(command), patterns_of("junit", [junit] if isinstance(junit, str) else junit)
    if junit is None:
        asked = _report.asked_for(words, _env(env), patterns_of("artifacts", artifacts))
        if asked is not None:
            words, reports = asked, [_report.PATH]
            # What is run instead, now and then, is to tell of its tests likewise.
            again = _report.asked_for(only_tests, _env(env), None) if isinstance(only_tests, str) else None
            only_tests = only_tests if again is None else str(again)
    optional: dict[str, object] = {
        "workdir": workdir,
        "env": _env(env),
        "user": user,
        "timeout_s": timeout_s,
        "memory_bytes": memory_bytes,
        "cpus": cpus,
        "pids": pids,
        "shm_bytes": shm_bytes,
        "network": network,
        "output_cap_bytes": output_cap_bytes,
        "entrypoint": entrypoint or None,
        # No part of a spec on the wire: the boss, which has the source, says which tree lies there.
        "source_at": source_at,
        "allow_no_tests": allow_no_tests or None,
        "only_tests": only_tests,
        "artifacts": patterns_of("artifacts", artifacts),
        "junit": reports,
    }
    spec: dict[str, Any] = {"image": image, "command": words}
    spec.update((name, value) for name, value in optional.items() if value is not None)
    return ask_for("run", worker, spec, check)


def ask_for(function: str, worker: str, spec: dict[str, Any], check: bool = True) -> StepResult:
    """Hands a spec on, and turns the answer into what `function` returns or raises."""
    if _ask is None:
        raise BettertestError(
            f"{function}(...) was called outside of a task",
            hint="call it in a task_* method of a Stage, and run the file by `python -m bettertest FILE`",
        )
    _check_types(worker, spec)
    answer = _ask(worker, spec)
    if answer["answer"] == "refused":
        problem = answer["problem"]
        error: BettertestError = SpecRefused(problem["error"], hint=problem.get("hint"))
    else:
        result = StepResult(**{name: answer[name] for name in StepResult.__slots__})
        if result.passed or (result.outcome == "failed" and not check):
            return result
        error = _error_of(result, spec)
    error._call = answer["call"]
    _raised.append(error)
    raise error


_ask: Optional[Ask] = None
# Every error that `run` raised, so that one that was lost in a thread is found; see `_threads.py`.
_raised: list[BettertestError] = []


def drive(ask: Ask) -> None:
    """From now on `run(...)` hands its steps to `ask`, which waits for their end."""
    global _ask
    _ask = ask


def raised() -> list[BettertestError]:
    return list(_raised)


def _error_of(result: StepResult, spec: dict[str, Any]) -> BettertestError:
    command = _for_show(spec["command"])
    reason = result.reason or "internal"
    if result.outcome == "failed":
        memory = " (out of memory)" if result.oom else ""
        # Of a build: the line of the Dockerfile.
        what = _for_show(result.message) if result.message else command
        return CommandFailed(f"exit code {result.exit_code}{memory} from: {what}", hint=result.hint, result=result)
    if result.outcome == "timed_out":
        limit = f"{spec['timeout_s']} s" if "timeout_s" in spec else "its limit"
        return StepTimedOut(f"ran longer than {limit}: {command}", hint=result.hint, result=result)
    if result.outcome == "cancelled":
        return StepCancelled(f"{reason}: {command}", hint=result.hint, result=result)
    message = f"{reason}: {result.message or command}"
    if reason in ("worker_unreachable", "worker_lost", "token_refused"):
        return WorkerUnreachable(message, hint=result.hint, result=result)
    return EngineFault(message, hint=result.hint, result=result)


def _for_show(command: Union[str, list[str], dict[str, Any]]) -> str:
    if isinstance(command, dict):
        command = "docker build -f {dockerfile} {context}".format(**command["build"])
    text = _report.without(" ".join((command if isinstance(command, str) else " ".join(command)).split()))
    return text if len(text) <= 200 else text[:199] + "…"


def _command(command: Command) -> Union[str, list[str]]:
    if isinstance(command, str):
        return command
    if isinstance(command, (list, tuple)) and all(isinstance(word, str) for word in command):
        return list(command)
    raise TypeError("command has to be a string for /bin/sh -c, or a list of strings to execute")


def patterns_of(name: str, patterns: Optional[Sequence[str]]) -> Optional[list[str]]:
    """One string would be taken for a list of its letters."""
    is_list = isinstance(patterns, (list, tuple)) and all(isinstance(pattern, str) for pattern in patterns)
    if patterns is not None and not is_list:
        raise TypeError(f'{name} has to be a list of strings such as ["report/**"], not {patterns!r}')
    return list(patterns) if patterns else None


def _env(env: Optional[Mapping[str, str]]) -> Optional[dict[str, str]]:
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"env has to map strings to strings, not {name!r} to {value!r}")
    return dict(env) if env else None


def _check_types(worker: str, spec: dict[str, Any]) -> None:
    """Refuses what JSON cannot carry, or would carry as something else. The rest is for the worker to judge."""
    for name, value in (("worker", worker), *spec.items()):
        if name in ("worker", "image", "workdir", "user", "network", "source_at", "only_tests"):
            fits, kind = isinstance(value, str), "a string"
        elif name in ("entrypoint", "allow_no_tests"):
            fits, kind = isinstance(value, bool), "True or False"
        elif name == "cpus":
            # Infinity and NaN are no JSON; of them alone the difference from itself is not 0.
            fits, kind = type(value) in (int, float) and value - value == 0, "a number"
        elif name in ("command", "env", "artifacts", "junit"):
            continue  # they were looked at when they were made
        else:
            fits, kind = type(value) is int, "a whole number"
        if not fits:
            raise TypeError(f"{name} has to be {kind}, not {value!r}")
    try:
        "\n".join([worker, *_texts_in(spec)]).encode()
    except UnicodeEncodeError as error:
        raise TypeError(f"half a character (a lone surrogate) is no text: {error.object[error.start]!r}") from None


def _texts_in(spec: dict[str, Any]) -> list[str]:
    command = spec["command"]
    if isinstance(command, dict):
        what = dict(command["build"])
        command = [*what.pop("rebuild_on", []), *what.values()]
    texts = [command] if isinstance(command, str) else list(command)
    for name, value in spec.get("env", {}).items():
        texts += [name, value]
    texts += [*spec.get("artifacts", []), *spec.get("junit", [])]
    return texts + [value for name, value in spec.items() if name != "command" and isinstance(value, str)]
