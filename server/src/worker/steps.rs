//! The steps that this worker knows: taken on, attached to, cancelled, found again after a restart.
//!
//! A step's id is all that anybody needs to know of it. The same id with the same request is the same step, for
//! as long as its record lives. How a step runs and ends is in `life.rs`; what was said of it, in `spool.rs`.

use common::{Reason, StepEvent, StepId, StepSpec, StepView, TreeId};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::builder::Builder;
use super::disk;
use super::ends::errored;
use super::engine::{Engine, Fault, Signal};
use super::life::Life;
use super::queue::{Slot, Slots};
use super::records::Records;
use super::sources::{Sources, Tree};
use super::spool::{Pen, Phase};
use super::step::{Step, lease};
use super::trouble::{Trouble, crowded_words};
use crate::limits;
use crate::metrics::{Scrape, StepEnds};

/// Ids that begin so are the worker's own, of steps whose callers gave none. All of them are one run.
const OWN: &str = "anon";

/// The newest so many are listed.
const LISTED: usize = 1000;

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
    #[error("this worker does not have the tree {0}")]
    UnknownTree(TreeId),
    #[error("{0}")]
    EngineDown(Fault),
    #[error("this worker is stopping")]
    Draining,
    #[error("disk_full: {0}")]
    DiskFull(String),
    #[error("{}", crowded_words(*.0))]
    SpoolFull(u64),
    #[error("the records of this worker cannot be read: {0}")]
    Unread(#[from] io::Error),
}

/// All steps of a worker. Clones share them.
#[derive(Clone)]
pub(crate) struct Steps(Arc<Inner>);

struct Inner {
    records: Records,
    engine: Engine,
    builder: Builder,
    sources: Sources,
    slots: Slots,
    capacity: Capacity,
    patience: Patience,
    known: Mutex<HashMap<StepId, Arc<Step>>>,
    trouble: Trouble,
    ends: StepEnds,
    lives: TaskTracker,
    draining: CancellationToken,
    hand_over: CancellationToken,
}

impl Steps {
    /// Reads every record in the worker's folder.
    pub(crate) fn open(
        worker: &Path,
        engine: Engine,
        builder: Builder,
        sources: Sources,
        capacity: Capacity,
        patience: Patience,
    ) -> io::Result<Steps> {
        Ok(Steps(Arc::new(Inner {
            records: Records::open(worker, capacity.spool_bytes)?,
            engine,
            builder,
            sources,
            slots: Slots::new(capacity.slots),
            capacity,
            patience,
            known: Mutex::default(),
            trouble: Trouble::default(),
            ends: StepEnds::new(),
            lives: TaskTracker::new(),
            draining: CancellationToken::new(),
            hand_over: CancellationToken::new(),
        })))
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn builder(&self) -> &Builder {
        &self.0.builder
    }

    /// To the step's container. A build has none of its own: it is stopped at once, and whatever it is told.
    pub(super) async fn signal(&self, step: &StepId, signal: Signal) -> Result<(), Fault> {
        self.0.builder.stop(step);
        self.0.engine.signal(step, signal).await
    }

    /// What is left of the step.
    pub(super) async fn remove(&self, step: &StepId) -> Result<(), Fault> {
        self.0.builder.remove(step).await;
        self.0.engine.remove(step).await
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.0.sources
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
        for id in self.0.records.oldest_first()? {
            match self.0.records.unended(&id) {
                Ok(Some((spec, spool))) => {
                    let step = Arc::new(Step::new(id.clone(), &spec, Arc::new(spool)));
                    self.known().insert(id, step.clone());
                    tracing::info!(step = %step.id, "going on with a step of an earlier worker");
                    let tree = self.tree_of(&spec);
                    self.begin(step, spec, tree, true);
                }
                Ok(None) => {}
                Err(error) => tracing::error!(step = %id, "the record of a step cannot be read: {error}"),
            }
        }
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
            return same(step, &spec);
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
        let records = &self.0.records;
        if let Some(shortage) = records.shortage() {
            return Err(NotTaken::DiskFull(shortage));
        }
        if records.meter().has_stopped_output() {
            // There is room again, and this step's output is to be stored.
            records.keep_reserve().map_err(|error| NotTaken::DiskFull(error.to_string()))?;
        }
        if records.are_full() {
            records.keep_house(limits::RECORD)?;
            self.0.trouble.set_crowded(records.are_full());
            if records.are_full() {
                return Err(NotTaken::SpoolFull(self.0.capacity.spool_bytes));
            }
        }
        let id = spec.id.clone().unwrap_or_else(own_id);
        let mut known = self.known();
        let there = known.get(&id).cloned();
        if let Some(step) = there.map_or_else(|| self.ended(&id), |step| Ok(Some(step)))? {
            return same(step, &spec);
        }
        if records.is_forgotten(&id)? {
            return Err(NotTaken::Forgotten(id));
        }
        if self.0.draining.is_cancelled() {
            return Err(NotTaken::Draining);
        }
        let tree = self.tree_of(&spec);
        if let (Some(wanted), None) = (spec.tree(), &tree) {
            return Err(NotTaken::UnknownTree(wanted.clone()));
        }
        let begun = self.0.trouble.wrote(records.folder(), records.begin(&id, &spec));
        let spool = begun.map_err(NotTaken::DiskFull)?;
        let step = Arc::new(Step::new(id.clone(), &spec, Arc::new(spool)));
        known.insert(id, step.clone());
        drop(known);
        tracing::info!(step = %step.id, image = spec.image, "queued");
        self.begin(step.clone(), spec, tree, false);
        Ok(step)
    }

    /// The tree that a step is to run on, where it is here: in use from now on.
    fn tree_of(&self, spec: &StepSpec) -> Option<Arc<Tree>> {
        spec.tree().and_then(|tree| self.0.sources.tree(tree))
    }

    fn begin(&self, step: Arc<Step>, spec: StepSpec, tree: Option<Arc<Tree>>, begun: bool) {
        if spec.id.is_none() {
            self.0.lives.spawn(lease(step.clone(), self.0.patience.lease));
        }
        let (steps, meter, cap_bytes) = (self.clone(), self.0.records.meter(), cap_bytes(&spec));
        let pen = Pen::new(step.spool.clone(), meter, cap_bytes);
        let life = Life::new(self.clone(), step.clone(), spec, tree, pen);
        self.0.lives.spawn(async move {
            if let Err(panic) = tokio::spawn(life.live(begun)).await {
                steps.end_broken(&step, cap_bytes, &panic).await;
            }
            if !steps.0.trouble.has_kept(&step.id) {
                // Its record is on disk, from where whoever asks for it is answered from now on.
                steps.known().remove(&step.id);
            }
        });
    }

    /// A life that panicked is our fault, and an end like any other for those who wait for it.
    async fn end_broken(&self, step: &Arc<Step>, cap_bytes: u64, panic: &tokio::task::JoinError) {
        tracing::error!(step = %step.id, "the life of a step broke off: {panic}");
        let fault = Fault::new(
            Reason::Internal,
            "bettertest broke while it ran this step",
            "the worker's log says more; please report it with that log",
        );
        let event = errored(fault, 0, None);
        if let Err(fault) = self.remove(&step.id).await {
            tracing::warn!(step = %step.id, "the container is left for the next sweep: {fault}");
        }
        let pen = Pen::new(step.spool.clone(), self.0.records.meter(), cap_bytes);
        self.count(&event);
        match pen.end(None, event.clone(), oneshot::channel().0).await {
            Ok(unpublished) => unpublished.publish(),
            Err(error) => {
                tracing::error!(step = %step.id, "the end of a step could not be recorded: {error}");
                self.keep_end(step.clone(), event);
            }
        }
    }

    pub(crate) fn is_forgotten(&self, id: &StepId) -> io::Result<bool> {
        self.0.records.is_forgotten(id)
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
        let found = self.0.records.ended(id)?;
        Ok(found.map(|(spec, spool)| Arc::new(Step::new(id.clone(), &spec, Arc::new(spool)))))
    }

    /// The newest steps first. Reads the disk.
    pub(crate) fn list(&self) -> io::Result<Vec<StepView>> {
        let ids = self.0.records.newest(LISTED)?;
        let found = ids.iter().filter_map(|id| self.find(id).transpose());
        found.map(|step| step.and_then(|step| step.view())).collect()
    }

    /// Lets go of old records, and of output where there is too much. Reads the disk.
    pub(crate) fn keep_house(&self) -> io::Result<()> {
        self.0.records.keep_house(limits::RECORD)
    }

    /// What is short on the disk of the records, if something is.
    pub(super) fn shortage(&self) -> Option<String> {
        self.0.records.shortage()
    }

    /// So much more lies in the records.
    pub(super) fn takes(&self, bytes: u64) {
        self.0.records.meter().add(bytes);
    }

    pub(crate) fn keep_reserve(&self) -> io::Result<()> {
        self.0.records.keep_reserve()
    }

    pub(crate) fn are_full(&self) -> bool {
        self.0.records.are_full()
    }

    /// Keeps a slot out of use, because of a container that cannot be killed.
    pub(super) fn quarantine(&self, id: &StepId, slot: Option<Slot>) {
        self.0.trouble.quarantine(id, slot);
    }

    /// Counts an end, before anybody is told of it.
    pub(super) fn count(&self, event: &StepEvent) {
        if let Some(end) = event.end() {
            self.0.ends.count(&end);
        }
    }

    /// The counts, and how things stand.
    pub(crate) fn scrape(&self) -> Scrape {
        let mut scrape = Scrape::begin("worker");
        scrape.step_ends(&self.0.ends);
        let (mut queued, mut running) = (0, 0);
        for step in self.known().values() {
            match step.spool.phase() {
                Phase::Queued => queued += 1,
                Phase::Preparing | Phase::Running => running += 1,
                Phase::Ended(_) => {}
            }
        }
        scrape.gauge("steps_queued", "Steps that wait for a slot", queued);
        scrape.gauge("steps_running", "Steps that have a slot", running);
        scrape.gauge("slots", "How many steps run at once", self.0.capacity.slots as u64);
        scrape.gauge("spool_bytes", "Output of steps on the disk", self.0.records.meter().bytes());
        scrape.free_bytes(self.0.records.folder());
        scrape
    }

    /// An end that the disk did not take. It is told nobody as a whole, but the step is over.
    pub(super) fn keep_end(&self, step: Arc<Step>, event: StepEvent) {
        step.settle();
        step.spool.publish_unrecorded(&event);
        self.0.trouble.keep_end(step, event);
    }

    /// Why the worker is not well, though its engine answers; the second line is a hint.
    pub(crate) fn trouble(&self) -> Option<String> {
        let (records, capacity) = (&self.0.records, self.0.capacity);
        self.0.trouble.words(records.shortage(), records.are_full(), capacity.spool_bytes)
    }

    /// Comes when the disk begins to refuse what has to be written down.
    pub(crate) async fn disk_trouble(&self) {
        self.0.trouble.of_disk().await;
    }

    pub(crate) fn has_disk_trouble(&self) -> bool {
        self.0.trouble.is_of_disk() || self.0.records.meter().has_stopped_output()
    }

    /// Writes down what the disk did not take before, if it takes it now.
    pub(crate) async fn record_ends(&self) {
        let steps = self.clone();
        let tried = tokio::task::spawn_blocking(move || {
            let folder = steps.0.records.folder();
            steps.0.trouble.wrote(folder, disk::try_to_write(folder)).is_ok()
        });
        if !tried.await.unwrap_or(false) {
            return;
        }
        for (step, event) in self.0.trouble.take_ends() {
            // Nothing of its output is written any more.
            let pen = Pen::new(step.spool.clone(), self.0.records.meter(), 0);
            match pen.end(None, event.clone(), oneshot::channel().0).await {
                Ok(unpublished) => {
                    unpublished.publish();
                    self.known().remove(&step.id);
                }
                Err(_) => self.0.trouble.keep_end(step, event),
            }
        }
    }

    /// Removes what nobody waits for any more.
    pub(crate) async fn sweep(&self) -> Result<(), Fault> {
        let wanted = |id: &str| {
            let step = StepId::try_from(id.to_owned()).ok().and_then(|id| self.living(&id));
            // What was handed over is wanted by the next worker. Asked last: a step leaves this one only after it.
            step.is_some_and(|step| !step.spool.has_ended()) || self.0.hand_over.is_cancelled()
        };
        let mut stuck = self.0.engine.sweep(&wanted).await?;
        stuck.retain(|id| !wanted(id));
        self.0.trouble.swept(&stuck, &self.0.slots);
        Ok(())
    }

    /// Keeps the images that were built within their bound.
    pub(crate) async fn sweep_images(&self) -> Result<(), Fault> {
        let wanted = |image: &str| {
            let steps: Vec<Arc<Step>> = self.known().values().cloned().collect();
            let mut specs = steps.iter().filter_map(|step| step.spool.spec().ok());
            specs.any(|spec| spec.image == image || spec.image_digest.as_deref() == Some(image))
        };
        self.0.builder.sweep(&wanted).await
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
}

fn same(step: Arc<Step>, spec: &StepSpec) -> Result<Arc<Step>, NotTaken> {
    if step.is_of(spec) { Ok(step) } else { Err(NotTaken::OtherSpec(step.id.clone())) }
}

fn cap_bytes(spec: &StepSpec) -> u64 {
    spec.output_cap_bytes.unwrap_or(limits::OUTPUT_CAP_BYTES)
}

fn own_id() -> StepId {
    let text = format!("{OWN}-{}", crate::auth::random_hex(16));
    StepId::try_from(text).expect("letters, a hyphen and hex digits are an id")
}
