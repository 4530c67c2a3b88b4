//! `bettertest run --only-failed`: which tasks of the pipeline, as it is now, did not pass when they last ran here.
//!
//! A partial run says nothing of what it left out: of that the run before it is asked, and so on to one of all tasks. So
//! what failed stays due until it has passed, as long as nobody has run everything.

use common::{Phase, Pipeline, RunNumber, SkipReason, TaskId, TaskState};
use std::collections::BTreeMap;
use std::path::Path;

use crate::boss::{Runs, RunsError};
use crate::error::SetupError;
use crate::local;

/// So many runs are looked through at most.
const RUNS_BACK: usize = 50;

/// What is told of tasks that cannot be run again.
pub(crate) const GONE: &str = "no longer in the pipedef, and so not run";

pub(crate) struct Due {
    /// In the order of the pipeline; never empty.
    pub(crate) tasks: Vec<TaskId>,
    /// What did not pass and is no longer there.
    pub(crate) gone: Vec<TaskId>,
}

/// Nothing to run is an error: a run of nothing proves nothing, and must not end with the exit code of one that does.
pub(crate) async fn due(runs: &Runs, pipedef: &Path, pipeline: &Pipeline) -> Result<Due, SetupError> {
    let Some((last, passed)) = last_known(runs, pipedef).await.map_err(unreadable)? else {
        return Err(never_ran(pipedef));
    };
    let not_passed = |task: &TaskId| passed.get(task) == Some(&false);
    let tasks: Vec<TaskId> = pipeline.tasks().filter(not_passed).collect();
    let there: Vec<TaskId> = pipeline.tasks().collect();
    let gone: Vec<TaskId> =
        passed.keys().filter(|task| not_passed(task) && !there.contains(task)).cloned().collect();
    if !tasks.is_empty() {
        return Ok(Due { tasks, gone });
    }
    let what = match gone.as_slice() {
        [] => format!("nothing is left to run: whatever ran last, up to run {last}, has passed"),
        gone => format!("what did not pass, up to run {last}, is no longer in the pipedef: {}", names(gone)),
    };
    Err(SetupError::new(what, "run all of it: bettertest run"))
}

pub(crate) fn never_ran(pipedef: &Path) -> SetupError {
    SetupError::new(
        format!("nothing of {} has run here yet", pipedef.display()),
        "run all of it once: bettertest run",
    )
}

pub(crate) fn names(tasks: &[TaskId]) -> String {
    let mut names: Vec<String> = tasks.iter().take(8).map(TaskId::to_string).collect();
    if tasks.len() > names.len() {
        names.push(format!("and {} more", tasks.len() - names.len()));
    }
    names.join(", ")
}

/// Whether each task passed when it last was a part of a run, and the last run.
async fn last_known(
    runs: &Runs,
    pipedef: &Path,
) -> Result<Option<(RunNumber, BTreeMap<TaskId, bool>)>, RunsError> {
    let (mut last, mut passed) = (None, BTreeMap::new());
    for before in runs.page(None, RUNS_BACK).await?.runs {
        let state = runs.state(before.run).await?;
        let stored = runs.store().pipedef(before.run).await?;
        // Of one that is still running elsewhere nothing is known; of another pipedef nothing is asked.
        if !matches!(state.phase, Phase::Ended(_)) || Path::new(&stored.pipedef) != pipedef {
            continue;
        }
        last = last.or(Some(before.run));
        for task in state.tasks() {
            let outcome = match task.state {
                TaskState::Ended(verdict) => verdict.passed(),
                TaskState::Skipped(SkipReason::NotSelected) => continue,
                TaskState::Skipped(
                    SkipReason::EarlierStage | SkipReason::Cancelled | SkipReason::Abandoned,
                )
                | TaskState::Pending
                | TaskState::Running => false,
            };
            passed.entry(task.id.clone()).or_insert(outcome);
        }
        if !state.is_partial() {
            break;
        }
    }
    Ok(last.map(|last| (last, passed)))
}

fn unreadable(error: RunsError) -> SetupError {
    let hint = local::hint_at_damage(&error).unwrap_or("see the log");
    SetupError::new(format!("the history of this project cannot be read: {error}"), hint)
}
