"""Twins of this machine: what happens in one stays there, and goes with it.

A twin has this machine's files, copied when they are written to, so that one may install a binary, add a user or clone
into /srv as on a server of one's own; folders of its own where people keep theirs; loopback and processes of its own. Of
this machine's it has the Docker daemon alone. It is reached by ssh: a real sshd, with a key and a configuration that
live in a temp folder, speaking through a pipe, so that nothing listens anywhere.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

# Runs as the twin's first process, in namespaces of its own. Memory holds what is written: a file system made of
# layers, which / may be, cannot hold it.
BEGIN = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
cd "$1/root"
rm -rf srv var/lib/bettertest etc/default/bettertest usr/local/bin/bettertest* etc/systemd/system/bettertest-*
mkdir srv
mount -t proc proc proc
mount --rbind /dev dev
for own in run tmp root home; do mount -t tmpfs tmpfs $own; done
mkdir -m 755 run/sshd
touch run/docker.sock
mount --bind /run/docker.sock run/docker.sock
mkdir -p ".$2"
mount --bind "$2" ".$2"
ip link set lo up
echo ready
exec chroot . sleep infinity
"""

SSHD = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM yes
PermitRootLogin prohibit-password
PasswordAuthentication no
PidFile none
"""

HOST = """
Host {name}
ProxyCommand nsenter --target {process} --mount --net --pid --root --wd=/ /usr/sbin/sshd -i -f {folder}/sshd_config 2>>{folder}/log
User root
IdentityFile {folder}/key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
LogLevel ERROR
"""


class Twins:
    """`shared` is a folder that all of them, and this machine, have at the same place."""

    def __init__(self, shared: Path) -> None:
        self._shared = shared
        self._first: dict[str, subprocess.Popen[str]] = {}
        self._ssh = shared / "ssh"
        self._ssh.mkdir()
        for key in ("key", "host_key"):
            generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._ssh / key)]
            subprocess.run(generate, check=True)
        (self._ssh / "sshd_config").write_text(SSHD.format(folder=self._ssh))
        # `ssh` is the real one, which here knows the twins, and nobody else.
        self.bin = self._ssh / "bin"
        self.bin.mkdir()
        ssh = self.bin / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self._ssh}/config "$@"\n')
        ssh.chmod(0o755)

    def begin(self, name: str) -> None:
        """A twin that `ssh root@name` reaches."""
        own = self._shared / name
        own.mkdir()
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        self._first[name] = self._start([*unshare, "sh", "-c", BEGIN, "sh", str(own), str(self._shared)])
        with (self._ssh / "config").open("a") as config:
            config.write(HOST.format(name=name, process=self._process(name), folder=self._ssh))
        with (self._ssh / "known_hosts").open("a") as known:
            known.write(f"{name} {(self._ssh / 'host_key.pub').read_text()}")

    def begin_laptop(self) -> list[str]:
        """What to put before a command so that it has this machine's files, and ports of its own."""
        bring_up = "ip link set lo up && echo ready && exec sleep infinity"
        self._first["laptop"] = self._start(["unshare", "--net", "--fork", "--kill-child", "sh", "-c", bring_up])
        return ["nsenter", "--target", self._process("laptop"), "--net"]

    def join(self, one: str, its: str, other: str, others: str) -> None:
        """A cable between two twins, with an address at either end."""
        ends = [(self._process(one), its), (self._process(other), others)]
        peer = ["peer", "name", "cable", "netns", ends[1][0]]
        subprocess.run(["ip", "link", "add", "cable", "netns", ends[0][0], "type", "veth", *peer], check=True)
        for process, address in ends:
            within = ["nsenter", "--target", process, "--net", "ip"]
            subprocess.run([*within, "address", "add", f"{address}/24", "dev", "cable"], check=True)
            subprocess.run([*within, "link", "set", "cable", "up"], check=True)

    def end(self) -> None:
        """Ends every process in every twin: the kernel does that when the first of a twin goes."""
        for process in self._first.values():
            process.kill()
            process.communicate()

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        # Killed tests leave no twin behind.
        command = ["setpriv", "--pdeathsig", "KILL", *command]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != "ready\n":
            process.kill()
            raise AssertionError(f"a twin could not begin: {process.stderr.read()}")
        return process

    def _process(self, name: str) -> str:
        """The process in the new namespaces, which `unshare` waits for."""
        pid = self._first[name].pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
