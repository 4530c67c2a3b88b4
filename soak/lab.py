"""The real thing, in a folder of its own: a boss, workers, a second Docker daemon, each a process that may be killed.

It starts and stops them and knows where they keep what. What is done to them is in `faults.py`, what has to hold in
`check.py`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from disk import SmallDisk
from pipedef import IMAGE
from plan import DOCKER, FAKE, NATIVE, OWN, SECOND
from proxy import Proxy

HERE = Path(__file__).resolve().parent
BINARY = HERE.parent / "target/release/bettertest"
SLOTS = {DOCKER: 3, FAKE: 4, NATIVE: 3, SECOND: 2}
#: By the name of a worker; local runs choose themselves.
ENGINES = {DOCKER: "docker", FAKE: "fake", NATIVE: "native", SECOND: "docker"}
START_S = 60.0


def bound() -> socket.socket:
    """A port of ours, below those that the kernel lends to whoever connects: it has to be free at each restart too."""
    while True:
        taken = socket.socket()
        try:
            taken.bind(("127.0.0.1", 20000 + secrets.randbelow(12000)))
            return taken
        except OSError:
            taken.close()


def free_port() -> int:
    with bound() as taken:
        port: int = taken.getsockname()[1]
        return port


class Part:
    """One process of ours, which may be killed and started again; all of them write to one log per part."""

    def __init__(self, name: str, argv: List[str], log: Path) -> None:
        self.name = name
        self.argv = argv
        self.log = log
        self.process: Optional[subprocess.Popen[bytes]] = None
        #: Ends that nobody asked for.
        self.surprises: List[Tuple[float, int]] = []
        self.lock = threading.RLock()

    def start(self) -> None:
        with self.lock, open(self.log, "ab") as log:
            log.write(f"--- {self.name} starts at {time.time():.3f}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tell(self, what: signal.Signals) -> None:
        if self.alive():
            os.kill(self.pid, what)

    def kill(self) -> None:
        with self.lock:
            self.tell(signal.SIGKILL)
            self.wait(30)

    def wait(self, seconds: float) -> bool:
        """Has it ended in time?"""
        if self.process is None:
            return True
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


class Daemon(Part):
    """A Docker daemon beside the machine's own: other folders, another socket, a bridge and addresses of its own.

    It leaves the packet filter alone, so that the machine's daemon does not hear of it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.bridge = f"bts{name[:8]}"
        self.socket = f"unix://{folder}/docker.sock"
        self.live_restore = False
        super().__init__("dockerd", [], folder / "dockerd.log")

    def build(self, subnet: int) -> Optional[str]:
        """Why it cannot be had, if so."""
        if os.geteuid() != 0:
            return "only root may start a second Docker daemon"
        if not (shutil.which("dockerd") and shutil.which("ip")):
            return "there is no dockerd or no ip on the path"
        self.folder.mkdir(parents=True)
        for words in (f"link add {self.bridge} type bridge", f"addr add 172.30.{subnet}.1/24 dev {self.bridge}",
                      f"link set {self.bridge} up"):
            made = subprocess.run(["ip", *words.split()], capture_output=True, text=True)
            if made.returncode != 0:
                return f"a bridge cannot be made: {made.stderr.strip()}"
        self.start()
        if not self.answers(30):
            return f"the second Docker daemon does not start, see {self.log}"
        saved = subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE)
        loaded = subprocess.run(self.docker("load"), stdin=saved.stdout, capture_output=True, text=True)
        saved.wait()
        return None if loaded.returncode == 0 else f"the image cannot be loaded: {loaded.stderr.strip()}"

    def start(self) -> None:
        self.argv = [
            "dockerd", "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec",
            "--pidfile", f"{self.folder}/pid", "--host", self.socket, "--bridge", self.bridge,
            "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
            "--userland-proxy=false", f"--live-restore={str(self.live_restore).lower()}",
        ]  # fmt: skip
        # A killed daemon leaves its containerd, or a file with its number, which may be another process by now.
        for pid in processes_of(f"{self.folder}/exec/containerd/containerd.toml"):
            os.kill(pid, signal.SIGKILL)
        for file in ("pid", "exec/containerd/containerd.pid", "exec/containerd/containerd.sock"):
            Path(f"{self.folder}/{file}").unlink(missing_ok=True)
        super().start()

    def docker(self, *words: str) -> List[str]:
        return ["docker", "--host", self.socket, *words]

    def answers(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            asked = subprocess.run(self.docker("version"), capture_output=True, timeout=60)
            if asked.returncode == 0:
                return True
            if not self.alive():
                return False
            time.sleep(0.1)
        return False

    def tear_down(self) -> None:
        if self.process is not None:
            if self.answers(10):
                left = subprocess.run(self.docker("ps", "-aq"), capture_output=True, text=True).stdout.split()
                if left:
                    subprocess.run(self.docker("rm", "-f", *left), capture_output=True)
            self.tell(signal.SIGTERM)
            if not self.wait(30):
                self.kill()
        # What a killed daemon has left: its containerd and shims name the folder, its mounts lie in it.
        for pid in processes_of(str(self.folder)):
            os.kill(pid, signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(str(self.folder))), reverse=True):
            subprocess.run(["umount", "-l", mount], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


def processes_of(text: str) -> List[int]:
    """The processes, but this one, whose command line holds this text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if text.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


class Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Lab:
    def __init__(self, seed: int, seconds: float) -> None:
        self.seconds = seconds
        self.folder = Path(tempfile.mkdtemp(prefix="bettertest-soak-"))
        self.name = self.folder.name[-8:].lower().replace("_", "x")
        # A copy, so that a build may go on beside it.
        self.binary = Path(shutil.copy2(BINARY, self.folder / "bettertest"))
        self.pipedef = self.folder / "project" / "pipedef.py"
        self.pipedef.parent.mkdir()
        self.token = secrets.token_hex(32)
        #: What could not be had here, and why.
        self.skipped: Dict[str, str] = {}
        self.disks: Dict[str, SmallDisk] = {}
        self.daemon: Optional[Daemon] = None
        #: Answers of the boss that it has to be asked about: when, what was asked, the status.
        self.server_errors: List[Tuple[float, str, int]] = []
        daemon = Daemon(self.folder / "dockerd", self.name)
        why = daemon.build(subnet=100 + seed % 100)
        if why is None:
            self.daemon = daemon
        else:
            self.skipped["dockerd"] = why
            daemon.tear_down()
        self.workers: Dict[str, Part] = {}
        self.proxies: Dict[str, Proxy] = {}
        # Taken, but nothing listens there: a local run that names it has to bring its own worker.
        self.nobody = bound()
        self.addresses: Dict[str, str] = {OWN: f"http://127.0.0.1:{self.nobody.getsockname()[1]}"}
        if os.geteuid() != 0:
            self.skipped["native"] = "only root can make sandboxes"
        for name in (DOCKER, FAKE, NATIVE, SECOND):
            if (name != SECOND or self.daemon) and name not in self.skipped:
                self.add_worker(name, name == FAKE)
        data = self.data_dir("boss", True)
        self.boss_port = free_port()
        self.boss = self.part("boss", "--boss", "--pipedef", str(self.pipedef), "--listen",
                              f"127.0.0.1:{self.boss_port}", "--data-dir", str(data))  # fmt: skip
        self.base = f"http://127.0.0.1:{self.boss_port}"

    def add_worker(self, name: str, small: bool) -> None:
        port = free_port()
        options = ["--worker", "--listen", f"127.0.0.1:{port}", "--slots", str(SLOTS[name])]
        options += ["--data-dir", str(self.data_dir(name, small))]
        options += ["--engine", ENGINES[name]]
        options += ["--docker-host", self.daemon.socket] if name == SECOND and self.daemon else []
        self.workers[name] = self.part(name, *options)
        self.proxies[name] = Proxy(port)
        self.addresses[name] = f"http://127.0.0.1:{self.proxies[name].port}"

    def data_dir(self, name: str, small: bool) -> Path:
        """Every data dir gets the same token, so that the boss may ask all workers on this machine."""
        path = self.folder / f"data-{name}"
        path.mkdir()
        if small:
            disk = SmallDisk(self.folder / f"disk-{name}.img", path, self.seconds)
            why = disk.mount()
            if why is None:
                self.disks[name] = disk
            else:
                self.skipped["disk"] = why
        (path / "token").write_text(self.token + "\n")
        (path / "token").chmod(0o600)
        return path

    def part(self, name: str, *options: str) -> Part:
        return Part(name, [str(self.binary), *options], self.folder / f"{name}.log")

    def start(self) -> None:
        self.pipedef.write_text("from bettertest import Stage\n")
        for part in self.parts():
            part.start()
        for part in self.parts():
            if not self.ready(part):
                raise RuntimeError(f"{part.name} did not start within {START_S:.0f} s, see {part.log}")

    def parts(self) -> List[Part]:
        return [*self.workers.values(), self.boss]

    def ready(self, part: Part, seconds: float = START_S) -> bool:
        deadline = time.monotonic() + seconds
        port = self.boss_port if part is self.boss else int(part.argv[3].rpartition(":")[2])
        while time.monotonic() < deadline and part.alive():
            with socket.socket() as asked:
                asked.settimeout(1)
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    return True
            time.sleep(0.05)
        return False

    def store(self) -> Path:
        return self.folder / "data-boss/boss"

    def local_stores(self) -> List[Path]:
        return sorted(path.parent for path in self.folder.glob("data-boss/local/*/runs.sqlite"))

    def ask(self, path: str, body: Optional[Dict[str, Any]] = None, seconds: float = 30.0) -> Any:
        """What the boss answers; `OSError` where it does not, `Refused` where it says no."""
        method = "GET" if body is None else "POST"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=seconds) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code >= 500:
                self.server_errors.append((time.time(), f"{method} {path}: {text}", error.code))
            raise Refused(error.code, text) from None
        except (ValueError, EOFError) as error:
            raise OSError(f"no answer: {error}") from None
        return content if path.partition("?")[0].endswith(("/output", "/index")) else json.loads(content)

    def instances(self) -> List[str]:
        """What containers of ours are labelled with."""
        return [path.read_text().strip() for path in self.folder.glob("data-*/instance")]

    def tear_down(self) -> None:
        for part in self.parts():
            part.tell(signal.SIGCONT)
            part.kill()
        for proxy in self.proxies.values():
            proxy.close()
        if self.daemon is not None:
            self.daemon.tear_down()
        for disk in self.disks.values():
            disk.unmount()
