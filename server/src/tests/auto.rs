//! The engine that chooses: native where this host lets it, docker for images that are not worth unpacking yet, and
//! whatever an earlier worker had chosen for what it began.

use common::StepEvent;
use serde_json::json;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::native::is_root;
use super::rig::{IMAGE, Rig, Told, docker, native_choice};
use crate::worker::{EngineChoice, NativeChoice, Patience};

/// On a data directory of its own, so that nothing is unpacked yet.
async fn rig(change: impl FnOnce(&mut crate::worker::Setup)) -> Rig {
    let data = tempfile::tempdir().unwrap();
    let choice = native_choice(data.path().join("cache").join("images"));
    Rig::on(data, EngineChoice::Auto(choice), change).await
}

fn engine_of(told: &Told) -> (String, String) {
    let started = told.0.iter().find_map(|(_, event)| match event {
        StepEvent::Started { engine, engine_why, .. } => Some((engine.clone(), engine_why.clone().unwrap())),
        _ => None,
    });
    started.unwrap_or_else(|| panic!("{told:?}"))
}

struct Image(String);

impl Image {
    /// The test image and so many bytes more.
    fn with(bytes: u64) -> Image {
        let name = format!("bettertest-auto-{}-{bytes}", std::process::id());
        let mut build = Command::new("docker");
        build.args(["build", "-q", "-t", &name, "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut build = build.spawn().unwrap();
        let dockerfile = format!("FROM {IMAGE}\nRUN head -c {bytes} /dev/zero > /more\n");
        build.stdin.take().unwrap().write_all(dockerfile.as_bytes()).unwrap();
        assert!(build.wait().unwrap().success());
        Image(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_image_is_native_at_once() {
    if !is_root() {
        return;
    }
    let rig = rig(|_| {}).await;
    let told = rig.sh("echo here; exit 3").await;
    assert_eq!(engine_of(&told).0, "native");
    assert_eq!((told.stdout().as_str(), told.end().exit_code), ("here\n", Some(3)));
    let health: serde_json::Value = rig
        .bare()
        .get(rig.url("/health"))
        .header("accept", "application/json")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!((&health["engine"], &health["ok"]), (&json!("native"), &json!(true)), "{health}");
    assert!(health["engine_why"].as_str().unwrap().contains("walls"), "{health}");
    rig.finish().await;
}

/// Its first two steps cost in docker what unpacking it costs; from then on it is unpacked beside them.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_image_begins_in_docker_and_goes_on_native() {
    if !is_root() {
        return;
    }
    let image = Image::with(50_000_000);
    let rig = rig(|_| {}).await;
    let run = || rig.run(json!({"image": image.0, "command": "wc -c < /more; exit 4"}));
    let mut engines = Vec::new();
    while engines.last().is_none_or(|last| last == "docker") && engines.len() < 100 {
        let told = run().await;
        assert_eq!((told.stdout().as_str(), told.end().exit_code), ("50000000\n", Some(4)));
        let (engine, why) = engine_of(&told);
        assert_eq!(engine == "docker", why.contains("not unpacked yet"), "{engine}: {why}");
        engines.push(engine);
    }
    assert_eq!(engines[..2], ["docker", "docker"]);
    assert_eq!(engines.last().unwrap(), "native");
    // What docker had is gone, native or not.
    assert_eq!(rig.containers(), Vec::<String>::new());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_gives_more_rights_than_sandboxes_may_have_takes_docker() {
    let rig = rig(|setup| setup.allow_caps = vec!["SYS_ADMIN".to_owned()]).await;
    let told = rig.sh("exit 5").await;
    let (engine, why) = engine_of(&told);
    assert_eq!((engine.as_str(), told.end().exit_code), ("docker", Some(5)));
    let expected = if is_root() { "SYS_ADMIN" } else { "not root" };
    assert!(why.contains(expected), "{why}");
    rig.finish().await;
}

/// The worker is upgraded in mid-step, and the new one chooses anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_worker_began_ends_in_the_engine_that_has_it() {
    if !is_root() {
        return;
    }
    for (before, first) in [("docker", Rig::docker().await), ("native", Rig::native().await.unwrap())] {
        first.start("a-1", "echo one; sleep 3; echo two; exit 6").await;
        first.until("a-1", |event| matches!(event, StepEvent::Output { .. })).await;
        first.start("a-2", "trap 'exit 1' TERM; echo one; sleep 1000 & wait").await;
        first.until("a-2", |event| matches!(event, StepEvent::Output { .. })).await;
        let (data, _) = first.hand_over().await;
        let cache = data.path().join("cache").join("images");
        let engine = EngineChoice::Auto(native_choice(cache));
        let next = Rig::on(data, engine, |setup| setup.patience = Patience::default()).await;
        next.cancel("a-2").await;
        assert_eq!(next.events("a-2", 0).await.verdict(), "cancel_asked", "{before}");
        let told = next.events("a-1", 0).await;
        assert_eq!((told.stdout().as_str(), told.end().exit_code), ("one\ntwo\n", Some(6)), "{before}");
        assert_eq!(engine_of(&next.sh("true").await).0, "native");
        assert_eq!(next.containers(), Vec::<String>::new(), "{before}");
        next.finish().await;
    }
}

/// Its sandbox needs no Docker, and its end is not to be lost for want of one.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_natively_is_adopted_while_docker_is_away() {
    let Some(first) = Rig::native().await else { return };
    first.start("a-1", "echo one; sleep 2; echo two; exit 6").await;
    first.until("a-1", |event| matches!(event, StepEvent::Output { .. })).await;
    let (data, _) = first.hand_over().await;
    let nowhere = format!("unix://{}/no.sock", data.path().display());
    let choice = native_choice(data.path().join("cache").join("images"));
    let engine = EngineChoice::Auto(NativeChoice { docker_host: Some(nowhere), ..choice });
    let next = Rig::on(data, engine, |_| {}).await;
    let told = next.events("a-1", 0).await;
    assert_eq!((told.stdout().as_str(), told.end().exit_code), ("one\ntwo\n", Some(6)));
    next.finish().await;
}
