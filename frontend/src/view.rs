//! The page as a function of the model. Every part is a plain function; none of them knows the browser.

mod artifacts;
mod doctor;
mod failures;
mod groups;
mod history;
mod log;
mod parts;
mod pipeline;
mod run;
mod tab;
mod task;
mod tasks;
mod tests;
mod workers;

use yew::prelude::*;

use crate::keys::{self, Place, SHORTCUTS};
use crate::model::{Live, Model, Page, Session};
use crate::route::Route;
use crate::update::{HELP_ELEMENT, Msg};

pub(crate) use tab::{standing, title};

pub(crate) fn view(model: &Model, send: &Callback<Msg>) -> Html {
    let body = match (&model.session, &model.page) {
        (Session::Opening, _) => {
            html! { <main class="message"><p role="status">{ "Logging in…" }</p></main> }
        }
        (Session::Closed(problem), _) => view_closed(problem),
        (Session::Open, Page::Runs(page)) => history::view(model, page, send),
        (Session::Open, Page::Run(page)) => run::view(model, page, send),
        (Session::Open, Page::Doctor(checkup)) => doctor::view(checkup, send),
        (Session::Open, Page::Nowhere) => view_nowhere(&model.route),
    };
    html! {
        <>
            { view_top(model, send) }
            { view_lost(model) }
            { body }
            if model.help {
                { view_help(model, send) }
            }
        </>
    }
}

fn view_top(model: &Model, send: &Callback<Msg>) -> Html {
    let run = model.route.run().map(|run| {
        html! { <><span class="slash">{ "/" }</span><a class="of-run" href={Route::Run(run).url()}>{ format!("run {run}") }</a></> }
    });
    let last = match &model.route {
        Route::Task { task, .. } => html! {
            <><span class="slash">{ "/" }</span><a href={model.route.url()} aria-current="page">{ task.to_string() }</a></>
        },
        Route::Doctor => html! {
            <><span class="slash">{ "/" }</span><a href={model.route.url()} aria-current="page">{ "doctor" }</a></>
        },
        Route::Runs | Route::Run(_) | Route::Nowhere(_) => html! {},
    };
    html! {
        <header class="top">
            <nav aria-label="where you are">
                <a class="brand" href="/">{ "bettertest" }</a>
                if let Some(project) = model.project.as_ref().filter(|_| model.session == Session::Open) {
                    <span class="slash">{ "/" }</span>
                    <a class="project" href={Route::Runs.url()} aria-current={(model.route == Route::Runs).then_some("page")}>{ project }</a>
                }
                { run }
                { last }
            </nav>
            if model.session == Session::Open {
                { view_live(model.live) }
                <button class="quiet" onclick={parts::on(send, Msg::ToggleHelp)} aria-label="keyboard shortcuts">
                    <kbd>{ "?" }</kbd>
                </button>
            }
        </header>
    }
}

fn view_live(live: Live) -> Html {
    let (class, words) = match live {
        Live::Connecting => ("connecting", "connecting…"),
        Live::Open => ("open", "live"),
        Live::Lost { .. } => ("lost", "reconnecting…"),
        Live::Closed => return html! {},
    };
    html! { <span class={classes!("live", class)} role="status">{ words }</span> }
}

/// What is on screen may be out of date. A connection that is back before anybody could read this is not worth it.
fn view_lost(model: &Model) -> Html {
    if !model.is_cut_off() {
        return html! {};
    }
    html! {
        <p class="banner" role="alert">
            { "The connection to the boss is lost: what you see is what was last heard of it. \
               This page goes on by itself when it is back." }
        </p>
    }
}

fn view_closed(problem: &common::Problem) -> Html {
    html! {
        <main class="message">
            <h1>{ "You are not logged in" }</h1>
            <p>{ &problem.error }</p>
            <p>{ "On the boss's machine, run" }</p>
            <pre class="shell">{ "bettertest open" }</pre>
            <p>{ "and open the link that it prints. It works once; after that this browser is known." }</p>
        </main>
    }
}

fn view_nowhere(route: &Route) -> Html {
    html! {
        <main class="message">
            <h1>{ "There is nothing here" }</h1>
            <p>{ format!("No page has the address {}.", route.url()) }</p>
            <p><a href="/">{ "To the runs" }</a></p>
        </main>
    }
}

/// Drawn from the table that `msg_for_key` goes by.
fn view_help(model: &Model, send: &Callback<Msg>) -> Html {
    let places =
        [Place::Anywhere, Place::Runs, Place::Doctor, Place::Run, Place::Output, Place::Find].into_iter();
    let lists = places.filter(|place| place.includes(model)).map(|place| {
        let rows = SHORTCUTS.iter().filter(|shortcut| shortcut.place == place).map(|shortcut| {
            let names = shortcut.names.iter().map(|name| html! { <kbd>{ keys::cap(name) }</kbd> });
            html! { <><dt>{ for names }</dt><dd>{ shortcut.does }</dd></> }
        });
        html! { <><h3>{ place.word() }</h3><dl>{ for rows }</dl></> }
    });
    html! {
        <div class="veil" onclick={parts::on(send, Msg::ToggleHelp)}>
            <section id={HELP_ELEMENT} class="help" role="dialog" aria-modal="true" aria-label="keys" tabindex="0">
                <h2>{ "Keys" }</h2>
                <div class="all-keys">{ for lists }</div>
            </section>
        </div>
    }
}
