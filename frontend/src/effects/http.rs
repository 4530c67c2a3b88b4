//! Questions to the boss, and their answers. What is refused arrives as a `Problem`, with what to do.

use serde::de::DeserializeOwned;
use std::rc::Rc;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{AbortSignal, Headers, Request, RequestInit, Response};

use common::{OnlyTasks, OutputMark, Problem, RunCreated, TaskId};

use super::inbox::Inbox;
use super::page;
use crate::model::OutputOf;
use crate::route::encode;
use crate::update::{Effect, Msg};

const TAIL_BYTES: u32 = 8 * 1024;

/// Whoever asks may have got a connection that died without a word. Reading a pipedef takes 10 s at most.
const ANSWER_MS: u32 = 30_000;
/// A question that takes the boss no time, asked to learn whether there is a way to it.
const PROBE_MS: u32 = 5_000;

/// Why there is no answer.
pub(super) enum Refusal {
    /// The boss does not know us.
    LoggedOut(Problem),
    Other(Problem),
}

pub(super) fn perform(inbox: &Rc<Inbox>, effect: Effect) {
    let inbox = inbox.clone();
    spawn_local(async move {
        let msg = match answer_to(effect).await {
            Ok(msg) => msg,
            Err(problem) => Some(Msg::LoggedOut(problem)),
        };
        if let Some(msg) = msg {
            inbox.send(msg);
        }
    });
}

async fn answer_to(effect: Effect) -> Result<Option<Msg>, Problem> {
    Ok(Some(match effect {
        Effect::LogIn(code) => {
            let body = serde_json::json!({ "code": code }).to_string();
            match done(text("/api/login", Some(&body)).await)? {
                Ok(()) => Msg::LoggedIn,
                Err(problem) => Msg::LoggedOut(problem),
            }
        }
        Effect::FetchBoss => Msg::GotBoss(read(text("/api/boss", None).await)?),
        Effect::FetchPipeline => Msg::GotPipeline(read(text("/api/pipeline", None).await)?),
        Effect::FetchWorkers => Msg::GotWorkers(read(text("/api/workers", None).await)?),
        Effect::FetchCheckup => Msg::GotCheckup(read(text("/api/doctor", None).await)?),
        Effect::FetchRuns { before } => {
            let query = before.map(|run| format!("?before={run}")).unwrap_or_default();
            Msg::GotRuns { before, answer: read(text(&format!("/api/runs{query}"), None).await)? }
        }
        Effect::StartRun { only } => {
            let created = read::<RunCreated>(text("/api/runs", Some(&these(only))).await)?;
            Msg::RunStarted(created.map(|created| created.run))
        }
        Effect::Cancel(run) => {
            Msg::Answered(done(text(&format!("/api/runs/{run}/cancel"), Some("{}")).await)?)
        }
        Effect::Rerun { run, only } => {
            let body = these(only.map(|task| vec![task]));
            Msg::Answered(done(text(&format!("/api/runs/{run}/rerun"), Some(&body)).await)?)
        }
        Effect::RerunFailedTests(run) => {
            let body = r#"{"failed_tests":true}"#;
            Msg::Answered(done(text(&format!("/api/runs/{run}/rerun"), Some(body)).await)?)
        }
        Effect::Probe(run) => match done_or_absent(&format!("/api/runs/{run}")).await? {
            Some(problem) => Msg::Probed(Err(problem)),
            None => Msg::Probed(Ok(())),
        },
        Effect::FetchMarks(of) => {
            let index = text(&format!("{}/index", output_url(&of)), None).await;
            // Without it the output is still whole, and the steps still say what was left out.
            let Ok(lines) = index else { return Ok(None) };
            let marks = lines.lines().filter_map(|line| serde_json::from_str::<OutputMark>(line).ok());
            Msg::GotMarks(of, marks.collect())
        }
        Effect::FetchTail(of) => return tail(of).await,
        Effect::FetchPacket(run) => {
            Msg::GotPacket(read(text(&format!("/api/runs/{run}/packet"), None).await)?)
        }
        Effect::FetchTests(of) => {
            let task = encode(&of.task.to_string());
            let url = format!("/api/runs/{}/tasks/{task}/tests?attempt={}", of.run, of.attempt);
            let answer = read(text(&url, None).await)?;
            Msg::GotTests(of, answer)
        }
        Effect::FetchTestHistory { of, name } => {
            let url = format!("/api/tests?task={}&name={}", encode(&of.task.to_string()), encode(&name));
            let answer = read(text(&url, None).await)?;
            Msg::GotTestHistory { of, name, answer }
        }
        _ => return Ok(None),
    }))
}

/// The end of an output, where the boss can answer with no more than that. Nothing is missed without: the whole
/// output is a click away.
async fn tail(of: OutputOf) -> Result<Option<Msg>, Problem> {
    let url = format!("{}?attempt={}", output_url(&of), of.attempt);
    let response = match send(&url, None, ranged(format!("bytes=-{TAIL_BYTES}")), &within(ANSWER_MS)).await {
        Ok(response) if response.status() == 206 => response,
        Ok(_) | Err(Refusal::Other(_)) => return Ok(None),
        Err(Refusal::LoggedOut(problem)) => return Err(problem),
    };
    let whole =
        response.headers().get("content-range").ok().flatten().is_some_and(|r| r.starts_with("bytes 0-"));
    let Ok(body) = response.array_buffer() else { return Ok(None) };
    let Ok(bytes) = JsFuture::from(body).await else { return Ok(None) };
    Ok(Some(Msg::GotTail { of, bytes: js_sys::Uint8Array::new(&bytes).to_vec(), cut: !whole }))
}

/// The body that names tasks, or none for all.
fn these(only: Option<Vec<TaskId>>) -> String {
    serde_json::to_string(&OnlyTasks { only }).expect("names are JSON")
}

/// A request for a part.
pub(super) fn ranged(range: String) -> RequestInit {
    let init = RequestInit::new();
    if let Ok(headers) = Headers::new()
        && headers.set("range", &range).is_ok()
    {
        init.set_headers(&headers);
    }
    init
}

/// The address of an output; `index` stands beside it.
pub(super) fn output_url(of: &OutputOf) -> String {
    format!("/api/runs/{}/tasks/{}/output", of.run, encode(&of.task.to_string()))
}

fn read<T: DeserializeOwned>(answer: Result<String, Refusal>) -> Result<Result<T, Problem>, Problem> {
    match answer {
        Ok(body) => Ok(serde_json::from_str(&body).map_err(|error| misunderstood(&error))),
        Err(Refusal::LoggedOut(problem)) => Err(problem),
        Err(Refusal::Other(problem)) => Ok(Err(problem)),
    }
}

fn done(answer: Result<String, Refusal>) -> Result<Result<(), Problem>, Problem> {
    match answer {
        Ok(_) => Ok(Ok(())),
        Err(Refusal::LoggedOut(problem)) => Err(problem),
        Err(Refusal::Other(problem)) => Ok(Err(problem)),
    }
}

/// A problem only if the boss itself says that it is not there; a boss that is away comes back.
async fn done_or_absent(url: &str) -> Result<Option<Problem>, Problem> {
    match send(url, None, RequestInit::new(), &within(PROBE_MS)).await {
        Ok(response) if response.status() == 404 => Ok(Some(problem_of(&response).await)),
        Ok(_) | Err(Refusal::Other(_)) => Ok(None),
        Err(Refusal::LoggedOut(problem)) => Err(problem),
    }
}

async fn text(url: &str, body: Option<&str>) -> Result<String, Refusal> {
    let response = send(url, body, RequestInit::new(), &within(ANSWER_MS)).await?;
    if !response.ok() {
        return Err(Refusal::Other(problem_of(&response).await));
    }
    body_of(&response).await.ok_or_else(|| Refusal::Other(silent()))
}

fn within(ms: u32) -> AbortSignal {
    AbortSignal::timeout_with_u32(ms)
}

/// GET, or with a body POST. An answer of any status but 401 is an answer.
pub(super) async fn send(
    url: &str,
    body: Option<&str>,
    init: RequestInit,
    signal: &AbortSignal,
) -> Result<Response, Refusal> {
    let asked = || -> Result<_, JsValue> {
        init.set_signal(Some(signal));
        if let Some(body) = body {
            let headers = Headers::new()?;
            headers.set("content-type", "application/json")?;
            init.set_method("POST");
            init.set_headers(&headers);
            init.set_body(&JsValue::from_str(body));
        }
        let request = Request::new_with_str_and_init(url, &init)?;
        Ok(page().fetch_with_request(&request))
    };
    let promise = asked().map_err(|_| Refusal::Other(silent()))?;
    let response = JsFuture::from(promise).await.map_err(|_| Refusal::Other(silent()))?;
    let response: Response = response.unchecked_into();
    if response.status() == 401 {
        return Err(Refusal::LoggedOut(problem_of(&response).await));
    }
    Ok(response)
}

pub(super) async fn problem_of(response: &Response) -> Problem {
    let body = body_of(response).await.unwrap_or_default();
    serde_json::from_str(&body).unwrap_or_else(|_| {
        let error = format!("the boss answered {} {}", response.status(), response.status_text());
        Problem::new(error, "its log says more; then try again")
    })
}

async fn body_of(response: &Response) -> Option<String> {
    JsFuture::from(response.text().ok()?).await.ok()?.as_string()
}

fn silent() -> Problem {
    Problem::new("the boss does not answer", "see whether it is still running on its machine, then try again")
}

pub(super) fn misunderstood(error: &serde_json::Error) -> Problem {
    Problem::new(
        format!("the boss said something that this page does not understand: {error}"),
        "reload the page: the boss may be of another version by now",
    )
}

pub(super) fn copy(inbox: &Rc<Inbox>, text: String) {
    let inbox = inbox.clone();
    let writing = page().navigator().clipboard().write_text(&text);
    spawn_local(async move {
        // Refused by the user or the browser: the button then simply does not say "copied".
        if JsFuture::from(writing).await.is_ok() {
            inbox.send(Msg::Copied);
        }
    });
}
