"""What a step costs, each against something plainer in the same run: `make bench` prints the answers.

Ratios, because this kind of machine is shared: absolute times drift, pairs that alternate do not.
"""

from __future__ import annotations

import statistics
import subprocess
import time

from bettertest import Stage, run

WORKER = "http://127.0.0.1:9019"
IMAGE = "bettertest-test:1"
PAIRS = 20
FLOOD_BYTES = 200_000_000
# Long lines, so that what prints them is not what is measured.
FLOOD = f"yes \"$(seq -s ' ' 1 2000)\" | head -c {FLOOD_BYTES}"


def seconds_of(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


class Overhead(Stage):
    def task_true(self) -> None:
        ours, theirs = [], []
        for _ in range(PAIRS):
            began = time.monotonic()
            run(WORKER, IMAGE, "true")
            ours.append(time.monotonic() - began)
            theirs.append(seconds_of(["docker", "run", "--rm", IMAGE, "true"]))
        ms = [1000 * statistics.median(times) for times in (ours, theirs)]
        print(f"a step of `true`: {ms[0]:.1f} ms, docker run --rm: {ms[1]:.0f} ms, ratio {ms[0] / ms[1]:.3f}")


class Output(Stage):
    def task_flood(self) -> None:
        for _ in range(3):
            began = time.monotonic()
            run(WORKER, IMAGE, FLOOD, output_cap_bytes=FLOOD_BYTES + 1, network="none")
            ours = time.monotonic() - began
            theirs = seconds_of(
                ["docker", "run", "--rm", "--log-driver", "none", "--network", "none", IMAGE, "sh", "-c", FLOOD]
            )
            mb = FLOOD_BYTES / 1e6
            print(f"\n{mb:.0f} MB: {mb / ours:.0f} MB/s, docker run: {mb / theirs:.0f} MB/s, ratio {theirs / ours:.2f}")
