//! Tests, as the runner inside a step told of them: what pytest, cargo or node wrote about each, not what bettertest
//! makes of it. A verdict is never made better by it: exit codes decide, and this says what there was to it.

use serde::{Deserialize, Serialize};

use crate::{RunNumber, TaskId};

/// One test of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TestResult {
    /// As its runner calls it: `tests/test_a.py::test_b`, `store::tests::reads`, `suite > case`.
    pub name: String,
    pub outcome: TestOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// The failure in a line or a few, as far as the runner gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the runner showed of where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
}

/// From worst to harmless, as lists of tests are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TestOutcome {
    Failed,
    /// It could not be run: a fixture, an import, its setup.
    Errored,
    /// Also one that was expected to fail, and did.
    Skipped,
    Passed,
}

impl TestOutcome {
    pub fn word(self) -> &'static str {
        match self {
            TestOutcome::Failed => "failed",
            TestOutcome::Errored => "errored",
            TestOutcome::Skipped => "skipped",
            TestOutcome::Passed => "passed",
        }
    }

    /// Whether it is among what somebody has to mend.
    pub fn is_bad(self) -> bool {
        match self {
            TestOutcome::Failed | TestOutcome::Errored => true,
            TestOutcome::Skipped | TestOutcome::Passed => false,
        }
    }
}

/// How many tests of an attempt ended how. Errored ones count as failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TestCounts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// So many of these, whatever they came to here, had both outcomes on one source by then. No runner knows that.
    #[serde(default, skip_serializing_if = "is_none")]
    pub flaky: u64,
}

fn is_none(number: &u64) -> bool {
    *number == 0
}

impl TestCounts {
    pub fn count(&mut self, outcome: TestOutcome, number: u64) {
        let place = match outcome {
            TestOutcome::Passed => &mut self.passed,
            TestOutcome::Failed | TestOutcome::Errored => &mut self.failed,
            TestOutcome::Skipped => &mut self.skipped,
        };
        *place = place.saturating_add(number);
    }

    pub fn total(&self) -> u64 {
        self.passed.saturating_add(self.failed).saturating_add(self.skipped)
    }

    pub fn add(&mut self, more: TestCounts) {
        self.passed = self.passed.saturating_add(more.passed);
        self.failed = self.failed.saturating_add(more.failed);
        self.skipped = self.skipped.saturating_add(more.skipped);
        self.flaky = self.flaky.saturating_add(more.flaky);
    }

    /// Worst first, without what there is none of: `1 failed, 2 skipped, 12 passed`; with `, 1 flaky` behind it.
    pub fn words(&self) -> String {
        let parts = [
            (self.failed, "failed"),
            (self.skipped, "skipped"),
            (self.passed, "passed"),
            (self.flaky, "flaky"),
        ];
        let parts: Vec<_> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        if parts.is_empty() { "no tests".into() } else { parts.join(", ") }
    }
}

/// `GET /api/runs/{n}/tasks/{task}/tests`: the tests of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TestsView {
    pub run: RunNumber,
    pub task: TaskId,
    pub attempt: u32,
    /// As their runners count. There may be more than `tests` has: many runners do not name what passed.
    pub counts: TestCounts,
    /// The worst first, else in the order in which they were told of.
    pub tests: Vec<TestView>,
    /// So many more had a name, and are only counted.
    pub omitted: u64,
    /// Why this may not be all, such as a report that was asked for and could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TestView {
    #[serde(flatten)]
    pub test: TestResult,
    /// It had both outcomes, passed and not, on the source that this attempt ran on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flaky: bool,
}

/// `GET /api/tests`: how one test came out, in the latest attempts that had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TestHistory {
    pub task: TaskId,
    pub name: String,
    /// It had both outcomes on one source.
    pub flaky: bool,
    /// Where its latest failures began: it passed before that, or was not there.
    pub first_failed: Option<TestRun>,
    pub last_passed: Option<TestRun>,
    /// Of `runs`. How many are flaky is 0 or 1 here.
    pub counts: TestCounts,
    /// Of 100 times that it was not skipped, it failed so often; null where it always was.
    pub failed_percent: Option<u64>,
    /// The latest first.
    pub runs: Vec<TestRun>,
}

/// One of the times that a test was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TestRun {
    pub run: RunNumber,
    pub attempt: u32,
    pub outcome: TestOutcome,
    pub took_ms: Option<u64>,
    /// When the attempt ended.
    pub at_ms: u64,
    /// Without most of the other tests of its task.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_some: bool,
    /// Of a run that has a source: what was checked out, and which files it was in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
}
