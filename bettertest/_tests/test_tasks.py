"""A task in its process, from its order to its last word."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from .boss import PATIENCE_S, discover, task, write

HEAD = """from bettertest import *
import threading
W, I = "http://localhost:9009", "image"
class T(Stage):
"""


def one(tmp_path: Path, body: str) -> str:
    """A pipedef with the task T.x."""
    lines = "".join(f"        {line}\n" for line in body.strip("\n").split("\n"))
    return write(tmp_path, {"pipedef.py": f"{HEAD}    def task_x(self):\n{lines}"})


def test_a_step_is_asked_for_and_its_result_is_what_run_returns(tmp_path: Path) -> None:
    body = """
result = run(W, I, "ls")
assert result.passed and result.exit_code == 0 and result.took_ms == 5 and not result.oom
assert (result.outcome, result.reason, result.message, result.hint) == ("passed", None, None, None)
run(W, I, ("a", "b"), workdir="/srv", env={"A": "é"}, user="1000:1000", timeout_s=600, memory_bytes=2**30,
    cpus=1.5, pids=256, shm_bytes=65536, network="none", output_cap_bytes=1024, entrypoint=True,
    source_at="/app")
print("printed")
"""
    with task(one(tmp_path, body), "T.x") as running:
        spec = {"image": "image", "command": "ls"}
        asked = {"say": "step_asked", "call": 1, "worker": "http://localhost:9009", "spec": spec}
        assert running.asked() == asked
        running.answer(1)
        assert running.asked()["spec"] == {
            "image": "image",
            "command": ["a", "b"],
            "workdir": "/srv",
            "env": {"A": "é"},
            "user": "1000:1000",
            "timeout_s": 600,
            "memory_bytes": 2**30,
            "cpus": 1.5,
            "pids": 256,
            "shm_bytes": 65536,
            "network": "none",
            "output_cap_bytes": 1024,
            "entrypoint": True,
            "source_at": "/app",
        }
        running.answer(2)
        assert running.last() == {"say": "returned"}
        assert running.last() is None
        assert running.printed() == "printed\n"


@pytest.mark.parametrize(
    "answer, error",
    [
        ({"exit_code": 1}, "CommandFailed: exit code 1 from: make test"),
        ({"exit_code": 137, "oom": True}, "CommandFailed: exit code 137 (out of memory) from: make test"),
        (
            {"exit_code": 143, "outcome": "timed_out", "reason": "step_timeout"},
            "StepTimedOut: ran longer than 7 s: make test",
        ),
        (
            {"exit_code": 0, "outcome": "timed_out", "reason": "step_timeout"},
            "StepTimedOut: ran longer than 7 s: make test",
        ),
        ({"outcome": "cancelled", "reason": "cancel_asked"}, "StepCancelled: cancel_asked: make test"),
        (
            {"outcome": "errored", "reason": "worker_lost", "message": "no contact"},
            "WorkerUnreachable: worker_lost: no contact",
        ),
        (
            {"outcome": "errored", "reason": "image_not_found", "message": "no image", "hint": "build it"},
            "EngineFault: image_not_found: no image",
        ),
        ({"outcome": "errored", "reason": "something_new"}, "EngineFault: something_new: make test"),
        ({"outcome": "passed", "exit_code": 3, "reason": None}, "EngineFault: internal: make test"),
    ],
)
def test_run_raises_unless_all_went_well(tmp_path: Path, answer: dict[str, Any], error: str) -> None:
    pipedef = one(tmp_path, "run(W, I, 'make\\n   test', timeout_s=7)")
    with task(pipedef, "T.x") as running:
        running.asked()
        running.answer(1, **answer)
        raised = running.last()
        assert raised["say"] == "raised" and raised["call"] == 1
        problem = raised["problem"]
        assert problem["error"] == error
        assert (problem["file"], problem["line"], problem.get("hint")) == (pipedef, 6, answer.get("hint"))
        assert problem["traceback"].count("  File ") == 1, problem["traceback"]
        assert running.last() is None


def test_a_refused_spec(tmp_path: Path) -> None:
    with task(one(tmp_path, "run(W, I, 'ls', timeout_s=0)"), "T.x") as running:
        running.asked()
        problem = {"error": "timeout_s: has to be from 1 to 604800 seconds (7 days)", "hint": "change it"}
        running.process.say({"answer": "refused", "call": 1, "problem": problem})
        raised = running.last()
        assert raised["call"] == 1
        assert raised["problem"]["error"] == f"SpecRefused: {problem['error']}"
        assert raised["problem"]["hint"] == "change it"


def test_check_false_lets_an_exit_code_through_and_nothing_else(tmp_path: Path) -> None:
    body = "assert run(W, I, 'ls', check=False).exit_code == 3\nrun(W, I, 'ls', check=False)"
    with task(one(tmp_path, body), "T.x") as running:
        running.asked()
        running.answer(1, exit_code=3)
        running.asked()
        running.answer(2, outcome="timed_out", reason="step_timeout")
        assert running.last()["call"] == 2


def test_what_json_cannot_carry_is_a_type_error_that_names_it(tmp_path: Path) -> None:
    body = """
import pathlib
for bad in (
    dict(command=7), dict(command=[]), dict(command=["a", 1]), dict(command=b"ls"), dict(command="\\udc80"),
    dict(command=["\\udc80"]), dict(image=None), dict(worker=1), dict(workdir=pathlib.Path("/srv")),
    dict(env={"A": 1}), dict(env={"A": "\\udc80"}), dict(timeout_s=1.5), dict(timeout_s=True),
    dict(cpus=float("nan")), dict(cpus=float("inf")), dict(cpus="2"), dict(entrypoint="yes"), dict(network=0),
    dict(source_at=True),
):
    try:
        run(**{**dict(worker=W, image=I, command="ls"), **bad})
    except TypeError as error:
        print(error)
run(W, I, "last")
"""
    with task(one(tmp_path, body), "T.x") as running:
        # An empty list is JSON: the worker refuses it.
        assert running.asked()["spec"]["command"] == []
        running.answer(1)
        assert running.asked()["spec"]["command"] == "last"
        assert running.printed().split("\n") == [
            "command has to be a string for /bin/sh -c, or a list of strings to execute",
            "command has to be a string for /bin/sh -c, or a list of strings to execute",
            "command has to be a string for /bin/sh -c, or a list of strings to execute",
            "half a character (a lone surrogate) is no text: '\\udc80'",
            "half a character (a lone surrogate) is no text: '\\udc80'",
            "image has to be a string, not None",
            "worker has to be a string, not 1",
            "workdir has to be a string, not PosixPath('/srv')",
            "env has to map strings to strings, not 'A' to 1",
            "half a character (a lone surrogate) is no text: '\\udc80'",
            "timeout_s has to be a whole number, not 1.5",
            "timeout_s has to be a whole number, not True",
            "cpus has to be a number, not nan",
            "cpus has to be a number, not inf",
            "cpus has to be a number, not '2'",
            "entrypoint has to be True or False, not 'yes'",
            "network has to be a string, not 0",
            "source_at has to be a string, not True",
            "",
        ]


def test_any_other_exception_has_no_call(tmp_path: Path) -> None:
    pipedef = one(tmp_path, "try:\n    run(W, I, 'ls')\nexcept CommandFailed as e:\n    raise KeyError('x') from e")
    with task(pipedef, "T.x") as running:
        running.asked()
        running.answer(1, exit_code=1)
        raised = running.last()
        assert (raised["call"], raised["problem"]["error"]) == (None, "KeyError: 'x'")
        assert "CommandFailed: exit code 1 from: ls" in raised["problem"]["traceback"]
        assert "bettertest/_run.py" not in raised["problem"]["traceback"]


@pytest.mark.parametrize("statement", ["import sys; sys.exit(0)", "raise SystemExit", "raise KeyboardInterrupt"])
def test_leaving_python_is_no_end_of_a_task(tmp_path: Path, statement: str) -> None:
    with task(one(tmp_path, f"run(W, I, 'ls')\n{statement}"), "T.x") as running:
        assert running.pass_all() is None
        running.process._process.wait(PATIENCE_S)
        assert "ended the task's Python; a task ends by returning" in running.printed()


def test_the_stored_texts_are_executed_whatever_lies_on_disk(tmp_path: Path) -> None:
    files = {
        "pipedef.py": HEAD + "    def task_x(self):\n        import more.deep, bare.inner, sys\n"
        "        print(more.deep.SAYS, bare.inner.SAYS, sys.argv[0] == __file__)\n        more.deep.fail()\n"
        "import more.deep, bare.inner\n",
        "more/__init__.py": "",
        "more/deep.py": "SAYS = 'stored'\ndef fail():\n    raise ValueError('so it was')\n",
        "bare/inner.py": "SAYS = 'stored too'\n",
    }
    pipedef = write(tmp_path, dict(files))
    stored = discover(pipedef)["files"]
    for name in ("more/deep.py", "bare/inner.py", "more/__init__.py"):
        (tmp_path / name).unlink()
    (tmp_path / "bare").rmdir()
    write(tmp_path, {"pipedef.py": "1/0\n" * 30, "more/deep.py": "changed = 1\n" * 30})
    with task(pipedef, "T.x", stored) as running:
        raised = running.last()
        assert running.printed() == "stored stored too True\n"
        assert raised["problem"]["file"] == str(tmp_path / "more/deep.py")
        assert raised["problem"]["line"] == 3
        traceback = raised["problem"]["traceback"]
        assert "more.deep.fail()" in traceback and "raise ValueError('so it was')" in traceback


def test_a_module_that_was_not_stored_comes_from_disk(tmp_path: Path) -> None:
    pipedef = one(tmp_path, "import later\nprint(later.X)\nrun(W, I, 'ls')")
    write(tmp_path, {"later.py": "X = 'from disk'\n"})
    with task(pipedef, "T.x") as running:
        assert running.pass_all() == {"say": "returned"}
        assert running.printed() == "from disk\n"


def test_every_kind_of_task_is_called_as_it_wants(tmp_path: Path) -> None:
    text = """from bettertest import Stage
import functools
def logged(function):
    @functools.wraps(function)
    def wrapper(*args): return function(*args)
    return wrapper
def careless(function):
    def wrapper(*args): return function(*args)
    return wrapper
class T(Stage):
    name = "T"
    def __init__(self): self.made = "made"
    def task_plain(): print("plain")
    def task_self(self): print(self.made)
    @staticmethod
    def task_static(): print("static")
    @classmethod
    def task_class(cls): print(cls.name)
    @logged
    def task_logged(self): print("logged", self.made)
    @logged
    def task_logged_plain(): print("logged")
    @careless
    def task_careless(self): print("careless", self.made)
    task_partial = functools.partial(print, "partial")
class U(T):
    name = "U"
for n in (1, 2): setattr(U, f"task_{n}", lambda n=n: print(n))
"""
    pipedef = write(tmp_path, {"pipedef.py": text})
    for name, printed in {
        "T.plain": "plain",
        "T.self": "made",
        "U.static": "static",
        "U.class": "U",
        "T.logged": "logged made",
        "T.logged_plain": "logged",
        "T.careless": "careless made",
        "T.partial": "partial",
        "U.1": "1",
        "U.2": "2",
    }.items():
        with task(pipedef, name) as running:
            assert running.last() == {"say": "returned"}, name
            assert running.printed() == printed + "\n", name


def test_a_task_that_is_no_longer_declared(tmp_path: Path) -> None:
    with task(one(tmp_path, "pass"), "T.y") as running:
        assert running.last()["problem"]["error"] == "the pipedef no longer declares T.y"


def test_the_boss_is_gone_so_python_goes_even_where_it_is_busy(tmp_path: Path) -> None:
    for body in ("run(W, I, 'ls')\nwhile True: pass", "run(W, I, 'ls')\nrun(W, I, 'ls')"):
        with task(one(tmp_path, body), "T.x") as running:
            running.asked()
            running.answer(1)
            running.process._socket.shutdown(2)
            assert running.process._process.wait(PATIENCE_S) == -signal.SIGKILL


def test_children_of_the_pipedef_have_no_part_in_the_descriptor(tmp_path: Path) -> None:
    body = """
import os, subprocess
run(W, I, "first")
sleeper = subprocess.Popen(["sleep", "1000"], close_fds=False)
pid = os.fork()
if pid == 0:
    try:
        run(W, I, "from a fork")
    except BettertestError as error:
        print(error, flush=True)
    os.execvp("sleep", ["sleep", "1000"])
print(sleeper.pid, pid, flush=True)
"""
    with task(one(tmp_path, body), "T.x") as running:
        assert running.pass_all() == {"say": "returned"}
        # The descriptor closes although two children live on.
        assert running.last() is None
        # They belong to the group, which ends with the process.
        running.process.end()
        assert "run(...) was called in another process than the task's" in running.printed()


def test_lines_of_any_length(tmp_path: Path) -> None:
    with task(one(tmp_path, "r = run(W, I, 'x' * 5_000_000, check=False)\nprint(len(r.message))"), "T.x") as running:
        assert len(running.asked()["spec"]["command"]) == 5_000_000
        running.answer(1, exit_code=1, message="é" * 4_000_000)
        assert running.last() == {"say": "returned"}
        assert running.printed() == "4000000\n"


def test_clean_up_at_the_end_of_python_still_happens(tmp_path: Path) -> None:
    body = "import atexit\natexit.register(print, 'cleaned up')\nrun(W, I, 'ls')"
    with task(one(tmp_path, body), "T.x") as running:
        assert running.pass_all() == {"say": "returned"}
        assert running.process._process.wait(PATIENCE_S) == 0
        assert running.printed() == "cleaned up\n"


def test_a_killed_process_has_no_last_word(tmp_path: Path) -> None:
    with task(one(tmp_path, "run(W, I, 'ls')"), "T.x") as running:
        running.asked()
        os.kill(running.process._process.pid, signal.SIGKILL)
        assert running.last() is None


def test_a_module_that_only_a_task_imports_is_told_before_it_is_executed(tmp_path: Path) -> None:
    late = "print('executed')\nCOMMAND = 'x'\n"
    pipedef = write(
        tmp_path,
        {
            "pipedef.py": "from bettertest import Stage, run\nclass T(Stage):\n    def task_x():\n"
            "        import late\n        run('http://w', 'i', late.COMMAND)\n",
            "late.py": late,
        },
    )
    with task(pipedef, "T.x") as running:
        said = running.last()
        digest = hashlib.sha256(late.encode()).hexdigest()
        assert said == {"say": "imported", "path": str(tmp_path / "late.py"), "sha256": digest, "call": 1}
        assert running.printed() == ""
        running.record(said["call"])
        running.answer(running.asked()["call"])
        assert running.last() == {"say": "returned"}
        assert running.printed() == "executed\n"


def test_when_the_boss_is_gone_nothing_is_left(tmp_path: Path) -> None:
    text = (
        "import subprocess, pathlib\nfrom bettertest import Stage, run\nclass T(Stage):\n    def task_x():\n"
        "        child = subprocess.Popen(['sleep', '3600'])\n"
        "        pathlib.Path('child').write_text(str(child.pid))\n        run('http://w', 'i', 'x')\n"
    )
    pipedef = write(tmp_path, {"pipedef.py": text})
    with task(pipedef, "T.x") as running:
        running.asked()
        child = (tmp_path / "child").read_text()
        running.hang_up()
        deadline = time.monotonic() + PATIENCE_S
        while is_alive(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def is_alive(pid: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
