//! The only code that starts Python: to discover what a pipedef declares, and to execute one task of it.
//!
//! Python sees a private descriptor and nothing else of ours: no token, no address, no output. What it prints is
//! noise to the protocol. Its process group is killed when it is done, and it ends itself when the descriptor
//! closes because the boss died.

use command_fds::{CommandFdExt as _, FdMapping};
use common::{Outcome, Pipeline, Problem, Reason, StepEnd};
use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec, LinesCodecError};

use crate::data_dir::{make_folder, unusable};
use crate::error::SetupError;

/// What executes at import has to be quick: nobody waits longer to see what a pipedef declares.
const DISCOVERY: Duration = Duration::from_secs(10);

/// The longest message on the descriptor: 20,000 tasks, and the texts of a large folder, fit.
const LONGEST_MESSAGE: usize = 16 * 1024 * 1024;

/// From the last message to the end of the process, before it is killed.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Hands over to the library, from a path on which nothing of the working folder can pass for a module of
/// Python's. An old Python is told so in words, not by a syntax error.
const BOOT: &str = "import sys
if sys.version_info < (3, 9): sys.exit('bettertest needs Python 3.9 or newer, and this is ' + sys.version.split()[0])
sys.path[0] = sys.argv[1]
from bettertest._child import main
del sys.path[0]
main(int(sys.argv[2]))";

const DESCRIPTOR: i32 = 3;

/// Found by the PATH.
pub(crate) const ANY_PYTHON: &str = "python3";

/// A process that takes no answer for so long does not listen any more.
const DEAF: Duration = Duration::from_secs(10);

/// How much is still taken in of what a process prints while it ends.
const LAST_PRINTED: usize = 1024 * 1024;

/// How much of what Python printed last is kept, where nothing else explains its end.
const LAST_WORDS: usize = 64 * 1024;

/// What a run executes: these texts, whatever lies on disk by then, in this interpreter.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    pub(crate) pipedef: PathBuf,
    /// The pipedef and the modules of its folder, by path.
    pub(crate) files: BTreeMap<String, String>,
    /// Where discovery found itself to run. What `python3` leads to may be a script that takes ten times as long
    /// to start as the interpreter that it chooses.
    pub(crate) python: PathBuf,
    /// What looks like a worker's address among the pipedef's own names, such as `WORKER`.
    pub(crate) addresses: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    Discover {
        pipedef: PathBuf,
        /// What a run has stored, for a re-run; without it, what lies on disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<BTreeMap<String, String>>,
    },
    Task {
        pipedef: PathBuf,
        files: BTreeMap<String, String>,
        stage: String,
        task: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum Say {
    Discovered {
        pipeline: Pipeline,
        files: BTreeMap<String, String>,
        python: PathBuf,
        addresses: Vec<String>,
    },
    Broken {
        problem: Problem,
    },
    /// `spec` is checked by whom it is for: what is wrong with it is the pipedef's mistake, not the protocol's.
    StepAsked {
        call: u64,
        worker: String,
        spec: serde_json::Value,
    },
    /// This text, which the run has not stored, is executed once that is answered.
    Imported {
        call: u64,
        path: String,
        sha256: String,
    },
    Returned,
    Raised {
        call: Option<u64>,
        problem: Problem,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    StepResult {
        call: u64,
        outcome: Outcome,
        reason: Option<Reason>,
        exit_code: Option<u8>,
        oom: bool,
        took_ms: u64,
        message: Option<String>,
        hint: Option<String>,
    },
    Refused {
        call: u64,
        problem: Problem,
    },
    /// To `imported`: it may be executed.
    Recorded {
        call: u64,
    },
}

impl Answer {
    pub(crate) fn of(call: u64, end: &StepEnd) -> Answer {
        Answer::StepResult {
            call,
            outcome: end.verdict.outcome(),
            reason: end.verdict.reason(),
            exit_code: end.exit_code,
            oom: end.oom,
            took_ms: end.took_ms,
            message: end.message.clone(),
            hint: end.hint.clone(),
        }
    }
}

#[derive(rust_embed::RustEmbed)]
#[folder = "../bettertest"]
#[include = "*.py"]
#[include = "py.typed"]
#[exclude = "_tests/*"]
struct Library;

/// The Python library that this binary carries, unpacked where Python can read it.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    library: PathBuf,
}

impl Python {
    /// Unpacks the library into `cache`, under a name made from its content, unless it is there.
    pub(crate) fn unpack(cache: &Path) -> Result<Python, SetupError> {
        let mut digest = Sha256::new();
        for name in Library::iter() {
            digest.update(name.as_bytes());
            digest.update(Library::get(&name).expect("it was just listed").metadata.sha256_hash());
        }
        let name: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let library = cache.join(format!("python-{name}"));
        if library.exists() {
            return Ok(Python { library });
        }
        let draft = cache.join(format!("python-{name}.{}", std::process::id()));
        let folder = draft.join("bettertest");
        make_folder(&folder)?;
        for name in Library::iter() {
            let path = folder.join(name.as_ref());
            let content = Library::get(&name).expect("it was just listed");
            std::fs::write(&path, content.data).map_err(|error| unusable(&path, &error))?;
        }
        if let Err(error) = std::fs::rename(&draft, &library)
            && !library.exists()
        {
            return Err(unusable(&library, &error));
        }
        // Another process was faster; its copy is the same.
        drop(std::fs::remove_dir_all(&draft));
        Ok(Python { library })
    }

    /// What the pipedef declares right now, and the texts that this came from.
    pub(crate) async fn discover(&self, pipedef: &Path) -> Result<(Pipeline, Code), Problem> {
        check_file(pipedef)?;
        self.discover_in(pipedef, None).await
    }

    /// What the texts of an earlier run declare, whatever lies on disk by now.
    pub(crate) async fn discover_stored(
        &self,
        pipedef: &Path,
        files: BTreeMap<String, String>,
    ) -> Result<(Pipeline, Code), Problem> {
        self.discover_in(pipedef, Some(files)).await
    }

    async fn discover_in(
        &self,
        pipedef: &Path,
        files: Option<BTreeMap<String, String>>,
    ) -> Result<(Pipeline, Code), Problem> {
        let about = |error: String, hint: &str| Problem {
            error,
            hint: Some(hint.to_owned()),
            file: Some(pipedef.display().to_string()),
            ..Problem::default()
        };
        let mut printed = Vec::new();
        let mut no_message = false;
        let answer = async {
            let order = Order::Discover { pipedef: pipedef.to_owned(), files };
            let mut runner = self.start(Path::new(ANY_PYTHON), order).await?;
            let said = loop {
                match runner.heard().await {
                    Heard::Said(said) => break Some(said),
                    Heard::Printed(bytes) => keep_end(&mut printed, &bytes),
                    Heard::Gone => break None,
                }
            };
            if said.is_none() {
                no_message = runner.no_message;
                keep_end(&mut printed, &runner.end(no_message).await.bytes);
            }
            Ok(said)
        };
        // Past its time the runner is dropped, and so killed.
        match tokio::time::timeout(DISCOVERY, answer).await.map(Result::transpose) {
            Ok(Some(Err(problem))) => Err(problem),
            Ok(Some(Ok(Say::Discovered { pipeline, files, python, addresses }))) => {
                Ok((pipeline, Code { pipedef: pipedef.to_owned(), files, python, addresses }))
            }
            Ok(Some(Ok(Say::Broken { problem }))) => Err(problem),
            Ok(Some(Ok(
                Say::StepAsked { .. } | Say::Imported { .. } | Say::Returned | Say::Raised { .. },
            ))) => Err(about(
                format!("the pipedef wrote to descriptor {DESCRIPTOR}, by which its Python answers"),
                "a pipedef leaves descriptors alone that it has not opened",
            )),
            Ok(None) if no_message => Err(about(
                format!("the pipedef wrote to descriptor {DESCRIPTOR}, by which its Python answers"),
                "a pipedef leaves descriptors alone that it has not opened",
            )),
            Ok(None) => Err(about(
                format!("Python ended while it read the pipedef{}", last_words(&printed)),
                "a pipedef only declares stages and tasks; it must not end the process",
            )),
            Err(_) => Err(about(
                format!("the pipedef was not read within {} s", DISCOVERY.as_secs()),
                "what stands outside of tasks is executed to read it, and has to be quick",
            )),
        }
    }

    /// Starts a process and gives it this order.
    pub(crate) async fn start(&self, python: &Path, order: Order) -> Result<Runner, Problem> {
        let pipedef = match &order {
            Order::Discover { pipedef, .. } | Order::Task { pipedef, .. } => pipedef,
        };
        let mut runner = self.spawn(python, pipedef).map_err(|error| not_started(&error))?;
        runner.send(&order).await;
        Ok(runner)
    }

    fn spawn(&self, python: &Path, pipedef: &Path) -> io::Result<Runner> {
        let (ours, theirs) = StdStream::pair()?;
        let (printed, print) = io::pipe()?;
        let mut command = std::process::Command::new(python);
        command.args(["-u", "-c", BOOT]).arg(&self.library).arg(DESCRIPTOR.to_string());
        command.stdin(Stdio::null()).stdout(print.try_clone()?).stderr(print);
        command.current_dir(project_of(pipedef));
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .fd_mappings(vec![FdMapping { parent_fd: theirs.into(), child_fd: DESCRIPTOR }])
            .map_err(io::Error::other)?;
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        let process = command.spawn()?;
        // The command holds the child's ends; while it lives, the end of Python would go unnoticed.
        drop(command);
        ours.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(ours)?.into_split();
        Ok(Runner {
            group: process.id().map(|pid| Pid::from_raw(pid as i32)),
            process,
            says: FramedRead::new(read, LinesCodec::new_with_max_length(LONGEST_MESSAGE)),
            answers: Some(FramedWrite::new(write, LinesCodec::new())),
            printed: Some(pipe::Receiver::from_owned_fd(OwnedFd::from(printed))?),
            no_message: false,
        })
    }
}

fn not_started(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => Problem::new(
            "there is no python3 on this machine's PATH",
            "install it: sudo apt-get install python3",
        ),
        _ => Problem::new(format!("python3 could not be started: {error}"), "does python3 run by hand?"),
    }
}

/// What `python3` says that it is, such as `3.11.7 /usr/bin/python3`.
pub(crate) async fn which_python() -> Result<String, Problem> {
    const ASK: &str = "import sys; print('.'.join(map(str, sys.version_info[:3])), sys.executable)";
    let mut command = Command::new(ANY_PYTHON);
    command.args(["-I", "-S", "-c", ASK]).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    let ended = command.output().await.map_err(|error| not_started(&error))?;
    if !ended.status.success() {
        return Err(Problem::new(
            format!("python3 does not run{}", last_words(&ended.stderr)),
            "does python3 run by hand?",
        ));
    }
    Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
}

/// What comes from a pipedef's Python.
pub(crate) enum Heard {
    Said(Say),
    /// Bytes on its standard output or standard error.
    Printed(Vec<u8>),
    /// It ended, or broke the protocol, which is the same to us.
    Gone,
}

/// What a process printed at its very end.
pub(crate) struct LastPrinted {
    pub(crate) bytes: Vec<u8>,
    /// Printed after that, and not kept.
    pub(crate) lost_bytes: usize,
}

/// A Python process that has an order.
pub(crate) struct Runner {
    process: Child,
    /// None once it was killed.
    group: Option<Pid>,
    says: FramedRead<OwnedReadHalf, LinesCodec>,
    /// None once it could not be told something.
    answers: Option<FramedWrite<OwnedWriteHalf, LinesCodec>>,
    /// None once it has closed its output.
    printed: Option<pipe::Receiver>,
    /// Something came on its descriptor that is no message.
    no_message: bool,
}

impl Runner {
    /// Waits for what comes next. May be given up and asked again; nothing is lost.
    pub(crate) async fn heard(&mut self) -> Heard {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let line = match &mut self.printed {
                Some(printed) => tokio::select! {
                    count = printed.read(&mut bytes) => match count {
                        Ok(count @ 1..) => {
                            bytes.truncate(count);
                            return Heard::Printed(bytes);
                        }
                        Ok(0) | Err(_) => {
                            self.printed = None;
                            continue;
                        }
                    },
                    line = self.says.next() => line,
                },
                None => self.says.next().await,
            };
            let Some(line) = line else { return Heard::Gone };
            let said = match line {
                Ok(line) => serde_json::from_str(&line).map_err(|error| error.to_string()),
                // Its end is reset where it closes while there is something for it to read.
                Err(LinesCodecError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
                    return Heard::Gone;
                }
                Err(error) => Err(error.to_string()),
            };
            return match said {
                Ok(said) => Heard::Said(said),
                Err(error) => {
                    tracing::debug!("a pipedef's Python said what is no message: {error}");
                    self.no_message = true;
                    Heard::Gone
                }
            };
        }
    }

    pub(crate) async fn answer(&mut self, answer: &Answer) {
        self.send(answer).await;
    }

    /// A process that has gone, or does not listen, cannot be told; what becomes of it, `heard` tells.
    async fn send(&mut self, message: &impl Serialize) {
        let line = serde_json::to_string(message).expect("messages are strings, numbers and paths of UTF-8");
        if let Some(answers) = &mut self.answers
            && !matches!(tokio::time::timeout(DEAF, answers.send(line)).await, Ok(Ok(())))
        {
            self.answers = None;
        }
    }

    /// Ends the process and all that it started; returns what it printed last.
    ///
    /// `at_once` where it waits for what will never come; else it gets a moment to end by itself.
    pub(crate) async fn end(mut self, at_once: bool) -> LastPrinted {
        if at_once {
            self.kill();
        }
        let mut last = LastPrinted { bytes: Vec::new(), lost_bytes: 0 };
        if let Some(mut printed) = self.printed.take() {
            let rest = async {
                // The pipe closes when the process and all its children have ended.
                let mut bytes = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = printed.read(&mut bytes).await {
                    let room = LAST_PRINTED.saturating_sub(last.bytes.len()).min(count);
                    last.bytes.extend_from_slice(&bytes[..room]);
                    last.lost_bytes += count - room;
                }
            };
            // Either it has closed its output by then, or it never will.
            drop(tokio::time::timeout(LAST_BREATH, rest).await);
        }
        self.kill();
        if let Err(error) = self.process.wait().await {
            tracing::warn!("a pipedef's Python could not be waited for: {error}");
        }
        last
    }

    fn kill(&mut self) {
        // The leader is not waited for yet, so its number still means this group and no other.
        if let Some(group) = self.group.take() {
            match killpg(group, Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EPERM) => {}
                Err(error) => tracing::warn!("process group {group} could not be killed: {error}"),
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The folder in which a pipedef's Python runs: the one that holds `.bettertest/`, else the pipedef's own.
pub(crate) fn project_of(pipedef: &Path) -> PathBuf {
    let folder = pipedef.parent().unwrap_or(Path::new("/"));
    match folder.parent() {
        Some(project) if folder.file_name().is_some_and(|name| name == ".bettertest") => project.to_owned(),
        Some(_) | None => folder.to_owned(),
    }
}

/// What the file system alone can tell. A FIFO must not even be opened.
fn check_file(pipedef: &Path) -> Result<(), Problem> {
    let about = |what: String, hint: &str| {
        Err(Problem {
            error: what,
            hint: Some(hint.to_owned()),
            file: Some(pipedef.display().to_string()),
            ..Problem::default()
        })
    };
    match std::fs::metadata(pipedef) {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(meta) if meta.is_dir() => {
            about(format!("{} is a folder, not a pipedef", pipedef.display()), "name the Python file in it")
        }
        Ok(_) => about(format!("{} is not a regular file", pipedef.display()), "name a Python file"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => about(
            format!("there is no pipedef {}", pipedef.display()),
            "write one there; the README shows one of ten lines",
        ),
        Err(error) => {
            about(format!("{} cannot be read: {error}", pipedef.display()), "make it readable for this user")
        }
    }
}

fn keep_end(kept: &mut Vec<u8>, more: &[u8]) {
    kept.extend_from_slice(more);
    if kept.len() > LAST_WORDS {
        kept.drain(..kept.len() - LAST_WORDS);
    }
}

/// The last line that was printed, to be put after a sentence.
fn last_words(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    match text.trim().lines().last() {
        Some(line) => format!(": {line}"),
        None => String::new(),
    }
}
