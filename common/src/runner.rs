//! Listens to what a step prints for what test runners tell in it: which tests there were, which failed and why.
//!
//! It is a stranger's text: any line may be a lie of the program under test. So nothing in here makes a task green, or
//! red green; it says what to show, and whether a runner itself says that it ran no test at all.

mod cargo;
mod found;
mod go;
mod javascript;
mod lines;
mod pytest;
mod tap;
mod unittest;

use serde::{Deserialize, Serialize};
use std::collections::HashSet;

use crate::{Stream, TestCounts, TestResult};
use found::Found;
pub(crate) use found::LONGEST_NAME;
use lines::Lines;

/// What is known of the tests of something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tests {
    /// As the runners count. There may be more than `results` has: many runners do not name what passed.
    pub counts: TestCounts,
    /// Failed ones first, else in the order in which they were told of.
    pub results: Vec<TestResult>,
    /// So many more had a name, and were left out.
    pub omitted: u64,
}

impl Tests {
    /// Of a list that a runner wrote of all its tests. What has a name twice is one test: that which went worse.
    pub fn listed(results: impl IntoIterator<Item = TestResult>) -> Tests {
        let mut found = Found::default();
        for result in results {
            found.test(&result.name, result.outcome, result.took_ms);
            if result.outcome.is_bad() {
                found.failure(&result.name, result.message.as_deref(), result.stack.as_deref());
            }
        }
        found.tests()
    }

    /// What is listed, where the same step was also `heard`. The list is exact, so that of a test that both know it alone is
    /// believed. More tests were heard than are listed where a second runner wrote its list over the first one's.
    pub fn rather_than(mut self, heard: Tests) -> Tests {
        if heard.counts.total() <= self.counts.total() {
            return self;
        }
        let listed: HashSet<&str> = self.results.iter().map(|result| result.name.as_str()).collect();
        let (more, _): (Vec<_>, Vec<_>) =
            heard.results.into_iter().partition(|result| !listed.contains(result.name.as_str()));
        self.results.extend(more);
        self.results.sort_by_key(|result| !result.outcome.is_bad());
        self.omitted += heard.omitted;
        Tests { counts: heard.counts, ..self }
    }

    pub fn and(mut self, more: Tests) -> Tests {
        self.counts.add(more.counts);
        self.results.extend(more.results);
        self.results.sort_by_key(|result| !result.outcome.is_bad());
        self.omitted += more.omitted;
        self
    }
}

/// Listens to what one step prints, bytes as they come. A copy of it can be finished while it goes on.
#[derive(Debug, Clone, Default)]
pub struct TestListener {
    stdout: Lines,
    stderr: Lines,
    runners: Runners,
}

#[derive(Debug, Clone, Default)]
struct Runners {
    pytest: pytest::Pytest,
    unittest: unittest::Unittest,
    cargo: cargo::Cargo,
    go: go::Go,
    javascript: javascript::JavaScript,
    tap: tap::Tap,
}

/// What ran tests, as far as it matters for how it is asked for some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    Pytest,
    Unittest,
    /// Also nextest.
    Cargo,
    Go,
    /// `node --test`, jest and vitest.
    Javascript,
    Tap,
}

/// What one step's output told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepTests {
    pub tests: Tests,
    /// Which runner named the tests; None where none did, or several.
    pub runner: Option<Runner>,
    /// A test runner spoke, and by its own count it ran, and skipped, nothing.
    pub ran_none: bool,
}

impl TestListener {
    pub fn hear(&mut self, stream: Stream, bytes: &[u8]) {
        let lines = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            // No test runner's.
            Stream::Pipedef => return,
        };
        lines.take(bytes, |line| self.runners.line(line));
    }

    pub fn finish(mut self) -> StepTests {
        for lines in [&mut self.stdout, &mut self.stderr] {
            lines.end(|line| self.runners.line(line));
        }
        let Runners { pytest, unittest, cargo, go, javascript, tap } = self.runners;
        let (runners, found): (Vec<Runner>, Vec<Found>) = [
            (Runner::Pytest, pytest.finish()),
            (Runner::Unittest, unittest.finish()),
            (Runner::Cargo, cargo.finish()),
            (Runner::Go, go.finish()),
            (Runner::Javascript, javascript.finish()),
            (Runner::Tap, tap.finish()),
        ]
        .into_iter()
        .unzip();
        let mut naming = runners.into_iter().zip(&found).filter(|(_, found)| found.has_named());
        let runner = match (naming.next(), naming.next()) {
            (Some((runner, _)), None) => Some(runner),
            (Some(_), Some(_)) | (None, _) => None,
        };
        let has_spoken = found.iter().any(|found| found.has_closed);
        let has_run = found.iter().any(|found| found.ran_uncounted);
        let tests = found.into_iter().map(Found::tests).fold(Tests::default(), Tests::and);
        let ran_none =
            has_spoken && !has_run && tests.counts == TestCounts::default() && tests.results.is_empty();
        StepTests { tests, runner, ran_none }
    }
}

impl Runners {
    fn line(&mut self, line: &str) {
        self.pytest.line(line);
        self.unittest.line(line);
        self.cargo.line(line);
        self.go.line(line);
        self.javascript.line(line);
        self.tap.line(line);
    }
}
