"""Where the command of a `run(...)` is pytest and nothing else, it is asked for a report of its tests: what it prints
does not name them all, nor say how long each took.

By two more options, so that whoever sees the command sees them. Not by PYTEST_ADDOPTS, which each pytest that a test
starts would inherit. A command that may be anything else, or that speaks of such a report or of no test, stays as its
author wrote it. What the command is run in, and what comes of the report, is not known here.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Optional, Union

    Words = list[tuple[str, int]]

# `common` knows it too: its folder is made before the command starts, so that whoever that runs as can write there.
PATH = "/tmp/.bettertest/pytest.xml"
# The older form of a report, which names the files of tests.
OPTIONS = [f"--junitxml={PATH}", "-o", "junit_family=xunit1"]

# Nobody writes a longer one by hand.
_LONGEST = 16 * 1024
# With these pytest runs no test.
_RUN_NOTHING = (
    "--cache-show --co --collect-only --collectonly --fixtures --fixtures-per-test --funcargs --help --markers"
    " --setup-plan --version -V -h"
).split()
# Of these a shell makes more than one command, or words that nobody knows yet.
_SPECIAL = "$`;&|<>()\n\r\v\f\0"


def asked_for(
    command: Union[str, list[str]], env: Optional[Mapping[str, str]], artifacts: Optional[Sequence[str]]
) -> Optional[Union[str, list[str]]]:
    """The command that also writes the report, or None where it is not to be asked for one."""
    # A report that the settings of the project name would not be written.
    if any(pattern.endswith(".xml") for pattern in artifacts or ()) or "junit" in (env or {}).get("PYTEST_ADDOPTS", ""):
        return None
    if isinstance(command, str):
        command = command.strip()
        # Each letter is looked at.
        if "test" not in command or len(command) > _LONGEST:
            return None
    words = _words_of_shell(command) if isinstance(command, str) else [(word, at) for at, word in enumerate(command)]
    first = _after_program(words, isinstance(command, str)) if words else None
    if words is None or first is None:
        return None
    arguments = words[first:]
    if any(_is_said(word) for word, _ in words[:first]) or any(_forbids(word) for word, _ in arguments):
        return None
    # What stands behind `--` is no option.
    end = next((at for word, at in arguments if word == "--"), len(command))
    if isinstance(command, str):
        return " ".join(part for part in (command[:end].rstrip(" \t"), *OPTIONS, command[end:]) if part)
    return [*command[:end], *OPTIONS, *command[end:]]


def without(text: str) -> str:
    """A command as its author wrote it, where it is told to a person."""
    return text.replace(" " + " ".join(OPTIONS), "")


def _after_program(words: Words, is_shell: bool) -> Optional[int]:
    """Where the arguments of pytest begin, where it is what the command starts."""
    at = 0
    while is_shell and at < len(words) and _is_assignment(words[at][0]):
        at += 1
    names = [word.rpartition("/")[2] for word, _ in words[at : at + 3]]
    if names[:1] in (["pytest"], ["py.test"]):
        return at + 1
    version = names[0][len("python") :] if names and names[0].startswith("python") else "no"
    is_python = version in ("", "2", "3") or (version.startswith("3.") and version[2:].isdigit())
    return at + 3 if is_python and [word for word, _ in words[at + 1 : at + 3]] == ["-m", "pytest"] else None


def _is_assignment(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier() and name.isascii()


def _is_said(word: str) -> bool:
    return _is_assignment(word) and "junit" in word


def _forbids(word: str) -> bool:
    # Arguments may stand in a file, too.
    return (
        word.partition("=")[0] in _RUN_NOTHING
        or word.startswith("@")
        or (word.startswith(("-", "no:", "junit_")) and "junit" in word)
    )


def _words_of_shell(text: str) -> Optional[Words]:
    """The words of one simple command, each with where it begins. None: it may be anything else."""
    words, at = [], 0
    while at < len(text):
        if text[at] in " \t":
            at += 1
            continue
        begin, word = at, ""
        while at < len(text) and text[at] not in " \t":
            letter = text[at]
            if letter in "'\"":
                end = text.find(letter, at + 1)
                inner = text[at + 1 : end]
                # Between such marks a shell puts in what it knows.
                if end < 0 or (letter == '"' and any(special in inner for special in "$`\\")):
                    return None
                word, at = word + inner, end + 1
            elif letter in _SPECIAL or (letter == "#" and at == begin):
                return None
            elif letter == "\\":
                if text[at + 1 : at + 2] in ("", "\n"):
                    return None
                word, at = word + text[at + 1], at + 2
            else:
                word, at = word + letter, at + 1
        words.append((word, begin))
    return words
