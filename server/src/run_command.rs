//! `bettertest run`: a boss, and where it is needed a worker, in one process for one run, told in the terminal.

use common::{
    Outcome, Phase, Pipeline, Problem, Reason, RunEvent, RunFact, RunKey, RunNumber, RunState, Seq, TaskId,
    Verdict,
};
use futures_util::StreamExt as _;
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use crate::boss::{self, Code, OutputId, Python, Runs, Told};
use crate::cli::RunArgs;
use crate::data_dir::DataDir;
use crate::error::SetupError;
use crate::local::RunFolder;
use crate::report::{Failure, Report, Style};
use crate::worker::PrivateWorker;
use crate::{local, say, terminal};

/// How much of a failing task's output is shown at once.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 64 * 1024;

/// While something runs, its elapsed time is drawn anew so often.
const REDRAW: Duration = Duration::from_millis(100);

/// Runs a pipedef to its end; the exit code says how it ended.
pub(crate) async fn run(args: RunArgs) -> Result<u8, SetupError> {
    // Listened to from the very start, so that nothing that has begun is ever left as it is.
    let interrupted = crate::signals::interrupted()?;
    tokio::pin!(interrupted);
    let ready = tokio::select! {
        ready = prepare(&args) => ready?,
        () = &mut interrupted => return Ok(exit_code(Verdict::Not(Reason::CancelAsked))),
    };
    let Ready { pipedef, pipeline, code, only, key, runs, private, folder } = ready;
    let number = runs.start_discovered(key, pipeline, code, only).await.map_err(|error| {
        SetupError::new(
            format!("the run could not be started: {error}"),
            "is the disk of the data directory full?",
        )
    })?;
    let on = args.worker.map_or(String::new(), |worker| format!("  on {worker}"));
    let told = tell(&runs, number, args.json, &pipedef.display().to_string(), &on, interrupted).await;
    runs.shut_down().await;
    if let Some(private) = private {
        private.shut_down().await;
    }
    drop(folder);
    // From here on there is a run, so what is wrong is no longer the set-up.
    Ok(told.map_or_else(
        |error| {
            say::refusal(&error);
            EXIT_ERRORED
        },
        exit_code,
    ))
}

const EXIT_ERRORED: u8 = 3;

/// All that a run needs before there is one. What is wrong with it is exit code 2.
struct Ready {
    pipedef: PathBuf,
    pipeline: Pipeline,
    code: Code,
    only: Option<Vec<TaskId>>,
    key: RunKey,
    runs: Runs,
    private: Option<PrivateWorker>,
    folder: RunFolder,
}

async fn prepare(args: &RunArgs) -> Result<Ready, SetupError> {
    let pipedef = find_pipedef(&args.path)?;
    let data = match &args.data_dir {
        Some(path) => DataDir::open(path)?,
        None => DataDir::open(&DataDir::default_path()?)?,
    };
    let python = Python::unpack(&data.path().join("cache"))?;
    let (pipeline, code) = python.discover(&pipedef).await.map_err(|problem| not_discovered(&problem))?;
    let only = select(&pipeline, &args.stage, &args.task)?;
    let key = RunKey::from_random(crate::auth::random_u128());
    let local = data.path().join("local").join(local::project_hash(&pipedef));
    local::sweep_abandoned(&data).await;
    let folder = RunFolder::new(&local, &key)?;
    let (workers, private) =
        local::find_workers(args, &data, &code.addresses, folder.path(), key.as_str()).await?;
    let store = boss::open_store(&local)?;
    let runs = boss::runs_in(&local, pipedef.clone(), store, workers, &data)?;
    local::end_abandoned(&runs, &local).await?;
    Ok(Ready { pipedef, pipeline, code, only, key, runs, private, folder })
}

fn exit_code(verdict: Verdict) -> u8 {
    match verdict.outcome() {
        Outcome::Passed => 0,
        Outcome::Failed | Outcome::TimedOut => 1,
        Outcome::Errored => EXIT_ERRORED,
        Outcome::Cancelled => 130,
    }
}

fn find_pipedef(path: &Path) -> Result<PathBuf, SetupError> {
    let no = |what: String, hint: &str| Err(SetupError::new(what, hint));
    let found = if path.is_dir() { path.join(".bettertest/pipedef.py") } else { path.to_owned() };
    match found.canonicalize() {
        Ok(found) if found.to_str().is_none() => {
            no(format!("{} is no UTF-8", found.display()), "give that file or its folder another name")
        }
        Ok(found) => Ok(found),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.is_dir() => no(
            format!("there is no .bettertest/pipedef.py in {}", path.display()),
            "write one (the README shows one of ten lines), or name a pipedef: bettertest run FILE",
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

fn not_discovered(problem: &Problem) -> SetupError {
    let place = match (&problem.file, problem.line) {
        (Some(file), Some(line)) => format!("{file}:{line}: "),
        (Some(file), None) if !problem.error.contains(file.as_str()) => format!("{file}: "),
        (Some(_) | None, _) => String::new(),
    };
    if let Some(traceback) = &problem.traceback {
        say::err(&terminal::tail(traceback.as_bytes(), 40, false).join("\n"));
        say::err("\n");
    }
    SetupError::new(format!("{place}{}", problem.error), problem.hint.clone().unwrap_or_default())
}

/// The tasks that `--stage` and `--task` name; None for all.
fn select(
    pipeline: &Pipeline,
    stages: &[String],
    tasks: &[String],
) -> Result<Option<Vec<TaskId>>, SetupError> {
    if stages.is_empty() && tasks.is_empty() {
        return Ok(None);
    }
    let all: Vec<TaskId> = pipeline.tasks().collect();
    let names = |names: Vec<String>| format!("there are: {}", names.join(", "));
    let mut wanted = BTreeSet::new();
    for stage in stages {
        let before = wanted.len();
        wanted.extend(all.iter().filter(|task| task.stage == *stage).cloned());
        if wanted.len() == before && !all.iter().any(|task| task.stage == *stage) {
            let known = pipeline.stages.iter().map(|stage| stage.name.clone()).collect();
            return Err(SetupError::new(format!("there is no stage {stage}"), names(known)));
        }
    }
    for name in tasks {
        let bare = name.strip_prefix("task_").unwrap_or(name);
        let fits = |task: &&TaskId| task.to_string() == *name || task.task == bare;
        let found: Vec<&TaskId> = all.iter().filter(fits).collect();
        match found.as_slice() {
            [one] => drop(wanted.insert((*one).clone())),
            [] => {
                let known = all.iter().take(8).map(TaskId::to_string).collect();
                return Err(SetupError::new(format!("there is no task {name}"), names(known)));
            }
            several => {
                let meant = several.iter().map(|task| task.to_string()).collect();
                return Err(SetupError::new(format!("several tasks are called {name}"), names(meant)));
            }
        }
    }
    Ok(Some(all.into_iter().filter(|task| wanted.contains(task)).collect()))
}

/// Follows the run to its end, and tells of it.
async fn tell(
    runs: &Runs,
    number: RunNumber,
    json: bool,
    pipedef: &str,
    workers: &str,
    mut interrupted: Pin<&mut impl Future<Output = ()>>,
) -> Result<Verdict, SetupError> {
    let live = std::io::stdout().is_terminal() && !json;
    let mut report = Report::new(if live { Style::Live } else { Style::Plain });
    let mut run = RunState::default();
    let mut events = Box::pin(boss::run_events(runs.clone(), number, Seq(0)));
    let mut asked_to_stop = false;
    let unreadable =
        |error: String| SetupError::new(format!("the run's log cannot be read: {error}"), "see the log");
    loop {
        let event = tokio::select! {
            told = events.next() => match told {
                Some(Told::Event(_, event)) => event,
                Some(Told::AtRest) => break,
                None => return Err(unreadable("it broke off".to_owned())),
            },
            () = &mut interrupted, if !asked_to_stop => {
                asked_to_stop = true;
                runs.cancel(number).await.map_err(|error| unreadable(error.to_string()))?;
                continue;
            }
            () = tokio::time::sleep(REDRAW), if live => {
                say::out(&(report.clear() + &report.draw(&run, size())));
                continue;
            }
        };
        if json {
            say::out(&format!("{event}\n"));
        }
        let event: RunEvent = serde_json::from_str(&event).map_err(|error| unreadable(error.to_string()))?;
        run.apply(&event).map_err(|error| unreadable(error.to_string()))?;
        let failure = failed_attempt(runs, &run, &event.fact, live);
        if json {
            if let Some((task, attempt, tail, path)) = failure {
                say::out(&json_tail(task, attempt, &tail, &path));
            }
            continue;
        }
        if matches!(event.fact, RunFact::RunStarted { .. }) {
            say::out(&report.opening(&run, pipedef, workers));
        }
        let failure = failure.map(|(task, _, tail, path)| Failure {
            task: run.task(task).expect("the state has just taken its end in"),
            tail,
            output: path.display().to_string(),
        });
        let lines = report.clear() + &report.tell(&run, &event.fact, failure);
        say::out(&(lines + &report.draw(&run, size())));
    }
    if !json {
        say::out(&(report.clear() + &report.closing(&run, workers)));
    }
    match run.phase {
        Phase::Ended(verdict) => Ok(verdict),
        Phase::Running | Phase::Unborn => Err(unreadable("the run broke off without an end".to_owned())),
    }
}

/// The end of the output of an attempt that has just ended badly.
fn failed_attempt<'a>(
    runs: &Runs,
    run: &RunState,
    fact: &'a RunFact,
    colours: bool,
) -> Option<(&'a TaskId, u32, Vec<String>, PathBuf)> {
    let RunFact::TaskEnded { task, attempt, verdict, .. } = fact else { return None };
    if matches!(verdict.outcome(), Outcome::Passed | Outcome::Cancelled) {
        return None;
    }
    let place = run.tasks().position(|known| known.id == *task)?;
    let path = runs.outputs().path(OutputId { run: run.number, task: place, attempt: *attempt });
    let tail = match end_of(&path) {
        Ok(bytes) => terminal::tail(&bytes, TAIL_LINES, colours),
        Err(error) => vec![format!("(its output cannot be read: {error})")],
    };
    Some((task, *attempt, tail, path))
}

fn end_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = vec![0; size.min(TAIL_BYTES) as usize];
    file.read_exact_at(&mut bytes, size.saturating_sub(TAIL_BYTES))?;
    Ok(bytes)
}

/// Not an event of the log: what a reader of `--json` needs to see of a failing task's output.
fn json_tail(task: &TaskId, attempt: u32, tail: &[String], path: &Path) -> String {
    let line = serde_json::json!({
        "event": "output_tail", "task": task, "attempt": attempt, "lines": tail, "output": path.display().to_string(),
    });
    format!("{line}\n")
}

fn size() -> (u16, u16) {
    crossterm::terminal::size().unwrap_or((80, 24))
}
