//! The routes of a worker: what answers them, who may ask, and what the OpenAPI document says of each.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use bytes::Bytes;
use common::{BlobsStored, Health, MissingBlobs, StepEvent, StepSpec, StepView};
use std::sync::LazyLock;

use super::api::{self, Api};
use super::sources;
use crate::auth::{Token, worker_guard};
use crate::limits;
use crate::openapi::{self, Content, Document, Operation, Routes};

const BYTES: &str = "application/octet-stream";

pub(super) fn router(api: Api, token: Token) -> Router {
    let guarded = (guarded().router)
        .fallback(api::no_such_route)
        .method_not_allowed_fallback(api::no_such_method)
        .layer(DefaultBodyLimit::max(limits::BODY_BYTES))
        .layer(from_fn_with_state(token, worker_guard));
    open().router.method_not_allowed_fallback(api::no_such_method).merge(guarded).with_state(api)
}

/// What `GET /openapi.json` answers.
pub(crate) static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let words = "Runs steps, each a command in a fresh container, and keeps what they print. Every refusal is an error \
                 and a hint. An event's id in a stream is the position to resume from.";
    let schemes = serde_json::json!({"token": {"type": "http", "scheme": "bearer"}});
    Document::new("bettertest worker", words, schemes)
        .with(&open(), &[], &[])
        .with(&guarded(), &["token"], &[401, 403])
        .json()
});

/// What needs no token.
fn open() -> Routes<Api> {
    let health = |operation: Operation, status, words| {
        operation
            .answering(status, words, [Content::Bytes("text/plain"), Content::json::<Health>()])
            .telling("bettertest-version", "Which bettertest this is")
            .telling("bettertest-engine", "What makes the containers")
    };
    let operation =
        Operation::new("health", "Whether steps can be run here; as JSON where `Accept` asks for that");
    let operation = health(operation, 200, "They can");
    Routes::new().get("/health", api::health, health(operation, 503, "They cannot, and why"))
}

/// What needs the token.
fn guarded() -> Routes<Api> {
    let step = |operation: Operation| {
        operation.answering(200, "The step", [Content::json::<StepView>()]).refusing(&[404, 410, 503])
    };
    let streamed = |operation: Operation| {
        let words = "Its events, to the last or until the reader leaves";
        operation.resumable::<u64>().query::<api::After>().answering(
            200,
            words,
            [Content::events::<StepEvent>(&[])],
        )
    };
    Routes::new()
        .get("/openapi.json", async || openapi::response(&DOCUMENT), openapi::operation())
        .post(
            "/run",
            api::run,
            streamed(Operation::new("run", "Starts a step, or attaches to the one that has this id"))
                .telling("bettertest-step", "The step's id")
                .body::<StepSpec>()
                .refusing(&[409, 410, 503]),
        )
        .post(
            "/sources/missing",
            sources::missing,
            Operation::new("missing_blobs", "Which blobs of a manifest, the body, are not here")
                .body_of_bytes()
                .answering(200, "Each once", [Content::json::<MissingBlobs>()]),
        )
        .put(
            "/blobs",
            sources::put_blobs,
            Operation::new(
                "put_blobs",
                "Takes blobs; the body is `BLOB_ID LENGTH`, a line's end and the bytes, for each",
            )
            .body_of_bytes()
            .answering(200, "How many there were", [Content::json::<BlobsStored>()])
            .refusing(&[503]),
        )
        .put(
            "/trees/{id}",
            sources::put_tree,
            Operation::new("put_tree", "Puts the tree of a manifest, the body, together")
                .body_of_bytes()
                .answering(200, "Steps can run on it", [Content::json::<MissingBlobs>()])
                .refusing(&[404, 409, 503]),
        )
        .get(
            "/steps",
            api::list,
            Operation::new("list_steps", "The newest steps").answering(
                200,
                "A thousand at most",
                [Content::json::<Vec<StepView>>()],
            ),
        )
        .get("/steps/{id}", api::view, step(Operation::new("show_step", "One step")))
        .delete(
            "/steps/{id}",
            api::cancel,
            step(Operation::new("cancel_step", "Cancels a step; of an ended one nothing changes")),
        )
        .get(
            "/steps/{id}/events",
            api::events,
            streamed(Operation::new("follow_step", "What was and will be said of a step"))
                .refusing(&[404, 410, 503]),
        )
        .get(
            "/steps/{id}/output",
            api::output,
            Operation::new(
                "step_output",
                "What a step printed, the bytes alone; a range of them once it has ended",
            )
            .query::<api::Follow>()
            .ranged()
            .answering(200, "All there is, or with `follow=1` all there will be", [Content::Bytes(BYTES)])
            .answering(206, "A range", [Content::Bytes(BYTES)])
            .refusing(&[404, 410, 503]),
        )
        .get(
            "/steps/{id}/artifacts/{number}",
            api::artifact,
            Operation::new(
                "step_artifact",
                "A file that was kept of a step, by its place in the event `artifacts`",
            )
            .answering(200, "Its bytes", [Content::Bytes(BYTES)])
            .refusing(&[404, 410, 503]),
        )
        .get(
            "/metrics",
            api::metrics,
            Operation::new("metrics", "What Prometheus is told").answering(
                200,
                "Its text",
                [Content::Bytes("text/plain")],
            ),
        )
}
