"""`run(...)` in threads: a task has ended when all of them have, and nothing that failed in one is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .boss import task
from .test_tasks import one


def test_threads_wait_each_for_its_own_step(tmp_path: Path) -> None:
    body = """
import os
def step(name):
    os.write(1, f"{name} {run(W, I, name, check=False).exit_code}\\n".encode())
threads = [threading.Thread(target=step, args=(name,)) for name in "abc"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    with task(one(tmp_path, body), "T.x") as running:
        calls = {}
        for number in (1, 2, 3):
            asked = running.asked()
            assert asked["call"] == number
            calls[asked["spec"]["command"]] = number
        for name, code in (("c", 3), ("a", 1), ("b", 2)):
            running.answer(calls[name], exit_code=code)
        assert running.last() == {"say": "returned"}
        assert sorted(running.printed().split("\n")) == ["", "a 1", "b 2", "c 3"]


@pytest.mark.parametrize("daemon", [True, False])
def test_the_last_word_waits_for_every_step(tmp_path: Path, daemon: bool) -> None:
    body = f"""
threads = [threading.Thread(target=run, args=(W, I, n), daemon={daemon}) for n in "ab"]
for thread in threads: thread.start()
import time
while not all(thread.is_alive() for thread in threads): time.sleep(0)
run(W, I, "main")
"""
    with task(one(tmp_path, body), "T.x") as running:
        asked = {running.asked()["spec"]["command"]: number for number in (1, 2, 3)}
        running.answer(asked["main"])
        running.answer(asked["a"])
        running.answer(asked["b"], exit_code=1)
        raised = running.last()
        assert (raised["say"], raised["call"]) == ("raised", asked["b"])
        assert raised["problem"]["error"] == "CommandFailed: exit code 1 from: b"


def test_a_thread_that_goes_on_after_its_step(tmp_path: Path) -> None:
    body = "def two():\n    run(W, I, 'a')\n    run(W, I, 'b')\nthreading.Thread(target=two).start()"
    with task(one(tmp_path, body), "T.x") as running:
        for number in (1, 2):
            running.asked()
            running.answer(number)
        assert running.last() == {"say": "returned"}


LOST = "CommandFailed: exit code 1 from: bad"


@pytest.mark.parametrize(
    "use, raises",
    [
        ("with ThreadPoolExecutor() as pool: pool.map(step, ['bad'])", True),
        ("with ThreadPoolExecutor() as pool: pool.submit(step, 'bad')", True),
        ("ThreadPoolExecutor().submit(step, 'bad')", True),
        ("global POOL; POOL = ThreadPoolExecutor(); POOL.submit(step, 'bad')", True),
        ("with ThreadPoolExecutor() as pool: list(pool.map(step, ['bad']))", True),
        ("ThreadPoolExecutor().submit(step, 'bad').result()", True),
        ("with suppress(CommandFailed): ThreadPoolExecutor().submit(step, 'bad').result()", False),
        ("ThreadPoolExecutor().submit(careful, 'bad').result()", False),
        ("threading.Thread(target=careful, args=['bad']).start()", False),
        ("threading.Thread(target=step, args=['bad']).start()", True),
        ("asyncio.run(asyncio.to_thread(step, 'bad'))", True),
    ],
)
def test_a_failure_that_nobody_caught_is_the_tasks(tmp_path: Path, use: str, raises: bool) -> None:
    body = f"""
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
import asyncio
def step(name): run(W, I, name)
def careful(name):
    with suppress(CommandFailed): run(W, I, name)
{use}
"""
    with task(one(tmp_path, body), "T.x") as running:
        running.asked()
        running.answer(1, exit_code=1)
        last = running.last()
        if raises:
            assert (last["call"], last["problem"]["error"]) == (1, LOST), last
        else:
            assert last == {"say": "returned"}


def test_a_group_of_failures_is_its_first(tmp_path: Path) -> None:
    if sys.version_info < (3, 11):
        # Groups came with Python 3.11; before it there is nothing to show.
        return
    body = """
import asyncio
async def both():
    async with asyncio.TaskGroup() as group:
        for name in "ab":
            group.create_task(asyncio.to_thread(run, W, I, name))
asyncio.run(both())
"""
    with task(one(tmp_path, body), "T.x") as running:
        calls = [running.asked()["call"] for _ in range(2)]
        for call in calls:
            running.answer(call, outcome="timed_out", reason="step_timeout")
        last = running.last()
        assert last["say"] == "raised" and last["call"] in calls
