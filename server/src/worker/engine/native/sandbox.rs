//! Inside: from the first instruction of a sandbox's first process to the command, and that process afterwards,
//! which reaps what is left behind and passes signals on.
//!
//! What runs here was cloned from a process with one thread, so that it may allocate; it holds no secret, for the
//! launcher was executed anew and never had one. It executes nothing itself, so that no program of the container
//! can get hold of this binary: it is not dumpable, hence `/proc/1/exe` is closed to all inside.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{
    ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fchown, fork, setgroups,
    sethostname, setpgid, setresgid, setresuid, setsid,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::CString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::apparmor;
use super::cgroup::Hierarchy;
use super::files::{self, Doing as _};
use super::net;
use super::order::{Base, Order};
use super::over;
use super::users::{self, Who};
use super::walls;

/// What a sandbox begins with.
pub(super) struct Inside<'a> {
    pub(super) folder: &'a Path,
    pub(super) base: &'a Base,
    pub(super) hierarchy: &'a Hierarchy,
    /// A network with a way out; none: one of its own, with nothing but itself in it.
    pub(super) network: Option<&'a OwnedFd>,
    pub(super) filter: &'a [libc::sock_filter],
    /// Says when the groups are joined, by one byte, and later what the step is: an order as `told` writes it, and what `over` hands over.
    pub(super) go: UnixStream,
    pub(super) status: fs::File,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// An order as the first process of a sandbox reads it.
pub(super) fn told(json: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_be_bytes(), json].concat()
}

/// The first process of a sandbox. What it has to say it says to `status`, a line at a time: `ready` where it waits
/// for the order, and `failed WHY`, or `started AT` and then `exited CODE SIGNAL AT`, both times in ns of a clock that
/// nobody can set.
pub(super) fn live(mut inside: Inside) -> ! {
    let code = match begin(&mut inside) {
        Ok(main) => {
            // Nobody listens: then nobody waits for the end either.
            drop(inside.status.write_all(format!("started {}\n", now_ns()).as_bytes()));
            let (code, signal) = look_after(main);
            drop(inside.status.write_all(format!("exited {code} {signal} {}\n", now_ns()).as_bytes()));
            i32::from(code)
        }
        Err(why) => {
            drop(inside.status.write_all(format!("failed {}\n", why.replace('\n', " ")).as_bytes()));
            125
        }
    };
    // SAFETY: ends this process, without what `exit` would do for the process that it was cloned from.
    unsafe { libc::_exit(code) }
}

fn begin(inside: &mut Inside) -> Result<Pid, String> {
    prepare(inside)?;
    // Nobody listens: then no order comes.
    drop(inside.status.write_all(b"ready\n"));
    let order = order(&mut inside.go)?;
    obey(inside, &order)
}

/// All that does not depend on the step.
fn prepare(inside: &mut Inside) -> Result<(), String> {
    die_with_the_supervisor()?;
    inside.go.read_exact(&mut [0]).doing("waiting for the supervisor")?;
    setsid().doing("beginning a session")?;
    unshare(CloneFlags::CLONE_NEWCGROUP).doing("hiding the host's cgroups")?;
    match inside.network {
        Some(network) => setns(network, CloneFlags::CLONE_NEWNET).doing("entering the network")?,
        None => {
            net::settle();
            walls::raise_loopback().doing("raising the loopback interface")?;
        }
    }
    walls::leave_keyring().doing("leaving the host's keys")?;
    // Whatever the worker has; more than nothing may always be asked for.
    drop(fs::write("/proc/self/oom_score_adj", "0"));
    files::enter(inside.folder, inside.base)?;
    files::furnish(inside.base, inside.hierarchy)?;
    limits()
}

fn order(go: &mut UnixStream) -> Result<Order, String> {
    let what = "waiting for a step";
    let mut length = [0; 8];
    go.read_exact(&mut length).doing(what)?;
    let mut json = vec![0; usize::try_from(u64::from_be_bytes(length)).doing(what)?];
    go.read_exact(&mut json).doing(what)?;
    serde_json::from_slice(&json).doing("reading the order")
}

fn obey(inside: &mut Inside, order: &Order) -> Result<Pid, String> {
    sethostname(&order.container).doing("naming the host")?;
    files::fit(order)?;
    if let Some(source) = &order.source {
        over::lay(&inside.go, inside.base, &source.at)?;
    }
    if let Some(path) = &order.open_folder {
        files::open_folder(path);
    }
    let who = users::who(&order.user)?;
    streams(inside, &who)?;
    let workdir = if order.workdir.is_empty() { "/" } else { &order.workdir };
    fs::create_dir_all(workdir).doing(&format!("making the working directory {workdir}"))?;
    chdir(workdir).doing(&format!("entering the working directory {workdir}"))?;
    let program = Program::of(order, &who)?;
    // The last that needs files, and the first that no mount may follow; the command inherits it.
    apparmor::enter()?;
    walls::close_from(3, &inside.status).doing("closing files")?;
    give_up_rights(&inside.base.capabilities, &who)?;
    walls::load(inside.filter).doing("loading the seccomp filter")?;
    spawn(&program)
}

fn die_with_the_supervisor() -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).doing("tying the sandbox to its supervisor")
}

/// As docker's own: as many files as may be, and of what whoever started this worker may have more of no more than
/// services have.
fn limits() -> Result<(), String> {
    const LOCKED_BYTES: u64 = 8 * 1024 * 1024;
    let most =
        [(Resource::RLIMIT_MEMLOCK, LOCKED_BYTES), (Resource::RLIMIT_NICE, 0), (Resource::RLIMIT_RTPRIO, 0)];
    for (what, most) in most {
        let (soft, hard) = getrlimit(what).doing("asking for a limit")?;
        setrlimit(what, soft.min(most), hard.min(most)).doing("setting a limit")?;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).doing("asking for the limit of files")?;
    let files = hard.max(1_048_576);
    setrlimit(Resource::RLIMIT_NOFILE, files, files)
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .doing("setting the limit of files")
}

fn streams(inside: &Inside, who: &Who) -> Result<(), String> {
    for stream in [&inside.stdout, &inside.stderr] {
        // Whoever opens /dev/stdout opens this.
        fchown(stream, Some(who.uid), Some(who.gid)).doing("handing over the output")?;
    }
    let null =
        open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).doing("opening /dev/null")?;
    dup2_stdin(&null).and_then(|()| dup2_stdout(&inside.stdout)).doing("connecting the output")?;
    dup2_stderr(&inside.stderr).doing("connecting the output")
}

fn give_up_rights(kept: &[String], who: &Who) -> Result<(), String> {
    let kept = kept.iter().map(|name| walls::capability(name)).collect::<Result<Vec<_>, _>>()?;
    let kept = kept.into_iter().fold(CapabilitySet::empty(), |all, one| all | one);
    for one in CapabilitySet::all().iter() {
        if !kept.contains(one) {
            match rustix::thread::remove_capability_from_bounding_set(one) {
                // One that this kernel does not know.
                Err(rustix::io::Errno::INVAL) => {}
                removed => removed.doing("giving up capabilities")?,
            }
        }
    }
    setgroups(&who.groups).doing("taking on the user's groups")?;
    setresgid(who.gid, who.gid, who.gid).doing("taking on the user's group")?;
    setresuid(who.uid, who.uid, who.uid).doing("taking on the user")?;
    let effective = if who.uid.is_root() { kept } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective, permitted: effective, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).doing("giving up capabilities")?;
    prctl::set_no_new_privs().doing("forbidding new privileges")?;
    prctl::set_dumpable(false).doing("closing this process")?;
    // Another user forgets it.
    die_with_the_supervisor()
}

/// All that `execve` wants, made beforehand.
struct Program {
    /// Where it may be, in the order of PATH.
    paths: Vec<CString>,
    words: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    fn of(order: &Order, who: &Who) -> Result<Program, String> {
        let text = |text: &str| CString::new(text).doing("a word of the command has a NUL byte");
        let mut env = order.env.clone();
        if !env.iter().any(|pair| pair.starts_with("HOME=")) {
            env.push(format!("HOME={}", who.home));
        }
        let name = order.words.first().ok_or("there is no command")?;
        let paths = if name.contains('/') {
            vec![text(name)?]
        } else {
            let path = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
            path.split(':').map(|folder| text(&format!("{folder}/{name}"))).collect::<Result<_, _>>()?
        };
        let all = |words: &[String]| words.iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>();
        Ok(Program { paths, words: all(&order.words)?, env: all(&env)? })
    }

    /// Comes back only where that fails, and then with the exit code that shells give.
    fn execute(&self) -> i32 {
        let mut why = Errno::ENOENT;
        for path in &self.paths {
            match execve(path, &self.words, &self.env) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => why = error,
                Ok(never) => match never {},
            }
        }
        let name = self.words[0].to_string_lossy();
        let told = format!("bettertest: {name} cannot be executed: {}\n", why.desc());
        drop(std::io::stderr().write_all(told.as_bytes()));
        if why == Errno::ENOENT { 127 } else { 126 }
    }
}

fn spawn(program: &Program) -> Result<Pid, String> {
    // They wait here until `look_after` takes them.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).doing("holding signals back")?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.doing("starting the command")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            umask(Mode::from_bits_truncate(0o022));
            walls::default_signals();
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
            let code = program.execute();
            // SAFETY: as in `live`.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Until the command has ended: its exit code as shells tell it, and the signal that ended it, or 0.
fn look_after(main: Pid) -> (u8, i32) {
    loop {
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) => {
                while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    match status {
                        WaitStatus::Exited(pid, code) if pid == main => {
                            return (u8::try_from(code).unwrap_or(255), 0);
                        }
                        WaitStatus::Signaled(pid, signal, _) if pid == main => {
                            return (128 + signal as u8, signal as i32);
                        }
                        WaitStatus::StillAlive => break,
                        _ => {}
                    }
                }
            }
            // Gone at this moment: its end comes next.
            Ok(signal) => drop(kill(main, signal)),
            Err(_) => {}
        }
    }
}

pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
