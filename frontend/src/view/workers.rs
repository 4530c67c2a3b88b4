//! How the workers are: a line where all are well, and what is wrong where one is not.

use common::{WorkerView, WorkersView};
use yew::prelude::*;

use super::parts;
use crate::model::{Remote, RunsPage};
use crate::route::Route;
use crate::update::Msg;

pub(crate) fn view(page: &RunsPage, send: &Callback<Msg>) -> Html {
    let body = match &page.workers {
        Remote::Loading => html! { <p class="waiting">{ "Asking the workers…" }</p> },
        Remote::Failed(problem) => parts::problem(problem),
        Remote::Loaded(told) => view_workers(told),
    };
    html! {
        <section class="health" aria-labelledby="workers">
            <div class="health-head">
                <h2 id="workers">{ "Workers" }</h2>
                <a class="button quiet" href={Route::Doctor.url()}>{ "Doctor" }<kbd>{ "d" }</kbd></a>
                <button class="quiet" disabled={page.workers == Remote::Loading} onclick={parts::on(send, Msg::WantWorkers)}>
                    { "Ask again" }<kbd>{ "h" }</kbd>
                </button>
            </div>
            <div role="status">{ body }</div>
        </section>
    }
}

fn view_workers(told: &WorkersView) -> Html {
    html! {
        <>
            if let Some(unread) = &told.unread {
                { parts::refused("workers.toml cannot be read as it is now", unread) }
            }
            if told.workers.is_empty() {
                <p class="waiting">{ "Neither the pipedef nor workers.toml names one." }</p>
            } else {
                <ul class="workers">{ for told.workers.iter().map(view_worker) }</ul>
            }
        </>
    }
}

fn view_worker(worker: &WorkerView) -> Html {
    let facts = [
        worker.engine.clone(),
        worker.slots.map(|slots| parts::count(slots, "slot")),
        worker.version.as_ref().map(|version| format!("version {version}")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    let (class, word) = if worker.ok { ("passed", "well") } else { ("errored", "not well") };
    html! {
        <li key={worker.worker.clone()} class={classes!("worker", class)}>
            { parts::mark() }
            <code>{ &worker.worker }</code>
            <span class="word">{ word }</span>
            <span class="extent">{ facts.join(", ") }</span>
            if let Some(why) = &worker.why {
                <p class="why">
                    { why }
                    if let Some(hint) = &worker.hint {
                        <br /><b>{ "hint " }</b>{ hint }
                    }
                </p>
            }
        </li>
    }
}
