//! Two who want something of one step at the same moment: posts of the same step, and cancels around each of its
//! transitions. However it comes out, it comes out once. Seeds are printed; `MANY` times as many by hand:
//! `cargo test --release -p bettertest --bin bettertest tests::races -- --ignored`.

use common::{StepEvent, StepView};
use proptest::prelude::*;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

use super::rig::{IMAGE, Rig, Told};
use crate::worker::age::{Moment, age};
use crate::worker::{EngineChoice, Fake};

/// A row of numbers that depends on its seed alone.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Of another moment at each run, and printed, so that it can be thrown again.
    #[expect(clippy::print_stderr, reason = "a failing test is repeated by its seed")]
    pub(super) fn fresh(what: &str) -> Dice {
        let seed = crate::auth::random_u128() as u64;
        eprintln!("{what}: seed {seed}");
        Dice::new(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Each step is posted up to five times at once, some of these cut off in the middle; a last one has to hear all.
async fn duplicates(rig: &Rig, steps: u64) {
    let mut dice = Dice::fresh("duplicates");
    let plans: Vec<(u64, u64, u64)> =
        (0..steps).map(|step| (step, 1 + dice.below(5), dice.below(40))).collect();
    let one = |(step, posts, cut_ms): (u64, u64, u64)| async move {
        let spec = json!({
            "image": IMAGE, "command": format!("echo {step}; sleep 0.02; exit {}", step % 256),
            "id": format!("run{}-{step}", step % 7),
        });
        let posted = (0..posts).map(|post| {
            let spec = spec.clone();
            async move {
                let told = rig.run(spec);
                if post % 2 == 0 {
                    return Some(told.await);
                }
                tokio::time::timeout(Duration::from_millis(cut_ms), told).await.ok()
            }
        });
        let heard: Vec<Told> = futures_util::future::join_all(posted).await.into_iter().flatten().collect();
        assert!(heard.iter().all(|told| *told == heard[0]), "step {step}: {heard:?}");
        assert_eq!(heard[0].stdout(), format!("{step}\n"));
        assert_eq!(heard[0].end().exit_code, Some((step % 256) as u8));
        let mut other = spec;
        other["command"] = json!("echo something else");
        assert_eq!(rig.post(&other).await.status(), StatusCode::CONFLICT, "step {step}");
    };
    let mut left = futures_util::stream::iter(plans.into_iter().map(one));
    use futures_util::StreamExt as _;
    let mut at_once = (&mut left).buffer_unordered(16);
    while at_once.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_posted_often_runs_once() {
    duplicates_on_fake(300).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "more of the same"]
async fn a_step_that_is_posted_often_runs_once_many() {
    duplicates_on_fake(5000).await;
}

async fn duplicates_on_fake(steps: u64) {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.slots = 8).await;
    duplicates(&rig, steps).await;
    assert_eq!(rig.fake_engine().started() as u64, steps);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_posted_often_is_one_container_of_docker() {
    let rig = Rig::docker().await;
    duplicates(&rig, 12).await;
    rig.finish().await;
}

/// What a step is doing when it is cancelled, give or take.
const MOMENTS: &[(&str, &str)] = &[
    ("queued", "true"),
    ("preparing", "true"),
    ("started", "sleep 0.15; exit 7"),
    ("printing", "echo on; sleep 0.1; echo on; sleep 0.05; exit 7"),
    ("trapping", "trap '' TERM; sleep 0.15; exit 0"),
    ("ended", "exit 7"),
];

/// A step is cancelled 100 ms before to 100 ms after each of its transitions, twice, while two read it.
async fn cancels(rig: &Rig, rounds: u64) {
    let mut dice = Dice::fresh("cancels");
    let plans: Vec<(u64, usize, u64, u64)> = (0..rounds)
        .map(|round| (round, (round % MOMENTS.len() as u64) as usize, dice.below(200), dice.below(60)))
        .collect();
    let one = |(round, moment, after_ms, again_ms): (u64, usize, u64, u64)| async move {
        let (what, command) = MOMENTS[moment];
        let id = format!("c{}-{round}", round % 5);
        let image = if what == "preparing" && !rig.is_real() { "fake-endless" } else { IMAGE };
        let spec = json!({"image": image, "command": command, "id": id});
        let reads = rig.run(spec.clone());
        let cancels = async {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            let first = cancel_when_there(rig, &id).await;
            tokio::time::sleep(Duration::from_millis(again_ms)).await;
            (first, rig.cancel(&id).await)
        };
        let (told, (first, second)) = tokio::join!(reads, cancels);
        let (end, at) = (told.end(), format!("{what} +{after_ms} ms: {:?}", told.kinds()));
        match told.verdict() {
            "cancel_asked" => {}
            "command_failed" => assert_eq!(end.exit_code, Some(7), "{at}"),
            "passed" => assert!(matches!(what, "queued" | "preparing" | "trapping"), "{at}"),
            other => panic!("{other}: {at}"),
        }
        // What was said once is said for good, by every way of asking.
        for view in [first, second, rig.cancel(&id).await] {
            if view.state == "ended" {
                assert_eq!(view.verdict, Some(end.verdict), "{at}");
            }
        }
        assert_eq!(rig.events(&id, 0).await, told, "{at}");
        assert_eq!(rig.run(spec).await, told, "{at}");
        end.verdict.passed()
    };
    use futures_util::StreamExt as _;
    let mut all = futures_util::stream::iter(plans.into_iter().map(one)).buffer_unordered(12);
    let (mut passed, mut ended) = (0, 0);
    while let Some(has_passed) = all.next().await {
        passed += u64::from(has_passed);
        ended += 1;
    }
    assert_eq!(ended, rounds);
    assert!(passed < ended, "none came in time");
}

async fn cancel_when_there(rig: &Rig, id: &str) -> StepView {
    let url = rig.url(&format!("/steps/{id}"));
    loop {
        let asked = rig.bare().request(Method::DELETE, &url).bearer_auth(rig.token()).send().await.unwrap();
        match asked.status() {
            StatusCode::OK => return asked.json().await.unwrap(),
            // The post is still on its way.
            StatusCode::NOT_FOUND => tokio::task::yield_now().await,
            other => panic!("{other}: {}", asked.text().await.unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_any_moment_gives_one_end() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.slots = 6).await;
    cancels(&rig, 400).await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "more of the same"]
async fn a_cancel_at_any_moment_gives_one_end_many() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.slots = 6).await;
    cancels(&rig, 5000).await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_any_moment_gives_one_end_in_docker() {
    let rig = Rig::docker().await;
    cancels(&rig, 36).await;
    rig.finish().await;
}

/// Whoever was told that a step is cancelled can rely on it: no crash after the answer takes it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_was_answered_is_on_disk() {
    let rig = Rig::fake().await;
    for (id, command) in [("d-1", "sleep 60"), ("d-2", "trap '' TERM; echo on; sleep 60")] {
        rig.start(id, command).await;
        rig.until(id, |event| matches!(event, StepEvent::Started { .. })).await;
        let view = rig.cancel(id).await;
        let decision = std::fs::read_to_string(rig.data.path().join(format!("worker/steps/{id}/decision")));
        assert_eq!(decision.unwrap(), r#"{"cancelled":"cancel_asked"}"#, "{view:?}");
    }
    rig.finish().await;
}

/// A limit of two hours, a worker that comes back at any time, and a wall clock that is set at will in between: the
/// age is what the clock of this boot says, to the millisecond.
#[test]
fn no_wall_clock_makes_a_step_older_or_younger() {
    const YEAR_S: i64 = 366 * 86_400;
    let steps = prop::sample::select(vec![0, 1, -1, 3600, -3600, YEAR_S, -YEAR_S, -50 * YEAR_S]);
    proptest!(|(began_ms in 0u64..1 << 40, ran_ms in 0u64..1 << 32, away_ms in 0u64..1 << 32, step_s in steps)| {
        let boot = |at_ms| Moment { boot: "b".to_owned(), since_boot: Duration::from_millis(at_ms) };
        let (began, now) = (boot(began_ms), boot(began_ms + ran_ms + away_ms));
        let ran = Duration::from_millis(ran_ms);
        // What an engine makes of times of the wall clock, one before and one after it was set.
        let wrong = |right_ms: u64| {
            let told = i128::from(right_ms) + i128::from(step_s) * 1000;
            Duration::from_millis(u64::try_from(told).unwrap_or(0))
        };
        let whole = Duration::from_millis(ran_ms + away_ms);
        prop_assert_eq!(age(Some(&began), &now, wrong(ran_ms + away_ms), false), whole);
        // One that ended unseen ended at some time before now: never later, and exactly where no clock was set.
        let ended = age(Some(&began), &now, wrong(ran_ms), true);
        prop_assert!(ended <= whole);
        if step_s == 0 {
            prop_assert_eq!(ended, ran);
        }
        // After another boot only the engine can tell.
        let other = Moment { boot: "c".to_owned(), ..now };
        prop_assert_eq!(age(Some(&began), &other, ran, true), ran);
        prop_assert_eq!(age(None, &other, ran, false), ran);
    });
}

/// Limits fire in [limit, limit + 2 s], and what answers the signal with `exit 0` is timed out all the same.
async fn limits_hold(rig: &Rig, command: &'static str, steps: u32) {
    let one = |step: u32| async move {
        let spec =
            json!({"image": IMAGE, "command": command, "timeout_s": 1 + step % 2, "id": format!("t-{step}")});
        let told = rig.run(spec).await;
        assert_eq!(told.verdict(), "step_timeout", "{:?}", told.kinds());
        let limit_ms = u64::from(1000 * (1 + step % 2));
        let took_ms = told.end().took_ms;
        assert!((limit_ms..limit_ms + 2000).contains(&took_ms), "limit {limit_ms} ms, took {took_ms} ms");
    };
    futures_util::future::join_all((0..steps).map(one)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_fire_when_they_are_due() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.slots = 50).await;
    limits_hold(&rig, "echo on; sleep 60; exit 0", 50).await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_0_at_the_limit_is_no_pass() {
    let rig = Rig::docker().await;
    limits_hold(&rig, "trap 'exit 0' TERM; while :; do sleep 0.1; done", 4).await;
    rig.finish().await;
}

/// The limit counts on while no worker is there, by no clock of Docker's.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_outlives_its_worker() {
    for rig in [Rig::fake().await, Rig::docker().await] {
        let spec: Value =
            json!({"image": IMAGE, "command": "echo on; sleep 60", "timeout_s": 3, "id": "l-1"});
        assert!(rig.post(&spec).await.status().is_success());
        rig.until("l-1", |event| matches!(event, StepEvent::Output { .. })).await;
        let (data, engine) = rig.hand_over().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = Rig::on(data, engine, |_| {}).await;
        let told = next.events("l-1", 0).await;
        assert_eq!(told.verdict(), "step_timeout");
        let took_ms = told.end().took_ms;
        assert!((3000..5000).contains(&took_ms), "took {took_ms} ms");
        next.finish().await;
    }
}
