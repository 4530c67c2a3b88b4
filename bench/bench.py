"""What bettertest costs, each figure against something plainer in the same run: `make bench` prints the table and
writes target/bench.json.

Ratios, because this kind of machine is shared: absolute times drift, pairs that alternate do not. `make bench ROWS=word`
measures only the rows in whose name the word is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

from machine import Clock, description, median, percentile
from servers import IMAGE, ROOT, Place, Steps, bare, docker_api, docker_run, whole_run

ECHO = "echo hi"
LINE = "x" * 99
GIGABYTE = 1_000_000_000
FLOOD = f"yes {LINE} | head -c {GIGABYTE}"


@dataclass
class Row:
    what: str
    ours: str
    reference: str
    ratio: str
    wanted: str
    samples: Dict[str, List[float]] = field(default_factory=dict)
    stolen: float = 0.0


def ms(samples: List[float]) -> str:
    return f"{1000 * median(samples):.1f} ms (p95 {1000 * percentile(samples, 95):.1f})"


def tasks(count: int, command: str) -> str:
    lines = [f"    def task_{n}(self): run(WORKER, IMAGE, {command!r}, network='none')" for n in range(count)]
    return "class Many(Stage):\n" + "\n".join(lines) + "\n"


def pairs(count: int, ours: Callable[[], float], theirs: Callable[[], float], each: int = 1) -> Tuple[List[float], List[float]]:
    """Samples of both, in turns, after one of each that does not count."""
    ours(), theirs()
    both: Tuple[List[float], List[float]] = ([], [])
    for _ in range(count):
        both[0].extend(ours() for _ in range(each))
        both[1].append(theirs())
    return both


def one_step(engine: str) -> Iterator[Row]:
    with Place(engine) as place:
        steps = Steps(place.worker)
        ours, theirs = pairs(20, lambda: steps.run(ECHO)[0], lambda: docker_run(ECHO), 5)
        yield Row(
            f"one step of `{ECHO}`, {engine}", ms(ours), f"docker run {ms(theirs)}",
            f"{median(theirs) / median(ours):.1f}x", ">= 25x cold, >= 100x prepared" if engine == "native" else "",
            {"ours": ours, "theirs": theirs},
        )
        if engine == "native":
            plain = [bare(ECHO) for _ in range(100)]
            yield Row(
                "the same", ms(ours), f"fork and exec {ms(plain)}", f"{median(ours) / median(plain):.1f}x", "<= 4x",
                {"theirs": plain},
            )
            ours, theirs = pairs(10, lambda: steps.run(ECHO, network="egress")[0], lambda: docker_run(ECHO, "bridge"), 5)
            yield Row(
                "one step with a way out, native", ms(ours), f"docker run, bridge {ms(theirs)}",
                f"{median(theirs) / median(ours):.1f}x", "", {"ours": ours, "theirs": theirs},
            )
        else:
            ours, theirs = pairs(20, lambda: steps.run(ECHO)[0], lambda: docker_api(ECHO))
            yield Row(
                "the same", ms(ours), f"bare calls of its API {ms(theirs)}",
                f"{median(ours) / median(theirs):.2f}x", "<= 1.05x", {"ours": ours, "theirs": theirs},
            )


def at_once(count: int, each: int, act: Callable[[], Callable[[], object]]) -> Tuple[float, float]:
    """Steps a second and CPU seconds of a step, from so many threads that each do it so often."""
    acts = [act() for _ in range(count)]
    clock, began = Clock(), time.monotonic()
    threads = [threading.Thread(target=lambda act=act: [act() for _ in range(each)]) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count * each / (time.monotonic() - began), clock.busy_s() / (count * each)


def eight_at_once() -> Iterator[Row]:
    def client() -> Callable[[], object]:
        steps = Steps(place.worker)
        return lambda: steps.run(ECHO)

    with Place("native") as place:
        at_once(8, 2, client)
        ours, theirs = at_once(8, 50, client), at_once(8, 4, lambda: lambda: docker_api(ECHO))
    yield Row(
        "steps a second, 8 at once", f"{ours[0]:.0f}", f"docker's API {theirs[0]:.1f}",
        f"{ours[0] / theirs[0]:.0f}x", ">= 40x",
    )
    yield Row(
        "CPU of a step, all that the machine spends", f"{1000 * ours[1]:.1f} ms", f"docker's API {1000 * theirs[1]:.0f} ms",
        f"1/{theirs[1] / ours[1]:.0f}", "<= 1/40",
    )


def whole_chain() -> Iterator[Row]:
    with Place("native", pipedef=tasks(64, "sleep 0.1; echo ok")) as place:
        assert place.boss
        took = median([whole_run(place.boss) for _ in range(3)])
        yield Row("64 tasks of `sleep 0.1`, 16 slots, whole chain", f"{took:.2f} s", "ideal 0.40 s", f"{took / 0.4:.2f}x", "<= 1.4x")
    some = 96
    began = time.monotonic()
    words = f"seq {some} | xargs -P16 -I{{}} docker run --rm --network none {IMAGE} true"
    subprocess.run(["sh", "-c", words], check=True, stdout=subprocess.DEVNULL)
    theirs = (time.monotonic() - began) / some
    took_1000 = 0.0
    for count in (1000, 10_000):
        with Place("native", pipedef=tasks(count, "true")) as place:
            assert place.boss
            took = whole_run(place.boss)
            peak = place.boss.memory_mib(True)
        if count == 1000:
            took_1000 = took
            yield Row(
                "1,000 tasks of `true`, 16 slots, whole chain", f"{took:.1f} s",
                f"xargs -P16 docker run {1000 * theirs:.0f} s, from {some}", f"{1000 * theirs / took:.1f}x", ">= 20x; <= 15 s",
            )
        else:
            yield Row(
                "10,000 tasks in one run", f"{took:.0f} s, boss {peak:.0f} MiB", f"1,000: {took_1000:.1f} s",
                f"{took / took_1000:.1f}x", "<= 11x; <= 256 MiB",
            )


def gigabyte() -> Iterator[Row]:
    """What a container prints, in lines of 100 bytes, on its way."""
    program = str(ROOT / ".tools/busybox/bin/busybox")
    plain: List[float] = []
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
        for _ in range(2):
            began = time.monotonic()
            text = f"{program} yes {LINE} | {program} head -c {GIGABYTE} > {folder}/out"
            subprocess.run(["sh", "-c", text], check=True)
            plain.append(time.monotonic() - began)
    pipe = min(plain)
    rate = f"a pipe into a file {GIGABYTE / 1e6 / pipe:.0f} MB/s"
    with Place("native") as place:
        unread = place.worker.open(place.worker.connect(), "POST", "/run", {
            "image": IMAGE, "command": FLOOD, "network": "none", "output_cap_bytes": 2 * GIGABYTE, "id": "unread",
        })
        began = time.monotonic()
        while place.worker.ask("GET", "/steps/unread")["state"] != "ended":
            time.sleep(0.02)
        took = time.monotonic() - began
        unread.close()
        yield Row("1 GB of lines: container to spool", f"{GIGABYTE / 1e6 / took:.0f} MB/s", rate, f"{pipe / took:.2f}x", ">= 0.6x")
        took, _ = Steps(place.worker).run(FLOOD, output_cap_bytes=2 * GIGABYTE)
        yield Row("... to a client of the worker", f"{GIGABYTE / 1e6 / took:.0f} MB/s", rate, f"{pipe / took:.2f}x", ">= 0.3x")
    text = f"class One(Stage):\n    def task_flood(self): run(WORKER, IMAGE, {FLOOD!r}, network='none', output_cap_bytes={2 * GIGABYTE})\n"
    with Place("native", pipedef=text) as place:
        assert place.boss
        took = whole_run(place.boss)
        memory = place.boss.memory_mib(True) + place.worker.memory_mib(True)
    yield Row(
        "... to the boss's file", f"{GIGABYTE / 1e6 / took:.0f} MB/s, both {memory:.0f} MiB", rate, f"{pipe / took:.2f}x", ">= 0.1x; <= 256 MiB",
    )


def first_byte() -> Iterator[Row]:
    """The container waits for the next hundredth of a second and says which it is; a follower of the run's output
    sees when that comes."""
    wait = "read p x < /proc/uptime; u=$p; while [ $u = $p ]; do read u x < /proc/uptime; done; echo $u"
    command = f"for i in $(seq 200); do sleep 0.02; {wait}; done"
    text = f"class One(Stage):\n    def task_tell(self): run(WORKER, IMAGE, {command!r}, network='none')\n"
    late: List[float] = []
    with Place("native", pipedef=text) as place:
        assert place.boss
        number = place.boss.ask("POST", "/api/runs", {})["run"]
        path = f"/api/runs/{number}/tasks/One.tell/output?follow=1"
        while True:
            connection = place.boss.connect()
            connection.request("GET", path, None, {"Authorization": f"Bearer {place.boss.token}"})
            response = connection.getresponse()
            if response.status == 200:
                break
            response.read()
            time.sleep(0.01)
        rest = b""
        while piece := response.read1(1 << 16):
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            *lines, rest = (rest + piece).split(b"\n")
            late.extend(now - float(line) for line in lines if line.replace(b".", b"").isdigit())
    # What came before there was a follower, it gets at once.
    late = late[20:]
    yield Row("a line: container to a follower at the boss", ms(late), "", f"p99 {1000 * percentile(late, 99):.1f} ms", "p99 <= 10 ms", {"ours": late})


def new_image() -> Iterator[Row]:
    name = "bettertest-bench:250"
    files = "RUN mkdir /d && for i in $(seq 240); do head -c 1000000 /dev/urandom > /d/$i; done"
    subprocess.run(["docker", "build", "-q", "-t", name, "-"], input=f"FROM {IMAGE}\n{files}\n", text=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours: List[float] = []
    theirs: List[float] = []
    try:
        for _ in range(3):
            with Place("native") as place:
                ours.append(Steps(place.worker).run("true", image=name)[0])
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                subprocess.run(["sh", "-c", f"docker save {name} | tar x -C {folder}"], check=True)
                theirs.append(time.monotonic() - began)
    finally:
        subprocess.run(["docker", "rmi", "-f", name], stdout=subprocess.DEVNULL)
    yield Row(
        "first step of a new image of 250 MB, native", f"{median(ours):.2f} s", f"docker save, tar x {median(theirs):.2f} s",
        f"{median(ours) / median(theirs):.2f}x", "<= 1.2x", {"ours": ours, "theirs": theirs},
    )


def idle() -> Iterator[Row]:
    ready: List[float] = []
    for _ in range(5):
        with Place("auto", pipedef=tasks(1, "true")) as place:
            assert place.boss
            ready.append(max(place.worker.ready_s, place.boss.ready_s))
            time.sleep(0.5)
            memory = place.worker.memory_mib(False), place.boss.memory_mib(False)
    yield Row("start to ready, the slower of worker and boss", ms(ready), "", "", "<= 50 ms", {"ours": ready})
    yield Row("idle memory", f"worker {memory[0]:.0f} MiB, boss {memory[1]:.0f} MiB", "", "", "<= 25 MiB each")


def measurements() -> List[Tuple[str, Callable[[], Iterator[Row]]]]:
    both: List[Tuple[str, Callable[[], Iterator[Row]]]] = [("docker", lambda: one_step("docker")), ("idle", idle)]
    if os.geteuid() != 0:
        print("the rows of the native engine are left out: they need root", file=sys.stderr)
        return both
    return [
        ("native", lambda: one_step("native")), *both, ("eight", eight_at_once), ("chain", whole_chain),
        ("gigabyte", gigabyte), ("byte", first_byte), ("image", new_image),
    ]


def main() -> int:
    wanted = os.environ.get("ROWS", "")
    machine = description()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print("\n| what | measured | reference | ratio | wanted |\n|---|---|---|---|---|", flush=True)
    rows: List[Row] = []
    for name, measure in measurements():
        if wanted not in name:
            continue
        clock = Clock()
        for row in measure():
            row.stolen, clock = clock.stolen(), Clock()
            rows.append(row)
            busy = f" (stolen {100 * row.stolen:.0f} %)" if row.stolen > 0.05 else ""
            print(f"| {row.what} | {row.ours} | {row.reference} | {row.ratio}{busy} | {row.wanted} |", flush=True)
    path = Path(ROOT, "target/bench.json")
    path.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    print(f"\nwritten: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
