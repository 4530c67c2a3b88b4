//! The tests of an attempt, above its output: how many ended how, the worst first, each with what was wrong with it and how it
//! came out before. Names and messages are a stranger's, and only ever text.

use common::{TestCounts, TestHistory, TestRun, TestView, duration};
use yew::prelude::*;

use super::parts;
use crate::effects::typed;
use crate::model::{OutputOf, Remote, TaskPane};
use crate::route::{Part, Route};
use crate::test_list::{Drawn, Heard, TestFilter, WORTH_A_SEARCH};
use crate::update::{FIND_TEST_ELEMENT, Msg, test_element};

/// Nothing, where nothing told of a test.
pub(crate) fn view(pane: &TaskPane, send: &Callback<Msg>) -> Html {
    let counts = pane.tests.counts();
    let body = match (&pane.tests.stored, pane.tests.heard()) {
        (Some(Remote::Failed(problem)), _) => {
            return html! { <section class="tests" aria-label="tests">{ parts::problem(problem) }</section> };
        }
        _ if counts == TestCounts::default() => return html! {},
        (Some(Remote::Loaded(_)), _) => view_stored(pane, send),
        (Some(Remote::Loading) | None, Some(heard)) => view_heard(heard),
        (Some(Remote::Loading) | None, None) => return html! {},
    };
    let is_open = pane.tests.is_unfolded();
    html! {
        <section class="tests" aria-label="tests">
            <div class="head">
                <button class="quiet fold-tests" aria-expanded={is_open.to_string()} onclick={parts::on(send, Msg::FoldTests)}>
                    <span class="arrow" aria-hidden="true">{ if is_open { "▾" } else { "▸" } }</span>{ "Tests" }<kbd>{ "t" }</kbd>
                </button>
                { view_counts(counts) }
                if pane.tests.loaded().is_none() {
                    <span class="extent">{ "so far" }</span>
                } else {
                    { view_filter(pane, send) }
                }
            </div>
            if is_open {
                { body }
            }
        </section>
    }
}

fn view_counts(counts: TestCounts) -> Html {
    let of = [("failed", counts.failed), ("skipped", counts.skipped), ("passed", counts.passed)];
    let items = of.into_iter().filter(|(_, count)| *count > 0).map(|(word, count)| {
        html! { <li class={word}>{ parts::mark() }<b>{ parts::grouped(count) }</b>{ word }</li> }
    });
    html! {
        <ul class="test-counts" aria-label="tests by outcome">
            { for items }
            if counts.flaky > 0 {
                <li class="warning">{ parts::mark() }<b>{ parts::grouped(counts.flaky) }</b>{ "flaky" }</li>
            }
        </ul>
    }
}

fn view_filter(pane: &TaskPane, send: &Callback<Msg>) -> Html {
    let choices = pane.tests.choices().into_iter().map(|filter| {
        html! {
            <button class="quiet" aria-pressed={(pane.tests.filter == filter).to_string()}
                onclick={parts::on(send, Msg::FilterTests(filter))}>{ filter.word() }</button>
        }
    });
    let is_long = pane.tests.loaded().is_some_and(|view| view.tests.len() >= WORTH_A_SEARCH);
    html! {
        <>
            <div class="choices" role="group" aria-label="which tests">{ for choices }</div>
            if is_long {
                <input id={FIND_TEST_ELEMENT} type="search" placeholder="Search tests" aria-label="search the tests by name"
                    autocomplete="off" spellcheck="false" value={pane.tests.search.clone()}
                    oninput={send.reform(|event: InputEvent| Msg::SearchTests(typed(&event)))} />
            }
        </>
    }
}

/// Of a task that runs: there is nothing to be asked of them yet.
fn view_heard(heard: &Heard) -> Html {
    let rows = heard.tests.iter().map(|test| {
        let message = test.test.message.as_ref().filter(|_| test.test.outcome.is_bad());
        html! {
            <li class={classes!("test", test.test.outcome.word())}>
                <div class="row">{ view_row(test) }</div>
                if let Some(message) = message {
                    <pre class="why" tabindex="0">{ message }</pre>
                }
            </li>
        }
    });
    html! {
        <ul class="test-list" tabindex="0" aria-label="tests so far">
            { for rows }
            if heard.is_deaf {
                <li class="extent">{ "It has printed so much that its tests are no longer told." }</li>
            }
        </ul>
    }
}

fn view_stored(pane: &TaskPane, send: &Callback<Msg>) -> Html {
    let Drawn { before, tests, after } = pane.tests.drawn();
    let nameless =
        pane.tests.loaded().map_or(0, |view| view.counts.total().saturating_sub(view.tests.len() as u64));
    let none = tests.is_empty();
    let searched = pane.tests.search.trim();
    let rows = tests.into_iter().map(|(place, test)| view_test(pane, place, test, send));
    html! {
        <ul class="test-list" aria-label="tests">
            if before > 0 {
                <li class="more before">
                    <button onclick={parts::on(send, Msg::EarlierTests)}>{ "Show earlier" }</button>
                    <span class="extent">{ format!("{} before these", parts::grouped(before as u64)) }</span>
                </li>
            }
            { for rows }
            if after > 0 {
                <li class="more after">
                    <button onclick={parts::on(send, Msg::LaterTests)}>{ "Show more" }</button>
                    <span class="extent">{ format!("{} more", parts::grouped(after as u64)) }</span>
                </li>
            }
            if none && !searched.is_empty() {
                <li class="extent" role="status">{ format!("No {}test has “{searched}” in its name.", pane.tests.filter.before()) }</li>
            } else if none && pane.tests.filter != TestFilter::All {
                <li class="extent">{ format!("No test here is {}.", pane.tests.filter.word()) }</li>
            }
            if nameless > 0 && pane.tests.filter == TestFilter::All && searched.is_empty() {
                <li class="extent">
                    { format!("{} more, counted without a name", parts::grouped(nameless)) }
                </li>
            }
        </ul>
    }
}

fn view_test(pane: &TaskPane, place: usize, test: &TestView, send: &Callback<Msg>) -> Html {
    let is_open = pane.tests.open.contains(&place);
    html! {
        <li key={place} class={classes!("test", test.test.outcome.word())}>
            <button class="row" id={test_element(place)} aria-expanded={is_open.to_string()} onclick={parts::on(send, Msg::ToggleTest(place))}>
                { view_row(test) }
            </button>
            if is_open {
                <div class="told">
                    if let Some(message) = test.test.message.as_ref().filter(|message| !is_in_stack(test, message)) {
                        <pre class="why" tabindex="0" aria-label="what was wrong">{ message }</pre>
                    }
                    if let Some(stack) = &test.test.stack {
                        <pre class="traceback" tabindex="0" aria-label="where">{ stack }</pre>
                    }
                    { view_past(pane, &test.test.name) }
                </div>
            }
        </li>
    }
}

/// Many runners print the one with the other: once is enough.
fn is_in_stack(test: &TestView, message: &str) -> bool {
    test.test.stack.as_ref().is_some_and(|stack| stack.contains(message.trim()))
}

fn view_row(test: &TestView) -> Html {
    html! {
        <>
            { parts::mark() }
            <span class="name">{ &test.test.name }</span>
            if test.flaky {
                <span class="flaky" title="on this source it has passed, and it has failed">{ "flaky" }</span>
            }
            <span class="word">{ test.test.outcome.word() }</span>
            <span class="took">{ test.test.took_ms.map(took) }</span>
        </>
    }
}

fn took(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { duration(ms) }
}

fn view_past(pane: &TaskPane, name: &str) -> Html {
    match pane.tests.histories.get(name) {
        None | Some(Remote::Loading) => {
            html! { <p class="extent" role="status">{ "Looking at its history…" }</p> }
        }
        Some(Remote::Failed(problem)) => html! { <p class="extent">{ &problem.error }</p> },
        Some(Remote::Loaded(history)) => view_history(pane.of.as_ref(), history),
    }
}

/// From the oldest to the latest, as high as each took long.
fn view_history(shown: Option<&OutputOf>, history: &TestHistory) -> Html {
    let ran = history.counts.passed + history.counts.failed;
    let run = |run: &TestRun| html! { <a href={url(history, run)}>{ format!("run {}", run.run) }</a> };
    let longest = history.runs.iter().filter_map(|run| run.took_ms).max().unwrap_or(0).max(1);
    let bars = history.runs.iter().rev().map(|run| {
        let height = run.took_ms.map_or(15, |ms| 15 + ms * 85 / longest);
        let attempt = if run.attempt > 1 { format!(", attempt {}", run.attempt) } else { String::new() };
        let time = run.took_ms.map_or(String::new(), |ms| format!(", {}", took(ms)));
        let source = run.commit.as_ref().or(run.tree.as_ref()).and_then(|id| id.get(..10));
        let source = source.map_or(String::new(), |id| format!(", {id}"));
        let words = format!("run {}{attempt}: {}{time}{source}", run.run, run.outcome.word());
        let here = shown.is_some_and(|of| of.run == run.run && of.attempt == run.attempt);
        html! {
            <li class={run.outcome.word()}>
                <a href={url(history, run)} title={words.clone()} aria-label={words} aria-current={here.then_some("true")}>
                    <span class="bar-of-test" style={format!("height:{height}%")} />
                    { parts::mark() }
                </a>
            </li>
        }
    });
    html! {
        <div class="past">
            <p class="facts">
                if let Some(percent) = history.failed_percent {
                    <span>{ format!("failed {} of {ran} times ({percent} %)", history.counts.failed) }</span>
                }
                if history.flaky {
                    <span class="flaky">{ "flaky" }</span>
                }
                if let Some(first) = &history.first_failed {
                    <span>{ "first failed in " }{ run(first) }</span>
                }
                if let Some(last) = &history.last_passed {
                    <span>{ "last passed in " }{ run(last) }</span>
                } else {
                    <span>{ "never passed" }</span>
                }
            </p>
            <ol class="times" aria-label="its latest times, from the oldest">{ for bars }</ol>
        </div>
    }
}

fn url(history: &TestHistory, run: &TestRun) -> String {
    let part = Part::Test(history.name.clone());
    Route::Task { run: run.run, task: history.task.clone(), attempt: Some(run.attempt), part }.url()
}
