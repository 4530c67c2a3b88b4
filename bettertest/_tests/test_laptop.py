"""`python -m bettertest`, whole: a real process, real pipedef processes, a scripted worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from .boss import PATIENCE_S, write
from .scripted import QUEUED, STARTED, Connection, Request, Server, exited, output, server

ROOT = str(Path(__file__).parents[2])
HEAD = "from bettertest import *\n"


class Worker:
    """Does what the command says: `print TEXT`, `exit N`, `wait` (until it is cancelled), `fault`."""

    def __init__(self) -> None:
        self._cancelled: dict[str, threading.Event] = {}

    def __call__(self, request: Request, to: Connection) -> None:
        if request.token != "secret":
            return to.answer(401, {"error": "no", "hint": "no"})
        if request.method == "DELETE":
            self._of(request.path.rpartition("/")[2]).set()
            return to.answer(200, {})
        spec = json.loads(request.body)
        verb, _, rest = str(spec["command"]).partition(" ")
        if verb == "print":
            to.events(QUEUED, STARTED, output(rest + "\n"), exited(0))
        elif verb == "exit":
            to.events(QUEUED, STARTED, output("some output\r\n"), exited(int(rest)))
        elif verb == "fault":
            hint = "build it on this worker: docker build -t i ."
            errored = {"event": "errored", "reason": "image_not_found", "message": "no image", "hint": hint}
            to.events(QUEUED, {**errored, "took_ms": 0, "exit_code": None})
        elif verb == "refuse":
            to.answer(422, {"error": "image: has to be the name of an image", "hint": "mend it"})
        else:
            to.events(QUEUED, STARTED, output("waiting\n"), whole=False)
            self._of(spec["id"]).wait()
            said = {"event": "cancelled", "reason": "cancel_asked", "took_ms": 1, "exit_code": 143}
            to.chunk(f"id: 9\ndata: {json.dumps(said)}\n\n".encode())

    def release_all(self) -> None:
        for event in self._cancelled.values():
            event.set()

    def _of(self, step: str) -> threading.Event:
        return self._cancelled.setdefault(step, threading.Event())


@pytest.fixture
def worker() -> Iterator[Server]:
    script = Worker()
    with server(script) as running:
        try:
            yield running
        finally:
            script.release_all()


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    def lines_of(self, task: str) -> list[str]:
        prefix = f"[{task}] "
        return [line[len(prefix) :] for line in self.out.split("\n") if line.startswith(prefix)]

    @property
    def verdict(self) -> str:
        """The last line, without its time."""
        return self.out.strip().rpartition("\n")[2].rpartition(" in ")[0]


def start(*arguments: str) -> subprocess.Popen[str]:
    # A shell's background job ignores Ctrl-C, and so would what it starts; a handler of ours is not inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "bettertest", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(*arguments: str) -> Ended:
    process = start(*arguments)
    out, err = process.communicate(timeout=PATIENCE_S)
    return Ended(process.returncode, out, err)


def prepare(tmp_path: Path, worker: Server, text: str) -> tuple[str, ...]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/token").write_text("secret")
    pipedef = write(tmp_path, {"pipedef.py": f"{HEAD}W, I = {worker.url!r}, 'i'\n{text}"})
    return "--data-dir", str(tmp_path / "data"), pipedef


def test_all_pass(tmp_path: Path, worker: Server) -> None:
    text = """
class First(Stage):
    def task_a():
        run(W, I, "print hello")
        print("from python")
    def task_b(): run(W, I, "print \\x1b]0;title\\x07x\\x1b[31mred\\x1b[0m")
class Second(Stage):
    def task_c(): run(W, I, "print done")
"""
    ended = call(*prepare(tmp_path, worker, text))
    assert ended.code == 0 and ended.err == "", ended
    assert ended.lines_of("First.a")[:2] == ["hello", "from python"]
    assert ended.lines_of("First.b")[0] == "xred"
    assert ended.verdict == "passed"
    ids = [json.loads(request.body)["id"] for request in worker.requests]
    assert len(set(ids)) == 3 and len({one.partition("-")[0] for one in ids}) == 1


def test_a_failure_ends_the_run_but_not_its_siblings(tmp_path: Path, worker: Server) -> None:
    text = """
class First(Stage):
    def task_bad(): run(W, I, "exit 3")
    def task_good(): run(W, I, "print fine")
class Second(Stage):
    def task_never(): run(W, I, "print never")
class Last(Stage):
    always = True
    def task_always(): run(W, I, "print cleaning up")
"""
    options = prepare(tmp_path, worker, text)
    ended = call(*options)
    assert ended.code == 1, ended
    bad = ended.lines_of("First.bad")
    assert bad[0] == "some output" and bad[1].startswith("failed: command_failed in ")
    assert bad[2:] == ["CommandFailed: exit code 3 from: exit 3 (pipedef.py:5)"]
    assert "never" in ended.out and "cleaning up" in ended.out and not ended.lines_of("Second.never")
    rows = [line.split()[:2] for line in ended.out.split("\n") if line.startswith("  ")]
    assert rows == [
        ["failed", "First.bad"],
        ["passed", "First.good"],
        ["skipped", "Second.never"],
        ["passed", "Last.always"],
    ]
    assert ended.verdict == "failed: command_failed"


@pytest.mark.parametrize(
    "body, code, verdict",
    [
        ("pass", 3, "errored: ran_nothing"),
        ("import sys; run(W, I, 'exit 0'); sys.exit(0)", 3, "errored: runner_died"),
        ("import os; run(W, I, 'exit 0'); os._exit(0)", 3, "errored: runner_died"),
        ("1/0", 1, "failed: raised"),
        ("run(W, I, 'refuse')", 1, "failed: spec_refused"),
        ("run(W, I, 'exit 0', source_at='/app')", 1, "failed: spec_refused"),
        ("build(W, I)", 1, "failed: spec_refused"),
        ("build(W, I, context=7)", 1, "failed: raised"),
        ("run(W, I, 'exit 1', check=False)", 0, "passed"),
        ("run(W, I, 'fault')", 3, "errored: image_not_found"),
        ("try: run(W, I, 'fault')\n        except EngineFault: pass", 3, "errored: image_not_found"),
        ("try: run(W, I, 'exit 1')\n        except CommandFailed: pass", 0, "passed"),
        ("import threading; threading.Thread(target=run, args=(W, I, 'wait'), daemon=True).start()\n"
         "        run(W, I, 'exit 1')", 1, "failed: command_failed"),
    ],
)
def test_verdicts(tmp_path: Path, worker: Server, body: str, code: int, verdict: str) -> None:
    text = f"class T(Stage):\n    def task_x():\n        {body}\n"
    ended = call(*prepare(tmp_path, worker, text))
    assert (ended.code, ended.verdict) == (code, verdict), ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_and_leaves_nothing(tmp_path: Path, worker: Server, number: int) -> None:
    text = """
class T(Stage):
    def task_x(): run(W, I, "wait")
class Never(Stage):
    always = True
    def task_y(): run(W, I, "print y")
"""
    process = start(*prepare(tmp_path, worker, text))
    assert process.stdout is not None
    assert process.stdout.readline() == "[T.x] waiting\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (130, ""), out
    assert [request.method for request in worker.requests] == ["POST", "DELETE"]
    assert "cancelled: cancel_asked in " in out and "skipped    Never.y" in out


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    released = threading.Event()

    def stubborn(request: Request, to: Connection) -> None:
        if request.method == "POST":
            to.events(QUEUED, STARTED, output("waiting\n"), whole=False)
        released.wait()

    with server(stubborn) as worker:
        process = start(*prepare(tmp_path, worker, "class T(Stage):\n    def task_x(): run(W, I, 'wait')\n"))
        assert process.stdout is not None
        assert process.stdout.readline() == "[T.x] waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cancelling; press Ctrl-C again to leave at once\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        process.communicate()
        released.set()


def test_a_refused_token_is_a_wrong_set_up(tmp_path: Path, worker: Server) -> None:
    options = prepare(tmp_path, worker, "class T(Stage):\n    def task_x(): run(W, I, 'exit 0')\n")
    (tmp_path / "data/token").write_text("wrong")
    ended = call(*options)
    assert (ended.code, ended.verdict) == (2, "errored: token_refused")
    assert any(line.startswith("hint: ") and "workers.toml" in line for line in ended.lines_of("T.x"))


def test_a_list_of_stages_and_tasks(tmp_path: Path) -> None:
    text = "class A(Stage):\n    def task_x(): pass\n    def task_y(): pass\nclass B(A):\n    always = True\n"
    pipedef = write(tmp_path, {".bettertest/pipedef.py": HEAD + text})
    pipedef = pipedef.replace("pipedef.py", ".bettertest/pipedef.py")
    assert call("--list", pipedef) == Ended(0, "A\n  x\n  y\nB  (always)\n  x\n  y\n", "")


USAGE = "hint: python -m bettertest [--data-dir DIR] [--artifacts DIR] [--list] PIPEDEF\n"


@pytest.mark.parametrize(
    "arguments, error",
    [
        ([], "no pipedef was named\n" + USAGE),
        (["--verbose", "x.py"], "there is no option --verbose\n" + USAGE),
        (["--data-dir"], "--data-dir needs a folder\n" + USAGE),
        (["a.py", "b.py"], "two pipedefs, a.py and b.py: one run is of one\n" + USAGE),
        (["/no/pipedef.py"],
         "there is no pipedef at /no/pipedef.py\nhint: mend the path, or write the file there\n"),
        (["/"], "/ is a folder\nhint: name the pipedef in it: a Python file\n"),
    ],
)
def test_wrong_arguments_are_two_lines(arguments: list[str], error: str) -> None:
    assert call(*arguments) == Ended(2, "", error)


def test_a_broken_pipedef_is_told_with_its_place(tmp_path: Path) -> None:
    pipedef = write(tmp_path, {"pipedef.py": HEAD + "class A(Stage): pass\n"})
    place = f"{os.path.relpath(pipedef, ROOT)}:2: "
    hint = "a task is a method whose name begins with task_; a stage that is only a base is named _A"
    assert call(pipedef) == Ended(2, "", f"{place}the stage A has no task\nhint: {hint}\n")
    write(tmp_path, {"pipedef.py": HEAD + "1/0\n"})
    ended = call(pipedef)
    assert ended.code == 2 and ended.err.startswith("Traceback (most recent call last):\n  File ")
    assert ended.err.split("\n")[-3:-1] == [
        f"{place}ZeroDivisionError: division by zero",
        "hint: mend line 2 of pipedef.py: it is executed to learn which stages there are",
    ]


def test_a_pipedef_that_ends_python(tmp_path: Path) -> None:
    pipedef = write(tmp_path, {"pipedef.py": "import os\nos._exit(5)\n"})
    error = f"Python ended with exit code 5 while it read {pipedef}\nhint: try it: python3 {pipedef}\n"
    assert call(pipedef) == Ended(2, "", error)


def test_an_endless_loop_at_import_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bettertest import __main__, _laptop

    monkeypatch.setattr(_laptop, "DISCOVERY_S", 0.3)
    pipedef = write(tmp_path, {"pipedef.py": "while True: pass\n"})
    assert __main__.main([pipedef]) == 2
    assert capsys.readouterr().err == (
        f"{pipedef} did not end within 0 s of being read\n"
        "hint: let it only declare stages; what takes time or waits belongs in a task\n"
    )


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    from bettertest import __main__

    assert __main__.main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("python -m bettertest [--data-dir DIR]")
