"""What has to hold beyond single runs: nothing lost, changed, made twice, left behind, touched, swollen or crashed."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from faults import BOSS
from history import RunSeen
from inject import Injector
from judge import Violation
from lab import Lab, Refused, processes_of
from load import Asked
from watch import Watch, children_of, digest_of, events_of, open_files

MEMORY_MIB = 256
#: Connections and files that a process may hold at rest beyond what it began with: kept-alive ones, caches.
FILES = 40
EXIT_CODES = {"passed": 0, "failed": 1, "timed_out": 1, "errored": 3, "cancelled": 130}

Say = Callable[[str, float, str, str], None]


class Foreign:
    """Containers of others, which nobody may touch: without a label, and with one of another instance."""

    def __init__(self, name: str, image: str) -> None:
        self.names = [f"foreign-{name}-plain", f"foreign-{name}-labelled"]
        labels: List[List[str]] = [[], ["--label", f"bettertest.instance={'f' * 32}", "--label", "bettertest.step=other",
                                        "--label", f"bettertest.deadline={int(time.time()) + 86400}"]]  # fmt: skip
        for container, label in zip(self.names, labels):
            words = ["docker", "run", "-d", "--network", "none", "--name", container, *label, image, "sleep", "86400"]
            subprocess.run(words, check=True, capture_output=True)
        self.before = self.look()

    def look(self) -> List[str]:
        form = "{{.Name}} {{.Id}} {{.State.Status}} {{.State.StartedAt}}"
        words = ["docker", "inspect", "--format", form, *self.names]
        return subprocess.run(words, capture_output=True, text=True).stdout.splitlines()

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "-f", *self.names], capture_output=True)


def acknowledged(lab: Lab, asked: Asked, seen: Dict[int, RunSeen], say: Say) -> None:
    """I1, and that the API says what the store says."""
    for run, plan in asked.runs.items():
        if run not in seen:
            say("I1", time.time(), f"run {run}", "it was acknowledged with 201, and is not there")
            continue
        if seen[run].plan != plan:
            say("I1", seen[run].began, f"run {run}", f"it is of plan {seen[run].plan}, not {plan}")
        try:
            view = lab.ask(f"/api/runs/{run}")
        except (OSError, Refused) as error:
            say("I1", seen[run].began, f"run {run}", f"the API does not show it: {error}")
            continue
        if seen[run].ends and (view.get("outcome"), view.get("reason")) != seen[run].ends[-1][1:]:
            say("I3", seen[run].began, f"run {run}", f"the API says {view.get('outcome')}, its events {seen[run].ends[-1]}")
        again = any(len(attempts) > 1 for attempts in seen[run].attempts.values())
        if view.get("outcome") == "passed" and (view["headline"] == "passed") == (again or seen[run].only is not None):
            say("I4", seen[run].began, f"run {run}", f"its headline is {view['headline']!r}")
    for run in asked.cancels:
        over = seen[run].ends[0][0] if run in seen and seen[run].ends else 0.0
        if run in seen and not seen[run].cancels and over == 0.0:
            say("I1", seen[run].began, f"run {run}", "its cancel was acknowledged, and left no trace")
    for run in asked.reruns:
        if run in seen and not seen[run].reruns:
            say("I1", seen[run].began, f"run {run}", "its re-run was acknowledged, and left no trace")


def unchanged(lab: Lab, watch: Watch, say: Say) -> None:
    """I3: what a reader once saw is still there, every event and every output of an ended attempt."""
    now = {(run, seq): text for run, events in events_of(lab.store()).items() for seq, text in events}
    for (run, seq), text in watch.seen.items():
        if now.get((run, seq)) != text:
            say("I3", time.time(), f"run {run}", f"event {seq} was {text[:100]}, and is {str(now.get((run, seq)))[:100]}")
    for (run, place, attempt), digest in watch.outputs.items():
        path = lab.store() / "output" / str(run) / f"{place}-{attempt}.out"
        if not path.exists() or digest_of(path) != digest:
            say("I3", time.time(), f"run {run}", f"the output {path.name} of an ended attempt has changed")
    for store in [lab.store(), *lab.local_stores()]:
        connection = sqlite3.connect(f"file:{store}/runs.sqlite?mode=ro", uri=True, timeout=10)
        [found] = connection.execute("PRAGMA integrity_check").fetchone()
        connection.close()
        if found != "ok":
            say("I1", time.time(), str(store.name), f"integrity_check: {found}")


def once(watch: Watch, seen: List[RunSeen], say: Say) -> None:
    """I5."""
    for run in seen:
        for attempts in run.attempts.values():
            for step in (step for attempt in attempts for step in attempt.steps.values()):
                made = watch.containers.get(step.id, set())
                if len(made) > 1:
                    say("I5", step.asked_at, f"run {run.number}", f"step {step.id} was started {len(made)} times: {sorted(made)}")


def containers(lab: Lab, instances: Set[str]) -> List[str]:
    """Every container, network and volume of ours that there is, on every daemon; and every sandbox of a step."""
    places = [*lab.folder.glob("data-*/worker/native/*"), *lab.folder.glob("data-*/local/*/runs/*/worker/native/*")]
    # What begins with a dot waits for a step, or to be deleted.
    found = [f"sandbox {place}" for place in places if not place.name.startswith(".")]
    ways = [["docker"]]
    if lab.daemon is not None and lab.daemon.alive():
        ways.append(lab.daemon.docker())
    for docker in ways:
        for kind, form in (("container ls -a", "{{.ID}} {{.Names}} {{.Status}}"), ("network ls", "{{.ID}}"), ("volume ls", "{{.Name}}")):
            for instance in instances:
                words = [*docker, *kind.split(), "--filter", f"label=bettertest.instance={instance}", "--format", form]
                listed = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
                found += [f"{kind.split()[0]} {line}" for line in listed.splitlines()]
    return found


def settle(what: Callable[[], List[str]], seconds: float) -> List[str]:
    """What is still there after so long."""
    deadline = time.monotonic() + seconds
    while True:
        left = what()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.3)


def at_rest(lab: Lab, watch: Watch, instances: Set[str], say: Say) -> None:
    """I6 and I9, with everything still up: no container, no child, no file that is not closed."""
    # A sweep comes once a minute; what a step leaves at its own end is gone at once.
    for left in settle(lambda: containers(lab, instances), 75):
        say("I6", time.time(), "at rest", f"left: {left}")
    for left in settle(lambda: children_of(lab.boss.pid), 10):
        say("I6", time.time(), "at rest", f"a child of the boss: {left}")
    for part in lab.parts():
        grown = settle(lambda: ["more"] if open_files(part) > watch.files[part.name] + FILES else [], 60)
        if grown:
            say("I6", time.time(), part.name, f"{open_files(part)} open files, {watch.files[part.name]} at its start")
        if watch.peak_mib[part.name] > MEMORY_MIB:
            say("I9", time.time(), part.name, f"took {watch.peak_mib[part.name]} MiB")


def after_shutdown(lab: Lab, instances: Set[str], say: Say) -> None:
    """I6: no process of ours, no container, no folder of a local run."""
    for left in settle(lambda: containers(lab, instances), 5):
        say("I6", time.time(), "after the shutdown", f"left: {left}")
    keep = f"{lab.folder}/dockerd"

    def processes() -> List[str]:
        found = []
        for pid in processes_of(str(lab.folder)):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            except OSError:
                continue
            if line and keep not in line:
                found.append(f"{pid} {line[:150]}")
        return found

    for left in settle(processes, 10):
        say("I6", time.time(), "after the shutdown", f"a process: {left}")
    for folder in lab.folder.glob("data-boss/local/*/runs/*"):
        say("I6", time.time(), "after the shutdown", f"a folder of a local run: {folder}")


def sound(lab: Lab, injector: Injector, asked: Asked, say: Say) -> None:
    """I10: no panic, no end that nobody asked for, no error of a server without its reason."""
    for log in sorted(lab.folder.glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if re.search(r"panicked|RUST_BACKTRACE|stack overflow|fatal runtime", line):
                say("I10", log.stat().st_mtime, log.name, line[:300])
    for at, path, refused in asked.odd:
        excuses = [fault for fault in injector.faults if refused.status in fault.answers]
        if not any(fault.at - 0.5 <= at <= fault.until + 12 for fault in excuses):
            say("I10", at, path, f"answered {refused}")


def terminal(asked: Asked, outcomes: Dict[int, str], injector: Injector, say: Say) -> None:
    """What `bettertest run` exits with is what its history says."""
    for ran in asked.locals:
        about = f"local run of plan {ran.plan.number}"
        said: Optional[str] = outcomes.get(ran.plan.number)
        faults = [f for f in injector.faults if f.met(ran.began, ran.ended, {"local", BOSS}) and f.kind in ("local_kill", "disk_full")]
        if ran.exit_code is None:
            say("I2", ran.began, about, "the process has not ended")
        elif ran.exit_code < 0 or faults:
            if not faults:
                say("I10", ran.ended, about, f"ended by signal {-ran.exit_code}")
        elif said is None or EXIT_CODES[said] != ran.exit_code:
            say("I4", ran.ended, about, f"exit code {ran.exit_code}, history: {said}; it said: {ran.said[-300:]!r}")
