//! `--stage` and `--task`: which tasks of a pipeline they mean together.

use common::TaskId;

use crate::error::SetupError;

/// The tasks that both select, in their order; None where neither is given. Nothing selected is an error.
pub(crate) fn tasks(
    all: &[TaskId],
    stages: &[String],
    names: &[String],
) -> Result<Option<Vec<TaskId>>, SetupError> {
    if stages.is_empty() && names.is_empty() {
        return Ok(None);
    }
    for stage in stages {
        if !all.iter().any(|task| task.stage == *stage) {
            let mut known: Vec<&str> = all.iter().map(|task| task.stage.as_str()).collect();
            known.dedup();
            return Err(SetupError::new(format!("there is no stage {stage}"), there_are(&known)));
        }
    }
    let in_stages = |task: &&TaskId| stages.is_empty() || stages.contains(&task.stage);
    if names.is_empty() {
        return Ok(Some(all.iter().filter(in_stages).cloned().collect()));
    }
    let mut chosen = Vec::new();
    for name in names {
        chosen.push(named(all, name, in_stages)?);
    }
    Ok(Some(all.iter().filter(|task| chosen.contains(task)).cloned().collect()))
}

/// The one task that `name` means among those of the stages.
fn named<'a>(
    all: &'a [TaskId],
    name: &str,
    in_stages: impl Fn(&&TaskId) -> bool,
) -> Result<&'a TaskId, SetupError> {
    let bare = name.strip_prefix("task_").unwrap_or(name);
    let fits = |task: &&TaskId| task.to_string() == name || task.task == bare;
    let anywhere: Vec<&TaskId> = all.iter().filter(fits).collect();
    let found: Vec<&TaskId> = anywhere.iter().copied().filter(|task| in_stages(task)).collect();
    match (found.as_slice(), anywhere.first()) {
        ([one], _) => Ok(one),
        ([], Some(elsewhere)) => Err(SetupError::new(
            format!("no stage that --stage names has a task {name}"),
            format!("a task is run that both --stage and --task select; there is {elsewhere}"),
        )),
        ([], None) => {
            let known: Vec<String> = all.iter().filter(in_stages).take(8).map(TaskId::to_string).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            Err(SetupError::new(format!("there is no task {name}"), there_are(&known)))
        }
        (several, _) => {
            let meant: Vec<String> = several.iter().map(|task| task.to_string()).collect();
            let meant: Vec<&str> = meant.iter().map(String::as_str).collect();
            Err(SetupError::new(format!("several tasks are called {name}"), there_are(&meant)))
        }
    }
}

fn there_are(names: &[&str]) -> String {
    format!("there are: {}", names.join(", "))
}
