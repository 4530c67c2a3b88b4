//! One step, from the boss's side: asks the worker for it, follows it to its end, puts its events into the log
//! and its output into the attempt's file.

use common::{Mark, Problem, Reason, RunFact, StepEnd, StepEvent, StepId, StepSpec, Stream, TaskId, Verdict};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::attempt_tests::with_unread;
use super::super::output::{Output, Place, StoredStep};
use super::super::worker_client::Trouble;
use super::super::workers::WorkerAddress;
use super::Run;
use super::log::{LogError, now_ms};

/// How the answer to a `run(...)` call came out.
pub(super) enum StepDone {
    Ended(StepEnd),
    /// The worker does not take such a spec.
    Refused(Problem),
}

impl StepDone {
    /// As the log has it; what it says of a step is what its caller hears, whenever it asks.
    pub(super) fn of(end: StepEnd) -> StepDone {
        match end {
            StepEnd { verdict: Verdict::Not(Reason::SpecRefused), message, hint, .. } => {
                let error = message.unwrap_or_else(|| "the worker refused this step".to_owned());
                StepDone::Refused(Problem { error, hint, ..Problem::default() })
            }
            end => StepDone::Ended(end),
        }
    }

    /// Of a call that no step came of: its author's mistake, or something that is wrong here.
    pub(super) fn never_asked(problem: Problem) -> StepDone {
        match problem.reason {
            Some(reason) if reason != Reason::SpecRefused => StepDone::Ended(StepEnd {
                verdict: Verdict::Not(reason),
                message: Some(problem.error),
                hint: problem.hint,
                exit_code: None,
                oom: false,
                took_ms: 0,
            }),
            Some(_) | None => StepDone::Refused(problem),
        }
    }

    pub(super) fn end(&self) -> Option<&StepEnd> {
        match self {
            StepDone::Ended(end) => Some(end),
            StepDone::Refused(_) => None,
        }
    }
}

/// What was known of a step before: nothing, unless an earlier boss had asked for it.
#[derive(Default)]
pub(super) struct Before {
    /// Where the worker's spool continues after the last event in the log.
    pub(super) logged: u64,
    pub(super) queued: bool,
    pub(super) stored: StoredStep,
    pub(super) asked: bool,
}

/// One step of one attempt, already in the log as asked for.
pub(super) struct Step {
    pub(super) run: Arc<Run>,
    pub(super) task: TaskId,
    pub(super) attempt: u32,
    pub(super) id: StepId,
    /// As the pipedef names it.
    pub(super) worker: String,
    pub(super) spec: StepSpec,
    pub(super) output: Arc<Output>,
    pub(super) before: Before,
    pub(super) cancel: CancellationToken,
    /// Counts the steps of this attempt that wait in a worker's queue, while the task's clock stands still.
    pub(super) queued: watch::Sender<usize>,
}

impl Step {
    pub(super) async fn follow(self) -> Result<StepDone, LogError> {
        let asked_at = Instant::now();
        // Of the spool: up to where it is read, and up to where it is in the log.
        let mut position = self.before.logged;
        let mut in_queue = InQueue { count: &self.queued, now: false };
        in_queue.set(self.before.queued);
        let trouble = match self.run.workers.resolve(&self.worker) {
            // What an earlier boss had asked for may have begun, or begin yet: only its worker can say how it ended.
            Ok(_) if self.cancel.is_cancelled() && !self.before.asked => {
                return self.ended_here(position, cancelled_before_start()).await;
            }
            Ok(worker) => match self.listen_with_source(&worker, &mut position, &mut in_queue).await? {
                Ok(end) => return Ok(StepDone::Ended(end)),
                Err(trouble) => {
                    // Nobody will hear of this step any more, so it is not to go on.
                    self.run.all.abandon(self.id.clone(), self.worker.clone()).await?;
                    match trouble {
                        Trouble::Fault { reason: Reason::TokenRefused, message, .. } => Trouble::Fault {
                            reason: Reason::TokenRefused,
                            message: format!("the worker {} does not take our token: {message}", worker.base),
                            hint: Some(self.run.workers.token_hint(&worker.base)),
                        },
                        other => other,
                    }
                }
            },
            Err(none) => Trouble::Fault { reason: none.reason, message: none.message, hint: Some(none.hint) },
        };
        let took_ms = asked_at.elapsed().as_millis() as u64;
        let (reason, message, hint) = match trouble {
            Trouble::Fault { reason, message, hint } => (reason, message, hint),
            Trouble::NoTree(problem) => (Reason::UnknownTree, problem.error, problem.hint),
            Trouble::Refused(problem) => (Reason::SpecRefused, problem.error, problem.hint),
        };
        self.ended_here(position, StepEvent::Errored { reason, message, hint, took_ms, exit_code: None })
            .await
    }

    /// Records an end that the worker did not tell.
    async fn ended_here(&self, position: u64, said: StepEvent) -> Result<StepDone, LogError> {
        let end = said.end().expect("only ends are given here");
        self.append(position + 1, said).await?;
        Ok(StepDone::of(end))
    }

    async fn append(&self, position: u64, said: StepEvent) -> Result<(), LogError> {
        let (task, attempt, step) = (self.task.clone(), self.attempt, self.id.clone());
        self.run.log.append(RunFact::Step { task, attempt, step, position, said }).await.map(|_| ())
    }

    /// Listens to a step once the worker has the source that it is to see. It may lose it again meanwhile; then that is
    /// brought there once more.
    async fn listen_with_source(
        &self,
        worker: &WorkerAddress,
        position: &mut u64,
        in_queue: &mut InQueue<'_>,
    ) -> Result<Result<StepEnd, Trouble>, LogError> {
        // One that is cancelled by now only is to be ended, if it ever began.
        if self.spec.tree().is_none() || self.cancel.is_cancelled() {
            return self.listen(worker, position, in_queue).await;
        }
        for again in [false, true] {
            let brought = tokio::select! {
                brought = self.run.bring_source(worker, again) => brought,
                () = self.cancel.cancelled() => Ok(()),
            };
            if let Err(trouble) = brought {
                return Ok(Err(trouble));
            }
            if self.cancel.is_cancelled() && !self.before.asked {
                let said = cancelled_before_start();
                let end = said.end().expect("it is one");
                self.append(*position + 1, said).await?;
                return Ok(Ok(end));
            }
            match self.listen(worker, position, in_queue).await? {
                Err(Trouble::NoTree(_)) if !again => {}
                listened => return Ok(listened),
            }
        }
        unreachable!("the second time it has returned")
    }

    async fn listen(
        &self,
        worker: &WorkerAddress,
        position: &mut u64,
        in_queue: &mut InQueue<'_>,
    ) -> Result<Result<StepEnd, Trouble>, LogError> {
        let mut spec = self.spec.clone();
        spec.id = Some(self.id.clone());
        spec.allow_no_tests = false;
        spec.only_tests = None;
        if spec.build().is_none() {
            spec.image_digest = self.run.pin(&self.worker, &spec.image);
        }
        let Before { logged, stored, .. } = self.before;
        let mut place = stored.next;
        let mut followed =
            self.run.all.client.follow(worker.clone(), self.id.clone(), spec, place.position, logged > 0);
        let cancelling = self.keep_cancelling(worker);
        tokio::pin!(cancelling);
        loop {
            let next = tokio::select! {
                next = followed.next() => next,
                trouble = &mut cancelling => return Ok(Err(trouble)),
            };
            let (said, at) = match next {
                Ok(next) => next,
                Err(trouble) => return Ok(Err(trouble)),
            };
            *position = at.max(logged);
            let from = std::mem::replace(&mut place, Place { position: at, skip_bytes: 0 });
            let marked = at <= stored.marked;
            in_queue.set(matches!(said, StepEvent::Queued));
            match &said {
                StepEvent::Output { stream, bytes } => {
                    place.skip_bytes = self.store(*stream, bytes.as_slice(), from);
                    continue;
                }
                StepEvent::Dropped { bytes } if !marked => {
                    self.output
                        .mark(Mark::Dropped { step: self.id.clone(), bytes: *bytes, position: at }, now_ms());
                }
                StepEvent::Gap { bytes } if !marked => {
                    self.output
                        .mark(Mark::Gap { step: self.id.clone(), bytes: *bytes, position: at }, now_ms());
                }
                StepEvent::Started { image_digest: Some(image_digest), .. } => {
                    if !self.run.set_pin(&self.worker, &self.spec.image, image_digest) {
                        return Ok(Err(self.image_changed()));
                    }
                }
                StepEvent::Exited { image_digest: Some(image_digest), .. } => {
                    self.run.pin_built(&self.worker, &self.spec.image, image_digest);
                }
                StepEvent::Queued
                | StepEvent::Preparing { .. }
                | StepEvent::Started { image_digest: None, .. }
                | StepEvent::Dropped { .. }
                | StepEvent::Gap { .. }
                | StepEvent::Artifacts(_)
                | StepEvent::Exited { image_digest: None, .. }
                | StepEvent::TimedOut { .. }
                | StepEvent::Cancelled { .. }
                | StepEvent::Errored { .. } => {}
            }
            if at <= logged {
                continue;
            }
            let said = match (said.end(), self.output.broken()) {
                (Some(end), Some(why)) => output_lost(&end, &why),
                (Some(_) | None, _) => said,
            };
            let said = match said {
                // Others are refused by the log.
                StepEvent::Artifacts(artifacts) if artifacts.check().is_ok() => {
                    let client = &self.run.all.client;
                    let kept = client.keep_artifacts(worker, &self.id, artifacts, &self.output).await;
                    let outputs = self.run.all.outputs.clone();
                    StepEvent::Artifacts(with_unread(outputs, self.output.id(), kept).await)
                }
                said => said,
            };
            let end = said.end();
            match self.append(at, said).await {
                Ok(()) => {}
                Err(LogError::Illegal(wrong)) => {
                    let message = format!("the worker {} tells what cannot be: {wrong}", worker.base);
                    let hint = "compare bettertest --version on both machines".to_owned();
                    return Ok(Err(Trouble::Fault {
                        reason: Reason::WorkerBroken,
                        message,
                        hint: Some(hint),
                    }));
                }
                Err(error) => return Err(error),
            }
            if let Some(end) = end {
                return Ok(Ok(end));
            }
        }
    }

    /// Stores what was printed, less what is stored already; returns how much of what follows is stored, too.
    fn store(&self, stream: Stream, bytes: &[u8], from: Place) -> u64 {
        let length = bytes.len() as u64;
        if from.skip_bytes >= length {
            return from.skip_bytes - length;
        }
        let fresh = &bytes[from.skip_bytes as usize..];
        self.output.step_printed(&self.id, stream, fresh, from, now_ms());
        0
    }

    /// Two steps that began at the same moment got different images by one name: neither can be trusted alone.
    fn image_changed(&self) -> Trouble {
        Trouble::Fault {
            reason: Reason::ImageChanged,
            message: format!("the image {:?} became another one in the middle of this run", self.spec.image),
            hint: Some("start the run again now that the image is built".to_owned()),
        }
    }

    /// Once the step is to be cancelled, asks the worker for it until the step's events tell that it ended: the
    /// question may get lost, or be faster than the step's start. A worker that lets all its own limits pass is
    /// not waited for longer.
    async fn keep_cancelling(&self, worker: &WorkerAddress) -> Trouble {
        self.cancel.cancelled().await;
        let asked_at = Instant::now();
        while asked_at.elapsed() < CANCEL_PATIENCE {
            if let Err(error) = self.run.all.client.cancel(worker, &self.id).await {
                tracing::debug!(step = %self.id, "the worker did not take a cancel: {error}");
            }
            tokio::time::sleep(CANCEL_AGAIN).await;
        }
        Trouble::Fault {
            reason: Reason::WorkerLost,
            message: format!("the worker {} did not end the step that was cancelled", worker.base),
            hint: Some("look at that worker's log, and at docker ps there".to_owned()),
        }
    }
}

/// A worker's own limits for ending a step, 10 s after SIGTERM and 30 s after SIGKILL, and a minute.
const CANCEL_PATIENCE: Duration = Duration::from_secs(100);

/// How often a cancel is repeated to a worker that has not told of the step's end.
const CANCEL_AGAIN: Duration = Duration::from_secs(1);

/// What a step comes to of which not all output could be stored.
fn output_lost(end: &StepEnd, why: &str) -> StepEvent {
    StepEvent::Errored {
        reason: Reason::OutputLost,
        message: format!("the output could not be stored: {why}"),
        hint: Some("free space on the disk of the data directory, then run it again".to_owned()),
        took_ms: end.took_ms,
        exit_code: end.exit_code,
    }
}

fn cancelled_before_start() -> StepEvent {
    StepEvent::Cancelled { reason: Reason::CancelAsked, took_ms: 0, exit_code: None }
}

/// This step's part in the count of queued steps; given back however the step ends.
struct InQueue<'a> {
    count: &'a watch::Sender<usize>,
    now: bool,
}

impl InQueue<'_> {
    fn set(&mut self, queued: bool) {
        if self.now != queued {
            self.now = queued;
            self.count.send_modify(|count| if queued { *count += 1 } else { *count -= 1 });
        }
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}
