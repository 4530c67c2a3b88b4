"""`python -m bettertest` against the real worker, on its fake engine, which does what the command says."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .boss import PATIENCE_S, write
from .test_laptop import HEAD, ROOT, call, start

BINARY = Path(ROOT, "target/release/bettertest")


class Worker:
    def __init__(self, data_dir: str) -> None:
        self.data_dir = data_dir
        command = [str(BINARY), "--worker", "--engine", "fake", "--listen", "127.0.0.1:0", "--data-dir", data_dir]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        too_long = threading.Timer(PATIENCE_S, self._process.kill)
        too_long.start()
        found = re.match(r"worker: (http://\S+)", self._process.stdout.readline())
        too_long.cancel()
        assert found, "the worker did not say where it listens"
        self.url = found.group(1)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    assert BINARY.exists(), f"there is no {BINARY}: make"
    with tempfile.TemporaryDirectory() as data_dir:
        running = Worker(data_dir)
        try:
            yield running
        finally:
            running.stop()


def pipedef(tmp_path: Path, worker: Worker, body: str) -> tuple[str, str, str]:
    lines = "".join(f"        {line}\n" for line in body.strip().split("\n"))
    text = f"{HEAD}W, I = {worker.url!r}, 'image'\nclass T(Stage):\n    def task_x():\n{lines}"
    return "--data-dir", worker.data_dir, write(tmp_path, {"pipedef.py": text})


def test_output_and_exit_codes_arrive(tmp_path: Path, worker: Worker) -> None:
    body = """
assert run(W, I, "echo hello; eprint trouble; printf 'two\\\\nlines'").passed
assert [run(W, I, f"exit {code}", check=False).exit_code for code in (0, 1, 77, 137, 255)] == [0, 1, 77, 137, 255]
assert run(W, I, ["echo", "a list"]).took_ms >= 0
"""
    ended = call(*pipedef(tmp_path, worker, body))
    assert (ended.code, ended.verdict) == (0, "passed"), ended
    assert ended.lines_of("T.x")[:-1] == ["hello", "trouble", "two", "lines", "a list"]


def test_many_bytes(tmp_path: Path, worker: Worker) -> None:
    ended = call(*pipedef(tmp_path, worker, "run(W, I, 'flood 1000000')"))
    assert ended.verdict == "passed"
    assert len("\n".join(ended.lines_of("T.x")[:-1])) == 1_000_000


@pytest.mark.parametrize(
    "body, code, verdict",
    [
        ("run(W, I, 'false')", 1, "failed: command_failed"),
        ("run(W, I, 'sleep 1000', timeout_s=1)", 1, "timed_out: step_timeout"),
        ("run(W, 'fake-missing', 'true')", 3, "errored: image_not_found"),
        ("run(W, I, 'lose')", 3, "errored: container_lost"),
        ("run(W, I, 'true', timeout_s=0)", 1, "failed: spec_refused"),
        ("run(W, I, '')", 1, "failed: spec_refused"),
        ("run(W, I, 'true', output_cap_bytes=2**40)", 1, "failed: spec_refused"),
    ],
)
def test_verdicts(tmp_path: Path, worker: Worker, body: str, code: int, verdict: str) -> None:
    ended = call(*pipedef(tmp_path, worker, body))
    assert (ended.code, ended.verdict) == (code, verdict), ended


def test_ctrl_c_cancels_the_step(tmp_path: Path, worker: Worker) -> None:
    process = start(*pipedef(tmp_path, worker, "run(W, I, 'echo begun; sleep 1000')"))
    assert process.stdout is not None
    assert process.stdout.readline() == "[T.x] begun\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (130, ""), out


def test_a_wrong_token(tmp_path: Path, worker: Worker) -> None:
    _, _, path = pipedef(tmp_path, worker, "run(W, I, 'true')")
    (tmp_path / "token").write_text("wrong")
    ended = call("--data-dir", str(tmp_path), path)
    assert (ended.code, ended.verdict) == (2, "errored: token_refused")


def test_files_that_are_kept_are_named_or_fetched(tmp_path: Path, worker: Worker) -> None:
    body = """
run(W, I, "printf one > r/x.txt; printf two > y.xml", artifacts=["r/**", "*.xml"], workdir="/app")
run(W, I, "printf three > y.xml; exit 1", artifacts=["*.xml"], workdir="/app", check=False)
run(W, I, "true", junit="none.xml")
"""
    arguments = pipedef(tmp_path, worker, body)
    missing = "-- artifacts: no JUnit report was found: none.xml"
    ended = call(*arguments)
    assert (ended.code, ended.verdict) == (0, "passed"), ended
    told = [line for line in ended.lines_of("T.x") if line.startswith("-- ")]
    hint = "-- the worker has them for now; to have them here: python -m bettertest --artifacts FOLDER ..."
    assert told == [
        "-- artifact: r/x.txt (3 bytes)",
        "-- artifact: y.xml (3 bytes)",
        hint,
        "-- artifact: y.xml (5 bytes)",
        hint,
        missing,
    ]

    out = tmp_path / "out"
    (out / "T.x/step-2").mkdir(parents=True)
    (out / "T.x/step-2/y.xml").write_text("mine")
    ended = call("--artifacts", str(out), *arguments)
    assert (ended.code, ended.verdict) == (0, "passed"), ended
    told = [line for line in ended.lines_of("T.x") if line.startswith("-- ")]
    there = f"{out}/T.x/step-2/y.xml"
    assert told == [
        f"-- artifact: {out}/T.x/r/x.txt",
        f"-- artifact: {out}/T.x/y.xml",
        f"-- artifact y.xml is not fetched: {there} is there, and nothing is written over",
        missing,
    ]
    kept = {str(path.relative_to(out / "T.x")): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert kept == {"r/x.txt": "one", "y.xml": "two", "step-2/y.xml": "mine"}
