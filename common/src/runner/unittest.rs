//! Python's unittest, also as Django runs it. What passed has a name with `-v` only.

use super::found::{Block, Found};
use crate::{TestCounts, TestOutcome};

#[derive(Debug, Clone, Default)]
pub(super) struct Unittest {
    found: Found,
    /// A name whose outcome stands on the next line, behind its docstring.
    described: Option<String>,
    part: Part,
    name: Option<(String, TestOutcome)>,
    block: Block,
    ran: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum Part {
    #[default]
    Other,
    /// After `=====`: the next line says which test.
    Title,
    /// Up to `-----`: its docstring.
    Head,
    Stack,
}

impl Unittest {
    pub(super) fn line(&mut self, line: &str) {
        if is_rule(line, '=') {
            self.end_block();
            self.part = Part::Title;
            return;
        }
        if let Some(total) = line.strip_prefix("Ran ").and_then(total_of) {
            self.end_block();
            self.part = Part::Other;
            self.ran = Some(total);
            return;
        }
        match self.part {
            Part::Title => {
                let named = line.split_once(": ").and_then(|(word, rest)| Some((rest, outcome_of(word)?)));
                self.name = named
                    .filter(|(_, outcome)| outcome.is_bad())
                    .map(|(text, outcome)| (name_of(text), outcome));
                self.part = if self.name.is_some() { Part::Head } else { Part::Other };
            }
            Part::Head if is_rule(line, '-') => self.part = Part::Stack,
            Part::Head => {}
            Part::Stack if is_rule(line, '-') => self.end_block(),
            Part::Stack => self.block.line(line),
            Part::Other => self.other(line),
        }
    }

    fn other(&mut self, line: &str) {
        if let Some(total) = self.ran {
            if let Some(counts) = closing(line, total) {
                self.ran = None;
                self.found.close(counts);
            }
            return;
        }
        let (before, said) = match line.rsplit_once(" ... ") {
            Some((before, said)) => (before, Some(said)),
            None => (line, None),
        };
        let own = is_name(before).then(|| name_of(before));
        match said.and_then(outcome_of) {
            Some(outcome) => {
                if let Some(name) = own.or_else(|| self.described.take()) {
                    self.found.test(&name, outcome, None);
                }
                self.described = None;
            }
            None => self.described = own.or_else(|| self.described.take().filter(|_| said.is_some())),
        }
    }

    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.part = Part::Other;
        let Some((name, outcome)) = self.name.take() else { return };
        // Behind the last frame stands what was raised.
        let mut message: Option<String> = None;
        for line in block.text().lines() {
            if line.starts_with(' ') || line.starts_with("Traceback ") {
                if line.starts_with("  File ") || line.starts_with("Traceback ") {
                    message = None;
                }
            } else if let Some(message) = &mut message {
                message.push_str(&format!("\n{line}"));
            } else if !line.is_empty() {
                message = Some(line.to_owned());
            }
        }
        self.found.test(&name, outcome, None);
        self.found.failure(&name, message.as_deref(), Some(block.text()));
    }

    pub(super) fn finish(mut self) -> Found {
        self.end_block();
        if let Some(total) = self.ran {
            self.found.close(TestCounts { passed: total, ..TestCounts::default() });
        }
        self.found
    }
}

fn is_rule(line: &str, of: char) -> bool {
    line.len() == 70 && line.chars().all(|letter| letter == of)
}

fn total_of(rest: &str) -> Option<u64> {
    let (number, rest) = rest.split_once(' ')?;
    (rest.starts_with("test in ") || rest.starts_with("tests in ")).then(|| number.parse().ok())?
}

/// `test_x (package.module.Class.test_x)`, before Python 3.11 without the name at its end.
fn is_name(text: &str) -> bool {
    let parts = text.split_once(" (").and_then(|(name, rest)| Some((name, rest.split_once(')')?.0)));
    let is_word = |word: &str| !word.is_empty() && !word.contains(char::is_whitespace);
    parts.is_some_and(|(name, path)| is_word(name) && is_word(path) && path.contains('.'))
}

fn name_of(text: &str) -> String {
    let Some((name, rest)) = text.split_once(" (") else { return text.to_owned() };
    let Some((path, more)) = rest.split_once(')') else { return text.to_owned() };
    let full = if path.ends_with(&format!(".{name}")) || !path.contains('.') && name != path {
        path.to_owned()
    } else {
        format!("{path}.{name}")
    };
    // A subtest says in brackets which.
    format!("{full}{}", more.trim_end())
}

fn outcome_of(said: &str) -> Option<TestOutcome> {
    match said.trim() {
        "ok" | "unexpected success" => Some(TestOutcome::Passed),
        "FAIL" => Some(TestOutcome::Failed),
        "ERROR" => Some(TestOutcome::Errored),
        "expected failure" => Some(TestOutcome::Skipped),
        said if said.starts_with("skipped") => Some(TestOutcome::Skipped),
        _ => None,
    }
}

/// `OK (skipped=1)`, `FAILED (failures=1, errors=2)`, `NO TESTS RAN`.
fn closing(line: &str, total: u64) -> Option<TestCounts> {
    let rest = ["OK", "FAILED", "NO TESTS RAN"].iter().find_map(|word| line.strip_prefix(word))?;
    let mut counts = TestCounts::default();
    let details = rest.trim().trim_start_matches('(').trim_end_matches(')');
    for part in details.split(", ").filter(|part| !part.is_empty()) {
        let (what, number) = part.split_once('=')?;
        let number = number.parse().ok()?;
        match what {
            "failures" | "errors" | "unexpected successes" => counts.count(TestOutcome::Failed, number),
            "skipped" | "expected failures" => counts.count(TestOutcome::Skipped, number),
            _ => return None,
        }
    }
    counts.passed = total.saturating_sub(counts.failed + counts.skipped);
    Some(counts)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_is_told_in_two_ways() {
        for said in ["test_x (m.C.test_x)", "test_x (m.C)"] {
            assert!(super::is_name(said));
            assert_eq!(super::name_of(said), "m.C.test_x");
        }
        assert_eq!(super::name_of("test_x (m.C.test_x) (i=1)"), "m.C.test_x (i=1)");
    }
}
