//! What the browser's tab says while the page itself is out of sight.

use common::{Phase, headline};

use super::parts;
use crate::model::{Model, Page, Remote, RunsPage, Session};

pub(crate) fn title(model: &Model) -> String {
    let ours = match (&model.session, &model.project) {
        (Session::Open, Some(project)) => format!("{project} · bettertest"),
        (Session::Open | Session::Opening | Session::Closed(_), _) => "bettertest".to_owned(),
    };
    let words = match (&model.session, &model.page) {
        (Session::Open, Page::Run(page)) => match &page.state {
            Remote::Loaded(state) => {
                format!("{} run {} {}", sign(standing(model).0), page.run, headline(state).replace('_', " "))
            }
            Remote::Loading | Remote::Failed(_) => format!("run {}", page.run),
        },
        (Session::Open, Page::Runs(page)) => match (runs_running(page), newest(page)) {
            (0, None) => return cut_off(model, ours),
            (0, Some((word, _))) => return cut_off(model, format!("{} {ours}", sign(word))),
            (count, _) => format!("{} {count} running", sign("running")),
        },
        (Session::Open, Page::Doctor(Remote::Loaded(checkup))) => format!("doctor: {}", checkup.headline),
        (Session::Open, Page::Doctor(Remote::Loading | Remote::Failed(_))) => "doctor".to_owned(),
        (Session::Open, Page::Nowhere) => "nothing here".to_owned(),
        (Session::Opening, _) => "logging in".to_owned(),
        (Session::Closed(_), _) => "not logged in".to_owned(),
    };
    cut_off(model, format!("{words} · {ours}"))
}

/// What a tab says that has lost the boss may be true no more.
fn cut_off(model: &Model, title: String) -> String {
    if model.is_cut_off() { format!("no connection · {title}") } else { title }
}

fn runs_running(page: &RunsPage) -> usize {
    match &page.runs {
        Remote::Loaded(history) => history.runs.iter().filter(|run| run.verdict.is_none()).count(),
        Remote::Loading | Remote::Failed(_) => 0,
    }
}

/// The state of the newest run, as its word and in words.
fn newest(page: &RunsPage) -> Option<(&'static str, &str)> {
    match &page.runs {
        Remote::Loaded(history) => {
            let newest = history.runs.first()?;
            let word = newest.verdict.map_or("running", |verdict| verdict.outcome().word());
            Some((word, &newest.headline))
        }
        Remote::Loading | Remote::Failed(_) => None,
    }
}

/// The state's word that the tab's icon stands for, and the icon.
pub(crate) fn standing(model: &Model) -> (&'static str, &'static str) {
    if let Page::Runs(page) = &model.page {
        return match newest(page) {
            Some((word, words)) if parts::qualified(word, words).is_some() => (word, QUALIFIED_ICON),
            Some((word, _)) => (word, icon(word)),
            None => ("pending", icon("pending")),
        };
    }
    let word = match model.run_state().map(|state| state.phase) {
        Some(Phase::Ended(verdict)) => verdict.outcome().word(),
        Some(Phase::Running) => match model.run_state().and_then(crate::model::first_bad) {
            // It is not over, but it is known how it will not end.
            Some(task) => task.state.word(),
            None => "running",
        },
        Some(Phase::Unborn) | None => "pending",
    };
    let words = model.run_state().map(headline).unwrap_or_default();
    match parts::qualified(word, &words) {
        Some(_) => (word, QUALIFIED_ICON),
        None => (word, icon(word)),
    }
}

fn sign(word: &str) -> &'static str {
    match word {
        "passed" => "✓",
        "failed" => "✗",
        "errored" => "!",
        "timed_out" => "◷",
        "cancelled" => "⊘",
        _ => "●",
    }
}

macro_rules! icon {
    ($colour:literal, $path:literal) => {
        concat!(
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E",
            "%3Ccircle cx='8' cy='8' r='8' fill='%23",
            $colour,
            "'/%3E%3Cpath d='",
            $path,
            "' fill='none' stroke='white' stroke-width='2' stroke-linecap='round' stroke-linejoin='round'/%3E%3C/svg%3E"
        )
    };
}

/// Passed, but not plainly: a ring where a disc is.
const QUALIFIED_ICON: &str = concat!(
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E",
    "%3Ccircle cx='8' cy='8' r='7' fill='white' stroke='%231f9d4d' stroke-width='2'/%3E",
    "%3Cpath d='M4.5 8.5 7 11l4.5-5.5' fill='none' stroke='%231f9d4d' stroke-width='2' stroke-linecap='round' stroke-linejoin='round'/%3E%3C/svg%3E"
);

fn icon(word: &str) -> &'static str {
    match word {
        "passed" => icon!("1f9d4d", "M4.5 8.5 7 11l4.5-5.5"),
        "failed" => icon!("d8343c", "M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6"),
        "errored" => icon!("b044a0", "M8 4v4.5M8 11.7v.1"),
        "timed_out" => icon!("c26a10", "M8 4.5V8l2.5 1.5"),
        "cancelled" => icon!("7d7768", "M4.5 8h7"),
        "running" => icon!("3b6be0", "M8 4v4h4"),
        _ => icon!("80868c", "M8 8v0"),
    }
}
