//! The keys, as data: what `msg_for_key` answers and what the help panel shows is one table.

use crate::model::{Filter, Model, Page, Session};
use crate::route::Route;
use crate::update::Msg;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// As the browser names it: `r`, `?`, `ArrowDown`.
    pub name: String,
    /// It goes into a field where people type.
    pub typing: bool,
}

/// Where a key means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Anywhere,
    Runs,
    Run,
    Output,
}

pub(crate) struct Shortcut {
    pub place: Place,
    pub names: &'static [&'static str],
    pub does: &'static str,
    msg: fn(&Model) -> Option<Msg>,
}

const fn key(
    place: Place,
    names: &'static [&'static str],
    does: &'static str,
    msg: fn(&Model) -> Option<Msg>,
) -> Shortcut {
    Shortcut { place, names, does, msg }
}

/// A later one wins over an earlier one of the same name, where both mean something.
pub(crate) const SHORTCUTS: &[Shortcut] = &[
    key(Place::Anywhere, &["j", "ArrowDown"], "next in the list", |_| Some(Msg::MoveCursor(1))),
    key(Place::Anywhere, &["k", "ArrowUp"], "previous in the list", |_| Some(Msg::MoveCursor(-1))),
    // The browser itself follows the link that the cursor is on.
    key(Place::Anywhere, &["Enter"], "open it", |_| None),
    key(Place::Anywhere, &["Escape"], "back", |model| Some(back(model))),
    key(Place::Anywhere, &["?"], "these keys", |_| Some(Msg::ToggleHelp)),
    key(Place::Runs, &["r"], "run the pipeline", |_| Some(Msg::WantRun { only: None })),
    key(Place::Run, &["f"], "to the first failure", |_| Some(Msg::GoToFirstBad)),
    key(Place::Run, &["n"], "only what did not pass", |model| Some(Msg::SetFilter(other_filter(model)))),
    key(Place::Run, &["/"], "search the tasks", |_| Some(Msg::WantSearch)),
    key(Place::Run, &["r"], "re-run what did not pass", |_| Some(Msg::WantRerun { only: None })),
    key(Place::Run, &["c"], "cancel the run", |_| Some(Msg::WantCancel)),
    key(Place::Output, &["G"], "to the end of the output, and stay there", |_| Some(Msg::ToEnd)),
    key(Place::Output, &["w"], "wrap long lines", |_| Some(Msg::ToggleWrap)),
    key(Place::Output, &["y"], "copy the output", |_| Some(Msg::CopyLog)),
];

impl Place {
    pub(crate) fn includes(self, model: &Model) -> bool {
        match (self, &model.page) {
            (Place::Anywhere, _) => true,
            (Place::Runs, page) => matches!(page, Page::Runs(_)),
            (Place::Run, page) => matches!(page, Page::Run(_)),
            (Place::Output, Page::Run(page)) => page.task.is_some(),
            (Place::Output, Page::Runs(_) | Page::Nowhere) => false,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Place::Anywhere => "anywhere",
            Place::Runs => "runs",
            Place::Run => "run",
            Place::Output => "output",
        }
    }
}

pub(crate) fn msg_for_key(model: &Model, key: &Key) -> Option<Msg> {
    if model.session != Session::Open || key.typing && key.name != "Escape" {
        return None;
    }
    let meant = |s: &&Shortcut| s.names.contains(&key.name.as_str()) && s.place.includes(model);
    SHORTCUTS.iter().rev().find(meant).and_then(|shortcut| (shortcut.msg)(model))
}

/// Ours, so that the browser does nothing of its own with it. Enter and Escape stay the browser's as well.
pub(crate) fn is_ours(key: &Key) -> bool {
    let named = |s: &Shortcut| s.names.contains(&key.name.as_str());
    !key.typing
        && key.name.as_str() != "Enter"
        && key.name.as_str() != "Escape"
        && SHORTCUTS.iter().any(named)
}

/// The way a name is written on a key.
pub(crate) fn cap(name: &str) -> &str {
    match name {
        "ArrowDown" => "↓",
        "ArrowUp" => "↑",
        "Escape" => "Esc",
        other => other,
    }
}

fn back(model: &Model) -> Msg {
    match (&model.page, &model.route) {
        _ if model.help => Msg::ToggleHelp,
        (Page::Run(page), _) if !page.search.is_empty() => Msg::Search(String::new()),
        (_, Route::Task { run, .. }) => Msg::GoTo(Route::Run(*run)),
        (_, Route::Run(_) | Route::Nowhere(_) | Route::Runs) => Msg::GoTo(Route::Runs),
    }
}

fn other_filter(model: &Model) -> Filter {
    match model.run_page().map(|page| page.filter) {
        Some(Filter::NotPassed) => Filter::All,
        Some(Filter::All | Filter::Running) | None => Filter::NotPassed,
    }
}
