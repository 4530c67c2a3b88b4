"""What `python -m bettertest` shows in the terminal. Output of tests is never trusted to steer it."""

from __future__ import annotations

import os
import re
import sys
import threading
from typing import Optional

# Colours are kept (SGR: ESC [ ... m); every other sequence could move the cursor, set the title or the clipboard.
_ESCAPES = re.compile(
    r"(?P<sgr>\x1b\[[0-9;:]*m)"
    r"|\x1b\[[0-?]*[ -/]*[@-~]?"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_RESET = "\x1b[0m"
_LONGEST_BYTES = 64 * 1024


class Screen:
    """Lines from many threads, each whole."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._colours = sys.stdout.isatty()

    def say(self, text: str = "") -> None:
        with self._lock:
            try:
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                # Nobody reads any more, as after `| head`. The run goes on and ends with its own exit code.
                sys.stdout = open(os.devnull, "w", encoding="utf-8")

    def of(self, task: str) -> Lines:
        return Lines(self, f"[{task}] ", self._colours)


class Lines:
    """One stream's bytes, shown line by line after a prefix."""

    def __init__(self, screen: Screen, prefix: str, colours: bool) -> None:
        self._screen = screen
        self._prefix = prefix
        self._colours = colours
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > _LONGEST_BYTES:
            lines.append(rest[:_LONGEST_BYTES])
            rest = rest[_LONGEST_BYTES:]
        self._rest = rest
        for line in lines:
            self.say(shown(line, self._colours))

    def end(self) -> None:
        if self._rest:
            self.feed(b"\n")

    def say(self, text: str) -> None:
        self._screen.say(self._prefix + text)


def shown(line: bytes, colours: bool) -> str:
    """A line as it may stand in a terminal: of a progress bar what it showed last, of escapes the colours."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    text = text[text.rfind("\r") + 1 :]
    plain = _ESCAPES.sub(lambda found: (found.group("sgr") or "") if colours else "", text)
    return plain + _RESET if "\x1b" in plain else plain


def duration(ms: int) -> str:
    """`0.4s`, `12.3s`, `2m 05s`, `1h 02m`."""
    s = ms // 1000
    if s < 60:
        return f"{s}.{ms % 1000 // 100}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02}s"
    return f"{s // 3600}h {s % 3600 // 60:02}m"


def two_lines(error: str, hint: Optional[str]) -> str:
    return f"{error}\nhint: {hint}" if hint else error
