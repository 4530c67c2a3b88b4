"""Runs bench/pipedef.py under a worker and a boss of their own, and prints what it says, and the memory they took.

Once with each engine; the native one is for root.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BINARY = HERE.parent / "target/release/bettertest"


def start(*args: str) -> tuple[subprocess.Popen[str], str]:
    """A server of ours, and the first line that it says: it is ready then."""
    part = subprocess.Popen([str(BINARY), *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert part.stdout
    return part, part.stdout.readline()


def peak_mib(part: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{part.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def main() -> int:
    engines = ["docker", "native"] if os.geteuid() == 0 else ["docker"]
    return max(measure(engine) for engine in engines)


def measure(engine: str) -> int:
    print(f"engine: {engine}")
    with tempfile.TemporaryDirectory() as data:
        listen = ["--data-dir", data, "--listen"]
        worker, _ = start(
            "--worker", "--engine", engine, *listen, "127.0.0.1:9019", "--max-output-bytes", str(1 << 30)
        )
        boss, ready = start("--boss", "--pipedef", str(HERE / "pipedef.py"), *listen, "127.0.0.1:9011")
        if not ready:
            print("error: the boss did not start\nhint: is port 9011 or 9019 taken?", file=sys.stderr)
            return 2
        token = Path(data, "token").read_text().strip()

        def ask(path: str, body: bytes | None = None) -> Any:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            return urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:9011{path}", body, headers))

        try:
            number = json.load(ask("/api/runs", b"{}"))["run"]
            for line in ask(f"/api/runs/{number}/events"):
                if line.startswith(b"event: end"):
                    break
            for task in ("Overhead.true", "Output.flood"):
                text = ask(f"/api/runs/{number}/tasks/{task}/output")
                print("".join(line.decode() for line in text if b"ratio" in line), end="")
            print(f"peak memory: worker {peak_mib(worker):.0f} MiB, boss {peak_mib(boss):.0f} MiB")
            headline = json.load(ask(f"/api/runs/{number}"))["headline"]
            print(headline)
            return 0 if headline == "passed" else 1
        finally:
            for part in (boss, worker):
                part.send_signal(signal.SIGINT)
                part.wait()


if __name__ == "__main__":
    sys.exit(main())
