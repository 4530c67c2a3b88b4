"""`agents/enrollment.md`, every command of it, in order, twice, from a laptop to a server that are twins of this machine.

The blocks are read from the text itself, so that it cannot say anything else. Only what its reader is asked to put in
(host, repository, folder), and what cannot be had here (sudo, an image of a registry), is something else. A twin has
no systemd: the blocks for it are executed with a `systemctl` that verifies the units, those for a machine without it
start the processes.
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

import pytest

from .test_laptop import ROOT
from .twin import Twins

TEXT = Path(ROOT, "agents/enrollment.md").read_text("utf-8")
#: For all of it. Twice a binary of some ten megabytes goes through ssh, on a machine that does other things too.
PATIENCE_S = 600

#: Stands in for systemd, which cannot run here: it looks at what it is told to start.
SYSTEMCTL = """#!/bin/sh
verb=$1
shift
case $verb in
daemon-reload) exit ;;
enable) [ "$1" = --quiet ] && shift ;;
restart) ;;
*) echo "what is $verb?" >&2; exit 1 ;;
esac
for unit; do
  said=$(systemd-analyze verify /etc/systemd/system/$unit.service 2>&1) || { echo "$said" >&2; exit 1; }
  if echo "$said" | grep bettertest >&2; then exit 1; fi
done
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a twin of this machine: use sudo")


class Block(NamedTuple):
    line: int
    #: `sh`, `sh build`, `sh systemd`, `sh plain`, or `see`.
    kind: str
    text: str


def blocks() -> list[Block]:
    found: list[Block] = []
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)^```$", TEXT, re.MULTILINE):
        found.append(Block(TEXT.count("\n", 0, match.start()) + 1, match[1], match[2]))
    return found


def as_pattern(see: str) -> str:
    """`<WORDS>` stand for anything in a line."""
    parts = re.split(r"<[A-Z]+>", see.strip())
    return "[^\n]+".join(re.escape(part) for part in parts)


def blocks_of(kinds: set[str]) -> list[tuple[Block, Optional[Block]]]:
    """Those blocks, each with what is to be seen after it."""
    found: list[tuple[Block, Optional[Block]]] = []
    for block in blocks():
        if block.kind == "see":
            found[-1] = (found[-1][0], block)
        elif block.kind in kinds:
            found.append((block, None))
    return found


@pytest.fixture
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    folder = tmp_path_factory.mktemp("enrollment")
    twins = Twins(folder)
    image = f"enrolled-{uuid.uuid4().hex[:12]}"
    try:
        for name in ("server.example.com", "big.example.com"):
            twins.begin(name)
        twins.join("server.example.com", "10.0.0.1", "big.example.com", "10.0.0.7")
        yield Laptop(folder, twins, image)
    finally:
        twins.end()
        # Each build took the name from the one before it.
        made = set((folder / "images").read_text().split())
        subprocess.run(["docker", "image", "rm", "--force", *made], stdout=subprocess.DEVNULL, check=True)


class Laptop:
    """Types the commands."""

    def __init__(self, folder: Path, twins: Twins, image: str) -> None:
        self._folder = folder
        self._before = twins.begin_laptop()
        self._repository = folder / "myproject.git"
        self._environment = {
            **os.environ,
            "PATH": f"{twins.bin}:{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
        }
        (folder / "gitconfig").write_text("[user]\nname = me\nemail = me@example.com\n[init]\ndefaultBranch = main\n")
        self._instead = {
            "me@server.example.com sudo": "root@server.example.com",
            "me@server.example.com": "root@server.example.com",
            "me@big.example.com sudo": "root@big.example.com",
            "https://git.example.com/me/myproject.git": f"file://{self._repository}",
            "PROJECT=~/myproject": f"PROJECT={folder}/myproject",
            "FROM python:3.13-slim": "FROM bettertest-test:1",
            "myproject-test": image,
        }
        self._make_repository()

    def _make_repository(self) -> None:
        self.type(
            f"git init --quiet --bare {self._repository}\n"
            f"git clone --quiet {self._repository} {self._folder}/author 2>/dev/null\n"
            f"cd {self._folder}/author\n"
            "printf '#!/bin/sh\\necho tested\\n' >test.sh\n"
            "chmod +x test.sh\n"
            "git add test.sh\n"
            "git commit --quiet -m 'a project'\n"
            "git push --quiet\n"
        )

    def put_in(self, text: str) -> str:
        for said, here in self._instead.items():
            text = text.replace(said, here)
        return text

    def type(self, script: str) -> str:
        path = self._folder / "typed.sh"
        path.write_text(script)
        command = [*self._before, "bash", "-e", str(path)]
        pipe = subprocess.PIPE
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            timeout=PATIENCE_S,
        )
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def follow(self, kinds: set[str]) -> None:
        """Types all blocks in one shell, and compares what each says with what the text says."""
        typed = blocks_of(kinds)
        script = ""
        for number, (block, _) in enumerate(typed):
            (self._folder / f"{number}.sh").write_text(self.put_in(block.text))
            # Into a file, not a pipe: what goes to the background would keep that open.
            said = f"{self._folder}/{number}.said"
            script += f"echo line {block.line}, $SECONDS s: >&2\n. {self._folder}/{number}.sh >{said}\n"
        try:
            self.type(script)
        finally:
            for path in sorted(self._folder.glob("*.said")):
                with (self._folder / "images").open("a") as images:
                    images.writelines(re.findall(r"sha256:[0-9a-f]+\n", path.read_text()))
        said = ""
        for number, (_, see) in enumerate(typed):
            said += (self._folder / f"{number}.said").read_text()
            if see is not None:
                wanted = self.put_in(see.text)
                assert re.fullmatch(as_pattern(wanted), said.strip()), f"line {see.line}: {wanted!r} is {said!r}"
                said = ""
        assert said == ""


def test_every_block_is_of_a_known_kind() -> None:
    kinds = [block.kind for block in blocks()]
    assert set(kinds) == {"sh", "sh build", "sh systemd", "sh plain", "see"}
    # `make test` has made what these tests use by the same command before it comes to them.
    assert [block.text for block in blocks() if block.kind == "sh build"] == ["make\n"]
    # What only one of the two kinds of machine does, the other does too.
    assert kinds.count("sh systemd") == kinds.count("sh plain")


def test_all_commands_once_and_once_again(laptop: Laptop) -> None:
    laptop.follow({"sh", "sh plain"})
    for name in ("server.example.com", "big.example.com"):
        laptop.type(f"ssh root@{name} install -m 755 /dev/stdin /usr/local/bin/systemctl <<'EOF'\n{SYSTEMCTL}EOF\n")
    laptop.follow({"sh", "sh systemd", "sh plain"})
