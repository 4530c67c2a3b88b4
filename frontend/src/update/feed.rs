//! The one stream of events: what it tells, and how it heals.
//!
//! The browser tries again by itself after a broken connection, from the last event it had. Where it gives up
//! (an answer that is no stream), we ask why, and try again ourselves from the last event that was applied.

use common::{Phase, Problem, RunEvent, RunState};
use std::rc::Rc;

use crate::model::{Live, Model, Page, Remote, RunPage};
use crate::update::{Effect, Feed, Msg, backoff_ms, failures, output, tail};

pub(super) fn update(model: &mut Model, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::FeedOpened => {
            let was_lost = matches!(model.live, Live::Lost { .. });
            model.live = Live::Open;
            match &mut model.page {
                // Nobody says what came and went in between.
                Page::Runs(_) if was_lost => vec![Effect::FetchRuns { before: None }, Effect::FetchPipeline],
                // What was lost may have been the way to the boss: the output has to come on a new one, too.
                Page::Run(page) if was_lost => output::seen(page, true),
                Page::Runs(_) | Page::Run(_) | Page::Doctor(_) | Page::Nowhere => vec![],
            }
        }
        Msg::FeedLost { feed, gave_up } => {
            let tries = match model.live {
                Live::Lost { tries } => tries + 1,
                Live::Open | Live::Connecting | Live::Closed => 0,
            };
            model.live = Live::Lost { tries };
            match (&model.page, feed) {
                (Page::Doctor(_) | Page::Nowhere, _) => vec![],
                _ if !gave_up => vec![],
                // No stream for those who have it all: the run is at rest.
                (Page::Run(_), Feed::Run { .. }) if at_rest(model) => ended(model),
                (Page::Run(page), _) => vec![Effect::Probe(page.run)],
                (Page::Runs(_), _) => vec![Effect::FetchRuns { before: None }, due(tries)],
            }
        }
        Msg::Probed(answer) => match (&mut model.page, answer, model.live) {
            (Page::Run(page), Err(problem), _) => {
                page.state = Remote::Failed(problem);
                model.live = Live::Closed;
                vec![Effect::CloseFeed, Effect::CloseOutput]
            }
            (_, Ok(()), Live::Lost { tries }) => vec![due(tries)],
            _ => vec![],
        },
        Msg::FeedDue => match model.live {
            Live::Lost { .. } => open(model),
            Live::Open | Live::Connecting | Live::Closed => vec![Effect::Still],
        },
        Msg::FeedEnded => ended(model),
        Msg::RunChanged(summary) => match &mut model.page {
            Page::Runs(page) => {
                if let Remote::Loaded(history) = &mut page.runs {
                    match history.runs.iter_mut().find(|known| known.run == summary.run) {
                        Some(known) => *known = summary,
                        None => {
                            let at = history.runs.partition_point(|known| known.run > summary.run);
                            history.runs.insert(at, summary);
                        }
                    }
                }
                vec![]
            }
            Page::Run(page) if page.run == summary.run && summary.verdict.is_none() => open(model),
            Page::Run(_) | Page::Doctor(_) | Page::Nowhere => vec![Effect::Still],
        },
        Msg::RunRemoved(run) => match &mut model.page {
            Page::Runs(page) => {
                if let Remote::Loaded(history) = &mut page.runs {
                    history.runs.retain(|known| known.run != run);
                }
                vec![]
            }
            Page::Run(page) if page.run == run => vec![Effect::Probe(run)],
            Page::Run(_) | Page::Doctor(_) | Page::Nowhere => vec![Effect::Still],
        },
        Msg::Event { run, event } => match &mut model.page {
            Page::Run(page) if page.run == run => {
                let effects = take(page, &event);
                if matches!(page.state, Remote::Failed(_)) {
                    model.live = Live::Closed;
                }
                effects
            }
            Page::Run(_) | Page::Runs(_) | Page::Doctor(_) | Page::Nowhere => vec![Effect::Still],
        },
        _ => vec![Effect::Still],
    }
}

/// The log of a run at rest goes on only if somebody re-runs it, which the other stream tells.
fn ended(model: &Model) -> Vec<Effect> {
    match &model.page {
        Page::Run(_) if model.in_sight => vec![Effect::OpenFeed(Feed::Runs)],
        Page::Run(_) => vec![Effect::CloseFeed],
        Page::Runs(_) | Page::Doctor(_) | Page::Nowhere => vec![],
    }
}

fn at_rest(model: &Model) -> bool {
    model.run_state().is_some_and(|state| matches!(state.phase, Phase::Ended(_)))
}

fn due(tries: u32) -> Effect {
    Effect::Later { ms: backoff_ms(tries), msg: Box::new(Msg::FeedDue) }
}

/// What the page that is shown has to follow, from where it is.
pub(super) fn open(model: &Model) -> Vec<Effect> {
    match &model.page {
        Page::Runs(_) => vec![Effect::OpenFeed(Feed::Runs)],
        Page::Run(page) => vec![Effect::OpenFeed(Feed::Run { run: page.run, after: last_seq(page) })],
        Page::Doctor(_) | Page::Nowhere => vec![],
    }
}

fn last_seq(page: &RunPage) -> u64 {
    match &page.state {
        Remote::Loaded(state) => state.last_seq.0,
        Remote::Loading | Remote::Failed(_) => 0,
    }
}

fn take(page: &mut RunPage, event: &RunEvent) -> Vec<Effect> {
    if event.seq.0 <= last_seq(page) {
        return vec![Effect::Still];
    }
    if !matches!(page.state, Remote::Loaded(_)) {
        page.state = Remote::Loaded(Rc::new(RunState::default()));
    }
    let Remote::Loaded(state) = &mut page.state else { return vec![] };
    match Rc::make_mut(state).apply(event) {
        Ok(()) => {
            let mut effects = output::told(page, &event.fact);
            effects.extend(tail::told(page, &event.fact));
            effects.extend(failures::told(page, &event.fact));
            effects
        }
        Err(illegal) => {
            let hint =
                "reload this page; if it says so again, this is a fault of bettertest's: please report it";
            page.state =
                Remote::Failed(Problem::new(format!("the run's log makes no sense: {illegal}"), hint));
            vec![Effect::CloseFeed, Effect::CloseOutput]
        }
    }
}
