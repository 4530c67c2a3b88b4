"""A tiny HTTP server that answers each request as a test says, also as no server should."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple, Optional

Event = dict[str, Any]

QUEUED: Event = {"event": "queued"}
STARTED: Event = {"event": "started", "container": "c", "image_digest": "sha256:1", "engine": "fake"}


def output(text: str) -> Event:
    return {"event": "output", "stream": "stdout", "text": text}


def exited(exit_code: int) -> Event:
    return {"event": "exited", "exit_code": exit_code, "oom": False, "took_ms": 5, "signal": None}


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").replace("Bearer ", "")


class Connection:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def request(self) -> Optional[Request]:
        first = self._file.readline().decode().split()
        if len(first) < 2:
            return None
        headers = {}
        for line in iter(lambda: self._file.readline().decode().strip(), ""):
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = self._file.read(int(headers.get("content-length", "0")))
        return Request(first[0], first[1], headers, body)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self, status: int, body: object, kind: str = "application/json") -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n\r\n"
        self.send(head.encode() + text)

    def begin_events(self) -> None:
        self.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def events(self, *events: Event, after: int = 0, whole: bool = True) -> None:
        """Answers with these events, at positions counted from `after`; `whole` False cuts the stream there."""
        self.begin_events()
        for position, event in enumerate(events, start=after + 1):
            self.chunk(f"id: {position}\ndata: {json.dumps(event)}\n\n".encode())
        if whole:
            self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Closes it so that the other side gets ECONNRESET."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def wait_for_end(self) -> None:
        self._file.read()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


Script = Callable[[Request, Connection], None]


class Server:
    def __init__(self, script: Script) -> None:
        self.requests: list[Request] = []
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(Connection(connection),)))
            self._threads[-1].start()

    def _serve(self, connection: Connection) -> None:
        try:
            request = connection.request()
            if request is not None:
                self.requests.append(request)
                self._script(request, connection)
        except OSError:
            pass  # the client left first
        finally:
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def server(script: Script) -> Iterator[Server]:
    running = Server(script)
    try:
        yield running
    finally:
        running.close()


def in_turn(*scripts: Script) -> Script:
    """The first for the first request, and so on; further ones get no answer, their connection is just closed."""
    left = iter(scripts)

    def script(request: Request, connection: Connection) -> None:
        next(left, lambda *_: None)(request, connection)

    return script
