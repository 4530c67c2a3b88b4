"""A worker and a boss for the benchmark, and the plainest clients of them and of Docker that there can be."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "target/release/bettertest"
IMAGE = "bettertest-test:1"


class Server:
    """One process of ours."""

    def __init__(self, data: str, *options: str) -> None:
        began = time.monotonic()
        command = [str(BINARY), *options, "--listen", "127.0.0.1:0", "--data-dir", data]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.ready_s = time.monotonic() - began
        found = [word for word in line.split() if word.startswith("http://")]
        if not found:
            raise SystemExit(f"error: {' '.join(command)} did not start\nhint: it says more when run by hand")
        self.address = found[0].split("?")[0].rstrip("/")
        self.host = self.address[len("http://") :].split("/")[0]
        self.token = Path(data, "token").read_text().strip()

    def memory_mib(self, peak: bool) -> float:
        name = "VmHWM:" if peak else "VmRSS:"
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith(name)).split()[1]) / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host)

    def ask(self, method: str, path: str, body: Optional[Dict[str, Any]] = None) -> Any:
        response = self.open(self.connect(), method, path, body)
        return json.loads(response.read())

    def open(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Optional[Dict[str, Any]] = None
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        if response.status >= 300:
            raise SystemExit(f"error: {method} {path} is answered by {response.status}: {response.read()!r}")
        return response


class Place:
    """A data directory, with a worker and where asked for a boss."""

    def __init__(self, engine: str, slots: int = 16, pipedef: Optional[str] = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        data = str(folder / "data")
        options = ["--engine", engine, "--slots", str(slots), "--max-output-bytes", str(1 << 31)]
        self.worker = Server(data, "--worker", *options)
        self.boss: Optional[Server] = None
        if pipedef is not None:
            text = f"from bettertest import *\nWORKER = {self.worker.address!r}\nIMAGE = {IMAGE!r}\n{pipedef}"
            (folder / "pipedef.py").write_text(text)
            self.boss = Server(data, "--boss", "--pipedef", str(folder / "pipedef.py"))

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.boss, self.worker):
            if server:
                server.stop()
        self._folder.cleanup()


class Steps:
    """A client of a worker, on one connection."""

    def __init__(self, worker: Server) -> None:
        self._worker = worker
        self._connection = worker.connect()

    def run(self, command: str, **more: Any) -> Tuple[float, int]:
        """Seconds from the request to the end of a step that has to pass, and how many bytes came."""
        began = time.monotonic()
        spec = {"image": IMAGE, "command": command, "network": "none", **more}
        response = self._worker.open(self._connection, "POST", "/run", spec)
        count, last = 0, b""
        while piece := response.read1(1 << 20):
            count += len(piece)
            last = (last + piece)[-400:]
        if b'"exit_code":0' not in last:
            raise SystemExit(f"error: a step did not pass: {last.decode(errors='replace')}")
        return time.monotonic() - began, count


def whole_run(boss: Server, only: Optional[List[str]] = None) -> float:
    """Seconds from the request for a run, which has to pass, to its last event at a follower."""
    began = time.monotonic()
    number = boss.ask("POST", "/api/runs", {"only": only} if only else {})["run"]
    events = boss.open(boss.connect(), "GET", f"/api/runs/{number}/events")
    last = b""
    while piece := events.read1(1 << 20):
        last = (last + piece)[-4000:]
    took = time.monotonic() - began
    if b'"event":"run_ended","outcome":"passed"' not in last:
        raise SystemExit(f"error: run {number} did not pass: {last.decode(errors='replace')}")
    return took


def docker_run(command: str, network: str = "none") -> float:
    began = time.monotonic()
    words = ["docker", "run", "--rm", "--network", network, IMAGE, "sh", "-c", command]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def docker_api(command: str, network: str = "none") -> float:
    """The calls that a container needs, and no more."""
    began = time.monotonic()
    spec = {
        "Image": IMAGE,
        "Cmd": ["/bin/sh", "-c", command],
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {"NetworkMode": network, "LogConfig": {"Type": "none"}},
    }
    container = json.loads(_call("POST", "/containers/create", spec))["Id"]
    attached = _socket()
    attach = f"/containers/{container}/attach?stream=1&stdout=1&stderr=1"
    attached.sendall(f"POST {attach} HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n".encode())
    attached.recv(1 << 16)
    _call("POST", f"/containers/{container}/start")
    while attached.recv(1 << 16):
        pass
    ended = json.loads(_call("POST", f"/containers/{container}/wait"))
    _call("DELETE", f"/containers/{container}?force=1&v=1")
    if ended["StatusCode"] != 0:
        raise SystemExit(f"error: a container of docker's did not pass: {ended}")
    return time.monotonic() - began


def _socket() -> socket.socket:
    docker = socket.socket(socket.AF_UNIX)
    docker.connect("/var/run/docker.sock")
    return docker


def _call(method: str, path: str, body: Optional[Dict[str, Any]] = None) -> bytes:
    connection = http.client.HTTPConnection("docker")
    connection.sock = _socket()
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    if response.status >= 300:
        raise SystemExit(f"error: docker answers {method} {path} by {response.status}: {answer!r}")
    return answer


def bare(command: str) -> float:
    """The same program, as any process."""
    began = time.monotonic()
    program = str(ROOT / ".tools/busybox/bin/busybox")
    null = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    pid = os.posix_spawn(program, ["sh", "-c", command], {"PATH": "/bin"}, file_actions=null)
    os.waitpid(pid, 0)
    return time.monotonic() - began
