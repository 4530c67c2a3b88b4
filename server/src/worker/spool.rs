//! A step's record on disk: everything that happened to it, written before anyone is told.
//!
//! `steps/ID/` holds `spec.json`, `events` (one StepEvent per line; a position is the byte after a line's end),
//! `began` once its container was to start (`age.rs`), `decision` once somebody or a limit decided how it ends, `pruned` once its output had to go, and, while output
//! beyond its cap is held back, the segments of `tail.rs`; in `artifacts` the files that were kept, by number. Readers follow the file; what they are told of it is only how far it goes.
//! Nothing here knows containers, HTTP or the queue.

mod encode;
mod pen;
mod prune;
mod reader;
mod tail;
mod writer;

use common::{Reason, StepEnd, StepEvent, StepSpec};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::sync::watch;

#[cfg(test)]
pub(crate) use encode::Encoder;
pub(crate) use pen::Pen;
pub(crate) use prune::{prune, size_bytes};
pub(crate) use reader::{Lines, Reader};
use writer::Found;
#[cfg(test)]
pub(crate) use writer::Writer;

/// How far a spool goes, and where its step stands. Readers wait for it to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Up to here the events may be read.
    pub(crate) len: u64,
    pub(crate) phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Queued,
    Preparing,
    Running,
    Ended(StepEnd),
}

/// What decides that a step ends before its command does. Recorded before the first signal is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decision {
    TimedOut,
    Cancelled(Reason),
}

const ARTIFACTS: &str = "artifacts";

/// The folder of one step, and what is known of its progress. Shared by its one writer and its readers.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    progress: watch::Sender<Progress>,
}

impl Spool {
    /// Makes the record of a new step. Fails with `AlreadyExists` where there is one.
    pub(crate) fn create(folder: &Path, spec: &StepSpec) -> io::Result<Spool> {
        fs::create_dir(folder)?;
        let spec = serde_json::to_vec(spec).expect("a spec is strings and numbers");
        fs::write(folder.join("spec.json"), spec)?;
        let mut queued = serde_json::to_vec(&StepEvent::Queued).expect("an event is words and numbers");
        queued.push(b'\n');
        fs::write(folder.join("events"), &queued)?;
        Ok(Spool::at(folder, Progress { len: queued.len() as u64, phase: Phase::Queued }))
    }

    /// The spool of a step that a crash interrupted, or whose worker handed it over. With a length of 0 nobody was
    /// ever told of it.
    pub(crate) fn unended(folder: &Path) -> io::Result<Spool> {
        let Found { len, phase, .. } = Found::in_folder(folder)?;
        Ok(Spool::at(folder, Progress { len, phase }))
    }

    /// The spool of a step that ended; None if it did not.
    pub(crate) fn ended(folder: &Path) -> io::Result<Option<Spool>> {
        let file = match File::open(folder.join("events")) {
            Ok(file) => file,
            // It is being made right now, or let go of.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len();
        let phase = reader::last_line(&file, len)?
            .and_then(|line| serde_json::from_slice::<StepEvent>(&line).ok())
            .and_then(|event| event.end())
            .map(Phase::Ended);
        Ok(phase.map(|phase| Spool::at(folder, Progress { len, phase })))
    }

    fn at(folder: &Path, progress: Progress) -> Spool {
        Spool { folder: folder.to_owned(), progress: watch::Sender::new(progress) }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the files of this step are kept.
    pub(crate) fn artifacts(&self) -> PathBuf {
        self.folder.join(ARTIFACTS)
    }

    pub(crate) fn spec(&self) -> io::Result<StepSpec> {
        spec_in(&self.folder)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.progress.borrow().len == 0
    }

    /// How many bytes of the output are stored, or were let go on purpose: what comes next is the byte after these.
    pub(crate) fn told(&self) -> io::Result<u64> {
        Found::in_folder(&self.folder)?.told(&self.folder)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.progress.borrow().phase.clone()
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.progress.borrow().phase, Phase::Ended(_))
    }

    /// Reads events from this position on; None where no event begins there.
    pub(crate) fn reader(&self, after: u64) -> io::Result<Option<Reader>> {
        Reader::open(&self.folder, self.follow(), after)
    }

    /// For an end that the disk did not take: readers are let go, and the log of the worker says why.
    pub(crate) fn publish_unrecorded(&self, event: &StepEvent) {
        if let Some(end) = event.end() {
            self.progress.send_modify(|progress| progress.phase = Phase::Ended(end));
        }
    }

    /// Survives a loss of power from here on.
    fn decide(&self, decision: Decision) -> io::Result<()> {
        let draft = self.folder.join("decision.draft");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&draft)?;
        file.write_all(&serde_json::to_vec(&decision).expect("a decision is a word or two"))?;
        file.sync_all()?;
        fs::rename(&draft, self.folder.join("decision"))?;
        File::open(&self.folder)?.sync_all()
    }

    /// What was decided of this step before a crash.
    pub(crate) fn decision(&self) -> Option<Decision> {
        let text = fs::read(self.folder.join("decision")).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// What all spools of a worker take on disk, near enough; whoever writes adds to it.
#[derive(Default)]
pub(crate) struct Meter {
    bytes: AtomicU64,
    /// The disk is so full that what is left is kept for the ends of steps.
    output_stopped: AtomicBool,
}

impl Meter {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        // The closure never refuses.
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_default();
    }
}

impl Meter {
    pub(crate) fn stop_output(&self) {
        self.output_stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_stopped_output(&self) -> bool {
        self.output_stopped.load(Ordering::Relaxed)
    }

    /// For steps that begin from now on; what stopped stays so.
    pub(crate) fn resume_output(&self) {
        self.output_stopped.store(false, Ordering::Relaxed);
    }
}

/// When its last event was written.
pub(crate) fn written_at(folder: &Path) -> io::Result<SystemTime> {
    fs::metadata(folder.join("events"))?.modified()
}

/// When this step was taken on.
pub(crate) fn made_at(folder: &Path) -> io::Result<SystemTime> {
    fs::metadata(folder.join("spec.json"))?.modified()
}

pub(crate) fn spec_in(folder: &Path) -> io::Result<StepSpec> {
    let text = fs::read(folder.join("spec.json"))?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}
