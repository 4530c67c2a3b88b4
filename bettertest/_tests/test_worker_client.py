"""The library's own client of a worker, against a server that breaks off, lies or is silent."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from bettertest import _worker
from bettertest._sse import Decoder
from bettertest._tokens import Tokens

from .scripted import QUEUED, STARTED, Connection, Request, exited, in_turn, output, server

KEY = "0" * 32


class Followed:
    def __init__(self, url: str, tokens: Tokens) -> None:
        self.seen: list[tuple[str, object]] = []
        self.step = _worker.Step(
            url,
            {"image": "i", "command": "ls"},
            KEY,
            tokens,
            lambda stream, data: self.seen.append((stream, data)),
            lambda mark: self.seen.append(("mark", mark)),
        )

    def answer(self) -> dict[str, Any]:
        return self.step.follow()


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    (tmp_path / "token").write_text("secret\n")
    return Tokens(str(tmp_path))


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker, "AWAY_S", 0.3)
    monkeypatch.setattr(_worker, "SILENCE_S", 0.2)


def follow(tokens: Tokens, *scripts: Any) -> tuple[dict[str, Any], list[tuple[str, object]], list[Request]]:
    with server(in_turn(*scripts)) as worker:
        followed = Followed(worker.url, tokens)
        answer = followed.answer()
    return answer, followed.seen, worker.requests


def test_a_step_from_asking_to_its_end(tokens: Tokens) -> None:
    def script(_: Request, to: Connection) -> None:
        other = {"event": "output", "stream": "stderr", "base64": "//4A"}
        to.events(QUEUED, STARTED, output("one\n"), other, {"event": "dropped", "bytes": 7}, exited(0))

    answer, seen, requests = follow(tokens, script)
    assert answer == {
        "answer": "step_result",
        "outcome": "passed",
        "reason": None,
        "exit_code": 0,
        "oom": False,
        "took_ms": 5,
        "message": None,
        "hint": None,
    }
    mark = "7 bytes of output were left out: it is longer than its cap"
    assert seen == [("stdout", b"one\n"), ("stderr", b"\xff\xfe\0"), ("mark", mark)]
    (request,) = requests
    assert (request.method, request.path, request.token) == ("POST", "/run", "secret")
    body = json.loads(request.body)
    assert body.pop("id").startswith(KEY + "-")
    assert body == {"image": "i", "command": "ls"}


@pytest.mark.parametrize("how", ["cut", "whole", "reset"])
def test_a_cut_stream_is_taken_up_where_it_ended(tokens: Tokens, how: str) -> None:
    def first(_: Request, to: Connection) -> None:
        to.events(QUEUED, STARTED, output("one"), whole=how == "whole")
        if how == "reset":
            to.reset()

    def second(_: Request, to: Connection) -> None:
        # What was sent already is not shown twice.
        to.events(output("one"), output("two"), after=2, whole=False)

    def third(_: Request, to: Connection) -> None:
        to.events(exited(1), after=4)

    answer, seen, requests = follow(tokens, first, second, third)
    assert (answer["outcome"], answer["exit_code"]) == ("failed", 1)
    if how != "reset":  # a reset takes with it what was not yet read
        assert seen == [("stdout", b"one"), ("stdout", b"two")]
        step = json.loads(requests[0].body)["id"]
        attached = [(r.method, r.path, r.headers["last-event-id"]) for r in requests[1:]]
        assert attached == [("GET", f"/steps/{step}/events", after) for after in ("3", "4")]


def test_before_the_first_event_the_same_step_is_asked_for_again(tokens: Tokens) -> None:
    def script(_: Request, to: Connection) -> None:
        to.reset()

    answer, _, requests = follow(tokens, script, script, lambda _, to: to.events(QUEUED, STARTED, exited(0)))
    assert answer["outcome"] == "passed"
    assert [(r.method, r.body) for r in requests] == [("POST", requests[0].body)] * 3


def test_a_stream_that_stays_cut_is_no_pass(tokens: Tokens) -> None:
    def first(_: Request, to: Connection) -> None:
        to.events(QUEUED, STARTED, output("all tests passed"))

    with server(in_turn(first)) as worker:
        # Every later request meets a connection that is closed at once.
        answer = Followed(worker.url, tokens).answer()
    assert (answer["outcome"], answer["reason"]) == ("errored", "worker_lost")
    assert answer["message"].startswith(f"no contact with the worker {worker.url} for 0 s: ")


def test_silence_is_a_cut(tokens: Tokens) -> None:
    def silent(_: Request, to: Connection) -> None:
        to.events(QUEUED, whole=False)
        to.wait_for_end()

    answer, _, requests = follow(tokens, silent, lambda _, to: to.events(STARTED, exited(0), after=1))
    assert answer["outcome"] == "passed" and len(requests) == 2


def test_comments_keep_a_stream_alive(tokens: Tokens) -> None:
    def script(_: Request, to: Connection) -> None:
        to.begin_events()
        to.chunk(b": still here\n\n")
        to.chunk(b"data: ")
        to.chunk(json.dumps(exited(0)).encode() + b"\r\nid: 9\r")
        to.chunk(b"\n\r\n")

    assert follow(tokens, script)[0]["outcome"] == "passed"


def test_nobody_listens(tokens: Tokens) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    answer = Followed(url, tokens).answer()
    assert (answer["outcome"], answer["reason"]) == ("errored", "worker_unreachable")
    assert answer["message"] == f"the worker {url} does not answer: Connection refused"
    assert answer["hint"] == f"is it running? bettertest --worker --listen 127.0.0.1:{port}"


@pytest.mark.parametrize(
    "status, outcome, reason",
    [
        (404, "errored", "worker_broken"),
        (409, "errored", "worker_broken"),
        (410, "errored", "step_forgotten"),
        (500, "errored", "worker_broken"),
        (503, "errored", "engine_unavailable"),
        (302, "errored", "worker_broken"),
    ],
)
def test_refusals(tokens: Tokens, status: int, outcome: str, reason: str) -> None:
    problem = {"error": "no such thing", "hint": "do this"}
    answer, _, _ = follow(tokens, lambda _, to: to.answer(status, problem))
    assert (answer["outcome"], answer["reason"], answer["hint"]) == (outcome, reason, "do this")
    assert "no such thing" in answer["message"]


def test_refusals_of_a_step_that_it_had(tokens: Tokens) -> None:
    def begun(_: Request, to: Connection) -> None:
        to.events(QUEUED, STARTED)

    def refuse(status: int) -> Any:
        return lambda _, to: to.answer(status, {"error": "no", "hint": "do this"})

    # A worker that hands its steps over to the next one is away for a moment only.
    answer, _, _ = follow(tokens, begun, refuse(503), lambda _, to: to.events(exited(0), after=2))
    assert answer["outcome"] == "passed"
    for status, reason in ((404, "worker_lost"), (410, "step_forgotten"), (422, "worker_broken")):
        answer, _, _ = follow(tokens, begun, refuse(status))
        assert (answer["outcome"], answer["reason"]) == ("errored", reason)


def test_a_full_disk(tokens: Tokens) -> None:
    for reason in ("disk_full", "spool_full"):
        problem = {"error": f"{reason}: less than 2 GiB", "hint": "make room"}
        assert follow(tokens, lambda _, to, problem=problem: to.answer(503, problem))[0]["reason"] == reason


def test_a_refused_spec(tokens: Tokens) -> None:
    problem = {"error": "timeout_s: has to be from 1", "hint": None}
    answer, _, _ = follow(tokens, lambda _, to: to.answer(422, problem))
    told = {**problem, "hint": "change the call of run(...) in the pipedef"}
    assert answer == {"answer": "refused", "problem": told}


@pytest.mark.parametrize(
    "address", ["localhost:9009", "https://a", "http://", "http://a:x", "http://a:99999", "http://a b", "ftp://a"]
)
def test_what_is_no_address_is_refused(tokens: Tokens, address: str) -> None:
    answer = Followed(address, tokens).answer()
    assert answer["problem"]["error"] == f"worker: {address!r} is no address such as http://localhost:9009"


def sends(data: bytes) -> Any:
    return lambda _, to: to.send(data)


def event(data: bytes) -> Any:
    def script(_: Request, to: Connection) -> None:
        to.begin_events()
        to.chunk(data)
        to.wait_for_end()

    return script


@pytest.mark.parametrize(
    "script",
    [
        sends(b"SSH-2.0-OpenSSH_9.2\r\n"),
        sends(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"),
        lambda _, to: to.answer(500, b"<html>"),
        lambda _, to: to.answer(503, ["no object"]),
        event(b"id: 1\ndata: no json\n\n"),
        event(b"id: 1\ndata: []\n\n"),
        event(b"id: x\ndata: {}\n\n"),
        event(b'data: {"event": "queued"}\n\n'),
        event(b'id: 1\ndata: {"event": "won"}\n\n'),
        event(b'id: 1\ndata: {"event": "exited"}\n\n'),
        event(b'id: 1\ndata: {"event": "exited", "exit_code": null, "took_ms": 1}\n\n'),
        event(b'id: 1\ndata: {"event": "exited", "exit_code": "0", "took_ms": 1}\n\n'),
        event(b'id: 1\ndata: {"event": "errored", "exit_code": null, "took_ms": 1}\n\n'),
        event(b'id: 1\ndata: {"event": "output", "stream": "stdout"}\n\n'),
        event(b'id: 1\ndata: {"event": "output", "stream": "stdin", "text": ""}\n\n'),
        event(b'id: 1\ndata: {"event": "output", "stream": "stdout", "base64": "?"}\n\n'),
        event(b"id: 1\ndata: \xff\n\n"),
    ],
)
def test_what_no_worker_says_is_an_error_at_once(tokens: Tokens, script: Any) -> None:
    answer, _, requests = follow(tokens, script)
    assert (answer["outcome"], answer["reason"]) == ("errored", "worker_broken")
    assert len(requests) == 1
    assert answer["hint"]


def test_an_event_without_an_end(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "LONGEST_BYTES", 1000)
    assert follow(tokens, event(b"data: " + b"x" * 2000))[0]["reason"] == "worker_broken"
    assert follow(tokens, event(b"data: xxxxxxx\n" * 2000))[0]["reason"] == "worker_broken"


def test_a_cancel_reaches_the_worker_and_its_end_comes_back(tokens: Tokens) -> None:
    cancelled = {"event": "cancelled", "reason": "cancel_asked", "took_ms": 9, "exit_code": 143}
    deleted = threading.Event()

    def start(_: Request, to: Connection) -> None:
        to.events(QUEUED, STARTED, output("running"), whole=False)
        deleted.wait()
        to.chunk(f"id: 4\ndata: {json.dumps(cancelled)}\n\n".encode())

    def delete(_: Request, to: Connection) -> None:
        to.answer(200, {})
        deleted.set()

    with server(in_turn(start, delete)) as worker:
        spec = {"image": "i", "command": "ls"}
        step = _worker.Step(worker.url, spec, KEY, tokens, lambda *_: step.cancel(), print)
        answer = step.follow()
    assert (answer["outcome"], answer["reason"], answer["took_ms"]) == ("cancelled", "cancel_asked", 9)
    path = "/steps/" + json.loads(worker.requests[0].body)["id"]
    assert [(r.method, r.path, r.token) for r in worker.requests[1:]] == [("DELETE", path, "secret")]


def test_a_cancel_before_the_worker_knew_the_step_is_told_again(tokens: Tokens) -> None:
    cancelled = {"event": "cancelled", "reason": "cancel_asked", "took_ms": 0, "exit_code": None}
    followed: list[Followed] = []

    def start(_: Request, to: Connection) -> None:
        followed[0].step.cancel()
        to.events(QUEUED, cancelled)

    unknown = {"error": "there is no such step", "hint": None}
    with server(
        in_turn(start, lambda _, to: to.answer(404, unknown), lambda _, to: to.answer(200, {}))
    ) as worker:
        followed.append(Followed(worker.url, tokens))
        answer = followed[0].answer()
    assert answer["outcome"] == "cancelled"
    assert [r.method for r in worker.requests] == ["POST", "DELETE", "DELETE"]


def test_a_cancelled_step_is_never_started(tokens: Tokens) -> None:
    followed = Followed("http://127.0.0.1:1", tokens)
    followed.step.cancel()
    assert followed.answer()["outcome"] == "cancelled"


def test_tokens_are_tried_in_turn(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("local\n")

    def script(request: Request, to: Connection) -> None:
        if request.token == "local":
            to.events(QUEUED, STARTED, exited(0))
        else:
            to.answer(401, {"error": "no", "hint": "no"})

    with server(script) as worker:
        (tmp_path / "workers.toml").write_text(f'# workers\n"{worker.url}/" = "listed" # old\n\n"http://b" = "b"\n')
        answer = Followed(worker.url, Tokens(str(tmp_path))).answer()
        assert answer["outcome"] == "passed"
        assert [request.token for request in worker.requests] == ["listed", "local"]


def test_no_token_is_taken(tmp_path: Path) -> None:
    with server(lambda _, to: to.answer(401, {"error": "no", "hint": "no"})) as worker:
        answer = Followed(worker.url, Tokens(str(tmp_path))).answer()
    assert (answer["outcome"], answer["reason"]) == ("errored", "token_refused")
    assert answer["message"] == f"the worker {worker.url} takes none of our tokens"
    assert f'{tmp_path}/workers.toml: "{worker.url}" = "TOKEN"' in answer["hint"]


def test_a_worker_elsewhere_gets_its_own_token_only(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("local")
    (tmp_path / "workers.toml").write_text('"http://build.example:9009" = "its own"\n')
    tokens = Tokens(str(tmp_path))
    assert tokens.for_worker("http://build.example:9009") == ["its own"]
    assert tokens.for_worker("http://other.example:9009") == []
    for here in ("http://localhost:9009", "http://127.0.0.1:1", "http://[::1]:9009"):
        assert tokens.for_worker(here) == ["local"]


def test_a_stream_may_be_cut_anywhere() -> None:
    stream = 'id: 1\r\ndata: {"a":\rdata: "\u0085\u2028é"}\n\r\n: comment\n\nid: 2\ndata:x\n\nretry: 5\nevent: e\n\n'
    whole = Decoder().feed(stream.encode())
    assert whole == [("1", '{"a":\n"\u0085\u2028é"}'), ("2", "x")]
    data = stream.encode()
    for size in range(1, len(data)):
        decoder = Decoder()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [event for piece in pieces for event in decoder.feed(piece)] == whole, size
