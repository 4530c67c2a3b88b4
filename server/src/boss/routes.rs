//! The routes of the boss: what answers them, who may ask, and what the OpenAPI document says of each.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use bytes::Bytes;
use common::{
    AttemptArtifacts, BossView, Checkup, OnlyTasks, OutputMark, Packet, Page, Pipeline, Rerun, RunCreated,
    RunEvent, RunSummary, RunView, TestHistory, TestsView, WorkersView,
};
use serde_json::json;
use std::sync::LazyLock;

use super::api::{self, Api, NewLink};
use super::sessions;
use crate::limits;
use crate::openapi::{self, Content, Document, Operation, Routes};

pub(super) fn router(api: Api) -> Router {
    let guarded = guarded().router.layer(from_fn_with_state(api.sessions.clone(), sessions::api_guard));
    guarded
        .merge(login().router.layer(from_fn(sessions::login_guard)))
        .merge(page().router)
        .method_not_allowed_fallback(api::wrong_method)
        .fallback(api::page_or_nothing)
        .layer(DefaultBodyLimit::max(limits::BODY_BYTES))
        .layer(from_fn_with_state(api.sessions.clone(), sessions::host_guard))
        .with_state(api)
}

/// What `GET /openapi.json` answers.
pub(crate) static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let words = "Coordinates runs of a pipeline and serves the page. Every refusal is an error and a hint. Every path \
                 that is no route here is the page, which knows its own addresses; a POST has to say that its body is \
                 JSON. A session's cookie is named after the port, and counts for requests of the boss's own page only.";
    let schemes = json!({
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": "bettertest_9001"},
    });
    Document::new("bettertest boss", words, schemes)
        .with(&guarded(), &["token", "session"], &[401, 403, 421])
        .with(&login(), &[], &[403, 421])
        .with(&page(), &[], &[421])
        .json()
});

/// Needs the token, or a session.
fn guarded() -> Routes<Api> {
    let of_a_run = |operation: Operation| operation.refusing(&[404, 410, 503]);
    let output = |operation: Operation| of_a_run(operation).query::<api::WhichOutput>();
    let answered = |operation: Operation, content| operation.answering(200, "As it is now", [content]);
    Routes::new()
        .get("/openapi.json", async || openapi::response(&DOCUMENT), openapi::operation())
        .get(
            "/api/pipeline",
            api::pipeline,
            answered(Operation::new("pipeline", "What the pipedef declares"), Content::json::<Pipeline>())
                .refusing(&[422]),
        )
        .get(
            "/api/boss",
            api::boss,
            answered(Operation::new("boss", "Whose boss this is"), Content::json::<BossView>()),
        )
        .get(
            "/api/workers",
            api::workers,
            answered(
                Operation::new("workers", "How the workers are; each is asked for this answer"),
                Content::json::<WorkersView>(),
            ),
        )
        .get(
            "/api/runs",
            api::list,
            Operation::new("list_runs", "The history, newest first")
                .query::<api::Before>()
                .answering(200, "A page of it", [Content::json::<Page>()])
                .refusing(&[503]),
        )
        .post(
            "/api/runs",
            api::start,
            Operation::new("start_run", "Starts a run")
                .body::<OnlyTasks>()
                .answering(201, "It exists, whatever happens now", [Content::json::<RunCreated>()])
                .refusing(&[409, 415, 503]),
        )
        .get(
            "/api/runs/{run}",
            api::show,
            of_a_run(answered(Operation::new("show_run", "One run"), Content::json::<RunView>())),
        )
        .get(
            "/api/runs/{run}/events",
            api::events,
            of_a_run(Operation::new("follow_run", "All that happened and will happen in a run"))
                .resumable::<u32>()
                .query::<api::After>()
                .answering(
                    200,
                    "Its events, and once it is at rest one named `end`",
                    [Content::events::<RunEvent>(&["end", "alive"])],
                )
                .answering(204, "It is at rest, and all of it was told", []),
        )
        .post(
            "/api/runs/{run}/cancel",
            api::cancel,
            of_a_run(answered(Operation::new("cancel_run", "Cancels a run"), Content::json::<RunView>()))
                .body::<api::Nothing>()
                .refusing(&[409, 415]),
        )
        .post(
            "/api/runs/{run}/rerun",
            api::rerun,
            of_a_run(answered(
                Operation::new("rerun", "Runs again what did not pass"),
                Content::json::<RunView>(),
            ))
            .body::<Rerun>()
            .refusing(&[409, 415]),
        )
        .get(
            "/api/runs/{run}/packet",
            api::packet,
            of_a_run(answered(
                Operation::new("failure_packet", "What did not pass, and why, in a few kilobytes"),
                Content::json::<Packet>(),
            ))
            .query::<api::WhichTask>(),
        )
        .get(
            "/api/runs/{run}/tasks/{task}/output",
            api::output,
            output(Operation::new("task_output", "What an attempt printed, the exact bytes"))
                .ranged()
                .answering(200, "All there is, or with `follow=1` all there will be", [Content::Bytes(TEXT)])
                .answering(206, "A range", [Content::Bytes(TEXT)]),
        )
        .get(
            "/api/runs/{run}/tasks/{task}/output/index",
            api::output_index,
            output(Operation::new("task_output_index", "Which of those bytes are whose")).answering(
                200,
                "A mark a line",
                [Content::lines::<OutputMark>()],
            ),
        )
        .get(
            "/api/runs/{run}/tasks/{task}/tests",
            api::tests,
            of_a_run(answered(
                Operation::new("task_tests", "The tests of an attempt, the worst first; at most 20,000"),
                Content::json::<TestsView>(),
            ))
            .query::<api::WhichAttempt>(),
        )
        .get(
            "/api/tests",
            api::test_history,
            answered(
                Operation::new("test_history", "How a test came out in the latest attempts that had it"),
                Content::json::<TestHistory>(),
            )
            .query::<api::WhichTest>()
            .refusing(&[404, 503]),
        )
        .get(
            "/api/runs/{run}/tasks/{task}/artifacts",
            api::artifacts,
            of_a_run(answered(
                Operation::new("artifacts", "The files that are kept of an attempt"),
                Content::json::<AttemptArtifacts>(),
            ))
            .query::<api::WhichAttempt>(),
        )
        .get(
            "/api/runs/{run}/tasks/{task}/artifacts/{step}/{number}",
            api::artifact,
            of_a_run(Operation::new(
                "artifact",
                "One of them, by its step and its place in that step's list",
            ))
            .query::<api::WhichAttempt>()
            .answering(
                200,
                "Its exact bytes, to be saved",
                [Content::Bytes("application/octet-stream")],
            ),
        )
        .get(
            "/api/events",
            api::comings,
            Operation::new("follow_runs", "The runs that start and end")
                .resumable::<u32>()
                .query::<api::After>()
                .answering(
                    200,
                    "A run as it is now; one named `removed` where there is none of that number any more",
                    [Content::events::<RunSummary>(&["removed", "alive"])],
                )
                .refusing(&[503]),
        )
        .get(
            "/api/doctor",
            api::doctor,
            answered(
                Operation::new("doctor", "What is missing on the boss's machine"),
                Content::json::<Checkup>(),
            ),
        )
        .get(
            "/metrics",
            api::metrics,
            answered(Operation::new("metrics", "What Prometheus is told"), Content::Bytes(TEXT))
                .refusing(&[503]),
        )
        .post(
            "/api/login-links",
            api::new_link,
            Operation::new("new_login_link", "A link that opens the page once")
                .body::<api::Nothing>()
                .answering(201, "It is good for some minutes", [Content::json::<NewLink>()])
                .refusing(&[415]),
        )
}

const TEXT: &str = "text/plain";

/// Needs neither, because it makes the session.
fn login() -> Routes<Api> {
    Routes::new().post(
        "/api/login",
        api::log_in,
        Operation::new("log_in", "Trades the code of a login link for a session")
            .body::<api::Login>()
            .answering(204, "The session's cookie", [])
            .telling("set-cookie", "For the browser to keep")
            .refusing(&[401, 415]),
    )
}

/// Tells nothing that is not in every binary.
fn page() -> Routes<Api> {
    let file = |operation: Operation, kinds: &[&'static str]| {
        let contents: Vec<Content> = kinds.iter().copied().map(Content::Bytes).collect();
        operation.answering(200, "The file", contents).telling("etag", "For `If-None-Match`").answering(
            304,
            "As it was",
            [],
        )
    };
    Routes::new()
        .get("/", api::page_or_nothing, file(Operation::new("page", "The page"), &["text/html"]))
        .get(
            "/{file}",
            api::page_or_nothing,
            file(
                Operation::new(
                    "page_file",
                    "What the page is made of; the page itself where there is no such file",
                ),
                &["text/html", "text/css", "text/javascript", "application/wasm"],
            )
            .refusing(&[404]),
        )
}
