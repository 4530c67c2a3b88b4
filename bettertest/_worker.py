"""The library's own client of a worker, for pipedefs that are run without a boss: one step, from asking to its end.

The step has an id of its own, so that a cut stream is taken up where it ended and nothing is ever started twice.
Only an end that the worker has told of is an end; a stream that just stops is none.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import threading
import time
from typing import Any, Callable, Optional, Union, cast
from urllib.parse import urlsplit

from ._artifacts import files_of
from ._sse import Decoder, Event, TooLong
from ._tokens import Tokens, is_loopback

# A worker says something every 5 s, if only a comment.
SILENCE_S = 20.0
CONNECT_S = 10.0
# How long a worker that was there may stay away in the middle of a step.
AWAY_S = 60.0
_MOST_JSON_BYTES = 1024 * 1024

Answer = dict[str, Any]


class _Settled(Exception):
    """The step has its answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class Step:
    """`on_output` gets a stream's name and its bytes, each once and in order; `on_mark` what to say in between."""

    def __init__(
        self,
        worker: str,
        spec: dict[str, Any],
        run_key: str,
        tokens: Tokens,
        on_output: Callable[[str, bytes], None],
        on_mark: Callable[[str], None],
    ) -> None:
        self._worker = worker
        self._id = f"{run_key}-{os.urandom(16).hex()}"
        self._body = json.dumps({**spec, "id": self._id}).encode()
        self._tokens = tokens
        self._on_output = on_output
        self._on_mark = on_mark
        # Where the worker's spool continues; None before the first event.
        self._position: Optional[int] = None
        self._connected = False
        self._away_since: Optional[float] = None
        #: What is kept of it, once it has ended, with the place of each file.
        self.files: list[tuple[int, dict[str, Any]]] = []
        self._cancelling = threading.Lock()
        self._cancelled = threading.Event()

    def follow(self) -> Answer:
        """Starts the step and waits for its end: a `step_result` or `refused` of common/wire, without `call`."""
        try:
            if not _is_address(self._worker):
                raise _Settled(_refused(f"worker: {self._worker!r} is no address such as http://localhost:9009"))
            while not self._cancelled.is_set():
                self._wait_after(self._attach())
            raise _Settled(_cancelled())
        except _Settled as settled:
            return settled.answer

    def cancel(self) -> None:
        """Asks the worker to cancel the step; its end comes to `follow` as any other."""
        with self._cancelling:
            if self._cancelled.is_set():
                return
            self._cancelled.set()
        self._tell_cancel()

    def ask_for_file(self, number: int) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """The answer with its bytes; the caller closes it. OSError: there is none."""
        try:
            return self._request("GET", f"/steps/{self._id}/artifacts/{number}", None, {})
        except _Settled as settled:
            raise OSError(settled.answer["message"]) from None

    def _tell_cancel(self) -> None:
        try:
            connection, response = self._request("DELETE", f"/steps/{self._id}", None, {})
            response.read(_MOST_JSON_BYTES)
            connection.close()
        except (_Settled, OSError, http.client.HTTPException):
            # Whoever follows the step meets the same trouble, and tells of it.
            pass

    def _attach(self) -> str:
        """Starts the step, or takes it up again; returns why the stream ended before the step did."""
        try:
            if self._position is None:
                # Asking again with the same id attaches: until the first event has come this is always safe.
                kind = {"Content-Type": "application/json"}
                connection, response = self._request("POST", "/run", self._body, kind)
            else:
                last = {"Last-Event-ID": str(self._position)}
                connection, response = self._request("GET", f"/steps/{self._id}/events", None, last)
            try:
                if response.status == 503 and self._position is not None:
                    # It has the step, and is just being replaced by the next worker.
                    return "it answers with status 503"
                if response.status != 200:
                    raise _Settled(self._refusal(response))
                if self._cancelled.is_set():
                    # A cancel that came before the worker knew the step has met nothing.
                    self._tell_cancel()
                self._read(response)
            finally:
                connection.close()
        except (TooLong, UnicodeError) as error:
            raise _Settled(self._broken(str(error))) from None
        except http.client.HTTPException as error:
            # A connection that ends too early is a cut; anything else is no HTTP.
            if not isinstance(error, (ConnectionError, http.client.IncompleteRead)):
                raise _Settled(self._broken(repr(error))) from None
            return "the connection was cut"
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__
        return "the stream ended before the step did"

    def _request(
        self, method: str, path: str, body: Optional[bytes], headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """The answer to the first token that is taken."""
        tokens: list[Optional[str]] = [*self._tokens.for_worker(self._worker)]
        for token in tokens or [None]:
            connection = _connect(self._worker)
            self._connected = True
            bearer = {"Authorization": f"Bearer {token}"} if token else {}
            try:
                connection.request(method, path, body=body, headers={**headers, **bearer})
                response = connection.getresponse()
            except BaseException:
                connection.close()
                raise
            if response.status != 401:
                return connection, response
            connection.close()
        message = f"the worker {self._worker} takes none of our tokens"
        raise _Settled(_errored("token_refused", message, self._tokens.hint(self._worker)))

    def _read(self, response: http.client.HTTPResponse) -> None:
        kind = response.getheader("Content-Type") or "nothing"
        if not kind.startswith("text/event-stream"):
            raise _Settled(self._broken(f"it answered with {kind} instead of events"))
        decoder = Decoder()
        chunk = response.read1(65536)
        while chunk:
            self._away_since = None
            for event in decoder.feed(chunk):
                self._take(event)
            chunk = response.read1(65536)

    def _take(self, event: Event) -> None:
        try:
            position = int(event.id or "none")
            if self._position is not None and position <= self._position:
                return  # sent again
            said = json.loads(event.data)
            output = output_of(said)
            answer = answer_of(said)
            if said["event"] == "artifacts":
                self.files = files_of(said)
        except (ValueError, KeyError, TypeError):
            raise _Settled(self._broken(f"with the event {event.data[:200]}")) from None
        self._position = position
        if isinstance(output, bytes):
            self._on_output(said["stream"], output)
        elif output is not None:
            self._on_mark(output)
        if answer is not None:
            raise _Settled(answer)

    def _wait_after(self, why: str) -> None:
        """The worker was not reached, or its stream was cut: waits a little, but not for ever."""
        if not self._connected:
            message = f"the worker {self._worker} does not answer: {why}"
            raise _Settled(_errored("worker_unreachable", message, _how_to_start(self._worker)))
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        away_s = now - self._away_since
        if away_s > AWAY_S:
            message = f"no contact with the worker {self._worker} for {AWAY_S:.0f} s: {why}"
            reason = "worker_unreachable" if self._position is None else "worker_lost"
            raise _Settled(_errored(reason, message, _how_to_start(self._worker)))
        # Quick at first, for a stream that was merely cut; then once a second.
        self._cancelled.wait(0.05 if away_s < 0.5 else 1.0)

    def _refusal(self, response: http.client.HTTPResponse) -> Answer:
        status = response.status
        try:
            problem = json.loads(response.read(_MOST_JSON_BYTES))
            error, hint = str(problem["error"]), problem.get("hint")
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._broken(f"with status {status}")
        if status in (413, 422) and self._position is None:
            return _refused(error, hint)
        if status == 410:
            return _errored("step_forgotten", error, hint)
        if status == 404 and self._position is not None:
            return _errored("worker_lost", error, "was its data directory replaced while the step ran?")
        if status == 503:
            named = error.partition(":")[0]
            return _errored(named if named in ("disk_full", "spool_full") else "engine_unavailable", error, hint)
        return self._broken(f"with status {status}: {error}", hint)

    def _broken(self, how: str, hint: Optional[str] = None) -> Answer:
        message = f"{self._worker} answers as no worker does: {how}"
        return _errored("worker_broken", message, hint or "is it a bettertest worker, and of the same version?")


def answer_of(said: dict[str, Any]) -> Optional[Answer]:
    """The answer that an event amounts to, if it is one of the last four. KeyError, TypeError: it is no event."""
    kind = said["event"]
    if kind in ("queued", "preparing", "started", "output", "dropped", "gap", "artifacts"):
        return None
    exit_code, took_ms, reason = said["exit_code"], said["took_ms"], said.get("reason")
    if type(took_ms) is not int or not (type(exit_code) is int or (exit_code is None and kind != "exited")):
        raise TypeError("no whole number")
    outcome = kind
    if kind == "exited":
        outcome, reason = ("passed", None) if exit_code == 0 else ("failed", "command_failed")
    elif kind == "timed_out":
        reason = "step_timeout"
    elif kind not in ("cancelled", "errored") or not isinstance(reason, str):
        raise KeyError(kind)
    return {
        "answer": "step_result",
        "outcome": outcome,
        "reason": reason,
        "exit_code": exit_code,
        "oom": said.get("oom") is True,
        "took_ms": took_ms,
        "message": said.get("message"),
        "hint": said.get("hint"),
    }


def output_of(said: dict[str, Any]) -> Union[None, bytes, str]:
    """The bytes that an event carries; or what to say where bytes or artifacts are missing."""
    kind = said["event"]
    if kind == "output":
        if said["stream"] not in ("stdout", "stderr"):
            raise KeyError("stream")
        text = said.get("text")
        return text.encode() if isinstance(text, str) else base64.b64decode(said["base64"], validate=True)
    if kind == "dropped":
        return f"{int(said['bytes'])} bytes of output were left out: it is longer than its cap"
    if kind == "gap":
        return f"{'output' if said['bytes'] is None else str(int(said['bytes'])) + ' bytes of output'} got lost here"
    if kind == "artifacts" and said["problem"] is not None:
        return f"artifacts: {said['problem']}"
    return None


def _errored(reason: str, message: str, hint: Optional[str]) -> Answer:
    end = {"event": "errored", "reason": reason, "message": message, "hint": hint, "took_ms": 0, "exit_code": None}
    return cast(Answer, answer_of(end))


def _refused(error: str, hint: Optional[str] = None) -> Answer:
    problem = {"error": error, "hint": hint or "change the call of run(...) in the pipedef"}
    return {"answer": "refused", "problem": problem}


def _cancelled() -> Answer:
    """For a step that no worker was told of, or whose worker is away while we are leaving."""
    end = {"event": "cancelled", "reason": "cancel_asked", "took_ms": 0, "exit_code": None}
    return cast(Answer, answer_of(end))


def _how_to_start(worker: str) -> str:
    if is_loopback(worker):
        return f"is it running? bettertest --worker --listen {urlsplit(worker).netloc}"
    return f"is a worker running there, and does it answer from here? curl {worker.rstrip('/')}/health"


def _is_address(worker: str) -> bool:
    try:
        return re.fullmatch(r"http://[^\s/?#@]+/?", worker) is not None and urlsplit(worker).port != 0
    except ValueError:
        return False


def _connect(worker: str) -> http.client.HTTPConnection:
    parts = urlsplit(worker)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=CONNECT_S)
    connection.connect()
    # From here on this is how long a read may wait for the next byte.
    connection.sock.settimeout(SILENCE_S)
    return connection
