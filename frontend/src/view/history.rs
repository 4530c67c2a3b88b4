//! The first page: the pipeline as it is declared now, and the runs, newest first.

use common::{Outcome, RunSummary, StartedBy, duration};
use yew::prelude::*;

use super::{parts, pipeline, workers};
use crate::model::{History, Model, Remote, RunsPage};
use crate::route::Route;
use crate::update::{Msg, run_element};

pub(crate) fn view(model: &Model, page: &RunsPage, send: &Callback<Msg>) -> Html {
    let runs = match &page.runs {
        Remote::Loading => html! { <p class="waiting">{ "Loading the runs…" }</p> },
        Remote::Failed(problem) => parts::problem(problem),
        Remote::Loaded(history) if history.runs.is_empty() => view_empty(page),
        Remote::Loaded(history) => view_history(model, history, send),
    };
    html! {
        <main class="runs-page">
            { pipeline::view(page, send) }
            { workers::view(page, send) }
            <section class="history" aria-labelledby="runs">
                <h2 id="runs">{ "Runs" }</h2>
                { runs }
            </section>
        </main>
    }
}

fn view_empty(page: &RunsPage) -> Html {
    let next = match &page.pipeline {
        Remote::Failed(_) => html! { <>{ "Mend the pipedef first: what is wrong with it stands above." }</> },
        Remote::Loading | Remote::Loaded(_) => html! {
            <>{ "Press " }<kbd>{ "r" }</kbd>{ " or the button above. The tasks of a stage run at once, and what fails shows here the moment it does." }</>
        },
    };
    html! {
        <div class="empty">
            <p class="lead">{ "Nothing has run yet." }</p>
            <p>{ next }</p>
        </div>
    }
}

fn view_history(model: &Model, history: &History, send: &Callback<Msg>) -> Html {
    html! {
        <>
            <ul class="runs">{ for history.runs.iter().map(|run| view_run(model, run)) }</ul>
            if history.next.is_some() {
                <button onclick={parts::on(send, Msg::WantOlderRuns)}>{ "Older runs" }</button>
            }
        </>
    }
}

fn by_words(by: StartedBy) -> &'static str {
    match by {
        StartedBy::Page => "by the page",
        StartedBy::Api => "by the API",
        StartedBy::Terminal => "in a terminal",
    }
}

fn view_run(model: &Model, run: &RunSummary) -> Html {
    let word = run.verdict.map_or("running", |verdict| verdict.outcome().word());
    let until_ms = run.ended_at_ms.unwrap_or(model.now_ms);
    let not_all = run.tasks_passed < run.tasks && run.verdict.is_some_and(|v| v.outcome() != Outcome::Passed);
    html! {
        <li key={run.run.0} class={classes!("run", word, parts::qualified(word, &run.headline))}>
            <a href={Route::Run(run.run).url()} id={run_element(run.run)}>
                { parts::mark() }
                <span class="number">{ format!("{}", run.run) }</span>
                <span class="headline">{ &run.headline }</span>
                <span class="by">{ run.started_by.map(by_words) }</span>
                <span class={classes!("tasks", not_all.then_some("short"))}>
                    { format!("{} of {} passed", run.tasks_passed, parts::count(run.tasks, "task")) }
                </span>
                <span class="took">{ duration(until_ms.saturating_sub(run.started_at_ms)) }</span>
                <span class="when" title={parts::clock(run.started_at_ms, model.utc_offset_min)}>
                    { parts::when(run.started_at_ms, model.now_ms, model.utc_offset_min) }
                </span>
            </a>
        </li>
    }
}
