//! What a worker answers over HTTP, route by route (`routes.rs` lists them): each is a few lines over `steps.rs` and `spool.rs`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use common::{Health, Reason, StepId, StepSpec, StepView};
use futures_util::Stream;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::spool::Reader;
use super::step::{Reading, Step};
use super::steps::{NotTaken, Steps};
use super::trouble::SPOOL_HINT;
use super::{disk, output};
use crate::error::Refusal;
use crate::extract::{Asked, Object, Segments, last_event_id};
use crate::http::{Alive, part, sse_readers, sse_response, write_event};
use crate::limits;

#[derive(Clone)]
pub(super) struct Api {
    pub(super) steps: Steps,
    /// Ends the streams of steps that are handed over.
    pub(super) cut: CancellationToken,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct After {
    /// Where to go on, for who cannot send `Last-Event-ID`, which comes first.
    after: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Follow {
    /// 1 waits for what is still to be printed.
    follow: Option<u8>,
}

pub(super) async fn health(State(api): State<Api>, headers: HeaderMap) -> Response {
    let steps = &api.steps;
    let why = match steps.engine().check().await {
        Err(fault) => {
            Some(fault.hint.map_or(fault.message.clone(), |hint| format!("{}\nhint: {hint}", fault.message)))
        }
        Ok(()) if steps.is_draining() => Some("this worker is stopping".to_owned()),
        Ok(()) => steps.trouble(),
    };
    let health = Health {
        ok: why.is_none(),
        why,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: steps.engine().name().to_owned(),
        engine_why: steps.engine().why().map(str::to_owned),
        slots: steps.capacity().slots,
        kept_ready: steps.engine().kept_ready(),
    };
    let status = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let facts =
        [("bettertest-version", health.version.clone()), ("bettertest-engine", health.engine.clone())];
    let wants_json = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if wants_json.is_some_and(|accept| accept.contains("application/json")) {
        (status, facts, json(&health)).into_response()
    } else {
        let text = health.why.unwrap_or_else(|| "ok".to_owned()) + "\n";
        (status, facts, text).into_response()
    }
}

pub(super) async fn run(
    State(api): State<Api>,
    Asked(asked): Asked<After>,
    headers: HeaderMap,
    Object(body): Object,
) -> Result<Response, Refusal> {
    let after = position(&headers, &asked)?;
    let step = api.steps.take(spec_of(&body)?).await.map_err(refusal)?;
    let id = step.id.to_string();
    let mut response = stream(&api, &step, after)?;
    let id = id.parse().map_err(|_| anyhow::anyhow!("a step id is a header value"))?;
    response.headers_mut().insert("bettertest-step", id);
    Ok(response)
}

fn spec_of(body: &[u8]) -> Result<StepSpec, Refusal> {
    serde_json::from_slice(body).map_err(|error| match field_at_fault(body) {
        Some(problem) => refusal(NotTaken::BadSpec(problem)),
        None => Refusal::bad_body(&error),
    })
}

/// Serde says what is wrong with a value, but not of which field: each is tried alone.
fn field_at_fault(body: &[u8]) -> Option<String> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    fields.into_iter().find_map(|(name, value)| {
        let mut spec = serde_json::json!({"image": "x", "command": "x"});
        spec[&name] = value;
        let error = serde_json::from_value::<StepSpec>(spec).err()?.to_string();
        Some(if error.contains(&format!("`{name}`")) { error } else { format!("{name}: {error}") })
    })
}

pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let mut scrape = api.steps.scrape();
    scrape.gauge("sse_readers", "Open streams of events", sse_readers());
    ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], scrape.text()).into_response()
}

pub(super) async fn list(State(api): State<Api>) -> Result<Response, Refusal> {
    let views = tokio::task::spawn_blocking(move || api.steps.list()).await;
    let views: Vec<StepView> = views.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
    Ok(json(&views).into_response())
}

pub(super) async fn view(
    State(api): State<Api>,
    Segments(id): Segments<String>,
) -> Result<Response, Refusal> {
    let step = known(&api, &id)?;
    Ok(json(&step.view().map_err(anyhow::Error::from)?).into_response())
}

pub(super) async fn cancel(
    State(api): State<Api>,
    Segments(id): Segments<String>,
) -> Result<Response, Refusal> {
    let step = known(&api, &id)?;
    step.ask_to_stop(Reason::CancelAsked);
    if tokio::time::timeout(limits::CANCEL, step.is_settled()).await.is_err() {
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("that step {id} is to stop is not on disk yet"),
            "it will be if this worker lives; ask again to be sure",
        ));
    }
    Ok(json(&step.view().map_err(anyhow::Error::from)?).into_response())
}

pub(super) async fn events(
    State(api): State<Api>,
    Segments(id): Segments<String>,
    Asked(asked): Asked<After>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let after = position(&headers, &asked)?;
    let step = known(&api, &id)?;
    stream(&api, &step, after)
}

pub(super) async fn output(
    State(api): State<Api>,
    Segments(id): Segments<String>,
    Asked(asked): Asked<Follow>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let step = known(&api, &id)?;
    let follow = asked.follow.unwrap_or(0) != 0;
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    output::respond(&step, follow, range, api.cut).await
}

pub(super) async fn artifact(
    State(api): State<Api>,
    Segments((id, number)): Segments<(String, u32)>,
) -> Result<Response, Refusal> {
    let step = known(&api, &id)?;
    let file = match tokio::fs::File::open(step.spool.artifacts().join(number.to_string())).await {
        Ok(file) if step.spool.has_ended() => file,
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(anyhow::Error::from(error).into());
        }
        Ok(_) | Err(_) => {
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                format!("step {id} has no artifact {number}, or has it no more"),
                "the event `artifacts` of that step says what was kept; old ones go when room is needed",
            ));
        }
    };
    let size_bytes = file.metadata().await.map_err(anyhow::Error::from)?.len();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_LENGTH, size_bytes.to_string()),
    ];
    Ok((headers, Body::from_stream(part(file, size_bytes))).into_response())
}

/// The step's events from this position on, as they were written, each with the position after it.
fn stream(api: &Api, step: &Arc<Step>, after: u64) -> Result<Response, Refusal> {
    let reading = step.read();
    let reader = step.spool.reader(after).map_err(anyhow::Error::from)?.ok_or_else(|| {
        Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("no event of step {} ends at {after}", step.id),
            "resume with the id of an event that this worker sent, or begin at 0",
        )
    })?;
    Ok(sse_response(frames(reader, reading), api.cut.clone(), Alive::Comment))
}

fn frames(reader: Reader, reading: Reading) -> impl Stream<Item = Bytes> + Send {
    futures_util::stream::unfold((reader, reading), |(mut reader, reading)| async move {
        match reader.next().await {
            Ok(Some(lines)) => {
                let mut frames = Vec::with_capacity(lines.len() + 1024);
                for (position, line) in lines.iter() {
                    write_event(&mut frames, None, Some(position), line);
                }
                Some((Bytes::from(frames), (reader, reading)))
            }
            Ok(None) => None,
            Err(error) => {
                // The stream ends without an end; its reader resumes, or gives up.
                tracing::error!("a spool cannot be read: {error}");
                None
            }
        }
    })
}

/// Where to go on: `Last-Event-ID`, as browsers and our own clients send it, or `?after=`.
fn position(headers: &HeaderMap, asked: &After) -> Result<u64, Refusal> {
    Ok(last_event_id(headers)?.or(asked.after).unwrap_or(0))
}

fn known(api: &Api, id: &str) -> Result<Arc<Step>, Refusal> {
    let id = StepId::try_from(id.to_owned()).map_err(|_| no_such_step(id))?;
    let found = api.steps.find(&id).map_err(anyhow::Error::from)?;
    match found {
        Some(step) => Ok(step),
        None if api.steps.is_forgotten(&id).map_err(anyhow::Error::from)? => {
            Err(refusal(NotTaken::Forgotten(id)))
        }
        // It may just have been left to the next worker.
        None if api.steps.is_draining() => Err(refusal(NotTaken::Draining)),
        None => Err(no_such_step(id.as_str())),
    }
}

fn no_such_step(id: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no step {id}"), "GET /steps lists the steps")
}

pub(super) async fn no_such_route(request: Request) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!("a worker has no {}", request.uri().path()),
        "it has /health, /run, /steps, /steps/ID/events, /steps/ID/output, /steps/ID/artifacts/N, /sources/missing, /blobs, /trees/ID",
    )
}

pub(super) async fn no_such_method(request: Request) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} does not take {}", request.uri().path(), request.method()),
        "POST /run and /sources/missing, PUT /blobs and /trees/ID, DELETE /steps/ID, GET everything else",
    )
}

fn refusal(not_taken: NotTaken) -> Refusal {
    let error = not_taken.to_string();
    let refuse = |status, hint: &str| Refusal::new(status, error.clone(), hint);
    match not_taken {
        NotTaken::BadSpec(_) => refuse(StatusCode::UNPROCESSABLE_ENTITY, "mend the named field"),
        NotTaken::CapTooHigh(_) => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "ask for less, or start the worker with --max-output-bytes",
        ),
        NotTaken::OtherSpec(_) => refuse(StatusCode::CONFLICT, "give another command another id"),
        NotTaken::Forgotten(_) => refuse(StatusCode::GONE, "choose a new id to run it once more"),
        NotTaken::UnknownTree(_) => {
            refuse(StatusCode::CONFLICT, "send it once more, beginning with POST /sources/missing")
                .because(Reason::UnknownTree)
        }
        NotTaken::EngineDown(fault) => {
            let hint = fault.hint.as_deref().unwrap_or("try again");
            refuse(StatusCode::SERVICE_UNAVAILABLE, hint).because(fault.reason)
        }
        NotTaken::Draining => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, "try again when it is back; running steps go on")
        }
        NotTaken::DiskFull(_) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, disk::HINT).because(Reason::DiskFull)
        }
        NotTaken::SpoolFull(_) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, SPOOL_HINT).because(Reason::SpoolFull)
        }
        NotTaken::Unread(source) => Refusal::internal(&anyhow::Error::from(source)),
    }
}

fn json<T: serde::Serialize>(body: &T) -> impl IntoResponse + use<T> {
    let text = serde_json::to_vec(body).expect("bodies are strings and numbers");
    ([(header::CONTENT_TYPE, "application/json")], text)
}
