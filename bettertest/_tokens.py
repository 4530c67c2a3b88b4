"""Where the token for a worker is found: the data dir of this machine, or a line for a worker elsewhere."""

from __future__ import annotations

import os
import re
from typing import Optional
from urllib.parse import urlsplit

_OF_ROOT = "/var/lib/bettertest"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Tokens:
    """`data_dir` None: the caller's own, then the machine's."""

    def __init__(self, data_dir: Optional[str] = None) -> None:
        self._dirs = [data_dir] if data_dir is not None else _usual_dirs()

    def for_worker(self, worker: str) -> list[str]:
        """What to try, in this order; none where none is known."""
        found = [token for folder in self._dirs for token in _lines_for(worker, _text(folder, "workers.toml"))]
        if is_loopback(worker):
            found += [token for folder in self._dirs for token in _text(folder, "token").split()[:1]]
        return list(dict.fromkeys(found))

    def hint(self, worker: str) -> str:
        """What to do when no token was taken."""
        folder = self._dirs[0]
        line = f'add its token to {os.path.join(folder, "workers.toml")}: "{worker}" = "TOKEN"'
        if not is_loopback(worker):
            return line + " (TOKEN stands in the file token of that worker's data dir)"
        token = os.path.join(folder, "token")
        return f"name the worker's data dir by --data-dir (its file token is read, here {token}), or {line}"


def is_loopback(worker: str) -> bool:
    return urlsplit(worker).hostname in _LOOPBACK


def _usual_dirs() -> list[str]:
    import pwd

    if os.geteuid() == 0:
        return [_OF_ROOT]
    # From passwd, not from $HOME: what sudo or a service manager sets there is somebody else's.
    home = pwd.getpwuid(os.geteuid()).pw_dir
    return [os.path.join(home, ".local/share/bettertest"), _OF_ROOT]


def _text(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        # A data dir that another user keeps to himself is as good as none; the refusal says where tokens belong.
        return ""


def _lines_for(worker: str, text: str) -> list[str]:
    lines = (re.fullmatch(r'\s*"([^"]*)"\s*=\s*"([^"]*)"\s*(?:#.*)?', line) for line in text.split("\n"))
    return [line.group(2) for line in lines if line and line.group(1).rstrip("/") == worker.rstrip("/")]
