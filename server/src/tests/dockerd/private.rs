//! A dockerd of a test's own, to be killed, stopped and started as it likes: own data, own network, own socket.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::super::rig::IMAGE;
use crate::worker::EngineChoice;

pub(super) struct Dockerd {
    folder: TempDir,
    bridge: String,
    live_restore: bool,
    daemon: Option<Child>,
}

impl Dockerd {
    /// None where this user cannot have one: it takes root.
    pub(super) fn new(live_restore: bool) -> Option<Dockerd> {
        if !nix::unistd::geteuid().is_root() {
            tracing::warn!("left out: only root can run a dockerd of its own");
            return None;
        }
        let random = crate::auth::random_hex(4);
        let bridge = format!("bt{random}");
        let byte = |at: usize| u8::from_str_radix(&random[at..at + 2], 16).unwrap();
        let address = format!("10.{}.{}.1/24", 200 + byte(0) % 50, byte(2));
        run("ip", &["link", "add", &bridge, "type", "bridge"]);
        run("ip", &["addr", "add", &address, "dev", &bridge]);
        run("ip", &["link", "set", &bridge, "up"]);
        let mut dockerd = Dockerd { folder: TempDir::new().unwrap(), bridge, live_restore, daemon: None };
        dockerd.start();
        let image = dockerd.path("image.tar");
        let image = image.to_str().unwrap();
        run("docker", &["save", "-o", image, IMAGE]);
        dockerd.docker(&["load", "-q", "-i", image]);
        Some(dockerd)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path("d.sock")
    }

    pub(super) fn engine(&self) -> EngineChoice {
        EngineChoice::Docker { host: Some(format!("unix://{}", self.socket().display())) }
    }

    /// Returns once it answers.
    pub(super) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new("dockerd");
        command.args([
            "--storage-driver=vfs",
            "--iptables=false",
            "--ip-masq=false",
            "--userland-proxy=false",
        ]);
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(self.path(name));
        }
        command.args(["--bridge", &self.bridge, "--containerd-namespace", &self.bridge]);
        // Not that of the machine.
        std::fs::write(self.path("daemon.json"), "{}").unwrap();
        command.args(["--shutdown-timeout", "3", "--config-file"]).arg(self.path("daemon.json"));
        command.arg(format!("--live-restore={}", self.live_restore));
        command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        // Of a group of its own: an interrupted test run does not end it before its `Drop` does.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        let began = Instant::now();
        while !self.ask(&["version"]).status.success() {
            let log = || std::fs::read_to_string(self.path("log")).unwrap();
            assert!(began.elapsed() < Duration::from_secs(60), "dockerd does not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.daemon.as_ref().unwrap().id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Returns once it is gone.
    pub(super) fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.daemon.take().unwrap().wait().unwrap();
        // Its containerd goes with it, a little later. The next must not take what is left of it for alive.
        let path = self.path("exec/containerd/containerd.pid");
        let Ok(pid) = std::fs::read_to_string(&path) else { return };
        let stat = format!("/proc/{}/stat", pid.trim());
        let began = Instant::now();
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(began.elapsed() < Duration::from_secs(10), "containerd outlives its dockerd");
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(std::fs::remove_file(path));
    }

    fn ask(&self, words: &[&str]) -> Output {
        let host = format!("unix://{}", self.socket().display());
        Command::new("docker").args(["--host", &host]).args(words).output().unwrap()
    }

    pub(super) fn docker(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(output.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) fn containers(&self) -> String {
        self.docker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"])
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let pid = Pid::from_raw(i32::try_from(daemon.id()).unwrap());
            // A test that failed may have left it stopped, with containers.
            let _ = kill(pid, Signal::SIGCONT);
            let ids = String::from_utf8(self.ask(&["ps", "-aq"]).stdout).unwrap_or_default();
            for id in ids.lines() {
                drop(self.ask(&["rm", "-f", id]));
            }
            let _ = kill(pid, Signal::SIGTERM);
            drop(daemon.wait());
        }
        // What it was killed with open.
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(mount).starts_with(self.folder.path()) {
                drop(Command::new("umount").args(["-l", mount]).output());
            }
        }
        drop(Command::new("ip").args(["link", "del", &self.bridge]).output());
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
