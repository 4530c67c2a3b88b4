//! `GET /metrics`: what Prometheus can read, and equal to what was run.

use common::{RunFact, RunState, StepState};
use reqwest::{Method, StatusCode};
use std::collections::BTreeMap;

use crate::ci::Ci;

const PIPEDEF: &str = r#"
class One(Stage):
    def task_peculiar(self):
        run(WORKER, IMAGE, "print x")
        run(WORKER, IMAGE, "exit 3", check=False)

    def task_red(self):
        run(WORKER, IMAGE, "exit 4")

    def task_lost(self):
        run(WORKER, IMAGE, "lose")
"#;

/// Every sample by its name and labels. Panics where it is not the text format.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut types = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            assert!(matches!(words[..], ["HELP" | "TYPE", _, _]), "{line}");
            if words[0] == "TYPE" {
                assert!(["counter", "gauge", "histogram"].contains(&words[2]), "{line}");
                assert_eq!(types.insert(words[1].to_owned(), words[2].to_owned()), None, "{line}");
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let name = sample.split('{').next().unwrap();
        assert!(name.starts_with("bettertest_"), "{line}");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        let known = types.contains_key(name) || family.is_some_and(|family| types.contains_key(family));
        assert!(known, "{line} has no type before it");
        if let Some(labels) = sample.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            assert!(labels.starts_with('{') && labels.ends_with("\"}"), "{line}");
        }
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert_eq!(samples.insert(sample.to_owned(), value), None, "{line} comes twice");
    }
    samples
}

async fn scrape(ci: &Ci, base: &str) -> BTreeMap<String, f64> {
    let answer = ci.http.get(format!("{base}/metrics")).bearer_auth(&ci.token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = answer.text().await.unwrap();
    assert!(!text.contains("peculiar"), "names would be series without end");
    samples(&text)
}

#[tokio::test]
async fn what_is_counted_is_what_was_run() {
    let ci = Ci::with(PIPEDEF).await;
    for base in [&ci.boss.base, &ci.worker.base] {
        let denied = ci.http.get(format!("{base}/metrics")).send().await.unwrap();
        assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(ci.run().await.words(), "errored: container_lost");
    let first = scrape(&ci, &ci.boss.base).await;
    ci.run().await;
    let boss = scrape(&ci, &ci.boss.base).await;
    let worker = scrape(&ci, &ci.worker.base).await;
    assert_eq!(first.len(), boss.len(), "more runs make no more series");
    let ended = |what: &str, outcome: &str, reason: &str| {
        format!("bettertest_{what}_ended_total{{outcome=\"{outcome}\",reason=\"{reason}\"}}")
    };
    let lost = ("errored", "container_lost");
    for (outcome, reason, count) in
        [("passed", "none", 2.0), ("failed", "command_failed", 4.0), (lost.0, lost.1, 2.0)]
    {
        let steps = ended("steps", outcome, reason);
        assert_eq!((boss[&steps], worker[&steps]), (count, count), "{steps}");
    }
    assert_eq!(boss[&ended("attempts", "passed", "none")], 2.0);
    assert_eq!(boss[&ended("attempts", "failed", "command_failed")], 2.0);
    assert_eq!(boss[&ended("attempts", lost.0, lost.1)], 2.0);
    assert_eq!(boss[&ended("runs", lost.0, lost.1)], 2.0);
    assert_eq!((boss["bettertest_runs_running"], boss["bettertest_runs_kept"]), (0.0, 2.0));
    assert_eq!(boss["bettertest_sse_readers"], 0.0);
    assert!(boss["bettertest_store_bytes"] > 0.0);
    for server in [&boss, &worker] {
        assert_eq!(server["bettertest_step_seconds_count"], 8.0);
        assert_eq!(server["bettertest_step_seconds_bucket{le=\"+Inf\"}"], 8.0);
        assert!(server["bettertest_disk_free_bytes"] > 0.0);
    }
    let here = ["slots", "steps_queued", "steps_running"].map(|name| worker[&format!("bettertest_{name}")]);
    assert_eq!(here, [4.0, 0.0, 0.0]);
    assert!(worker["bettertest_spool_bytes"] > 0.0);
    assert_eq!((boss["bettertest_steps_queued"], boss["bettertest_steps_running"]), (0.0, 0.0));
    // One who listens is counted.
    let listening = ci.ask(Method::GET, "/api/events").send().await.unwrap();
    assert_eq!(scrape(&ci, &ci.boss.base).await["bettertest_sse_readers"], 1.0);
    drop(listening);
}

#[tokio::test]
async fn steps_that_run_and_steps_that_wait_are_told_apart() {
    // The worker has four slots.
    let tasks: String = (0..6)
        .map(|n| format!("    def task_{n}(self): run(WORKER, IMAGE, 'print begun; sleep 600')\n"))
        .collect();
    let ci = Ci::with(&format!("class One(Stage):\n{tasks}")).await;
    let run = ci.start().await;
    let told = |samples: &BTreeMap<String, f64>| {
        ["steps_running", "steps_queued"].map(|name| samples[&format!("bettertest_{name}")])
    };
    let all_there = |state: &RunState, _: &RunFact| {
        let steps: Vec<_> = state.tasks().flat_map(|task| &task.attempts).flat_map(|a| &a.steps).collect();
        let running = steps.iter().filter(|step| matches!(step.state, StepState::Running { .. })).count();
        let queued = steps.iter().filter(|step| step.state == StepState::Queued).count();
        (running, queued) == (4, 2)
    };
    ci.follow(run, all_there).await;
    let boss = scrape(&ci, &ci.boss.base).await;
    assert_eq!((boss["bettertest_runs_running"], told(&boss)), (1.0, [4.0, 2.0]));
    assert_eq!(told(&scrape(&ci, &ci.worker.base).await), [4.0, 2.0]);
    ci.post(&format!("/api/runs/{run}/cancel")).await;
    ci.follow(run, |_, _| false).await;
    let boss = scrape(&ci, &ci.boss.base).await;
    assert_eq!((boss["bettertest_runs_running"], told(&boss)), (0.0, [0.0, 0.0]));
}
