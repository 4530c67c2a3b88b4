"""What is done to the lab while it works, by a schedule made from the seed, and what each fault may excuse.
`inject.py` does it.

One fault at a time, with a pause after it, so that true results dominate and each fault's effect is seen alone.
Which of several processes or containers a fault meets is drawn from the seed too, but who is there to be met is up to
the machine's timing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Dict, FrozenSet, List, Optional, Set, Tuple

NOTHING: FrozenSet[str] = frozenset()
#: The step that was met lost its container.
LOST = frozenset({"container_lost", "exit_unknown"})
#: The worker could not be reached when a step was first asked for, or not for a minute.
AWAY = frozenset({"worker_unreachable", "worker_lost"})
DAEMON = frozenset({"docker_restart", "engine_unavailable", "container_lost", "exit_unknown", "start_failed"})
FULL = frozenset({"disk_full", "spool_full", "output_lost", "engine_unavailable", "internal"})

BOSS = "boss"

#: Takes longer than others, and goes on beside them; only where there is time for it.
GONE_S = 75.0
#: How often each is drawn, against the others.
WEIGHTS: Dict[str, int] = {
    "boss_kill": 5, "worker_kill": 6, "both_kill": 2, "fake_kill": 1, "boss_term": 1, "worker_term": 2,
    "boss_stop": 1, "worker_stop": 2, "python_kill": 2, "python_stop": 1, "cut": 3, "refuse": 2, "stall": 2,
    "one_way": 2, "forget": 2, "slow": 1, "container_rm": 2, "container_pause": 2, "container_rename": 1,
    "dockerd_kill": 2, "dockerd_term": 1, "dockerd_stop": 1, "dockerd_live": 2, "disk_full": 2, "local_kill": 1,
    "worker_gone": 1,
}  # fmt: skip


@dataclass
class Fault:
    kind: str
    at: float
    until: float
    #: `boss`, or the worker that it met.
    target: str
    detail: str
    #: The reasons with which an attempt that it met may be errored.
    excuses: FrozenSet[str] = NOTHING
    #: Only this step, where one was met.
    step: Optional[str] = None
    #: May output be missing, with a mark in its place?
    gaps: bool = False
    #: Errors of the server that it explains, by status.
    answers: FrozenSet[int] = field(default=frozenset())

    #: Another one that it met.
    also: str = ""

    def met(self, began: float, ended: float, parties: Set[str]) -> bool:
        """Was it there while an attempt ran that has to do with these?"""
        during = began <= self.until + 2.0 and ended >= self.at - 0.5
        return during and (self.target in parties or self.also in parties)


def schedule(seed: int, seconds: float, kinds: List[str]) -> List[Tuple[float, str]]:
    """When which fault is due, as far as the one before has ended by then."""
    chance = random.Random(f"{seed}/faults")
    due = []
    at = 4.0
    while at < seconds - 3:
        due.append((round(at, 1), chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]))
        at += chance.uniform(3.0, 8.0)
    return due
