//! The steps that this worker knows: taken on, attached to, cancelled, found again after a restart.
//!
//! A step's id is all that anybody needs to know of it. The same id with the same request is the same step, for
//! as long as its record lives. How a step runs and ends is in `life.rs`; what was said of it, in `spool.rs`.

use common::{Reason, StepEvent, StepId, StepSpec, StepView};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::disk;
use super::engine::{Engine, Fault};
use super::life::Life;
use super::queue::{Slot, Slots};
use super::spool::{self, Phase, Spool, Writer};
use crate::limits;

/// Ids that begin so are the worker's own, of steps whose callers gave none. All of them are one run.
const OWN: &str = "anon";

/// The newest so many are listed.
const LISTED: usize = 1000;

/// One step. Readers come and go; the record stays.
pub(crate) struct Step {
    pub(crate) id: StepId,
    /// What was asked, without id and pin: the same again is the same step.
    asked: [u8; 32],
    pub(crate) spool: Arc<Spool>,
    /// Why it is to stop. The first reason stays.
    stop: watch::Sender<Option<Reason>>,
    readers: watch::Sender<usize>,
}

/// How long things are waited for. Tests cannot wait as long as people can.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) queue: Duration,
    pub(crate) term: Duration,
    pub(crate) kill: Duration,
    pub(crate) lease: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            queue: limits::QUEUE,
            term: limits::TERM_GRACE,
            kill: limits::KILL_GRACE,
            lease: limits::LEASE,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    pub(crate) slots: usize,
    pub(crate) max_output_bytes: u64,
    pub(crate) spool_bytes: u64,
}

/// Why a step is not taken on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("{0}")]
    BadSpec(String),
    #[error("output_cap_bytes: this worker keeps {0} bytes at most")]
    CapTooHigh(u64),
    #[error("step {0} is another command already")]
    OtherSpec(StepId),
    #[error("step {0} is over and forgotten")]
    Forgotten(StepId),
    #[error("{0}")]
    EngineDown(Fault),
    #[error("this worker is stopping")]
    Draining,
    #[error("disk_full: {0}")]
    DiskFull(String),
    #[error("the record of the step cannot be made: {0}")]
    Unrecorded(#[from] io::Error),
}

/// All steps of a worker. Clones share them.
#[derive(Clone)]
pub(crate) struct Steps(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    engine: Engine,
    slots: Slots,
    capacity: Capacity,
    patience: Patience,
    known: Mutex<HashMap<StepId, Arc<Step>>>,
    /// Steps whose containers cannot be killed, with the slots that they keep.
    beyond_reach: Mutex<Vec<(StepId, Option<Slot>)>>,
    lives: TaskTracker,
    draining: CancellationToken,
    hand_over: CancellationToken,
}

impl Steps {
    pub(crate) fn new(
        worker: &Path,
        engine: Engine,
        capacity: Capacity,
        patience: Patience,
    ) -> io::Result<Steps> {
        let folder = worker.join("steps");
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Ok(Steps(Arc::new(Inner {
            folder,
            engine,
            slots: Slots::new(capacity.slots),
            capacity,
            patience,
            known: Mutex::default(),
            beyond_reach: Mutex::default(),
            lives: TaskTracker::new(),
            draining: CancellationToken::new(),
            hand_over: CancellationToken::new(),
        })))
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.0.slots
    }

    pub(crate) fn capacity(&self) -> Capacity {
        self.0.capacity
    }

    pub(crate) fn patience(&self) -> Patience {
        self.0.patience
    }

    pub(crate) fn hand_over(&self) -> &CancellationToken {
        &self.0.hand_over
    }

    /// Goes on with what an earlier worker of this folder left unended.
    pub(crate) fn resume(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0.folder)? {
            let entry = entry?;
            let id = entry.file_name().into_string().ok().and_then(|name| StepId::try_from(name).ok());
            let Some(id) = id else { continue };
            if let Err(error) = self.resume_one(id, &entry.path()) {
                tracing::error!("the record {} cannot be read: {error}", entry.path().display());
            }
        }
        Ok(())
    }

    fn resume_one(&self, id: StepId, folder: &Path) -> io::Result<()> {
        let spec = match spool::spec_in(folder) {
            Ok(spec) => spec,
            // A crash came before anyone was told that the step was taken on.
            Err(_) if !folder.join("events").exists() => return fs::remove_dir_all(folder),
            Err(error) => return Err(error),
        };
        if Spool::ended(folder)?.is_some() {
            return Ok(());
        }
        let writer = Writer::reopen(folder, self.cap_bytes(&spec))?;
        let step = Arc::new(Step::new(id, &spec, writer.spool()));
        self.known().insert(step.id.clone(), step.clone());
        tracing::info!(step = %step.id, "going on with a step of an earlier worker");
        self.begin(step, spec, writer, true);
        Ok(())
    }

    /// Takes a step on, or finds it. The same request again, also at the same time, is the same step.
    pub(crate) async fn take(&self, spec: StepSpec) -> Result<Arc<Step>, NotTaken> {
        spec.check().map_err(|problem| NotTaken::BadSpec(problem.to_string()))?;
        let max = self.0.capacity.max_output_bytes;
        if spec.output_cap_bytes.is_some_and(|cap| cap > max) {
            return Err(NotTaken::CapTooHigh(max));
        }
        if let Some(id) = &spec.id
            && let Some(step) = self.find(id)?
        {
            return step.if_same(&spec);
        }
        if self.0.draining.is_cancelled() {
            return Err(NotTaken::Draining);
        }
        self.0.engine.check().await.map_err(NotTaken::EngineDown)?;
        let steps = self.clone();
        let taken = tokio::task::spawn_blocking(move || steps.record(spec));
        taken.await.map_err(io::Error::other)?
    }

    /// On a thread that may wait for the disk: two who ask for one id at the same time must not both make it.
    fn record(&self, spec: StepSpec) -> Result<Arc<Step>, NotTaken> {
        if let Some(shortage) = disk::shortage(&self.0.folder) {
            return Err(NotTaken::DiskFull(shortage));
        }
        let id = spec.id.clone().unwrap_or_else(own_id);
        let mut known = self.known();
        let there = known.get(&id).cloned();
        if let Some(step) = there.map_or_else(|| self.ended(&id), |step| Ok(Some(step)))? {
            return step.if_same(&spec);
        }
        if self.0.draining.is_cancelled() {
            return Err(NotTaken::Draining);
        }
        let folder = self.0.folder.join(id.as_str());
        let writer = begin_record(&folder, &spec, self.cap_bytes(&spec)).inspect_err(|_| {
            // Half a record would stand in the way of the next try.
            drop(fs::remove_dir_all(&folder));
        })?;
        let step = Arc::new(Step::new(id.clone(), &spec, writer.spool()));
        known.insert(id, step.clone());
        drop(known);
        tracing::info!(step = %step.id, image = spec.image, "queued");
        self.begin(step.clone(), spec, writer, false);
        Ok(step)
    }

    fn begin(&self, step: Arc<Step>, spec: StepSpec, writer: Writer, begun: bool) {
        if spec.id.is_none() {
            self.0.lives.spawn(lease(step.clone(), self.0.patience.lease));
        }
        let (steps, id) = (self.clone(), step.id.clone());
        let life = Life::new(self.clone(), step, spec, writer);
        self.0.lives.spawn(async move {
            life.live(begun).await;
            // Its record is on disk, from where whoever asks for it is answered from now on.
            steps.known().remove(&id);
        });
    }

    fn cap_bytes(&self, spec: &StepSpec) -> u64 {
        spec.output_cap_bytes.unwrap_or(limits::OUTPUT_CAP_BYTES)
    }

    /// A step that lives, or one that ended and has a record.
    pub(crate) fn find(&self, id: &StepId) -> io::Result<Option<Arc<Step>>> {
        let living = self.living(id);
        living.map_or_else(|| self.ended(id), |step| Ok(Some(step)))
    }

    fn living(&self, id: &StepId) -> Option<Arc<Step>> {
        self.known().get(id).cloned()
    }

    fn ended(&self, id: &StepId) -> io::Result<Option<Arc<Step>>> {
        let folder = self.0.folder.join(id.as_str());
        if !folder.exists() {
            return Ok(None);
        }
        let Some(spool) = Spool::ended(&folder)? else { return Ok(None) };
        let spec = spool.spec()?;
        Ok(Some(Arc::new(Step::new(id.clone(), &spec, Arc::new(spool)))))
    }

    /// The newest steps first. Reads the disk.
    pub(crate) fn list(&self) -> io::Result<Vec<StepView>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.0.folder)? {
            let entry = entry?;
            let id = entry.file_name().into_string().ok().and_then(|name| StepId::try_from(name).ok());
            // One that is being made or forgotten right now has no spec.
            if let (Some(id), Ok(made_at)) = (id, spool::made_at(&entry.path())) {
                records.push((made_at, id));
            }
        }
        records.sort_by_key(|(made_at, _)| std::cmp::Reverse(*made_at));
        records.truncate(LISTED);
        let found = records.iter().filter_map(|(_, id)| self.find(id).transpose());
        found.map(|step| step.and_then(|step| step.view())).collect()
    }

    /// Keeps a slot out of use, because of a container that cannot be killed.
    pub(super) fn quarantine(&self, id: &StepId, slot: Option<Slot>) {
        self.beyond_reach().push((id.clone(), slot));
    }

    /// Why the worker is not well, though its engine answers.
    pub(crate) fn trouble(&self) -> Option<String> {
        let stuck: Vec<String> = self.beyond_reach().iter().map(|(id, _)| id.to_string()).collect();
        let named = stuck.join(", ");
        (!stuck.is_empty()).then(|| format!("containers that cannot be killed: of steps {named}"))
    }

    /// Removes what nobody waits for any more.
    pub(crate) async fn sweep(&self) -> Result<(), Fault> {
        let wanted = |id: &str| {
            let step = StepId::try_from(id.to_owned()).ok().and_then(|id| self.living(&id));
            step.is_some_and(|step| !step.spool.has_ended())
        };
        let left = self.0.engine.sweep(&wanted).await?;
        // Their slots go back with them.
        self.beyond_reach().retain(|(id, _)| left.contains(id.as_str()));
        Ok(())
    }

    /// Takes no new steps from here on.
    pub(crate) fn drain(&self) {
        self.0.draining.cancel();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.is_cancelled()
    }

    /// Cancels every step, and waits until all have ended.
    pub(crate) async fn cancel_all(&self) {
        self.drain();
        for step in self.known().values() {
            step.ask_to_stop(Reason::ShutDown);
        }
        self.0.lives.close();
        self.0.lives.wait().await;
    }

    /// Leaves every step as it is, for the next worker.
    pub(crate) async fn leave_all(&self) {
        self.drain();
        self.0.hand_over.cancel();
        self.0.lives.close();
        if tokio::time::timeout(limits::HAND_OVER, self.0.lives.wait()).await.is_err() {
            tracing::warn!(
                "some steps could not be left in time; the next worker will find them all the same"
            );
        }
    }

    /// Held for short sections, in one of which a small file is written; never over an await.
    fn known(&self) -> MutexGuard<'_, HashMap<StepId, Arc<Step>>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beyond_reach(&self) -> MutexGuard<'_, Vec<(StepId, Option<Slot>)>> {
        self.0.beyond_reach.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Step {
    fn new(id: StepId, spec: &StepSpec, spool: Arc<Spool>) -> Step {
        Step {
            id,
            asked: identity(spec),
            spool,
            stop: watch::Sender::new(None),
            readers: watch::Sender::new(0),
        }
    }

    fn if_same(self: Arc<Step>, spec: &StepSpec) -> Result<Arc<Step>, NotTaken> {
        if self.asked == identity(spec) { Ok(self) } else { Err(NotTaken::OtherSpec(self.id.clone())) }
    }

    /// For the queue: steps of one run take turns with those of another.
    pub(super) fn queue_name(&self) -> &str {
        self.id.run()
    }

    /// The first reason stays. Of no effect on a step that has ended.
    pub(crate) fn ask_to_stop(&self, reason: Reason) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            *stop = stop.or(Some(reason));
            first
        });
    }

    pub(super) async fn asked_to_stop(&self) -> Reason {
        let mut stop = self.stop.subscribe();
        let asked = stop.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        match asked {
            Some(reason) => reason,
            // The sender is in `self`, so it is there.
            None => std::future::pending().await,
        }
    }

    /// A reader, for as long as the answer lives.
    pub(crate) fn read(self: &Arc<Step>) -> Reading {
        self.readers.send_modify(|readers| *readers += 1);
        Reading(self.clone())
    }

    pub(crate) fn view(&self) -> io::Result<StepView> {
        let spec = self.spool.spec()?;
        let phase = self.spool.phase();
        let state = match phase {
            Phase::Queued => "queued",
            Phase::Preparing => "preparing",
            Phase::Running => "running",
            Phase::Ended(_) => "ended",
        };
        let end = match phase {
            Phase::Ended(end) => Some(end),
            Phase::Queued | Phase::Preparing | Phase::Running => None,
        };
        Ok(StepView {
            id: self.id.clone(),
            image: spec.image,
            command: spec.command.for_show(),
            state: state.to_owned(),
            verdict: end.as_ref().map(|end| end.verdict),
            exit_code: end.as_ref().and_then(|end| end.exit_code),
            took_ms: end.map(|end| end.took_ms),
        })
    }
}

/// Somebody reads a step's events or output.
pub(crate) struct Reading(Arc<Step>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.send_modify(|readers| *readers -= 1);
    }
}

/// A step without an id of its caller's lives only as long as somebody reads it.
async fn lease(step: Arc<Step>, patience: Duration) {
    let mut readers = step.readers.subscribe();
    let mut progress = step.spool.follow();
    let ended = progress.wait_for(|progress| matches!(progress.phase, Phase::Ended(_)));
    let left = async {
        loop {
            // Cannot fail: the sender is in `step`.
            drop(readers.wait_for(|count| *count == 0).await);
            let came_back = readers.wait_for(|count| *count > 0);
            if tokio::time::timeout(patience, came_back).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = ended => {}
        () = left => step.ask_to_stop(Reason::ReaderLeft),
    }
}

fn begin_record(folder: &Path, spec: &StepSpec, cap_bytes: u64) -> io::Result<Writer> {
    let spool = Spool::create(folder, spec)?;
    let mut writer = Writer::begin(Arc::new(spool), cap_bytes)?;
    writer.say(&StepEvent::Queued)?;
    Ok(writer)
}

fn identity(spec: &StepSpec) -> [u8; 32] {
    let text = serde_json::to_vec(&spec.identity()).expect("a spec is strings and numbers");
    Sha256::digest(text).into()
}

fn own_id() -> StepId {
    let text = format!("{OWN}-{}", crate::auth::random_hex(16));
    StepId::try_from(text).expect("letters, a hyphen and hex digits are an id")
}
