"""The files that a worker has kept of a step, for `python -m bettertest`: named, or fetched into a folder here.

Their names were chosen in a container: they lead nowhere but down from that folder, and nothing is written over. Whatever
goes wrong with them is told, and changes nothing of how the step ended.
"""

from __future__ import annotations

import hashlib
import http.client
import os
from typing import Any, Callable, Optional

from . import _report

# So many are named where none is fetched; who keeps more knows what.
_NAMED = 20
_PIECE_BYTES = 128 * 1024

#: Place of a file in the event `artifacts` in, connection and answer out.
Ask = Callable[[int], tuple[http.client.HTTPConnection, http.client.HTTPResponse]]


def files_of(said: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Those of an event `artifacts` that somebody asked for, each with its place. ValueError, KeyError, TypeError: it is
    no such event."""
    files = list(enumerate(said["files"]))
    for _, file in files:
        if not _is_path(file["path"]) or type(file["size_bytes"]) is not int or type(file["sha256"]) is not str:
            raise ValueError("it is no artifact")
    return [(number, file) for number, file in files if file["path"] != _report.PATH]


def lines(files: list[tuple[int, dict[str, Any]]], folder: Optional[str], ask: Ask) -> list[str]:
    """What to say of them, after they were fetched into the folder, if there is one."""
    if folder is None:
        told = [f"artifact: {file['path']} ({file['size_bytes']} bytes)" for _, file in files[:_NAMED]]
        if len(files) > _NAMED:
            told.append(f"and {len(files) - _NAMED} artifacts more")
        if files:
            told.append("the worker has them for now; to have them here: python -m bettertest --artifacts FOLDER ...")
        return told
    return [_fetched(number, file, folder, ask) for number, file in files]


def _fetched(number: int, file: dict[str, Any], folder: str, ask: Ask) -> str:
    place = os.path.join(folder, *file["path"].strip("/").split("/"))
    try:
        connection, answer = ask(number)
        try:
            if answer.status != 200:
                return f"artifact {file['path']} is not fetched: the worker answers with status {answer.status}"
            os.makedirs(os.path.dirname(place), exist_ok=True)
            whole = _written(answer, file, place)
        finally:
            connection.close()
    except FileExistsError:
        return f"artifact {file['path']} is not fetched: {place} is there, and nothing is written over"
    except (OSError, http.client.HTTPException) as error:
        return f"artifact {file['path']} is not fetched: {error}"
    if not whole:
        os.remove(place)
        return f"artifact {file['path']} is not fetched: it came with other bytes than were kept"
    return f"artifact: {place}"


def _written(answer: http.client.HTTPResponse, file: dict[str, Any], place: str) -> bool:
    sha256, size_bytes = hashlib.sha256(), 0
    with open(place, "xb") as to:
        for piece in iter(lambda: answer.read(_PIECE_BYTES), b""):
            sha256.update(piece)
            size_bytes += len(piece)
            to.write(piece)
    return (size_bytes, sha256.hexdigest()) == (file["size_bytes"], file["sha256"])


def _is_path(path: object) -> bool:
    """As `common` has it: it can be shown anywhere, and leads nowhere but down."""
    if not isinstance(path, str) or not path.isprintable():
        return False
    below = path[1:] if path.startswith("/") else path
    return all(part not in ("", ".", "..") for part in below.split("/"))
