//! The answer to "what failed, and why?": of each task that did not pass the little that tells it, small enough to be
//! read as a whole, the same in the terminal, on the page and for programs. Whoever wants more asks for the output.
//!
//! Made from a run that stands still, it is the same whenever it is asked for. What projects wrote stands in it as text
//! in which nothing hides: no character that a terminal obeys, none that is not seen.

use serde::{Deserialize, Serialize};

use crate::{Phase, RunNumber, RunState, TaskId, TaskRun, TaskState, TestCounts, Verdict};

/// What a packet takes at most, as JSON.
pub const PACKET_BYTES: usize = 6 * 1024;

/// Less than that tells nothing of a task.
const LEAST_BYTES: usize = 700;

/// What is left of the error of a failure for which there is little room.
const ERROR_CHARS: usize = 100;

/// Of so many tests that failed in one task a packet tells at most.
pub const TESTS_TOLD: usize = 20;

/// Of so many files that changed since a task passed the names are told at most.
pub const CHANGES_TOLD: usize = 20;

/// So few are told of a failure for which there is little room.
const FEW_CHANGES: u64 = 3;
const FEW_FRAMES: usize = 2;

/// So many failures are told where each is short; after that nobody reads on.
pub const TOLD: usize = 10;

/// What did not pass in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Packet {
    pub run: RunNumber,
    /// Null while it is running.
    #[serde(flatten)]
    pub verdict: Option<Verdict>,
    /// The verdict in words, such as `failed: command_failed (3 of 14 tasks)`.
    pub headline: String,
    /// The worst first.
    pub failures: Vec<Failure>,
    /// Failed too, and left out here.
    pub more_failures: usize,
    /// Cancelled, or never started: whether these pass is not known.
    pub not_run: usize,
}

/// Why the latest attempt of a task did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    pub task: TaskId,
    pub attempt: u32,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What happened, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Where in the pipedef, as `file:line`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// What else is to be known of what it left, such as a report that was asked for and is not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How its tests ended, as the test runners in it counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestCounts>,
    /// Tests that failed, by name; `tests` counts those that are not told of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_tests: Vec<FailedTest>,
    /// Where its output leaves that of the last attempt which passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_new_line: Option<NewLine>,
    /// The files of its source that are not as they were then; not told where either source is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<ChangedFiles>,
    /// The end of what the step printed that decided it, else of all output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
    /// The command that runs it again, on the files as they are then.
    pub again: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FailedTest {
    /// As its runner calls it.
    pub name: String,
    /// What was wrong, line by line; empty where the runner does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub message: Vec<String>,
    /// It has passed on this very source, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flaky: bool,
    /// Where in the source it failed, as `file:line in function`, the innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<String>,
}

/// What has become of the files of a source between the last attempt of a task that passed and this one, by bytes and
/// mode. None of it: the files are the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChangedFiles {
    /// The run that is compared with, and the attempt in it.
    pub green_run: RunNumber,
    pub green_attempt: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
    /// So many more are not named.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl ChangedFiles {
    pub fn named(&self) -> u64 {
        (self.changed.len() + self.added.len() + self.deleted.len()) as u64
    }

    /// Names one fewer, of those of which there are most; answers which.
    fn forget_one(&mut self) -> Option<String> {
        let lists = [&mut self.changed, &mut self.added, &mut self.deleted];
        let longest = lists.into_iter().rev().max_by_key(|list| list.len())?;
        let forgotten = longest.pop()?;
        self.more += 1;
        Some(forgotten)
    }
}

/// The first line of an output that the last green one of the same task does not have: numbers, times, addresses and
/// temporary paths count as equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewLine {
    /// Counted from 1.
    pub line: u64,
    pub text: String,
    /// What followed the same line before it in the green one, where that is one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub green: Option<String>,
    /// The run that is compared with, and the attempt in it.
    pub green_run: RunNumber,
    pub green_attempt: u32,
}

impl Packet {
    /// Of a run, with nothing told of its failures yet.
    pub fn empty(run: &RunState) -> Packet {
        let verdict = match run.phase {
            Phase::Ended(verdict) => Some(verdict),
            Phase::Running | Phase::Unborn => None,
        };
        Packet {
            run: run.number,
            verdict,
            headline: crate::headline(run),
            failures: Vec::new(),
            more_failures: failed(run).len(),
            not_run: run.not_passed().len() - failed(run).len(),
        }
    }

    /// Takes in what there is room for. A failure that is too long loses the first of its last lines.
    pub fn fill(&mut self, failures: Vec<Failure>, cap_bytes: usize) {
        let mut left = cap_bytes.saturating_sub(self.size_bytes());
        let mut to_come = failures.len();
        for mut failure in failures {
            let share = (left / to_come).max(LEAST_BYTES).min(left);
            failure.shorten(share);
            // And a comma.
            let size = failure.size_bytes() + 1;
            if size > left {
                return;
            }
            left -= size;
            to_come -= 1;
            self.failures.push(failure);
            self.more_failures = self.more_failures.saturating_sub(1);
        }
    }

    pub fn size_bytes(&self) -> usize {
        json_bytes(self)
    }
}

impl Failure {
    pub fn size_bytes(&self) -> usize {
        json_bytes(self)
    }

    /// Less and less of it, until it is no more than that or nothing is left that can be spared.
    fn shorten(&mut self, size_bytes: usize) {
        let mut over = self.size_bytes().saturating_sub(size_bytes);
        let mut gone = 0;
        while over > 0 && gone + 1 < self.last_lines.len() {
            over = over.saturating_sub(json_bytes(&self.last_lines[gone]) + 1);
            gone += 1;
        }
        self.last_lines.drain(..gone);
        for test in self.failed_tests.iter_mut().rev() {
            while over > 0 && test.frames.len() > FEW_FRAMES {
                over = over.saturating_sub(test.frames.pop().map_or(0, |frame| json_bytes(&frame) + 1));
            }
        }
        if let Some(changes) = &mut self.changes {
            while over > 0 && changes.named() > FEW_CHANGES {
                over = over.saturating_sub(changes.forget_one().map_or(0, |path| json_bytes(&path) + 1));
            }
        }
        // A name alone says more of a test than the whole message of another.
        for test in self.failed_tests.iter_mut().rev() {
            while over > 0 && test.message.len() > 1 {
                over = over.saturating_sub(test.message.pop().map_or(0, |line| json_bytes(&line) + 1));
            }
        }
        while over > 0 && self.failed_tests.len() > 1 {
            over = over.saturating_sub(self.failed_tests.pop().map_or(0, |test| json_bytes(&test) + 1));
        }
        // It may name a long command, of which the pipedef has the rest.
        if self.size_bytes() > size_bytes
            && let Some(error) = &mut self.error
            && let Some((end, _)) = error.char_indices().nth(ERROR_CHARS)
        {
            *error = format!("{}…", &error[..end]);
        }
        while self.size_bytes() > size_bytes
            && let Some(last) = self.last_lines.last_mut()
        {
            match last.char_indices().nth(last.chars().count() / 2) {
                Some((half, _)) if half > 8 => *last = format!("{}…", &last[..half]),
                Some(_) | None => self.last_lines.clear(),
            }
        }
        if self.size_bytes() > size_bytes {
            self.hint = None;
            self.notes.clear();
            self.changes = None;
            for test in &mut self.failed_tests {
                test.frames.clear();
            }
            if let Some(new) = &mut self.first_new_line {
                new.green = None;
            }
        }
    }
}

fn json_bytes(value: &impl Serialize) -> usize {
    serde_json::to_string(value).map_or(usize::MAX, |json| json.len())
}

/// The tasks whose latest attempt says that something is wrong, the worst first; what was cancelled says nothing.
pub fn failed(run: &RunState) -> Vec<&TaskRun> {
    let mut failed: Vec<(crate::Outcome, &TaskRun)> = (run.tasks())
        .filter_map(|task| match task.state {
            TaskState::Ended(verdict) => Some((verdict.outcome(), task)),
            TaskState::Pending | TaskState::Running | TaskState::Skipped(_) => None,
        })
        .filter(|(outcome, _)| !matches!(outcome, crate::Outcome::Passed | crate::Outcome::Cancelled))
        .collect();
    // Stable: of equally bad ones the order of the pipeline is kept.
    failed.sort_by_key(|(outcome, _)| std::cmp::Reverse(*outcome));
    failed.into_iter().map(|(_, task)| task).collect()
}
