//! What failed in a run that has ended, and why, as `bettertest show` says it: of each task the tests that failed and where in
//! the source, what is new since it passed, and the command that runs it again.

use common::{ChangedFiles, FailedTest, Failure, NewLine, Packet, RunState, duration, task_words};
use yew::prelude::*;

use super::{parts, run};
use crate::model::{Filter, Model, Remote, RunPage};
use crate::route::{Part, Route};
use crate::update::Msg;

/// Whether all that failed is told here, so that nobody else need tell of any.
pub(crate) fn tells(page: &RunPage) -> bool {
    matches!(&page.packet, Some(Remote::Loaded(packet)) if !packet.failures.is_empty())
}

pub(crate) fn view(model: &Model, page: &RunPage, state: &RunState, send: &Callback<Msg>) -> Html {
    match &page.packet {
        // It is there in no time; the first that did not pass stands there already.
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
                { for packet.failures.iter().enumerate().map(|(i, failure)| view_failure(model, page, state, failure, i == 0, send)) }
                { view_rest(packet, send) }
            </section>
        },
    }
}

fn view_failure(
    model: &Model,
    page: &RunPage,
    state: &RunState,
    failure: &Failure,
    first: bool,
    send: &Callback<Msg>,
) -> Html {
    let url = Route::latest(page.run, failure.task.clone()).url();
    let task = state.task(&failure.task);
    let end = task.and_then(|task| task.attempts.last()?.end.as_ref());
    let words = task.map_or_else(|| failure.verdict.outcome().word().replace('_', " "), task_words);
    let failed_tests = failure.tests.map_or(0, |tests| tests.failed);
    let more_tests = failed_tests.saturating_sub(failure.failed_tests.len() as u64);
    let has_tests = !failure.failed_tests.is_empty();
    let short = match (&failure.tests, &failure.error) {
        (Some(tests), _) if has_tests => tests.words(),
        (_, Some(error)) => error.clone(),
        (Some(tests), None) => tests.words(),
        (None, None) => "why, and what to do".to_owned(),
    };
    html! {
        <section key={failure.task.to_string()} class={classes!("failure", failure.verdict.outcome().word())}>
            <h3>
                { parts::mark() }
                <a href={url.clone()}>{ failure.task.to_string() }</a>
                <span class="word">{ words }</span>
                if let Some(end) = end {
                    <span class="took">{ duration(end.took_ms) }</span>
                }
            </h3>
            <details open={first}>
                <summary>{ short }</summary>
                <div class="told">
                    { for failure.notes.iter().cloned().map(parts::note) }
                    if has_tests {
                        <ul class="failed-tests">
                            { for failure.failed_tests.iter().map(|test| view_test(page, failure, test)) }
                            if more_tests > 0 {
                                <li><a href={url.clone()}>{ format!("and {} more", parts::grouped(more_tests)) }</a></li>
                            }
                        </ul>
                    } else {
                        { end.map(|end| parts::rest_of(end, failure.error.as_deref())) }
                    }
                    { for failure.first_new_line.iter().map(view_new_line) }
                    { for failure.changes.iter().map(view_changes) }
                    if !has_tests {
                        { run::view_tail(page, &failure.task).or_else(|| view_last_lines(failure)) }
                    }
                    <p class="again">
                        <a class="button" href={url}>{ "See its output" }if first { <kbd>{ "f" }</kbd> }</a>
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
        </section>
    }
}

fn view_last_lines(failure: &Failure) -> Option<Html> {
    (!failure.last_lines.is_empty()).then(|| {
        html! {
            <pre class="last" tabindex="0" aria-label={format!("the end of the output of {}", failure.task)}>
                { failure.last_lines.join("\n") }
            </pre>
        }
    })
}

fn view_test(page: &RunPage, failure: &Failure, test: &FailedTest) -> Html {
    let (run, task, part) = (page.run, failure.task.clone(), Part::Test(test.name.clone()));
    let url = Route::Task { run, task, attempt: Some(failure.attempt), part }.url();
    html! {
        <li>
            <span>
                <a href={url}><code class="test">{ &test.name }</code></a>
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
fn view_rest(packet: &Packet, send: &Callback<Msg>) -> Html {
    let failed = (packet.more_failures > 0).then(|| format!("{} more did not pass", packet.more_failures));
    let not_run = (packet.not_run > 0).then(|| format!("{} did not run to their end", packet.not_run));
    let rest: Vec<String> = failed.into_iter().chain(not_run).collect();
    html! {
        if !rest.is_empty() {
            <p class="rest">
                <span>{ rest.join(", ") }</span>
                if packet.more_failures > 0 {
                    <button class="quiet" onclick={parts::on(send, Msg::SetFilter(Filter::NotPassed))}>{ "List them" }<kbd>{ "n" }</kbd></button>
                }
            </p>
        }
    }
}
