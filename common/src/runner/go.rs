//! `go test`, plain, `-v` and `-json`. Without `-v` it names what failed, and does not say how many passed.

use serde::Deserialize;
use std::collections::HashMap;

use super::found::{Block, Found, seconds_as_ms};
use crate::{TestCounts, TestOutcome};

#[derive(Debug, Clone, Default)]
pub(super) struct Go {
    found: Found,
    /// Told of, but not yet of which package.
    told: Vec<(String, TestOutcome, Option<u64>, Block)>,
    /// By -v: what each test has printed, and which one speaks now.
    spoken: HashMap<String, Block>,
    speaker: Option<String>,
    /// By -json: what each test that runs has printed.
    printed: HashMap<(String, String), Block>,
    counts: TestCounts,
}

/// More tests than this at once are not told apart.
const MOST_AT_ONCE: usize = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    action: String,
    package: String,
    test: Option<String>,
    elapsed: Option<f64>,
    output: Option<String>,
}

impl Go {
    pub(super) fn line(&mut self, line: &str) {
        if line.starts_with("{\"") && line.contains("\"Action\":") {
            if let Ok(event) = serde_json::from_str(line) {
                self.event(event);
            }
            return;
        }
        let text = line.trim_start();
        if let Some(rest) = text.strip_prefix("--- ") {
            let Some((word, rest)) = rest.split_once(": ") else { return };
            let Some(outcome) = outcome_of(word) else { return };
            let Some((name, took)) = rest.rsplit_once(" (") else { return };
            if self.told.len() < MOST_AT_ONCE {
                let took = seconds_as_ms(took.trim_end_matches(')'));
                self.speaker = None;
                let said = self.spoken.remove(name);
                self.told.push((name.to_owned(), outcome, took, said.unwrap_or_default()));
            }
        } else if let Some(rest) =
            ["=== RUN   ", "=== CONT  ", "=== NAME  "].iter().find_map(|at| line.strip_prefix(at))
        {
            self.speaker = (self.spoken.len() < MOST_AT_ONCE).then(|| rest.to_owned());
        } else if let Some(rest) = line.strip_prefix("ok  \t").or_else(|| line.strip_prefix("FAIL\t")) {
            let package = rest.split(['\t', ' ']).next().unwrap_or(rest);
            self.package(package, line.contains("[no tests to run]"), line.contains("[build failed]"));
        } else if line.starts_with("?   \t") && line.ends_with("[no test files]") {
            self.found.close(TestCounts::default());
        } else if let Some(name) = &self.speaker {
            self.spoken.entry(name.clone()).or_default().line(text);
        } else if line.starts_with("    ")
            && let Some((_, _, _, said)) = self.told.last_mut()
        {
            said.line(text);
        }
    }

    fn package(&mut self, package: &str, has_none: bool, is_broken: bool) {
        let mut counts = TestCounts::default();
        let told = std::mem::take(&mut self.told);
        (self.spoken, self.speaker) = (HashMap::new(), None);
        if told.is_empty() && !has_none {
            self.found.ran_uncounted = true;
        }
        if is_broken {
            self.found.failure(package, Some("it cannot be built"), None);
            counts.count(TestOutcome::Failed, 1);
        }
        for (name, outcome, took_ms, said) in told {
            let name = format!("{package}.{name}");
            self.found.test(&name, outcome, took_ms);
            counts.count(outcome, 1);
            if outcome == TestOutcome::Failed {
                self.found.failure(&name, said.text().lines().next(), Some(said.text()));
            }
        }
        self.found.close(counts);
    }

    fn event(&mut self, event: Event) {
        let Event { action, package, test, elapsed, output } = event;
        let Some(test) = test else {
            // Not every package that ends was told of: `start` and `output` come before.
            match action.as_str() {
                "pass" | "fail" | "skip" => self.found.close(std::mem::take(&mut self.counts)),
                _ => {}
            }
            return;
        };
        let key = (package, test);
        if let Some(text) = output.filter(|_| action == "output") {
            if self.printed.len() < MOST_AT_ONCE
                && !text.starts_with("=== ")
                && !text.trim_start().starts_with("--- ")
            {
                self.printed.entry(key).or_default().line(text.trim_end_matches('\n'));
            }
            return;
        }
        let outcome = match action.as_str() {
            "pass" => TestOutcome::Passed,
            "fail" => TestOutcome::Failed,
            "skip" => TestOutcome::Skipped,
            _ => return,
        };
        let name = format!("{}.{}", key.0, key.1);
        self.found.test(&name, outcome, elapsed.and_then(|s| seconds_as_ms(&s.to_string())));
        self.counts.count(outcome, 1);
        let said = self.printed.remove(&key).unwrap_or_default();
        if outcome == TestOutcome::Failed {
            self.found.failure(&name, said.text().lines().next(), Some(said.text()));
        }
    }

    pub(super) fn finish(mut self) -> Found {
        // The end was cut off.
        for (name, outcome, took_ms, _) in std::mem::take(&mut self.told) {
            self.found.test(&name, outcome, took_ms);
        }
        self.found
    }
}

fn outcome_of(word: &str) -> Option<TestOutcome> {
    match word {
        "PASS" => Some(TestOutcome::Passed),
        "FAIL" => Some(TestOutcome::Failed),
        "SKIP" => Some(TestOutcome::Skipped),
        _ => None,
    }
}
