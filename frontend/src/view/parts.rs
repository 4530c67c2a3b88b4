//! Small parts that several views are made of.

use common::{AttemptEnd, Problem, Reason, TaskRun, TaskState, duration};
use yew::prelude::*;

use crate::update::Msg;

/// What sends a message, whatever the event.
pub(crate) fn on<E: 'static>(send: &Callback<Msg>, msg: Msg) -> Callback<E> {
    send.reform(move |_| msg.clone())
}

/// The sign of the state whose word is the class of an element around it. For eyes only: a word stands by it.
pub(crate) fn mark() -> Html {
    html! { <span class="mark" aria-hidden="true" /> }
}

/// The class of what has passed, but not plainly: at a later attempt, or only a part. Its mark is hollow.
pub(crate) fn qualified(word: &str, words: &str) -> Option<&'static str> {
    (word == "passed" && words != "passed").then_some("qualified")
}

/// What is not to be lost on whoever looks: words of ours, with names of files that a stranger chose.
pub(crate) fn note(words: String) -> Html {
    html! { <p class="hole">{ words }</p> }
}

/// What went wrong, where, and what to do.
pub(crate) fn problem(problem: &Problem) -> Html {
    view_problem(problem, None)
}

/// The rest of it, after its `error` was told in one line.
pub(crate) fn rest_of(end: &AttemptEnd, told: Option<&str>) -> Html {
    let Some(problem) = &end.problem else { return html! {} };
    let mut rest = problem.clone();
    if told == Some(rest.error.trim()) {
        rest.error.clear();
    }
    if rest == Problem::default() {
        html! {}
    } else {
        view_problem(&rest, end.verdict.reason())
    }
}

/// The same of an attempt's end. Where a command failed, its output says more than the pipedef's traceback.
pub(crate) fn problem_of(end: &AttemptEnd) -> Html {
    let told = end.problem.as_ref();
    told.map(|problem| view_problem(problem, end.verdict.reason())).unwrap_or_default()
}

fn view_problem(problem: &Problem, reason: Option<Reason>) -> Html {
    let place = problem.file.as_ref().map(|file| match problem.line {
        Some(line) => format!("{file}, line {line}"),
        None => file.clone(),
    });
    html! {
        <div class="problem">
            if !problem.error.is_empty() {
                <p class="error">{ &problem.error }</p>
            }
            if let Some(place) = place {
                <p class="place"><code>{ place }</code></p>
            }
            if let Some(hint) = &problem.hint {
                <p class="hint"><b>{ "hint " }</b>{ hint }</p>
            }
            if let Some(traceback) = &problem.traceback {
                <details open={reason != Some(Reason::CommandFailed)}>
                    <summary>{ "traceback" }</summary>
                    <pre class="traceback" tabindex="0">{ traceback.trim_end() }</pre>
                </details>
            }
        </div>
    }
}

/// A problem in answer to something that somebody has just asked for.
pub(crate) fn refused(what: &str, refused: &Problem) -> Html {
    html! {
        <section class="refused failed" role="alert">
            <h2>{ mark() }{ what }</h2>
            { problem(refused) }
        </section>
    }
}

pub(crate) fn count(n: usize, one: &str) -> String {
    format!("{} {one}{}", grouped(n as u64), if n == 1 { "" } else { "s" })
}

/// `100,000`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `8.0 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

/// How long a task has taken in its latest attempt, or has been at it.
pub(crate) fn elapsed(task: &TaskRun, now_ms: u64) -> Option<String> {
    let attempt = task.attempts.last()?;
    match (&attempt.end, task.state) {
        (_, TaskState::Pending | TaskState::Skipped(_)) => None,
        (Some(end), _) => Some(duration(end.took_ms)),
        (None, _) => Some(duration(now_ms.saturating_sub(attempt.started_at_ms))),
    }
}

/// When something was, as people say it: `just now`, `5 min ago`, `14:03`, `12 Nov, 14:03`.
pub(crate) fn when(at_ms: u64, now_ms: u64, utc_offset_min: i32) -> String {
    let minutes = now_ms.saturating_sub(at_ms) / 60_000;
    let (day, time) = local(at_ms, utc_offset_min);
    let (today, _) = local(now_ms, utc_offset_min);
    match minutes {
        0 => "just now".to_owned(),
        1..60 => format!("{minutes} min ago"),
        _ if day == today => time,
        _ if day + 1 == today => format!("yesterday, {time}"),
        _ => format!("{}, {time}", date(day)),
    }
}

/// When something was, to the minute.
pub(crate) fn clock(at_ms: u64, utc_offset_min: i32) -> String {
    let (day, time) = local(at_ms, utc_offset_min);
    format!("{}, {time}", date(day))
}

/// Days since 1970, and the time of day.
fn local(at_ms: u64, utc_offset_min: i32) -> (i64, String) {
    let minutes = (at_ms / 60_000) as i64 + i64::from(utc_offset_min);
    let of_day = minutes.rem_euclid(24 * 60);
    (minutes.div_euclid(24 * 60), format!("{:02}:{:02}", of_day / 60, of_day % 60))
}

/// `12 Nov 2026`, by Hinnant's arithmetic on years that begin in March.
fn date(day: i64) -> String {
    const MONTHS: [&str; 12] =
        ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let year = year + era * 400 + i64::from(month >= 10);
    format!("{of_month} {} {year}", MONTHS[month as usize])
}
