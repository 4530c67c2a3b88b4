"""`agents/python-api.md` says what the docstrings say, and the pipedefs of all texts do what they are meant to."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from .boss import write
from .scripted import QUEUED, STARTED, Connection, Request, exited, server
from .test_laptop import ROOT, call

FILE = Path(ROOT, "agents/python-api.md")
TEXTS = {"agents/python-api.md": 5, "agents/skill.md": 1, "README.md": 1}


def examples_in(text: str) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```$", Path(ROOT, text).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [example for example in found if "import " in example]


EXAMPLES = [example for text in TEXTS for example in examples_in(text)]
NOT_PASSED = {
    "grep -rn FIXME src": exited(1),
    "./myproject --serve": {"event": "timed_out", "took_ms": 60000, "exit_code": None, "message": None, "hint": None},
}


def test_it_is_made_from_the_docstrings_of_today() -> None:
    spec = importlib.util.spec_from_file_location("python_api", Path(ROOT, "agents/python_api.py"))
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert FILE.read_text("utf-8") == made.render(), "make it again: python3 agents/python_api.py"


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_passes_or_needs_a_boss(tmp_path: Path, example: str) -> None:
    asked: list[str] = []

    def worker(request: Request, to: Connection) -> None:
        command = json.loads(request.body)["command"]
        asked.append(command if isinstance(command, str) else " ".join(command))
        to.events(QUEUED, STARTED, NOT_PASSED.get(asked[-1], exited(0)))

    (tmp_path / "token").write_text("secret")
    with server(worker) as running:
        assert example.count('"http://localhost:9009"') == 1
        text = example.replace("http://localhost:9009", running.url)
        ended = call("--data-dir", str(tmp_path), write(tmp_path, {"pipedef.py": text}))
    if "build(" in example:
        assert (ended.code, ended.verdict) == (1, "failed: spec_refused"), ended
        return
    assert (ended.code, ended.verdict) == (0, "passed"), ended
    # Each `run(...)` of the example was reached; the one in a loop twice.
    assert len(asked) == example.count("run(") + example.count("for python in"), asked


def test_there_are_examples() -> None:
    assert {text: len(examples_in(text)) for text in TEXTS} == TEXTS
