//! The tasks of a run, stage by stage, with what narrows them down.

use common::{RunState, StepState, TaskRun, TaskState, task_words};
use yew::prelude::*;

use super::parts;
use crate::effects::typed;
use crate::model::{Filter, Group, Model, RunPage};
use crate::route::Route;
use crate::update::{Msg, SEARCH_ELEMENT, task_element};

pub(crate) fn view(model: &Model, page: &RunPage, state: &RunState, send: &Callback<Msg>) -> Html {
    let groups = page.shown(state);
    html! {
        <div class="stages">
            { view_filter(page, state, send) }
            { for groups.iter().map(|group| view_group(model, page, group)) }
            if groups.is_empty() {
                <p class="empty">
                    { "No task here. " }
                    <button onclick={parts::on(send, Msg::ShowAll)}>{ "Show all" }</button>
                </p>
            }
        </div>
    }
}

fn view_group(model: &Model, page: &RunPage, group: &Group<'_>) -> Html {
    let heading = match group.stage {
        None => html! { <h2>{ "Did not pass" }<span class="extent">{ group.tasks.len() }</span></h2> },
        Some(stage) => {
            let passed = stage.tasks.iter().filter(|task| task.state.word() == "passed").count();
            html! {
                <h2>
                    { &stage.name }
                    <span class="extent">{ format!("{passed} of {} passed", stage.tasks.len()) }</span>
                    if stage.always {
                        <span class="extent">{ "always runs" }</span>
                    }
                </h2>
            }
        }
    };
    // No stage is called that: a name has no blanks.
    let key = group.stage.map_or("did not pass", |stage| &stage.name).to_owned();
    let tasks = group.tasks.iter().map(|task| view_task(model, page, task, group.stage.is_none()));
    html! { <section {key} class="stage">{ heading }<ul class="tasks">{ for tasks }</ul></section> }
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
        <div class="filter" role="search">
            <div class="choices" role="group" aria-label="which tasks">{ for choices }</div>
            <input id={SEARCH_ELEMENT} type="search" placeholder="Search  /" aria-label="search the tasks"
                autocomplete="off" spellcheck="false" value={page.search.clone()}
                oninput={send.reform(|event: InputEvent| Msg::Search(typed(&event)))} />
        </div>
    }
}

fn view_task(model: &Model, page: &RunPage, task: &TaskRun, of_any_stage: bool) -> Html {
    let url = Route::Task { run: page.run, task: task.id.clone(), attempt: None }.url();
    let open = page.task.as_ref().is_some_and(|pane| pane.task == task.id);
    html! {
        <li key={task.id.to_string()} class={classes!("task", task.state.word())}>
            <a href={url} id={task_element(&task.id)} title={task_words(task)} aria-current={open.then_some("true")}>
                { parts::mark() }
                <span class="name">
                    if of_any_stage {
                        <span class="of">{ format!("{}.", task.id.stage) }</span>
                    }
                    { &task.id.task }
                </span>
                <span class="word">{ short_words(task) }</span>
                <span class="took">{ parts::elapsed(task, model.now_ms) }</span>
            </a>
        </li>
    }
}

/// The state in a row's width; the whole of it stands where the task is opened.
fn short_words(task: &TaskRun) -> String {
    match task.state {
        TaskState::Running => doing(task).to_owned(),
        TaskState::Ended(verdict) if !verdict.passed() => verdict.outcome().word().replace('_', " "),
        TaskState::Skipped(_) => task.state.word().to_owned(),
        TaskState::Pending | TaskState::Ended(_) => task_words(task),
    }
}

/// What a running task is at: the furthest of its steps says it.
fn doing(task: &TaskRun) -> &'static str {
    let steps = task.attempts.last().map(|attempt| attempt.steps.as_slice()).unwrap_or_default();
    let any = |is: fn(&StepState) -> bool| steps.iter().any(|step| is(&step.state));
    if any(|state| matches!(state, StepState::Running { .. })) {
        "running"
    } else if any(|state| matches!(state, StepState::Preparing { .. })) {
        "preparing"
    } else if any(|state| matches!(state, StepState::Queued)) {
        "queued"
    } else {
        "running"
    }
}
