"""How a task ended, from what its process said and how its steps ended. The boss judges by the same rules."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

# From harmless to worst: a run is as bad as the worst of its tasks.
OUTCOMES = ("passed", "cancelled", "failed", "timed_out", "errored")


class Verdict(NamedTuple):
    outcome: str
    reason: Optional[str]
    #: What to tell a person: common/wire's `problem`.
    problem: Optional[dict[str, Any]] = None

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}" if self.reason else self.outcome


PASSED = Verdict("passed", None)
CANCELLED = Verdict("cancelled", "cancel_asked")


def of_task(last: Optional[dict[str, Any]], answers: dict[int, dict[str, Any]]) -> Verdict:
    """`last` is the process's last word, None if it ended without; `answers` are what its calls of `run` got."""
    results = [answer for answer in answers.values() if answer["answer"] == "step_result"]
    for result in results:
        if result["outcome"] == "errored":
            # Caught or not: nobody knows what the command would have said.
            return _of_step(result, {"error": result["message"] or result["reason"], "hint": result["hint"]})
    if last is None:
        hint = "look at what it printed last; sys.exit() is no way to end a task"
        return Verdict("errored", "runner_died", _problem("the task's Python ended without a last word", hint))
    if last["say"] == "raised":
        answer = answers.get(last["call"]) if last["call"] is not None else None
        if answer is None:
            return Verdict("failed", "raised", last["problem"])
        if answer["answer"] == "refused":
            return Verdict("failed", "spec_refused", last["problem"])
        return _of_step(answer, last["problem"])
    if not results:
        hint = "call run(...) in it: a task that runs nothing proves nothing"
        return Verdict("errored", "ran_nothing", _problem("the task ended without a single step", hint))
    return PASSED


def worst(verdicts: list[Verdict]) -> Verdict:
    """Of equally bad ones the first; of none: nothing ran, which is never green."""
    if not verdicts:
        return Verdict("errored", "ran_nothing")
    return max(verdicts, key=lambda verdict: OUTCOMES.index(verdict.outcome))


def _of_step(result: dict[str, Any], problem: dict[str, Any]) -> Verdict:
    # Without the traceback: the step's own output says what went wrong in it.
    told = {name: value for name, value in problem.items() if name != "traceback"}
    return Verdict(result["outcome"], result["reason"], told)


def _problem(error: str, hint: str) -> dict[str, Any]:
    return {"error": error, "hint": hint}
