"""A process that stays after discovery, and its forks: each is what a process of its own would be."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bettertest._spawn import PipedefProcess

from .boss import PATIENCE_S, task, write
from .forks import Host, host
from .test_tasks import is_alive

HEAD = "from bettertest import Stage, run\nimport os, sys\ndef ask(command): run('http://w', 'i', str(command))\n"


def two(tmp_path: Path, body: str, outside: str = "") -> str:
    """A pipedef with the tasks T.a and T.b, which do the same."""
    lines = "".join(f"        {line}\n" for line in body.strip("\n").split("\n"))
    tasks = "".join(f"    def task_{name}(self):\n{lines}" for name in "ab")
    return write(tmp_path, {"pipedef.py": f"{HEAD}{outside}\nclass T(Stage):\n{tasks}"})


def asked_by_both(running: Host) -> tuple[str, str]:
    return running.fork("T.a").asked(), running.fork("T.b").asked()


def test_the_pipedef_is_executed_once_and_what_a_task_changes_no_other_sees(tmp_path: Path) -> None:
    outside = "print('executed'); count = [0]"
    pipedef = two(tmp_path, "count[0] += 1\nprint('in', count)\nask(count[0])", outside)
    with host(pipedef) as running:
        for name in ("T.a", "T.b"):
            fork = running.fork(name)
            assert fork.asked() == "1"
            fork.pass_it()
            assert fork.hear() == {"say": "returned"}
            assert fork.hear() is None
            assert fork.printed() == "in [1]\n"
        assert running.printed() == "executed\n"
        assert running.end() == 0


def test_what_a_fork_costs_does_not_grow_with_the_number_of_tasks(tmp_path: Path) -> None:
    def copied(count: int) -> int:
        """How many pages the kernel gives a task of its own, of those that it shares with the host at first."""
        ask = "import resource; ask(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
        tasks = "".join(f"    def task_{number}(self): {ask}\n" for number in range(count))
        pipedef = write(tmp_path, {"pipedef.py": f"{HEAD}class T(Stage):\n{tasks}"})
        with host(pipedef) as running:
            return int(running.fork(f"T.{count - 1}").asked())

    few, many = copied(10), copied(5000)
    # To look at each of its names alone would copy hundreds.
    assert many < few + 150, (few, many)


def test_a_task_has_its_own_group_and_descriptors(tmp_path: Path) -> None:
    body = (
        "here = {fd for fd in range(100) if os.path.exists(f'/proc/self/fd/{fd}')}\n"
        "ask((os.getpgrp() == os.getpid(), len(here), here >= {0, 1, 2}))"
    )
    with host(two(tmp_path, body)) as running:
        # The fourth is that by which it asks.
        assert asked_by_both(running) == (str((True, 4, True)),) * 2


def test_random_numbers_differ_unless_the_pipedef_has_seeded_them(tmp_path: Path) -> None:
    with host(two(tmp_path, "ask(random.random())", "import random; random.random()")) as running:
        first, second = asked_by_both(running)
        assert first != second
    with host(two(tmp_path, "ask(random.random())", "import random; random.seed(7); random.random()")) as running:
        first, second = asked_by_both(running)
        fresh = "import random; random.seed(7); random.random(); print(random.random(), end='')"
        assert first == second == subprocess.check_output([sys.executable, "-c", fresh], text=True)


@pytest.mark.parametrize(
    "worst",
    ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()", "sys.exit(0)", "import ctypes; ctypes.string_at(0)"],
)
def test_the_end_of_one_is_not_seen_by_another(tmp_path: Path, worst: str) -> None:
    body = f"ask('first')\nif os.path.exists('worst'): {worst}\nask('second')"
    with host(two(tmp_path, body)) as running:
        dies, lives = running.fork("T.a"), running.fork("T.b")
        dies.asked()
        lives.asked()
        (tmp_path / "worst").write_text("")
        dies.pass_it()
        assert dies.hear() is None
        (tmp_path / "worst").unlink()
        lives.pass_it()
        assert lives.asked() == "second"
        assert running.fork("T.a").asked() == "first"
        running.reap(dies.pid)
        # It was told one after another.
        running.fork("T.a")
        assert not Path(f"/proc/{dies.pid}").exists()


def test_a_host_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    with host(two(tmp_path, "ask(1)\nos.kill(os.getppid(), 9)\nask(2)")) as running:
        kills, other = running.fork("T.a"), running.fork("T.b")
        other.asked()
        kills.asked()
        kills.pass_it()
        assert kills.asked() == "2"
        assert running.process._process.wait(PATIENCE_S) == -9
        kills.pass_it()
        assert kills.hear() == {"say": "returned"}
        other.pass_it()
        assert other.asked() == "2"


@pytest.mark.parametrize(
    "outside, why",
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()", "a thread"),
        ("import subprocess; subprocess.Popen(['sleep', '1000'])", "starts a process"),
        ("import os\nif os.fork() == 0: os._exit(0)", "starts a process"),
        ("log = open(os.devnull)", "leaves files or sockets open"),
        ("os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)", "leaves files or sockets open"),
        ("import mmap; shared = mmap.mmap(-1, 4096)", "shares memory"),
        ("import signal; signal.alarm(1000)", "sets a timer"),
        ("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "handles SIGCHLD"),
    ],
)
def test_what_would_not_be_the_same_in_a_fork_is_not_forked(tmp_path: Path, outside: str, why: str) -> None:
    with host(two(tmp_path, "ask(1)", outside)) as running:
        assert why in running.discovered["unforkable"]
        assert running.process._process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    "outside",
    [
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
        "import subprocess; subprocess.run(['true'])",
        "open(os.devnull)",
        "class Holds: pass\nh = Holds(); h.me = h; h.file = open(os.devnull, 'rb', 0); del h",
        "import logging, tempfile, weakref, multiprocessing, concurrent.futures, asyncio, urllib.request",
    ],
)
def test_what_is_over_by_then_is_forked(tmp_path: Path, outside: str) -> None:
    pipedef = two(tmp_path, "ask(1)", f"import warnings; warnings.simplefilter('ignore')\n{outside}")
    with host(pipedef) as running:
        assert "unforkable" not in running.discovered
        assert asked_by_both(running) == ("1", "1")


def test_what_was_registered_outside_of_tasks_is_done_once_at_the_end(tmp_path: Path) -> None:
    outside = (
        "import atexit, tempfile\natexit.register(print, 'the host ends')\n"
        "shared = tempfile.TemporaryDirectory(dir='.')\n"
    )
    body = (
        "atexit.register(print, 'the task ends')\nown = tempfile.TemporaryDirectory(dir='.')\n"
        "globals()['kept'] = own\nask(own.name)"
    )
    with host(two(tmp_path, body, outside)) as running:
        fork = running.fork("T.a")
        own = fork.asked()
        fork.pass_it()
        assert fork.hear() == {"say": "returned"}
        assert fork.hear() is None
        assert fork.printed() == "the task ends\n"
        assert not os.path.exists(own)
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
        assert running.end() == 0
        assert running.printed() == "the host ends\n"
        assert [path.name for path in tmp_path.iterdir()] == ["pipedef.py"]


@pytest.mark.parametrize(
    "outside, body",
    [
        ("", "print('plain')"),
        ("import atexit", "atexit.register(print, 'last')"),
        ("", "global kept; kept = open(1, 'w', closefd=False); kept.write('never closed')\nsys.exit(3)"),
        ("", "global kept; kept = open(1, 'w', closefd=False); kept.write('never closed')\nraise ValueError"),
        ("", "global kept; kept = open(1, 'w', closefd=False); kept.write('never closed')"),
        ("kept = open(1, 'w', closefd=False)", "kept.write('never flushed')"),
        ("import io\nkept = io.TextIOWrapper(io.FileIO(1, 'w', closefd=False))", "kept.write('never flushed')"),
        ("import atexit", "atexit.register(print, 'once')\nglobal kept; kept = open(1, 'w'); kept.write('never closed')"),
        ("import gzip", "global kept; kept = gzip.GzipFile('', 'wb', 0, os.fdopen(os.dup(1), 'wb'), 0)\nkept.write(b'x')"),
        ("class Ends:\n    def __del__(self): print('ends')", "global kept; kept = Ends()"),
        ("def f():\n    try: yield\n    finally: print('ends')", "global kept; kept = f(); next(kept)"),
        ("", "import ctypes; ctypes.CDLL(None).printf(b'never flushed')"),
        ("import threading, time", "threading.Timer(0.1, print, ['later']).start()"),
        ("sys.stdout = None", "print('nowhere')"),
        ("import logging.handlers", "logging.getLogger().addHandler(logging.handlers.MemoryHandler(\n"
         "    9, target=logging.StreamHandler()))\nlogging.warning('kept until the end')"),
    ],
)
def test_the_end_does_what_pythons_own_does(tmp_path: Path, outside: str, body: str) -> None:
    pipedef = two(tmp_path, body, outside)
    with host(pipedef) as running:
        fork = running.fork("T.a")
        said = list(iter(fork.hear, None))
        printed = fork.printed()
    with task(pipedef, "T.a") as fresh:
        assert said == list(iter(fresh.last, None))
        fresh.process._process.wait(PATIENCE_S)
        assert printed == fresh.printed()
    assert printed or "nowhere" in body


def test_what_a_task_imports_is_recorded_before_it_is_executed(tmp_path: Path) -> None:
    pipedef = two(tmp_path, "import late\nask(late.X)")
    late = "print('executed')\nX = 7\n"
    write(tmp_path, {"late.py": late})
    with host(pipedef) as running:
        fork = running.fork("T.a")
        digest = hashlib.sha256(late.encode()).hexdigest()
        said = fork.hear()
        assert said == {"say": "imported", "path": str(tmp_path / "late.py"), "sha256": digest, "call": 1}
        assert fork.printed() == ""
        fork.record(said["call"])
        assert fork.asked() == "7"


def test_the_stored_texts_are_executed_and_shown(tmp_path: Path) -> None:
    pipedef = two(tmp_path, "import sys, more\nmore.fail()", "import more")
    write(tmp_path, {"more.py": "def fail():\n    raise ValueError('so it was')\n"})
    with host(pipedef) as running:
        files = running.discovered["files"]
        write(tmp_path, {"more.py": "1/0\n" * 9})
        problem = running.fork("T.a").hear()["problem"]
        assert "raise ValueError('so it was')" in problem["traceback"]
    with host(pipedef, files) as again:
        assert again.discovered["files"] == files
        assert again.fork("T.a").hear()["problem"] == problem


def test_a_child_of_a_task_is_in_its_group(tmp_path: Path) -> None:
    body = "import subprocess\nask((os.getpid(), subprocess.Popen(['sleep', '3600']).pid))"
    with host(two(tmp_path, body)) as running:
        fork = running.fork("T.a")
        task, child = json.loads(fork.asked().replace("(", "[").replace(")", "]"))
        assert task == fork.pid and os.getpgid(child) == task
        fork.hang_up()
        wait_for_the_end_of(str(task), str(child))


@pytest.mark.parametrize("outside", ["", "while True: pass"])
def test_when_the_boss_is_gone_so_is_the_host_even_one_that_hangs(tmp_path: Path, outside: str) -> None:
    begun = f"open('pids', 'w').write(str(os.getpid()))\n{outside}"
    process = PipedefProcess(two(tmp_path, "ask(1)", begun), subprocess.DEVNULL)
    process.say({"order": "discover", "pipedef": str(tmp_path / "pipedef.py"), "stay": True})
    if not outside:
        assert next(process.messages(PATIENCE_S))["say"] == "discovered"
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process._socket.close()
    assert process._process.wait(PATIENCE_S) == -9


def wait_for_the_end_of(*pids: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.01)
