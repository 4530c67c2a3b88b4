//! One task: its attempts, the steps of the one that is shown, and that one's output.

use common::{Attempt, RunState, SkipReason, StepRun, StepState, TaskRun, TaskState, duration, task_words};
use yew::prelude::*;

use super::{artifacts, log, parts, tests};
use crate::model::{Model, RunPage, TaskPane};
use crate::route::{Part, Route};
use crate::update::Msg;

pub(crate) fn view(
    model: &Model,
    page: &RunPage,
    state: &RunState,
    pane: &TaskPane,
    send: &Callback<Msg>,
) -> Html {
    let close = Route::Run(page.run).url();
    let Some(task) = state.task(&pane.task) else {
        return html! {
            <section class="output failed">
                <h2>{ format!("There is no task {} in run {}.", pane.task, page.run) }</h2>
                <p><a href={close}>{ format!("To run {}", page.run) }</a></p>
            </section>
        };
    };
    let number = pane.of.as_ref().map(|of| of.attempt as usize);
    let attempt = number.and_then(|number| task.attempts.get(number - 1));
    let qualified = parts::qualified(task.state.word(), &task_words(task));
    let again = state.to_run_again(Some(std::slice::from_ref(&task.id))).is_ok();
    html! {
        <section class={classes!("output", task.state.word(), qualified)} aria-label={format!("task {}", task.id)}>
            <header>
                { parts::mark() }
                <h2>{ task.id.to_string() }</h2>
                <span class="word">{ task_words(task) }</span>
                <span class="took">{ parts::elapsed(task, model.now_ms) }</span>
                { view_attempts(page, task, attempt) }
                if again {
                    <button class="again" disabled={page.asked.is_some()}
                        onclick={parts::on(send, Msg::WantRerun { only: Some(task.id.clone()) })}
                        title="a new attempt of this task, and of what was skipped because of it">
                        { "Re-run this task" }<kbd>{ "R" }</kbd>
                    </button>
                }
                <a class="button quiet close" href={close} aria-label="close the task">{ "×" }</a>
            </header>
            { view_attempt(model, page, task, pane, attempt, send) }
        </section>
    }
}

/// One link per attempt, where there is a choice.
fn view_attempts(page: &RunPage, task: &TaskRun, shown: Option<&Attempt>) -> Html {
    if task.attempts.len() < 2 {
        return html! {};
    }
    let links = task.attempts.iter().map(|attempt| {
        let route = Route::Task {
            run: page.run,
            task: task.id.clone(),
            attempt: Some(attempt.number),
            part: Part::Whole,
        };
        let current = shown.is_some_and(|shown| shown.number == attempt.number);
        let word = attempt.end.as_ref().map_or("running", |end| end.verdict.outcome().word());
        html! {
            <a class={word} href={route.url()} aria-current={current.then_some("true")} title={word}>
                { parts::mark() }{ attempt.number }
            </a>
        }
    });
    html! { <nav class="attempts" aria-label="attempts">{ "attempt" }{ for links }</nav> }
}

fn view_attempt(
    model: &Model,
    page: &RunPage,
    task: &TaskRun,
    pane: &TaskPane,
    attempt: Option<&Attempt>,
    send: &Callback<Msg>,
) -> Html {
    let Some(attempt) = attempt else {
        let words = match (pane.attempt, task.state) {
            (Some(number), _) => format!("There is no attempt {number} of this task."),
            (None, TaskState::Skipped(why)) => format!("{}, so it has printed nothing.", skipped(why)),
            (None, _) => "It has not started yet. Its output will appear here.".to_owned(),
        };
        return html! { <p class="empty">{ words }</p> };
    };
    let steps = attempt.steps.iter().enumerate();
    html! {
        <>
            { attempt.end.as_ref().map(parts::problem_of) }
            <ol class="steps" aria-label="steps">
                { for steps.map(|(i, step)| view_step(model, i, step, attempt, send)) }
            </ol>
            { tests::view(pane, send) }
            { artifacts::view(page.run, &task.id, attempt) }
            { log::view(model, pane, attempt, send) }
        </>
    }
}

fn skipped(why: SkipReason) -> &'static str {
    match why {
        SkipReason::EarlierStage => "It was skipped, as a stage before it did not pass",
        SkipReason::Cancelled => "It was skipped, as the run was cancelled before it began",
        SkipReason::NotSelected => "It was not selected: this run is of a part of the pipeline",
        SkipReason::Abandoned => "It was skipped, as what carried the run ended before it began",
    }
}

/// `told` was said of the attempt as a whole, and need not be said again.
fn view_step(model: &Model, i: usize, step: &StepRun, attempt: &Attempt, send: &Callback<Msg>) -> Html {
    let told =
        attempt.end.as_ref().and_then(|end| end.problem.as_ref()).map(|problem| problem.error.as_str());
    let (class, word, took) = standing(step, model.now_ms);
    let command = step.spec.command.for_show();
    let message = match &step.state {
        StepState::Ended(end) if end.message.as_deref() == told => None,
        StepState::Ended(end) => end.message.as_ref().map(|message| (message, end.hint.as_ref())),
        StepState::Asked | StepState::Queued | StepState::Preparing { .. } | StepState::Running { .. } => {
            None
        }
    };
    let number = format!("{}", i + 1);
    html! {
        <li key={step.id.to_string()} class={classes!("step", class)}>
            { parts::mark() }
            if attempt.steps.len() > 1 {
                <button class="quiet number" onclick={parts::on(send, Msg::ToStep(step.id.clone()))}
                    title="to where its output begins">{ number }</button>
            }
            <code class="command" title={command.clone()}>{ &command }</code>
            <span class="word">{ word }</span>
            <span class="took">{ took }</span>
            <span class="where">{ format!("{} on {}", step.spec.image, step.worker) }</span>
            if let Some((message, hint)) = message {
                <p class="message">
                    { message }
                    if let Some(hint) = hint {
                        <br /><b>{ "hint " }</b>{ hint }
                    }
                </p>
            }
            if step.dropped_bytes > 0 {
                <p class="hole">{ format!("{} of its output were left out: it was longer than its cap.", parts::size(step.dropped_bytes)) }</p>
            }
            if step.gap {
                <p class="hole">{ "Some of its output was lost." }</p>
            }
        </li>
    }
}

/// Its class, its state in words, and how long it took.
fn standing(step: &StepRun, now_ms: u64) -> (&'static str, String, Option<String>) {
    match &step.state {
        StepState::Asked => ("pending", "asking the worker".to_owned(), None),
        StepState::Queued => ("pending", "queued".to_owned(), None),
        StepState::Preparing { what, done_bytes, total_bytes } => {
            let far = match (done_bytes, total_bytes) {
                (Some(done), Some(total)) => format!(", {} of {}", parts::size(*done), parts::size(*total)),
                (Some(done), None) => format!(", {}", parts::size(*done)),
                (None, _) => String::new(),
            };
            ("running", format!("{what}{far}"), None)
        }
        StepState::Running { since_ms } => {
            ("running", "running".to_owned(), Some(duration(now_ms.saturating_sub(*since_ms))))
        }
        StepState::Ended(end) => {
            let outcome = end.verdict.outcome();
            let mut words = match end.exit_code {
                Some(code) if outcome == common::Outcome::Failed => format!("exit {code}"),
                _ => outcome.word().replace('_', " "),
            };
            if let Some(reason) = end.verdict.reason().filter(|_| outcome != common::Outcome::Failed) {
                words.push_str(&format!(": {reason}"));
            }
            if end.oom {
                words.push_str(", out of memory");
            }
            (outcome.word(), words, Some(duration(end.took_ms)))
        }
    }
}
