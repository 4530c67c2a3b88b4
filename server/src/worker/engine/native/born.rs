//! A sandbox as its supervisor has it: how it is made, what comes out of it, how it ended, and how it goes.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::cgroup::{Cgroup, Hierarchy};
use super::files::Doing as _;
use super::order::{Base, Ended, ORDER, Order, STARTED};
use super::over::Over;
use super::sandbox::{self, Inside};
use super::supervisor::{STDERR, STDOUT};
use super::walls::{self, Cloned};

/// How much a pipe holds, where the kernel allows it.
const PIPE_BYTES: i32 = 1024 * 1024;
const READ_BYTES: usize = 128 * 1024;

pub(super) struct Sandbox {
    init: Pid,
    /// To its first process; None once that has its order.
    go: Option<UnixStream>,
    /// Readable once it has ended.
    pidfd: OwnedFd,
    /// As it was waited for; None as long as it lives.
    waited: Option<WaitStatus>,
    status: Option<File>,
    said: String,
    streams: [(u8, Option<File>); 2],
    /// What is read goes here first: so small pieces, which are many, do not hold on to the room of large ones.
    buffer: Vec<u8>,
    /// When the command began and ended, in ns as `sandbox::now_ns` counts them.
    began_ns: Option<u64>,
    ended_ns: Option<u64>,
    cgroup: Cgroup,
    rootfs: PathBuf,
    _image: File,
    /// Held as the image is.
    _source: Option<File>,
    /// Its mounts. They are taken down with the last who has them, which takes a while: not with the sandbox, for
    /// whose end somebody waits, but with this process.
    _mounts: Option<File>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Running,
    Failed(String),
    Over(Ended),
}

impl Sandbox {
    /// Up to where it has to know for which step it is.
    pub(super) fn make(
        folder: &Path,
        base: &Base,
        network: Option<OwnedFd>,
        filter: &[libc::sock_filter],
        hierarchy: &Hierarchy,
    ) -> Result<Sandbox, String> {
        let image = File::open(&base.image_lock).doing("opening the image")?;
        image.lock_shared().doing("holding the image")?;
        for name in ["root", "upper", "work"] {
            fs::create_dir(folder.join(name)).doing(&format!("making the container's folder {name}"))?;
        }
        let cgroup = Cgroup::make(hierarchy.clone(), &base.cgroup).doing("making the cgroup")?;
        let born = Sandbox::clone(folder, base, network.as_ref(), filter, hierarchy, &cgroup);
        let (init, pidfd, go, status, stdout, stderr) = match born {
            Ok(born) => born,
            Err(why) => {
                drop(cgroup.remove());
                return Err(why);
            }
        };
        Ok(Sandbox {
            init,
            go: Some(go),
            pidfd,
            waited: None,
            status: Some(status),
            said: String::new(),
            streams: [(STDOUT, Some(stdout)), (STDERR, Some(stderr))],
            buffer: vec![0; READ_BYTES],
            began_ns: None,
            ended_ns: None,
            cgroup,
            rootfs: base.rootfs.clone(),
            _image: image,
            _source: None,
            _mounts: File::open(format!("/proc/{init}/ns/mnt")).ok(),
        })
    }

    fn clone(
        folder: &Path,
        base: &Base,
        network: Option<&OwnedFd>,
        filter: &[libc::sock_filter],
        hierarchy: &Hierarchy,
        cgroup: &Cgroup,
    ) -> Result<(Pid, OwnedFd, UnixStream, File, File, File), String> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).doing("making a pipe");
        let ((stdout, stdout_in), (stderr, stderr_in)) = (pipe()?, pipe()?);
        let (status, status_in) = pipe()?;
        let (go_out, mut go) = UnixStream::pair().doing("making a line to the container")?;
        for stream in [&stdout, &stderr] {
            // A smaller one is a slower one, and no worse.
            let _ = fcntl(stream, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        }
        for end in [&stdout, &stderr, &status] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing("preparing a pipe")?;
        }
        let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
        if network.is_none() {
            flags |= libc::CLONE_NEWNET;
        }
        let into = cgroup.to_be_born_in().doing("opening the cgroup")?;
        let (init, pidfd) = match walls::clone(flags, into.as_ref()).doing("making the namespaces")? {
            Cloned::Parent(init, pidfd) => (init, pidfd),
            Cloned::Child => {
                drop((stdout, stderr, status, go));
                sandbox::live(Inside {
                    folder,
                    base,
                    hierarchy,
                    network,
                    filter,
                    go: go_out,
                    status: status_in.into(),
                    stdout: stdout_in,
                    stderr: stderr_in,
                })
            }
        };
        let joined = if into.is_some() { Ok(()) } else { cgroup.join(init) };
        if let Err(error) = joined.and_then(|()| go.write_all(&[1])) {
            let _ = kill(init, Signal::SIGKILL);
            let _ = waitpid(init, None);
            return Err(format!("letting the container be made: {error}"));
        }
        Ok((init, pidfd, go, status.into(), stdout.into(), stderr.into()))
    }

    /// Lets the step begin that has been ordered in the folder. Answers with its deadline, in seconds since 1970.
    pub(super) fn begin(&mut self, folder: &Path) -> Result<u64, String> {
        let json = fs::read(folder.join(ORDER)).doing("reading the order")?;
        let order: Order = serde_json::from_slice(&json).doing("reading the order")?;
        let mut go = self.go.take().ok_or("it has an order already")?;
        self.see_end();
        if self.waited.is_some() {
            return Err("it ended while it waited for its step".to_owned());
        }
        self.cgroup.limit(&order).doing("setting the limits")?;
        let over =
            order.source.as_ref().map(|source| Over::make(folder, &self.rootfs, source)).transpose()?;
        // On record before it may begin: who finds this and no supervisor does not start the step a second time.
        fs::write(folder.join(STARTED), b"").doing("noting that it begins")?;
        go.write_all(&sandbox::told(&json)).doing("letting the container begin")?;
        if let Some(over) = over {
            over.hand_over(&go)?;
            self._source = Some(over.tree);
        }
        Ok(order.deadline_s)
    }

    /// It waits for its order.
    pub(super) fn is_ready(&self) -> bool {
        self.line("ready").is_some()
    }

    /// What to wait for. Output is not, where there is no room for it; but an ended sandbox has not much left.
    pub(super) fn watched(&self, may_read: bool) -> Vec<BorrowedFd<'_>> {
        let mut watched = Vec::new();
        if may_read || self.waited.is_some() {
            watched.extend(self.streams.iter().filter_map(|(_, stream)| stream.as_ref().map(File::as_fd)));
        }
        watched.extend(self.status.as_ref().map(File::as_fd));
        if self.waited.is_none() {
            watched.push(self.pidfd.as_fd());
        }
        watched
    }

    /// Reads what there is, and sees whether it has ended.
    pub(super) fn read(&mut self, may_read: bool, mut tell: impl FnMut(u8, Vec<u8>)) {
        self.hear_status();
        // Before the output: what is read afterwards is all there is.
        self.see_end();
        if !may_read && self.waited.is_none() {
            return;
        }
        for (kind, stream) in &mut self.streams {
            let Some(file) = stream else { continue };
            match file.read(&mut self.buffer) {
                Ok(0) => *stream = None,
                Ok(count) => tell(*kind, self.buffer[..count].to_vec()),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => *stream = None,
            }
        }
    }

    fn hear_status(&mut self) {
        let Some(status) = &mut self.status else { return };
        let mut bytes = [0; 4096];
        match status.read(&mut bytes) {
            Ok(0) => self.status = None,
            Ok(count) => {
                self.said.push_str(&String::from_utf8_lossy(&bytes[..count]));
                if self.began_ns.is_none()
                    && let Some((_, words)) = self.line("started ")
                {
                    self.began_ns = words[0].parse().ok();
                }
            }
            Err(_) => {}
        }
    }

    fn see_end(&mut self) {
        if self.waited.is_some() {
            return;
        }
        match waitpid(self.init, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            Ok(waited) => self.has_ended(waited),
            // Nobody else waits for our children.
            Err(_) => self.has_ended(WaitStatus::Exited(self.init, 255)),
        }
    }

    fn has_ended(&mut self, waited: WaitStatus) {
        self.hear_status();
        let told = self.line("exited ").and_then(|(_, words)| words.get(2)?.parse().ok());
        self.ended_ns = Some(told.unwrap_or_else(sandbox::now_ns));
        self.waited = Some(waited);
    }

    /// How long the command has run, or ran; None where it has not begun.
    pub(super) fn age_ms(&self) -> Option<u64> {
        let until_ns = self.ended_ns.unwrap_or_else(sandbox::now_ns);
        Some(until_ns.saturating_sub(self.began_ns?) / 1_000_000)
    }

    /// A whole line that the first process said, by how it begins: all behind that, and its words.
    fn line(&self, begin: &str) -> Option<(&str, Vec<&str>)> {
        let (whole, _) = self.said.rsplit_once('\n')?;
        let rest = whole.lines().find_map(|line| line.strip_prefix(begin))?;
        Some((rest, rest.split(' ').collect()))
    }

    pub(super) fn alive(&self) -> Option<Pid> {
        self.waited.is_none().then_some(self.init)
    }

    pub(super) fn stage(&self) -> Stage {
        let Some(waited) = self.waited else { return Stage::Running };
        if self.streams.iter().any(|(_, stream)| stream.is_some()) {
            return Stage::Running;
        }
        if let Some((why, _)) = self.line("failed ") {
            return Stage::Failed(why.to_owned());
        }
        let Some(took_ms) = self.age_ms() else {
            return Stage::Failed("it ended before the command began".to_owned());
        };
        let told = self
            .line("exited ")
            .and_then(|(_, words)| Some((words.first()?.parse().ok()?, words.get(1)?.parse::<u8>().ok()?)));
        // Without a word of the first process it was killed, and all others with it.
        let (code, signal) = told.unwrap_or(match waited {
            WaitStatus::Signaled(_, signal, _) => (128 + signal as u8, signal as u8),
            _ => (255, 0),
        });
        Stage::Over(Ended {
            code,
            signal: (signal != 0).then_some(signal),
            oom: self.cgroup.had_oom(),
            cpu_ms: self.cgroup.cpu_ms(),
            peak_memory_bytes: self.cgroup.peak_memory_bytes(),
            took_ms,
        })
    }

    /// Ends what runs: with the first process all others of its namespace do.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.waited.is_none() {
            let _ = kill(self.init, Signal::SIGKILL);
            let waited = waitpid(self.init, None)?;
            self.has_ended(waited);
        }
        Ok(())
    }

    /// Ends what runs, and removes what was made outside of it.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.end()?;
        self.cgroup.remove()
    }
}
