//! The pipeline as the pipedef declares it now, and the button that runs it.

use common::{Pipeline, TaskId};
use yew::prelude::*;

use super::parts;
use crate::model::{Remote, RunsPage};
use crate::update::Msg;

pub(crate) fn view(page: &RunsPage, send: &Callback<Msg>) -> Html {
    let (class, body) = match &page.pipeline {
        Remote::Loading => (None, html! { <p class="waiting">{ "Reading the pipedef…" }</p> }),
        Remote::Loaded(pipeline) => (None, view_stages(page, pipeline, send)),
        Remote::Failed(problem) => (
            Some("failed"),
            html! {
                <>
                    <p class="lead">{ parts::mark() }{ "The pipedef cannot be run as it is now." }</p>
                    { parts::problem(problem) }
                    <button onclick={parts::on(send, Msg::WantPipeline)}>{ "Read it again" }</button>
                </>
            },
        ),
    };
    html! {
        <section class={classes!("pipeline", class)} aria-labelledby="pipeline">
            <div class="pipeline-head">
                <h1 id="pipeline">{ "Pipeline" }</h1>
                { view_extent(page) }
                <button class="primary" disabled={page.starting} onclick={parts::on(send, Msg::WantRun { only: None })}>
                    { if page.starting { "Starting…" } else { "Run" } }<kbd>{ "r" }</kbd>
                </button>
            </div>
            if let Some(refused) = page.refused.as_ref().filter(|_| !matches!(&page.pipeline, Remote::Failed(_))) {
                { parts::refused("The run did not start", refused) }
            }
            { body }
        </section>
    }
}

fn view_extent(page: &RunsPage) -> Html {
    let Remote::Loaded(pipeline) = &page.pipeline else { return html! {} };
    let stages = parts::count(pipeline.stages.len(), "stage");
    let tasks = parts::count(pipeline.tasks().count(), "task");
    html! { <p class="extent">{ format!("{stages}, {tasks}") }</p> }
}

/// More names than these are told by their number.
const NAMES_SHOWN: usize = 12;

fn view_stages(page: &RunsPage, pipeline: &Pipeline, send: &Callback<Msg>) -> Html {
    let run = |only: Vec<TaskId>| parts::on(send, Msg::WantRun { only: Some(only) });
    let stages = pipeline.stages.iter().map(|stage| {
        let ids: Vec<TaskId> = stage.tasks.iter().map(|task| TaskId::new(&stage.name, &task.name)).collect();
        let more = ids.len().saturating_sub(NAMES_SHOWN);
        let names = ids.iter().take(NAMES_SHOWN).map(|id| {
            html! {
                <li>
                    <button disabled={page.starting} onclick={run(vec![id.clone()])}
                        title={format!("run {id} alone")}>{ &id.task }</button>
                </li>
            }
        });
        html! {
            <li class="stage">
                <h2>
                    { &stage.name }
                    if pipeline.stages.len() > 1 {
                        <button disabled={page.starting} onclick={run(ids.clone())}
                            title="run this stage alone">{ "Run stage" }</button>
                    }
                </h2>
                <p class="extent">
                    { parts::count(stage.tasks.len(), "task") }
                    if stage.always {
                        { ", always" }
                    }
                </p>
                <ul class="names">
                    { for names }
                    if more > 0 {
                        <li class="more">{ format!("and {} more", parts::grouped(more as u64)) }</li>
                    }
                </ul>
            </li>
        }
    });
    html! { <ol class="stages">{ for stages }</ol> }
}
