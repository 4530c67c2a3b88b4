//! `bettertest show`: what failed in a run and why, a part of what a task printed, its tests, or what it kept; of a
//! run of `bettertest run`, or of a boss. It looks, and changes nothing.

mod artifacts;
mod tests;

use common::{Packet, Page, Problem, RunNumber, RunView, TaskId, TestHistory, TestsView};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::auth::Token;
use crate::boss::{self, OutputId, Runs, RunsError, Workers};
use crate::cli::{ShowArgs, WhichRun};
use crate::data_dir::DataDir;
use crate::error::SetupError;
use crate::rerun_command::find_project;
use crate::slice::Slice;
use crate::{local, open_command, packet_text, say, select};

pub(crate) use tests::OneTest;

/// What the page and the API take as long for at most.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn show(args: ShowArgs) -> Result<u8, SetupError> {
    let past = Past::of(&args)?;
    let run = past.which(args.run).await?;
    let view = past.view(run).await?;
    let all = tasks_of(&view);
    let task = args.task.as_ref().map(|name| task_named(&all, name)).transpose()?;
    let one = |task: Option<TaskId>, what: &str| {
        task.or_else(|| one_that_failed(&view)).ok_or_else(|| {
            let some = all.first().map_or_else(String::new, TaskId::to_string);
            SetupError::new(
                format!("which task's {what} of run {run}?"),
                format!("name it: {} {run} {some} --{what}", past.words()),
            )
        })
    };
    if args.tests {
        let task = one(task, "tests")?;
        return past.list_tests(&view, &task, &args).await;
    }
    if args.artifacts {
        let task = one(task, "artifacts")?;
        return past.show_artifacts(run, &task, &args).await;
    }
    if let Some(name) = &args.test {
        return past.show_test(&view, task, name, &args).await;
    }
    if args.output || args.tail.is_some() || args.grep.is_some() {
        let task = one(task, "output")?;
        let slice = Slice::new(args.grep.as_deref(), args.tail.map(|lines| lines as usize))?;
        let numbered = args.grep.is_some();
        let say = move |number: u64, line: &str| match numbered {
            true => say::out(&format!("{number}:{line}\n")),
            false => say::out(&format!("{line}\n")),
        };
        past.output(run, &task, args.attempt, slice, say).await?;
        return Ok(0);
    }
    let packet = match &task {
        Some(task) => past.failure(run, task).await?,
        None => Some(past.packet(run).await?),
    };
    match (packet, task) {
        (Some(packet), _) if args.json => {
            say::json(&serde_json::to_string(&packet).expect("a packet is strings and numbers"));
        }
        (Some(packet), _) => say::out(&packet_text::text(&packet, args.color.paint())),
        (None, task) => {
            let task = task.map_or_else(String::new, |task| task.to_string());
            return Err(SetupError::new(
                format!("{task} has not failed in run {run}"),
                format!("what it printed: {} {run} {task} --output", past.words()),
            ));
        }
    }
    Ok(0)
}

pub(crate) fn tasks_of(view: &RunView) -> Vec<TaskId> {
    view.stages.iter().flat_map(|stage| &stage.tasks).map(|task| task.task.clone()).collect()
}

/// As Stage.task or, where only one has that name, as task.
pub(crate) fn task_named(all: &[TaskId], name: &str) -> Result<TaskId, SetupError> {
    let one = select::tasks(all, &[], &[name.to_owned()])?.and_then(|mut one| one.pop());
    Ok(one.expect("a name that selects nothing is an error"))
}

/// Where there is but one, nobody need name it.
pub(crate) fn one_that_failed(view: &RunView) -> Option<TaskId> {
    let failed = |task: &&common::TaskView| {
        task.verdict.is_some_and(|verdict| {
            !matches!(verdict.outcome(), common::Outcome::Passed | common::Outcome::Cancelled)
        })
    };
    let mut failed = view.stages.iter().flat_map(|stage| &stage.tasks).filter(failed);
    failed.next().filter(|_| failed.next().is_none()).map(|task| task.task.clone())
}

/// What a name of a test may hold, as a part of a query.
fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The runs that there have been.
pub(crate) enum Past {
    Here { runs: Runs, again: String },
    Boss(Boss),
}

pub(crate) struct Boss {
    base: String,
    token: Token,
    client: reqwest::Client,
}

impl Past {
    fn of(args: &ShowArgs) -> Result<Past, SetupError> {
        let data = match &args.data_dir {
            Some(path) => path.clone(),
            None => DataDir::default_path()?,
        };
        if let Some(url) = &args.url {
            return Boss::at(url.clone(), &data, args.data_dir.is_none()).map(Past::Boss);
        }
        Past::here(&args.project, data, args.data_dir.as_deref())
    }

    /// Of a project on this machine, without a boss. `named` is the data directory where it is not the default one.
    pub(crate) fn here(path: &Path, data: PathBuf, named: Option<&Path>) -> Result<Past, SetupError> {
        let project = find_project(path)?;
        let local = local::history_of(&data, &project);
        // A look must not make a history.
        if !local.join("runs.sqlite").exists() {
            let hint = match open_command::address(&data) {
                Some(address) => format!("run it: bettertest run; or ask the boss: --url http://{address}"),
                None => "run it once: bettertest run".to_owned(),
            };
            return Err(SetupError::new(format!("nothing has run yet in {}", project.display()), hint));
        }
        let data = DataDir::open(&data)?;
        let store = boss::open_store(&local)?;
        let runs = boss::runs_in(&local, PathBuf::new(), store, Workers::new(None, data.path())?, &data)?;
        Ok(Past::Here { runs, again: local::run_words(path, named) })
    }

    /// What to type to look at the same runs: those of a boss have the same numbers, and are others.
    fn words(&self) -> String {
        match self {
            Past::Here { .. } => "bettertest show".to_owned(),
            Past::Boss(boss) => format!("bettertest show --url {}", boss.base),
        }
    }

    pub(crate) async fn which(&self, run: WhichRun) -> Result<RunNumber, SetupError> {
        match run {
            WhichRun::Last => self.latest().await,
            WhichRun::Number(number) => Ok(RunNumber(number.into())),
        }
    }

    /// The newest first; of a boss as many as it gives at once.
    pub(crate) async fn page(&self, limit: usize) -> Result<Page, SetupError> {
        match self {
            Past::Here { runs, .. } => runs.page(None, limit).await.map_err(unreadable),
            Past::Boss(boss) => boss.get("/api/runs").await,
        }
    }

    async fn latest(&self) -> Result<RunNumber, SetupError> {
        let page = self.page(1).await?;
        let latest = page.runs.first().map(|run| run.run);
        latest.ok_or_else(|| SetupError::new("nothing has run there yet", "run it once: bettertest run"))
    }

    pub(crate) async fn view(&self, run: RunNumber) -> Result<RunView, SetupError> {
        match self {
            Past::Here { runs, .. } => Ok(RunView::of(&runs.state(run).await.map_err(unreadable)?)),
            Past::Boss(boss) => boss.get(&format!("/api/runs/{run}")).await,
        }
    }

    pub(crate) async fn packet(&self, run: RunNumber) -> Result<Packet, SetupError> {
        match self {
            Past::Here { runs, again } => runs.packet(run, again).await.map_err(unreadable),
            Past::Boss(boss) => boss.get(&format!("/api/runs/{run}/packet")).await,
        }
    }

    /// None where that task has not failed.
    pub(crate) async fn failure(&self, run: RunNumber, task: &TaskId) -> Result<Option<Packet>, SetupError> {
        match self {
            Past::Here { runs, again } => runs.failure(run, task, again).await.map_err(unreadable),
            Past::Boss(boss) => boss.get(&format!("/api/runs/{run}/packet?task={task}")).await.map(Some),
        }
    }

    /// Of an attempt that has begun.
    pub(crate) async fn tests(
        &self,
        run: RunNumber,
        task: &TaskId,
        attempt: u32,
    ) -> Result<TestsView, SetupError> {
        match self {
            Past::Here { runs, .. } => runs.tests(run, task, attempt).await.map_err(unreadable),
            Past::Boss(boss) => {
                boss.get(&format!("/api/runs/{run}/tasks/{task}/tests?attempt={attempt}")).await
            }
        }
    }

    /// None where no attempt is recorded that had it.
    pub(crate) async fn test_history(
        &self,
        task: &TaskId,
        name: &str,
    ) -> Result<Option<TestHistory>, SetupError> {
        match self {
            Past::Here { runs, .. } => runs.test_history(task, name).await.map_err(unreadable),
            Past::Boss(boss) => boss.find(&format!("/api/tests?task={task}&name={}", encode(name))).await,
        }
    }

    /// Tells the lines of an output that are wanted, as it is read; answers how many lines it has.
    pub(crate) async fn output(
        &self,
        run: RunNumber,
        task: &TaskId,
        attempt: Option<u32>,
        mut slice: Slice,
        mut out: impl FnMut(u64, &str) + Send + 'static,
    ) -> Result<u64, SetupError> {
        let gone = |why: String| {
            SetupError::new(
                format!("the output of {task} in run {run} cannot be read: {why}"),
                "run it again",
            )
        };
        match self {
            Past::Here { runs, .. } => {
                let path = runs.outputs().path(output_of(runs, run, task, attempt).await?);
                let read = move || -> std::io::Result<u64> {
                    let mut file = std::fs::File::open(path)?;
                    let mut piece = vec![0; 64 * 1024];
                    loop {
                        match file.read(&mut piece)? {
                            0 => break,
                            count => slice.take(&piece[..count], &mut out),
                        }
                    }
                    Ok(slice.end(&mut out))
                };
                let read = tokio::task::spawn_blocking(read).await;
                crate::joined::joined(read).await.map_err(|error| gone(error.to_string()))
            }
            Past::Boss(boss) => {
                let which = attempt.map_or(String::new(), |attempt| format!("?attempt={attempt}"));
                let answer = boss.ask(&format!("/api/runs/{run}/tasks/{task}/output{which}")).await?;
                let mut pieces = answer.bytes_stream();
                while let Some(piece) = pieces.next().await {
                    slice.take(&piece.map_err(|error| gone(error.to_string()))?, &mut out);
                }
                Ok(slice.end(&mut out))
            }
        }
    }
}

async fn output_of(
    runs: &Runs,
    run: RunNumber,
    task: &TaskId,
    attempt: Option<u32>,
) -> Result<OutputId, SetupError> {
    let state = runs.state(run).await.map_err(unreadable)?;
    let place = state.place(task).expect("it was found in this run");
    let latest = state.task(task).map_or(0, |task| task.attempts.len() as u32);
    let attempt = attempt.unwrap_or(latest);
    if attempt == 0 || attempt > latest {
        return Err(SetupError::new(
            format!("{task} has not begun an attempt {} in run {run}", attempt.max(1)),
            format!("it has begun {latest}"),
        ));
    }
    Ok(OutputId { run, task: place, attempt })
}

fn unreadable(error: RunsError) -> SetupError {
    let hint = local::hint_at_damage(&error).unwrap_or(
        "without a number it is the last `bettertest run` here; a boss numbers its own runs: --url http://ADDRESS",
    );
    SetupError::new(error.to_string(), hint)
}

impl Boss {
    fn at(base: String, data: &Path, may_share: bool) -> Result<Boss, SetupError> {
        let shared = || Token::read(Path::new(local::SHARED_TOKEN)).filter(|_| may_share);
        let token = Token::read(&data.join("token")).or_else(shared).ok_or_else(|| {
            SetupError::new(
                format!("there is no token for {base} in {}", data.display()),
                "name the data directory of that boss with --data-dir, or put its token there",
            )
        })?;
        let client = reqwest::Client::builder().no_proxy().connect_timeout(PATIENCE).read_timeout(PATIENCE);
        let client = client.build().expect("a client without TLS needs nothing that could be missing");
        Ok(Boss { base, token, client })
    }

    async fn send(&self, path: &str) -> Result<reqwest::Response, SetupError> {
        let asked = self.client.get(format!("{}{path}", self.base)).bearer_auth(self.token.as_str());
        asked.send().await.map_err(|error| {
            let why = if error.is_timeout() { " in time" } else { "" };
            SetupError::new(
                format!("no boss answers at {}{why}", self.base),
                "is that its address, and does it run?",
            )
        })
    }

    async fn ask(&self, path: &str) -> Result<reqwest::Response, SetupError> {
        self.taken(path, self.send(path).await?).await
    }

    /// An answer, unless it is a refusal.
    async fn taken(&self, path: &str, answer: reqwest::Response) -> Result<reqwest::Response, SetupError> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let problem = answer.json::<Problem>().await.unwrap_or_else(|_| {
            Problem::new(format!("{}{path} answers {status}", self.base), "is that the address of a boss?")
        });
        Err(SetupError::new(problem.error, problem.hint.unwrap_or_default()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, SetupError> {
        self.read(self.ask(path).await?).await
    }

    /// None where there is no such thing.
    async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, SetupError> {
        let answer = self.send(path).await?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.read(self.taken(path, answer).await?).await.map(Some)
    }

    async fn read<T: DeserializeOwned>(&self, answer: reqwest::Response) -> Result<T, SetupError> {
        answer.json().await.map_err(|error| {
            SetupError::new(
                format!("the boss at {} answered something else: {error}", self.base),
                "compare bettertest --version",
            )
        })
    }
}
