//! `bettertest doctor` where it is chosen who listens at the ports of boss and worker.

use common::{Check, CheckState, Checkup};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use tokio::net::TcpListener;

use super::rig::{IMAGE, Rig};
use crate::doctor::{Options, examine};

/// Nothing listens there.
async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn looked(data: &Path, boss_at: SocketAddr, worker_at: SocketAddr) -> Checkup {
    let options = Options::new(data.to_owned(), false, None);
    examine(&Options { boss_at, worker_at, ..options }).await
}

fn of<'a>(checkup: &'a Checkup, name: &str) -> &'a Check {
    checkup.checks.iter().find(|check| check.check == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_well_is_told_so() {
    let rig = Rig::docker().await;
    let checkup = looked(rig.data.path(), free().await, rig.address()).await;
    assert!(checkup.ok && checkup.headline.starts_with("all is well"), "{checkup:#?}");
    let worker = of(&checkup, "worker");
    assert_eq!(worker.found, format!("ours at {} (docker, 4 at once)", rig.address()));
    let clock = of(&checkup, "clock");
    assert_eq!(clock.found, format!("the same as that of docker, http://{}", rig.address()));
    assert!(of(&checkup, "boss").found.starts_with("none runs; "), "{checkup:#?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_others_have_are_wrong() {
    let data = tempfile::tempdir().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = other.local_addr().unwrap();
    // It answers, but not as we do.
    let answers = axum::Router::new().fallback(async || "hello");
    let serving = tokio::spawn(async move { axum::serve(other, answers).await });
    let checkup = looked(data.path(), at, at).await;
    for (name, found) in
        [("boss", "something that is not our boss"), ("worker", "something that is no worker")]
    {
        let check = of(&checkup, name);
        assert_eq!((check.state, check.found.starts_with(found)), (CheckState::Wrong, true), "{check:?}");
        let port = at.port().to_string();
        assert!(check.hint.as_ref().is_some_and(|hint| hint.contains(&port)), "{check:?}");
    }
    serving.abort();

    // A worker, but of another data directory.
    let rig = Rig::fake().await;
    let checkup = looked(data.path(), free().await, rig.address()).await;
    let worker = of(&checkup, "worker");
    assert!(worker.found.ends_with("does not take our token"), "{worker:?}");
    rig.finish().await;
}

/// A container that cannot be killed takes a slot away, until somebody looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_beyond_reach_is_named() {
    let rig = Rig::fake().await;
    let told = rig.run(json!({"image": IMAGE, "command": "hang", "timeout_s": 1, "id": "h-1"})).await;
    assert_eq!(told.verdict(), "kill_failed");
    let checkup = looked(rig.data.path(), free().await, rig.address()).await;
    let worker = of(&checkup, "worker");
    assert_eq!(worker.state, CheckState::Wrong);
    assert!(worker.found.contains("containers that cannot be killed: of steps h-1"), "{worker:?}");
    assert!(worker.hint.as_ref().is_some_and(|hint| hint.contains("docker ps")), "{worker:?}");
}
