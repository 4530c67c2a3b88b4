"""What is looked at while it all runs: the stores' histories, the containers that come to be, memory and files.

Facts are only gathered here, each with its time; `check.py` judges them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from lab import Lab, Part

LABEL = "bettertest.step"
LOOK_S = 1.0


def events_of(store: Path, after: Optional[Dict[int, int]] = None) -> Dict[int, List[Tuple[int, str]]]:
    """Every run's events in a store, (seq, text), after those that are known already. Read only."""
    found: Dict[int, List[Tuple[int, str]]] = defaultdict(list)
    connection = sqlite3.connect(f"file:{store}/runs.sqlite?mode=ro", uri=True, timeout=10)
    try:
        for (run,) in connection.execute("SELECT number FROM run ORDER BY number").fetchall():
            select = "SELECT seq, event FROM event WHERE run = ? AND seq > ? ORDER BY seq"
            found[run] += connection.execute(select, (run, (after or {}).get(run, 0))).fetchall()
    finally:
        connection.close()
    return found


class Watch:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.stop = threading.Event()
        #: What a reader of the boss's store has seen: (run, seq) -> the event's text.
        self.seen: Dict[Tuple[int, int], str] = {}
        #: The bytes of outputs whose attempts had ended: (run, place, attempt) -> digest and size.
        self.outputs: Dict[Tuple[int, int, int], Tuple[str, int]] = {}
        #: Steps of ours -> the starts of containers for each, as every daemon told. One that a killed worker had made,
        #: and not yet started, may be made anew.
        self.containers: Dict[str, Set[str]] = defaultdict(set)
        self.peak_mib: Counter[str] = Counter()
        self.files: Dict[str, int] = {}
        self.threads = [threading.Thread(target=self._history, daemon=True)]
        self.streams: List[subprocess.Popen[str]] = []
        self._listen(["docker"])

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def listen_to_second(self) -> None:
        """Anew after each of its starts; what happened in between is asked for."""
        if self.lab.daemon is not None:
            self._listen(self.lab.daemon.docker(), since=time.time() - 30)

    def _listen(self, docker: List[str], since: Optional[float] = None) -> None:
        words = [*docker, "events", "--filter", "event=start", "--filter", f"label={LABEL}", "--format", "{{json .}}"]
        words += ["--since", f"{since:.3f}"] if since is not None else []
        stream = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.streams.append(stream)

        def read() -> None:
            assert stream.stdout is not None
            for line in stream.stdout:
                event: Dict[str, Any] = json.loads(line)
                actor = event["Actor"]
                self.containers[actor["Attributes"][LABEL]].add(f"{actor['ID'][:12]} at {event['timeNano']}")

        threading.Thread(target=read, daemon=True).start()

    def _history(self) -> None:
        last: Dict[int, int] = {}
        while not self.stop.wait(LOOK_S):
            self.look_at_processes()
            try:
                fresh = events_of(self.lab.store(), last)
            except sqlite3.Error:
                # A full disk, or the first moment; whether it is whole at the end is checked then.
                continue
            for run, events in fresh.items():
                for seq, text in events:
                    self.seen[(run, seq)] = text
                    last[run] = seq
                    event = json.loads(text)
                    if event["event"] == "task_ended":
                        self._remember_output(run, event)

    def _remember_output(self, run: int, event: Dict[str, Any]) -> None:
        begin = json.loads(self.seen[(run, 1)])
        names = [f"{s['name']}.{t['name']}" for s in begin["pipeline"]["stages"] for t in s["tasks"]]
        key = (run, names.index(event["task"]), event["attempt"])
        path = self.lab.store() / "output" / str(run) / f"{key[1]}-{key[2]}.out"
        if path.exists():
            self.outputs[key] = digest_of(path)

    def look_at_processes(self) -> None:
        for part in self.lab.parts():
            peak = status_of(part, "VmHWM")
            if peak is not None:
                self.peak_mib[part.name] = max(self.peak_mib[part.name], peak // 1024)
            self.files.setdefault(part.name, open_files(part))

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)
        for stream in self.streams:
            stream.terminate()
            stream.wait()


def digest_of(path: Path) -> Tuple[str, int]:
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest(), len(content)


def status_of(part: Part, name: str) -> Optional[int]:
    if not part.alive():
        return None
    try:
        for line in Path(f"/proc/{part.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
    except OSError:
        return None
    return None


def open_files(part: Part) -> int:
    try:
        return len(os.listdir(f"/proc/{part.pid}/fd"))
    except OSError:
        return 0


def children_of(pid: int) -> List[str]:
    """The command lines of what descends from a process."""
    parents: Dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
                parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = []
    for child in parents:
        above = child
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and child != pid:
            try:
                found.append(f"{child} {Path(f'/proc/{child}/cmdline').read_bytes().decode(errors='replace')[:120]!r}")
            except OSError:
                continue
    return found
