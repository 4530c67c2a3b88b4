//! Coming to a page, and what people do there.

use common::{Checkup, Phase, Problem, TaskId};

use crate::model::{
    Asked, Filter, History, Live, Model, Page, Remote, RunPage, RunsPage, Session, TaskPane, shown,
};
use crate::route::{Part, Route};
use crate::update::{Effect, Feed, Msg, failures, feed, output, tail, tests};

/// Shows what a route names. The page of the same run stays as it is.
pub(super) fn enter(model: &mut Model, route: Route) -> Vec<Effect> {
    model.route = route.clone();
    model.help = false;
    if model.session != Session::Open {
        return vec![];
    }
    let mut effects = Vec::new();
    match &route {
        Route::Runs => {
            model.page = Page::Runs(Box::new(RunsPage::new()));
            model.live = Live::Connecting;
            effects.extend([Effect::CloseOutput, Effect::OpenFeed(Feed::Runs), Effect::FetchPipeline]);
            effects.extend([Effect::FetchRuns { before: None }, Effect::ScrollToTop]);
        }
        Route::Run(run) | Route::Task { run, .. } => {
            if model.run_page().is_none_or(|page| page.run != *run) {
                model.page = Page::Run(Box::new(RunPage::new(*run)));
                model.live = Live::Connecting;
                let feed = Feed::Run { run: *run, after: 0 };
                effects.extend([Effect::CloseOutput, Effect::OpenFeed(feed), Effect::ScrollToTop]);
            }
            effects.extend(show_task(model, &route));
        }
        Route::Doctor => {
            model.page = Page::Doctor(Remote::Loading);
            model.live = Live::Closed;
            effects.extend([Effect::CloseFeed, Effect::CloseOutput, Effect::FetchCheckup]);
            effects.push(Effect::ScrollToTop);
        }
        Route::Nowhere(_) => {
            model.page = Page::Nowhere;
            model.live = Live::Closed;
            effects.extend([Effect::CloseFeed, Effect::CloseOutput]);
        }
    }
    effects
}

fn show_task(model: &mut Model, route: &Route) -> Vec<Effect> {
    let Page::Run(page) = &mut model.page else { return vec![] };
    match route {
        Route::Task { task, attempt, part, .. } => {
            let (line, test) = match part {
                Part::Whole => (None, None),
                Part::Line(line) => (Some(*line), None),
                Part::Test(name) => (None, Some(name.clone())),
            };
            page.cursor = Some(task.clone());
            match &mut page.task {
                Some(pane) if pane.task == *task => pane.attempt = *attempt,
                Some(_) | None => page.task = Some(TaskPane::new(task.clone(), *attempt)),
            }
            if let Some(pane) = &mut page.task {
                (pane.line, pane.goal) = (line, line);
                pane.follow &= line.is_none();
                pane.test = test;
            }
            let mut effects = output::sync(page);
            effects.extend(page.task.as_mut().map(tests::to_named).unwrap_or_default());
            effects.extend(page.task.as_mut().map(output::to_goal).unwrap_or_default());
            effects
        }
        Route::Run(_) => match page.task.take() {
            Some(pane) => vec![Effect::CloseOutput, Effect::Focus(task_element(&pane.task))],
            None => vec![],
        },
        Route::Runs | Route::Doctor | Route::Nowhere(_) => vec![],
    }
}

/// The tab came into sight, or went out of it. A browser has few connections for all its tabs: out of sight, a
/// tab gives back all but the events of a run that is running, as its title tells how that stands.
pub(super) fn seen(model: &mut Model, seen: bool) -> Vec<Effect> {
    model.in_sight = seen;
    if seen && matches!(model.session, Session::Closed(_)) {
        model.session = Session::Open;
        return enter(model, model.route.clone());
    }
    let mut effects = match &mut model.page {
        Page::Run(page) => output::seen(page, seen),
        Page::Runs(_) if seen => vec![Effect::FetchRuns { before: None }, Effect::FetchPipeline],
        Page::Runs(_) | Page::Doctor(_) | Page::Nowhere => vec![],
    };
    let running = model.run_state().is_some_and(|state| state.phase == Phase::Running);
    match seen {
        _ if running => {}
        true => effects.extend(feed::open(model)),
        false => effects.push(Effect::CloseFeed),
    }
    effects
}

/// Somebody comes back to this window, perhaps from their editor: what may have changed on disk is read again.
pub(super) fn focused(model: &Model) -> Vec<Effect> {
    match &model.page {
        Page::Runs(page) if !page.starting => vec![Effect::Still, Effect::FetchPipeline],
        Page::Runs(_) | Page::Run(_) | Page::Doctor(_) | Page::Nowhere => vec![Effect::Still],
    }
}

pub(super) fn update_runs(page: &mut RunsPage, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::GotRuns { before, answer } => got_runs(page, before.is_some(), answer),
        Msg::GotWorkers(answer) => page.workers = answer.into(),
        Msg::WantWorkers => {
            page.workers = Remote::Loading;
            return vec![Effect::FetchWorkers];
        }
        // Only now the boss knows which workers the pipedef names.
        Msg::GotPipeline(answer) => {
            page.pipeline = answer.into();
            return vec![Effect::FetchWorkers];
        }
        Msg::WantPipeline => {
            page.pipeline = Remote::Loading;
            return vec![Effect::FetchPipeline];
        }
        Msg::WantOlderRuns => match &page.runs {
            Remote::Loaded(History { next: Some(next), .. }) => {
                return vec![Effect::FetchRuns { before: Some(*next) }];
            }
            Remote::Loaded(_) | Remote::Loading | Remote::Failed(_) => {}
        },
        Msg::WantRun { only } if !page.starting => {
            page.starting = true;
            page.refused = None;
            return vec![Effect::StartRun { only }];
        }
        Msg::RunStarted(Err(problem)) => {
            page.starting = false;
            page.refused = Some(problem);
            // A pipedef that is broken now was read afresh: the page shows it as it is now.
            return vec![Effect::FetchPipeline];
        }
        _ => return vec![Effect::Still],
    }
    vec![]
}

pub(super) fn update_doctor(checkup: &mut Remote<Checkup>, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::GotCheckup(answer) => *checkup = answer.into(),
        Msg::WantCheckup if *checkup != Remote::Loading => {
            *checkup = Remote::Loading;
            return vec![Effect::FetchCheckup];
        }
        _ => return vec![Effect::Still],
    }
    vec![]
}

fn got_runs(page: &mut RunsPage, older: bool, answer: Result<common::Page, Problem>) {
    match (answer, &mut page.runs) {
        (Ok(got), Remote::Loaded(history)) if older => {
            history.runs.extend(got.runs);
            history.next = got.next;
        }
        (Ok(got), runs) => *runs = Remote::Loaded(History { runs: got.runs, next: got.next }),
        // What is on screen is not thrown away because one more answer failed.
        (Err(_), Remote::Loaded(_)) => {}
        (Err(problem), runs) => *runs = Remote::Failed(problem),
    }
}

pub(super) fn update_run(page: &mut RunPage, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::WantCancel => return cancel(page),
        Msg::WantRerun { only } => return rerun(page, only),
        Msg::WantFailedTests => return rerun_failed_tests(page),
        Msg::Answered(answer) => {
            let asked = page.asked.take();
            page.refused = answer.err();
            let Remote::Loaded(state) = &page.state else { return vec![] };
            if asked == Some(Asked::Rerun) && page.refused.is_none() {
                // The run goes on in the same log.
                return vec![Effect::OpenFeed(Feed::Run { run: page.run, after: state.last_seq.0 })];
            }
        }
        Msg::GotTail { of, bytes, cut } => tail::got(page, &of, &bytes, cut),
        Msg::GotPacket(answer) => failures::got(page, answer),
        Msg::CopyAgain(task) => return failures::copy(page, task),
        Msg::SetFilter(filter) => page.filter = filter,
        Msg::Search(text) => page.search = text,
        Msg::ShowAll => {
            page.filter = Filter::All;
            page.search.clear();
        }
        _ => return vec![Effect::Still],
    }
    vec![]
}

fn cancel(page: &mut RunPage) -> Vec<Effect> {
    let Remote::Loaded(state) = &page.state else { return vec![Effect::Still] };
    let possible = state.phase == Phase::Running && !state.cancel_asked;
    let effect = Effect::Cancel(page.run);
    if possible { ask(page, Asked::Cancel, effect) } else { vec![Effect::Still] }
}

fn rerun(page: &mut RunPage, only: Option<TaskId>) -> Vec<Effect> {
    let Remote::Loaded(state) = &page.state else { return vec![Effect::Still] };
    let possible = state.to_run_again(only.as_ref().map(std::slice::from_ref)).is_ok();
    let effect = Effect::Rerun { run: page.run, only };
    if possible { ask(page, Asked::Rerun, effect) } else { vec![Effect::Still] }
}

fn rerun_failed_tests(page: &mut RunPage) -> Vec<Effect> {
    let Remote::Loaded(state) = &page.state else { return vec![Effect::Still] };
    let possible = state.has_tests_to_run_alone() && state.to_run_again(None).is_ok();
    let effect = Effect::RerunFailedTests(page.run);
    if possible { ask(page, Asked::Rerun, effect) } else { vec![Effect::Still] }
}

/// One thing at a time.
fn ask(page: &mut RunPage, asked: Asked, effect: Effect) -> Vec<Effect> {
    if page.asked.is_some() {
        return vec![Effect::Still];
    }
    page.asked = Some(asked);
    page.refused = None;
    vec![effect]
}

pub(super) fn move_cursor(model: &mut Model, by: isize) -> Vec<Effect> {
    match &mut model.page {
        Page::Runs(page) => {
            let Remote::Loaded(history) = &page.runs else { return vec![Effect::Still] };
            let at = history.runs.iter().position(|run| Some(run.run) == page.cursor);
            let Some(next) = moved(at, by, history.runs.len()) else { return vec![Effect::Still] };
            page.cursor = Some(history.runs[next].run);
            vec![Effect::Still, Effect::Focus(run_element(history.runs[next].run))]
        }
        Page::Run(page) => {
            let Remote::Loaded(state) = &page.state else { return vec![Effect::Still] };
            let tasks: Vec<_> =
                shown(state, page.filter, &page.search).into_iter().flat_map(|group| group.tasks).collect();
            let at = tasks.iter().position(|task| Some(&task.id) == page.cursor.as_ref());
            let Some(next) = moved(at, by, tasks.len()) else { return vec![Effect::Still] };
            let next = tasks[next].id.clone();
            let element = task_element(&next);
            page.cursor = Some(next);
            vec![Effect::Still, Effect::Focus(element)]
        }
        Page::Doctor(_) | Page::Nowhere => vec![Effect::Still],
    }
}

/// From nowhere, down is the first and up is the last.
fn moved(at: Option<usize>, by: isize, count: usize) -> Option<usize> {
    let last = count.checked_sub(1)?;
    Some(match at {
        None if by < 0 => last,
        None => 0,
        Some(at) => at.saturating_add_signed(by).min(last),
    })
}

/// The id of a run's element in the page, and of a task's.
pub(crate) fn run_element(run: common::RunNumber) -> String {
    format!("run-{run}")
}

pub(crate) fn task_element(task: &common::TaskId) -> String {
    format!("task-{task}")
}

impl<T> From<Result<T, Problem>> for Remote<T> {
    fn from(answer: Result<T, Problem>) -> Remote<T> {
        match answer {
            Ok(value) => Remote::Loaded(value),
            Err(problem) => Remote::Failed(problem),
        }
    }
}
