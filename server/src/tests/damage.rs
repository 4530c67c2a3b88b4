//! A store of which one bit is another: what is read of it is what was written, or it is refused as damage.

use axum::http::StatusCode;
use common::{
    Command, Pipeline, Reason, RunEvent, RunFact, RunKey, RunNumber, RunState, RunSummary, Seq, SkipReason,
    Stage, StepEvent, StepId, StepSpec, Task, TaskId, TestCounts, TestOutcome, TestResult, Verdict,
};
use std::path::Path;

use super::store::appended_with;
use crate::boss::{
    AttemptTests, RunsError, Standing, Store, StoreError, StoredCode, StoredTests, Whole, how_whole,
};
use crate::error::Refusal;

const RUNS: u64 = 40;
const FLIPS: u64 = 240;

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
    let mut facts =
        vec![RunFact::RunStarted { run, key, pipeline, only: None, started_by: None, source: None }];
    for name in ["a", "b"] {
        let task = TaskId::new("One", name);
        let verdict = verdict_of(run);
        facts.push(RunFact::TaskStarted { task: task.clone(), attempt: 1 });
        let step = step_id_of(run, name);
        let worker = "http://localhost:9009".to_owned();
        let spec = StepSpec::new("image", Command::Shell("pytest".to_owned()));
        let asked = RunFact::StepAsked {
            task: task.clone(),
            attempt: 1,
            step: step.clone(),
            worker,
            spec: Box::new(spec),
            instead_of: None,
        };
        facts.push(asked);
        let started = StepEvent::Started {
            container: "c".to_owned(),
            image_digest: Some("sha256:0".to_owned()),
            engine: "fake".to_owned(),
            engine_why: None,
        };
        let exited = StepEvent::Exited {
            exit_code: if verdict == Verdict::Passed { 0 } else { 3 },
            oom: false,
            took_ms: 5,
            signal: None,
            cpu_ms: None,
            peak_memory_bytes: None,
            image_digest: None,
            message: None,
        };
        for (position, said) in [(1, started), (2, exited)] {
            let step = step.clone();
            facts.push(RunFact::Step { task: task.clone(), attempt: 1, step, position, said });
        }
        let tests = (name == "a").then(|| TestCounts { passed: 2, failed: 1, ..TestCounts::default() });
        facts.push(RunFact::TaskEnded { task, attempt: 1, verdict, took_ms: 9, problem: None, tests });
    }
    facts.push(RunFact::RunEnded { verdict: verdict_of(run) });
    if run.0.is_multiple_of(6) {
        let task = TaskId::new("One", "b");
        facts.push(RunFact::RerunStarted { only: vec![task.clone()], failed_tests: Vec::new() });
        facts.push(RunFact::TaskSkipped { task, why: SkipReason::EarlierStage });
        facts.push(RunFact::RunEnded { verdict: verdict_of(run) });
    }
    if run.0 == RUNS {
        // Its boss was killed.
        facts.truncate(5);
    }
    facts
}

/// What stands beside the end of an attempt that had tests; each run is on files of its own.
fn tests_of(run: RunNumber, fact: &RunFact) -> Option<AttemptTests> {
    let RunFact::TaskEnded { task, attempt, tests: Some(_), .. } = fact else { return None };
    let result = |name: &str, outcome, message: Option<&str>| TestResult {
        name: name.to_owned(),
        outcome,
        took_ms: Some(run.0),
        message: message.map(str::to_owned),
        stack: None,
    };
    let results = vec![
        result("tests/test_a.py::test_one", TestOutcome::Failed, Some("one is not two, nor will it ever be")),
        result("tests/test_a.py::test_two", TestOutcome::Passed, None),
        result(&format!("tests/test_a.py::test_{run}"), TestOutcome::Passed, None),
    ];
    Some(AttemptTests {
        task: task.clone(),
        attempt: *attempt,
        ground: run.0.cast_signed(),
        commit: Some("c0ffee".to_owned()),
        tree: Some("7ree".to_owned()),
        ended_at_ms: 7,
        only_some: true,
        results,
        omitted: 0,
    })
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
            let listed = matches!(event.fact, RunFact::RunEnded { .. } | RunFact::RerunStarted { .. });
            if n > 0 {
                let tests = tests_of(run, &event.fact);
                let summary = listed.then(|| RunSummary::of(&state));
                appended_with(store, run, event, summary, tests).await.unwrap();
            }
        }
    }
}

/// All that is ever asked of a store, one by one.
#[derive(Debug, PartialEq)]
enum Said {
    Page(Vec<RunSummary>),
    Unended(Vec<(RunNumber, RunKey)>),
    Standing(Standing),
    State(Box<RunState>),
    Code(StoredCode),
    Tests(Option<StoredTests>),
}

async fn ask(store: &Store) -> Vec<(String, Result<Said, StoreError>)> {
    let page = store.page(None, 1000).await.map(|page| Said::Page(page.runs));
    let mut said = vec![
        ("the list".to_owned(), page),
        ("what goes on".to_owned(), store.unended().await.map(Said::Unended)),
    ];
    for run in (1..=RUNS).map(RunNumber) {
        said.push((format!("whether there is run {run}"), store.standing(run).await.map(Said::Standing)));
        let state = store.replay(run).await.map(|state| Said::State(Box::new(state)));
        said.push((format!("run {run}"), state));
        said.push((format!("the pipedef of run {run}"), store.pipedef(run).await.map(Said::Code)));
        let mut tests = store.tests(run, &TaskId::new("One", "a"), 1).await;
        // The run's own log says that there are some, and whoever asks has asked that first.
        if matches!(tests, Ok(None)) && run.0 != RUNS {
            tests = Err(StoreError::Contradicts("its tests are not there".to_owned()));
        }
        said.push((format!("the tests of run {run}"), tests.map(Said::Tests)));
    }
    said
}

/// With the hint that leads out of it.
fn refused_as_damage(error: StoreError) -> Result<(), String> {
    let refusal = Refusal::from(RunsError::from(error));
    let hint = refusal.problem.hint.unwrap_or_default();
    if refusal.status == StatusCode::INTERNAL_SERVER_ERROR && hint.contains("restore a backup") {
        return Ok(());
    }
    Err(refusal.problem.error)
}

/// What is read of the store at `path`, against what was written. How many answers were refused?
async fn compare(path: &Path, truth: &[(String, Result<Said, StoreError>)]) -> Result<usize, String> {
    let store = match Store::open(path) {
        Ok(store) => store,
        Err(StoreError::Newer { .. }) => return Ok(1),
        Err(error) => return refused_as_damage(error).map(|()| 1),
    };
    let mut refused = 0;
    for ((what, read), (_, written)) in ask(&store).await.into_iter().zip(truth) {
        match read {
            Ok(read) if read == *written.as_ref().unwrap() => {}
            Ok(read) => return Err(format!("{what} reads {read:?}, not {written:?}")),
            Err(error) => {
                refused_as_damage(error).map_err(|error| format!("{what} is refused with: {error}"))?;
                refused += 1;
            }
        }
    }
    Ok(refused)
}

/// A generator of its own, so that a number names a case for good.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

#[tokio::test]
async fn what_is_read_of_a_damaged_store_is_what_was_written_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    let store = Store::open(&path).unwrap();
    fill(&store).await;
    let truth = ask(&store).await;
    assert!(truth.iter().all(|(_, said)| said.is_ok()), "{truth:#?}");
    assert!(matches!(&truth[0].1, Ok(Said::Page(runs)) if runs.len() as u64 == RUNS));
    store.settle().await.unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut found, mut noticed, mut lies) = (0, 0, Vec::new());
    for case in 0..FLIPS {
        let (at, bit) = (random.below(whole.len()), random.below(8));
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        let here = folder.path().join("damaged.sqlite");
        std::fs::write(&here, &bytes).unwrap();
        // As a boss does that was not told to stop, and as none does that was.
        match how_whole(&here, Whole::Tables) {
            Ok(None) => match compare(&here, &truth).await {
                Ok(refused) => noticed += usize::from(refused > 0),
                Err(lie) => lies.push(format!("case {case}, bit {bit} of byte {at}: {lie}")),
            },
            Ok(Some(_)) => found += 1,
            Err(error) => {
                found += 1;
                if let Err(error) = refused_as_damage(error) {
                    lies.push(format!("case {case}, bit {bit} of byte {at}: looked at, it says {error}"));
                }
            }
        }
        // The versions in its header are put right by whoever opens it.
        if !(18..20).contains(&at) && std::fs::read(&here).unwrap() != bytes {
            lies.push(format!("case {case}, bit {bit} of byte {at}: it was written to"));
        }
    }
    assert!(lies.is_empty(), "{} of {FLIPS}, {found} found, {noticed} noticed: {lies:#?}", lies.len());
    // Most of a store is text, and this is what SQLite does not look at.
    assert!(found > FLIPS as usize / 20 && noticed > FLIPS as usize / 4, "{found} found, {noticed} noticed");
}

/// What a disk cannot be made to do at will: of some run it has lost or changed just this. SQLite finds nothing wrong.
#[tokio::test]
async fn what_is_lost_of_one_run_is_noticed_in_that_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    let store = Store::open(&path).unwrap();
    fill(&store).await;
    let truth = ask(&store).await;
    store.settle().await.unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let last = "run = 6 AND seq = (SELECT max(seq) FROM event WHERE run = 6)";
    let text = "event = replace(event, 'pytest', 'pytesu')";
    for (sql, noticed) in [
        // It has ended twice: its events end, but not all of them are there.
        (format!("DELETE FROM event WHERE {last}"), "run 6"),
        ("DELETE FROM event WHERE run = 6 AND seq > 11".to_owned(), "run 6"),
        ("DELETE FROM event WHERE run = 5 AND seq > 10".to_owned(), "run 5"),
        ("DELETE FROM event WHERE run = 5".to_owned(), "run 5"),
        ("DELETE FROM event WHERE run = 5 AND seq = 4".to_owned(), "run 5"),
        // As were those of schema 3.
        (
            "DELETE FROM event WHERE run = 5 AND seq > 10; UPDATE run SET sum = NULL, last_seq = NULL"
                .to_owned(),
            "run 5",
        ),
        (format!("UPDATE event SET seq = seq + 8 WHERE {last}"), "run 6"),
        (format!("UPDATE event SET run = 60 WHERE {last}"), "run 6"),
        (format!("UPDATE event SET {text} WHERE run = 5"), "run 5"),
        (
            "UPDATE pipedef_file SET text = replace(text, 'text', 'tex') WHERE run = 5".to_owned(),
            "the pipedef of run 5",
        ),
        ("DELETE FROM test_failures WHERE run = 5".to_owned(), "the tests of run 5"),
        ("UPDATE attempt_tests SET ended_at_ms = 8 WHERE run = 5".to_owned(), "the tests of run 5"),
        (
            "UPDATE test_failures SET failures = replace(failures, 'ever', 'even') WHERE run = 5".to_owned(),
            "the tests of run 5",
        ),
        ("UPDATE test_name SET name = 'x' WHERE name LIKE '%test_5'".to_owned(), "the tests of run 5"),
        ("UPDATE run SET number = 60 WHERE number = 40".to_owned(), "whether there is run 40"),
        ("UPDATE run SET removing = 1 WHERE number = 5".to_owned(), "the list"),
        (
            "UPDATE run SET state = 'ended' WHERE number = 40; UPDATE run SET sum = NULL, last_seq = NULL"
                .to_owned(),
            "run 40",
        ),
        ("UPDATE run SET state = 'running' WHERE number = 5; UPDATE run SET sum = NULL".to_owned(), "run 5"),
    ] {
        let here = folder.path().join("damaged.sqlite");
        std::fs::write(&here, &whole).unwrap();
        let disk = rusqlite::Connection::open(&here).unwrap();
        disk.pragma_update(None, "foreign_keys", false).unwrap();
        disk.execute_batch(&sql).unwrap();
        drop(disk);
        let store = Store::open(&here).unwrap();
        let mut refused = Vec::new();
        for ((what, read), (_, written)) in ask(&store).await.into_iter().zip(&truth) {
            match read {
                Err(error) => {
                    refused_as_damage(error).unwrap();
                    refused.push(what);
                }
                // In the two last ones, what goes on is what was changed.
                Ok(Said::Unended(_)) if sql.contains("state = ") => {}
                Ok(read) => assert_eq!(Ok(&read), written.as_ref().map_err(|_| ()), "{sql}: {what}"),
            }
        }
        assert!(refused.iter().any(|what| what == noticed), "{sql}: {refused:?}");
        // Nobody else's is the worse for it.
        let (number, others) =
            (noticed.rsplit(' ').next().unwrap_or_default(), |what: &&String| what.starts_with("run "));
        let hurt = refused.iter().filter(others).filter(|what| !what.ends_with(&format!(" {number}")));
        assert!(noticed == "the list" || hurt.count() == 0, "{sql}: {refused:?}");
    }
}
