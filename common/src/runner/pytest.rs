//! pytest, with and without `-v` and `-q`, and by xdist. What passed has a name with `-v` only.

use super::found::{Block, Found, counted};
use crate::{TestCounts, TestOutcome};

#[derive(Debug, Clone, Default)]
pub(super) struct Pytest {
    found: Found,
    part: Part,
    title: Option<String>,
    block: Block,
    /// Of FAILURES and ERRORS: the block's title, what it says, its message.
    blocks: Vec<(String, String, Option<String>)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum Part {
    #[default]
    Other,
    Failures,
    Summary,
}

/// One whose failures are told at such length has more of them than anybody reads.
const MOST_BLOCKS: usize = 1_000;

impl Pytest {
    pub(super) fn line(&mut self, line: &str) {
        if let Some(inner) = banner(line) {
            self.end_block();
            self.part = match inner {
                "FAILURES" | "ERRORS" => Part::Failures,
                "short test summary info" => Part::Summary,
                _ => Part::Other,
            };
            if let Some(counts) = closing(inner) {
                self.close(counts);
            }
            return;
        }
        if let Some(counts) = closing(line) {
            self.end_block();
            self.close(counts);
            self.part = Part::Other;
            return;
        }
        match self.part {
            Part::Failures => match title_of(line) {
                Some(title) => {
                    self.end_block();
                    self.title = Some(title.to_owned());
                }
                None => self.block.line(line),
            },
            Part::Summary => self.summary(line),
            Part::Other => self.progress(line),
        }
    }

    /// `test_a.py::test_x PASSED [ 50%]`, or by xdist `[gw0] [ 50%] PASSED test_a.py::test_x`.
    fn progress(&mut self, line: &str) {
        let Some(at) = line.find("::") else { return };
        const WORDS: [(&str, TestOutcome); 6] = [
            ("PASSED", TestOutcome::Passed),
            ("FAILED", TestOutcome::Failed),
            ("ERROR", TestOutcome::Errored),
            ("SKIPPED", TestOutcome::Skipped),
            ("XFAIL", TestOutcome::Skipped),
            ("XPASS", TestOutcome::Passed),
        ];
        if line.starts_with("[gw") {
            let Some((_, rest)) = line.split_once("%] ") else { return };
            let Some((word, name)) = rest.split_once(' ') else { return };
            if let Some((_, outcome)) = WORDS.iter().find(|(known, _)| *known == word) {
                self.found.test(name, *outcome, None);
            }
            return;
        }
        // A parameter may hold any of these words, so that the last one counts.
        let told = WORDS.iter().filter_map(|(word, outcome)| {
            let place = line.rfind(&format!(" {word}"))?;
            let rest = line[place + 1 + word.len()..].trim();
            (place > at && (rest.is_empty() || rest.starts_with(['[', '(']))).then_some((place, *outcome))
        });
        if let Some((place, outcome)) = told.max_by_key(|(place, _)| *place)
            // So says cargo.
            && !line[..place].ends_with(" ...")
            && !line.starts_with(' ')
        {
            self.found.test(without_origin(&line[..place]), outcome, None);
        }
    }

    /// `FAILED test_a.py::test_x - assert 1 == 2`.
    fn summary(&mut self, line: &str) {
        let failed = line.strip_prefix("FAILED ").map(|rest| (TestOutcome::Failed, rest));
        let told = failed.or_else(|| Some((TestOutcome::Errored, line.strip_prefix("ERROR ")?)));
        let Some((outcome, rest)) = told else { return };
        let (name, message) = name_and_message(rest);
        let short = short_of(name);
        let said = self.blocks.iter().find(|(title, ..)| {
            let title = title.strip_prefix("ERROR at setup of ").unwrap_or(title);
            let title = title.strip_prefix("ERROR at teardown of ").unwrap_or(title);
            title == short || title.strip_prefix("ERROR collecting ") == Some(name)
        });
        let (stack, full) =
            said.map_or((None, None), |(_, stack, full)| (Some(stack.as_str()), full.as_deref()));
        self.found.test(name, outcome, None);
        self.found.failure(name, full.or(message), stack);
    }

    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        let Some(title) = self.title.take().filter(|_| self.blocks.len() < MOST_BLOCKS) else { return };
        let mut message = String::new();
        for line in block.text().lines() {
            match line.strip_prefix("E  ") {
                Some(text) => {
                    message.push_str(text.strip_prefix(' ').unwrap_or(text));
                    message.push('\n');
                }
                // Of several exceptions, one of which came of the other, the last one counts.
                None if line.starts_with("During handling of") => message.clear(),
                None => {}
            }
        }
        let message = (!message.is_empty()).then_some(message);
        self.blocks.push((title, block.text().to_owned(), message));
    }

    fn close(&mut self, counts: TestCounts) {
        self.found.close(counts);
        // Of a run without a summary.
        for (title, stack, message) in std::mem::take(&mut self.blocks) {
            let is_it = |name: &str| short_of(name) == title;
            if let Some(name) = self.found.name_where(is_it) {
                self.found.failure(&name, message.as_deref(), Some(&stack));
            }
        }
    }

    pub(super) fn finish(self) -> Found {
        self.found
    }
}

/// A parameter may have a dash of its own, so that the name of a test with parameters ends with its bracket.
fn name_and_message(rest: &str) -> (&str, Option<&str>) {
    let ends = |(at, _): &(usize, &str)| !rest[..*at].contains('[') || rest[..*at].ends_with(']');
    match rest.match_indices(" - ").find(ends) {
        Some((at, dash)) => (&rest[..at], Some(&rest[at + dash.len()..])),
        None => (rest, None),
    }
}

/// An inherited one is told with the file that it is from: `test_a.py::TestX::test_b <- base.py`.
fn without_origin(name: &str) -> &str {
    match name.rsplit_once(" <- ") {
        // In a parameter it may mean anything.
        Some((name, file)) if !file.contains([']', ' ']) => name,
        Some(_) | None => name,
    }
}

/// As a block of FAILURES is titled: without the file, classes by a point.
fn short_of(name: &str) -> String {
    name.split_once("::").map_or(name, |(_, short)| short).replace("::", ".")
}

fn banner(line: &str) -> Option<&str> {
    let inner = line.strip_prefix("===")?.strip_suffix("===")?.trim_matches('=').trim();
    (!inner.is_empty()).then_some(inner)
}

/// `____ test_x ____`; of a long one there is but one of these at each end. What is nothing else divides a traceback.
fn title_of(line: &str) -> Option<&str> {
    let title = line.strip_prefix('_')?.strip_suffix('_')?.trim_matches('_');
    let title = title.strip_prefix(' ')?.strip_suffix(' ')?;
    title.contains(|letter| !matches!(letter, '_' | ' ')).then_some(title)
}

/// `1 failed, 2 passed, 1 warning in 0.12s`, `no tests ran in 0.01s`.
fn closing(line: &str) -> Option<TestCounts> {
    let (what, took) = line.rsplit_once(" in ")?;
    let took = took.split(' ').next()?;
    took.strip_suffix('s')?.parse::<f64>().ok()?;
    if what == "no tests ran" {
        return Some(TestCounts::default());
    }
    let mut counts = TestCounts::default();
    for part in what.split(", ") {
        let (number, word) = counted(part)?;
        match word {
            "passed" | "xpassed" => counts.count(TestOutcome::Passed, number),
            "failed" | "error" | "errors" => counts.count(TestOutcome::Failed, number),
            "skipped" | "xfailed" => counts.count(TestOutcome::Skipped, number),
            "warning" | "warnings" | "deselected" | "rerun" => {}
            word if word.starts_with("subtests ") => {}
            _ => return None,
        }
    }
    Some(counts)
}
