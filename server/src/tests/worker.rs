//! A worker over HTTP, with the fake engine: what it takes and refuses, and what its readers see.

use common::{Health, StepEvent, StepView, Stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

use super::rig::{IMAGE, Rig, told};
use crate::worker::{EngineChoice, Fake};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_token_opens_it() {
    let rig = Rig::fake().await;
    let routes = [
        (Method::POST, "/run"),
        (Method::GET, "/steps"),
        (Method::GET, "/steps/x-1/events"),
        (Method::GET, "/steps/x-1/output"),
        (Method::GET, "/steps/x-1"),
        (Method::DELETE, "/steps/x-1"),
        (Method::GET, "/nothing"),
    ];
    for (method, path) in routes {
        let ask = || rig.bare().request(method.clone(), rig.url(path));
        for wrong in [ask(), ask().bearer_auth("wrong"), ask().header("authorization", rig.token())] {
            let answer = wrong.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
            let problem: Value = answer.json().await.unwrap();
            assert!(problem["hint"].as_str().unwrap().contains("/token"), "{problem}");
        }
        for (name, value) in [("origin", "http://localhost"), ("sec-fetch-site", "none")] {
            let answer = ask().bearer_auth(rig.token()).header(name, value).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
        }
    }
    assert_eq!(rig.fake_engine().started(), 0);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_is_no_step() {
    let rig = Rig::fake().await;
    let tree = "2".repeat(64);
    let spec =
        json!({"image": IMAGE, "command": "true", "id": "x-1", "source": {"tree": tree, "at": "/app"}});
    let answer = rig.post(&spec).await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["reason"], "unknown_tree");
    assert_eq!(problem["error"], format!("this worker does not have the tree {tree}"));
    assert_eq!(rig.fake_engine().started(), 0);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_needs_no_token() {
    let rig = Rig::fake().await;
    let answer = rig.bare().get(rig.url("/health")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["bettertest-engine"], "fake");
    assert_eq!(answer.headers()["bettertest-version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(answer.text().await.unwrap(), "ok\n");
    rig.fake_engine().set_away(true);
    let answer =
        rig.bare().get(rig.url("/health")).header("accept", "application/json").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let health: Health = answer.json().await.unwrap();
    assert_eq!((health.ok, health.slots), (false, 4));
    assert!(health.why.unwrap().contains("away"));
    // And no step is taken, rather than failed.
    let answer = rig.post(&json!({"image": IMAGE, "command": "true", "id": "x-1"})).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    rig.fake_engine().set_away(false);
    assert_eq!(rig.run(json!({"image": IMAGE, "command": "true", "id": "x-1"})).await.verdict(), "passed");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_that_is_not_there_is_503() {
    let host = Some("unix:///nowhere/docker.sock".to_owned());
    let rig = Rig::with(EngineChoice::Docker { host }, |_| {}).await;
    let answer = rig.bare().get(rig.url("/health")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let why = answer.text().await.unwrap();
    assert!(why.contains("docker does not answer at unix:///nowhere/docker.sock"), "{why}");
    assert!(why.contains("hint: "), "{why}");
    let answer = rig.post(&json!({"image": IMAGE, "command": "true"})).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let steps: Vec<StepView> = rig.get("/steps").send().await.unwrap().json().await.unwrap();
    assert_eq!(steps, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused_by_name() {
    let rig = Rig::fake().await;
    let with =
        |field: &str, value: Value| json!({"image": IMAGE, "command": "true", field: value}).to_string();
    let bad = [
        (with("privileged", json!(true)), "privileged"),
        (with("Binds", json!(["/:/host"])), "Binds"),
        (with("PidMode", json!("host")), "PidMode"),
        (with("CapAdd", json!(["ALL"])), "CapAdd"),
        (with("network", json!("host")), "network"),
        (with("timeout_s", json!(0)), "timeout_s"),
        (with("timeout_s", json!(-1)), "timeout_s"),
        (with("memory_bytes", json!(1)), "memory_bytes"),
        (with("output_cap_bytes", json!(1u64 << 40)), "--max-output-bytes"),
        (with("id", json!("../x")), "id: a step id"),
        (with("image", json!("../containers/json")), "image"),
        (with("image", json!("x?y=z")), "image"),
        (json!({"command": "true"}).to_string(), "image"),
        (json!({"image": IMAGE}).to_string(), "command"),
        (json!({"image": IMAGE, "command": []}).to_string(), "command"),
        ("[]".to_owned(), "body"),
        ("{".to_owned(), "body"),
        (String::new(), "body"),
    ];
    for (body, named) in bad {
        let sent = rig
            .bare()
            .post(rig.url("/run"))
            .bearer_auth(rig.token())
            .body(body.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        let problem = sent.text().await.unwrap();
        assert!(problem.contains(named) && problem.contains("\"hint\""), "{body}: {problem}");
    }
    let long = format!("\"{}\"", "x".repeat(5 * 1024 * 1024));
    let sent = rig.bare().post(rig.url("/run")).bearer_auth(rig.token()).body(long).send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(rig.fake_engine().started(), 0);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_json() {
    let rig = Rig::fake().await;
    let asked = [
        (Method::GET, "/nothing", 404),
        (Method::GET, "/steps/none/events", 404),
        (Method::GET, "/steps/none/output", 404),
        (Method::GET, "/steps/%2e%2e/output", 404),
        (Method::DELETE, "/steps/none", 404),
        (Method::GET, "/run", 405),
        (Method::POST, "/steps", 405),
        (Method::POST, "/health", 405),
    ];
    for (method, path, status) in asked {
        let sent = rig.bare().request(method, rig.url(path)).bearer_auth(rig.token()).send().await.unwrap();
        assert_eq!(sent.status().as_u16(), status, "{path}");
        let problem: Value = sent.json().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(problem["error"].is_string() && problem["hint"].is_string(), "{problem}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_is_one_step() {
    let rig = Rig::fake().await;
    let spec = json!({"image": IMAGE, "command": "echo once; sleep 0.2; exit 3", "id": "r-1"});
    let posts = (0..5).map(|_| rig.run(spec.clone()));
    let all = futures_util::future::join_all(posts).await;
    assert!(all.iter().all(|told| *told == all[0]), "{all:?}");
    assert_eq!((all[0].stdout().as_str(), all[0].end().exit_code), ("once\n", Some(3)));
    assert_eq!(rig.fake_engine().started(), 1);
    // Ended, it answers from its record; pinned to an image it is the same request.
    let mut pinned = spec.clone();
    pinned["image_digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    assert_eq!(rig.run(pinned).await, all[0]);
    let mut other = spec.clone();
    other["command"] = json!("echo twice");
    assert_eq!(rig.post(&other).await.status(), StatusCode::CONFLICT);
    assert_eq!(rig.fake_engine().started(), 1);
    let sent = rig.post(&spec).await;
    assert_eq!(sent.headers()["bettertest-step"], "r-1");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_anywhere_gives_what_follows() {
    let rig = Rig::fake().await;
    let command =
        "echo one; echo two >&2; bytes fffe00; printf 'caf\\303'; sleep 0.2; printf '\\251'; exit 7";
    let whole = rig.run(json!({"image": IMAGE, "command": command, "id": "r-1"})).await;
    assert_eq!(whole.stderr(), "two\n");
    for (at, (position, _)) in whole.0.iter().enumerate() {
        assert_eq!(rig.events("r-1", *position).await.0, whole.0[at + 1..]);
        let query = rig.get(&format!("/steps/r-1/events?after={position}")).send().await.unwrap();
        assert_eq!(told(query).await.0, whole.0[at + 1..]);
    }
    for wrong in ["1", "99999999", "x"] {
        let sent = rig.get("/steps/r-1/events").header("last-event-id", wrong).send().await.unwrap();
        assert_eq!(sent.status(), StatusCode::UNPROCESSABLE_ENTITY);
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_as_bytes() {
    let rig = Rig::fake().await;
    rig.start("r-1", "echo one; bytes 00ff; sleep 0.4; echo two >&2").await;
    rig.until("r-1", |event| matches!(event, StepEvent::Output { .. })).await;
    let get = |path: &'static str| rig.get(path).send();
    let now = get("/steps/r-1/output").await.unwrap().bytes().await.unwrap();
    assert!(b"one\n\0\xff".starts_with(&now) && !now.is_empty(), "{now:?}");
    let followed = get("/steps/r-1/output?follow=1").await.unwrap().bytes().await.unwrap();
    assert_eq!(followed, b"one\n\0\xfftwo\n"[..]);
    let all = get("/steps/r-1/output").await.unwrap();
    assert_eq!(all.headers()["content-length"], "10");
    assert_eq!(all.bytes().await.unwrap(), followed);
    for (range, content_range, bytes) in [
        ("bytes=0-0", "bytes 0-0/10", &b"o"[..]),
        ("bytes=3-6", "bytes 3-6/10", b"\n\0\xfft"),
        ("bytes=-4", "bytes 6-9/10", b"two\n"),
        ("bytes=8-", "bytes 8-9/10", b"o\n"),
    ] {
        let part = rig.get("/steps/r-1/output").header("range", range).send().await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.headers()["content-range"], content_range);
        assert_eq!(part.bytes().await.unwrap(), bytes);
    }
    let none = rig.get("/steps/r-1/output").header("range", "bytes=10-").send().await.unwrap();
    assert_eq!(none.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_defined_at_every_moment() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.slots = 1).await;
    rig.start("a-pulling", "true").await;
    assert_eq!(rig.events("a-pulling", 0).await.verdict(), "passed");
    let pulling = rig.post(&json!({"image": "fake-endless", "command": "true", "id": "b-1"})).await;
    rig.until("b-1", |event| matches!(event, StepEvent::Preparing { .. })).await;
    rig.start("c-queued", "true").await;
    assert_eq!(rig.cancel("c-queued").await.state, "ended");
    let queued = rig.events("c-queued", 0).await;
    assert_eq!(queued.kinds(), ["queued", "cancelled"]);
    assert_eq!(queued.end().took_ms, 0);
    rig.cancel("b-1").await;
    let pulled = told(pulling).await;
    assert_eq!(pulled.kinds(), ["queued", "preparing", "cancelled"]);
    // Twice, and after the end, changes nothing.
    let view = rig.cancel("b-1").await;
    assert_eq!(
        (view.state.as_str(), view.verdict.unwrap().reason().unwrap().word()),
        ("ended", "cancel_asked")
    );
    assert_eq!(rig.events("b-1", 0).await, pulled);
    let passed = rig.cancel("a-pulling").await;
    assert!(passed.verdict.unwrap().passed());
    assert_eq!(rig.fake_engine().started(), 1);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_killed_says_so_and_keeps_its_slot() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.slots = 1).await;
    let told = rig.run(json!({"image": IMAGE, "command": "hang", "timeout_s": 1, "id": "h-1"})).await;
    assert_eq!(told.verdict(), "kill_failed");
    let why = rig.get("/health").send().await.unwrap();
    assert_eq!(why.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(why.text().await.unwrap().contains("h-1"));
    rig.start("x-1", "true").await;
    let waits = tokio::time::timeout(Duration::from_millis(300), rig.events("x-1", 0)).await;
    assert!(waits.is_err(), "there is no slot for it");
    rig.cancel("x-1").await;
    assert_eq!(rig.events("x-1", 0).await.verdict(), "cancel_asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn mishaps_of_the_engine_are_not_the_users() {
    let rig = Rig::fake().await;
    for (command, reason) in
        [("engine-error", "engine_unavailable"), ("lose", "container_lost"), ("start-error", "start_failed")]
    {
        assert_eq!(rig.sh(command).await.verdict(), reason);
    }
    assert_eq!(rig.run(json!({"image": "fake-denied", "command": "true"})).await.verdict(), "pull_denied");
    let oom = rig.sh("oom").await.end();
    assert_eq!((oom.exit_code, oom.oom), (Some(137), true));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_without_an_id_lives_with_its_readers() {
    let rig = Rig::fake().await;
    let sent = rig.post(&json!({"image": IMAGE, "command": "echo on; sleep 60"})).await;
    let id = sent.headers()["bettertest-step"].to_str().unwrap().to_owned();
    // Longer than the lease, with a reader.
    assert!(tokio::time::timeout(Duration::from_secs(1), told(sent)).await.is_err());
    let other = rig.get(&format!("/steps/{id}/output?follow=1")).send().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), other.bytes()).await.is_err());
    // The last reader has left. One that comes back in time keeps it alive, one that comes late finds its end.
    let view: StepView = rig.get(&format!("/steps/{id}")).send().await.unwrap().json().await.unwrap();
    assert_eq!(view.state, "running");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(rig.events(&id, 0).await.verdict(), "reader_left");
    // One with an id does not care.
    rig.start("r-1", "sleep 1.5; exit 4").await;
    tokio::time::sleep(Duration::from_millis(1800)).await;
    assert_eq!(rig.events("r-1", 0).await.end().exit_code, Some(4));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_output_keeps_its_beginning_and_its_end() {
    let rig = Rig::fake().await;
    let spec = json!({"image": IMAGE, "command": "flood 3000000; echo the last line", "output_cap_bytes": 100_000, "id": "r-1"});
    let live = rig.run(spec).await;
    let kept = live.bytes(Stream::Stdout);
    assert_eq!(kept.len(), 200_000);
    assert_eq!(kept.len() as u64 + live.dropped(), 3_000_014);
    assert!(kept.ends_with(b"0the last line\n"));
    assert_eq!(rig.events("r-1", 0).await, live, "live or late, every reader sees the same");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_listed_newest_first() {
    let rig = Rig::fake().await;
    for id in ["r-1", "r-2"] {
        rig.run(json!({"image": IMAGE, "command": ["false"], "id": id})).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.start("r-3", "sleep 60").await;
    let steps: Vec<StepView> = rig.get("/steps").send().await.unwrap().json().await.unwrap();
    let seen: Vec<_> = steps.iter().map(|step| (step.id.as_str(), step.command.as_str())).collect();
    assert_eq!(seen, [("r-3", "sleep 60"), ("r-2", "false"), ("r-1", "false")]);
    assert_eq!((steps[1].state.as_str(), steps[1].exit_code), ("ended", Some(1)));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_for_good_cancels_and_tells() {
    let rig = Rig::fake().await;
    let running = rig.post(&json!({"image": IMAGE, "command": "echo on; sleep 60", "id": "r-1"})).await;
    rig.until("r-1", |event| matches!(event, StepEvent::Output { .. })).await;
    let (told, ()) = tokio::join!(told(running), rig.finish());
    assert_eq!(told.verdict(), "shut_down");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_on_under_the_next_worker() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.slots = 1).await;
    rig.start("a-running", "echo one; sleep 2; exit 1").await;
    rig.until("a-running", |event| matches!(event, StepEvent::Output { .. })).await;
    rig.start("b-queued", "exit 2").await;
    let fake = rig.fake_engine().clone();
    let (data, engine) = rig.hand_over().await;
    assert_eq!(fake.started(), 1);
    let next = Rig::on(data, engine, |setup| setup.slots = 1).await;
    let (running, queued) = (next.events("a-running", 0).await, next.events("b-queued", 0).await);
    assert_eq!((running.end().exit_code, queued.end().exit_code), (Some(1), Some(2)));
    assert_eq!(running.kinds(), ["queued", "started", "output", "gap", "exited"]);
    assert_eq!(queued.kinds(), ["queued", "started", "exited"]);
    assert_eq!(fake.started(), 2);
    // What ended under the first worker is known to the second.
    assert_eq!(next.run(json!({"image": IMAGE, "command": "exit 2", "id": "b-queued"})).await, queued);
    next.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_steps_wait_their_turn() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.slots = 2).await;
    let ids: Vec<String> = (0..60).map(|step| format!("run{}-{step}", step % 3)).collect();
    let all = ids.iter().map(|id| rig.run(json!({"image": IMAGE, "command": "echo x", "id": id})));
    for told in futures_util::future::join_all(all).await {
        assert_eq!((told.verdict(), told.stdout().as_str()), ("passed", "x\n"));
    }
    assert_eq!(rig.fake_engine().started(), 60);
    rig.finish().await;
}
