//! What failed in a run, and why, as `common::Packet`: put together from the run's state and the outputs of its tasks
//! and of those that passed before. Reads only so much of each, so that an answer takes no longer for a long history.

mod compare;
mod source;

use common::{
    Attempt, ChangedFiles, FailedTest, Failure, NewLine, PACKET_BYTES, Packet, RunNumber, RunState,
    StepState, TESTS_TOLD, TOLD, TaskId, TaskRun, TaskState, TestCounts, TestView, TestsView, Verdict,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::output::{OutputId, Outputs, end_of};
use super::{Runs, RunsError};
use crate::joined::joined;
use crate::terminal;
use source::Files;

/// The last attempt that passed is looked for in so many runs, of so many events in all.
const RUNS_BACK: usize = 50;
const EVENTS_BACK: u64 = 100_000;

/// Of the end of an output.
const LAST_LINES: usize = 12;
/// Asked for one task alone.
const LAST_LINES_OF_ONE: usize = 40;

/// Of what else is to be known.
const NOTES: usize = 3;

/// Of what was wrong with one test.
const MESSAGE_LINES: usize = 8;

/// A line that is longer is cut: its beginning says what it is.
const LINE_CHARS: usize = 240;

/// An attempt that passed, and where its output is.
struct Green {
    run: RunNumber,
    attempt: u32,
    output: PathBuf,
}

impl Runs {
    /// What did not pass in a run, the worst first. `again` is the command that runs the project; it gets a task.
    pub(crate) async fn packet(&self, run: RunNumber, again: &str) -> Result<Packet, RunsError> {
        let state = self.state(run).await?;
        let failed: Vec<TaskRun> = common::failed(&state).into_iter().take(TOLD).cloned().collect();
        let mut packet = Packet::empty(&state);
        let lines = if failed.len() == 1 { LAST_LINES_OF_ONE } else { LAST_LINES };
        packet.fill(self.failures(&state, failed, lines, again).await?, PACKET_BYTES);
        Ok(packet)
    }

    /// The same of one task. None where nothing says that something is wrong with it.
    pub(crate) async fn failure(
        &self,
        run: RunNumber,
        task: &TaskId,
        again: &str,
    ) -> Result<Option<Packet>, RunsError> {
        let state = self.state(run).await?;
        let failed = common::failed(&state).into_iter().find(|failed| failed.id == *task).cloned();
        let Some(failed) = failed else { return Ok(None) };
        let mut packet = Packet::empty(&state);
        packet.fill(self.failures(&state, vec![failed], LAST_LINES_OF_ONE, again).await?, PACKET_BYTES);
        Ok(Some(packet))
    }

    async fn failures(
        &self,
        run: &RunState,
        failed: Vec<TaskRun>,
        lines: usize,
        again: &str,
    ) -> Result<Vec<Failure>, RunsError> {
        let mut greens = self.greens(run.number, &failed).await?;
        let mut reports = Vec::new();
        for task in failed {
            let TaskState::Ended(verdict) = task.state else { continue };
            let Some(attempt) = task.attempts.last().cloned() else { continue };
            let place = run.place(&task.id).expect("it is a task of this run");
            let id = OutputId { run: run.number, task: place, attempt: attempt.number };
            let tests = self.tests_in(run, &task.id, attempt.number).await?;
            let green = greens.remove(&task.id);
            let again = format!("{again} --task {}", task.id);
            reports.push(Report { task: task.id, verdict, attempt, id, tests, green, lines, again });
        }
        let outputs = self.outputs().clone();
        let folder = outputs.folder(run.number);
        let made = tokio::task::spawn_blocking(move || {
            let files = Files::of(&folder);
            reports.into_iter().map(|report| report.failure(&outputs, files.as_ref())).collect()
        });
        Ok(joined(made.await).await)
    }

    /// The latest attempt of each task that passed in a run before this one.
    async fn greens(&self, run: RunNumber, tasks: &[TaskRun]) -> Result<BTreeMap<TaskId, Green>, RunsError> {
        let mut greens = BTreeMap::new();
        let mut events = 0;
        for before in self.page(Some(run), RUNS_BACK).await?.runs {
            if greens.len() == tasks.len() || events > EVENTS_BACK {
                break;
            }
            if before.tasks_passed == 0 {
                continue;
            }
            let state = match self.state(before.run).await {
                Ok(state) => state,
                // A run that is gone, or damaged, says nothing; this one has failed all the same.
                Err(error) => {
                    tracing::warn!("run {} is not compared with: {error}", before.run);
                    continue;
                }
            };
            events += state.last_seq.0;
            for task in tasks {
                let passed =
                    state.task(&task.id).filter(|task| task.state == TaskState::Ended(Verdict::Passed));
                let Some(attempt) = passed.map(|task| task.attempts.len() as u32) else { continue };
                let place = state.place(&task.id).expect("it is a task of this run");
                let output = self.outputs().path(OutputId { run: before.run, task: place, attempt });
                greens.entry(task.id.clone()).or_insert(Green { run: before.run, attempt, output });
            }
        }
        Ok(greens)
    }
}

/// What a failure is told from.
struct Report {
    task: TaskId,
    verdict: Verdict,
    attempt: Attempt,
    id: OutputId,
    tests: TestsView,
    green: Option<Green>,
    /// So many last lines.
    lines: usize,
    again: String,
}

impl Report {
    /// Waits for the disk.
    fn failure(self, outputs: &Outputs, files: Option<&Files>) -> Failure {
        let TestsView { counts, tests, .. } = &self.tests;
        let output = outputs.path(self.id);
        let problem = self.attempt.end.as_ref().and_then(|end| end.problem.as_ref());
        let at = problem.and_then(|problem| Some(format!("{}:{}", problem.file.as_ref()?, problem.line?)));
        let last_lines = match self.end(outputs, &output) {
            Ok(bytes) => terminal::shown_tail(&bytes, self.lines).iter().map(|line| cut(line)).collect(),
            Err(error) => vec![format!("(its output cannot be read: {error})")],
        };
        Failure {
            task: self.task,
            attempt: self.attempt.number,
            verdict: self.verdict,
            error: problem.map(|problem| one_line(problem.error.as_bytes())),
            hint: problem.and_then(|problem| Some(one_line(problem.hint.as_ref()?.as_bytes()))),
            at: at.map(|at| one_line(at.as_bytes())),
            notes: self.tests.notes.iter().take(NOTES).map(|note| one_line(note.as_bytes())).collect(),
            tests: (*counts != TestCounts::default()).then_some(*counts),
            failed_tests: failed_tests(tests, &self.attempt, files),
            first_new_line: self.green.as_ref().and_then(|green| new_line(&output, green)),
            changes: self.green.as_ref().and_then(|green| changes(files?, green, outputs)),
            last_lines,
            again: self.again,
        }
    }

    /// The end of what the step printed that decided the verdict. Where no step did, or it printed nothing: of all.
    fn end(&self, outputs: &Outputs, output: &Path) -> io::Result<Vec<u8>> {
        let decided = self.attempt.steps.iter().rev().find(|step| match &step.state {
            StepState::Ended(end) => end.verdict == self.verdict,
            StepState::Asked
            | StepState::Queued
            | StepState::Preparing { .. }
            | StepState::Running { .. } => false,
        });
        if let Some(step) = decided {
            let end = outputs.end_of_step(self.id, &step.id)?;
            if !end.trim_ascii().is_empty() {
                return Ok(end);
            }
        }
        end_of(output)
    }
}

fn changes(files: &Files, green: &Green, outputs: &Outputs) -> Option<ChangedFiles> {
    let before = Files::of(&outputs.folder(green.run))?;
    let found = source::changes(files, &before)?;
    Some(ChangedFiles { green_run: green.run, green_attempt: green.attempt, ..found })
}

fn failed_tests(tests: &[TestView], attempt: &Attempt, files: Option<&Files>) -> Vec<FailedTest> {
    let failed = tests.iter().filter(|test| test.test.outcome.is_bad()).take(TESTS_TOLD);
    let failed: Vec<&TestView> = failed.collect();
    let mut at: Vec<String> =
        attempt.steps.iter().filter_map(|step| Some(step.spec.source.as_ref()?.at.clone())).collect();
    at.dedup();
    let stacks: Vec<Option<&str>> = failed.iter().map(|test| test.test.stack.as_deref()).collect();
    let places = files.filter(|_| !at.is_empty()).map(|files| source::places(files, &at, &stacks));
    let mut places = places.unwrap_or_default().into_iter();
    let told = failed.into_iter().map(|test| FailedTest {
        name: one_line(test.test.name.as_bytes()),
        flaky: test.flaky,
        message: (test.test)
            .message
            .iter()
            .flat_map(|message| {
                let lines = terminal::shown_tail(message.as_bytes(), usize::MAX);
                lines.into_iter().take(MESSAGE_LINES).map(|line| cut(&line))
            })
            .collect(),
        frames: places.next().unwrap_or_default(),
    });
    told.collect()
}

fn new_line(output: &Path, green: &Green) -> Option<NewLine> {
    match compare::first_new_line(output, &green.output) {
        Ok(found) => found.map(|found| NewLine {
            line: found.line,
            text: one_line(&found.text),
            green: found.green.map(|line| one_line(&line)),
            green_run: green.run,
            green_attempt: green.attempt,
        }),
        Err(error) => {
            tracing::warn!("{} is not compared with a green one: {error}", output.display());
            None
        }
    }
}

fn one_line(text: &[u8]) -> String {
    cut(&terminal::shown_tail(text, usize::MAX).join(" "))
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.trim_end().to_owned(),
    }
}
