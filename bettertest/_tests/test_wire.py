"""The samples of common/wire, which the Rust tests read too."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from bettertest import _build, _child, _run
from bettertest._errors import CommandFailed, SpecRefused
from bettertest._worker import answer_of, output_of

from .boss import discover, task, write

WIRE = Path(__file__).parents[2] / "common/wire"


def sample(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((WIRE / f"{name}.json").read_text("utf-8"))
    return read


def keys(value: Any) -> Any:
    """The shape of a message: its keys, and the types of what they hold."""
    if isinstance(value, dict):
        return {key: keys(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [keys(value[0])] if value else []
    return type(value).__name__


def test_every_event_of_a_step_is_understood() -> None:
    ends = {}
    for path in sorted(WIRE.glob("step_*.json")):
        if path.name.startswith("step_spec_"):
            continue
        said = sample(path.stem)
        output_of(said)
        answer = answer_of(said)
        if answer is not None:
            ends[path.stem] = (answer["outcome"], answer["reason"], answer["exit_code"])
    assert ends == {
        "step_cancelled": ("cancelled", "cancel_asked", None),
        "step_errored": ("errored", "image_not_found", None),
        "step_exited": ("failed", "command_failed", 1),
        "step_exited_build": ("passed", None, 0),
        "step_exited_build_failed": ("failed", "command_failed", 2),
        "step_timed_out": ("timed_out", "step_timeout", 143),
    }
    assert output_of(sample("step_output_base64")) == b"\xff\xfe\0"[:3]
    assert output_of(sample("step_output_text")) == sample("step_output_text")["text"].encode()
    assert output_of(sample("step_gap")) == "output got lost here"
    assert output_of(sample("step_artifacts")) == "artifacts: 1 is larger than 64 MiB: core"


def test_an_end_becomes_the_result_of_the_samples() -> None:
    answer = answer_of(sample("step_exited"))
    assert answer is not None
    assert {**answer, "call": 1} == sample("descriptor_step_result")


def test_run_asks_as_the_samples_do_and_takes_their_answers() -> None:
    asked: list[Any] = []

    def ask(worker: str, spec: dict[str, Any]) -> dict[str, Any]:
        asked.append({"say": "step_asked", "call": 1, "worker": worker, "spec": spec})
        return sample("descriptor_step_result" if len(asked) == 1 else "descriptor_refused")

    full = sample("step_spec_full")
    _run.drive(ask)
    try:
        _run.run("http://localhost:9009", "myproject-test", "pytest -xvs test/test_models.py")
    except CommandFailed as error:
        assert error._call == 1 and error.result is not None and error.result.took_ms == 1234
    options = {name: value for name, value in full.items() if name not in ("id", "image_digest")}
    try:
        _run.run("http://localhost:9009", **options)
    except SpecRefused as error:
        assert error._call == 2 and str(error) == sample("descriptor_refused")["problem"]["error"]
        assert error.hint == "change the call of run(...) in the pipedef"
    with suppress(SpecRefused):
        _run.run("http://localhost:9009", "myproject-test", "pytest", source_at="/app", junit=[])
    with suppress(SpecRefused):
        _build.build("http://localhost:9009", "myproject-test")
    with suppress(SpecRefused):
        _build.build("http://localhost:9009", "myproject-test", rebuild_on=("pyproject.toml", "**/requirements*.txt"))
    with suppress(SpecRefused):
        _run.run("http://localhost:9009", **sample("step_spec_only_tests"), junit=[])
    assert asked[0] == sample("descriptor_step_asked")
    assert asked[2] == sample("descriptor_step_asked_source")
    assert asked[3] == sample("descriptor_step_asked_build")
    assert asked[4] == sample("descriptor_step_asked_build_rebuild_on")
    assert asked[1]["spec"] == options
    assert asked[5]["spec"] == sample("step_spec_only_tests")


def test_the_messages_have_the_shape_of_the_samples(tmp_path: Path) -> None:
    text = "from bettertest import *\nW = 'http://a'\nclass T(Stage):\n    def task_x(): run(W, 'i', 'pytest')\n"
    pipedef = write(tmp_path, {"pipedef.py": text})
    discovered, wanted = discover(pipedef), sample("descriptor_discovered")
    discovered["files"] = {"file": discovered["files"][pipedef]}
    wanted["files"] = {"file": ""}
    assert keys(discovered) == keys(wanted)
    with task(pipedef, "T.x") as running:
        assert keys(running.asked()) == keys(sample("descriptor_step_asked"))
        running.answer(1, exit_code=1)
        assert keys(running.last()) == keys(sample("descriptor_raised"))
    with task(pipedef, "T.x") as running:
        assert running.pass_all() == sample("descriptor_returned")
    write(tmp_path, {"pipedef.py": "class\n"})
    assert keys(discover(pipedef)) == keys(sample("descriptor_broken"))


def test_the_boss_starts_python_as_we_do() -> None:
    """Its own lines may say more, but they do what ours do, in this order."""
    theirs = (WIRE.parents[1] / "server/src/boss/pipedef.rs").read_text("utf-8")
    at = 0
    for statement in _child.BOOT.split("; "):
        at = theirs.index(statement, at)
