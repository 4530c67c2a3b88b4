//! Runs that were left in the middle, by a boss that was killed or by a store that took nothing: they go on where
//! their log ends, or, where that cannot be, they are ended.

use common::{
    Phase, Problem, Reason, RunFact, RunNumber, RunState, SkipReason, StepState, TaskId, TaskState, Verdict,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::OnceCell;

use super::log::{Log, now_ms};
use super::{All, Run, RunsError};
use crate::boss::output::{Output, OutputId, Stored};
use crate::boss::pipedef::{ANY_PYTHON, Code, Forks};
use crate::boss::store::{StoreError, StoredCode};
use crate::limits;

impl All {
    /// Goes on with a run where its log ends.
    pub(super) async fn resume(self: &Arc<All>, number: RunNumber) -> Result<(), RunsError> {
        let state = self.store.replay(number).await?;
        let code = code_of(self.store.pipedef(number).await?);
        let cancel = self.closing.child_token();
        if state.cancel_asked {
            cancel.cancel();
        }
        let run = Arc::new(Run {
            all: self.clone(),
            number,
            key: state
                .key
                .clone()
                .ok_or_else(|| StoreError::Contradicts(format!("run {number} never began")))?,
            workers: self.workers_now(),
            source: self.stored_source(number, &code),
            brought: Mutex::default(),
            code,
            host: OnceCell::new(),
            pins: Mutex::new(pins_of(&state)),
            reopened: Mutex::new(self.reopen(&state)),
            log: Log::new(self.clone(), state),
            cancel,
        });
        tracing::info!(run.id = number.0, "run {number} goes on");
        self.enter(&run);
        self.clone().drive(run);
        Ok(())
    }

    /// All at once, before anybody can ask for them: an output that nobody writes would read as ended.
    fn reopen(&self, state: &RunState) -> HashMap<TaskId, std::io::Result<(Output, Stored)>> {
        let running = state.tasks().enumerate().filter(|(_, task)| task.state == TaskState::Running);
        let reopened = running.filter_map(|(place, task)| {
            let attempt = task.attempts.last()?.number;
            let id = OutputId { run: state.number, task: place, attempt };
            Some((task.id.clone(), self.outputs.resume(id)))
        });
        reopened.collect()
    }

    /// Goes on with a run as after a restart, once what happens can be recorded again: on a disk that was full, for
    /// instance.
    pub(super) async fn drive_again(self: Arc<All>, broken_off: Arc<Run>) {
        let number = broken_off.number;
        tracing::error!(run.id = number.0, "run {number} waits until its log can be written again");
        loop {
            tokio::select! {
                () = tokio::time::sleep(limits::STORE_AGAIN) => {}
                // The next boss goes on with it.
                () = self.closing.cancelled() => return self.leave(&broken_off),
                () = self.frozen.cancelled() => return,
            }
            if let Err(error) = self.store.check(number).await {
                tracing::debug!(run.id = number.0, "the store does not take anything yet: {error}");
                continue;
            }
            // Among the living until then: to its readers it has not ended.
            self.leave(&broken_off);
            match self.resume(number).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(run.id = number.0, "run {number} cannot go on yet: {error}");
                    self.enter(&broken_off);
                }
            }
        }
    }

    /// Ends a run that cannot go on for a reason that time does not mend.
    pub(super) async fn give_up(self: &Arc<All>, number: RunNumber, why: &str) {
        tracing::error!(run.id = number.0, "run {number} cannot go on: {why}");
        // Where not even this can be written, the next start does it.
        if let Err(error) = self.end_abandoned(number, Reason::Internal).await {
            tracing::error!(run.id = number.0, "run {number} cannot be ended: {error}");
        }
    }

    pub(super) async fn end_abandoned(
        self: &Arc<All>,
        number: RunNumber,
        reason: Reason,
    ) -> Result<(), RunsError> {
        let state = self.store.replay(number).await?;
        if matches!(state.phase, Phase::Ended(_)) {
            return Ok(());
        }
        self.cancel_unended(&state).await?;
        self.end_as(number, reason, "the process that ran this task was stopped or crashed").await
    }

    /// Ends a run that nobody drives, without a word to any worker.
    pub(super) async fn end_as(
        self: &Arc<All>,
        number: RunNumber,
        reason: Reason,
        what: &str,
    ) -> Result<(), RunsError> {
        let state = self.store.replay(number).await?;
        let log = Log::new(self.clone(), state.clone());
        for task in state.tasks() {
            let id = task.id.clone();
            let fact = match (task.state, task.attempts.last()) {
                (TaskState::Running, Some(attempt)) => RunFact::TaskEnded {
                    task: id,
                    attempt: attempt.number,
                    verdict: Verdict::Not(reason),
                    took_ms: now_ms().saturating_sub(attempt.started_at_ms),
                    problem: Some(Problem::new(what, "run it again")),
                    tests: None,
                },
                (TaskState::Pending, _) => RunFact::TaskSkipped { task: id, why: SkipReason::Abandoned },
                (TaskState::Running | TaskState::Ended(_) | TaskState::Skipped(_), _) => continue,
            };
            log.append(fact).await?;
        }
        let verdict = log.look(RunState::verdict_now).await;
        log.append(RunFact::RunEnded { verdict }).await?;
        tracing::warn!(run.id = number.0, "run {number} was left unfinished by its process: {verdict:?}");
        Ok(())
    }

    /// Tells the workers of steps that nobody waits for any more.
    async fn cancel_unended(self: &Arc<All>, state: &RunState) -> Result<(), StoreError> {
        let running = state.tasks().filter(|task| task.state == TaskState::Running);
        for step in running.filter_map(|task| task.attempts.last()).flat_map(|attempt| &attempt.steps) {
            if !matches!(step.state, StepState::Ended(_)) {
                self.abandon(step.id.clone(), step.worker.clone()).await?;
            }
        }
        Ok(())
    }
}

/// What a run executes to its end, in the interpreter that discovery ran in, if it is still there.
pub(super) fn code_of(stored: StoredCode) -> Code {
    let python = stored.python.map(PathBuf::from).filter(|python| python.exists());
    Code {
        pipedef: PathBuf::from(stored.pipedef),
        files: stored.files,
        python: python.unwrap_or_else(|| PathBuf::from(ANY_PYTHON)),
        addresses: Vec::new(),
        forks: Forks::NotKnown,
    }
}

/// Which image each name means, as the log has it: what was built by it last, else what it meant first.
pub(super) fn pins_of(state: &RunState) -> HashMap<(String, String), String> {
    let mut pins = HashMap::new();
    let steps = state.tasks().flat_map(|task| &task.attempts).flat_map(|attempt| &attempt.steps);
    let (mut builds, commands): (Vec<_>, Vec<_>) = steps.partition(|step| step.spec.build().is_some());
    builds.sort_by_key(|step| std::cmp::Reverse(step.ended));
    for step in builds.into_iter().chain(commands) {
        if let Some(digest) = &step.image_digest {
            let name = (step.worker.clone(), step.spec.image.clone());
            pins.entry(name).or_insert_with(|| digest.clone());
        }
    }
    pins
}
