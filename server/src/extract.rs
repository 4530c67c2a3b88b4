//! What a request says, taken apart: the names in its path, what stands behind the `?`, the JSON of its body. What
//! cannot be taken is refused in the shape of every refusal, and names what is at fault.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::Refusal;

/// The names in the path.
pub(crate) struct Segments<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Segments<T>, Refusal> {
        let Path(names) = Path::from_request_parts(parts, state).await.map_err(|error| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("there is nothing of this name: {}", error.body_text()),
                "names are UTF-8, percent-encoded where a URL wants it",
            )
        })?;
        Ok(Segments(names))
    }
}

/// What stands behind the `?`. A type with `deny_unknown_fields` refuses what it does not know by name.
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, Refusal> {
        let Query(asked) = Query::from_request_parts(parts, state).await.map_err(|error| {
            Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                error.body_text(),
                "mend what stands behind the ? of the address",
            )
        })?;
        Ok(Asked(asked))
    }
}

/// A body that may be a JSON object; an empty one says nothing, `{}`.
pub(crate) struct Object(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Object {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Object, Refusal> {
        let bytes = Bytes::from_request(request, state).await.map_err(|error| {
            Refusal::new(
                error.status(),
                format!("the body could not be read: {error}"),
                "send it again, whole, or smaller: long inputs belong into an image",
            )
        })?;
        match bytes.trim_ascii_start().first() {
            None => Ok(Object(Bytes::from_static(b"{}"))),
            // Serde would take the values of the fields in their order, without their names.
            Some(b'[') => Err(Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the body is a JSON list, and this route takes an object",
                "give each value its name: {\"name\": value}",
            )),
            Some(_) => Ok(Object(bytes)),
        }
    }
}

/// The body, as what this route takes.
pub(crate) struct Sent<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Sent<T>, Refusal> {
        let Object(bytes) = Object::from_request(request, state).await?;
        serde_json::from_slice(&bytes).map(Sent).map_err(|error| Refusal::bad_body(&error))
    }
}

/// Where a reader of events stands: the id of the last event that it saw, as its browser or itself remembers.
pub(crate) fn last_event_id<T: std::str::FromStr>(headers: &HeaderMap) -> Result<Option<T>, Refusal> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    match id.to_str().ok().and_then(|id| id.parse().ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("Last-Event-ID: a position is a number, not {id:?}"),
            "resume with the id of the last event that was seen",
        )),
    }
}
