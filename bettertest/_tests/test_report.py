"""Which commands are asked for a report of their tests, and what then runs: judged by a shell and a pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bettertest import CommandFailed, _report, _run, run

OPTIONS = "--junitxml=/tmp/.bettertest/pytest.xml -o junit_family=xunit1"


def spec_of(command: Any, **options: Any) -> dict[str, Any]:
    specs: list[dict[str, Any]] = []

    def ask(worker: str, spec: dict[str, Any]) -> dict[str, Any]:
        specs.append(spec)
        return {**ENDED, "outcome": "passed", "reason": None, "exit_code": 0}

    before = _run._ask
    _run.drive(ask)
    try:
        run("http://localhost:9009", "x", command, **options)
    finally:
        _run._ask = before
    return specs[0]


ENDED = {"answer": "step_result", "call": 1, "oom": False, "took_ms": 1, "message": None, "hint": None}


@pytest.mark.parametrize(
    "command",
    [
        "pytest",
        "pytest -xvs test/test_models.py",
        "py.test tests",
        "/opt/venv/bin/pytest -n 4",
        "python -m pytest -q",
        "python3 -m pytest",
        ".venv/bin/python3.12 -m pytest -k 'a or b;c'",
        'A=1 B="x y" pytest -k "not slow"',
        "pytest 'tests/test_a.py::test_p[a|b]' tests/test_b.py::test_q[1-*]",
        r"pytest a\ b\;c",
        "pytest --cov --color=yes --confcutdir=. -p no:cacheprovider -v {tests}",
        "pytest tests/test_junit.py",
    ],
)
def test_pytest_alone_is_asked(command: str) -> None:
    assert _report.asked_for(command, None, None) == f"{command} {OPTIONS}"
    spec = spec_of(f"\n {command}\n", env={"A": "1"}, artifacts=["htmlcov/**"])
    assert (spec["command"], spec["junit"]) == (f"{command} {OPTIONS}", [_report.PATH])
    assert _report.without(spec["command"]) == command


@pytest.mark.parametrize(
    "command",
    [
        "",
        "pytest; true",
        "pytest && echo x",
        "pytest | tee out",
        "pytest > out",
        "pytest &",
        "(pytest)",
        "pytest $ARGUMENTS",
        'pytest "$ARGUMENTS"',
        "pytest `cat args`",
        "pytest\necho x",
        "pytest -q # all",
        "pytest 'open",
        "pytest \\",
        "pytest @arguments",
        "pytest --junitxml=own.xml",
        "pytest --junit-xml own.xml",
        "pytest -p no:junitxml",
        "pytest -pno:junitxml",
        "pytest -o junit_family=xunit2",
        "PYTEST_ADDOPTS=--junitxml=own.xml pytest",
        "pytest --collect-only -q",
        "pytest --co",
        "pytest --fixtures",
        "pytest --version",
        "pytest -h",
        "pytest-3 -q",
        "python -m unittest",
        "python -mpytest",
        "python test.py -m pytest",
        "pythonic -m pytest",
        "sh -c pytest",
        "cd x && pytest",
        "echo pytest",
        "A=1",
    ],
)
def test_what_may_be_anything_else_stays_as_it_is(command: str) -> None:
    assert _report.asked_for(command, None, None) is None


def test_an_author_has_the_last_word() -> None:
    command = "pytest -q"
    given: list[dict[str, Any]] = [
        {"junit": []},
        {"artifacts": ["report.xml"]},
        {"env": {"PYTEST_ADDOPTS": "--junitxml=own.xml"}},
    ]
    for options in given:
        spec = spec_of(command, **options)
        assert spec["command"] == command and "junit" not in spec, options
    own = spec_of(command, junit="own.xml")
    assert (own["command"], own["junit"]) == (command, ["own.xml"])


def test_the_command_for_failed_tests_is_asked_likewise() -> None:
    spec = spec_of("pytest -q", only_tests="pytest -v {tests}")
    assert spec["only_tests"] == f"pytest -v {{tests}} {OPTIONS}"
    assert spec_of("pytest -q", only_tests="make some T={tests}")["only_tests"] == "make some T={tests}"
    assert spec_of("pytest -q", only_tests="pytest {tests}", junit=[])["only_tests"] == "pytest {tests}"


def test_a_list_is_taken_word_by_word() -> None:
    words = ["python3", "-m", "pytest", "a;b", "$x", "--", "-odd.py"]
    spec = spec_of(words)
    assert spec["command"] == [*words[:5], *OPTIONS.split(), *words[5:]]
    assert words == ["python3", "-m", "pytest", "a;b", "$x", "--", "-odd.py"]
    assert spec_of(["A=1", "pytest"])["command"] == ["A=1", "pytest"]
    assert spec_of(["sh", "-c", "pytest"])["command"] == ["sh", "-c", "pytest"]


@pytest.mark.parametrize("command", ["pytest -q -- 'a b' c", "pytest -k '--' --  x", "pytest --"])
def test_options_stand_before_the_end_of_options(command: str) -> None:
    asked = _report.asked_for(command, None, None)
    assert isinstance(asked, str)
    words = subprocess.check_output(["sh", "-c", f"printf '%s\\n' {asked}"], text=True).splitlines()
    plain = subprocess.check_output(["sh", "-c", f"printf '%s\\n' {command}"], text=True).splitlines()
    at = words.index(OPTIONS.split()[0])
    assert words[at + 3] == "--" or words[at + 3 :] == []
    assert words[:at] + words[at + 3 :] == plain


def test_what_failed_is_told_in_its_authors_words() -> None:
    before = _run._ask
    _run.drive(lambda *_: {**ENDED, "outcome": "failed", "reason": "command_failed", "exit_code": 1})
    try:
        with pytest.raises(CommandFailed, match="^exit code 1 from: pytest -q tests$"):
            run("http://localhost:9009", "x", "pytest -q tests")
    finally:
        _run._ask = before


def test_a_real_pytest_takes_the_options_whatever_its_settings_say(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_a(record_property):\n    record_property('a', 1)\n")
    report = tmp_path / "made" / "report.xml"

    def pytested(*options: str) -> int:
        command = _report.asked_for([sys.executable, "-m", "pytest", "-q", *options, "test_a.py"], None, None)
        assert isinstance(command, list)
        words = [word.replace(_report.PATH, str(report)) for word in command]
        return subprocess.run(words, cwd=tmp_path, stdout=subprocess.DEVNULL, check=False).returncode

    # Of the newer form of a report it would warn here.
    assert pytested("-W", "error") == 0
    assert 'file="test_a.py"' in report.read_text("utf-8")
    report.unlink()
    for settings in ("-p no:junitxml", "--strict-config --strict-markers"):
        (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = {settings}\njunit_family = xunit2\n")
        assert pytested() == 0, settings
