//! A run in the terminal: a line per task as it ends, the ones under way below, the verdict at the end. The same
//! `RunState` as the page; here it is drawn with text. In a terminal no line is wider than it; in a pipe or a file
//! lines are as long as they are.

use common::{
    Outcome, Packet, RunFact, RunState, SkipReason, StageRun, StepEvent, StepState, TaskId, TaskRun,
    TaskState, Verdict, duration, headline, passed_again, run_tests, task_words,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::columns::{columns, fit, fit_name, fold};
use crate::packet_text;
use crate::terminal::{Paint, plain};

/// While something runs, its elapsed time is drawn anew so often.
pub(crate) const REDRAW: Duration = Duration::from_millis(100);

/// Of more tasks than that those that pass are counted, not listed.
const LISTED: usize = 40;

/// So many failures are told with the end of their output as they happen; after that, nobody reads on.
const TOLD_IN_FULL: usize = 10;

/// The end of the output of what did not pass, once more below everything.
const LAST_LINES: usize = 3;

/// A longer line of output takes more rows of a terminal than it is worth.
const ROWS: usize = 4;

/// Before the name in a task's line: how it stands, and how long it took.
const STANDING: usize = 26;
const TOOK: usize = 7;

/// Of a run without a source. A re-run never sees a change: whoever mends the project and runs it again would stay red without
/// knowing why.
const AFTER_A_CHANGE: &str = "after a change: build the image, then a new run";

/// How a run is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A terminal: lines that change, and none wider than it.
    Live,
    /// A pipe or a file: each line is final.
    Plain,
}

pub(crate) struct Report {
    style: Style,
    paint: Paint,
    /// Of the terminal: columns and rows.
    size: (usize, usize),
    /// When each running task was first seen, by this process's own clock.
    since: BTreeMap<TaskId, Instant>,
    began: Instant,
    /// What those that build an image have printed last.
    builds: BTreeMap<TaskId, String>,
    /// Are tasks that pass listed?
    lists_all: bool,
    /// How many failures were told of as they happened.
    failed: usize,
    /// A cancel comes of the first failure.
    stops: bool,
    /// Lines of the changing part that are on the screen now, and since when.
    drawn: usize,
    drawn_at: Option<Instant>,
}

/// The failing end of a task: what a person has to see at once.
pub(crate) struct Failure<'a> {
    pub(crate) task: &'a TaskRun,
    /// The last lines of its output, safe to print.
    pub(crate) tail: Vec<String>,
    /// The file that holds all of it.
    pub(crate) output: String,
}

impl Report {
    pub(crate) fn new(style: Style, paint: Paint) -> Report {
        Report {
            style,
            paint,
            size: (80, 24),
            since: BTreeMap::new(),
            builds: BTreeMap::new(),
            began: Instant::now(),
            lists_all: true,
            failed: 0,
            stops: false,
            drawn: 0,
            drawn_at: None,
        }
    }

    /// What is cancelled from here on is so because of that.
    pub(crate) fn stops_at_first_failure(&mut self) {
        self.stops = true;
    }

    /// People pull at their windows.
    pub(crate) fn resize(&mut self, (columns, rows): (u16, u16)) {
        self.size = (columns.into(), rows.into());
    }

    /// The first lines: what runs, and of what.
    pub(crate) fn opening(&mut self, run: &RunState, pipedef: &str, workers: &str) -> String {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let due = run.tasks().filter(|task| task.state == TaskState::Pending).count();
        self.lists_all = due <= LISTED;
        let tasks = count(run.tasks().count(), "task");
        let part = match run.reruns {
            0 => run.only.as_ref().map(|only| format!("{} of ", only.len())),
            _ => Some(format!("{due} of ")),
        };
        let part = part.unwrap_or_default();
        let again = if run.reruns > 0 { ", again" } else { "" };
        let stages = count(run.stages.len(), "stage");
        let (what, of) =
            (format!("run {}{again}", run.number), format!("{part}{tasks} in {stages}  {pipedef}{workers}"));
        let mut lines = self.two(&self.paint.sgr("1", &what), columns(&what), &of);
        if let Some(source) = &run.source {
            // The names of branches are the user's.
            let words = plain(&format!("on {}", common::source_words(source)));
            lines.push_str(&format!("{}\n", self.dim(&words)));
        }
        lines + &self.failed_tests(run)
    }

    /// Which tests are run alone, and why all of a task is.
    fn failed_tests(&self, run: &RunState) -> String {
        let all: Vec<_> = run.tasks().filter_map(|task| task.again.as_ref()).collect();
        let told = all.iter().take(TOLD_IN_FULL).map(|again| {
            // What failed is named as the user's tests are.
            format!("{}\n", self.dim(&plain(&format!("{}: {}", again.task, again.words()))))
        });
        let mut lines: String = told.collect();
        if all.len() > TOLD_IN_FULL {
            lines.push_str(&format!(
                "{}\n",
                self.dim(&format!("and {} more tasks", all.len() - TOLD_IN_FULL))
            ));
        }
        lines
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
                let mut text = String::new();
                if self.lists_all || ended.state != TaskState::Ended(Verdict::Passed) {
                    let mut tests = ended.tests().map(|tests| tests.words()).unwrap_or_default();
                    if let Some(some) = ended.attempts.last().and_then(common::Attempt::some_tests) {
                        tests = format!("{}: {tests}", some.words());
                    }
                    let (words, took) = (task_words(ended), duration(*took_ms));
                    text = self.line(ended.state, &words, &took, &task.to_string(), &tests);
                }
                if let Some(failure) = failure {
                    text.push_str(&self.failure(&failure));
                }
                text + &self.stage_settled(run, task)
            }
            RunFact::TaskSkipped { task, .. } => self.stage_settled(run, task),
            RunFact::CancelAsked if self.stops => {
                format!("{}\n", self.dim("stopping at the first failure: the rest is cancelled ..."))
            }
            RunFact::CancelAsked => format!("{}\n", self.dim("cancelling ...")),
            RunFact::Step { task, said: StepEvent::Artifacts(artifacts), .. } => {
                let Some(problem) = &artifacts.problem else { return String::new() };
                // Names of files are the user's tests'.
                format!("{}\n", self.dim(&plain(&format!("{task}: artifacts: {problem}"))))
            }
            RunFact::RunStarted { .. }
            | RunFact::StepAsked { .. }
            | RunFact::Step { .. }
            | RunFact::TaskEnding { .. }
            | RunFact::RerunStarted { .. }
            | RunFact::RunEnded { .. } => String::new(),
        }
    }

    /// Where `task` was the last of its stage to end or to be skipped: what was not listed of the others.
    fn stage_settled(&self, run: &RunState, task: &TaskId) -> String {
        let Some(stage) = run.stages.iter().find(|stage| stage.name == task.stage) else {
            return String::new();
        };
        if stage.tasks.iter().any(|task| matches!(task.state, TaskState::Pending | TaskState::Running)) {
            return String::new();
        }
        let mut text = String::new();
        let passed = TaskState::Ended(Verdict::Passed);
        if !self.lists_all {
            let count = stage.tasks.iter().filter(|task| task.state == passed).count();
            if count > 0 {
                let words = format!("{count} of {} passed", stage.tasks.len());
                text.push_str(&self.line(passed, &words, "", &stage.name, ""));
            }
        }
        text + &self.skipped(stage)
    }

    fn skipped(&self, stage: &StageRun) -> String {
        let mut why_not: BTreeMap<&str, Vec<&TaskRun>> = BTreeMap::new();
        for task in &stage.tasks {
            match task.state {
                TaskState::Skipped(SkipReason::NotSelected) => {}
                TaskState::Skipped(why) => why_not.entry(why.word()).or_default().push(task),
                TaskState::Pending | TaskState::Running | TaskState::Ended(_) => {}
            }
        }
        let lines = why_not.values().map(|tasks| {
            let name = match tasks.as_slice() {
                [one] => one.id.to_string(),
                several => format!("{} ({} tasks)", stage.name, several.len()),
            };
            self.line(tasks[0].state, &task_words(tasks[0]), "", &name, "")
        });
        lines.collect()
    }

    /// How something stands, for how long, its name, and where there is room, its tests.
    fn line(&self, state: TaskState, words: &str, time: &str, name: &str, tests: &str) -> String {
        let words = format!("{} {words}", mark(state));
        // Padded by what is seen, not by what is written: colours have no width.
        let pad = " ".repeat(STANDING.saturating_sub(columns(&words)));
        let before = columns(&words).max(STANDING) + TOOK + 3;
        let room = self.size.0.saturating_sub(before + 1).max(12);
        let name = match self.style {
            Style::Live => fit_name(name, room),
            Style::Plain => name.to_owned(),
        };
        let fits = self.style == Style::Plain || columns(&name) + 2 + columns(tests) <= room;
        let tests = if tests.is_empty() || !fits { String::new() } else { format!("  {}", self.dim(tests)) };
        let time = self.dim(&format!("{time:>TOOK$}"));
        format!("{}{pad} {time}  {name}{tests}\n", self.painted(state, &words))
    }

    fn failure(&mut self, failure: &Failure<'_>) -> String {
        let problem = failure.task.attempts.last().and_then(|last| last.end.as_ref());
        let problem = problem.and_then(|end| end.problem.as_ref());
        self.failed += 1;
        if self.failed > TOLD_IN_FULL {
            return String::new();
        }
        let mut text: String = failure.tail.iter().map(|line| self.quoted(line)).collect();
        if let Some(problem) = problem {
            text.push_str(&self.folded("  ", &self.paint.sgr("1", &plain(&problem.error))));
            if let (Some(file), Some(line)) = (&problem.file, problem.line) {
                text.push_str(&format!("  at {}:{line}\n", plain(file)));
            }
            if let Some(hint) = &problem.hint {
                text.push_str(&self.folded("  ", &format!("hint: {}", plain(hint))));
            }
        }
        if !failure.tail.is_empty() {
            // Whole even where it wraps: it is there to be copied.
            text.push_str(&format!("  {}\n", self.dim(&format!("all of its output: {}", failure.output))));
        }
        text
    }

    fn quoted(&self, line: &str) -> String {
        self.folded(&format!("  {} ", self.dim("│")), line)
    }

    fn folded(&self, before: &str, line: &str) -> String {
        let rows = match self.style {
            Style::Live => fold(line, self.size.0.saturating_sub(5).max(12), ROWS),
            Style::Plain => vec![line.to_owned()],
        };
        rows.iter().map(|row| format!("{before}{row}\n")).collect()
    }

    /// The end: what did not pass, the verdict and what it rests on, and what to do next.
    pub(crate) fn closing(
        &self,
        run: &RunState,
        packet: Option<&Packet>,
        workers: &str,
        next: &str,
        anew: &str,
    ) -> String {
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
        let painted = self.paint.sgr("1", &self.painted(state, &words));
        let tests = run_tests(run).map_or_else(String::new, |tests| format!("; tests: {}", tests.words()));
        let counted = format!("{} in {took}{tests}{workers}", parts.join(", "));
        let mut text =
            format!("{}\n{}", self.not_passed(run, packet), self.two(&painted, columns(&words), &counted));
        if verdict != Verdict::Passed {
            let alone = if run.has_tests_to_run_alone() {
                "; --failed-tests: only the tests that failed"
            } else {
                ""
            };
            let again = format!("what did not pass, again as it was: {next}{alone}");
            let mended = match run.source {
                Some(_) => format!("after a change: {anew} --only-failed"),
                None => AFTER_A_CHANGE.to_owned(),
            };
            text.push_str(&format!("{}\n{}\n", self.dim(&again), self.dim(&mended)));
        }
        text
    }

    /// The packet once more below everything; the outputs were shown as they ended, and here only their very ends.
    fn not_passed(&self, run: &RunState, packet: Option<&Packet>) -> String {
        let Some(packet) = packet else { return String::new() };
        let mut text = String::new();
        for failure in &packet.failures {
            let Some(task) = run.task(&failure.task) else { continue };
            let words = format!("{} {}", mark(task.state), task_words(task));
            let room = self.size.0.saturating_sub(columns(&words) + 3).max(12);
            let name = task.id.to_string();
            let name = if self.style == Style::Live { fit_name(&name, room) } else { name };
            text.push_str(&format!(
                "\n{}  {}\n",
                self.painted(task.state, &words),
                self.paint.sgr("1", &name)
            ));
            for note in &failure.notes {
                text.push_str(&self.folded("  ", &format!("note: {}", plain(note))));
            }
            for line in packet_text::tests(failure) {
                text.push_str(&self.folded("  ", &line));
            }
            for line in failure.first_new_line.iter().flat_map(packet_text::new_line) {
                text.push_str(&self.folded("  ", &line));
            }
            for line in failure.changes.iter().flat_map(packet_text::changes) {
                text.push_str(&self.folded("  ", &line));
            }
            // Where tests are named, the end of the output says the same again.
            let most = if failure.failed_tests.is_empty() { LAST_LINES } else { 0 };
            let mut last = &failure.last_lines[failure.last_lines.len().saturating_sub(most)..];
            if failure.last_lines.is_empty() {
                last = failure.error.as_slice();
            }
            for line in last {
                text.push_str(&self.quoted(line));
            }
            // Whole even where it wraps: it is there to be copied.
            text.push_str(&format!("  {}\n", self.dim(&format!("after a change: {}", failure.again))));
        }
        if let Some(rest) = packet_text::rest(packet) {
            text.push_str(&format!("\n{}\n", self.dim(&rest)));
        }
        text
    }

    /// Two parts of a line, on two lines where it has no room for both.
    fn two(&self, first: &str, first_columns: usize, second: &str) -> String {
        let room = self.size.0.saturating_sub(1);
        match self.style {
            Style::Live if first_columns + 2 + columns(second) > room => {
                format!("{first}\n  {}\n", self.dim(&fit_name(second, room.saturating_sub(2))))
            }
            Style::Live | Style::Plain => format!("{first}  {}\n", self.dim(second)),
        }
    }

    pub(crate) fn hears_builds(&mut self, lines: BTreeMap<TaskId, String>) {
        self.builds = lines;
    }

    /// What to write so that `lines` are added to what stays, and the lines that change are below them as they are now.
    /// Nothing, where it is too early to draw them anew.
    pub(crate) fn frame(&mut self, lines: &str, run: &RunState) -> String {
        if self.style == Style::Plain {
            return lines.to_owned();
        }
        if lines.is_empty() && self.drawn_at.is_some_and(|at| at.elapsed() < REDRAW) {
            return String::new();
        }
        let changing = self.changing(run);
        let up = self.up();
        // Where only the changing ones are drawn anew, each replaces the one that was there: taking them all off first
        // would flicker.
        let below = if lines.is_empty() { "" } else { "\x1b[J" };
        self.drawn = changing.len();
        self.drawn_at = Some(Instant::now());
        let changing: String = changing.iter().map(|line| format!("{line}\x1b[K\n")).collect();
        format!("{up}{below}{lines}{changing}\x1b[J")
    }

    /// `lines` take the place of the ones that change, for good.
    pub(crate) fn last(&mut self, lines: &str) -> String {
        match self.style {
            Style::Live => format!("{}\x1b[J{lines}", self.up()),
            Style::Plain => lines.to_owned(),
        }
    }

    fn up(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A"),
        }
    }

    /// What runs now, and for how long.
    fn changing(&self, run: &RunState) -> Vec<String> {
        let (width, room) = (self.size.0.saturating_sub(1), self.size.1.saturating_sub(4).clamp(1, 12));
        let running: Vec<&TaskRun> = run.tasks().filter(|task| task.state == TaskState::Running).collect();
        let mut lines: Vec<String> =
            running.iter().take(room).map(|task| self.running(task, width)).collect();
        if running.len() > room {
            lines.push(self.dim(&format!("… and {} more", running.len() - room)));
        }
        let counts = run.counts();
        let ended = run.tasks().count() - counts.get("pending").unwrap_or(&0) - running.len();
        let took = duration(self.began.elapsed().as_millis() as u64);
        let mut all = format!("{ended}/{} tasks", run.tasks().count());
        for (word, count) in counts {
            if !["passed", "pending", "running"].contains(&word) {
                all.push_str(&format!(", {count} {word}"));
            }
        }
        lines.push(self.dim(&fit(&format!("{all}  {took}"), width)));
        lines
    }

    fn running(&self, task: &TaskRun, width: usize) -> String {
        let since = self.since.get(&task.id).map_or(0, |since| since.elapsed().as_millis() as u64);
        let before = format!("{} {:>TOOK$}  ", mark(task.state), duration(since));
        let attempt = match task.attempts.len() {
            0 | 1 => String::new(),
            attempts => format!(" (attempt {attempts})"),
        };
        let doing = self.builds.get(&task.id).map_or_else(|| doing(task), |line| plain(line.trim()));
        let name = format!("{}{attempt}", task.id);
        let room = width.saturating_sub(columns(&before));
        // A name keeps at least half of the room.
        let name = fit_name(&name, room.saturating_sub(columns(&doing) + 2).max(room / 2));
        let doing = fit(&doing, room.saturating_sub(columns(&name) + 2));
        self.painted(task.state, &format!("{before}{name}  {doing}"))
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
        self.paint.sgr(colour, text)
    }

    fn dim(&self, text: &str) -> String {
        self.paint.sgr("2", text)
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
    if attempt.steps.is_empty() {
        return "starting".to_owned();
    }
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
