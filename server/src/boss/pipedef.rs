//! The only code that starts Python: to discover what a pipedef declares, and to execute one task of it.
//!
//! Python sees a private descriptor and nothing else of ours: no token, no address, no output. What it prints is
//! noise to the protocol. Its process group is killed when it is done, and it ends itself when the descriptor
//! closes because the boss died.
//!
//! `words.rs` is what is said, `runner.rs` a process that has an order, and `host.rs` one that is forked for tasks.

mod host;
mod pidfd;
mod runner;
mod words;

use command_fds::{CommandFdExt as _, FdMapping};
use common::{Pipeline, Problem};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

use crate::data_dir::{make_folder, unusable};
use crate::error::SetupError;
pub(crate) use host::Host;
use runner::Process;
pub(crate) use runner::{Heard, Runner};
pub(crate) use words::{Answer, Order, Say};

/// What executes at import has to be quick: nobody waits longer to see what a pipedef declares.
const DISCOVERY: Duration = Duration::from_secs(10);

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

/// How much of what Python printed last is kept, where nothing else explains its end. What a pipedef prints outside
/// of its tasks is a part of the output of each; more than this is printed anew by each.
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
    pub(crate) forks: Forks,
}

/// Whether tasks can be forked from a process that has executed this code.
#[derive(Debug, Clone)]
pub(crate) enum Forks {
    NotKnown,
    From(Arc<Host>),
    /// What the pipedef does that would not be the same in a fork.
    Never(String),
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
        self.discover_in(Path::new(ANY_PYTHON), pipedef, None, false).await
    }

    /// The same for a run, whose tasks are then forked, if that can be, from what has discovered them.
    pub(crate) async fn discover_for_run(&self, pipedef: &Path) -> Result<(Pipeline, Code), Problem> {
        check_file(pipedef)?;
        self.discover_in(Path::new(ANY_PYTHON), pipedef, None, true).await
    }

    /// What the texts of an earlier run declare, whatever lies on disk by now.
    pub(crate) async fn discover_stored(
        &self,
        pipedef: &Path,
        files: BTreeMap<String, String>,
    ) -> Result<(Pipeline, Code), Problem> {
        self.discover_in(Path::new(ANY_PYTHON), pipedef, Some(files), false).await
    }

    /// Whether tasks can be forked that execute this code; a Problem where it cannot even be executed at once.
    pub(crate) async fn forks(&self, code: &Code) -> Result<Forks, Problem> {
        let found = self.discover_in(&code.python, &code.pipedef, Some(code.files.clone()), true).await?.1;
        if found.files == code.files {
            return Ok(found.forks);
        }
        // A task asks before it executes what the run has not stored; this one did not.
        Ok(Forks::Never("imports what it did not import when the run began".to_owned()))
    }

    async fn discover_in(
        &self,
        python: &Path,
        pipedef: &Path,
        files: Option<BTreeMap<String, String>>,
        stay: bool,
    ) -> Result<(Pipeline, Code), Problem> {
        let about = |error: String, hint: &str| Problem {
            error,
            hint: Some(hint.to_owned()),
            file: Some(pipedef.display().to_string()),
            ..Problem::default()
        };
        let meddled = || {
            about(
                format!("the pipedef wrote to descriptor {DESCRIPTOR}, by which its Python answers"),
                "a pipedef leaves descriptors alone that it has not opened",
            )
        };
        let mut printed = Vec::new();
        let mut printed_bytes = 0;
        let answer = async {
            let order = Order::Discover { pipedef: pipedef.to_owned(), files, stay };
            let mut runner = self.start(python, order).await?;
            loop {
                match runner.heard().await {
                    Heard::Said(said) => return Ok((Some(said), runner)),
                    Heard::Printed(bytes) => {
                        printed_bytes += bytes.len();
                        keep_end(&mut printed, &bytes);
                    }
                    Heard::Gone => return Ok((None, runner)),
                }
            }
        };
        // Past its time the runner is dropped, and so killed.
        let Ok(answer) = tokio::time::timeout(DISCOVERY, answer).await else {
            return Err(about(
                format!("the pipedef was not read within {} s", DISCOVERY.as_secs()),
                "what stands outside of tasks is executed to read it, and has to be quick",
            ));
        };
        let (said, mut runner) = answer?;
        match said {
            Some(Say::Discovered { pipeline, files, python, addresses, unforkable }) => {
                let forks = match unforkable {
                    Some(why) => Forks::Never(why),
                    None if !stay => Forks::NotKnown,
                    None => {
                        let rest = runner.printed_until_now();
                        printed.extend_from_slice(&rest);
                        if printed_bytes + rest.len() > LAST_WORDS {
                            Forks::Never(format!("prints more than {} KiB", LAST_WORDS / 1024))
                        } else {
                            match Host::of(runner, printed) {
                                Ok(host) => Forks::From(Arc::new(host)),
                                Err(error) => Forks::Never(format!("broke its descriptor: {error}")),
                            }
                        }
                    }
                };
                Ok((pipeline, Code { pipedef: pipedef.to_owned(), files, python, addresses, forks }))
            }
            Some(Say::Broken { problem }) => Err(problem),
            Some(
                Say::StepAsked { .. }
                | Say::Imported { .. }
                | Say::Returned
                | Say::Raised { .. }
                | Say::Ready { .. },
            ) => Err(meddled()),
            None => {
                let no_message = runner.said_no_message();
                keep_end(&mut printed, &runner.end(no_message).await.bytes);
                if no_message {
                    return Err(meddled());
                }
                Err(about(
                    format!("Python ended while it read the pipedef{}", last_words(&printed)),
                    "a pipedef only declares stages and tasks; it must not end the process",
                ))
            }
        }
    }

    /// Starts a process and gives it this order.
    pub(crate) async fn start(&self, python: &Path, order: Order) -> Result<Runner, Problem> {
        let pipedef = match &order {
            Order::Discover { pipedef, .. } | Order::Task { pipedef, .. } => pipedef,
            Order::Fork | Order::Forked { .. } | Order::Reap { .. } | Order::End => {
                unreachable!("nothing is started to be told that")
            }
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
        Runner::new(Process::Started(process), ours, printed.into(), Vec::new())
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

/// The folder in which a pipedef's Python runs: the one that holds `.bettertest/`, else the pipedef's own.
pub(crate) fn project_of(pipedef: &Path) -> PathBuf {
    let folder = pipedef.parent().unwrap_or(Path::new("/"));
    match folder.parent() {
        Some(project) if folder.file_name().is_some_and(|name| name == ".bettertest") => project.to_owned(),
        Some(_) | None => folder.to_owned(),
    }
}

/// What people call the project: its folder's name, and the pipedef's where it is not the only one to be expected there.
pub(crate) fn project_name(pipedef: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let folder = name(&project_of(pipedef)).unwrap_or_else(|| "/".to_owned());
    match name(pipedef) {
        Some(file) if file != "pipedef.py" => format!("{folder}/{file}"),
        Some(_) | None => folder,
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
            "bettertest init, in the project's folder, writes one; the README shows one of ten lines",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_called_as_its_folder() {
        let name = |pipedef: &str| project_name(Path::new(pipedef));
        assert_eq!(name("/home/me/shop/.bettertest/pipedef.py"), "shop");
        assert_eq!(name("/home/me/shop/.bettertest/nightly.py"), "shop/nightly.py");
        assert_eq!(name("/srv/pipelines/shop.py"), "pipelines/shop.py");
        assert_eq!(name("/pipedef.py"), "/");
    }
}
