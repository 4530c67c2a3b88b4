//! One run from its first stage to its verdict: stages one after another, the tasks of a stage at once.

use common::{RunFact, RunState, SkipReason, TaskId, TaskState, Verdict};
use std::sync::Arc;
use tokio::task::JoinSet;

use super::Run;
use super::attempt::attempt;
use super::log::LogError;

impl Run {
    /// Also from the middle: a run that an earlier boss has left goes on where its log ends.
    pub(super) async fn drive(self: &Arc<Run>) -> Result<(), LogError> {
        let stages = self.log.look(|state| {
            let stage = |stage: &common::StageRun| {
                let in_state = |wanted: TaskState| -> Vec<TaskId> {
                    let found = stage.tasks.iter().filter(|task| task.state == wanted);
                    found.map(|task| task.id.clone()).collect()
                };
                (stage.always, in_state(TaskState::Running), in_state(TaskState::Pending))
            };
            state.stages.iter().map(stage).collect::<Vec<_>>()
        });
        for (place, (always, mut due, pending)) in stages.await.into_iter().enumerate() {
            if self.cancel.is_cancelled() {
                self.skip(pending, SkipReason::Cancelled).await?;
            } else if !always && !self.stages_before_passed(place).await {
                self.skip(pending, SkipReason::EarlierStage).await?;
            } else {
                due.extend(pending);
            }
            self.stage(due).await?;
        }
        let verdict = self.log.look(RunState::verdict_now).await;
        self.log.append(RunFact::RunEnded { verdict }).await?;
        Ok(())
    }

    async fn stages_before_passed(&self, place: usize) -> bool {
        let fine = |task: &common::TaskRun| {
            matches!(
                task.state,
                TaskState::Ended(Verdict::Passed) | TaskState::Skipped(SkipReason::NotSelected)
            )
        };
        self.log.look(|state| state.stages[..place].iter().flat_map(|stage| &stage.tasks).all(fine)).await
    }

    async fn skip(&self, tasks: Vec<TaskId>, why: SkipReason) -> Result<(), LogError> {
        for task in tasks {
            self.log.append(RunFact::TaskSkipped { task, why }).await?;
        }
        Ok(())
    }

    /// The tasks of a stage, all at once, as far as there are turns.
    async fn stage(self: &Arc<Run>, tasks: Vec<TaskId>) -> Result<(), LogError> {
        let mut attempts = JoinSet::new();
        for task in tasks {
            // Turns are taken in the order of the pipedef, whichever thread comes first.
            let turns = self.all.turns.clone();
            let turn = tokio::select! {
                turn = turns.acquire_owned() => Some(turn.expect("never closed")),
                // One that has begun has to end; without Python that needs no turn.
                () = self.cancel.cancelled() => None,
            };
            if turn.is_none() && self.is_pending(&task).await {
                self.skip(vec![task], SkipReason::Cancelled).await?;
                continue;
            }
            let run = self.clone();
            attempts.spawn(async move {
                let cancel = run.cancel.child_token();
                let ended = attempt(run.clone(), task.clone(), cancel).await;
                drop(turn);
                match ended {
                    Ok(_) => Ok(()),
                    // A cancel came before the start: the log is the judge.
                    Err(LogError::Illegal(_)) if run.pending_and_cancelled(&task).await => {
                        run.skip(vec![task], SkipReason::Cancelled).await
                    }
                    Err(error) => Err(error),
                }
            });
        }
        while let Some(ended) = attempts.join_next().await {
            // Where the log cannot be written, the others are dropped as they are, without a word to their workers:
            // who goes on with this run finds their steps.
            crate::joined::joined(ended).await?;
        }
        Ok(())
    }

    async fn is_pending(&self, task: &TaskId) -> bool {
        self.log.look(|state| state.task(task).is_some_and(|task| task.state == TaskState::Pending)).await
    }

    async fn pending_and_cancelled(&self, task: &TaskId) -> bool {
        let pending =
            |state: &RunState| state.task(task).is_some_and(|task| task.state == TaskState::Pending);
        self.log.look(|state| state.cancel_asked && pending(state)).await
    }

    /// The image that a name means in this run, on this worker: what was built by it, else what it meant first.
    pub(super) fn pin(&self, worker: &str, image: &str) -> Option<String> {
        let pins = self.pins.lock().expect("no panic under this lock");
        pins.get(&(worker.to_owned(), image.to_owned())).cloned()
    }

    /// From now on the name means what was built by it, whatever it meant before.
    pub(super) fn pin_built(&self, worker: &str, image: &str, digest: &str) {
        let mut pins = self.pins.lock().expect("no panic under this lock");
        pins.insert((worker.to_owned(), image.to_owned()), digest.to_owned());
    }

    /// Records what a name meant. False where it meant something else before.
    pub(super) fn set_pin(&self, worker: &str, image: &str, digest: &str) -> bool {
        let mut pins = self.pins.lock().expect("no panic under this lock");
        let first = pins.entry((worker.to_owned(), image.to_owned())).or_insert_with(|| digest.to_owned());
        first == digest
    }
}
