//! What happens, what it changes, and what is to be done about it in the browser. Pure: `effects` does the doing.

mod failures;
mod feed;
mod output;
mod pages;
mod tail;
mod tests;

pub(crate) use pages::{run_element, task_element};
pub(crate) use tests::test_element;

use common::{
    BossView, Checkup, OutputMark, Packet, Pipeline, Problem, RunEvent, RunNumber, RunSummary, TaskId,
    TestHistory, TestsView, WorkersView,
};

use crate::keys::{self, Key};
use crate::log::Viewport;
use crate::model::{Filter, Live, Model, OutputOf, Page, Remote, Session, beat_ms};
use crate::route::Route;
use crate::test_list::TestFilter;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Msg {
    /// Somebody followed a link of ours, or asked for a page otherwise.
    GoTo(Route),
    /// The browser went back or forth.
    WentTo(Route),
    Pressed(Key),
    /// Time has passed; the model has it already.
    Tick,
    /// The tab can be seen again, or can no longer.
    Seen(bool),
    /// The window has the focus again.
    Focused,
    ToggleHelp,

    LoggedIn,
    /// The boss does not know us, or no longer.
    LoggedOut(Problem),

    GotBoss(Result<BossView, Problem>),
    GotPipeline(Result<Pipeline, Problem>),
    GotRuns {
        before: Option<RunNumber>,
        answer: Result<common::Page, Problem>,
    },
    WantPipeline,
    GotWorkers(Result<WorkersView, Problem>),
    /// Somebody wants to know how the workers are now.
    WantWorkers,
    GotCheckup(Result<Checkup, Problem>),
    /// Somebody wants the boss's machine looked at once more.
    WantCheckup,
    WantOlderRuns,
    /// A run of the whole pipeline, or of some of its tasks.
    WantRun {
        only: Option<Vec<TaskId>>,
    },
    RunStarted(Result<RunNumber, Problem>),

    FeedOpened,
    /// `gave_up`: the browser will not try again by itself.
    FeedLost {
        feed: Feed,
        gave_up: bool,
    },
    /// The run is at rest.
    FeedEnded,
    /// Time to try again.
    FeedDue,
    /// Whether the run is there at all, and can be asked for.
    Probed(Result<(), Problem>),
    RunChanged(RunSummary),
    /// It was one of the oldest, and only so many are kept.
    RunRemoved(RunNumber),
    Event {
        run: RunNumber,
        event: Box<RunEvent>,
    },

    WantCancel,
    /// New attempts of what did not pass, or of that one task.
    WantRerun {
        only: Option<TaskId>,
    },
    /// Of what did not pass the tests alone that had failed.
    WantFailedTests,
    Answered(Result<(), Problem>),
    SetFilter(Filter),
    Search(String),
    WantSearch,
    ShowAll,
    /// By so many places, down or up.
    MoveCursor(isize),
    GoToFirstBad,

    Output {
        of: OutputOf,
        at: u64,
        bytes: Vec<u8>,
    },
    OutputEnded(OutputOf),
    OutputLost(OutputOf),
    OutputRefused(OutputOf, Problem),
    OutputDue(OutputOf),
    GotMarks(OutputOf, Vec<OutputMark>),
    /// The end of an output; `cut` where it began before that.
    GotTail {
        of: OutputOf,
        bytes: Vec<u8>,
        cut: bool,
    },
    GotPacket(Result<Packet, Problem>),
    /// The command that runs this task again, for somebody's terminal.
    CopyAgain(TaskId),
    /// What somebody looks for in the output.
    Find(String),
    /// So many hits on, or back.
    FindNext(isize),
    WantFind,
    LogMoved,
    LogMeasured(Viewport),
    ToEnd,
    ToStep(common::StepId),
    ToggleWrap,
    Unfold(usize),
    CopyLog,
    Copied,

    GotTests(OutputOf, Result<TestsView, Problem>),
    GotTestHistory {
        of: OutputOf,
        name: String,
        answer: Result<Box<TestHistory>, Problem>,
    },
    /// The whole list of tests, unfolded or not.
    FoldTests,
    /// The keys go there.
    GoToTests,
    /// By so many tests, down or up.
    MoveAmongTests(isize),
    FilterTests(TestFilter),
    NextTestFilter,
    SearchTests(String),
    WantTestSearch,
    /// One of them, by its place.
    ToggleTest(usize),
    LaterTests,
    EarlierTests,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Nothing on the screen has changed: the page need not be drawn.
    Still,
    PushUrl(Route),
    /// The login code goes out of sight: it is used up.
    ReplaceUrl(Route),
    LogIn(String),
    FetchBoss,
    FetchPipeline,
    FetchWorkers,
    FetchCheckup,
    FetchRuns {
        before: Option<RunNumber>,
    },
    StartRun {
        only: Option<Vec<TaskId>>,
    },
    Cancel(RunNumber),
    Rerun {
        run: RunNumber,
        only: Option<TaskId>,
    },
    RerunFailedTests(RunNumber),
    Probe(RunNumber),
    /// There is one stream of events at a time: this ends the one before.
    OpenFeed(Feed),
    CloseFeed,
    OpenOutput {
        of: OutputOf,
        from: u64,
    },
    CloseOutput,
    FetchMarks(OutputOf),
    FetchTail(OutputOf),
    FetchPacket(RunNumber),
    FetchTests(OutputOf),
    FetchTestHistory {
        of: OutputOf,
        name: String,
    },
    Later {
        ms: u32,
        msg: Box<Msg>,
    },
    MeasureLog,
    ScrollLogTo(u32),
    ScrollLogToEnd,
    ScrollToTop,
    Focus(String),
    /// Bring into sight what is out of it.
    Reveal(String),
    Copy(String),
    SaveWrap(bool),
}

impl Effect {
    /// It needs the page as it is after this update.
    pub(crate) fn is_about_what_is_drawn(&self) -> bool {
        matches!(
            self,
            Effect::MeasureLog
                | Effect::ScrollLogTo(_)
                | Effect::ScrollLogToEnd
                | Effect::ScrollToTop
                | Effect::Focus(_)
                | Effect::Reveal(_)
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    /// Every run's comings and goings.
    Runs,
    /// One run's events, those after `after`.
    Run { run: RunNumber, after: u64 },
}

/// What the browser knows at the start.
#[derive(Debug, Clone)]
pub(crate) struct Flags {
    pub route: Route,
    /// From a login link.
    pub code: Option<String>,
    pub now_ms: u64,
    pub utc_offset_min: i32,
    pub wrap: bool,
    /// Browsers let a page copy only where it comes by a safe way.
    pub can_copy: bool,
}

pub(crate) fn init(flags: Flags) -> (Model, Vec<Effect>) {
    let mut model = Model {
        route: flags.route.clone(),
        session: Session::Opening,
        project: None,
        page: Page::Nowhere,
        live: Live::Connecting,
        now_ms: flags.now_ms,
        utc_offset_min: flags.utc_offset_min,
        wrap: flags.wrap,
        can_copy: flags.can_copy,
        help: false,
        in_sight: true,
    };
    match flags.code {
        Some(code) => (model, vec![Effect::ReplaceUrl(flags.route), Effect::LogIn(code)]),
        None => {
            let effects = update(&mut model, Msg::LoggedIn);
            (model, effects)
        }
    }
}

pub(crate) fn update(model: &mut Model, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::GoTo(route) => {
            let mut effects = vec![Effect::PushUrl(route.clone())];
            effects.extend(pages::enter(model, route));
            effects
        }
        Msg::WentTo(route) => pages::enter(model, route),
        Msg::Pressed(key) => match keys::msg_for_key(model, &key) {
            Some(msg) => update(model, msg),
            None => vec![Effect::Still],
        },
        Msg::Tick => {
            tests::beat(model);
            vec![]
        }
        Msg::Seen(seen) => pages::seen(model, seen),
        Msg::Focused => pages::focused(model),
        Msg::ToggleHelp => {
            model.help = !model.help;
            // Whoever hears the page instead of seeing it is taken along.
            if model.help { vec![Effect::Focus(HELP_ELEMENT.to_owned())] } else { vec![] }
        }

        Msg::LoggedIn => {
            model.session = Session::Open;
            let mut effects = pages::enter(model, model.route.clone());
            effects.push(Effect::FetchBoss);
            effects
        }
        // What could not be asked, the page itself could not, either, and says so.
        Msg::GotBoss(answer) => {
            model.project = answer.ok().map(|boss| boss.project).or(model.project.take());
            vec![]
        }
        Msg::LoggedOut(problem) => {
            model.session = Session::Closed(problem);
            model.page = Page::Nowhere;
            vec![Effect::CloseFeed, Effect::CloseOutput]
        }

        Msg::RunStarted(Ok(run)) if matches!(model.page, Page::Runs(_)) => {
            update(model, Msg::GoTo(Route::Run(run)))
        }
        Msg::GotPipeline(_)
        | Msg::GotRuns { .. }
        | Msg::WantPipeline
        | Msg::GotWorkers(_)
        | Msg::WantWorkers
        | Msg::WantOlderRuns
        | Msg::WantRun { .. }
        | Msg::RunStarted(_) => match &mut model.page {
            Page::Runs(page) => pages::update_runs(page, msg),
            Page::Run(_) | Page::Doctor(_) | Page::Nowhere => vec![Effect::Still],
        },
        Msg::GotCheckup(_) | Msg::WantCheckup => match &mut model.page {
            Page::Doctor(checkup) => pages::update_doctor(checkup, msg),
            Page::Runs(_) | Page::Run(_) | Page::Nowhere => vec![Effect::Still],
        },

        Msg::FeedOpened
        | Msg::FeedLost { .. }
        | Msg::FeedEnded
        | Msg::FeedDue
        | Msg::Probed(_)
        | Msg::RunChanged(_)
        | Msg::RunRemoved(_)
        | Msg::Event { .. } => feed::update(model, msg),

        Msg::WantSearch => vec![Effect::Still, Effect::Focus(SEARCH_ELEMENT.to_owned())],
        Msg::WantFind => vec![Effect::Still, Effect::Focus(FIND_ELEMENT.to_owned())],
        Msg::MoveCursor(by) => pages::move_cursor(model, by),
        Msg::GoToFirstBad => match model.first_failure() {
            Some(task) => go_to_task(model, task),
            None => vec![Effect::Still],
        },
        Msg::WantCancel
        | Msg::WantRerun { .. }
        | Msg::WantFailedTests
        | Msg::Answered(_)
        | Msg::SetFilter(_)
        | Msg::Search(_)
        | Msg::GotTail { .. }
        | Msg::GotPacket(_)
        | Msg::CopyAgain(_)
        | Msg::ShowAll => match &mut model.page {
            Page::Run(page) => pages::update_run(page, msg),
            Page::Runs(_) | Page::Doctor(_) | Page::Nowhere => vec![Effect::Still],
        },

        // Of an open task it is the output that was copied.
        Msg::Copied => match &mut model.page {
            Page::Run(page) if page.task.is_none() => failures::copied(page),
            Page::Run(_) | Page::Runs(_) | Page::Doctor(_) | Page::Nowhere => output::update(model, msg),
        },

        Msg::ToggleWrap => {
            model.wrap = !model.wrap;
            let mut effects = vec![Effect::SaveWrap(model.wrap)];
            effects.extend(output::rewrap(model));
            effects
        }
        Msg::Output { .. }
        | Msg::OutputEnded(_)
        | Msg::OutputLost(_)
        | Msg::OutputRefused(..)
        | Msg::OutputDue(_)
        | Msg::GotMarks(..)
        | Msg::Find(_)
        | Msg::FindNext(_)
        | Msg::LogMoved
        | Msg::LogMeasured(_)
        | Msg::ToEnd
        | Msg::ToStep(_)
        | Msg::Unfold(_)
        | Msg::CopyLog => output::update(model, msg),

        Msg::GotTests(..)
        | Msg::GotTestHistory { .. }
        | Msg::FoldTests
        | Msg::GoToTests
        | Msg::MoveAmongTests(_)
        | Msg::FilterTests(_)
        | Msg::NextTestFilter
        | Msg::SearchTests(_)
        | Msg::WantTestSearch
        | Msg::ToggleTest(_)
        | Msg::LaterTests
        | Msg::EarlierTests => tests::update(model, msg),
    }
}

/// The id of the field in which tasks are searched.
pub(crate) const SEARCH_ELEMENT: &str = "search";
/// The id of the list of keys.
pub(crate) const HELP_ELEMENT: &str = "keys";
/// The id of the field in which an output is searched.
pub(crate) const FIND_ELEMENT: &str = "find";
/// The id of the field in which a test is searched by its name.
pub(crate) const FIND_TEST_ELEMENT: &str = "find-test";
/// The id of the element that scrolls the log.
pub(crate) const LOG_ELEMENT: &str = "log";

fn go_to_task(model: &mut Model, task: TaskId) -> Vec<Effect> {
    match model.route.run() {
        Some(run) => update(model, Msg::GoTo(Route::latest(run, task))),
        None => vec![Effect::Still],
    }
}

/// How often something on the page shows that time goes by, if it does.
pub(crate) fn ticking(model: &Model) -> Option<u32> {
    if model.session != Session::Open {
        return None;
    }
    match &model.page {
        Page::Run(page) => {
            let Remote::Loaded(state) = &page.state else { return None };
            (state.phase == common::Phase::Running).then(|| beat_ms(state))
        }
        Page::Runs(page) => match &page.runs {
            Remote::Loaded(history) if history.runs.iter().any(|run| run.verdict.is_none()) => Some(100),
            Remote::Loaded(_) => Some(30_000),
            Remote::Loading | Remote::Failed(_) => None,
        },
        Page::Doctor(_) | Page::Nowhere => None,
    }
}

/// Longer from try to try, and never long.
fn backoff_ms(tries: u32) -> u32 {
    (500 << tries.min(4)).min(5000)
}
