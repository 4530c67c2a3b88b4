//! A run in the terminal: a line per task as it ends, the ones under way below, the verdict at the end. The same
//! `RunState` as the page; here it is drawn with text.

use common::{
    Outcome, RunFact, RunState, StepState, TaskId, TaskRun, TaskState, duration, headline, passed_again,
    task_words,
};
use std::collections::BTreeMap;
use std::time::Instant;

use crate::terminal::{fit, plain};

/// How a run is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A terminal: colours, and lines that change.
    Live,
    /// A pipe or a file: plain lines, each final.
    Plain,
}

pub(crate) struct Report {
    style: Style,
    /// When each running task was first seen, by this process's own clock.
    since: BTreeMap<TaskId, Instant>,
    began: Instant,
    /// Lines of the changing part that are on the screen now.
    drawn: usize,
}

/// The failing end of a task: what a person has to see at once.
pub(crate) struct Failure<'a> {
    pub(crate) task: &'a TaskRun,
    /// The last lines of its output, safe to print.
    pub(crate) tail: Vec<String>,
    /// The command that shows all of it, or the file that holds it.
    pub(crate) output: String,
}

impl Report {
    pub(crate) fn new(style: Style) -> Report {
        Report { style, since: BTreeMap::new(), began: Instant::now(), drawn: 0 }
    }

    /// The first lines: what runs, and of what.
    pub(crate) fn opening(&self, run: &RunState, pipedef: &str, workers: &str) -> String {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let tasks = count(run.tasks().count(), "task");
        let part = match run.reruns {
            0 => run.only.as_ref().map(|only| format!("{} of ", only.len())),
            _ => Some(format!("{} of ", run.tasks().filter(|task| task.state == TaskState::Pending).count())),
        };
        let part = part.unwrap_or_default();
        let again = if run.reruns > 0 { ", again" } else { "" };
        let stages = count(run.stages.len(), "stage");
        format!(
            "{}\n",
            self.bold(&format!("run {}{again}", run.number))
                + &self.dim(&format!("  {part}{tasks} in {stages}  {pipedef}{workers}"))
        )
    }

    /// What to print for an event that the state has just taken in.
    pub(crate) fn tell(&mut self, run: &RunState, fact: &RunFact, failure: Option<Failure<'_>>) -> String {
        match fact {
            RunFact::TaskStarted { task, .. } => {
                self.since.insert(task.clone(), Instant::now());
                String::new()
            }
            RunFact::TaskEnded { task, took_ms, .. } => {
                self.since.remove(task);
                let Some(ended) = run.task(task) else { return String::new() };
                let mut text = self.task_line(run, ended, &duration(*took_ms));
                if let Some(failure) = failure {
                    text.push_str(&self.failure(&failure));
                }
                text
            }
            RunFact::TaskSkipped { task, why } => match run.task(task) {
                Some(skipped) if *why != common::SkipReason::NotSelected => self.task_line(run, skipped, ""),
                Some(_) | None => String::new(),
            },
            RunFact::CancelAsked => format!("{}\n", self.dim("cancelling ...")),
            RunFact::RunStarted { .. }
            | RunFact::StepAsked { .. }
            | RunFact::Step { .. }
            | RunFact::TaskEnding { .. }
            | RunFact::RerunStarted { .. }
            | RunFact::RunEnded { .. } => String::new(),
        }
    }

    fn task_line(&self, run: &RunState, task: &TaskRun, time: &str) -> String {
        let widest = run.tasks().map(|task| task.id.to_string().chars().count()).max().unwrap_or(0).min(48);
        let words = task_words(task);
        let marked = self.painted(task.state, &format!("{} {words}", mark(task.state)));
        // Padded by what is seen, not by what is written: colours have no width.
        let pad = " ".repeat(26usize.saturating_sub(words.chars().count() + 2));
        format!("{marked}{pad} {:widest$}  {}\n", task.id.to_string(), self.dim(&format!("{time:>7}")))
    }

    fn failure(&self, failure: &Failure<'_>) -> String {
        let mut text = String::new();
        for line in &failure.tail {
            text.push_str(&format!("  {} {line}\n", self.dim("│")));
        }
        let problem = failure
            .task
            .attempts
            .last()
            .and_then(|last| last.end.as_ref())
            .and_then(|end| end.problem.as_ref());
        if let Some(problem) = problem {
            text.push_str(&format!("  {}\n", self.bold(&plain(&problem.error))));
            if let (Some(file), Some(line)) = (&problem.file, problem.line) {
                text.push_str(&format!("  at {}:{line}\n", plain(file)));
            }
            if let Some(hint) = &problem.hint {
                text.push_str(&format!("  hint: {}\n", plain(hint)));
            }
        }
        if !failure.tail.is_empty() {
            text.push_str(&format!("  {}\n", self.dim(&format!("all of its output: {}", failure.output))));
        }
        text
    }

    /// The verdict, and what it rests on.
    pub(crate) fn closing(&self, run: &RunState, workers: &str) -> String {
        let verdict = run.verdict_now();
        let counts = run.counts();
        let again = passed_again(run);
        let part = |(word, count): (&&str, &usize)| match *word {
            "passed" if again > 0 => format!("{count} passed ({again} at a later attempt)"),
            word => format!("{count} {word}"),
        };
        let parts: Vec<String> = counts.iter().map(part).collect();
        let took = duration(self.began.elapsed().as_millis() as u64);
        let state = TaskState::Ended(verdict);
        let words = format!("{} run {} {}", mark(state), run.number, headline(run));
        format!(
            "\n{}  {}\n",
            self.bold(&self.painted(state, &words)),
            self.dim(&format!("{} in {took}{workers}", parts.join(", ")))
        )
    }

    /// Takes the changing lines off the screen, before others are printed.
    pub(crate) fn clear(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// The changing lines: what runs now, and for how long.
    pub(crate) fn draw(&mut self, run: &RunState, (width, height): (u16, u16)) -> String {
        if self.style == Style::Plain {
            return String::new();
        }
        let (width, room) = (width as usize, (height as usize).saturating_sub(4).clamp(1, 16));
        let running: Vec<&TaskRun> = run.tasks().filter(|task| task.state == TaskState::Running).collect();
        let mut lines = Vec::new();
        for task in running.iter().take(room) {
            let since = self.since.get(&task.id).map_or(0, |since| since.elapsed().as_millis() as u64);
            let attempt = match task.attempts.len() {
                0 | 1 => String::new(),
                attempts => format!(" (attempt {attempts})"),
            };
            let line =
                format!("{} {:>7}  {}{attempt}  {}", mark(task.state), duration(since), task.id, doing(task));
            lines.push(self.painted(task.state, &fit(&line, width.saturating_sub(1))));
        }
        if running.len() > room {
            lines.push(self.dim(&format!("… and {} more", running.len() - room)));
        }
        let counts = run.counts();
        let ended = run.tasks().count() - counts.get("pending").unwrap_or(&0) - running.len();
        let all = format!(
            "{ended}/{} tasks  {}",
            run.tasks().count(),
            duration(self.began.elapsed().as_millis() as u64)
        );
        lines.push(self.dim(&fit(&all, width.saturating_sub(1))));
        self.drawn = lines.len();
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn painted(&self, state: TaskState, text: &str) -> String {
        let colour = match state {
            TaskState::Pending | TaskState::Skipped(_) => "2",
            TaskState::Running => "36",
            TaskState::Ended(verdict) => match verdict.outcome() {
                Outcome::Passed => "32",
                Outcome::Failed => "31",
                Outcome::TimedOut | Outcome::Cancelled => "33",
                Outcome::Errored => "35",
            },
        };
        self.sgr(colour, text)
    }

    fn bold(&self, text: &str) -> String {
        self.sgr("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.sgr("2", text)
    }

    fn sgr(&self, code: &str, text: &str) -> String {
        match self.style {
            Style::Live => format!("\x1b[{code}m{text}\x1b[0m"),
            Style::Plain => text.to_owned(),
        }
    }
}

/// A state is told by a mark and a word, never by colour alone.
fn mark(state: TaskState) -> &'static str {
    match state {
        TaskState::Pending => "·",
        TaskState::Running => "▸",
        TaskState::Skipped(_) => "-",
        TaskState::Ended(verdict) => match verdict.outcome() {
            Outcome::Passed => "✓",
            Outcome::Failed => "✗",
            Outcome::TimedOut => "⏱",
            Outcome::Cancelled => "⊘",
            Outcome::Errored => "!",
        },
    }
}

/// What a running task is at: the state of its latest step that has not ended.
fn doing(task: &TaskRun) -> String {
    let Some(attempt) = task.attempts.last() else { return String::new() };
    let step = attempt.steps.iter().rev().find(|step| !matches!(step.state, StepState::Ended(_)));
    match step.map(|step| (&step.state, step)) {
        None => String::new(),
        Some((StepState::Asked, _)) => "asked".to_owned(),
        Some((StepState::Queued, _)) => "queued".to_owned(),
        Some((StepState::Preparing { what, .. }, _)) => plain(what),
        Some((StepState::Running { .. }, step)) => plain(&step.spec.command.for_show()),
        Some((StepState::Ended(_), _)) => String::new(),
    }
}
