"""The demo: a worker and a boss on this machine, one run of demo/pipedef.py, told here and on the page.

Uses what anyone can use: the two commands, the HTTP API and the events of the run. The page stays up until
Ctrl-C; with --once all of it ends with the verdict. Exit code: 0 passed, 1 not passed, 2 set-up wrong,
3 errored, 130 cancelled.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BINARY = ROOT / "target/release/bettertest"
DATA = ROOT / ".tools/demo-data"
LOGS = ROOT / ".tools/log"
PIPEDEF = HERE / "pipedef.py"

# The pipedef names the worker's port; the boss may have any.
WORKER_PORT = 9009
BOSS_PORT = 9001

EXIT_CODES = {"passed": 0, "failed": 1, "timed_out": 1, "errored": 3, "cancelled": 130}
MARKS = {"passed": "\x1b[32m✓\x1b[0m", "failed": "\x1b[31m✗\x1b[0m", "cancelled": "\x1b[2m■\x1b[0m"}
OTHER_MARK = "\x1b[35m!\x1b[0m"
# Of what a terminal obeys, only colours pass.
NOT_COLOURS = re.compile(r"\x1b\[[0-9;:]*[^0-9;:m]|\x1b[^\[]|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
COLOURS = re.compile(r"\x1b\[[0-9;:]*m")


class SetupWrong(Exception):
    """What happened, and the next thing to do."""


def say(text: str = "") -> None:
    print(text if sys.stdout.isatty() else COLOURS.sub("", text), flush=True)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def some_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(name: str, *args: str) -> subprocess.Popen[bytes]:
    """Starts a part in a session of its own: Ctrl-C reaches this program alone, which ends the parts in order."""
    with (LOGS / f"demo-{name}.log").open("wb") as log:
        command = [str(BINARY), f"--{name}", *args, "--data-dir", str(DATA)]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def wait_until_it_answers(name: str, part: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    log = LOGS / f"demo-{name}.log"
    answer = ""
    while time.monotonic() < deadline:
        if part.poll() is not None:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise SetupWrong(f"{last}\nthe {name} ended at once, with exit code {part.returncode}", f"read {log}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health" if name == "worker" else "/")
            response = connection.getresponse()
            answer = response.read().decode(errors="replace").strip()
            if response.status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise SetupWrong(f"the {name} was not ready within 30 s: {answer[:300] or 'no answer'}", f"read {log}")


class Boss:
    def __init__(self, port: int) -> None:
        self.port = port
        self.token = (DATA / "token").read_text().strip()

    def ask(self, method: str, path: str, body: object = None, timeout: float | None = 30) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        if response.status >= 300:
            problem = json.loads(response.read())
            raise SetupWrong(problem["error"], problem.get("hint") or f"read {LOGS / 'demo-boss.log'}")
        return response

    def events(self, run: int) -> Iterator[dict[str, Any]]:
        # No time limit: the boss says something every few seconds, and a run may be quiet for long.
        for line in self.ask("GET", f"/api/runs/{run}/events", timeout=None):
            if line.startswith(b"data: "):
                yield json.loads(line[len(b"data: ") :])

    def output(self, run: int, task: str, attempt: int) -> list[str]:
        path = f"/api/runs/{run}/tasks/{task}/output?attempt={attempt}"
        text = self.ask("GET", path).read().decode(errors="replace")
        return [NOT_COLOURS.sub("", line) for line in text.splitlines()]


def follow(boss: Boss, run: int) -> str:
    """Tells a run, a line per task as it ends, and returns its outcome."""
    began = time.monotonic()
    tests = 0
    told = 0
    for event in boss.events(run):
        kind = event.get("event")
        if kind == "run_started":
            stages = event["pipeline"]["stages"]
            count = sum(len(stage["tasks"]) for stage in stages)
            say(f"run {run}: {count} tasks in {len(stages)} stages\n")
        elif kind == "task_ended":
            task, outcome = event["task"], event["outcome"]
            lines = boss.output(run, task, event["attempt"])
            passed = re.search(r"(\d+) passed", COLOURS.sub("", lines[-1])) if lines else None
            tests += int(passed[1]) if passed else 0
            told += 1
            words = f"{passed[1]:>4} tests" if outcome == "passed" and passed else f"{outcome}: {event.get('reason')}"
            if outcome == "passed" and not passed:
                words = ""
            say(f"{MARKS.get(outcome, OTHER_MARK)} {task:<32} {event['took_ms'] / 1000:5.1f} s  {words}")
            if outcome not in ("passed", "cancelled"):
                for line in lines[-15:]:
                    say(f"    {line}\x1b[0m")
                problem = event.get("problem") or {}
                for text in (problem.get("error"), problem.get("hint") and f"hint: {problem['hint']}"):
                    if text:
                        say(f"    {text}")
        elif kind == "task_skipped":
            say(f"\x1b[2m- {event['task']:<32}          skipped: {event['why']}\x1b[0m")
        elif kind == "run_ended":
            outcome = str(event["outcome"])
            words = outcome if outcome == "passed" else f"{outcome}: {event.get('reason')}"
            seconds = time.monotonic() - began
            say(f"\n{MARKS.get(outcome, OTHER_MARK)} run {run} {words}: {tests} tests passed, {told} tasks, {seconds:.1f} s")
            return outcome
    raise SetupWrong(f"the boss ended before run {run} did", f"read {LOGS / 'demo-boss.log'}")


def stop(parts: list[subprocess.Popen[bytes]]) -> None:
    """The boss first, so that it ends its run; then the worker, which removes its containers."""
    for part in reversed(parts):
        if part.poll() is None:
            part.send_signal(signal.SIGINT)
        try:
            part.wait(60)
        except subprocess.TimeoutExpired:
            part.kill()
            part.wait()


def demo(parts: list[subprocess.Popen[bytes]], once: bool) -> int:
    if not BINARY.exists():
        raise SetupWrong(f"{BINARY} does not exist", "make")
    if not is_free(WORKER_PORT):
        raise SetupWrong(
            f"port {WORKER_PORT}, where the demo's pipedef looks for its worker, is taken by another program",
            f"find it with: ss -ltnp 'sport = :{WORKER_PORT}', stop it, then make demo again",
        )
    port = BOSS_PORT if is_free(BOSS_PORT) else some_free_port()
    LOGS.mkdir(parents=True, exist_ok=True)
    parts.append(start("worker", "--listen", f"127.0.0.1:{WORKER_PORT}"))
    wait_until_it_answers("worker", parts[0], WORKER_PORT)
    parts.append(start("boss", "--pipedef", str(PIPEDEF), "--listen", f"127.0.0.1:{port}"))
    wait_until_it_answers("boss", parts[1], port)

    link = subprocess.run([BINARY, "open", "--data-dir", DATA], stdout=subprocess.PIPE, text=True, check=True).stdout
    say(f"\nThe page, open it in a browser (the link works once):\n\n  {link.strip()}\n")

    boss = Boss(port)
    run: int = json.loads(boss.ask("POST", "/api/runs", {}).read())["run"]
    outcome = follow(boss, run)
    if not once:
        say("\nThe page stays up until Ctrl-C. A new link to it:")
        say(f"  {BINARY.relative_to(ROOT)} open --data-dir {DATA.relative_to(ROOT)}")
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
    return EXIT_CODES.get(outcome, 3)


def main() -> int:
    os.umask(0o077)  # the boss's log holds a login link
    # Ended by whatever means it can notice, it takes its parts with it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    parts: list[subprocess.Popen[bytes]] = []
    try:
        return demo(parts, once="--once" in sys.argv[1:])
    except SetupWrong as wrong:
        what, hint = wrong.args
        print(f"{what}\nhint: {hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("\ncancelled")
        return 130
    finally:
        # A second Ctrl-C must not leave containers behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if parts:
            say("\nstopping boss and worker")
        stop(parts)


if __name__ == "__main__":
    sys.exit(main())
