//! What failed in a run that has ended, and why, as `bettertest show` says it: of each task the tests that failed and where in
//! the source, what is new since it passed, and the command that runs it again.

use common::{ChangedFiles, FailedTest, Failure, NewLine, Packet};
use yew::prelude::*;

use super::parts;
use crate::model::{Model, Remote, RunPage};
use crate::route::Route;
use crate::update::Msg;

pub(crate) fn view(model: &Model, page: &RunPage, send: &Callback<Msg>) -> Html {
    match &page.packet {
        // It is there in no time; what stands above says the most of it.
        None | Some(Remote::Loading) => html! {},
        Some(Remote::Failed(problem)) => html! {
            <section class="failures" aria-label="what failed, and why">
                <h2>{ "What failed is not known in full" }</h2>
                { parts::problem(problem) }
            </section>
        },
        Some(Remote::Loaded(packet)) if packet.failures.is_empty() => html! {},
        Some(Remote::Loaded(packet)) => html! {
            <section class="failures" aria-label="what failed, and why">
                <h2>{ "What failed, and why" }</h2>
                { for packet.failures.iter().enumerate().map(|(i, failure)| view_failure(model, page, failure, i == 0, send)) }
                { view_rest(packet) }
            </section>
        },
    }
}

fn view_failure(model: &Model, page: &RunPage, failure: &Failure, open: bool, send: &Callback<Msg>) -> Html {
    let url = Route::Task { run: page.run, task: failure.task.clone(), attempt: None, line: None }.url();
    let failed_tests = failure.tests.map_or(0, |tests| tests.failed);
    let more_tests = failed_tests.saturating_sub(failure.failed_tests.len() as u64);
    let short = match (&failure.tests, &failure.error) {
        (Some(tests), _) if !failure.failed_tests.is_empty() => tests.words(),
        (_, Some(error)) => error.clone(),
        (Some(tests), None) => tests.words(),
        (None, None) => failure.verdict.outcome().word().to_owned(),
    };
    html! {
        <details key={failure.task.to_string()} class={classes!("failure", failure.verdict.outcome().word())} open={open}>
            <summary>
                { parts::mark() }
                <span class="name">{ failure.task.to_string() }</span>
                <span class="short">{ short }</span>
            </summary>
            <div class="told">
                if !failure.failed_tests.is_empty() {
                    <ul class="failed-tests">
                        { for failure.failed_tests.iter().map(view_test) }
                        if more_tests > 0 {
                            <li>{ format!("and {} more", parts::grouped(more_tests)) }</li>
                        }
                    </ul>
                }
                { for failure.first_new_line.iter().map(view_new_line) }
                { for failure.changes.iter().map(view_changes) }
                if failure.failed_tests.is_empty() && failure.first_new_line.is_none() && !failure.last_lines.is_empty() {
                    <pre class="last" tabindex="0" aria-label={format!("the end of the output of {}", failure.task)}>
                        { failure.last_lines.join("\n") }
                    </pre>
                }
                <p class="again">
                    <a href={url}>{ "its output" }</a>
                    <span>{ "after a change:" }</span>
                    <code>{ &failure.again }</code>
                    if model.can_copy {
                        <button class="quiet" onclick={parts::on(send, Msg::CopyAgain(failure.task.clone()))}
                            aria-label={format!("copy the command that runs {} again", failure.task)}>
                            { if page.copied.as_ref() == Some(&failure.task) { "copied" } else { "copy" } }
                        </button>
                    }
                </p>
            </div>
        </details>
    }
}

fn view_test(test: &FailedTest) -> Html {
    html! {
        <li>
            <span>
                <code class="test">{ &test.name }</code>
                if test.flaky {
                    <span class="flaky">{ "flaky: on these files it has passed, too" }</span>
                }
            </span>
            if let Some(first) = test.message.first() {
                <span class="why" title={test.message.join("\n")}>{ first }</span>
            }
            { for test.frames.iter().map(|frame| html! { <code class="frame">{ frame }</code> }) }
        </li>
    }
}

fn view_new_line(new: &NewLine) -> Html {
    html! {
        <dl class="new">
            <dt>{ format!("first new line since run {}, line {}", new.green_run, parts::grouped(new.line)) }</dt>
            <dd><code>{ &new.text }</code></dd>
            if let Some(green) = &new.green {
                <dt>{ "there, when it passed" }</dt>
                <dd><code>{ green }</code></dd>
            }
        </dl>
    }
}

fn view_changes(changes: &ChangedFiles) -> Html {
    let lists = [("changed", &changes.changed), ("added", &changes.added), ("deleted", &changes.deleted)];
    let files = lists.into_iter().flat_map(|(what, files)| files.iter().map(move |file| (what, file)));
    let since = match changes.named() + changes.more {
        0 => format!("no file has changed since run {}, in which it passed", changes.green_run),
        all => format!(
            "{} not as in run {}, in which it passed",
            parts::count(all as usize, "file"),
            changes.green_run
        ),
    };
    html! {
        <div class="changes">
            <p>{ since }</p>
            <ul>
                { for files.map(|(what, file)| html! { <li><span class="what">{ what }</span><code>{ file }</code></li> }) }
                if changes.more > 0 {
                    <li>{ format!("and {} more", parts::grouped(changes.more)) }</li>
                }
            </ul>
        </div>
    }
}

/// What the packet only counts.
fn view_rest(packet: &Packet) -> Html {
    let failed = (packet.more_failures > 0).then(|| format!("{} more did not pass", packet.more_failures));
    let not_run = (packet.not_run > 0).then(|| format!("{} did not run to their end", packet.not_run));
    let rest: Vec<String> = failed.into_iter().chain(not_run).collect();
    html! {
        if !rest.is_empty() {
            <p class="rest">{ rest.join(", ") }</p>
        }
    }
}
