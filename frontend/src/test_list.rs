//! The tests of the attempt that is shown: while it runs, as they are heard in its output; afterwards as the boss has
//! stored them, which is exact. Bounded, whatever a test prints.

use common::{Problem, Stream, TestCounts, TestHistory, TestListener, TestView, TestsView};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::model::Remote;

/// More output than this the boss does not listen to, either.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// While a task runs, what is shown of its tests is put together anew so often at most.
const HEARD_EVERY_MS: u64 = 300;

/// So many that failed are shown while a task runs, and so many of the others.
const HEARD_BAD: usize = 100;
const HEARD_OTHERS: usize = 20;

/// So many are drawn at first, and so many at once when somebody asks for more: then the earlier ones go.
const DRAWN: usize = 100;
const MOST_DRAWN: usize = 600;
const STRIDE: usize = 500;

/// With fewer, nobody searches.
pub(crate) const WORTH_A_SEARCH: usize = 12;

#[derive(Debug, Clone, Default)]
pub(crate) struct TestList {
    ear: Option<Ear>,
    /// None until the attempt has ended.
    pub stored: Option<Remote<Rc<TestsView>>>,
    pub filter: TestFilter,
    /// Whether the list is unfolded; None where nobody has said, and it is if there is something to mend.
    pub unfolded: Option<bool>,
    /// By its place among the stored ones.
    pub open: BTreeSet<usize>,
    /// What stands in the search field.
    pub search: String,
    /// Which of those that are let through are drawn: from this one on, and whether many.
    from: usize,
    many: bool,
    /// The place of the one that the keys are at.
    pub cursor: Option<usize>,
    /// By name.
    pub histories: BTreeMap<String, Remote<TestHistory>>,
}

/// What listens while the attempt runs.
#[derive(Debug, Clone, Default)]
struct Ear {
    listener: TestListener,
    bytes: usize,
    /// There is more than was put together.
    is_behind: bool,
    heard_ms: u64,
    heard: Heard,
}

/// What was heard until a moment ago.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Heard {
    pub counts: TestCounts,
    /// Bad ones first, then the latest of the others.
    pub tests: Vec<TestView>,
    /// It printed so much that nobody listens any more.
    pub is_deaf: bool,
}

/// A part of those that are wanted.
#[derive(Debug)]
pub(crate) struct Drawn<'a> {
    /// So many are before it.
    pub before: usize,
    /// Each with its place among all.
    pub tests: Vec<(usize, &'a TestView)>,
    pub after: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TestFilter {
    #[default]
    All,
    Failed,
    Flaky,
}

impl TestFilter {
    pub(crate) const ALL: [TestFilter; 3] = [TestFilter::All, TestFilter::Failed, TestFilter::Flaky];

    pub(crate) fn word(self) -> &'static str {
        match self {
            TestFilter::All => "all",
            TestFilter::Failed => "failed",
            TestFilter::Flaky => "flaky",
        }
    }

    /// In front of the word "test".
    pub(crate) fn before(self) -> &'static str {
        match self {
            TestFilter::All => "",
            TestFilter::Failed => "failed ",
            TestFilter::Flaky => "flaky ",
        }
    }

    pub(crate) fn lets_through(self, test: &TestView) -> bool {
        match self {
            TestFilter::All => true,
            TestFilter::Failed => test.test.outcome.is_bad(),
            TestFilter::Flaky => test.flaky,
        }
    }
}

impl TestList {
    /// Of an attempt that is running: its output is yet to come, from the first byte.
    pub(crate) fn listening() -> TestList {
        TestList { ear: Some(Ear::default()), ..TestList::default() }
    }

    /// Of one that has ended, and whose tests were asked for.
    pub(crate) fn asked() -> TestList {
        TestList { stored: Some(Remote::Loading), ..TestList::default() }
    }

    /// What was printed next, of whatever step and stream: the bytes alone do not say.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        let Some(ear) = &mut self.ear else { return };
        let room = MOST_BYTES.saturating_sub(ear.bytes).min(bytes.len());
        ear.bytes += bytes.len();
        ear.listener.hear(Stream::Stdout, &bytes[..room]);
        ear.heard.is_deaf = ear.bytes > MOST_BYTES;
        ear.is_behind = true;
    }

    /// Time has passed. Is there something new to be seen?
    pub(crate) fn beat(&mut self, now_ms: u64) -> bool {
        let Some(ear) = self.ear.as_mut().filter(|ear| ear.is_behind) else { return false };
        if now_ms < ear.heard_ms + HEARD_EVERY_MS {
            return false;
        }
        (ear.heard_ms, ear.is_behind) = (now_ms, false);
        // A copy ends, and the listener goes on.
        let tests = ear.listener.clone().finish().tests;
        let bad = tests.results.iter().filter(|result| result.outcome.is_bad()).count();
        let others = tests.results.len() - bad;
        let shown = (tests.results.into_iter().enumerate())
            .filter(|(place, _)| {
                *place < bad.min(HEARD_BAD) || *place >= bad + others.saturating_sub(HEARD_OTHERS)
            })
            .map(|(_, test)| TestView { test, flaky: false });
        ear.heard = Heard { counts: tests.counts, tests: shown.collect(), is_deaf: ear.heard.is_deaf };
        true
    }

    /// What was heard of a running attempt, and of one that has just ended until the boss has answered.
    pub(crate) fn heard(&self) -> Option<&Heard> {
        self.ear.as_ref().map(|ear| &ear.heard)
    }

    /// What the boss has stored, or why that is not known.
    pub(crate) fn got(&mut self, answer: Result<TestsView, Problem>) {
        self.ear = None;
        self.stored = Some(match answer {
            Ok(view) => Remote::Loaded(Rc::new(view)),
            Err(problem) => Remote::Failed(problem),
        });
    }

    pub(crate) fn loaded(&self) -> Option<&Rc<TestsView>> {
        match &self.stored {
            Some(Remote::Loaded(view)) => Some(view),
            Some(Remote::Loading | Remote::Failed(_)) | None => None,
        }
    }

    pub(crate) fn counts(&self) -> TestCounts {
        match (self.loaded(), self.heard()) {
            (Some(view), _) => {
                // As it is known now: later attempts tell of this one, too.
                let flaky = view.tests.iter().filter(|test| test.flaky).count() as u64;
                TestCounts { flaky: flaky.max(view.counts.flaky), ..view.counts }
            }
            (None, Some(heard)) => heard.counts,
            (None, None) => TestCounts::default(),
        }
    }

    pub(crate) fn is_unfolded(&self) -> bool {
        let counts = self.counts();
        self.unfolded.unwrap_or(counts.failed > 0 || counts.flaky > 0)
    }

    pub(crate) fn drawn(&self) -> Drawn<'_> {
        let wanted = self.wanted();
        let most = if self.many { MOST_DRAWN } else { DRAWN };
        let (before, left) = wanted.split_at(self.from.min(wanted.len()));
        let (tests, after) = left.split_at(most.min(left.len()));
        Drawn { before: before.len(), tests: tests.to_vec(), after: after.len() }
    }

    /// Those that filter and search let through.
    fn wanted(&self) -> Vec<(usize, &TestView)> {
        let Some(view) = self.loaded() else { return Vec::new() };
        let words = self.search.trim().to_lowercase();
        let is_wanted = |(_, test): &(usize, &TestView)| {
            self.filter.lets_through(test)
                && (words.is_empty() || test.test.name.to_lowercase().contains(&words))
        };
        view.tests.iter().enumerate().filter(is_wanted).collect()
    }

    /// Those after the ones that are drawn; the cursor goes on to the first of them.
    pub(crate) fn go_on(&mut self) -> Option<usize> {
        let next = self.from + if self.many { MOST_DRAWN } else { DRAWN };
        self.go_to_nth(next)
    }

    /// Those before; the cursor goes to the last of them.
    pub(crate) fn go_back(&mut self) -> Option<usize> {
        self.go_to_nth(self.from.checked_sub(1)?)
    }

    /// To one of those that are wanted, or the last of them.
    fn go_to_nth(&mut self, at: usize) -> Option<usize> {
        let wanted: Vec<usize> = self.wanted().into_iter().map(|(place, _)| place).collect();
        let at = at.min(wanted.len().checked_sub(1)?);
        self.draw(at);
        self.cursor = Some(wanted[at]);
        self.cursor
    }

    /// Others are wanted from here on: the list begins anew.
    pub(crate) fn want(&mut self, filter: TestFilter, search: String) {
        (self.filter, self.search) = (filter, search);
        (self.from, self.many, self.cursor) = (0, false, None);
    }

    /// The filter after this one, of those that would show something.
    pub(crate) fn next_filter(&self) -> TestFilter {
        let choices = self.choices();
        let at = choices.iter().position(|filter| *filter == self.filter).map_or(0, |at| at + 1);
        choices.get(at).copied().unwrap_or_default()
    }

    /// None, where all are alike.
    pub(crate) fn choices(&self) -> Vec<TestFilter> {
        let counts = self.counts();
        let choices = TestFilter::ALL.into_iter().filter(|filter| match filter {
            TestFilter::All => counts.failed > 0 || counts.flaky > 0,
            TestFilter::Failed => counts.failed > 0,
            TestFilter::Flaky => counts.flaky > 0,
        });
        choices.collect()
    }

    /// Moves by so many tests, down or up, and draws what is wanted for that; answers the place of the one that is there.
    pub(crate) fn move_cursor(&mut self, by: isize) -> Option<usize> {
        let at = self.cursor.and_then(|cursor| self.wanted().iter().position(|(place, _)| *place == cursor));
        self.go_to_nth(at.map_or(self.from, |at| at.saturating_add_signed(by)))
    }

    /// The cursor goes to that one of all.
    pub(crate) fn go_to(&mut self, place: usize) {
        if let Some(at) = self.wanted().iter().position(|(wanted, _)| *wanted == place) {
            self.go_to_nth(at);
        }
    }

    /// Sees to it that the one which is so far down is drawn.
    fn draw(&mut self, at: usize) {
        while at < self.from {
            self.from = self.from.saturating_sub(STRIDE);
        }
        while at >= self.from + if self.many { MOST_DRAWN } else { DRAWN } {
            self.from += if self.many { STRIDE } else { 0 };
            self.many = true;
        }
    }

    /// Where a test is among all, by its name. What is told of failures cuts long names.
    pub(crate) fn place_of(&self, name: &str) -> Option<usize> {
        let tests = &self.loaded()?.tests;
        let cut = name.strip_suffix('…').filter(|cut| !cut.is_empty());
        let exact = tests.iter().position(|test| test.test.name == name);
        exact.or_else(|| tests.iter().position(|test| cut.is_some_and(|cut| test.test.name.starts_with(cut))))
    }

    /// Unfolds one, or folds it; the name of which the history is wanted now.
    pub(crate) fn toggle(&mut self, place: usize) -> Option<String> {
        let name = self.loaded()?.tests.get(place)?.test.name.clone();
        self.cursor = Some(place);
        if self.open.remove(&place) {
            return None;
        }
        self.open.insert(place);
        match self.histories.get(&name) {
            Some(Remote::Loading | Remote::Loaded(_)) => None,
            Some(Remote::Failed(_)) | None => {
                self.histories.insert(name.clone(), Remote::Loading);
                Some(name)
            }
        }
    }
}
