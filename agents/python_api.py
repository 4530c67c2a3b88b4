"""Writes agents/python-api.md from the docstrings of the Python library: `python3 agents/python_api.py`.

A docstring has paragraphs; lines of `name  meaning`, which become a table with the types that the code has; and
indented text, which is an example where it imports something, and is shown as it is where it does not.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Callable, Union

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.dont_write_bytecode = True

import bettertest  # noqa: E402
from bettertest import _errors  # noqa: E402

FILE = ROOT / "agents/python-api.md"

HEAD = """# The Python library

What a pipedef may use. Made from the docstrings by `python3 agents/python_api.py`; a test holds that it is so, and executes
the examples.
"""


def render() -> str:
    classes = [getattr(bettertest, name) for name in bettertest.__all__ if name not in ("run", "build")]
    errors = [one for one in classes if issubclass(one, Exception)]
    parts = [HEAD]
    for function in (bettertest.run, bettertest.build):
        parts += [f"## {function.__name__}\n", f"```python\n{signature(function)}\n```\n"]
        parts += described(function, {name: one.annotation for name, one in parameters(function).items()})
    for one in (bettertest.StepResult, bettertest.Stage):
        parts += [f"## {one.__name__}\n", *described(one, attributes(one))]
    parts += ["## Errors\n", *described(_errors, {})]
    for one in errors:
        parts += [f"### {one.__name__}\n", *described(one, {})]
    return "\n".join(parts)


def attributes(one: type) -> dict[str, str]:
    computed = {name: value.fget for name, value in vars(one).items() if isinstance(value, property)}
    types = {name: value.__annotations__["return"] for name, value in computed.items() if value is not None}
    return {**one.__annotations__, **types}


def parameters(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def signature(function: Callable[..., object]) -> str:
    """As it stands in the code, with one parameter to a line."""
    lines = []
    for name, one in parameters(function).items():
        if one.kind is one.KEYWORD_ONLY and "    *," not in lines:
            lines.append("    *,")
        default = "" if one.default is one.empty else f" = {one.default!r}"
        lines.append(f"    {name}: {one.annotation}{default},")
    return "\n".join([f"{function.__name__}(", *lines, ") -> StepResult"])


def described(what: object, types: dict[str, str]) -> list[str]:
    blocks: list[Union[str, list[str]]] = []
    for block in (inspect.getdoc(what) or "").split("\n\n"):
        lines = block.split("\n")
        indented = all(line.startswith("    ") for line in lines if line)
        last = blocks[-1] if blocks else ""
        if indented and isinstance(last, list):
            last.append(dedented(lines))
        elif indented:
            blocks.append([dedented(lines)])
        else:
            blocks.append(block)
    return [code(block) if isinstance(block, list) else table(block, types) for block in blocks]


def dedented(lines: list[str]) -> str:
    return "\n".join(line[4:] for line in lines)


def code(pieces: list[str]) -> str:
    text = "\n\n".join(pieces)
    return f"```{'python' if 'import ' in text else 'text'}\n{text}\n```\n"


def table(block: str, types: dict[str, str]) -> str:
    rows = [re.fullmatch(r"(\w+)  +(.+)", line) for line in block.split("\n")]
    if not all(rows):
        return block + "\n"
    lines = ["| name | type | meaning |", "|---|---|---|"]
    for row in rows:
        if row is not None:
            kind = types.get(row[1], "").replace("|", "\\|")
            lines.append(f"| `{row[1]}` | `{kind}` | {row[2]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), "utf-8")
