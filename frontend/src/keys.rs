//! The keys, as data: what `msg_for_key` answers and what the help panel shows is one table.

use crate::model::{Filter, Model, OutputOf, Page, Session};
use crate::route::{Part, Route};
use crate::update::Msg;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// As the browser names it: `r`, `?`, `ArrowDown`.
    pub name: String,
    pub focus: Focus,
}

/// What has the focus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Focus {
    Page,
    /// A field where people type, or else something to which this key means something by itself.
    Field,
    /// The field in which an output is searched.
    Find,
    /// The list of tests.
    Tests,
    /// The field in which a test is searched.
    FindTest,
}

/// Where a key means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Anywhere,
    Runs,
    Doctor,
    Run,
    Output,
    /// The list of tests, while it has the focus.
    Tests,
    /// The field in which a test is searched.
    FindTest,
    /// The field in which an output is searched.
    Find,
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
    key(Place::Anywhere, &["d"], "what is missing on the boss's machine", |_| Some(Msg::GoTo(Route::Doctor))),
    key(Place::Anywhere, &["?"], "these keys", |_| Some(Msg::ToggleHelp)),
    key(Place::Runs, &["r"], "run the pipeline", |_| Some(Msg::WantRun { only: None })),
    key(Place::Runs, &["o"], "older runs", |_| Some(Msg::WantOlderRuns)),
    key(Place::Runs, &["e"], "read the pipedef again", |_| Some(Msg::WantPipeline)),
    key(Place::Runs, &["h"], "ask the workers how they are", |_| Some(Msg::WantWorkers)),
    key(Place::Doctor, &["h"], "look again", |_| Some(Msg::WantCheckup)),
    key(Place::Run, &["f"], "to the first failure", |_| Some(Msg::GoToFirstBad)),
    key(Place::Run, &["n"], "only what did not pass", |model| Some(Msg::SetFilter(other_filter(model)))),
    key(Place::Run, &["/"], "search the tasks", |_| Some(Msg::WantSearch)),
    key(Place::Run, &["r"], "re-run what did not pass", |_| Some(Msg::WantRerun { only: None })),
    key(Place::Run, &["c"], "cancel the run", |_| Some(Msg::WantCancel)),
    key(Place::Output, &["G"], "to the end of the output, and stay there", |_| Some(Msg::ToEnd)),
    key(Place::Output, &["/"], "search the output", |_| Some(Msg::WantFind)),
    key(Place::Output, &["n"], "next line that was found", |model| next_hit(model, 1)),
    key(Place::Output, &["N"], "previous line that was found", |model| next_hit(model, -1)),
    key(Place::Output, &["l"], "a link to the line that was found", link_to_hit),
    key(Place::Output, &["R"], "re-run this task", rerun_of_task),
    key(Place::Output, &["t"], "to the tests", |_| Some(Msg::GoToTests)),
    key(Place::Output, &["w"], "wrap long lines", |_| Some(Msg::ToggleWrap)),
    key(Place::Output, &["y"], "copy the output", |_| Some(Msg::CopyLog)),
    key(Place::Tests, &["j", "ArrowDown"], "next test", |_| Some(Msg::MoveAmongTests(1))),
    key(Place::Tests, &["k", "ArrowUp"], "previous test", |_| Some(Msg::MoveAmongTests(-1))),
    // The browser itself presses the button that the cursor is on.
    key(Place::Tests, &["Enter"], "what was wrong with it, and its history", |_| None),
    key(Place::Tests, &["n"], "only those that failed, that are flaky, or all", |_| {
        Some(Msg::NextTestFilter)
    }),
    key(Place::Tests, &["/"], "search the tests by name", |_| Some(Msg::WantTestSearch)),
    key(Place::Tests, &["t"], "fold them", |_| Some(Msg::FoldTests)),
    key(Place::FindTest, &["Enter", "ArrowDown"], "to the first that was found", |_| Some(Msg::GoToTests)),
    key(Place::Find, &["Enter"], "next line that was found", |_| Some(Msg::FindNext(1))),
    key(Place::Find, &["Shift+Enter"], "previous line that was found", |_| Some(Msg::FindNext(-1))),
];

impl Place {
    pub(crate) fn includes(self, model: &Model) -> bool {
        match (self, &model.page) {
            (Place::Anywhere, _) => true,
            (Place::Runs, page) => matches!(page, Page::Runs(_)),
            (Place::Doctor, page) => matches!(page, Page::Doctor(_)),
            (Place::Run, page) => matches!(page, Page::Run(_)),
            (Place::Output | Place::Find, Page::Run(page)) => page.task.is_some(),
            (Place::Tests | Place::FindTest, Page::Run(page)) => page
                .task
                .as_ref()
                .is_some_and(|pane| pane.tests.loaded().is_some_and(|view| !view.tests.is_empty())),
            (
                Place::Output | Place::Find | Place::Tests | Place::FindTest,
                Page::Runs(_) | Page::Doctor(_) | Page::Nowhere,
            ) => false,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Place::Anywhere => "anywhere",
            Place::Runs => "runs",
            Place::Doctor => "doctor",
            Place::Run => "run",
            Place::Output => "output",
            Place::Tests => "among the tests",
            Place::FindTest => "while you type which test to search",
            Place::Find => "while you type what to search in the output",
        }
    }
}

pub(crate) fn msg_for_key(model: &Model, key: &Key) -> Option<Msg> {
    if model.session != Session::Open {
        return None;
    }
    // Whoever reads what the keys do does not want it done.
    if model.help && !matches!(key.name.as_str(), "?" | "Escape") {
        return None;
    }
    let heard = |s: &Shortcut| match s.place {
        Place::Find => key.focus == Focus::Find,
        Place::FindTest => key.focus == Focus::FindTest,
        Place::Tests => key.focus == Focus::Tests,
        Place::Anywhere | Place::Runs | Place::Doctor | Place::Run | Place::Output => {
            !key.focus.takes_text() || key.name == "Escape"
        }
    };
    let meant = |s: &&Shortcut| s.names.contains(&key.name.as_str()) && heard(s) && s.place.includes(model);
    SHORTCUTS.iter().rev().filter(meant).find_map(|shortcut| (shortcut.msg)(model))
}

/// Ours, so that the browser does nothing of its own with it. Enter and Escape stay the browser's as well.
pub(crate) fn is_ours(key: &Key) -> bool {
    let named = |s: &Shortcut| s.names.contains(&key.name.as_str());
    !key.focus.takes_text()
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
        "Shift+Enter" => "Shift Enter",
        other => other,
    }
}

impl Focus {
    fn takes_text(self) -> bool {
        match self {
            Focus::Field | Focus::Find | Focus::FindTest => true,
            Focus::Page | Focus::Tests => false,
        }
    }
}

fn back(model: &Model) -> Msg {
    match (&model.page, &model.route) {
        _ if model.help => Msg::ToggleHelp,
        (Page::Run(page), _) if page.task.as_ref().is_some_and(|pane| !pane.find.wanted.is_empty()) => {
            Msg::Find(String::new())
        }
        (Page::Run(page), _) if page.task.as_ref().is_some_and(|pane| !pane.tests.search.is_empty()) => {
            Msg::SearchTests(String::new())
        }
        (Page::Run(page), _) if !page.search.is_empty() => Msg::Search(String::new()),
        (_, Route::Task { run, .. }) => Msg::GoTo(Route::Run(*run)),
        (_, Route::Run(_) | Route::Doctor | Route::Nowhere(_) | Route::Runs) => Msg::GoTo(Route::Runs),
    }
}

/// None where nothing was found: the key may mean something else then.
fn next_hit(model: &Model, by: isize) -> Option<Msg> {
    found(model).map(|_| Msg::FindNext(by))
}

fn rerun_of_task(model: &Model) -> Option<Msg> {
    let pane = model.run_page()?.task.as_ref()?;
    Some(Msg::WantRerun { only: Some(pane.task.clone()) })
}

fn link_to_hit(model: &Model) -> Option<Msg> {
    let (of, line) = found(model)?;
    let (run, task) = (of.run, of.task.clone());
    Some(Msg::GoTo(Route::Task { run, task, attempt: Some(of.attempt), part: Part::Line(line) }))
}

/// The line of the output that was found, and whose output.
fn found(model: &Model) -> Option<(&OutputOf, usize)> {
    let pane = model.run_page()?.task.as_ref()?;
    Some((pane.of.as_ref()?, pane.find.line()?))
}

fn other_filter(model: &Model) -> Filter {
    match model.run_page().map(|page| page.filter) {
        Some(Filter::NotPassed) => Filter::All,
        Some(Filter::All | Filter::Running) | None => Filter::NotPassed,
    }
}
