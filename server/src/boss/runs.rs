//! All runs: discover, start, re-run, cancel, look. Only here, and in the files below, is anything appended to a
//! run's log. Does not know that HTTP is served.

mod attempt;
mod builders;
mod clock;
mod counts;
mod drive;
mod failed_tests;
mod keep;
mod log;
mod orphans;
mod python;
mod replay;
mod resume;
mod source;
mod step;

use common::{
    AttemptArtifacts, Page, Phase, Pipeline, Problem, Reason, Rerun, RunEvent, RunFact, RunKey, RunNumber,
    RunSource, RunState, RunSummary, Seq, SkipReason, StartedBy, TaskId, WorkerView, WorkersView,
};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::output::{Output, OutputId, Outputs, Stored};
use super::pipedef::{Code, Host, Python, project_name};
use super::store::{Standing, Store, StoreError, StoredCode};
use super::worker_client::WorkerClient;
use super::workers::Workers;
use crate::joined::joined;
use counts::Counts;
pub(crate) use keep::Keep;
use log::Log;
pub(crate) use log::LogError;
pub(crate) use log::now_ms;
use resume::{code_of, pins_of};
use source::Taken;

/// How many Python processes execute tasks at once. More tasks than that wait their turn.
const TASKS_AT_ONCE: usize = 64;

/// Why a run is not there, or not to be had so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunsError {
    /// The pipedef cannot be discovered, or what is asked for is not in it. There is no run.
    #[error("{}", .0.error)]
    Pipedef(Problem),
    #[error("there is no run {0}")]
    NoSuchRun(RunNumber),
    #[error("run {0} was removed: it was the oldest, and only so much is kept")]
    Removed(RunNumber),
    /// The run is not in the state that this needs.
    #[error("{}", .0.error)]
    NotNow(Problem),
    #[error("the boss is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Log(LogError),
}

impl RunsError {
    /// What is in the store is not what was written there.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            RunsError::Store(error) | RunsError::Log(LogError::Store(error)) => error.is_damage(),
            RunsError::Pipedef(_)
            | RunsError::NoSuchRun(_)
            | RunsError::Removed(_)
            | RunsError::NotNow(_)
            | RunsError::ShuttingDown
            | RunsError::Log(LogError::Illegal(_) | LogError::BrokenOff) => false,
        }
    }
}

impl From<StoreError> for RunsError {
    fn from(error: StoreError) -> RunsError {
        match error {
            StoreError::Removed(run) => RunsError::Removed(run),
            error => RunsError::Store(error),
        }
    }
}

impl From<LogError> for RunsError {
    fn from(error: LogError) -> RunsError {
        match error {
            LogError::Store(error @ StoreError::Removed(_)) => error.into(),
            error => RunsError::Log(error),
        }
    }
}

/// A handle on all runs; clones share them.
#[derive(Clone)]
pub(crate) struct Runs {
    all: Arc<All>,
}

/// What every run uses.
struct All {
    pipedef: PathBuf,
    python: Python,
    store: Store,
    outputs: Outputs,
    workers: Mutex<Workers>,
    client: WorkerClient,
    /// The workers' addresses that the pipedef had when it was last read.
    named: Mutex<Vec<String>>,
    live: Mutex<HashMap<RunNumber, Arc<Run>>>,
    /// Told when a run starts or ends.
    changes: watch::Sender<()>,
    counts: Counts,
    turns: Arc<Semaphore>,
    /// No run begins any more.
    draining: AtomicBool,
    /// Cancels every run that there is or will be.
    closing: CancellationToken,
    /// Nothing more is written to any log: what goes on is for the next boss to see.
    frozen: CancellationToken,
    driven: TaskTracker,
}

/// A run that has not ended.
struct Run {
    all: Arc<All>,
    number: RunNumber,
    key: RunKey,
    code: Code,
    /// As they were when it began: what it has begun with one it ends with that one.
    workers: Workers,
    source: Taken,
    /// The workers that have the source by now, by address; held while it is sent there.
    brought: Mutex<HashMap<String, Arc<tokio::sync::Mutex<bool>>>>,
    /// What its tasks are forked from; None where each starts a Python of its own.
    host: OnceCell<Option<Arc<Host>>>,
    log: Log,
    cancel: CancellationToken,
    /// Which image a name meant first, by worker and name.
    pins: Mutex<HashMap<(String, String), String>>,
    /// The outputs of attempts that an earlier boss has begun, until these go on.
    reopened: Mutex<HashMap<TaskId, std::io::Result<(Output, Stored)>>>,
}

impl Runs {
    pub(crate) fn new(
        pipedef: PathBuf,
        python: Python,
        store: Store,
        outputs: Outputs,
        workers: Workers,
    ) -> Runs {
        let all = All {
            pipedef,
            python,
            store,
            outputs,
            workers: Mutex::new(workers),
            client: WorkerClient::new(),
            named: Mutex::default(),
            live: Mutex::default(),
            changes: watch::channel(()).0,
            counts: Counts::new(),
            turns: Arc::new(Semaphore::new(TASKS_AT_ONCE)),
            draining: AtomicBool::new(false),
            closing: CancellationToken::new(),
            frozen: CancellationToken::new(),
            driven: TaskTracker::new(),
        };
        Runs { all: Arc::new(all) }
    }

    /// What the pipedef declares right now.
    pub(crate) async fn discover(&self) -> Result<Pipeline, RunsError> {
        let found = self.all.python.discover(&self.all.pipedef).await;
        let (pipeline, code) = found.map_err(RunsError::Pipedef)?;
        self.all.remember_workers(&code);
        Ok(pipeline)
    }

    /// The name of the project that these are runs of.
    pub(crate) fn project(&self) -> String {
        project_name(&self.all.pipedef)
    }

    /// How the workers are that the pipedef named last, and those that have a line in workers.toml.
    pub(crate) async fn workers(&self) -> WorkersView {
        let named = self.all.named.lock().expect("no panic under this lock").clone();
        let (workers, client) = (&self.all.workers_now(), &self.all.client);
        let known = workers.known(&named);
        let look = |address: String| async move {
            let found = match workers.resolve(&address) {
                Ok(worker) => client.look(&worker, &workers.token_hint(&worker.base)).await,
                Err(none) => {
                    WorkerView { why: Some(none.message), hint: Some(none.hint), ..Default::default() }
                }
            };
            WorkerView { worker: address, ..found }
        };
        WorkersView {
            workers: futures_util::future::join_all(known.into_iter().map(look)).await,
            unread: workers.unread().cloned(),
        }
    }

    /// Starts a run of the whole pipeline, or of some of its tasks.
    pub(crate) async fn start(
        &self,
        only: Option<Vec<TaskId>>,
        by: StartedBy,
    ) -> Result<RunNumber, RunsError> {
        let found = self.all.python.discover_for_run(&self.all.pipedef).await;
        let (pipeline, code) = found.map_err(RunsError::Pipedef)?;
        self.all.remember_workers(&code);
        let key = RunKey::from_random(crate::auth::random_u128());
        self.start_discovered(key, pipeline, code, only, by).await
    }

    pub(crate) async fn start_discovered(
        &self,
        key: RunKey,
        pipeline: Pipeline,
        code: Code,
        only: Option<Vec<TaskId>>,
        by: StartedBy,
    ) -> Result<RunNumber, RunsError> {
        let only = match check_selection(&pipeline, only)? {
            Some(only) => Some(self.with_builders(&pipeline, &code, only).await?),
            None => None,
        };
        if self.all.draining.load(Ordering::SeqCst) {
            return Err(RunsError::ShuttingDown);
        }
        // A run that is in the store is driven, even where the one who asked for it does not wait.
        let all = self.all.clone();
        let begun = tokio::spawn(async move { all.begin(key, pipeline, code, only, by).await });
        joined(begun.await).await
    }

    /// New attempts of the tasks of an ended run that did not pass.
    pub(crate) async fn rerun(&self, number: RunNumber, wanted: Rerun) -> Result<(), RunsError> {
        let not_now = |error: String, hint: &str| RunsError::NotNow(Problem::new(error, hint));
        let state = self.state(number).await?;
        if self.all.draining.load(Ordering::SeqCst) {
            return Err(RunsError::ShuttingDown);
        }
        let only = state.to_run_again(wanted.only.as_deref()).map_err(RunsError::NotNow)?;
        let failed_tests =
            if wanted.failed_tests { self.failed_tests(&state, &only).await } else { Vec::new() };
        let code = code_of(self.all.store.pipedef(number).await?);
        let run = Arc::new(Run {
            all: self.all.clone(),
            number,
            key: state.key.clone().expect("a run that has ended has begun"),
            workers: self.all.workers_now(),
            source: self.all.stored_source(number, &code),
            brought: Mutex::default(),
            code,
            host: OnceCell::new(),
            pins: Mutex::new(pins_of(&state)),
            reopened: Mutex::default(),
            log: Log::new(self.all.clone(), state),
            cancel: self.all.closing.child_token(),
        });
        if !self.all.enter(&run) {
            return Err(not_now(format!("run {number} is still running"), "wait for its end, or cancel it"));
        }
        // Not to be given up half-way, even where the one who asked for it does not wait.
        let begun = tokio::spawn(async move {
            let appended = run.log.append(RunFact::RerunStarted { only, failed_tests }).await;
            match appended {
                Ok(_) => run.all.clone().drive(run),
                Err(_) => run.all.leave(&run),
            }
            appended
        });
        joined(begun.await).await?;
        Ok(())
    }

    /// Cancels a run. One that has ended stays as it is.
    pub(crate) async fn cancel(&self, number: RunNumber) -> Result<(), RunsError> {
        let live = self.all.find_live(number);
        match live {
            Some(run) => {
                let wanted = run.log.look(|state| !state.cancel_asked && state.phase == Phase::Running).await;
                if wanted {
                    match run.log.append(RunFact::CancelAsked).await {
                        // Somebody else was faster, or the run was: either way nothing is left to ask for.
                        Ok(_) | Err(LogError::Illegal(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                run.cancel.cancel();
                Ok(())
            }
            None => self.exists(number).await,
        }
    }

    /// A run as it stands, rebuilt from its events where it is not alive. Refused as damage where these do not come to
    /// what the store says of it; one that is alive in another process comes to that.
    pub(crate) async fn state(&self, number: RunNumber) -> Result<RunState, RunsError> {
        if let Some(run) = self.all.find_live(number) {
            return Ok(run.log.state().await);
        }
        self.exists(number).await?;
        Ok(self.all.store.replay(number).await?)
    }

    pub(crate) async fn page(&self, before: Option<RunNumber>, limit: usize) -> Result<Page, RunsError> {
        Ok(self.all.store.page(before, limit).await?)
    }

    pub(crate) async fn exists(&self, number: RunNumber) -> Result<(), RunsError> {
        match self.all.store.standing(number).await? {
            Standing::Here => Ok(()),
            Standing::Removed => Err(RunsError::Removed(number)),
            Standing::Unknown => Err(RunsError::NoSuchRun(number)),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.all.store
    }

    /// What is kept of an attempt that has begun.
    pub(crate) async fn artifacts(&self, id: OutputId) -> Result<AttemptArtifacts, RunsError> {
        let state = self.state(id.run).await?;
        let task = state.tasks().nth(id.task);
        let attempt = task.and_then(|task| task.attempts.iter().find(|attempt| attempt.number == id.attempt));
        let none = AttemptArtifacts { attempt: id.attempt, steps: Vec::new() };
        Ok(attempt.map_or(none, AttemptArtifacts::of))
    }

    pub(crate) fn outputs(&self) -> &Outputs {
        &self.all.outputs
    }

    /// Tells when a run has more events in the store; None when it is at rest.
    pub(crate) fn follow(&self, number: RunNumber) -> Option<watch::Receiver<Seq>> {
        self.all.find_live(number).map(|run| run.log.follow())
    }

    /// Tells when a run starts or ends.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.all.changes.subscribe()
    }

    /// Runs that the store holds as running: after a start, those that a crash has left.
    pub(crate) async fn unended(&self) -> Result<Vec<(RunNumber, RunKey)>, RunsError> {
        Ok(self.all.store.unended().await?)
    }

    /// Goes on with every run that an earlier process has left unended. One that cannot go on is ended.
    pub(crate) async fn resume(&self) -> Result<(), RunsError> {
        self.all.store.keep_reserve().await;
        self.all.end_orphans().await?;
        for (number, _) in self.unended().await? {
            if let Err(error) = self.all.resume(number).await {
                tracing::error!(run.id = number.0, "run {number} cannot go on: {error}");
                // One run that cannot be ended is no reason not to serve the others.
                if let Err(error) = self.end_abandoned(number, Reason::BossRestart).await {
                    tracing::error!(run.id = number.0, "run {number} cannot be ended: {error}");
                }
            }
        }
        Ok(())
    }

    /// Ends a run whose process is gone, for this reason: what became of its tasks is not known.
    pub(crate) async fn end_abandoned(&self, number: RunNumber, reason: Reason) -> Result<(), RunsError> {
        self.all.end_abandoned(number, reason).await
    }

    /// Ends every run that a restored history has as running. Their steps may be another boss's: nobody is told.
    pub(crate) async fn end_restored(&self) -> Result<(), RunsError> {
        for (number, _) in self.unended().await? {
            let what = "this history was restored from a backup that was made while this ran";
            self.all.end_as(number, Reason::BossRestart, what).await?;
        }
        Ok(())
    }

    /// Begins no run any more, and waits for the ends of those that there are.
    pub(crate) async fn drain(&self) {
        self.all.draining.store(true, Ordering::SeqCst);
        self.all.driven.close();
        self.all.driven.wait().await;
    }

    /// Told once what still runs is left to the next boss.
    pub(crate) fn left_to_the_next(&self) -> CancellationToken {
        self.all.frozen.clone()
    }

    /// From here on nothing of what this process sees becomes a part of any run. Its end is no fault of theirs.
    pub(crate) async fn hand_over(&self) {
        self.all.frozen.cancel();
        let live: Vec<Arc<Run>> =
            self.all.live.lock().expect("no panic under this lock").values().cloned().collect();
        for run in live {
            // What was being written when the freeze came is on the disk after this.
            run.log.look(|_| ()).await;
            tracing::info!(run.id = run.number.0, "run {} is left to the next boss", run.number);
        }
    }

    /// Cancels every run and waits for their ends.
    pub(crate) async fn shut_down(&self) {
        self.all.draining.store(true, Ordering::SeqCst);
        let live: Vec<RunNumber> =
            self.all.live.lock().expect("no panic under this lock").keys().copied().collect();
        for number in live {
            if let Err(error) = self.cancel(number).await {
                tracing::error!(run.id = number.0, "run {number} could not be cancelled: {error}");
            }
        }
        // And those that begin only now.
        self.all.closing.cancel();
        self.all.driven.close();
        self.all.driven.wait().await;
    }
}

impl All {
    /// As workers.toml has them at this moment: whoever enrols a worker restarts nothing.
    fn workers_now(&self) -> Workers {
        let mut workers = self.workers.lock().expect("no panic under this lock");
        workers.reread();
        workers.clone()
    }

    fn remember_workers(&self, code: &Code) {
        self.named.lock().expect("no panic under this lock").clone_from(&code.addresses);
    }

    fn find_live(&self, number: RunNumber) -> Option<Arc<Run>> {
        self.live.lock().expect("no panic under this lock").get(&number).cloned()
    }

    async fn begin(
        self: &Arc<All>,
        key: RunKey,
        pipeline: Pipeline,
        code: Code,
        only: Option<Vec<TaskId>>,
        by: StartedBy,
    ) -> Result<RunNumber, RunsError> {
        let source = self.take_source(&key, &code).await;
        let (state_out, state_in) = tokio::sync::oneshot::channel();
        let first = {
            let (key, outputs) = (key.clone(), self.outputs.clone());
            move |run| {
                // On its place before there is the run: whoever finds that finds its source.
                let source = source.moved_to_run(&outputs, run);
                let (events, state) = first_events(run, key, pipeline, only, by, source.record());
                let summary = RunSummary::of(&state);
                state_out.send((state, source)).expect("the receiver waits for this transaction");
                (events, summary)
            }
        };
        let stored = StoredCode {
            pipedef: code.pipedef.display().to_string(),
            files: code.files.clone(),
            python: code.python.to_str().map(str::to_owned),
        };
        let number = self.store.create(key.clone(), stored, first).await?;
        let (state, source) = state_in.await.expect("the transaction that made the run has sent it");
        let run = Arc::new(Run {
            all: self.clone(),
            number,
            key,
            code,
            workers: self.workers_now(),
            source,
            brought: Mutex::default(),
            host: OnceCell::new(),
            log: Log::new(self.clone(), state),
            cancel: self.closing.child_token(),
            pins: Mutex::default(),
            reopened: Mutex::default(),
        });
        self.enter(&run);
        self.changes.send_replace(());
        self.clone().drive(run);
        Ok(number)
    }

    /// Puts a run among the living, unless it is there already.
    fn enter(&self, run: &Arc<Run>) -> bool {
        let mut live = self.live.lock().expect("no panic under this lock");
        match live.entry(run.number) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(run.clone());
                true
            }
        }
    }

    fn leave(&self, run: &Arc<Run>) {
        self.live.lock().expect("no panic under this lock").remove(&run.number);
    }

    /// Executes a run in the background, and takes it out of the living at its end.
    fn drive(self: Arc<All>, run: Arc<Run>) {
        let tracker = self.driven.clone();
        tracker.spawn(async move {
            let number = run.number;
            let driven = tokio::spawn({
                let run = run.clone();
                async move { run.drive().await }
            });
            match driven.await {
                Ok(Ok(())) => self.store.keep_reserve().await,
                Ok(Err(LogError::Store(_) | LogError::BrokenOff)) => return self.drive_again(run).await,
                Ok(Err(error @ LogError::Illegal(_))) => self.give_up(number, &error.to_string()).await,
                Err(panicked) => self.give_up(number, &panicked.to_string()).await,
            }
            self.leave(&run);
            run.end_host().await;
        });
    }
}

/// What can be run: named tasks, each once. Discovery runs the user's code, so what it says is not taken on trust.
fn check_selection(pipeline: &Pipeline, only: Option<Vec<TaskId>>) -> Result<Option<Vec<TaskId>>, RunsError> {
    let problem = |error: String, hint: &str| Err(RunsError::Pipedef(Problem::new(error, hint)));
    let mut names = HashSet::new();
    for task in pipeline.tasks() {
        if TaskId::try_from(task.to_string()).as_ref() != Ok(&task) {
            return problem(
                format!("{task} cannot be the name of a task"),
                "use Python identifiers as names",
            );
        }
        if !names.insert(task.clone()) {
            return problem(format!("there are two tasks {task}"), "give one of them another name");
        }
    }
    if names.is_empty() {
        return problem("the pipedef declares no task".to_owned(), "add a method task_something to a Stage");
    }
    let Some(only) = only else { return Ok(None) };
    if only.is_empty() {
        return problem("no task was selected".to_owned(), "name at least one as Stage.task");
    }
    if let Some(stranger) = only.iter().find(|wanted| !names.contains(*wanted)) {
        let names: Vec<String> = pipeline.tasks().take(8).map(|task| task.to_string()).collect();
        return problem(format!("there is no task {stranger}"), &format!("there are: {}", names.join(", ")));
    }
    Ok(Some(pipeline.tasks().filter(|task| only.contains(task)).collect()))
}

/// A run begins with its pipeline, and with what it leaves out.
fn first_events(
    run: RunNumber,
    key: RunKey,
    pipeline: Pipeline,
    only: Option<Vec<TaskId>>,
    by: StartedBy,
    source: Option<RunSource>,
) -> (Vec<RunEvent>, RunState) {
    let left_out: Vec<TaskId> = match &only {
        Some(only) => pipeline.tasks().filter(|task| !only.contains(task)).collect(),
        None => Vec::new(),
    };
    let begin = RunFact::RunStarted { run, key, pipeline, only, started_by: Some(by), source };
    let skip = |task| RunFact::TaskSkipped { task, why: SkipReason::NotSelected };
    let mut state = RunState::default();
    let mut events = Vec::new();
    for fact in std::iter::once(begin).chain(left_out.into_iter().map(skip)) {
        let event = RunEvent { seq: Seq(state.last_seq.0 + 1), at_ms: now_ms(), fact };
        state.apply(&event).expect("a checked pipeline and a checked selection make a legal run");
        events.push(event);
    }
    (events, state)
}
