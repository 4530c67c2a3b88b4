//! The HTTP surface of the boss, route by route (`routes.rs` lists them). Each handler is a few lines over runs and store.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use common::{BossView, OnlyTasks, Pipeline, Rerun, RunCreated, RunNumber, RunView, Seq, StartedBy, TaskId};
use futures_util::{Stream, StreamExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use tokio_util::sync::CancellationToken;

use super::output::OutputId;
use super::runs::{LogError, Runs, RunsError};
use super::sessions::Sessions;
use super::store::{Change, StoreError};
use super::{Examine, serve_artifact, serve_output, ui};
use crate::error::Refusal;
use crate::extract::{Asked, Segments, Sent, last_event_id};
use crate::http;
use crate::http::Alive;

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) runs: Runs,
    pub(crate) sessions: Sessions,
    pub(crate) examine: Examine,
    pub(crate) stop: CancellationToken,
}

const PAGE: usize = 50;
/// How many events are read from the store at once for one reader.
const BATCH: usize = 500;

impl From<RunsError> for Refusal {
    fn from(error: RunsError) -> Refusal {
        if error.is_damage() {
            return damaged(&error);
        }
        match error {
            RunsError::Pipedef(problem) => Refusal { status: StatusCode::UNPROCESSABLE_ENTITY, problem },
            RunsError::NotNow(problem) => Refusal { status: StatusCode::CONFLICT, problem },
            RunsError::ShuttingDown => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the boss is shutting down",
                "ask again when it is back",
            ),
            RunsError::NoSuchRun(run) => no_such_run(&run.to_string()),
            RunsError::Removed(_) => Refusal::new(
                StatusCode::GONE,
                error.to_string(),
                "GET /api/runs lists what there is; --keep-runs, --keep-days and --keep-bytes say how much is kept",
            ),
            RunsError::Store(StoreError::Failed(error)) => not_recorded(&error.to_string()),
            RunsError::Store(error) => Refusal::internal(&error.into()),
            RunsError::Log(error @ (LogError::Store(_) | LogError::BrokenOff)) => {
                not_recorded(&error.to_string())
            }
            RunsError::Log(error @ LogError::Illegal(_)) => Refusal::internal(&error.into()),
        }
    }
}

fn not_recorded(why: &str) -> Refusal {
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("it cannot be recorded now: {why}"),
        "is the disk of the boss's data directory full? Runs go on by themselves when it is not",
    )
}

fn damaged(error: &RunsError) -> Refusal {
    tracing::error!("the store is damaged: {error}");
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("the history is damaged here: {error}"),
        "stop the boss, move its folder away and restore a backup: bettertest restore FILE",
    )
}

fn no_such_run(run: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no run {run}"), "GET /api/runs lists the runs")
}

/// Everything that is no route of the API is the page, which knows its own addresses.
pub(super) async fn page_or_nothing(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method == Method::GET || method == Method::HEAD {
        ui::file(uri, &headers).await
    } else {
        wrong_method().await.into_response()
    }
}

pub(super) async fn wrong_method() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this route does not take that method",
        "GET reads, POST acts; the README lists the routes",
    )
}

/// No store counts further than SQLite does.
fn number(run: &str) -> Result<RunNumber, Refusal> {
    run.parse::<u32>().map(|run| RunNumber(run.into())).map_err(|_| no_such_run(run))
}

fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, Refusal> {
    let bytes = serde_json::to_vec(value).map_err(|error| Refusal::internal(&error.into()))?;
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    Ok((status, headers, bytes).into_response())
}

/// Says of whom this boss is, and nothing of where that lies on its machine.
pub(super) async fn boss(State(api): State<Api>) -> Result<Response, Refusal> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    json(StatusCode::OK, &BossView { project: api.runs.project(), version })
}

pub(super) async fn pipeline(State(api): State<Api>) -> Result<Response, Refusal> {
    let pipeline: Pipeline = api.runs.discover().await?;
    json(StatusCode::OK, &pipeline)
}

/// Each worker is asked now, and only because somebody wants to know.
pub(super) async fn workers(State(api): State<Api>) -> Result<Response, Refusal> {
    json(StatusCode::OK, &api.runs.workers().await)
}

pub(super) async fn start(
    State(api): State<Api>,
    headers: HeaderMap,
    Sent(wanted): Sent<OnlyTasks>,
) -> Result<Response, Refusal> {
    // A browser comes with its session, all others with the token.
    let by = if headers.contains_key(header::AUTHORIZATION) { StartedBy::Api } else { StartedBy::Page };
    let run = api.runs.start(wanted.only, by).await?;
    json(StatusCode::CREATED, &RunCreated { run })
}

pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Refusal> {
    let mut scrape = api.runs.scrape().await?;
    scrape.gauge("sse_readers", "Open streams of events", http::sse_readers());
    Ok(([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], scrape.text()).into_response())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Before {
    /// The runs before this one: `next` of the page before.
    before: Option<u32>,
}

pub(super) async fn list(State(api): State<Api>, Asked(asked): Asked<Before>) -> Result<Response, Refusal> {
    let before = asked.before.map(|run| RunNumber(run.into()));
    json(StatusCode::OK, &api.runs.page(before, PAGE).await?)
}

pub(super) async fn show(
    State(api): State<Api>,
    Segments(run): Segments<String>,
) -> Result<Response, Refusal> {
    json(StatusCode::OK, &RunView::of(&api.runs.state(number(&run)?).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichTask {
    /// Of this one alone, and more of it.
    task: Option<String>,
}

pub(super) async fn packet(
    State(api): State<Api>,
    Segments(run): Segments<String>,
    Asked(asked): Asked<WhichTask>,
) -> Result<Response, Refusal> {
    const AGAIN: &str = "bettertest run";
    let number = number(&run)?;
    let Some(task) = asked.task else { return json(StatusCode::OK, &api.runs.packet(number, AGAIN).await?) };
    let id = find_task(number, &task)?;
    match api.runs.failure(number, &id, AGAIN).await? {
        Some(packet) => json(StatusCode::OK, &packet),
        None => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("{id} has not failed in run {number}"),
            format!("GET /api/runs/{number}/packet has what did"),
        )),
    }
}

/// A body that has nothing to say.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) async fn cancel(
    State(api): State<Api>,
    Segments(run): Segments<String>,
    Sent(Nothing {}): Sent<Nothing>,
) -> Result<Response, Refusal> {
    let run = number(&run)?;
    api.runs.cancel(run).await?;
    json(StatusCode::OK, &RunView::of(&api.runs.state(run).await?))
}

pub(super) async fn rerun(
    State(api): State<Api>,
    Segments(run): Segments<String>,
    Sent(wanted): Sent<Rerun>,
) -> Result<Response, Refusal> {
    let run = number(&run)?;
    api.runs.rerun(run, wanted).await?;
    json(StatusCode::OK, &RunView::of(&api.runs.state(run).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct After {
    /// Where to go on, for who cannot send `Last-Event-ID`, which comes first.
    after: Option<u32>,
    /// 1 asks for keep-alives as events of that name: pages do not see comments.
    alive: Option<u8>,
}

impl After {
    fn alive(&self) -> Alive {
        if self.alive == Some(1) { Alive::Event } else { Alive::Comment }
    }
}

/// Where a reader of events stands: what its last event was, as its browser or itself remembers.
fn stands_at(headers: &HeaderMap, asked: &After) -> Result<Option<u64>, Refusal> {
    Ok(last_event_id::<u32>(headers)?.or(asked.after).map(u64::from))
}

pub(super) async fn events(
    State(api): State<Api>,
    Segments(run): Segments<String>,
    Asked(asked): Asked<After>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let run = number(&run)?;
    let after = stands_at(&headers, &asked)?.map(Seq);
    if api.runs.follow(run).is_none() {
        // Of a run that nobody drives, events that stop too early would be told as if they were all.
        api.runs.state(run).await?;
    }
    if let Some(after) = after
        && api.runs.follow(run).is_none()
        && api.runs.store().events_after(run, after, 1).await.map_err(RunsError::from)?.is_empty()
    {
        // At rest, and all of it told: this is how an EventSource learns not to come again.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let left = api.runs.left_to_the_next();
    let events = run_events(api.runs, run, after.unwrap_or_default()).map(|told| match told {
        Told::Event(seq, json) => http::sse_event(None, Some(seq.0), json.as_bytes()),
        Told::AtRest => http::sse_event(Some("end"), None, b"{}"),
    });
    // These end by themselves, with their run; a stop cuts them only where the run is left to the next boss.
    Ok(http::sse_response(events, left, asked.alive()))
}

pub(crate) enum Told {
    Event(Seq, String),
    /// The run has ended, and every event was told.
    AtRest,
}

/// The events of a run after `after`, as JSON, and on until the run is at rest. Reads the store, then waits for
/// word of more: however slow the reader, it misses nothing and holds up nobody.
pub(crate) fn run_events(runs: Runs, run: RunNumber, after: Seq) -> impl Stream<Item = Told> + Send {
    let begin = (runs, after, VecDeque::new(), false);
    futures_util::stream::unfold(begin, move |(runs, mut after, mut ready, at_rest)| async move {
        if at_rest {
            return None;
        }
        loop {
            if let Some((seq, json)) = ready.pop_front() {
                after = seq;
                return Some((Told::Event(seq, json), (runs, after, ready, false)));
            }
            // Listening begins before the store is read, so that nothing falls in between.
            let more = runs.follow(run);
            match runs.store().events_after(run, after, BATCH).await {
                Ok(events) if !events.is_empty() => ready.extend(events),
                Ok(_) => match more {
                    Some(mut more) => {
                        // The run's end closes this, and then there may be a last event.
                        let _more_or_ended = more.wait_for(|told| *told > after).await;
                    }
                    None => return Some((Told::AtRest, (runs, after, ready, true))),
                },
                Err(error) => {
                    // The reader comes again where it stood.
                    tracing::error!(run.id = run.0, "the events of run {run} cannot be read: {error}");
                    return None;
                }
            }
        }
    })
}

/// Every run's start and end, as RunSummary, and `removed` where there is no such run any more. Without a position, the latest first, so that none is missed.
pub(super) async fn comings(
    State(api): State<Api>,
    Asked(asked): Asked<After>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let after = match stands_at(&headers, &asked)? {
        Some(after) => after,
        None => {
            let latest = api.runs.store().latest_change().await.map_err(RunsError::from)?;
            latest.saturating_sub(PAGE as u64)
        }
    };
    let changes = api.runs.changes();
    let begin = (api.runs, changes, after);
    let told = futures_util::stream::unfold(begin, |(runs, mut changes, mut after)| async move {
        loop {
            changes.mark_unchanged();
            match runs.store().changed_after(after, BATCH).await {
                Ok(rows) if !rows.is_empty() => {
                    let mut frames = Vec::new();
                    for (number, change) in rows {
                        after = number;
                        let (name, json) = match change {
                            Change::Run(summary) => (None, summary),
                            Change::Removed(run) => {
                                (Some("removed"), serde_json::json!({ "run": run }).to_string())
                            }
                        };
                        http::write_event(&mut frames, name, Some(number), json.as_bytes());
                    }
                    return Some((Bytes::from(frames), (runs, changes, after)));
                }
                Ok(_) => changes.changed().await.ok()?,
                Err(error) => {
                    tracing::error!("the list of runs cannot be read: {error}");
                    return None;
                }
            }
        }
    });
    Ok(http::sse_response(told, api.stop, asked.alive()))
}

/// What `bettertest doctor` says on this machine.
pub(super) async fn doctor(State(api): State<Api>) -> Result<Response, Refusal> {
    json(StatusCode::OK, &(api.examine)().await)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichOutput {
    /// The latest, where none is named.
    attempt: Option<u32>,
    /// 1 waits for what is still to be printed.
    follow: Option<u8>,
}

fn no_such_task(run: RunNumber, error: String) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, error, format!("GET /api/runs/{run} lists tasks"))
}

fn find_task(run: RunNumber, task: &str) -> Result<TaskId, Refusal> {
    TaskId::try_from(task.to_owned()).map_err(|error| no_such_task(run, error.to_string()))
}

async fn find_output(api: &Api, run: &str, task: &str, attempt: Option<u32>) -> Result<OutputId, Refusal> {
    let run = number(run)?;
    let no = |error: String| no_such_task(run, error);
    let id = find_task(run, task)?;
    let state = api.runs.state(run).await?;
    let found = state.tasks().enumerate().find(|(_, task)| task.id == id);
    let (place, task) = found.ok_or_else(|| no(format!("run {run} has no task {id}")))?;
    let latest = task.attempts.len() as u32;
    let attempt = attempt.unwrap_or(latest);
    if attempt == 0 || attempt > latest {
        return Err(no(format!("{id} has not begun an attempt {} in run {run}", attempt.max(1))));
    }
    Ok(OutputId { run, task: place, attempt })
}

pub(super) async fn output(
    State(api): State<Api>,
    Segments((run, task)): Segments<(String, String)>,
    Asked(asked): Asked<WhichOutput>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let id = find_output(&api, &run, &task, asked.attempt).await?;
    let follow = asked.follow.unwrap_or(0) != 0;
    serve_output::output(api.runs.outputs(), id, follow, &headers, api.stop).await
}

pub(super) async fn output_index(
    State(api): State<Api>,
    Segments((run, task)): Segments<(String, String)>,
    Asked(asked): Asked<WhichOutput>,
) -> Result<Response, Refusal> {
    let id = find_output(&api, &run, &task, asked.attempt).await?;
    serve_output::index(api.runs.outputs(), id).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichAttempt {
    /// The latest, where none is named.
    attempt: Option<u32>,
}

pub(super) async fn artifacts(
    State(api): State<Api>,
    Segments((run, task)): Segments<(String, String)>,
    Asked(asked): Asked<WhichAttempt>,
) -> Result<Response, Refusal> {
    let id = find_output(&api, &run, &task, asked.attempt).await?;
    json(StatusCode::OK, &api.runs.artifacts(id).await?)
}

pub(super) async fn artifact(
    State(api): State<Api>,
    Segments((run, task, step, number)): Segments<(String, String, u32, u32)>,
    Asked(asked): Asked<WhichAttempt>,
) -> Result<Response, Refusal> {
    let id = find_output(&api, &run, &task, asked.attempt).await?;
    let all = api.runs.artifacts(id).await?;
    let of_step = all.steps.iter().find(|of_step| of_step.step == step);
    let Some(file) = of_step.and_then(|of_step| of_step.artifacts.files.get(number as usize)) else {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("{task} has no artifact {number} of step {step} in attempt {}", id.attempt),
            format!("GET /api/runs/{run}/tasks/{task}/artifacts lists them"),
        ));
    };
    serve_artifact::artifact(&api.runs.outputs().artifact(id, file), file).await
}

pub(super) async fn tests(
    State(api): State<Api>,
    Segments((run, task)): Segments<(String, String)>,
    Asked(asked): Asked<WhichAttempt>,
) -> Result<Response, Refusal> {
    let of = find_output(&api, &run, &task, asked.attempt).await?;
    json(StatusCode::OK, &api.runs.tests(of.run, &find_task(of.run, &task)?, of.attempt).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichTest {
    /// As Stage.task.
    task: String,
    /// As its runner calls it.
    name: String,
}

pub(super) async fn test_history(
    State(api): State<Api>,
    Asked(asked): Asked<WhichTest>,
) -> Result<Response, Refusal> {
    let unknown = |error: String| {
        let hint = "GET /api/runs/{run}/tasks/{task}/tests lists the tests of an attempt";
        Refusal::new(StatusCode::NOT_FOUND, error, hint)
    };
    let task = TaskId::try_from(asked.task).map_err(|error| unknown(error.to_string()))?;
    match api.runs.test_history(&task, &asked.name).await? {
        Some(history) => json(StatusCode::OK, &history),
        None => Err(unknown(format!("no test of that name is recorded of {task}"))),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    code: String,
}

pub(super) async fn log_in(State(api): State<Api>, Sent(login): Sent<Login>) -> Result<Response, Refusal> {
    let cookie = api.sessions.log_in(&login.code).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)], Body::empty()).into_response())
}

/// The answer to `POST /api/login-links`.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct NewLink {
    pub(crate) link: String,
}

pub(super) async fn new_link(
    State(api): State<Api>,
    Sent(Nothing {}): Sent<Nothing>,
) -> Result<Response, Refusal> {
    json(StatusCode::CREATED, &NewLink { link: api.sessions.new_link() })
}
