"""`agents/api.md`: what it tells people to type is typed, at a real boss and a real worker with its fake engine."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .boss import PATIENCE_S, write
from .test_laptop import ROOT
from .test_worker import BINARY, Worker

PIPEDEF = """
from bettertest import Stage, run

WORKER = {worker!r}
IMAGE = "image"

class TestUnit(Stage):
    def task_models(self):
        run(WORKER, IMAGE, "print models are broken; print test_a.py::test_x FAILED; print 1 failed in 0.1s; "
            "printf page > report/index.html; exit 1", artifacts=["report/**"])
    def task_views(self): run(WORKER, IMAGE, "print views are fine")

class TestSlow(Stage):
    def task_everything(self): run(WORKER, IMAGE, "sleep 600")
"""

#: What the script has to say, in this order.
SAID = [
    '"event":"run_started"',
    '"event":"run_ended","outcome":"failed"',
    '\n"headline":"failed: command_failed"\nmodels are broken\ntest_a.py::test_x FAILED\n',
    '\n"counts":{"passed":0,"failed":1,"skipped":0}\n"first_failed":{"run":1,',
    '\n"path":"report/index.html","size_bytes":4\npage"headline":"cancelled: cancel_asked (1 of 3 tasks)"\n',
    '{"event":"output","stream":"stdout","text":"hi\\n"}',
    '"exit_code":0',
]


@contextmanager
def boss(pipedef: str, data_dir: str) -> Iterator[str]:
    """A boss of that pipedef; gives its address."""
    command = [str(BINARY), "--boss", "--pipedef", pipedef, "--listen", "127.0.0.1:0", "--data-dir", data_dir]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    too_long = threading.Timer(PATIENCE_S, process.kill)
    too_long.start()
    found = re.match(r"the page: (http://[^/]+)", process.stdout.readline())
    too_long.cancel()
    try:
        assert found, "the boss did not say where it listens"
        yield found.group(1)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def test_the_curl_client_in_the_docs_works(tmp_path: Path) -> None:
    doc = Path(ROOT, "agents/api.md").read_text("utf-8")
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", doc, re.DOTALL | re.MULTILINE))
    with tempfile.TemporaryDirectory() as data_dir:
        worker = Worker(data_dir)
        try:
            with boss(write(tmp_path, {"pipedef.py": PIPEDEF.format(worker=worker.url)}), data_dir) as address:
                for there, here in [
                    ("http://127.0.0.1:9001", address),
                    ("http://127.0.0.1:9009", worker.url),
                    ("~/.local/share/bettertest/token", f"{data_dir}/token"),
                ]:
                    assert script.count(there) == 1, there
                    script = script.replace(there, here)
                typed = subprocess.run(
                    ["sh", "-euc", script], capture_output=True, text=True, timeout=3 * PATIENCE_S
                )
        finally:
            worker.stop()
    said = typed.stdout
    assert typed.returncode == 0 and not typed.stderr, said + typed.stderr
    at = 0
    for part in SAID:
        found = said.find(part, at)
        assert found >= 0, f"{part!r} does not come, or not in its turn:\n{said}"
        at = found + len(part) - 1
