//! What is missing on the boss's machine: the words of `bettertest doctor`, in the same order.

use common::{Check, CheckState, Checkup};
use yew::prelude::*;

use super::parts;
use crate::model::Remote;
use crate::update::Msg;

pub(crate) fn view(checkup: &Remote<Checkup>, send: &Callback<Msg>) -> Html {
    let (class, headline, body) = match checkup {
        Remote::Loading => ("running", "Looking at the boss's machine…", html! {}),
        Remote::Failed(problem) => {
            ("errored", "The boss's machine cannot be looked at", parts::problem(problem))
        }
        Remote::Loaded(checkup) => {
            let class = if checkup.ok { "passed" } else { "failed" };
            (class, checkup.headline.as_str(), view_checks(checkup))
        }
    };
    html! {
        <main class="doctor-page">
            <div class="doctor-head">
                <h1 class={class}>{ parts::mark() }<span role="status">{ headline }</span></h1>
                <button disabled={*checkup == Remote::Loading} onclick={parts::on(send, Msg::WantCheckup)}>
                    { "Look again" }<kbd>{ "h" }</kbd>
                </button>
            </div>
            { body }
            <p class="extent">
                { "The same in a terminal of that machine: " }<code>{ "bettertest doctor" }</code>
            </p>
        </main>
    }
}

fn view_checks(checkup: &Checkup) -> Html {
    html! { <ul class="checks">{ for checkup.checks.iter().map(view_check) }</ul> }
}

fn view_check(Check { check, state, found, hint }: &Check) -> Html {
    let (class, word) = match state {
        CheckState::Well => ("passed", "well"),
        CheckState::Warning => ("warning", "warning"),
        CheckState::Wrong => ("failed", "wrong"),
    };
    html! {
        <li class={classes!("check", class)}>
            { parts::mark() }
            <span class="name">{ check }</span>
            <span class="word">{ word }</span>
            <span class="found">{ found }</span>
            if let Some(hint) = hint {
                <p class="mend"><b>{ "hint " }</b><code>{ hint }</code></p>
            }
        </li>
    }
}
