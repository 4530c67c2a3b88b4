//! What a local run needs around it: a history of its project, and workers for the addresses in its pipedef.

use common::RunKey;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::auth::Token;
use crate::boss::{self, Probe, Runs, WorkerAddress, WorkerClient, Workers};
use crate::cli::{self, HowToRun, WhichRun};
use crate::data_dir::{DataDir, Held, hold};
use crate::error::SetupError;
use crate::worker::{self, PrivateWorker};

/// How long it may take another run to find out that a folder is of no killed one.
const TIDYING: Duration = Duration::from_secs(10);

/// Where a project has its history: a folder named by the path of the project's own.
pub(crate) fn history_of(data: &Path, project: &Path) -> PathBuf {
    let digest = Sha256::digest(project.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    data.join("local").join(name)
}

pub(crate) fn data_of(how: &HowToRun) -> Result<DataDir, SetupError> {
    match &how.data_dir {
        Some(path) => DataDir::open(path),
        None => DataDir::open(&DataDir::default_path()?),
    }
}

/// The command that runs a project, from the folder in which this one was given.
pub(crate) fn run_words(path: &Path, data_dir: Option<&Path>) -> String {
    let mut words = "bettertest run".to_owned();
    if path != Path::new(".") {
        words.push_str(&format!(" {}", quoted(&path.display().to_string())));
    }
    if let Some(data) = data_dir {
        words.push_str(&format!(" --data-dir {}", quoted(&data.display().to_string())));
    }
    words
}

/// `words`, and where what they run is to run.
pub(crate) fn how_words(mut words: String, how: &HowToRun) -> String {
    if how.engine != cli::AUTO {
        words.push_str(&format!(" --engine {}", how.engine));
    }
    if let Some(worker) = &how.worker {
        words.push_str(&format!(" --worker {}", quoted(worker)));
    }
    words
}

/// The command that runs again what did not pass, from the folder in which this one was given.
pub(crate) fn rerun_words(run: WhichRun, path: &Path, how: &HowToRun) -> String {
    let mut words = "bettertest rerun".to_owned();
    let is_here = path == Path::new(".");
    match run {
        WhichRun::Number(number) => words.push_str(&format!(" {number}")),
        WhichRun::Last if !is_here => words.push_str(" last"),
        WhichRun::Last => {}
    }
    if !is_here {
        words.push_str(&format!(" {}", quoted(&path.display().to_string())));
    }
    if let Some(data) = &how.data_dir {
        words.push_str(&format!(" --data-dir {}", quoted(&data.display().to_string())));
    }
    how_words(words, how)
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:~+,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Finds out who serves the addresses that the pipedef names: a worker of this machine that takes our token,
/// or, where nothing listens, a private worker. What is wrong there is said before there is a run.
pub(crate) async fn find_workers(
    how: &HowToRun,
    data: &DataDir,
    addresses: &[String],
    folder: &Path,
    instance: &str,
) -> Result<(Workers, Option<PrivateWorker>), SetupError> {
    let token = local_token(how, data)?;
    let mut workers = Workers::new(Some(&token), data.path())?;
    let client = WorkerClient::new();
    if let Some(address) = &how.worker {
        workers.use_everywhere(address);
        let worker = workers.resolve(address).map_err(|none| SetupError::new(none.message, none.hint))?;
        return match client.probe(&worker).await {
            Probe::Ours => Ok((workers, None)),
            Probe::OtherToken => Err(other_token(&worker.base, &workers)),
            Probe::Nothing | Probe::Other => Err(SetupError::new(
                format!("no worker answers at {}", worker.base),
                "start one there with: bettertest --worker",
            )),
        };
    }
    let mut private: Option<PrivateWorker> = None;
    for address in addresses {
        // An address elsewhere may belong to something else entirely; whether it is a worker, its first step tells.
        let here = reqwest::Url::parse(address).is_ok_and(|url| boss::is_loopback(&url));
        let Some(worker) = workers.resolve(address).ok().filter(|_| here) else { continue };
        match client.probe(&worker).await {
            // What listens there is no worker: the pipedef may mean it for something else.
            Probe::Ours | Probe::Other => {}
            Probe::OtherToken => {
                let shared = Token::read(Path::new(SHARED_TOKEN)).filter(|_| how.data_dir.is_none());
                let shared = shared.map(|token| WorkerAddress { token: token.as_str().to_owned(), ..worker });
                match shared {
                    Some(shared) if client.probe(&shared).await == Probe::Ours => {
                        workers.use_instead(address, shared);
                    }
                    Some(_) | None => return Err(other_token(address, &workers)),
                }
            }
            Probe::Nothing => {
                if private.is_none() {
                    private =
                        Some(worker::serve_privately(folder, instance, &token, data, &how.engine).await?);
                }
                if let Some(private) = &private {
                    let worker = WorkerAddress { base: private.base(), token: token.as_str().to_owned() };
                    workers.use_instead(address, worker);
                }
            }
        }
    }
    Ok((workers, private))
}

fn other_token(address: &str, workers: &Workers) -> SetupError {
    SetupError::new(format!("the worker {address} does not take our token"), workers.token_hint(address))
}

/// What a worker of root's shares with the group `bettertest`.
pub(crate) const SHARED_TOKEN: &str = "/var/lib/bettertest/token";

/// The token of `--data-dir`; where none is given home's, else the one that a worker of root shares.
fn local_token(how: &HowToRun, data: &DataDir) -> Result<Token, SetupError> {
    match how.data_dir {
        None if !data.path().join("token").exists() => match Token::read(Path::new(SHARED_TOKEN)) {
            Some(token) => Ok(token),
            None => Token::of(data),
        },
        None | Some(_) => Token::of(data),
    }
}

/// The folder of one local run: its lock, and the spools of its private worker. Removed at its end, however that
/// comes about short of a crash; the history has the rest.
pub(crate) struct RunFolder(Held);

impl RunFolder {
    /// Of a run that is to begin, which nobody else can want.
    pub(crate) async fn new(local: &Path, key: &RunKey) -> Result<RunFolder, SetupError> {
        let lock = local.join("runs").join(key.as_str()).join("lock");
        let give_up = Instant::now() + TIDYING;
        loop {
            match RunFolder::take(local, key) {
                // Another run, which tidies up, found it before it was locked.
                Err(_) if lock.exists() && Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(10)).await
                }
                taken => return taken,
            }
        }
    }

    /// Of a run that may be going on elsewhere.
    pub(crate) fn take(local: &Path, key: &RunKey) -> Result<RunFolder, SetupError> {
        hold(&local.join("runs").join(key.as_str())).map(RunFolder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0.path) {
            tracing::warn!("{} could not be removed: {error}", self.0.path.display());
        }
    }
}

/// Removes what crashed local runs of any project have left: the folders whose lock nobody holds, and the
/// containers of their workers.
pub(crate) async fn sweep_abandoned(data: &DataDir) {
    for project in folders_in(&data.path().join("local")) {
        for folder in folders_in(&project.join("runs")) {
            let Ok(held) = hold(&folder) else { continue };
            let instance = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match worker::sweep_instance(&folder, &instance, data).await {
                Ok(()) => drop(RunFolder(held)),
                // Kept for a time when Docker answers.
                Err(error) => tracing::warn!("what a crashed run has left cannot be removed yet: {error}"),
            }
        }
    }
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Of local runs there is no backup.
pub(crate) fn hint_at_damage(error: &boss::RunsError) -> Option<&'static str> {
    let hint = "move local/ in the data directory away: the next run begins a new history there";
    error.is_damage().then_some(hint)
}

/// Ends the runs of this project that a crash has left behind: whose lock nobody holds any more.
pub(crate) async fn end_abandoned(runs: &Runs, local: &Path) -> Result<(), SetupError> {
    let failed = |error: boss::RunsError| {
        let hint = hint_at_damage(&error).unwrap_or("see the log");
        SetupError::new(format!("the history of this project cannot be read: {error}"), hint)
    };
    for (number, key) in runs.unended().await.map_err(failed)? {
        let folder = local.join("runs").join(key.as_str());
        // One that is gone was swept. One that is there stays for the sweep, which may have to wait for Docker.
        let held = if folder.exists() { Some(hold(&folder)) } else { None };
        let Ok(_held) = held.transpose() else { continue };
        if let Err(error) = runs.end_abandoned(number, common::Reason::RunnerDied).await {
            tracing::error!(
                run.id = number.0,
                "run {number} was left unfinished, and cannot be ended: {error}"
            );
        }
    }
    Ok(())
}
