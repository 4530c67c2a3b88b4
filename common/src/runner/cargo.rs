//! `cargo test` and `cargo nextest`.

use super::found::{Block, Found, counted, seconds_as_ms};
use crate::{TestCounts, TestOutcome};

#[derive(Debug, Clone, Default)]
pub(super) struct Cargo {
    found: Found,
    /// Between `running N tests` and `test result:`.
    is_open: bool,
    /// Whose output is being told.
    name: Option<String>,
    block: Block,
}

impl Cargo {
    pub(super) fn line(&mut self, line: &str) {
        if line
            .strip_prefix("running ")
            .is_some_and(|rest| counted(rest).is_some_and(|(_, what)| what == "tests" || what == "test"))
        {
            self.end_block();
            self.is_open = true;
            // The next binary may have tests of the same names.
            self.found.forget_names();
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.end_block();
            self.is_open = false;
            if let Some(counts) = closing(rest) {
                self.found.close(counts);
            }
        } else if self.is_open {
            self.inside(line);
        } else {
            self.nextest(line);
        }
    }

    fn inside(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            self.end_block();
            self.name = name.strip_suffix(" stdout").map(str::to_owned);
        } else if line == "failures:" || line == "successes:" {
            self.end_block();
        } else if self.name.is_some() {
            self.block.line(line);
        } else if let Some((name, said)) =
            line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        {
            let name = name.strip_suffix(" - should panic").unwrap_or(name);
            let (word, rest) = said.split_once([' ', ',']).unwrap_or((said, ""));
            let outcome = match word {
                "ok" => TestOutcome::Passed,
                "FAILED" => TestOutcome::Failed,
                "ignored" => TestOutcome::Skipped,
                _ => return,
            };
            let took = rest.trim().strip_prefix('<').and_then(|rest| seconds_as_ms(rest.strip_suffix('>')?));
            self.found.test(name, outcome, took);
        }
    }

    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        let Some(name) = self.name.take() else { return };
        let mut lines = block.text().lines().skip_while(|line| !line.contains(" panicked at "));
        let head = lines.next();
        let message: Vec<_> = lines
            .take_while(|line| !line.starts_with("note: ") && !line.starts_with("stack backtrace:"))
            .collect();
        let message = if message.is_empty() { head.map(str::to_owned) } else { Some(message.join("\n")) };
        self.found.failure(
            &name,
            message.as_deref().or_else(|| block.text().lines().next()),
            Some(block.text()),
        );
    }

    /// `        PASS [   0.005s] (1/3) crate::binary module::test`, and a `Summary` at the end.
    fn nextest(&mut self, line: &str) {
        let text = line.trim_start();
        let Some((word, rest)) = text.split_once(" [") else { return };
        let Some((took, name)) = rest.split_once("] ") else { return };
        let Some(took_ms) = seconds_as_ms(took) else { return };
        if word == "Summary" {
            let Some((_, parts)) = name.split_once(": ") else { return };
            let mut counts = TestCounts::default();
            for part in parts.split(", ") {
                let part = part.split(" (").next().unwrap_or(part);
                match counted(part) {
                    Some((number, "passed")) => counts.count(TestOutcome::Passed, number),
                    Some((number, "failed" | "timed out" | "exec failed")) => {
                        counts.count(TestOutcome::Failed, number)
                    }
                    Some((number, "skipped")) => counts.count(TestOutcome::Skipped, number),
                    Some(_) | None => {}
                }
            }
            // What a filter leaves out is "skipped" there, and did not run.
            if name.starts_with("0 tests run") {
                counts.skipped = 0;
            }
            self.found.close(counts);
            return;
        }
        let outcome = match word {
            "PASS" | "LEAK" | "SLOW" => TestOutcome::Passed,
            "FAIL" | "TIMEOUT" | "ABORT" => TestOutcome::Failed,
            word if word.starts_with("SIG") => TestOutcome::Failed,
            _ => return,
        };
        let name = name.trim_start();
        let name = match name.strip_prefix('(').and_then(|rest| rest.split_once(") ")) {
            Some((_, name)) => name,
            None => name,
        };
        if word != "SLOW" && name.contains(' ') {
            self.found.test(name, outcome, Some(took_ms));
        }
    }

    pub(super) fn finish(mut self) -> Found {
        self.end_block();
        self.found
    }
}

/// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`.
fn closing(rest: &str) -> Option<TestCounts> {
    let (_, parts) = rest.split_once(". ")?;
    let mut counts = TestCounts::default();
    for part in parts.split("; ") {
        match counted(part) {
            Some((number, "passed" | "measured")) => counts.count(TestOutcome::Passed, number),
            Some((number, "failed")) => counts.count(TestOutcome::Failed, number),
            Some((number, "ignored")) => counts.count(TestOutcome::Skipped, number),
            Some(_) | None => {}
        }
    }
    Some(counts)
}
