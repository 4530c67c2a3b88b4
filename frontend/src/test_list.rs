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

/// So many are drawn at first, and so many more whenever somebody asks.
pub(crate) const DRAWN: usize = 100;
const MORE_DRAWN: usize = 500;

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
    more: usize,
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

    /// Those to draw, each with its place, and how many more there are.
    pub(crate) fn drawn(&self) -> (Vec<(usize, &TestView)>, usize) {
        let Some(view) = self.loaded() else { return (Vec::new(), 0) };
        let wanted = || view.tests.iter().enumerate().filter(|(_, test)| self.filter.lets_through(test));
        let most = DRAWN + self.more;
        (wanted().take(most).collect(), wanted().count().saturating_sub(most))
    }

    pub(crate) fn draw_more(&mut self) {
        self.more += MORE_DRAWN;
    }

    /// Unfolds one, or folds it; the name of which the history is wanted now.
    pub(crate) fn toggle(&mut self, place: usize) -> Option<String> {
        let name = self.loaded()?.tests.get(place)?.test.name.clone();
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
