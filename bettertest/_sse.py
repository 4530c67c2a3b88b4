"""The bytes of a `text/event-stream`, cut anywhere, as events. It knows nothing of what they mean."""

from __future__ import annotations

from typing import NamedTuple, Optional


class Event(NamedTuple):
    id: Optional[str]
    data: str


class TooLong(Exception):
    """A line or an event without an end, from something that is no worker."""


class Decoder:
    LONGEST_BYTES = 16 * 1024 * 1024

    def __init__(self) -> None:
        self._line = bytearray()
        self._skip_lf = False
        self._id: Optional[str] = None
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes, each by the empty line after it. Raises TooLong, UnicodeError."""
        events = []
        if self._skip_lf and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._skip_lf = chunk.endswith(b"\r")
        # Only CR, LF and CRLF end a line here; bytes.splitlines knows these three and no others.
        for piece in chunk.splitlines(keepends=True):
            self._line += piece
            if len(self._line) > self.LONGEST_BYTES:
                raise TooLong("a line of more than 16 MiB")
            if piece.endswith((b"\n", b"\r")):
                line = bytes(self._line.rstrip(b"\r\n"))
                self._line.clear()
                event = self._take(line)
                if event is not None:
                    events.append(event)
        return events

    def _take(self, line: bytes) -> Optional[Event]:
        if not line:
            return self._complete()
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(value)
            if self._data_bytes > self.LONGEST_BYTES:
                raise TooLong("an event of more than 16 MiB")
        elif field == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        return None

    def _complete(self) -> Optional[Event]:
        if not self._data:
            return None
        event = Event(self._id, b"\n".join(self._data).decode())
        self._data, self._data_bytes = [], 0
        return event
