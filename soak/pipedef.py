"""Writes a plan down as a pipedef, as a user would: `from bettertest import Stage, run`, and plain Python."""

from __future__ import annotations

from typing import Dict, List

from plan import CAUGHT, UNCHECKED, Call, Plan, Step, Task

IMAGE = "bettertest-test:1"

HEAD = """\
import os
from concurrent.futures import ThreadPoolExecutor

from bettertest import CommandFailed, Stage, StepTimedOut, run

IMAGE = {image!r}
{workers}

def expect_code(result, code):
    # Python's own check of the answer that it got; a wrong one fails the task, which the oracle does not expect.
    assert result.exit_code == code, f"exit code {{result.exit_code}}, not {{code}}"


def at_once(*calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()
"""


def text_of(plan: Plan, addresses: Dict[str, str]) -> str:
    used = sorted({step.worker for step in plan.steps().values()})
    workers = "".join(f"{worker.upper()} = {addresses[worker]!r}\n" for worker in used)
    parts = [HEAD.format(image=IMAGE, workers=workers)]
    for stage in plan.stages:
        body = [f"\n\nclass {stage.name}(Stage):"]
        if stage.always:
            body.append("    always = True")
        for task in stage.tasks:
            body += ["", "    @staticmethod", f"    def task_{task.name}():"]
            body += ["        " + line for line in task_lines(task)]
        parts.append("\n".join(body) + "\n")
    return "".join(parts)


def task_lines(task: Task) -> List[str]:
    written = []
    for group in task.calls:
        if len(group) == 1:
            written += call_lines(group[0])
            continue
        names = []
        for call in group:
            name = "call_" + call.step.key.replace(".", "_")
            names.append(name)
            written.append(f"def {name}():")
            written += ["    " + line for line in call_lines(call)]
        written.append(f"at_once({', '.join(names)})")
    if task.last == "raises":
        written.append("raise ValueError('as planned')")
    if task.last == "exits":
        written.append("os._exit(0)")
    return written or ["pass"]


def call_lines(call: Call) -> List[str]:
    asked = call_text(call.step, unchecked=call.how == UNCHECKED)
    if call.how == CAUGHT:
        return ["try:", f"    {asked}", "except (CommandFailed, StepTimedOut):", "    pass"]
    if call.how == UNCHECKED:
        written = [f"result = {asked}", f"expect_code(result, {call.step.exit_code})"]
        if call.then is not None:
            written += [f"if result.exit_code == {call.step.exit_code}:", f"    {call_text(call.then)}"]
        return written
    return [asked] * call.times


def call_text(step: Step, unchecked: bool = False) -> str:
    options = ""
    if step.timeout_s is not None:
        options += f", timeout_s={step.timeout_s}"
    if step.cap_bytes is not None:
        options += f", output_cap_bytes={step.cap_bytes}"
    if unchecked:
        options += ", check=False"
    return f"run({step.worker.upper()}, IMAGE, {step.command()!r}{options})"
