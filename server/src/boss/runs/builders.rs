//! Tasks that build the images of later stages belong to every part of a pipeline: to leave them out would be to test
//! what was built before the last edit, and to call that green. Which these are is known from when they last ran; what
//! a task will do this time only its Python knows. Of one that never ran its text says what is likely, so that the first run
//! of a project may be a part.

use common::{Command, Pipeline, TaskId};
use std::collections::BTreeMap;

use super::{Runs, RunsError};
use crate::boss::pipedef::Code;

/// What an author writes to have an image built. Where no text of a run has it, nothing is looked at.
const CALL: &str = "build(";

/// So many runs are looked through for when a task last asked for anything.
const RUNS_BACK: usize = 20;

impl Runs {
    /// The selection, and what of the stages before it builds images.
    pub(super) async fn with_builders(
        &self,
        pipeline: &Pipeline,
        code: &Code,
        only: Vec<TaskId>,
    ) -> Result<Vec<TaskId>, RunsError> {
        if !code.files.values().any(|text| text.contains(CALL)) {
            return Ok(only);
        }
        let tasks_of = |stage: &common::Stage| {
            let name = stage.name.clone();
            stage.tasks.iter().map(move |task| TaskId::new(&name, &task.name)).collect::<Vec<_>>()
        };
        let last =
            pipeline.stages.iter().rposition(|stage| tasks_of(stage).iter().any(|task| only.contains(task)));
        let before = pipeline.stages[..last.unwrap_or(0)].iter().flat_map(tasks_of);
        let mut unknown: Vec<TaskId> = before.filter(|task| !only.contains(task)).collect();
        let mut builds: BTreeMap<TaskId, bool> = BTreeMap::new();
        for run in self.page(None, RUNS_BACK).await?.runs {
            if unknown.is_empty() {
                break;
            }
            let state = match self.state(run.run).await {
                Ok(state) => state,
                Err(error) => {
                    tracing::warn!("run {} is not asked for what it built: {error}", run.run);
                    continue;
                }
            };
            unknown.retain(|id| {
                let attempts = state.task(id).map_or(&[][..], |task| task.attempts.as_slice());
                let Some(asked) = attempts.iter().rev().find(|attempt| !attempt.steps.is_empty()) else {
                    return true;
                };
                let is_build = |command: &Command| match command {
                    Command::Build { .. } => true,
                    Command::Shell(_) | Command::Exec(_) => false,
                };
                builds.insert(id.clone(), asked.steps.iter().any(|step| is_build(&step.spec.command)));
                false
            });
        }
        for task in unknown {
            let likely = has_call(pipeline, code, &task);
            builds.insert(task, likely);
        }
        let belongs = |task: &TaskId| only.contains(task) || builds.get(task) == Some(&true);
        Ok(pipeline.tasks().filter(belongs).collect())
    }
}

/// Does the text of the task's method call it?
fn has_call(pipeline: &Pipeline, code: &Code, id: &TaskId) -> bool {
    let tasks = pipeline.stages.iter().flat_map(|stage| stage.tasks.iter().map(move |task| (stage, task)));
    let line = tasks
        .filter(|(stage, task)| TaskId::new(&stage.name, &task.name) == *id)
        .find_map(|(_, task)| task.line);
    let text = code.files.get(&code.pipedef.to_string_lossy().into_owned());
    let (Some(line), Some(text)) = (line, text) else { return false };
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines().skip(line.saturating_sub(1) as usize);
    // Decorators stand before it.
    let Some(def) = lines.find(|line| line.trim_start().starts_with("def ")) else { return false };
    let body = lines.take_while(|line| line.trim().is_empty() || indent(line) > indent(def));
    [def].into_iter().chain(body).any(|line| line.contains(CALL))
}
