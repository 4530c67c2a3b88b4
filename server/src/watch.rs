//! Follows a run of this process to its end and tells of it: in the terminal, as text or as JSON lines, or to whoever
//! else listens.

use common::{
    Outcome, Packet, Phase, Reason, RunEvent, RunFact, RunNumber, RunState, RunSummary, TaskId, TaskState,
    Verdict,
};
use futures_util::StreamExt as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use crate::boss::{self, OutputId, Runs, Told};
use crate::error::SetupError;
use crate::local::RunFolder;
use crate::report::{Failure, REDRAW, Report, Style};
use crate::terminal::{self, Paint};
use crate::worker::PrivateWorker;
use crate::{cli, say};

/// How much of a failing task's output is shown at once.
const TAIL_LINES: usize = 20;

const EXIT_ERRORED: u8 = 3;

/// What a run of this process stands on, until its end.
pub(crate) struct Ground {
    pub(crate) runs: Runs,
    pub(crate) pipedef: String,
    /// Where `--worker` sends every step.
    pub(crate) everywhere: Option<String>,
    pub(crate) private: Option<PrivateWorker>,
    /// The command that runs again what did not pass.
    pub(crate) next: String,
    /// The command that makes a new run; a task is selected behind it.
    pub(crate) anew: String,
    /// The first task that does not pass ends it.
    pub(crate) fail_fast: bool,
    pub(crate) folder: RunFolder,
}

/// Who is told of a run while it goes on.
pub(crate) trait Audience {
    /// What has happened, also as it stands in the log; `run` has it taken in.
    fn hear(&mut self, event: &RunEvent, json: &str, run: &RunState);
    /// The first failure has come, and no more is wanted.
    fn stops_at_first_failure(&mut self) {}
    /// Whether it wants to draw anew while nothing happens.
    fn is_live(&self) -> bool {
        false
    }
    fn draw(&mut self, _run: &RunState) {}
}

impl Ground {
    /// Tells of a run to its end, and leaves nothing but its history. The exit code says how it ended. `before` is
    /// the run as it was before it began, or began again: what is told comes after that.
    pub(crate) async fn watch(
        self,
        number: RunNumber,
        before: RunState,
        how: &cli::HowToRun,
        interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> u8 {
        let told = self.tell(number, before, how, interrupted).await;
        self.end().await;
        // There is a run, so what is wrong is no longer the set-up.
        told.map_or_else(
            |error| {
                say::refusal(&error);
                EXIT_ERRORED
            },
            exit_code,
        )
    }

    /// Nothing is left of it, and of the run its history.
    pub(crate) async fn end(self) {
        self.runs.shut_down().await;
        if let Some(private) = self.private {
            private.shut_down().await;
        }
        drop(self.folder);
    }

    async fn tell(
        &self,
        number: RunNumber,
        before: RunState,
        how: &cli::HowToRun,
        interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Verdict, SetupError> {
        let workers = self.everywhere.as_ref().map_or(String::new(), |worker| format!("  on {worker}"));
        let (json, paint) = (how.json, how.color.paint());
        let live = terminal::is_stdout() && !json;
        let report = Report::new(if live { Style::Live } else { Style::Plain }, paint);
        let (runs, pipedef) = (&self.runs, self.pipedef.as_str());
        let mut terminal = Terminal { report, runs, pipedef, workers: &workers, json, live, paint };
        let (run, verdict) = self.follow(number, before, &mut terminal, interrupted).await?;
        let packet = match verdict {
            Verdict::Passed => None,
            Verdict::Not(_) => Some(self.packet(number).await?),
        };
        if json {
            say::json(&json_verdict(&run, packet.as_ref()));
        } else {
            let closing = terminal.report.closing(&run, packet.as_ref(), &workers, &self.next, &self.anew);
            say::out(&terminal.report.last(&closing));
        }
        Ok(verdict)
    }

    /// What failed, and why.
    pub(crate) async fn packet(&self, number: RunNumber) -> Result<Packet, SetupError> {
        self.runs.packet(number, &self.anew).await.map_err(|error| unreadable(&error.to_string()))
    }

    /// To the end of the run, which comes soon after an interruption.
    pub(crate) async fn follow(
        &self,
        number: RunNumber,
        mut run: RunState,
        audience: &mut impl Audience,
        mut interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(RunState, Verdict), SetupError> {
        let mut stops = false;
        let mut events = Box::pin(boss::run_events(self.runs.clone(), number, run.last_seq));
        let mut asked_to_stop = false;
        loop {
            let json = tokio::select! {
                told = events.next() => match told {
                    Some(Told::Event(_, event)) => event,
                    Some(Told::AtRest) => break,
                    None => return Err(unreadable("it broke off")),
                },
                () = &mut interrupted, if !asked_to_stop => {
                    asked_to_stop = true;
                    self.cancel(number).await?;
                    continue;
                }
                () = tokio::time::sleep(REDRAW), if audience.is_live() => {
                    audience.draw(&run);
                    continue;
                }
            };
            let event: RunEvent =
                serde_json::from_str(&json).map_err(|error| unreadable(&error.to_string()))?;
            run.apply(&event).map_err(|error| unreadable(&error.to_string()))?;
            if self.fail_fast && !stops && is_failure(&event.fact) {
                stops = true;
                audience.stops_at_first_failure();
                self.cancel(number).await?;
            }
            audience.hear(&event, &json, &run);
        }
        match run.phase {
            Phase::Ended(verdict) => Ok((run, verdict)),
            Phase::Running | Phase::Unborn => Err(unreadable("the run broke off without an end")),
        }
    }

    async fn cancel(&self, number: RunNumber) -> Result<(), SetupError> {
        self.runs.cancel(number).await.map_err(|error| unreadable(&error.to_string()))
    }
}

fn unreadable(error: &str) -> SetupError {
    SetupError::new(format!("the run's log cannot be read: {error}"), "see the log")
}

/// As text or as JSON lines.
struct Terminal<'a> {
    report: Report,
    runs: &'a Runs,
    pipedef: &'a str,
    /// Where `--worker` sends every step, as the report says it.
    workers: &'a str,
    json: bool,
    live: bool,
    paint: Paint,
}

impl Audience for Terminal<'_> {
    fn hear(&mut self, event: &RunEvent, json: &str, run: &RunState) {
        let failure = failed_attempt(self.runs, run, &event.fact, self.paint == Paint::Colours && !self.json);
        if self.json {
            say::json(json);
            if let Some((task, attempt, tail, path)) = failure {
                say::json(&json_tail(task, attempt, &tail, &path));
            }
            return;
        }
        if self.live {
            self.report.resize(size());
        }
        let mut lines = String::new();
        if matches!(event.fact, RunFact::RunStarted { .. } | RunFact::RerunStarted { .. }) {
            lines = self.report.opening(run, self.pipedef, self.workers);
        }
        let failure = failure.map(|(task, _, tail, path)| Failure {
            task: run.task(task).expect("the state has just taken its end in"),
            tail,
            output: path.display().to_string(),
        });
        lines.push_str(&self.report.tell(run, &event.fact, failure));
        say::out(&self.report.frame(&lines, run));
    }

    fn stops_at_first_failure(&mut self) {
        self.report.stops_at_first_failure();
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn draw(&mut self, run: &RunState) {
        self.report.resize(size());
        self.report.hears_builds(builds(self.runs, run));
        say::out(&self.report.frame("", run));
    }
}

/// The last line of each build that is under way: an image may take minutes, and nothing else tells how far it is.
fn builds(runs: &Runs, run: &RunState) -> BTreeMap<TaskId, String> {
    let mut lines = BTreeMap::new();
    for (place, task) in run.tasks().enumerate() {
        let Some(attempt) = task.attempts.last().filter(|_| task.state == TaskState::Running) else {
            continue;
        };
        if attempt.steps.last().is_none_or(|step| step.spec.build().is_none()) {
            continue;
        }
        let path = runs.outputs().path(OutputId { run: run.number, task: place, attempt: attempt.number });
        // Nothing is printed yet, as a rule.
        let Ok(end) = boss::end_of(&path) else { continue };
        let tells = |line: &String| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with("--->") && !line.starts_with("Removing intermediate")
        };
        let last = terminal::tail(&end, TAIL_LINES, false).into_iter().rev().find(tells);
        lines.extend(last.map(|line| (task.id.clone(), line)));
    }
    lines
}

pub(crate) fn exit_code(verdict: Verdict) -> u8 {
    match verdict.outcome() {
        Outcome::Passed => 0,
        Outcome::Failed | Outcome::TimedOut => 1,
        Outcome::Errored => EXIT_ERRORED,
        Outcome::Cancelled => 130,
    }
}

/// A cancel that came before there was a run, or before it began again.
pub(crate) fn exit_interrupted() -> u8 {
    exit_code(Verdict::Not(Reason::CancelAsked))
}

/// An attempt has ended in a way that says that something is wrong.
fn is_failure(fact: &RunFact) -> bool {
    match fact {
        RunFact::TaskEnded { verdict, .. } => {
            !matches!(verdict.outcome(), Outcome::Passed | Outcome::Cancelled)
        }
        RunFact::RunStarted { .. }
        | RunFact::TaskStarted { .. }
        | RunFact::StepAsked { .. }
        | RunFact::Step { .. }
        | RunFact::TaskEnding { .. }
        | RunFact::TaskSkipped { .. }
        | RunFact::CancelAsked
        | RunFact::RerunStarted { .. }
        | RunFact::RunEnded { .. } => false,
    }
}

/// The end of the output of an attempt that has just ended badly.
fn failed_attempt<'a>(
    runs: &Runs,
    run: &RunState,
    fact: &'a RunFact,
    colours: bool,
) -> Option<(&'a TaskId, u32, Vec<String>, PathBuf)> {
    let RunFact::TaskEnded { task, attempt, .. } = fact else { return None };
    if !is_failure(fact) {
        return None;
    }
    let place = run.tasks().position(|known| known.id == *task)?;
    let path = runs.outputs().path(OutputId { run: run.number, task: place, attempt: *attempt });
    let tail = match boss::end_of(&path) {
        Ok(bytes) => terminal::tail(&bytes, TAIL_LINES, colours),
        Err(error) => vec![format!("(its output cannot be read: {error})")],
    };
    Some((task, *attempt, tail, path))
}

/// Not an event of the log: what a reader of `--json` needs to see of a failing task's output.
fn json_tail(task: &TaskId, attempt: u32, tail: &[String], path: &Path) -> String {
    let line = serde_json::json!({
        "event": "output_tail", "task": task, "attempt": attempt, "lines": tail, "output": path.display().to_string(),
    });
    line.to_string()
}

/// Nor is this: how the run ended, in words that are never plainer than the truth, and what did not pass.
fn json_verdict(run: &RunState, packet: Option<&Packet>) -> String {
    let mut line = serde_json::json!({ "event": "verdict" });
    let summary = serde_json::to_value(RunSummary::of(run)).expect("a summary is JSON");
    if let (Some(line), serde_json::Value::Object(summary)) = (line.as_object_mut(), summary) {
        line.extend(summary);
        if let Some(packet) = packet {
            let packet = serde_json::to_value(packet).expect("a packet is JSON");
            line.insert("packet".to_owned(), packet);
        }
    }
    line.to_string()
}

fn size() -> (u16, u16) {
    crossterm::terminal::size().unwrap_or((80, 24))
}
