//! People meddle with the containers of steps: they remove, rename, pause, kill and stop them by hand.

use common::StepEvent;
use serde_json::json;
use std::time::{Duration, Instant};

use super::super::rig::{IMAGE, Rig, Told, docker};

/// A step that has printed `one`.
async fn running(rig: &Rig, id: &str, command: &str, timeout_s: u32) {
    let spec = json!({"image": IMAGE, "command": command, "id": id, "timeout_s": timeout_s});
    assert!(rig.post(&spec).await.status().is_success());
    rig.until(id, |event| matches!(event, StepEvent::Output { .. })).await;
}

fn name(rig: &Rig, id: &str) -> String {
    format!("bettertest-{}-{id}", rig.instance())
}

async fn ended(rig: &Rig, id: &str) -> Told {
    let told = tokio::time::timeout(Duration::from_secs(20), rig.events(id, 0)).await;
    told.unwrap_or_else(|_| panic!("{id} does not end"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_container_is_lost() {
    let rig = Rig::docker().await;
    running(&rig, "a-1", "echo one; sleep 60", 60).await;
    docker(&["rm", "-f", &name(&rig, "a-1")]);
    let told = ended(&rig, "a-1").await;
    assert_eq!((told.verdict(), told.end().exit_code), ("container_lost", None));
    assert!(told.end().hint.unwrap().contains("did somebody remove it"));
    assert_eq!(rig.sh("true").await.verdict(), "passed");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_killed_by_hand_ends_with_its_code() {
    let rig = Rig::docker().await;
    running(&rig, "a-killed", "echo one; sleep 60", 60).await;
    docker(&["kill", &name(&rig, "a-killed")]);
    let told = ended(&rig, "a-killed").await;
    assert_eq!((told.verdict(), told.end().exit_code), ("command_failed", Some(137)));
    assert!(!told.end().oom);
    running(&rig, "a-stopped", "trap 'echo two; exit 4' TERM; echo one; sleep 60 & wait", 60).await;
    docker(&["stop", &name(&rig, "a-stopped")]);
    let told = ended(&rig, "a-stopped").await;
    assert_eq!((told.verdict(), told.end().exit_code), ("command_failed", Some(4)));
    assert_eq!((told.stdout().as_str(), told.gaps()), ("one\ntwo\n", 0));
    rig.finish().await;
}

/// It is known by its id and its labels: whatever its name, its end is true, and a cancel, a time limit and the
/// next worker find it.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_container_is_still_ours() {
    let rig = Rig::docker().await;
    let other = |id: &str| format!("renamed-{}-{id}", rig.instance());
    for (id, command, timeout_s) in [
        ("a-ends", "echo one; sleep 2; echo two; exit 3", 60),
        ("a-cancelled", "echo one; sleep 60", 60),
        ("a-late", "echo one; sleep 60", 2),
    ] {
        running(&rig, id, command, timeout_s).await;
        docker(&["rename", &name(&rig, id), &other(id)]);
    }
    rig.cancel("a-cancelled").await;
    for (id, verdict, code) in [
        ("a-ends", "command_failed", 3),
        ("a-cancelled", "cancel_asked", 143),
        ("a-late", "step_timeout", 143),
    ] {
        let told = ended(&rig, id).await;
        assert_eq!((told.verdict(), told.end().exit_code, told.gaps()), (verdict, Some(code), 0), "{id}");
    }
    assert_eq!(rig.containers(), Vec::<String>::new());
    running(&rig, "a-adopted", "echo one; sleep 3; echo two; exit 5", 60).await;
    docker(&["rename", &name(&rig, "a-adopted"), &other("a-adopted")]);
    let (data, engine) = rig.hand_over().await;
    let next = Rig::on(data, engine, |_| {}).await;
    let told = ended(&next, "a-adopted").await;
    assert_eq!((told.end().exit_code, told.gaps()), (Some(5), 1));
    assert_eq!(next.containers(), Vec::<String>::new());
    next.finish().await;
}

/// Its time goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_container_is_ended_by_its_limit() {
    let rig = Rig::docker().await;
    for (id, command) in
        [("a-1", "echo one; sleep 60"), ("a-deaf", "trap '' TERM; echo one; while :; do sleep 1; done")]
    {
        running(&rig, id, command, 2).await;
        docker(&["pause", &name(&rig, id)]);
    }
    let began = Instant::now();
    for id in ["a-1", "a-deaf"] {
        assert_eq!(ended(&rig, id).await.verdict(), "step_timeout", "{id}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(rig.containers(), Vec::<String>::new());
    // One that goes on was only slow.
    running(&rig, "a-2", "echo one; sleep 1; echo two; exit 3", 60).await;
    docker(&["pause", &name(&rig, "a-2")]);
    docker(&["unpause", &name(&rig, "a-2")]);
    let told = ended(&rig, "a-2").await;
    assert_eq!((told.stdout().as_str(), told.end().exit_code, told.gaps()), ("one\ntwo\n", Some(3), 0));
    rig.finish().await;
}
