//! Docker is restarted, killed and stopped in the middle of steps, and in the very moment in which they end.

use common::StepEvent;
use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::json;
use std::time::{Duration, Instant};

use super::super::rig::{IMAGE, Rig};
use super::private::Dockerd;

/// Commands that run on until their daemon ends them, and answer that with this exit code.
const STAYS: [(&str, u8); 3] = [("stays-0", 0), ("stays-9", 9), ("stays-143", 143)];

/// How long after the others' beginning these end by themselves, with exit code 0 or 3, while the daemon goes.
const ENDS_MS: [u64; 6] = [0, 100, 200, 400, 700, 1000];

async fn health(rig: &Rig) -> (StatusCode, String) {
    let answer = rig.bare().get(rig.url("/health")).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

/// As long as a daemon is away no step is taken, and it says why; then it is well again by itself.
async fn is_refused(rig: &Rig) {
    let (status, why) = health(rig).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{why}");
    assert!(why.contains("docker does not answer at unix://"), "{why}");
    let sent = rig.post(&json!({"image": IMAGE, "command": "true", "id": "refused-1"})).await;
    assert_eq!(sent.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(rig.get("/steps/refused-1").send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

async fn is_well(rig: &Rig) {
    let returned = Instant::now();
    while health(rig).await.0 != StatusCode::OK {
        assert!(returned.elapsed() < Duration::from_secs(10), "{:?}", health(rig).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One round: steps that stay and steps that end, and a daemon that ends in their midst.
async fn round(dockerd: &mut Dockerd, rig: &Rig, signal: Signal, live_restore: bool) {
    let case = format!("{signal}, live-restore {live_restore}");
    let id = |name: &str| format!("{}-{name}", signal.as_str().to_lowercase());
    for (name, code) in STAYS {
        let until_told = "while [ ! -e /tmp/go ]; do sleep 0.1; done";
        let command = format!("trap 'exit {code}' TERM; echo one; {until_told}; echo two; exit 7");
        rig.start(&id(name), &command).await;
        rig.until(&id(name), |event| matches!(event, StepEvent::Output { .. })).await;
    }
    for (at, ms) in ENDS_MS.into_iter().enumerate() {
        let sleep = format!("{}.{:03}", ms / 1000, ms % 1000);
        let code = if at % 2 == 0 { 0 } else { 3 };
        let command = format!("trap 'exit 9' TERM; echo one; sleep {sleep} & wait; echo two; exit {code}");
        rig.start(&id(&format!("ends-{at}")), &command).await;
    }
    rig.until(&id("ends-3"), |event| matches!(event, StepEvent::Output { .. })).await;
    dockerd.end(signal);
    is_refused(rig).await;
    dockerd.start();
    is_well(rig).await;

    for (name, _) in STAYS {
        if live_restore {
            let container = format!("bettertest-{}-{}", rig.instance(), id(name));
            dockerd.docker(&["exec", &container, "touch", "/tmp/go"]);
        }
        let told = rig.events(&id(name), 0).await;
        if live_restore {
            assert_eq!((told.verdict(), told.end().exit_code), ("command_failed", Some(7)), "{case} {name}");
            assert!(told.gaps() > 0 && told.stdout().starts_with("one\n"), "{case} {name}: {told:?}");
        } else {
            assert_eq!(told.verdict(), "docker_restart", "{case} {name}: {:?}", told.end());
        }
    }
    for at in 0..ENDS_MS.len() {
        let told = rig.events(&id(&format!("ends-{at}")), 0).await;
        let (end, by_itself) = (told.end(), if at % 2 == 0 { 0 } else { 3 });
        match told.verdict() {
            "passed" | "command_failed" => {
                assert_eq!(end.exit_code, Some(by_itself), "{case} ends-{at}");
                assert!(told.stdout() == "one\ntwo\n" || told.gaps() > 0, "{case} ends-{at}: {told:?}");
            }
            // It was about to be made or started when the daemon went.
            "engine_unavailable" | "start_failed" => {}
            "docker_restart" if !live_restore => {}
            // In that very moment Docker loses exit codes, and says 255.
            "exit_unknown" if live_restore => assert_eq!(end.exit_code, Some(255)),
            other => panic!("{case} ends-{at}: {other}: {end:?}"),
        }
    }
    assert_eq!(rig.sh("echo next").await.stdout(), "next\n", "{case}");
}

async fn restarts(live_restore: bool) {
    let Some(mut dockerd) = Dockerd::new(live_restore) else { return };
    let rig = Rig::with(dockerd.engine(), |setup| setup.slots = 20).await;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        round(&mut dockerd, &rig, signal, live_restore).await;
    }
    // What could not be removed while it was away goes with the next sweep.
    let (data, engine) = rig.hand_over().await;
    let next = Rig::on(data, engine, |_| {}).await;
    is_empty(&dockerd).await;
    next.finish().await;
}

async fn is_empty(dockerd: &Dockerd) {
    let asked = Instant::now();
    while !dockerd.containers().is_empty() {
        assert!(asked.elapsed() < Duration::from_secs(120), "left: {}", dockerd.containers());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_docker_is_no_failure_of_the_command() {
    restarts(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_live_restore_steps_survive_a_restart() {
    restarts(true).await;
}

/// It hangs for longer than any call waits for an answer, and goes on as if nothing had been.
#[tokio::test(flavor = "multi_thread")]
async fn a_docker_that_hangs_for_a_while_loses_nothing() {
    let Some(dockerd) = Dockerd::new(false) else { return };
    let rig = Rig::with(dockerd.engine(), |setup| setup.patience.kill = Duration::from_secs(40)).await;
    let printing = |event: &StepEvent| matches!(event, StepEvent::Output { .. });
    for (id, command) in [
        ("a-ends", "echo one; sleep 3; echo two; exit 0"),
        ("a-stays", "echo one; sleep 25; echo two; exit 3"),
        ("a-cancelled", "echo one; sleep 60"),
    ] {
        rig.start(id, command).await;
        rig.until(id, printing).await;
    }
    dockerd.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    is_refused(&rig).await;
    rig.cancel("a-cancelled").await;
    tokio::time::sleep(Duration::from_secs(20).saturating_sub(stopped.elapsed())).await;
    dockerd.signal(Signal::SIGCONT);
    is_well(&rig).await;
    for (id, verdict) in
        [("a-ends", "passed"), ("a-stays", "command_failed"), ("a-cancelled", "cancel_asked")]
    {
        let told = rig.events(id, 0).await;
        assert_eq!(told.verdict(), verdict, "{id}: {:?}", told.end());
        let whole = if id == "a-cancelled" { "one\n" } else { "one\ntwo\n" };
        assert_eq!((told.stdout().as_str(), told.gaps()), (whole, 0), "{id}");
    }
    is_empty(&dockerd).await;
    rig.finish().await;
}
