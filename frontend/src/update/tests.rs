//! The tests of the task that is shown: when they are asked for, and what one does with the list.

use common::TaskId;

use crate::model::{Model, OutputOf, Page, Remote, RunPage, TaskPane};
use crate::test_list::TestList;
use crate::update::{Effect, Msg};

pub(super) fn update(model: &mut Model, msg: Msg) -> Vec<Effect> {
    let Page::Run(page) = &mut model.page else { return vec![Effect::Still] };
    let Some(pane) = &mut page.task else { return vec![Effect::Still] };
    let tests = &mut pane.tests;
    match msg {
        Msg::GotTests(of, answer) if pane.of.as_ref() == Some(&of) => {
            tests.got(answer);
            vec![]
        }
        Msg::GotTestHistory { of, name, answer } if pane.of.as_ref() == Some(&of) => {
            let known = match answer {
                Ok(history) => Remote::Loaded(*history),
                Err(problem) => Remote::Failed(problem),
            };
            tests.histories.insert(name, known);
            vec![]
        }
        Msg::FoldTests => {
            tests.unfolded = Some(!tests.is_unfolded());
            vec![]
        }
        Msg::FilterTests(filter) => {
            tests.filter = filter;
            tests.unfolded = Some(true);
            vec![]
        }
        Msg::ToggleTest(place) => {
            let name = tests.toggle(place);
            let of = pane.of.clone();
            name.zip(of).map(|(name, of)| Effect::FetchTestHistory { of, name }).into_iter().collect()
        }
        Msg::MoreTests => {
            tests.draw_more();
            vec![]
        }
        _ => vec![Effect::Still],
    }
}

/// Another attempt is shown from here on: it is listened to, or asked for.
pub(super) fn begin(pane: &mut TaskPane, of: &OutputOf, has_ended: bool) -> Option<Effect> {
    pane.tests = if has_ended { TestList::asked() } else { TestList::listening() };
    has_ended.then(|| Effect::FetchTests(of.clone()))
}

/// An attempt has ended, and its tests are stored.
pub(super) fn ended(page: &mut RunPage, task: &TaskId, attempt: u32) -> Vec<Effect> {
    let Some(pane) = &mut page.task else { return vec![] };
    let of = pane.of.as_ref().filter(|of| of.task == *task && of.attempt == attempt);
    of.cloned().map(Effect::FetchTests).into_iter().collect()
}

/// Time has passed.
pub(super) fn beat(model: &mut Model) {
    let now_ms = model.now_ms;
    if let Page::Run(page) = &mut model.page
        && let Some(pane) = &mut page.task
    {
        pane.tests.beat(now_ms);
    }
}
