//! One run: how it stands, its first failure, its tasks, and beside them the output of one.

use common::{
    Phase, RunState, TaskId, duration, headline, passed_again, run_tests, source_words, task_words,
};
use yew::prelude::*;

use super::{failures, log, parts, task, tasks};
use crate::log::cut;
use crate::model::{Asked, Model, Remote, RunPage, first_bad, is_bad};
use crate::route::Route;
use crate::update::Msg;

pub(crate) fn view(model: &Model, page: &RunPage, send: &Callback<Msg>) -> Html {
    let state = match &page.state {
        Remote::Loaded(state) => state,
        Remote::Loading => {
            let words = format!("Loading run {}…", page.run);
            return html! { <main class="message"><p class="waiting" role="status">{ words }</p></main> };
        }
        Remote::Failed(problem) => {
            return html! {
                <main class="message failed">
                    <h1>{ format!("Run {} cannot be shown", page.run) }</h1>
                    { parts::problem(problem) }
                    <p><a href="/">{ "To the runs" }</a></p>
                </main>
            };
        }
    };
    html! {
        <main class={classes!("run-page", page.task.as_ref().map(|_| "with-output"))}>
            { view_verdict(model, page, state, send) }
            if let Some(refused) = &page.refused {
                { parts::refused("That was not done", refused) }
            }
            <div class="columns">
                <div class="overview">
                    if page.task.is_none() {
                        if !failures::tells(page) {
                            { view_first_bad(page, state) }
                        }
                        { failures::view(model, page, state, send) }
                    }
                    { tasks::view(model, page, state, send) }
                </div>
                if let Some(pane) = &page.task {
                    { task::view(model, page, state, pane, send) }
                }
            </div>
        </main>
    }
}

/// The run's state in one word; also the class.
fn word(state: &RunState) -> &'static str {
    match state.phase {
        Phase::Ended(verdict) => verdict.outcome().word(),
        Phase::Running | Phase::Unborn => "running",
    }
}

fn view_verdict(model: &Model, page: &RunPage, state: &RunState, send: &Callback<Msg>) -> Html {
    let until_ms = state.ended_at_ms.unwrap_or(model.now_ms);
    let took = duration(until_ms.saturating_sub(began_at_ms(state)));
    let times = state.latest_attempt();
    let qualified = parts::qualified(word(state), &headline(state));
    html! {
        <section class={classes!("verdict", word(state), qualified)} aria-label="verdict">
            { parts::mark() }
            <div class="words">
                <h1>
                    <span class="which">{ format!("Run {} ", page.run) }</span>
                    <span role="status">{ headline(state) }</span>
                </h1>
                <p class="facts">
                    <span class="took">{ took }</span>
                    <span title={parts::clock(state.started_at_ms, model.utc_offset_min)}>
                        { format!("started {}", parts::when(state.started_at_ms, model.now_ms, model.utc_offset_min)) }
                    </span>
                    if let Some(source) = &state.source {
                        <span class="source" title={source.commit.clone()}>{ source_words(source) }</span>
                    }
                    if let Some(tests) = run_tests(state) {
                        <span class="tests-of-run">{ format!("tests: {}", tests.words()) }</span>
                    }
                    if times > 1 {
                        <span>{ format!("re-run, attempt {times}") }</span>
                    }
                </p>
            </div>
            <div class="actions">{ view_actions(page, state, send) }</div>
            { view_bar(state) }
        </section>
    }
}

/// When what is running now, or ran last, began: a re-run does not count the rest between.
fn began_at_ms(state: &RunState) -> u64 {
    let again = state.tasks().filter_map(|task| task.attempts.last()).filter(|attempt| attempt.number > 1);
    let last = state.latest_attempt();
    again
        .filter(|attempt| attempt.number == last)
        .map(|a| a.started_at_ms)
        .min()
        .unwrap_or(state.started_at_ms)
}

fn view_actions(page: &RunPage, state: &RunState, send: &Callback<Msg>) -> Html {
    match state.phase {
        Phase::Running | Phase::Unborn => {
            let asked = state.cancel_asked || page.asked == Some(Asked::Cancel);
            html! {
                <button disabled={asked} onclick={parts::on(send, Msg::WantCancel)}>
                    { if asked { "Cancelling…" } else { "Cancel" } }<kbd>{ "c" }</kbd>
                </button>
            }
        }
        Phase::Ended(_) => {
            let again = state.not_passed().len();
            let asked = page.asked == Some(Asked::Rerun);
            let words = if asked {
                "Starting…".to_owned()
            } else {
                format!("Re-run {}", parts::count(again, "task"))
            };
            html! {
                <>
                if again > 0 {
                    <button class="primary" disabled={asked} onclick={parts::on(send, Msg::WantRerun { only: None })}
                        title="new attempts of what did not pass, on the pipedef and images of this run">
                        { words }<kbd>{ "r" }</kbd>
                    </button>
                }
                if state.has_tests_to_run_alone() {
                    <button disabled={asked} onclick={parts::on(send, Msg::WantFailedTests)}
                        title="quick, and never green: the others do not run again">
                        { "Re-run failed tests" }
                    </button>
                }
                </>
            }
        }
    }
}

/// From the worst to what is still to come.
const ORDER: [&str; 8] =
    ["errored", "timed_out", "failed", "cancelled", "passed", "running", "pending", "skipped"];

fn view_bar(state: &RunState) -> Html {
    let counts = state.counts();
    let counts: Vec<(&str, usize)> =
        ORDER.iter().filter_map(|word| counts.get(word).map(|count| (*word, *count))).collect();
    let parts_of_bar = counts.iter().map(|(word, count)| {
        html! { <span class={classes!("part", *word)} style={format!("flex-grow:{count}")} /> }
    });
    let again = passed_again(state);
    let words = counts.iter().map(|(word, count)| {
        let count = parts::grouped(*count as u64);
        let words = match *word {
            "passed" if again > 0 => format!("passed, {} at a later attempt", parts::grouped(again as u64)),
            word => word.replace('_', " "),
        };
        html! { <li class={*word}>{ parts::mark() }<b>{ count }</b>{ words }</li> }
    });
    html! {
        <>
            <div class="bar" aria-hidden="true">{ for parts_of_bar }</div>
            <ul class="counts" aria-label="tasks by state">{ for words }</ul>
        </>
    }
}

/// The end of its output with its colours, where it is the one of which that was asked for.
pub(super) fn view_tail(page: &RunPage, task: &TaskId) -> Option<Html> {
    let tail = page.tail.as_ref().filter(|tail| tail.of.task == *task && !tail.lines.is_empty())?;
    let lines =
        tail.lines.iter().map(|line| html! { <div>{ log::view_text(line, cut(line).len(), &[]) }</div> });
    Some(html! {
        <pre class="tail" tabindex="0" aria-label={format!("the end of the output of {task}")}>{ for lines }</pre>
    })
}

/// The first failure, impossible to miss: until it is known what all of them are.
fn view_first_bad(page: &RunPage, state: &RunState) -> Html {
    let Some(first) = first_bad(state) else { return html! {} };
    let others = state.tasks().filter(|task| is_bad(task.state)).count() - 1;
    let url = Route::latest(page.run, first.id.clone()).url();
    let end = first.attempts.last().and_then(|attempt| attempt.end.as_ref());
    html! {
        <section class={classes!("first-bad", first.state.word())} aria-label="the first that did not pass">
            <h2>
                { parts::mark() }
                <a href={url.clone()}>{ first.id.to_string() }</a>
                <span class="word">{ task_words(first) }</span>
                if let Some(end) = end {
                    <span class="took">{ duration(end.took_ms) }</span>
                }
            </h2>
            { end.map(parts::problem_of) }
            { view_tail(page, &first.id) }
            <p class="next">
                <a class="button" href={url}>{ "See its output" }<kbd>{ "f" }</kbd></a>
                if others > 0 {
                    <span>{ format!("the first of {} that did not pass", others + 1) }</span>
                }
            </p>
        </section>
    }
}
