//! Each call that a worker makes of Docker fails once, in each way in which a call can fail.

use common::StepEvent;
use reqwest::StatusCode;
use serde_json::json;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

use super::super::rig::{IMAGE, Rig, Told, told};
use super::proxy::{Proxy, REAL, Way};
use crate::worker::{Deadlines, EngineChoice};

const WAYS: [Way; 6] = [Way::Error, Way::Hang, Way::Mute, Way::Lost, Way::Cut(5), Way::Stall(5)];

/// What else goes on on the machine must not look like a fault.
const AT_ONCE: usize = 12;

/// Much longer than any call takes, and much shorter than people have patience.
fn deadlines() -> Deadlines {
    let seconds = Duration::from_secs;
    Deadlines {
        ping: seconds(4),
        look: seconds(5),
        change: seconds(6),
        start: seconds(7),
        pull: seconds(10),
        away: seconds(12),
        silence: seconds(3),
        last_output: seconds(2),
    }
}

async fn worker(proxy: &Proxy) -> Rig {
    let engine = EngineChoice::Docker { host: Some(proxy.host()) };
    Rig::with(engine, |setup| {
        setup.deadlines = deadlines();
        setup.patience.kill = Duration::from_secs(10);
    })
    .await
}

/// All cases, some at a time.
async fn each<C: Future<Output = ()> + Send + 'static>(cases: impl IntoIterator<Item = C>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut all = tokio::task::JoinSet::new();
    for case in cases {
        let turns = turns.clone();
        all.spawn(async move {
            let _turn = turns.acquire_owned().await;
            case.await
        });
    }
    let mut wrong = 0;
    while let Some(done) = all.join_next().await {
        // Its message was printed where it happened.
        wrong += usize::from(done.is_err());
    }
    assert_eq!(wrong, 0, "so many cases");
}

/// What is true of a step whatever became of a call: if it ended as its command did, it did, and all that it
/// printed is there or something says that it is not; else the reason is Docker's.
fn is_true(case: &str, step: &Told, exit_code: u8) {
    let end = step.end();
    match step.verdict() {
        "passed" | "command_failed" => {
            assert_eq!(end.exit_code, Some(exit_code), "{case}");
            assert_eq!(end.verdict.passed(), exit_code == 0, "{case}");
            assert!(step.stdout() == "one\ntwo\n" || step.gaps() > 0, "{case}: {:?}", step.0);
        }
        "engine_unavailable" | "start_failed" => assert!(end.hint.is_some(), "{case}"),
        other => panic!("{case}: {other}: {:?}", end.message),
    }
}

/// At most one container ever ran for each of these steps, and none is left.
async fn is_tidy(case: &str, rig: Rig, proxy: &Proxy, steps: usize) {
    assert!(proxy.done("/start") <= steps, "{case}: {:?}", proxy.calls());
    // What could not be removed goes with the next sweep, such as that of a worker that starts.
    let (data, engine) = rig.hand_over().await;
    let next = Rig::on(data, engine, |_| {}).await;
    let asked = Instant::now();
    while !next.containers().is_empty() {
        assert!(asked.elapsed() < Duration::from_secs(120), "{case}: {:?} is left", next.containers());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    next.finish().await;
}

/// How many calls it takes where none fails: those that answer a POST, run a container and remove it.
async fn calls_of_a_step() -> usize {
    let proxy = Proxy::new(Path::new(REAL));
    let rig = worker(&proxy).await;
    let before = swept(&proxy).await;
    assert_eq!(rig.sh("echo one; sleep 0.3; echo two").await.kinds().last().unwrap(), "exited");
    let calls = proxy.calls().split_off(before);
    rig.finish().await;
    calls.len()
}

/// Once the first sweep of a worker that began is over: how many calls were made until then.
async fn swept(proxy: &Proxy) -> usize {
    let began = Instant::now();
    // Images that were built are its last part.
    while proxy.done("/images/json") == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", proxy.calls());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.calls().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_call_of_a_step_may_fail() {
    let calls = calls_of_a_step().await;
    assert!((8..20).contains(&calls), "{calls}");
    // One more than there are: that run is untouched.
    let cases = WAYS.into_iter().flat_map(|way| (1..=calls + 1).map(move |k| (way, k)));
    each(cases.map(move |(way, k)| async move {
        let case = format!("call {k}, {way:?}");
        let proxy = Proxy::new(Path::new(REAL));
        let rig = worker(&proxy).await;
        swept(&proxy).await;
        proxy.fail("", k, way);
        let exit_code = if k % 2 == 0 { 3 } else { 0 };
        let command = format!("echo one; sleep 0.3; echo two; exit {exit_code}");
        let began = Instant::now();
        let sent = rig.post(&json!({"image": IMAGE, "command": command, "id": "a-1"})).await;
        let ended = if sent.status() == StatusCode::SERVICE_UNAVAILABLE {
            let why = sent.text().await.unwrap();
            assert!(why.contains("engine_unavailable") && why.contains("\"hint\""), "{case}: {why}");
            "refused"
        } else {
            let step = told(sent).await;
            is_true(&case, &step, exit_code);
            step.verdict()
        };
        let took = began.elapsed();
        assert!(took < Duration::from_secs(30), "{case}: {took:?}");
        let untouched = proxy.untouched();
        assert_eq!(untouched, k > calls, "{case}: {:?}", proxy.calls());
        if untouched {
            assert_eq!(ended, if exit_code == 0 { "passed" } else { "command_failed" }, "{case}");
        }
        assert!(proxy.done("/start") <= 1, "{case}: {:?}", proxy.calls());
        let next = rig.sh("echo next").await;
        assert_eq!(next.verdict(), "passed", "{case}: {:?}", next.end());
        is_tidy(&case, rig, &proxy, 2).await;
    }))
    .await;
}

/// The calls that end a container: the step is cancelled all the same.
#[tokio::test(flavor = "multi_thread")]
async fn any_call_of_a_cancel_may_fail() {
    let cases = WAYS.into_iter().flat_map(|way| (1..=4).map(move |k| (way, k)));
    each(cases.map(|(way, k)| async move {
        let case = format!("call {k} of a cancel, {way:?}");
        let proxy = Proxy::new(Path::new(REAL));
        let rig = worker(&proxy).await;
        rig.start("a-1", "echo one; sleep 60").await;
        rig.until("a-1", |event| matches!(event, StepEvent::Output { .. })).await;
        swept(&proxy).await;
        proxy.fail("", k, way);
        rig.cancel("a-1").await;
        let step = rig.events("a-1", 0).await;
        assert_eq!(step.verdict(), "cancel_asked", "{case}: {:?}", step.end());
        is_tidy(&case, rig, &proxy, 1).await;
    }))
    .await;
}

/// The calls by which a worker goes on with what an earlier one began.
#[tokio::test(flavor = "multi_thread")]
async fn any_call_of_an_adoption_may_fail() {
    let cases = [Way::Error, Way::Hang, Way::Lost];
    let cases = cases.into_iter().flat_map(|way| (1..=9).map(move |k| (way, k)));
    each(cases.map(|(way, k)| async move {
        let case = format!("call {k} of an adoption, {way:?}");
        let proxy = Proxy::new(Path::new(REAL));
        let first = worker(&proxy).await;
        first.start("a-1", "echo one; sleep 2; echo two; exit 5").await;
        first.until("a-1", |event| matches!(event, StepEvent::Output { .. })).await;
        let (data, engine) = first.hand_over().await;
        proxy.fail("", k, way);
        let next = Rig::on(data, engine, |setup| setup.deadlines = deadlines()).await;
        let step = next.events("a-1", 0).await;
        is_true(&case, &step, 5);
        assert!(step.gaps() > 0, "{case}: nobody heard it while no worker was there");
        is_tidy(&case, next, &proxy, 1).await;
    }))
    .await;
}

/// The stream of output is cut, or stays open and says no more, within its first frames and between them, while
/// all other calls are well. What is missing is missed.
#[tokio::test(flavor = "multi_thread")]
async fn output_is_never_cut_in_silence() {
    let cases = [0, 1, 7, 8, 9, 11, 12, 13, 20, 21, 24]
        .into_iter()
        .flat_map(|bytes| [Way::Cut(bytes), Way::Stall(bytes)]);
    each(cases.map(|way| async move {
        let case = format!("{way:?}");
        let proxy = Proxy::new(Path::new(REAL));
        let rig = worker(&proxy).await;
        proxy.fail("/attach", 1, way);
        // Frames of 8 + 4 bytes. The last comes long after any cut was noticed.
        let step = rig.sh("echo one; sleep 0.1; echo two; sleep 2; echo end").await;
        assert_eq!(step.verdict(), "passed", "{case}: {:?}", step.end());
        assert!(!proxy.untouched(), "{case}");
        let (said, whole) = (step.stdout(), "one\ntwo\nend\n");
        assert!(whole.starts_with(&said) || said.ends_with("end\n"), "{case}: {said:?}");
        assert_eq!(step.gaps(), 1, "{case}: {said:?}");
        if matches!(way, Way::Cut(_)) {
            // It listens again as soon as it is noticed.
            assert!(said.ends_with("end\n"), "{case}: {said:?}");
        }
        is_tidy(&case, rig, &proxy, 1).await;
    }))
    .await;
}
