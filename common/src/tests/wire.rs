//! The samples in `wire/` are what this crate reads and writes, to the letter; every variant has one.

use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;
use std::path::Path;

use crate::*;

fn samples(prefix: &str) -> Vec<(String, serde_json::Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("wire");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_some_and(|ext| ext == "json") && name.starts_with(prefix) {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((name, serde_json::from_str(&text).unwrap()));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!found.is_empty(), "no sample begins with {prefix}");
    found
}

fn same_both_ways<T: Serialize + DeserializeOwned>(prefix: &str) -> Vec<T> {
    let read = |(name, json): (String, serde_json::Value)| {
        let value: T = serde_json::from_value(json.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(serde_json::to_value(&value).unwrap(), json, "{name}");
        value
    };
    samples(prefix).into_iter().map(read).collect()
}

#[test]
fn samples_read_and_write_the_same() {
    same_both_ways::<StepSpec>("step_spec_");
    same_both_ways::<OutputMark>("output_mark_");
    same_both_ways::<Problem>("problem");
    same_both_ways::<Health>("health");
    same_both_ways::<WorkerView>("worker_view_");
    same_both_ways::<WorkersView>("workers_view");
    same_both_ways::<BossView>("boss_view");
    same_both_ways::<OnlyTasks>("only_tasks");
    same_both_ways::<Rerun>("rerun");
    same_both_ways::<Checkup>("checkup");
    same_both_ways::<MissingBlobs>("missing_blobs");
    same_both_ways::<BlobsStored>("blobs_stored");
}

#[test]
fn every_step_event_has_a_sample() {
    let mut seen = BTreeSet::new();
    for (name, json) in samples("step_") {
        if name.starts_with("step_spec_") {
            continue;
        }
        let event: StepEvent = serde_json::from_value(json.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(serde_json::to_value(&event).unwrap(), json, "{name}");
        seen.insert(match event {
            StepEvent::Queued => 0,
            StepEvent::Preparing { .. } => 1,
            StepEvent::Started { .. } => 2,
            StepEvent::Output { bytes: Bytes::Text(_), .. } => 3,
            StepEvent::Output { bytes: Bytes::Base64(_), .. } => 4,
            StepEvent::Dropped { .. } => 5,
            StepEvent::Gap { .. } => 6,
            StepEvent::Exited { .. } => 7,
            StepEvent::TimedOut { .. } => 8,
            StepEvent::Cancelled { .. } => 9,
            StepEvent::Errored { .. } => 10,
            StepEvent::Artifacts(artifacts) => {
                artifacts.check().unwrap();
                11
            }
        });
    }
    assert_eq!(seen.len(), 12, "a variant has no sample: {seen:?}");
}

#[test]
fn every_run_event_has_a_sample_and_together_they_are_a_run() {
    let mut events = same_both_ways::<RunEvent>("run_");
    events.sort_by_key(|event| event.seq);
    let mut seen = BTreeSet::new();
    let mut run = RunState::default();
    for event in &events {
        run.apply(event).unwrap();
        seen.insert(match event.fact {
            RunFact::RunStarted { .. } => 0,
            RunFact::TaskStarted { .. } => 1,
            RunFact::StepAsked { .. } => 2,
            RunFact::Step { .. } => 3,
            RunFact::TaskEnded { .. } => 4,
            RunFact::TaskSkipped { .. } => 5,
            RunFact::CancelAsked => 6,
            RunFact::RerunStarted { .. } => 7,
            RunFact::RunEnded { .. } => 8,
            RunFact::TaskEnding { .. } => 9,
        });
    }
    assert_eq!(seen.len(), 10, "a variant has no sample: {seen:?}");
    assert_eq!(headline(&run), "cancelling (1 of 2 tasks)");
    assert_eq!(run.started_by, Some(StartedBy::Page));
}

#[test]
fn a_run_from_before_it_was_recorded_who_started_it_can_be_read() {
    let (_, mut json) = samples("run_started").remove(0);
    json.as_object_mut().unwrap().remove("started_by");
    json.as_object_mut().unwrap().remove("source");
    let event: RunEvent = serde_json::from_value(json.clone()).unwrap();
    let mut run = RunState::default();
    run.apply(&event).unwrap();
    assert_eq!((run.started_by, &run.source), (None, &None));
    assert_eq!(serde_json::to_value(&event).unwrap(), json);
}

#[test]
fn refusals_name_the_field() {
    let refused = |json: &str| serde_json::from_str::<StepSpec>(json).unwrap_err().to_string();
    assert!(refused(r#"{"image":"a","command":"b","privileged":true}"#).contains("`privileged`"));
    assert!(refused(r#"{"image":"a","command":7}"#).contains("a string for /bin/sh -c, or a list"));
    assert!(refused(r#"{"command":"b"}"#).contains("`image`"));
    assert!(refused(r#"{"image":"a","command":"b","id":"a/b"}"#).contains("step id"));
    let spec = |change: &dyn Fn(&mut StepSpec)| {
        let mut spec = StepSpec::new("a", Command::Shell("b".to_owned()));
        change(&mut spec);
        spec.check().map_err(|problem| problem.field)
    };
    assert_eq!(spec(&|_| ()), Ok(()));
    assert_eq!(spec(&|s| s.image = "--privileged".to_owned()), Err("image"));
    assert_eq!(spec(&|s| s.command = Command::Exec(vec![])), Err("command"));
    assert_eq!(spec(&|s| s.timeout_s = Some(0)), Err("timeout_s"));
    assert_eq!(spec(&|s| s.cpus = Some(f64::NAN)), Err("cpus"));
    assert_eq!(spec(&|s| s.workdir = Some("relative".to_owned())), Err("workdir"));
    let keep = |pattern: &str| vec![pattern.to_owned()];
    for good in ["report/**", "*.xml", "/tmp/a?", "./x", "a..b/", &"x".repeat(256)] {
        assert_eq!(spec(&|s| s.artifacts = keep(good)), Ok(()), "{good}");
    }
    for bad in ["", "/", ".", "..", "a/../b", "../x", "a\nb", &"x".repeat(257)] {
        assert_eq!(spec(&|s| s.artifacts = keep(bad)), Err("artifacts"), "{bad}");
    }
    assert_eq!(spec(&|s| s.artifacts = vec!["x".to_owned(); 33]), Err("artifacts"));
    assert_eq!(spec(&|s| s.junit = keep("../x.xml")), Err("junit"));
    let template = |template: &str| Some(template.to_owned());
    for good in ["pytest {tests}", "go test -run {tests:regex} ./...", "{tests} {tests}"] {
        assert_eq!(spec(&|s| s.only_tests = template(good)), Ok(()), "{good}");
    }
    for bad in ["pytest", "pytest {test}", "pytest {tests:words}", "a {tests} {tests:regex}"] {
        assert_eq!(spec(&|s| s.only_tests = template(bad)), Err("only_tests"), "{bad}");
    }
    let list = |s: &mut StepSpec| {
        (s.command, s.only_tests) = (Command::Exec(vec!["pytest".to_owned()]), template("pytest {tests}"));
    };
    assert_eq!(spec(&list), Err("only_tests"));
    let source = |at: &str| Some(Box::new(SourceAt { tree: TreeId::of(b""), at: at.to_owned() }));
    assert_eq!(spec(&|s| s.source = source("/app")), Ok(()));
    assert_eq!(spec(&|s| s.source = source("app")), Err("source"));
    assert!(
        refused(r#"{"image":"a","command":"b","source":{"tree":"0","at":"/app"}}"#)
            .contains("a tree id is 64")
    );
}

#[test]
fn an_outcome_and_its_reason_cannot_contradict() {
    let read = |json: &str| serde_json::from_str::<Verdict>(json);
    assert_eq!(read(r#"{"outcome":"passed","reason":null}"#).unwrap(), Verdict::Passed);
    assert!(read(r#"{"outcome":"passed","reason":"worker_lost"}"#).is_err());
    assert!(read(r#"{"outcome":"failed","reason":null}"#).is_err());
    for reason in Reason::ALL {
        assert_ne!(reason.outcome(), Outcome::Passed, "{reason}");
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.word());
    }
}

#[test]
fn a_step_id_depends_on_what_was_asked_and_on_nothing_else() {
    let key = RunKey::from_random(7);
    let task = TaskId::new("TestUnit", "models");
    let spec = StepSpec::new("image", Command::Shell("true".to_owned()));
    let id = step_id(&key, &task, 1, "http://a:9009", &spec, 0);
    assert_eq!(id.run(), key.as_str());
    let mut pinned = spec.clone();
    pinned.id = Some(id.clone());
    pinned.image_digest = Some(format!("sha256:{}", "0".repeat(64)));
    assert_eq!(step_id(&key, &task, 1, "http://a:9009", &pinned, 0), id);
    let mut other = spec.clone();
    other.timeout_s = Some(1);
    let mut on_source = spec.clone();
    on_source.source = Some(Box::new(SourceAt { tree: TreeId::of(b""), at: "/app".to_owned() }));
    let others = [
        step_id(&RunKey::from_random(8), &task, 1, "http://a:9009", &spec, 0),
        step_id(&key, &TaskId::new("TestUnit", "views"), 1, "http://a:9009", &spec, 0),
        step_id(&key, &task, 2, "http://a:9009", &spec, 0),
        step_id(&key, &task, 1, "http://b:9009", &spec, 0),
        step_id(&key, &task, 1, "http://a:9009", &other, 0),
        step_id(&key, &task, 1, "http://a:9009", &on_source, 0),
        step_id(&key, &task, 1, "http://a:9009", &spec, 1),
    ];
    assert!(!others.contains(&id));
    assert_eq!(BTreeSet::from(others).len(), 7);
}
