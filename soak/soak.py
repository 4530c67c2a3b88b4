"""Runs a workload whose every outcome is known, breaks things beneath it, and checks that no promise was broken.

`make soak SECONDS=n SEED=s`. The same seed gives the same plans and the same schedule of faults; when exactly each
happens among the other processes is the machine's. Exit code 1 if anything was violated, 2 if it could not be tried.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from typing import Dict, List, Set, Tuple

import history
import rest
from inject import Injector
from judge import Judge, Violation
from lab import BINARY, HERE, Lab
from load import Load
from pipedef import IMAGE
from plan import Author
from watch import Watch, events_of

#: After the last fault, all that runs has to end: its plan, a worker given up, a stubborn step killed.
DRAIN_S = 150.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and stores, and tell what was excused")
    parser.add_argument("--kept", action="store_true", help="play the seeds that are kept in seeds.txt first")
    parser.add_argument("--kinds", default="", help="only these faults, separated by commas")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else secrets.randbelow(1_000_000)
    if not BINARY.exists():
        print(f"error: there is no {BINARY}\nhint: make build", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kinds = [kind for kind in given.kinds.split(",") if kind]
    played = kept_seeds() if given.kept else []
    # All together take the time that was given, however many there are.
    played = [play for place, play in enumerate(played) if sum(p[1] for p in played[: place + 1]) <= given.seconds / 2]
    played.append((seed, given.seconds - sum(play[1] for play in played), kinds))
    worst = 0
    for number, seconds, only in played:
        print(f"soak: SEED={number} SECONDS={seconds:.0f}{' of ' + ', '.join(only) if only else ''}", flush=True)
        worst = max(worst, Soak(number, seconds, only).run(given.keep))
    return worst


def kept_seeds() -> List[Tuple[int, float, List[str]]]:
    """Those of `seeds.txt`; where they are more than there is time for, others come first on another day."""
    found = []
    for line in (HERE / "seeds.txt").read_text().splitlines():
        words = line.partition("#")[0].split()
        if words:
            found.append((int(words[0]), float(words[1]), [] if words[2] == "all" else words[2].split(",")))
    turn = int(time.time() // 86400) % max(1, len(found))
    return found[turn:] + found[:turn]


class Soak:
    def __init__(self, seed: int, seconds: float, kinds: List[str]) -> None:
        self.seed = seed
        self.seconds = seconds
        self.kinds = kinds
        self.began = time.monotonic()

    def say(self, what: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {what}", flush=True)

    def run(self, keep: bool) -> int:
        self.tell_excused = keep
        lab = Lab(self.seed, self.seconds)
        for what, why in lab.skipped.items():
            self.say(f"skipped: {what}: {why}")
        foreign = rest.Foreign(lab.name, IMAGE)
        watch = Watch(lab)
        try:
            lab.start()
            return self.soak(lab, watch, foreign, keep)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            keep = True
            return 2
        finally:
            lab.tear_down()
            watch.end()
            foreign.remove()
            if keep or self.failed:
                self.say(f"kept: {lab.folder}")
            else:
                shutil.rmtree(lab.folder, ignore_errors=True)

    failed = False
    tell_excused = False

    def soak(self, lab: Lab, watch: Watch, foreign: rest.Foreign, keep: bool) -> int:
        watch.look_at_processes()
        watch.start()
        injector = Injector(lab, watch, self.seed, self.kinds, self.say)
        load = Load(lab, injector, Author(self.seed, list(lab.workers)), self.say)
        stop = threading.Event()
        self.began = time.monotonic()
        faults = threading.Thread(target=injector.run, args=(self.began, self.seconds, stop), daemon=True)
        faults.start()
        load.run(self.began, self.seconds)
        load.closing.set()
        faults.join()
        for aside in injector.aside:
            aside.join()
        self.say("no more faults, no more runs: what runs is to end")
        load.wait(DRAIN_S)
        load.last_local()
        drained = time.monotonic()
        judge = Judge(load.plans, injector.faults, {address: name for name, address in lab.addresses.items()})
        # The last events are read by the watch, too, so that what the shutdown does to them shows.
        time.sleep(2.0)
        seen = self.judge_runs(judge, lab)
        instances = set(lab.instances()) | self.local_keys(lab)
        rest.acknowledged(lab, load.asked, {run.number: run for run in seen}, judge.say)
        rest.at_rest(lab, watch, instances, judge.say)
        outcomes = self.judge_locals(judge, lab)
        rest.terminal(load.asked, outcomes, injector, judge.say)
        for part in lab.parts():
            if not part.alive():
                judge.say("I10", time.time(), part.name, "it is not running")
            part.tell(signal.SIGINT)
        for part in lab.parts():
            if not part.wait(30):
                judge.say("I6", time.time(), part.name, "it did not end within 30 s of SIGINT")
        rest.after_shutdown(lab, instances, judge.say)
        watch.stop.set()
        rest.unchanged(lab, watch, judge.say)
        rest.once(watch, seen, judge.say)
        rest.sound(lab, injector, load.asked, judge.say)
        if foreign.look() != foreign.before:
            judge.say("I8", time.time(), "foreign containers", f"{foreign.before} became {foreign.look()}")
        for broken in injector.broken:
            judge.say("I6", time.time(), "the lab", broken)
        self.report(judge, injector, load, watch, drained)
        self.failed = bool(judge.violations)
        return 1 if judge.violations else 0

    def judge_runs(self, judge: Judge, lab: Lab) -> List[history.RunSeen]:
        seen = []
        for number, events in events_of(lab.store()).items():
            run = history.read(number, events)
            if run is not None:
                judge.run(run, lab.store(), local=False)
                seen.append(run)
        return seen

    def judge_locals(self, judge: Judge, lab: Lab) -> Dict[int, str]:
        outcomes = {}
        for store in lab.local_stores():
            for number, events in events_of(store).items():
                run = history.read(number, events)
                if run is not None:
                    judge.run(run, store, local=True)
                    if run.ends:
                        outcomes[run.plan] = run.ends[-1][1]
        return outcomes

    def local_keys(self, lab: Lab) -> Set[str]:
        return {path.name for path in lab.folder.glob("data-boss/local/*/runs/*")}

    def report(self, judge: Judge, injector: Injector, load: Load, watch: Watch, drained: float) -> None:
        tally = judge.tally
        counted = Counter(fault.kind for fault in injector.faults)
        print("\nfaults injected          times   attempts met by it alone: true  explained")
        for kind, times in sorted(counted.items()):
            true, explained = tally.by_kind.get(kind, [0, 0])
            share = f"{100 * true / (true + explained):5.1f} %" if true + explained else ""
            print(f"  {kind:22} {times:5}   {true:30}  {explained:9}  {share}")
        explained_all = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.explained.items()))
        print(f"faults {len(injector.faults)}, runs {tally.runs} ({len(load.asked.locals)} in the terminal, "
              f"{len(load.asked.cancels)} cancelled, {len(load.asked.reruns)} run again), attempts {tally.attempts}, "
              f"steps {tally.steps}")  # fmt: skip
        print(f"true results {tally.true}, cancelled {tally.cancelled}, explained errored "
              f"{sum(tally.explained.values())} ({explained_all or 'none'})")  # fmt: skip
        memory = ", ".join(f"{name} {peak} MiB" for name, peak in sorted(watch.peak_mib.items()))
        print(f"peak memory: {memory}; drained in {drained - self.began - self.seconds:.0f} s")
        if self.tell_excused:
            print("".join(f"  excused: {excused}\n" for excused in tally.excused), end="")
        print(f"violations {len(judge.violations)}")
        for violation in judge.violations:
            self.tell(violation)

    def tell(self, violation: Violation) -> None:
        at = violation.at - time.time() + time.monotonic() - self.began
        print(f"  {violation.invariant} SEED={self.seed} [{at:6.1f} s] {violation.about}: {violation.what}")


if __name__ == "__main__":
    sys.exit(main())
