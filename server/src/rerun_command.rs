//! `bettertest rerun`: new attempts of what did not pass in an earlier run of this project, on the texts that the
//! run has stored, told in the terminal as `bettertest run` tells of a run.

use common::{Phase, Problem, Reason, Rerun, RunKey, RunNumber, RunState, TaskId};
use std::path::{Path, PathBuf};

use crate::boss::{self, Python, Runs, RunsError, Workers};
use crate::cli::{RerunArgs, WhichRun};
use crate::error::SetupError;
use crate::local::{self, RunFolder};
use crate::run_command::{find_pipedef, not_discovered};
use crate::select;
use crate::watch::{self, Ground};

/// Runs again what did not pass; the exit code says how it ended.
pub(crate) async fn rerun(args: RerunArgs) -> Result<u8, SetupError> {
    let interrupted = crate::signals::interrupted()?;
    tokio::pin!(interrupted);
    let ready = tokio::select! {
        ready = prepare(&args) => ready?,
        () = &mut interrupted => return Ok(watch::exit_interrupted()),
    };
    let Ready { ground, before, only } = ready;
    let wanted = Rerun { only: Some(only), failed_tests: args.failed_tests };
    ground.runs.rerun(before.number, wanted).await.map_err(unreadable)?;
    Ok(ground.watch(before.number, before, &args.how, interrupted).await)
}

/// All that a run needs to go on. What is wrong with it is exit code 2.
struct Ready {
    ground: Ground,
    /// The run as it is now.
    before: RunState,
    only: Vec<TaskId>,
}

async fn prepare(args: &RerunArgs) -> Result<Ready, SetupError> {
    let how = &args.how;
    let project = find_project(&args.path)?;
    let data = local::data_of(how)?;
    let local = local::history_of(data.path(), &project);
    let nothing = || {
        SetupError::new(
            format!("nothing has run yet in {}", project.display()),
            "run it once: bettertest run",
        )
    };
    // A look must not make a history.
    if !local.join("runs.sqlite").exists() {
        return Err(nothing());
    }
    local::sweep_abandoned(&data).await;
    let store = boss::open_store(&local)?;
    let seen = boss::runs_in(&local, PathBuf::new(), store.clone(), Workers::new(None, data.path())?, &data)?;
    let latest = seen.page(None, 1).await.map_err(unreadable)?.runs.first().map(|run| run.run);
    let latest = latest.ok_or_else(nothing)?;
    let number = match args.run {
        WhichRun::Last => latest,
        WhichRun::Number(number) => RunNumber(number.into()),
    };
    let (folder, key) = take(&seen, &local, number, latest).await?;
    // From here on no other process changes this run.
    let run = state_of(&seen, number, latest).await?;
    if matches!(run.phase, Phase::Ended(_)) {
        selection(&run, args)?;
    }
    let stored = seen.store().pipedef(number).await.map_err(|error| unreadable(error.into()))?;
    let pipedef = PathBuf::from(stored.pipedef);
    let python = Python::unpack(&data.path().join("cache"))?;
    let (_, code) =
        python.discover_stored(&pipedef, stored.files).await.map_err(|problem| not_discovered(&problem))?;
    let (workers, private) =
        local::find_workers(how, &data, &code.addresses, folder.path(), key.as_str()).await?;
    let runs = boss::runs_in(&local, pipedef.clone(), store, workers, &data)?;
    if run.phase == Phase::Running {
        // Its process is gone: its lock was free.
        runs.end_abandoned(number, Reason::RunnerDied).await.map_err(unreadable)?;
    }
    let before = state_of(&runs, number, latest).await?;
    let only = selection(&before, args)?;
    let pipedef = pipedef.display().to_string();
    let next = local::rerun_words(args.run, &args.path, how);
    let anew = local::how_words(local::run_words(&args.path, how.data_dir.as_deref()), how);
    let fail_fast = false;
    let ground =
        Ground { runs, pipedef, everywhere: how.worker.clone(), private, next, anew, fail_fast, folder };
    Ok(Ready { ground, before, only })
}

/// The folder that a history belongs to. That of a project is known even where its pipedef is gone.
pub(crate) fn find_project(path: &Path) -> Result<PathBuf, SetupError> {
    if path.is_dir() {
        return path.canonicalize().map_err(|error| {
            SetupError::new(
                format!("{} cannot be used: {error}", path.display()),
                "name the project's folder",
            )
        });
    }
    Ok(boss::project_of(&find_pipedef(path)?))
}

/// Takes the run for this process, as long as no other one has it.
async fn take(
    runs: &Runs,
    local: &Path,
    number: RunNumber,
    latest: RunNumber,
) -> Result<(RunFolder, RunKey), SetupError> {
    let key = state_of(runs, number, latest).await?.key.expect("a run in the store has begun");
    let lock = local.join("runs").join(key.as_str()).join("lock");
    match RunFolder::take(local, &key) {
        Ok(folder) => Ok((folder, key)),
        Err(_) if lock.exists() => Err(SetupError::new(
            format!("run {number} is still running, in another process"),
            "wait for its end, or cancel it there",
        )),
        Err(error) => Err(error),
    }
}

async fn state_of(runs: &Runs, number: RunNumber, latest: RunNumber) -> Result<RunState, SetupError> {
    runs.state(number).await.map_err(|error| match error {
        RunsError::NoSuchRun(_) => SetupError::new(
            format!("this project has no run {number}"),
            format!("the last one is run {latest}"),
        ),
        removed @ RunsError::Removed(_) => {
            SetupError::new(removed.to_string(), format!("the last one is run {latest}"))
        }
        other => unreadable(other),
    })
}

/// What is to run again: of what did not pass that which `--stage` and `--task` select.
fn selection(run: &RunState, args: &RerunArgs) -> Result<Vec<TaskId>, SetupError> {
    let refused = |problem: Problem| SetupError::new(problem.error, problem.hint.unwrap_or_default());
    let due = run.to_run_again(None).map_err(refused)?;
    let all: Vec<TaskId> = run.tasks().map(|task| task.id.clone()).collect();
    let Some(mut chosen) = select::tasks(&all, &args.how.stage, &args.how.task)? else { return Ok(due) };
    // Who names a stage means what is left of it; who names a task means that one.
    if args.how.task.is_empty() {
        chosen.retain(|task| due.contains(task));
    }
    if chosen.is_empty() {
        let names: Vec<String> = due.iter().take(8).map(TaskId::to_string).collect();
        return Err(SetupError::new(
            format!(
                "nothing of stage {} is left to run again in run {}",
                args.how.stage.join(", "),
                run.number
            ),
            format!("what did not pass: {}", names.join(", ")),
        ));
    }
    run.to_run_again(Some(&chosen)).map_err(refused)
}

fn unreadable(error: RunsError) -> SetupError {
    let hint = local::hint_at_damage(&error).unwrap_or("see the log");
    SetupError::new(format!("the run could not be taken up again: {error}"), hint)
}
