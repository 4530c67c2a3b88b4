//! What is read by people only: `node --test`, jest and vitest, whose lines begin with a mark each.

use super::found::{Block, Found, counted};
use crate::{TestCounts, TestOutcome};

#[derive(Debug, Clone, Default)]
pub(super) struct JavaScript {
    found: Found,
    /// The suites that a line is nested in, with how deep each stands.
    suites: Vec<(usize, String)>,
    /// Node's: counted at its end, line by line.
    node: Option<TestCounts>,
    /// Of which failure is told.
    name: Option<String>,
    block: Block,
    /// In the part at the end where failures are told once more.
    is_told_again: bool,
    /// jest has told of a file.
    is_jest: bool,
}

impl JavaScript {
    pub(super) fn line(&mut self, line: &str) {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if let Some(remark) = text.strip_prefix("ℹ ") {
            return self.node_counts(remark);
        }
        if let Some(name) = text.strip_prefix("● ").filter(|_| depth <= 2 && self.is_jest) {
            // jest, of a test that failed.
            self.end_block();
            self.name = Some(name.trim().replace(" › ", " > "));
        } else if let Some(name) = text.strip_prefix("FAIL ").filter(|name| name.contains(" > ")) {
            // vitest, of a test that failed; its list has named that, without its suites.
            self.end_block();
            let full = without_file(name.trim());
            let is_it = |listed: &str| full == listed || full.ends_with(&format!(" > {listed}"));
            self.name = self.found.name_where(is_it).or_else(|| Some(full.to_owned()));
        } else if text.starts_with("Tests: ") || text.starts_with("Tests  ") {
            self.end_block();
            self.closing(text["Tests".len()..].trim_start_matches([':', ' ']));
        } else if text.starts_with("No tests found, exiting with code")
            || text.starts_with("No test files found, exiting with code")
        {
            self.found.close(TestCounts::default());
        } else if text.starts_with("✖ failing tests:") {
            self.is_told_again = true;
        } else if let Some((outcome, rest)) = marked(text) {
            self.test(depth, outcome, rest);
        } else if self.name.is_some() {
            if text.starts_with("Test Suites:") || text.starts_with('⎯') {
                self.end_block();
            } else {
                self.block.line(line);
            }
        } else if let Some(suite) = text.strip_prefix("▶ ") {
            self.enter(depth, suite);
        } else if text.starts_with("PASS ") || text.starts_with("FAIL ") {
            self.suites.clear();
            self.is_jest = true;
        } else if depth >= 2 && !text.is_empty() && !text.starts_with("at ") {
            // jest's suites have no mark. Whatever else is indented has no test beneath it.
            self.enter(depth, text);
        }
    }

    fn enter(&mut self, depth: usize, suite: &str) {
        self.suites.retain(|(outer, _)| *outer < depth);
        if self.suites.len() < 50 {
            self.suites.push((depth, suite.trim_end().to_owned()));
        }
    }

    fn test(&mut self, depth: usize, outcome: TestOutcome, rest: &str) {
        self.end_block();
        let (name, took_ms) = timed(rest);
        let name = name.strip_prefix("skipped ").filter(|_| outcome == TestOutcome::Skipped).unwrap_or(name);
        let name = without_file(name);
        if self.is_told_again {
            // Node does not say again in which suites.
            let is_it = |full: &str| full == name || full.ends_with(&format!(" > {name}"));
            self.name = self.found.name_where(is_it);
            return;
        }
        // vitest says of a file how many tests it has.
        if name.trim_end().ends_with(" tests)")
            || name.trim_end().ends_with(" test)")
            || name.contains(" tests |")
        {
            self.suites.clear();
            return;
        }
        // The end of a suite looks like a test.
        self.suites.retain(|(outer, _)| *outer <= depth);
        if self.suites.last().is_some_and(|(outer, suite)| *outer == depth && suite == name) {
            self.suites.pop();
            return;
        }
        self.suites.retain(|(outer, _)| *outer < depth);
        let names: Vec<_> = self.suites.iter().map(|(_, suite)| suite.as_str()).chain([name]).collect();
        self.found.test(&names.join(" > "), outcome, took_ms);
    }

    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        let Some(name) = self.name.take() else { return };
        // jest prints what was received and expected with empty lines between.
        let lines = block.text().lines().take_while(|line| {
            let text = line.trim_start();
            !text.starts_with("at ") && !text.starts_with("❯ ") && !is_code(text)
        });
        let message: Vec<_> = lines.map(str::trim).filter(|line| !line.is_empty()).take(12).collect();
        self.found.failure(&name, Some(&message.join("\n")), Some(block.text()));
    }

    fn node_counts(&mut self, remark: &str) {
        let Some((word, number)) = remark.split_once(' ') else { return };
        let Ok(number) = number.parse() else { return };
        let outcome = match word {
            "tests" => {
                self.node.get_or_insert_default();
                return;
            }
            "pass" => TestOutcome::Passed,
            "fail" | "cancelled" => TestOutcome::Failed,
            "skipped" | "todo" => TestOutcome::Skipped,
            _ => return,
        };
        if let Some(counts) = &mut self.node {
            counts.count(outcome, number);
        }
    }

    /// jest: `1 failed, 2 passed, 3 total`; vitest: `1 failed | 2 passed (3)`.
    fn closing(&mut self, text: &str) {
        let mut counts = TestCounts::default();
        let text = text.rsplit_once(" (").map_or(text, |(text, _)| text);
        for part in text.split([',', '|']) {
            match counted(part) {
                Some((number, "passed")) => counts.count(TestOutcome::Passed, number),
                Some((number, "failed")) => counts.count(TestOutcome::Failed, number),
                Some((number, "skipped" | "todo" | "pending")) => counts.count(TestOutcome::Skipped, number),
                Some((_, "total")) => {}
                Some(_) | None => return,
            }
        }
        self.found.close(counts);
    }

    pub(super) fn finish(mut self) -> Found {
        self.end_block();
        if let Some(counts) = self.node {
            self.found.close(counts);
        }
        self.found
    }
}

fn marked(text: &str) -> Option<(TestOutcome, &str)> {
    let mut letters = text.chars();
    let outcome = match letters.next()? {
        '✓' | '✔' | '√' => TestOutcome::Passed,
        '✕' | '✖' | '×' => TestOutcome::Failed,
        '○' | '﹣' | '↓' => TestOutcome::Skipped,
        _ => return None,
    };
    Some((outcome, letters.as_str().strip_prefix(' ')?))
}

/// vitest begins a name with that of the file, `src/a.test.ts > suite > test`.
fn without_file(name: &str) -> &str {
    let parts = name.split_once(" > ").filter(|(file, _)| file.contains('.') && !file.contains(' '));
    parts.map_or(name, |(_, rest)| rest)
}

/// `name (3 ms)`, `name (0.5ms)`, `name 3ms`.
fn timed(text: &str) -> (&str, Option<u64>) {
    let text = text.trim_end();
    // Node says behind it why it skips one.
    let text = text.rsplit_once(" # ").map_or(text, |(text, _)| text.trim_end());
    let Some((name, took)) = text.rsplit_once(" (").or_else(|| text.rsplit_once(' ')) else {
        return (text, None);
    };
    let took = took.trim_end_matches(')');
    let number = match took.strip_suffix("ms") {
        Some(ms) => ms.trim().parse::<f64>().ok(),
        None => took.strip_suffix('s').and_then(|s| s.trim().parse::<f64>().ok()).map(|s| s * 1000.0),
    };
    match number.filter(|ms| (0.0..1e12).contains(ms)) {
        Some(ms) => (name.trim_end(), Some(ms.round() as u64)),
        None => (text, None),
    }
}

/// `> 5 |  expect(...)` and its neighbours.
fn is_code(text: &str) -> bool {
    let text = text.trim_start_matches("> ");
    text.split_once('|').is_some_and(|(number, _)| number.trim().parse::<u32>().is_ok())
}
