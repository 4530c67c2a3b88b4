//! The tests of the task that is shown: when they are asked for, and what one does with the list.

use common::TaskId;

use crate::model::{Model, OutputOf, Page, Remote, RunPage, TaskPane};
use crate::test_list::{TestFilter, TestList};
use crate::update::{Effect, FIND_TEST_ELEMENT, Msg};

pub(super) fn update(model: &mut Model, msg: Msg) -> Vec<Effect> {
    let Page::Run(page) = &mut model.page else { return vec![Effect::Still] };
    let Some(pane) = &mut page.task else { return vec![Effect::Still] };
    let tests = &mut pane.tests;
    match msg {
        Msg::GotTests(of, answer) if pane.of.as_ref() == Some(&of) => {
            tests.got(answer);
            to_named(pane)
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
        // Of a task that runs there is nothing to go to yet.
        Msg::GoToTests if tests.loaded().is_none() => {
            tests.unfolded = Some(!tests.is_unfolded());
            vec![]
        }
        Msg::GoToTests => {
            tests.unfolded = Some(true);
            focus(tests.move_cursor(0))
        }
        Msg::MoveAmongTests(by) => focus(tests.move_cursor(by)),
        Msg::FilterTests(filter) => {
            tests.want(filter, tests.search.clone());
            tests.unfolded = Some(true);
            vec![]
        }
        Msg::NextTestFilter => {
            tests.want(tests.next_filter(), tests.search.clone());
            // What had the focus may be gone.
            focus(tests.move_cursor(0))
        }
        Msg::SearchTests(words) => {
            tests.want(tests.filter, words);
            tests.unfolded = Some(true);
            vec![]
        }
        Msg::WantTestSearch => vec![Effect::Still, Effect::Focus(FIND_TEST_ELEMENT.to_owned())],
        Msg::ToggleTest(place) => {
            let name = tests.toggle(place);
            let of = pane.of.clone();
            name.zip(of).map(|(name, of)| Effect::FetchTestHistory { of, name }).into_iter().collect()
        }
        Msg::LaterTests => focus(tests.go_on()),
        Msg::EarlierTests => focus(tests.go_back()),
        _ => vec![Effect::Still],
    }
}

fn focus(place: Option<usize>) -> Vec<Effect> {
    place.map(|place| Effect::Focus(test_element(place))).into_iter().collect()
}

/// Unfolds the test that the address names, once it is there.
pub(super) fn to_named(pane: &mut TaskPane) -> Vec<Effect> {
    if pane.tests.loaded().is_none() {
        return vec![];
    }
    let Some(place) = pane.test.take().and_then(|name| pane.tests.place_of(&name)) else { return vec![] };
    pane.tests.want(TestFilter::All, String::new());
    pane.tests.unfolded = Some(true);
    pane.tests.go_to(place);
    let mut effects = vec![Effect::Focus(test_element(place))];
    if !pane.tests.open.contains(&place) {
        let name = pane.tests.toggle(place);
        effects.extend(name.zip(pane.of.clone()).map(|(name, of)| Effect::FetchTestHistory { of, name }));
    }
    effects
}

/// The id of a test's element in the page.
pub(crate) fn test_element(place: usize) -> String {
    format!("test-{place}")
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
