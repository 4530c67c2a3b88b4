//! A store of which one byte is another: it is refused in words, or no verdict that is read of it is another.

use common::{
    Command, Outcome, Phase, Pipeline, Reason, RunEvent, RunFact, RunKey, RunNumber, RunState, RunSummary,
    Seq, Stage, StepEvent, StepId, StepSpec, Task, TaskId, Verdict,
};
use std::path::Path;

use crate::boss::{Store, StoreError, StoredCode, Whole, how_whole};

const RUNS: u64 = 40;
const FLIPS: u64 = 200;

/// Every third run has failed.
fn verdict_of(run: RunNumber) -> Verdict {
    if run.0.is_multiple_of(3) { Verdict::Not(Reason::CommandFailed) } else { Verdict::Passed }
}

fn step_id_of(run: RunNumber, task: &str) -> StepId {
    StepId::try_from(format!("{run}-{task}")).unwrap()
}

fn facts(run: RunNumber, key: RunKey) -> Vec<RunFact> {
    let declared = ["a", "b"].map(|name| Task { name: name.to_owned(), line: None }).to_vec();
    let stages = vec![Stage { name: "One".to_owned(), always: false, tasks: declared }];
    let pipeline = Pipeline { stages };
    let mut facts = vec![RunFact::RunStarted { run, key, pipeline, only: None, started_by: None }];
    for name in ["a", "b"] {
        let task = TaskId::new("One", name);
        let verdict = verdict_of(run);
        facts.push(RunFact::TaskStarted { task: task.clone(), attempt: 1 });
        let step = step_id_of(run, name);
        let worker = "http://localhost:9009".to_owned();
        let spec = StepSpec::new("image", Command::Shell("pytest".to_owned()));
        let asked = RunFact::StepAsked { task: task.clone(), attempt: 1, step: step.clone(), worker, spec };
        facts.push(asked);
        let started = StepEvent::Started {
            container: "c".to_owned(),
            image_digest: "sha256:0".to_owned(),
            engine: "fake".to_owned(),
        };
        let exited = StepEvent::Exited {
            exit_code: if verdict == Verdict::Passed { 0 } else { 3 },
            oom: false,
            took_ms: 5,
            signal: None,
            cpu_ms: None,
            peak_memory_bytes: None,
        };
        for (position, said) in [(1, started), (2, exited)] {
            let step = step.clone();
            facts.push(RunFact::Step { task: task.clone(), attempt: 1, step, position, said });
        }
        facts.push(RunFact::TaskEnded { task, attempt: 1, verdict, took_ms: 9, problem: None });
    }
    facts.push(RunFact::RunEnded { verdict: verdict_of(run) });
    facts
}

async fn fill(store: &Store) {
    for _ in 0..RUNS {
        let key = RunKey::from_random(crate::auth::random_u128());
        let files = [("/p/pipedef.py".to_owned(), "text\n".repeat(50))].into();
        let code = StoredCode { pipedef: "/p/pipedef.py".to_owned(), files, python: None };
        let events = {
            let key = key.clone();
            move |run| {
                let fact = facts(run, key).remove(0);
                let event = RunEvent { seq: Seq(1), at_ms: 7, fact };
                let mut state = RunState::default();
                state.apply(&event).unwrap();
                (vec![event], RunSummary::of(&state))
            }
        };
        let run = store.create(key.clone(), code, events).await.unwrap();
        let mut state = RunState::default();
        for (n, fact) in facts(run, key).into_iter().enumerate() {
            let event = RunEvent { seq: Seq(n as u64 + 1), at_ms: 7, fact };
            state.apply(&event).unwrap();
            let summary = matches!(event.fact, RunFact::RunEnded { .. }).then(|| RunSummary::of(&state));
            if n > 0 {
                store.append(run, event, summary).await.unwrap();
            }
        }
    }
}

/// What a boss reads of it: each run's outcome, by its summary and by its events.
async fn read(path: &Path) -> Result<Vec<(RunNumber, Option<Outcome>)>, StoreError> {
    let store = Store::open(path)?;
    let mut read = Vec::new();
    for summary in store.page(None, 1000).await?.runs {
        read.push((summary.run, summary.verdict.map(|verdict| verdict.outcome())));
        let mut state = RunState::default();
        for (_, json) in store.events_after(summary.run, Seq(0), 1000).await? {
            let event: RunEvent = serde_json::from_str(&json)?;
            state.apply(&event).map_err(|illegal| StoreError::Contradicts(illegal.to_string()))?;
        }
        // Where the last events are gone, there is no verdict: the run reads as one that goes on.
        read.push((
            summary.run,
            match state.phase {
                Phase::Ended(verdict) => Some(verdict.outcome()),
                Phase::Unborn | Phase::Running => None,
            },
        ));
    }
    Ok(read)
}

#[tokio::test]
async fn a_byte_that_is_another_is_refused_or_changes_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    let store = Store::open(&path).unwrap();
    fill(&store).await;
    store.settle().await.unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let truth = read(&path).await.unwrap();
    assert_eq!(truth.len() as u64, 2 * RUNS);
    assert!(truth.iter().all(|(run, outcome)| *outcome == Some(verdict_of(*run).outcome())));
    // A generator of its own, so that a number names a case for good.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (mut refused, mut lies) = (0, Vec::new());
    for case in 0..FLIPS {
        let at = (next() % whole.len() as u64) as usize;
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (next() % 8);
        let here = folder.path().join(format!("{case}.sqlite"));
        std::fs::write(&here, &bytes).unwrap();
        match how_whole(&here, Whole::Tables) {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => {
                assert_eq!(std::fs::read(&here).unwrap(), bytes, "case {case}, byte {at}: it is as it was");
                refused += 1;
                continue;
            }
        }
        match read(&here).await {
            Ok(read) => lies.extend(
                read.iter()
                    .filter(|(run, outcome)| outcome.is_some_and(|o| o != verdict_of(*run).outcome()))
                    .map(|(run, outcome)| format!("case {case}, byte {at}: run {run} reads {outcome:?}")),
            ),
            Err(StoreError::Newer { .. }) => refused += 1,
            Err(error) => {
                assert!(error.is_damage(), "case {case}, byte {at}: {error}");
                refused += 1;
            }
        }
    }
    assert!(lies.is_empty(), "{lies:#?}");
    assert!(refused > FLIPS / 20, "{refused} of {FLIPS} were refused: the bytes were chosen badly");
}
