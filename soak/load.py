"""The user: starts runs by the plans, a few at a time, cancels, re-runs, and runs some in the terminal beside."""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from inject import Injector
from lab import Lab, Refused
from pipedef import text_of
from plan import FAKE, Author, Call, Plan, StagePlan, Step, Task

AT_ONCE = 5
ASK_S = 0.4
LAST_S = 30.0


@dataclass
class LocalRun:
    plan: Plan
    began: float
    ended: float = 0.0
    exit_code: Optional[int] = None
    said: str = ""


@dataclass
class Asked:
    """What was asked of the boss, and answered with 2xx: it has to stand for ever."""

    #: Run -> its plan's number.
    runs: Dict[int, int] = field(default_factory=dict)
    cancels: List[int] = field(default_factory=list)
    reruns: List[int] = field(default_factory=list)
    locals: List[LocalRun] = field(default_factory=list)
    #: Answers that nobody counted with: when, what was asked, what was said.
    odd: List[Tuple[float, str, Refused]] = field(default_factory=list)


class Load:
    def __init__(self, lab: Lab, injector: Injector, author: Author, say: Callable[[str], None]) -> None:
        self.lab = lab
        self.injector = injector
        self.author = author
        self.say = say
        self.asked = Asked()
        self.plans: Dict[int, Plan] = {}
        self.busy: List[threading.Thread] = []
        #: No new runs after this; what runs is followed to its end.
        self.closing = threading.Event()
        self.giving_up = threading.Event()

    def run(self, began: float, seconds: float) -> None:
        number = 0
        while time.monotonic() - began < seconds and not self.closing.is_set():
            self.busy = [thread for thread in self.busy if thread.is_alive()]
            if len(self.busy) >= AT_ONCE:
                time.sleep(0.1)
                continue
            number += 1
            plan = self.author.plan(number)
            self.plans[number] = plan
            if plan.local:
                self._spawn(self._local, plan)
                continue
            run = self._start(plan)
            if run is not None:
                self._spawn(self._follow, plan, run)

    def wait(self, seconds: float) -> bool:
        """For the ends of all that was begun."""
        deadline = time.monotonic() + seconds
        for thread in self.busy:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.giving_up.set()
        return not any(thread.is_alive() for thread in self.busy)

    def last_local(self) -> None:
        """A run in the terminal of one short step: it ends what killed ones have left in their project."""
        number = len(self.plans) + 1
        step = Step(f"p{number}.0.0", FAKE, (), 0)
        task = Task("last", [[Call(step)]])
        self.plans[number] = Plan(number, [StagePlan(f"S0_p{number}", [task])], local=True)
        self.giving_up.clear()
        last = threading.Thread(target=self._local, args=(self.plans[number],), daemon=True)
        last.start()
        last.join(LAST_S)
        self.giving_up.set()
        last.join(5)

    def _spawn(self, what: Callable[..., None], *given: Any) -> None:
        thread = threading.Thread(target=what, args=given, daemon=True)
        self.busy.append(thread)
        thread.start()

    def _write(self, plan: Plan, path: Path) -> None:
        draft = path.with_suffix(".draft")
        draft.write_text(text_of(plan, self.lab.addresses))
        draft.rename(path)

    def _start(self, plan: Plan) -> Optional[int]:
        """The pipedef is read while this is asked, so nobody else may write it meanwhile: only one thread starts."""
        self._write(plan, self.lab.pipedef)
        answer = self._ask("/api/runs", {"only": plan.only} if plan.only else {})
        if answer is None:
            # Nobody knows whether it was begun. If so, it has to end like any other.
            time.sleep(0.2)
            return None
        run = int(answer["run"])
        self.asked.runs[run] = plan.number
        return run

    def _ask(self, path: str, body: Optional[Dict[str, Any]] = None) -> Any:
        """None where it was not answered, or refused."""
        at = time.time()
        try:
            return self.lab.ask(path, body)
        except Refused as refused:
            # 503: it is shutting down, and says so. 409: the run has moved on meanwhile. And a machine that is busy
            # enough takes longer to start a Python than a pipedef may take to be read.
            slow = refused.status == 422 and "was not read within" in str(refused)
            if refused.status not in (503, 409) and not slow:
                self.asked.odd.append((at, path, refused))
        except OSError:
            pass
        return None

    def _follow(self, plan: Plan, run: int) -> None:
        if plan.cancel_after_s is not None:
            self.giving_up.wait(plan.cancel_after_s)
            if self._ask(f"/api/runs/{run}/cancel", {}) is not None:
                self.asked.cancels.append(run)
        view = self._ended(run)
        if plan.rerun and view is not None and view["outcome"] != "passed" and not self.closing.is_set():
            if self._ask(f"/api/runs/{run}/rerun", {}) is not None:
                self.asked.reruns.append(run)
            self._ended(run)

    def _ended(self, run: int) -> Any:
        while not self.giving_up.wait(ASK_S):
            view = self._ask(f"/api/runs/{run}")
            if view is not None and view["state"] == "ended":
                return view
        return None

    def _local(self, plan: Plan) -> None:
        # One project for all of them, so that a later one finds what a killed one has left.
        project = self.lab.folder / "local-project"
        project.mkdir(exist_ok=True)
        self._write(plan, project / f"plan_{plan.number}.py")
        ran = LocalRun(plan, time.time())
        self.asked.locals.append(ran)
        words = [str(self.lab.binary), "run", f"plan_{plan.number}.py", "--data-dir", str(self.lab.folder / "data-boss")]
        log = self.lab.folder / f"local-{plan.number}.log"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                words, cwd=project, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        with self.injector.lock:
            self.injector.locals.append(process)
        while process.poll() is None and not self.giving_up.wait(0.1):
            pass
        ran.ended = time.time()
        ran.exit_code = process.poll()
        ran.said = log.read_text(errors="replace")
