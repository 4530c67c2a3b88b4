//! Tests, as the runner inside a step told of them: what pytest, cargo or node wrote about each, not what bettertest
//! makes of it. A verdict is never made better by it: exit codes decide, and this says what there was to it.

use serde::{Deserialize, Serialize};

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
    }

    /// Worst first, without what there is none of: `1 failed, 2 skipped, 12 passed`.
    pub fn words(&self) -> String {
        let parts = [(self.failed, "failed"), (self.skipped, "skipped"), (self.passed, "passed")];
        let parts: Vec<_> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        if parts.is_empty() { "no tests".into() } else { parts.join(", ") }
    }
}
