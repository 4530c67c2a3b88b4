"""Does to the lab what the schedule of `faults.py` says. Each method is a kind of fault, called by its name.

A method answers False where nobody was there to be met, and says in the fault what it may excuse.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from typing import Callable, List, Optional, Tuple

from faults import AWAY, BOSS, DAEMON, FULL, GONE_S, LOST, NOTHING, WEIGHTS, Fault, schedule
from lab import Lab, Part
from plan import DOCKER, FAKE, NATIVE, SECOND
from proxy import DOWN, SLOW, STALLS, UP
from watch import LABEL, Watch, children_of

#: What a fault answers that has not ended yet.
ASIDE = "aside"


class Injector:
    def __init__(self, lab: Lab, watch: Watch, seed: int, only: List[str], say: Callable[[str], None]) -> None:
        self.lab = lab
        self.only = only
        self.watch = watch
        self.seed = seed
        self.say = say
        self.faults: List[Fault] = []
        #: The processes of local runs, kept by the load.
        self.locals: List[subprocess.Popen[bytes]] = []
        self.lock = threading.Lock()
        #: What failed in here; the lab itself is in doubt then.
        self.broken: List[str] = []
        #: Faults that go on beside others.
        self.aside: List[threading.Thread] = []

    def kinds(self, seconds: float) -> List[str]:
        without = set()
        if seconds < 3 * GONE_S:
            without.add("worker_gone")
        if self.lab.daemon is None:
            without |= {kind for kind in WEIGHTS if kind.startswith("dockerd")}
        if not self.lab.disks:
            without.add("disk_full")
        return [kind for kind in WEIGHTS if kind not in without and (not self.only or kind in self.only)]

    def run(self, began: float, seconds: float, stop: threading.Event) -> None:
        for number, (at, kind) in enumerate(schedule(self.seed, seconds, self.kinds(seconds))):
            if stop.wait(max(0.0, began + at - time.monotonic())) or time.monotonic() - began > seconds:
                return
            chance = random.Random(f"{self.seed}/fault/{number}")
            fault = Fault(kind, time.time(), float("inf"), BOSS, "")
            # Known before it is done: an attempt may end of it while it still lasts.
            self.faults.append(fault)
            try:
                done = getattr(self, kind)(chance, fault)
            except (OSError, subprocess.SubprocessError) as error:
                self.broken.append(f"{kind}: {error!r}")
                done = True
            if done is not ASIDE:
                fault.until = time.time()
            if done is False:
                self.faults.remove(fault)
            else:
                self.say(f"{kind} {fault.target} {fault.detail}".rstrip())
            # Something works again before the next one.
            stop.wait(chance.uniform(1.0, 3.0))

    def _restart(self, part: Part) -> None:
        part.start()
        if not self.lab.ready(part):
            self.broken.append(f"{part.name} does not start again")

    def _stopped(self, part: Part, seconds: float) -> None:
        part.tell(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            part.tell(signal.SIGCONT)

    def _term(self, part: Part, fault: Fault, hurry: bool = False) -> None:
        began = time.monotonic()
        part.tell(signal.SIGTERM)
        if hurry and not part.wait(1):
            part.tell(signal.SIGTERM)
        if not part.wait(90):
            self.broken.append(f"{part.name} did not end within 90 s of SIGTERM")
            part.kill()
        fault.detail += f"ended after {time.monotonic() - began:.1f} s"
        self._restart(part)

    def boss_kill(self, chance: random.Random, fault: Fault) -> None:
        down = chance.choice((0.0, 0.5, 2.0))
        fault.detail = f"down {down:.1f} s"
        self.lab.boss.kill()
        time.sleep(down)
        self._restart(self.lab.boss)

    def boss_term(self, chance: random.Random, fault: Fault) -> None:
        # The first signal lets go on what runs, the second one waits for nothing; the next boss goes on with the rest.
        hurry = chance.random() < 0.7
        fault.detail = "by two signals, " if hurry else ""
        self._term(self.lab.boss, fault, hurry)

    def boss_stop(self, chance: random.Random, fault: Fault) -> None:
        seconds = chance.choice((1.0, 1.0, 5.0, 5.0, 22.0))
        fault.detail = f"for {seconds:.0f} s"
        self._stopped(self.lab.boss, seconds)

    def _worker(self, chance: random.Random, fault: Fault) -> str:
        """A real one, so that its containers outlive it."""
        fault.target = chance.choice([name for name in self.lab.workers if name != FAKE])
        return fault.target

    def worker_kill(self, chance: random.Random, fault: Fault) -> None:
        part = self.lab.workers[self._worker(chance, fault)]
        # What a sandbox prints while nobody listens is kept.
        fault.gaps = fault.target != NATIVE
        down = chance.choice((0.0, 1.0, 4.0))
        fault.detail = f"down {down:.1f} s"
        part.kill()
        time.sleep(down)
        self._restart(part)

    def fake_kill(self, chance: random.Random, fault: Fault) -> None:
        # Its containers live in it.
        fault.target, fault.excuses, fault.gaps = FAKE, LOST, True
        self.lab.workers[FAKE].kill()
        self._restart(self.lab.workers[FAKE])

    def both_kill(self, chance: random.Random, fault: Fault) -> None:
        fault.gaps = True
        worker = self.lab.workers[DOCKER]
        fault.also = DOCKER
        fault.detail = "and the worker docker in the same moment"
        first, second = chance.sample([self.lab.boss, worker], 2)
        first.kill()
        second.kill()
        time.sleep(chance.choice((0.0, 1.0)))
        first.start()
        second.start()
        for part in (first, second):
            if not self.lab.ready(part):
                self.broken.append(f"{part.name} does not start again")

    def worker_term(self, chance: random.Random, fault: Fault) -> None:
        fault.gaps = True
        self._term(self.lab.workers[self._worker(chance, fault)], fault)

    def worker_stop(self, chance: random.Random, fault: Fault) -> None:
        part = self.lab.workers[self._worker(chance, fault)]
        seconds = chance.choice((1.0, 1.0, 5.0, 5.0, 25.0))
        fault.excuses = AWAY if seconds > 9 else NOTHING
        fault.detail = f"for {seconds:.0f} s"
        self._stopped(part, seconds)

    def worker_gone(self, chance: random.Random, fault: Fault) -> str:
        """Longer than anybody waits for it: the verdict comes first, and nothing that it says later changes that."""
        part = self.lab.workers[self._worker(chance, fault)]
        fault.excuses = AWAY
        fault.detail = f"for {GONE_S:.0f} s"

        def wait() -> None:
            self._stopped(part, GONE_S)
            fault.until = time.time()

        self.aside.append(threading.Thread(target=wait, daemon=True))
        self.aside[-1].start()
        return ASIDE

    def _python(self, chance: random.Random) -> Optional[int]:
        if not self.lab.boss.alive():
            return None
        found = [int(child.split()[0]) for child in children_of(self.lab.boss.pid)]
        return chance.choice(sorted(found)) if found else None

    def python_kill(self, chance: random.Random, fault: Fault) -> bool:
        pid = self._python(chance)
        if pid is None:
            return False
        fault.excuses = frozenset({"runner_died"})
        # It may have been the one that discovers a pipedef.
        fault.answers = frozenset({422})
        fault.detail = f"process {pid}"
        return _signal(pid, signal.SIGKILL)

    def python_stop(self, chance: random.Random, fault: Fault) -> bool:
        pid = self._python(chance)
        if pid is None:
            return False
        fault.detail = f"process {pid} for 3 s"
        met = _signal(pid, signal.SIGSTOP)
        time.sleep(3)
        _signal(pid, signal.SIGCONT)
        return met

    def _proxy(self, chance: random.Random, fault: Fault) -> str:
        fault.target = chance.choice(list(self.lab.proxies))
        return fault.target

    def cut(self, chance: random.Random, fault: Fault) -> None:
        proxy = self.lab.proxies[self._proxy(chance, fault)]
        times = chance.choice((1, 5, 20))
        count = 0
        for _ in range(times):
            count += proxy.cut()
            time.sleep(chance.uniform(0.0, 0.3))
        fault.detail = f"{count} connections reset, in {times} goes"

    def refuse(self, chance: random.Random, fault: Fault) -> None:
        proxy = self.lab.proxies[self._proxy(chance, fault)]
        seconds = chance.choice((1.0, 1.0, 5.0, 5.0, 20.0))
        fault.excuses = AWAY if seconds > 9 else NOTHING
        fault.detail = f"no way to it for {seconds:.0f} s"
        proxy.refuse(True)
        proxy.cut()
        time.sleep(seconds)
        proxy.mend()

    def stall(self, chance: random.Random, fault: Fault) -> None:
        self._hold(chance, fault, (UP, DOWN))

    def one_way(self, chance: random.Random, fault: Fault) -> None:
        self._hold(chance, fault, (chance.choice((UP, DOWN)),))

    def _hold(self, chance: random.Random, fault: Fault, directions: Tuple[str, ...]) -> None:
        proxy = self.lab.proxies[self._proxy(chance, fault)]
        seconds = chance.choice((2.0, 2.0, 7.0, 7.0, 24.0))
        fault.excuses = AWAY if seconds > 9 else NOTHING
        fault.detail = f"not a byte {' and '.join(directions)} for {seconds:.0f} s"
        proxy.set(STALLS, directions)
        time.sleep(seconds)
        proxy.mend()

    def forget(self, chance: random.Random, fault: Fault) -> None:
        """Half-open for good: only their own patience tells both ends."""
        proxy = self.lab.proxies[self._proxy(chance, fault)]
        fault.detail = f"{proxy.forget()} connections half-open for good"
        time.sleep(2)

    def slow(self, chance: random.Random, fault: Fault) -> None:
        proxy = self.lab.proxies[self._proxy(chance, fault)]
        proxy.set(SLOW)
        fault.detail = "trickles for 6 s"
        time.sleep(6)
        proxy.mend()

    def _container(self, chance: random.Random, fault: Fault) -> Optional[Tuple[List[str], str]]:
        """A running one of ours: how to speak to its daemon, and its id."""
        found = []
        ways = [(DOCKER, ["docker"])]
        if self.lab.daemon is not None:
            ways.append((SECOND, self.lab.daemon.docker()))
        for name, docker in ways:
            instance = (self.lab.folder / f"data-{name}" / "instance").read_text().strip()
            words = [*docker, "ps", "--no-trunc", "--filter", f"label=bettertest.instance={instance}",
                     "--format", f'{{{{.ID}}}} {{{{.Label "{LABEL}"}}}}']  # fmt: skip
            listed = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
            found += [(line, name, docker) for line in sorted(listed.splitlines())]
        if not found:
            return None
        line, name, docker = chance.choice(found)
        container, _, step = line.partition(" ")
        fault.target, fault.step = name, step
        fault.detail = f"container {container[:12]}"
        return docker, container

    def _by_hand(self, docker: List[str], *words: str) -> bool:
        return subprocess.run([*docker, *words], capture_output=True, timeout=60).returncode == 0

    def container_rm(self, chance: random.Random, fault: Fault) -> bool:
        met = self._container(chance, fault)
        fault.excuses, fault.gaps = LOST, True
        return met is not None and self._by_hand(met[0], "rm", "-f", met[1])

    def container_pause(self, chance: random.Random, fault: Fault) -> bool:
        met = self._container(chance, fault)
        if met is None or not self._by_hand(met[0], "pause", met[1]):
            return False
        time.sleep(chance.choice((1, 4)))
        self._by_hand(met[0], "unpause", met[1])
        return True

    def container_rename(self, chance: random.Random, fault: Fault) -> bool:
        met = self._container(chance, fault)
        fault.excuses, fault.gaps = LOST, True
        return met is not None and self._by_hand(met[0], "rename", met[1], f"renamed-{self.lab.name}-{time.time_ns()}")

    def _dockerd(self, chance: random.Random, fault: Fault, how: signal.Signals, live: bool) -> None:
        daemon = self.lab.daemon
        assert daemon is not None
        fault.target, fault.excuses, fault.gaps = SECOND, DAEMON, True
        # Its containers outlive it only where both daemons, this one and the next, are told so.
        fault.kind = "dockerd_live" if daemon.live_restore and live else "dockerd_kill" if how == signal.SIGKILL else "dockerd_term"
        fault.detail = how.name
        daemon.tell(how)
        if not daemon.wait(60):
            daemon.kill()
        # Whether the next one lets containers outlive it.
        daemon.live_restore = live
        time.sleep(chance.choice((0.0, 2.0)))
        daemon.start()
        if not daemon.answers(60):
            self.broken.append(f"the second Docker daemon does not start again, see {daemon.log}")
        self.watch.listen_to_second()

    def dockerd_kill(self, chance: random.Random, fault: Fault) -> None:
        self._dockerd(chance, fault, signal.SIGKILL, live=False)

    def dockerd_live(self, chance: random.Random, fault: Fault) -> None:
        self._dockerd(chance, fault, chance.choice((signal.SIGKILL, signal.SIGTERM)), live=True)

    def dockerd_term(self, chance: random.Random, fault: Fault) -> None:
        self._dockerd(chance, fault, signal.SIGTERM, live=chance.random() < 0.5)

    def dockerd_stop(self, chance: random.Random, fault: Fault) -> None:
        assert self.lab.daemon is not None
        seconds = chance.choice((2.0, 8.0))
        fault.target, fault.detail = SECOND, f"for {seconds:.0f} s"
        fault.excuses, fault.gaps = DAEMON, True
        self._stopped(self.lab.daemon, seconds)

    def disk_full(self, chance: random.Random, fault: Fault) -> None:
        name = chance.choice(sorted(self.lab.disks))
        fault.target, fault.excuses, fault.gaps = name, FULL, True
        fault.answers = frozenset({500, 422})
        seconds = chance.choice((2.0, 6.0))
        fault.detail = f"its disk, for {seconds:.0f} s"
        self.lab.disks[name].fill()
        time.sleep(seconds)
        self.lab.disks[name].free()

    def local_kill(self, chance: random.Random, fault: Fault) -> bool:
        with self.lock:
            running = [process for process in self.locals if process.poll() is None]
        if not running:
            return False
        fault.target = "local"
        fault.excuses = frozenset({"runner_died", "abandoned"})
        process = chance.choice(running)
        fault.detail = f"process {process.pid}"
        return _signal(process.pid, signal.SIGKILL)


def _signal(pid: int, what: signal.Signals) -> bool:
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True

