//! What users read when something is wrong: always what happened to what, and a hint with the next thing to do.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::{Problem, Reason};

/// The set-up is wrong: printed as two lines, exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct SetupError {
    pub(crate) error: String,
    pub(crate) hint: String,
    /// The pipedef's own, where it raised: goes before both lines.
    pub(crate) traceback: Option<String>,
}

impl SetupError {
    pub(crate) fn new(error: impl Into<String>, hint: impl Into<String>) -> SetupError {
        SetupError { error: error.into(), hint: hint.into(), traceback: None }
    }
}

/// A request that is not served: its HTTP status and the body that says why.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) problem: Problem,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Refusal {
        Refusal { status, problem: Problem::new(error, hint) }
    }

    /// For a machine that asks again, and in the end has to say why it was never served.
    pub(crate) fn because(mut self, reason: Reason) -> Refusal {
        self.problem.reason = Some(reason);
        self
    }

    pub(crate) fn bad_body(error: &serde_json::Error) -> Refusal {
        Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("the body is not what this route takes: {error}"),
            "mend the named field; the README shows a body that works",
        )
    }

    pub(crate) fn no_token(where_to_find: &str) -> Refusal {
        Refusal::new(
            StatusCode::UNAUTHORIZED,
            "no token, or not the right one",
            format!("send `Authorization: Bearer TOKEN`; the token is in {where_to_find}"),
        )
    }

    /// Something of ours is broken. Logged here, once, with its chain; the answer names no inner detail.
    pub(crate) fn internal(error: &anyhow::Error) -> Refusal {
        tracing::error!("a request could not be served: {error:#}");
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("bettertest could not serve this: {error}"),
            "its log says more; if it goes on, please report it with that log",
        )
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Refusal {
        Refusal::internal(&error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.problem).expect("a problem is strings and numbers");
        (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}
