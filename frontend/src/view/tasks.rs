//! What narrows down the tasks of a run, and below it the tasks themselves.

use common::{Phase, RunState};
use std::rc::Rc;
use yew::prelude::*;

use super::groups::Groups;
use super::parts;
use crate::effects::typed;
use crate::model::{Filter, Model, RunPage, beat_ms, shown};
use crate::update::{Msg, SEARCH_ELEMENT};

pub(crate) fn view(model: &Model, page: &RunPage, state: &Rc<RunState>, send: &Callback<Msg>) -> Html {
    // While a run of many tasks is running, its tasks are drawn with each beat rather than with each event.
    let beat_ms = u64::from(beat_ms(state));
    let (now_ms, drawn_to) = match state.phase {
        Phase::Running if beat_ms > 100 => (model.now_ms / beat_ms * beat_ms, 0),
        Phase::Running => (model.now_ms / beat_ms * beat_ms, state.last_seq.0),
        Phase::Unborn | Phase::Ended(_) => (0, state.last_seq.0),
    };
    html! {
        <div class="stages">
            { view_filter(page, state, send) }
            <Groups
                state={state.clone()}
                filter={page.filter}
                search={page.search.clone()}
                open={page.task.as_ref().map(|pane| pane.task.clone())}
                {now_ms}
                {drawn_to}
            />
            if shown(state, page.filter, &page.search).is_empty() {
                <p class="empty">
                    { "No task here. " }
                    <button onclick={parts::on(send, Msg::ShowAll)}>{ "Show all" }</button>
                </p>
            }
        </div>
    }
}

fn view_filter(page: &RunPage, state: &RunState, send: &Callback<Msg>) -> Html {
    let choices = Filter::ALL.into_iter().map(|filter| {
        let count = state.tasks().filter(|task| filter.lets_through(task.state)).count();
        html! {
            <button aria-pressed={(page.filter == filter).to_string()} onclick={parts::on(send, Msg::SetFilter(filter))}>
                { filter.word() }<span class="count">{ parts::grouped(count as u64) }</span>
            </button>
        }
    });
    html! {
        <div class="filter" role="search" aria-label="tasks">
            <div class="choices" role="group" aria-label="which tasks">{ for choices }</div>
            <input id={SEARCH_ELEMENT} type="search" placeholder="Search  /" aria-label="search the tasks"
                autocomplete="off" spellcheck="false" value={page.search.clone()}
                oninput={send.reform(|event: InputEvent| Msg::Search(typed(&event)))} />
        </div>
    }
}
