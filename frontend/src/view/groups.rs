//! The tasks of a run: those that did not pass, then the others by stage.
//!
//! There can be thousands. So this is a component of its own, with no state, only so that it is not drawn again
//! for every line of output that arrives beside it.

use common::{Outcome, RunState, StepState, TaskId, TaskRun, TaskState, TestCounts, task_words};
use std::rc::Rc;
use yew::prelude::*;

use super::parts;
use crate::model::{Filter, Group, shown};
use crate::route::Route;
use crate::update::task_element;

#[derive(Properties)]
pub(crate) struct GroupsProps {
    pub state: Rc<RunState>,
    pub filter: Filter,
    pub search: String,
    /// The task whose output is shown.
    pub open: Option<TaskId>,
    /// As exact as is shown; not looked at when nothing runs.
    pub now_ms: u64,
    /// The position in the run's log up to which it has to be drawn.
    pub drawn_to: u64,
}

/// Equal where nothing new is to be seen. `state` itself is not compared: `drawn_to` and `now_ms` stand for it.
impl PartialEq for GroupsProps {
    fn eq(&self, other: &GroupsProps) -> bool {
        let key = |props: &GroupsProps| (props.state.number, props.filter, props.now_ms, props.drawn_to);
        key(self) == key(other) && self.search == other.search && self.open == other.open
    }
}

#[component]
pub(crate) fn Groups(props: &GroupsProps) -> Html {
    shown(&props.state, props.filter, &props.search).iter().map(|group| view_group(props, group)).collect()
}

fn view_group(props: &GroupsProps, group: &Group<'_>) -> Html {
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
    let tasks = group.tasks.iter().map(|task| view_task(props, task, group.stage.is_none()));
    html! { <section {key} class="stage">{ heading }<ul class="tasks">{ for tasks }</ul></section> }
}

fn view_task(props: &GroupsProps, task: &TaskRun, of_any_stage: bool) -> Html {
    let url = Route::latest(props.state.number, task.id.clone()).url();
    let open = props.open.as_ref() == Some(&task.id);
    let qualified = parts::qualified(task.state.word(), &task_words(task));
    html! {
        <li key={task.id.to_string()} class={classes!("task", task.state.word(), qualified)}>
            <a href={url} id={task_element(&task.id)} title={long_words(task)} aria-current={open.then_some("true")}>
                { parts::mark() }
                <span class="name">
                    if of_any_stage {
                        <span class="of">{ format!("{}.", task.id.stage) }</span>
                    }
                    { &task.id.task }
                </span>
                <span class="word">{ short_words(task) }</span>
                <span class="took">{ parts::elapsed(task, props.now_ms) }</span>
            </a>
        </li>
    }
}

/// The state in a row's width; the whole of it stands where the task is opened.
fn short_words(task: &TaskRun) -> String {
    match task.state {
        TaskState::Running => doing(task).to_owned(),
        TaskState::Ended(verdict) => match task.tests() {
            Some(tests) if verdict.passed() => words_of_tests(task, tests),
            // Of what ended otherwise, how it ended says more than how far it came.
            Some(tests) if tests.failed > 0 && verdict.outcome() == Outcome::Failed => {
                TestCounts { skipped: 0, ..tests }.words()
            }
            Some(_) | None if verdict.passed() => task_words(task),
            Some(_) | None => verdict.outcome().word().replace('_', " "),
        },
        TaskState::Skipped(_) => task.state.word().to_owned(),
        TaskState::Pending => task_words(task),
    }
}

/// Of a task that passed, and never plainer than that.
fn words_of_tests(task: &TaskRun, tests: TestCounts) -> String {
    match (task.attempts.len(), tests.flaky) {
        (0 | 1, 0) => tests.words(),
        (0 | 1, _) => TestCounts { skipped: 0, ..tests }.words(),
        (attempts, 0) => format!("on attempt {attempts}: {} passed", parts::grouped(tests.passed)),
        (attempts, flaky) => format!("on attempt {attempts}, {flaky} flaky"),
    }
}

/// All that there is to say of a task in a line: its name may be cut.
fn long_words(task: &TaskRun) -> String {
    match task.tests() {
        Some(tests) => format!("{}: {}; tests: {}", task.id, task_words(task), tests.words()),
        None => format!("{}: {}", task.id, task_words(task)),
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
