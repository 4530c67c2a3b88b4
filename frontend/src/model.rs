//! All that the page knows. It changes in `update` only.

use common::{
    Checkup, Outcome, Packet, Pipeline, Problem, RunNumber, RunState, RunSummary, StageRun, TaskId, TaskRun,
    TaskState, WorkersView,
};
use std::cmp::Reverse;
use std::rc::Rc;

use crate::ansi::Line;
use crate::find::Find;
use crate::log::{Log, Viewport};
use crate::route::Route;
use crate::test_list::TestList;

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub route: Route,
    pub session: Session,
    /// Whose boss this is, once it has said so.
    pub project: Option<String>,
    pub page: Page,
    pub live: Live,
    /// Wall-clock milliseconds since 1970, as the browser has them.
    pub now_ms: u64,
    pub utc_offset_min: i32,
    /// Long lines are wrapped rather than scrolled. Remembered by the browser.
    pub wrap: bool,
    pub can_copy: bool,
    pub help: bool,
    /// The tab is not in the background.
    pub in_sight: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Session {
    /// The code of a login link is being exchanged for a cookie.
    Opening,
    /// As far as we know.
    Open,
    Closed(Problem),
}

/// Everything fetched: a failed fetch stays on screen, with what to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Remote<T> {
    Loading,
    Loaded(T),
    Failed(Problem),
}

/// How the one stream of events is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    Connecting,
    Open,
    Lost {
        tries: u32,
    },
    /// There is nothing to follow.
    Closed,
}

#[derive(Debug, Clone)]
pub(crate) enum Page {
    Runs(Box<RunsPage>),
    Run(Box<RunPage>),
    /// What is missing on the boss's machine.
    Doctor(Remote<Checkup>),
    Nowhere,
}

#[derive(Debug, Clone)]
pub(crate) struct RunsPage {
    pub pipeline: Remote<Pipeline>,
    pub runs: Remote<History>,
    pub workers: Remote<WorkersView>,
    /// A run was asked for and has not been acknowledged yet.
    pub starting: bool,
    /// Why the last one that was asked for did not start.
    pub refused: Option<Problem>,
    pub cursor: Option<RunNumber>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct History {
    /// Newest first.
    pub runs: Vec<RunSummary>,
    /// Where older ones continue.
    pub next: Option<RunNumber>,
}

#[derive(Debug, Clone)]
pub(crate) struct RunPage {
    pub run: RunNumber,
    /// Shared with what is drawn of it.
    pub state: Remote<Rc<RunState>>,
    pub asked: Option<Asked>,
    /// Why what was asked for last was not done.
    pub refused: Option<Problem>,
    pub filter: Filter,
    pub search: String,
    pub cursor: Option<TaskId>,
    /// The end of the output of the first task that did not pass.
    pub tail: Option<Tail>,
    /// What failed and why, once it has ended and not passed.
    pub packet: Option<Remote<Packet>>,
    /// Whose command is on its way to the clipboard, and whose is there.
    pub copying: Option<TaskId>,
    pub copied: Option<TaskId>,
    /// The task whose output is shown.
    pub task: Option<TaskPane>,
}

/// What was asked of the boss and not yet answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Cancel,
    Rerun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    All,
    NotPassed,
    Running,
}

#[derive(Debug, Clone)]
pub(crate) struct TaskPane {
    pub task: TaskId,
    /// None: the latest.
    pub attempt: Option<u32>,
    /// Whose output `log` holds.
    pub of: Option<OutputOf>,
    pub log: Log,
    pub output: Output,
    pub tests: TestList,
    /// Stay at the end of the log as it grows.
    pub follow: bool,
    pub seen: Viewport,
    pub copied: bool,
    /// The line that the address names.
    pub line: Option<usize>,
    /// The test that the address names, until it is found.
    pub test: Option<String>,
    /// A line to be brought into sight as soon as it is there.
    pub goal: Option<usize>,
    pub find: Find,
}

/// Which output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputOf {
    pub run: RunNumber,
    pub task: TaskId,
    pub attempt: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tail {
    pub of: OutputOf,
    /// Empty until they are there.
    pub lines: Vec<Line>,
}

/// How the stream of an attempt's output is doing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    Streaming,
    Lost { tries: u32 },
    Whole,
    Failed(Problem),
}

impl RunsPage {
    pub(crate) fn new() -> RunsPage {
        RunsPage {
            pipeline: Remote::Loading,
            runs: Remote::Loading,
            workers: Remote::Loading,
            starting: false,
            refused: None,
            cursor: None,
        }
    }
}

impl RunPage {
    pub(crate) fn new(run: RunNumber) -> RunPage {
        RunPage {
            run,
            state: Remote::Loading,
            asked: None,
            refused: None,
            filter: Filter::All,
            search: String::new(),
            cursor: None,
            tail: None,
            packet: None,
            copying: None,
            copied: None,
            task: None,
        }
    }
}

/// The tasks that filter and search let through: first all that did not pass, the worst first, then the others by stage.
pub(crate) fn shown<'a>(state: &'a RunState, filter: Filter, search: &str) -> Vec<Group<'a>> {
    let wanted = search.to_lowercase();
    let matches = |task: &&TaskRun| {
        filter.lets_through(task.state)
            && (wanted.is_empty() || task.id.to_string().to_lowercase().contains(&wanted))
    };
    let mut bad: Vec<&TaskRun> = state.tasks().filter(|task| is_bad(task.state)).filter(matches).collect();
    // Stable: of equally bad ones the order of the pipeline is kept.
    bad.sort_by_key(|task| match task.state {
        TaskState::Ended(verdict) => Reverse(Some(verdict.outcome())),
        TaskState::Pending | TaskState::Running | TaskState::Skipped(_) => Reverse(None),
    });
    let bad = Group { stage: None, tasks: bad };
    let stages = state.stages.iter().map(|stage| {
        let others = stage.tasks.iter().filter(|task| !is_bad(task.state)).filter(matches);
        Group { stage: Some(stage), tasks: others.collect() }
    });
    [bad].into_iter().chain(stages).filter(|group| !group.tasks.is_empty()).collect()
}

/// Tasks under one heading.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group<'a> {
    /// None for the tasks of any stage that did not pass.
    pub stage: Option<&'a StageRun>,
    pub tasks: Vec<&'a TaskRun>,
}

impl Filter {
    pub(crate) const ALL: [Filter; 3] = [Filter::All, Filter::NotPassed, Filter::Running];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Filter::All => "all",
            Filter::NotPassed => "not passed",
            Filter::Running => "running",
        }
    }

    pub(crate) fn lets_through(self, state: TaskState) -> bool {
        match self {
            Filter::All => true,
            Filter::NotPassed => is_bad(state),
            Filter::Running => state == TaskState::Running,
        }
    }
}

impl TaskPane {
    pub(crate) fn new(task: TaskId, attempt: Option<u32>) -> TaskPane {
        TaskPane {
            task,
            attempt,
            of: None,
            log: Log::default(),
            output: Output::Streaming,
            tests: TestList::default(),
            follow: true,
            seen: Viewport::default(),
            copied: false,
            line: None,
            test: None,
            goal: None,
            find: Find::default(),
        }
    }
}

impl Model {
    /// The way to the boss was tried again, and is still not there.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.session == Session::Open && matches!(self.live, Live::Lost { tries: 1.. })
    }

    pub(crate) fn run_page(&self) -> Option<&RunPage> {
        match &self.page {
            Page::Run(page) => Some(page),
            Page::Runs(_) | Page::Doctor(_) | Page::Nowhere => None,
        }
    }

    /// Of what failed that which stands first on the page.
    pub(crate) fn first_failure(&self) -> Option<TaskId> {
        let told = match &self.run_page()?.packet {
            Some(Remote::Loaded(packet)) => packet.failures.first().map(|failure| failure.task.clone()),
            Some(Remote::Loading | Remote::Failed(_)) | None => None,
        };
        told.or_else(|| first_bad(self.run_state()?).map(|task| task.id.clone()))
    }

    pub(crate) fn run_state(&self) -> Option<&RunState> {
        match &self.run_page()?.state {
            Remote::Loaded(state) => Some(state),
            Remote::Loading | Remote::Failed(_) => None,
        }
    }
}

/// With more tasks than these, a page is drawn less often than ten times a second.
const MANY_TASKS: usize = 300;

/// How often a run's elapsed times are drawn while it runs.
pub(crate) fn beat_ms(state: &RunState) -> u32 {
    if state.tasks().count() > MANY_TASKS { 500 } else { 100 }
}

/// It ended, and did not pass.
pub(crate) fn is_bad(state: TaskState) -> bool {
    matches!(state, TaskState::Ended(verdict) if verdict.outcome() != Outcome::Passed)
}

/// The task that was the first not to pass in its latest attempt, as far as the clock can tell.
pub(crate) fn first_bad(state: &RunState) -> Option<&TaskRun> {
    let ended = |task: &&TaskRun| {
        let attempt = task.attempts.last();
        attempt.and_then(|a| a.end.as_ref().map(|end| a.started_at_ms + end.took_ms)).unwrap_or(u64::MAX)
    };
    state.tasks().filter(|task| is_bad(task.state)).min_by_key(ended)
}
