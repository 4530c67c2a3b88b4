"""The machine on which is measured: what it is, how busy it was, and how samples become a figure."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Dict, List


def percentile(samples: List[float], percent: int) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def median(samples: List[float]) -> float:
    return statistics.median(samples)


def said_by(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "missing"


def description() -> Dict[str, str]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().splitlines()[0].split()[1]
    return {
        "cpu": f"{os.cpu_count()} x {cpu[0].split(':')[1].strip() if cpu else platform.machine()}",
        "memory": f"{int(memory) // 1024 // 1024} GiB",
        "kernel": platform.release(),
        "cgroups": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1 or hybrid",
        "docker": said_by("docker", "version", "--format", "{{.Server.Version}}"),
        "python": platform.python_version(),
    }


class Clock:
    """Time of all cores since it was made, in seconds."""

    def __init__(self) -> None:
        self._began = self._read()

    @staticmethod
    def _read() -> List[int]:
        return [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]

    def _since(self) -> List[float]:
        tick = os.sysconf("SC_CLK_TCK")
        return [(now - began) / tick for now, began in zip(self._read(), self._began)]

    def busy_s(self) -> float:
        """Of everybody: what a step costs is also paid by daemons and by the kernel."""
        user, nice, system, _idle, _iowait, irq, softirq, _steal = self._since()
        return user + nice + system + irq + softirq

    def stolen(self) -> float:
        """What other machines on the same host took, of 1."""
        since = self._since()
        return since[7] / max(sum(since), 0.01)
