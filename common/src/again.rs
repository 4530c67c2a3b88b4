//! Running a part of an ended run again: which tasks begin anew, or why none can.

use crate::{Phase, Problem, RunState, SkipReason, TaskId, TaskRun, TaskState, Verdict};

impl RunState {
    /// The tasks of a re-run, in the order of the pipeline: of those that did not pass the `only` ones (all, where
    /// None), and what was skipped because of them. Whether that is reached now is up to how they come out.
    pub fn to_run_again(&self, only: Option<&[TaskId]>) -> Result<Vec<TaskId>, Problem> {
        let run = self.number;
        if !matches!(self.phase, Phase::Ended(_)) {
            let error = format!("run {run} is still running");
            return Err(Problem::new(error, "wait for its end, or cancel it"));
        }
        let due = self.not_passed();
        if due.is_empty() {
            return Err(Problem::new(format!("every task of run {run} passed"), "start a new run"));
        }
        let Some(only) = only else { return Ok(due) };
        if only.is_empty() {
            return Err(Problem::new("no task was selected", "name at least one as Stage.task"));
        }
        for id in only {
            self.may_run_again(id, only)?;
        }
        let with = |id: &TaskId| only.contains(id) || self.is_kept_back(id);
        Ok(due.into_iter().filter(with).collect())
    }

    /// Skipped because of an earlier stage, it goes on where that passes.
    fn is_kept_back(&self, id: &TaskId) -> bool {
        self.task(id).is_some_and(|task| task.state == TaskState::Skipped(SkipReason::EarlierStage))
    }

    fn may_run_again(&self, id: &TaskId, only: &[TaskId]) -> Result<(), Problem> {
        let run = self.number;
        let Some(task) = self.task(id) else {
            let names: Vec<String> = self.tasks().take(8).map(|task| task.id.to_string()).collect();
            let hint = format!("there are: {}", names.join(", "));
            return Err(Problem::new(format!("there is no task {id} in run {run}"), hint));
        };
        match task.state {
            TaskState::Ended(Verdict::Passed) => {
                let hint = "only what did not pass is run again; start a new run for the others";
                return Err(Problem::new(format!("{id} has passed in run {run}"), hint));
            }
            TaskState::Skipped(SkipReason::NotSelected) => {
                let error = format!("{id} is no part of run {run}, which runs only what was selected for it");
                return Err(Problem::new(error, "start a new run for it"));
            }
            TaskState::Ended(Verdict::Not(_))
            | TaskState::Skipped(SkipReason::EarlierStage | SkipReason::Cancelled | SkipReason::Abandoned)
            | TaskState::Pending
            | TaskState::Running => {}
        }
        match self.in_the_way_of(id).find(|other| !only.contains(&other.id)) {
            None => Ok(()),
            Some(other) => {
                let error = format!("{id} cannot run before {} has passed", other.id);
                Err(Problem::new(error, "run that one again too"))
            }
        }
    }

    /// Tasks of earlier stages that did not pass. Nothing is in the way of a stage that always runs.
    fn in_the_way_of(&self, id: &TaskId) -> impl Iterator<Item = &TaskRun> {
        let place = self.stages.iter().position(|stage| stage.name == id.stage).unwrap_or(0);
        let before = if self.stages[place].always { 0 } else { place };
        let fine = |task: &&TaskRun| {
            matches!(
                task.state,
                TaskState::Ended(Verdict::Passed) | TaskState::Skipped(SkipReason::NotSelected)
            )
        };
        self.stages[..before].iter().flat_map(|stage| &stage.tasks).filter(move |task| !fine(task))
    }
}
