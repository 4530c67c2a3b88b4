//! What one kind of runner told so far. Bounded: a stranger's output may name tests without end.

use std::collections::HashMap;

use super::Tests;
use crate::{TestCounts, TestOutcome, TestResult};

const MOST_RESULTS: usize = 20_000;
/// A name that is longer is cut, and so no name of any test.
pub(crate) const LONGEST_NAME: usize = 500;
const LONGEST_MESSAGE: usize = 2_000;
pub(super) const LONGEST_STACK: usize = 8_000;
/// All messages and stacks together; later ones are left out.
const MOST_WORDS: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    results: Vec<TestResult>,
    by_name: HashMap<String, usize>,
    words: usize,
    omitted: u64,
    /// As it counted them itself.
    counted: Option<TestCounts>,
    /// Its last line was there.
    pub(super) has_closed: bool,
    /// It ran tests without a word on how many.
    pub(super) ran_uncounted: bool,
}

impl Found {
    /// A test that may have been told of before: then a failure stands, whatever else is said.
    pub(super) fn test(&mut self, name: &str, outcome: TestOutcome, took_ms: Option<u64>) {
        let name = cut(name.trim(), LONGEST_NAME);
        if name.is_empty() {
            return;
        }
        if let Some(&at) = self.by_name.get(name) {
            let result = &mut self.results[at];
            result.outcome = result.outcome.min(outcome);
            result.took_ms = result.took_ms.or(took_ms);
            return;
        }
        if self.results.len() == MOST_RESULTS {
            self.omitted += 1;
            return;
        }
        self.by_name.insert(name.to_owned(), self.results.len());
        let name = name.to_owned();
        self.results.push(TestResult { name, outcome, took_ms, message: None, stack: None });
    }

    pub(super) fn has_named(&self) -> bool {
        !self.results.is_empty()
    }

    /// From here on a name is another test's than before.
    pub(super) fn forget_names(&mut self) {
        self.by_name.clear();
    }

    pub(super) fn name_where(&self, is_it: impl Fn(&str) -> bool) -> Option<String> {
        let failed = self.results.iter().rev().filter(|result| result.outcome.is_bad());
        failed.map(|result| &result.name).find(|name| is_it(name)).cloned()
    }

    /// What is wrong with a test that failed; one that was not told of is by this.
    pub(super) fn failure(&mut self, name: &str, message: Option<&str>, stack: Option<&str>) {
        if !self.by_name.contains_key(cut(name.trim(), LONGEST_NAME)) {
            self.test(name, TestOutcome::Failed, None);
        }
        let Some(&at) = self.by_name.get(cut(name.trim(), LONGEST_NAME)) else { return };
        let has_room = self.words < MOST_WORDS;
        let result = &mut self.results[at];
        let kept = |text: Option<&str>, longest| {
            text.map(str::trim_end)
                .filter(|text| has_room && !text.trim().is_empty())
                .map(|text| cut(text, longest).to_owned())
        };
        if result.message.is_none() {
            result.message = kept(message.map(str::trim_start), LONGEST_MESSAGE);
        }
        if result.stack.is_none() {
            result.stack = kept(stack, LONGEST_STACK);
        }
        self.words +=
            message.map_or(0, str::len).min(LONGEST_MESSAGE) + stack.map_or(0, str::len).min(LONGEST_STACK);
    }

    /// It closes with so many, beside those of earlier closings.
    pub(super) fn close(&mut self, counts: TestCounts) {
        self.has_closed = true;
        self.counted.get_or_insert_default().add(counts);
    }

    pub(super) fn tests(self) -> Tests {
        let mut named = TestCounts::default();
        self.results.iter().for_each(|result| named.count(result.outcome, 1));
        let named = TestCounts { passed: named.passed.saturating_add(self.omitted), ..named };
        let counts = match self.counted {
            // It was cut off, or a plain list: what has a name is all there is.
            None => named,
            Some(counted) => counted,
        };
        let mut results = self.results;
        results.sort_by_key(|result| !result.outcome.is_bad());
        Tests { counts, results, omitted: self.omitted }
    }
}

pub(super) fn cut(text: &str, longest: usize) -> &str {
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Lines of what is said of one failure.
#[derive(Debug, Clone, Default)]
pub(super) struct Block(String);

impl Block {
    pub(super) fn line(&mut self, line: &str) {
        if self.0.len() < LONGEST_STACK {
            self.0.push_str(line);
            self.0.push('\n');
        }
    }

    pub(super) fn text(&self) -> &str {
        self.0.trim_matches('\n')
    }

    pub(super) fn find<'a, T>(&'a self, is_it: impl FnMut(&'a str) -> Option<T>) -> Option<T> {
        self.0.lines().find_map(is_it)
    }
}

/// `0.12` or `0.12s` as milliseconds.
pub(super) fn seconds_as_ms(text: &str) -> Option<u64> {
    let seconds: f64 = text.trim().trim_end_matches('s').parse().ok()?;
    (0.0..1e9).contains(&seconds).then_some((seconds * 1000.0).round() as u64)
}

/// A number, and what is counted: `3 passed`.
pub(super) fn counted(text: &str) -> Option<(u64, &str)> {
    let (number, what) = text.trim().split_once(' ')?;
    Some((number.parse().ok()?, what.trim()))
}
