//! `bettertest run`: a boss, and where it is needed a worker, in one process for one run, told in the terminal.

use common::{Pipeline, Problem, RunKey, RunNumber, RunState, StartedBy, TaskId};
use std::path::{Path, PathBuf};

use crate::boss::{self, Code, Keep, Python, Runs, Workers};
use crate::cli::{RunArgs, WhichRun};
use crate::data_dir::DataDir;
use crate::error::SetupError;
use crate::local::{self, RunFolder};
use crate::only_failed::Due;
use crate::watch::{self, Ground};
use crate::{only_failed, say, select, terminal};

/// Runs a pipedef to its end; the exit code says how it ended.
pub(crate) async fn run(args: RunArgs) -> Result<u8, SetupError> {
    // Listened to from the very start, so that nothing that has begun is ever left as it is.
    let interrupted = crate::signals::interrupted()?;
    tokio::pin!(interrupted);
    let ready = tokio::select! {
        ready = prepare(&args) => ready?,
        () = &mut interrupted => return Ok(watch::exit_interrupted()),
    };
    if !ready.gone.is_empty() {
        let names = terminal::plain(&only_failed::names(&ready.gone));
        say::err(&format!("note: {}: {names}\n", only_failed::GONE));
    }
    let (ground, number) = ready.start().await?;
    Ok(ground.watch(number, RunState::default(), &args.how, interrupted).await)
}

/// All that a run needs before there is one. What is wrong with it is exit code 2.
pub(crate) struct Ready {
    ground: Ground,
    pipeline: Pipeline,
    code: Code,
    only: Option<Vec<TaskId>>,
    /// For `--only-failed`: what did not pass and is no longer there.
    pub(crate) gone: Vec<TaskId>,
    key: RunKey,
}

impl Ready {
    pub(crate) async fn start(self) -> Result<(Ground, RunNumber), SetupError> {
        let Ready { ground, pipeline, code, only, gone: _, key } = self;
        match ground.runs.start_discovered(key, pipeline, code, only, StartedBy::Terminal).await {
            Ok(number) => Ok((ground, number)),
            Err(error) => {
                ground.end().await;
                Err(SetupError::new(
                    format!("the run could not be started: {error}"),
                    "is the disk of the data directory full?",
                ))
            }
        }
    }

    /// There will be no run.
    pub(crate) async fn give_up(self) {
        self.ground.end().await;
    }
}

pub(crate) async fn prepare(args: &RunArgs) -> Result<Ready, SetupError> {
    let how = &args.how;
    let pipedef = find_pipedef(&args.path)?;
    let data = local::data_of(how)?;
    let python = Python::unpack(&data.path().join("cache"))?;
    let (pipeline, code) =
        python.discover_for_run(&pipedef).await.map_err(|problem| not_discovered(&problem))?;
    let key = RunKey::from_random(crate::auth::random_u128());
    let local = local::history_of(data.path(), &boss::project_of(&pipedef));
    let (only, gone) = match args.only_failed {
        true => {
            let due = failed_before(&local, &data, &pipedef, &pipeline).await?;
            (Some(due.tasks), due.gone)
        }
        false => (select::tasks(&pipeline.tasks().collect::<Vec<_>>(), &how.stage, &how.task)?, Vec::new()),
    };
    local::sweep_abandoned(&data).await;
    let folder = RunFolder::new(&local, &key).await?;
    let (workers, private) =
        local::find_workers(how, &data, &code.addresses, folder.path(), key.as_str()).await?;
    let runs = match runs_of(&local, &pipedef, workers, &data).await {
        Ok(runs) => runs,
        Err(error) => {
            if let Some(private) = private {
                private.shut_down().await;
            }
            return Err(error);
        }
    };
    // Beside the run, and no further than that takes: the next one goes on with it.
    tokio::spawn(runs.clone().keep_house(Keep::of_local_runs()));
    let pipedef = pipedef.display().to_string();
    let next = local::rerun_words(WhichRun::Last, &args.path, how);
    let anew = local::how_words(local::run_words(&args.path, how.data_dir.as_deref()), how);
    let fail_fast = args.fail_fast;
    let ground =
        Ground { runs, pipedef, everywhere: how.worker.clone(), private, next, anew, fail_fast, folder };
    Ok(Ready { ground, pipeline, code, only, gone, key })
}

async fn runs_of(local: &Path, pipedef: &Path, workers: Workers, data: &DataDir) -> Result<Runs, SetupError> {
    let runs = boss::runs_in(local, pipedef.to_owned(), boss::open_store(local)?, workers, data)?;
    local::end_abandoned(&runs, local).await?;
    Ok(runs)
}

/// For `--only-failed`. A look makes no history.
async fn failed_before(
    local: &Path,
    data: &DataDir,
    pipedef: &Path,
    pipeline: &Pipeline,
) -> Result<Due, SetupError> {
    if !local.join("runs.sqlite").exists() {
        return Err(only_failed::never_ran(pipedef));
    }
    let workers = Workers::new(None, data.path())?;
    let before = boss::runs_in(local, PathBuf::new(), boss::open_store(local)?, workers, data)?;
    only_failed::due(&before, pipedef, pipeline).await
}

pub(crate) fn find_pipedef(path: &Path) -> Result<PathBuf, SetupError> {
    let no = |what: String, hint: &str| Err(SetupError::new(what, hint));
    let found = if path.is_dir() { path.join(".bettertest/pipedef.py") } else { path.to_owned() };
    match found.canonicalize() {
        Ok(found) if found.to_str().is_none() => {
            no(format!("{} is no UTF-8", found.display()), "give that file or its folder another name")
        }
        Ok(found) => Ok(found),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.is_dir() => no(
            format!("there is no .bettertest/pipedef.py in {}", path.display()),
            "bettertest init writes one; or name a pipedef: bettertest run FILE",
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => no(
            format!("there is no pipedef {}", path.display()),
            "name a Python file, or a folder that holds .bettertest/pipedef.py",
        ),
        Err(error) => {
            no(format!("{} cannot be used: {error}", path.display()), "make it readable for this user")
        }
    }
}

pub(crate) fn not_discovered(problem: &Problem) -> SetupError {
    let place = match (&problem.file, problem.line) {
        (Some(file), Some(line)) => format!("{file}:{line}: "),
        (Some(file), None) if !problem.error.contains(file.as_str()) => format!("{file}: "),
        (Some(_) | None, _) => String::new(),
    };
    let hint = problem.hint.clone().unwrap_or_default();
    let traceback = problem.traceback.clone();
    SetupError { traceback, ..SetupError::new(format!("{place}{}", problem.error), hint) }
}
