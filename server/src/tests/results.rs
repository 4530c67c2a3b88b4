//! The tests of attempts in the store: what is kept of them, what comes of many, and that they go with their run.

use common::{
    RunEvent, RunFact, RunNumber, Seq, TaskId, TestCounts, TestHistory, TestOutcome, TestResult, Tests,
};
use rusqlite::Connection;

use super::store::{append, appended_with, some_run};
use crate::boss::{AttemptTests, Store, bounded};

use TestOutcome::{Failed, Passed, Skipped};

fn result(name: &str, outcome: TestOutcome) -> TestResult {
    TestResult { name: name.to_owned(), outcome, took_ms: Some(7), message: None, stack: None }
}

/// Ends an attempt of a run that has begun with two events.
async fn record(
    store: &Store,
    run: RunNumber,
    attempt: u32,
    ground: i64,
    results: &[(&str, TestOutcome)],
) -> u64 {
    let results = results.iter().map(|(name, outcome)| result(name, *outcome)).collect();
    let tests = Tests { results, ..Tests::default() };
    let Tests { results, omitted, .. } = bounded(tests);
    let tests = AttemptTests {
        task: TaskId::new("One", "t0"),
        attempt,
        ground,
        commit: None,
        tree: Some(format!("tree{ground}")),
        ended_at_ms: 9,
        only_some: false,
        results,
        omitted,
    };
    let flaky = store.flaky_with(run, &tests).await.unwrap();
    let event = RunEvent { seq: Seq(u64::from(attempt) + 2), at_ms: 9, fact: RunFact::CancelAsked };
    appended_with(store, run, event, None, Some(tests)).await.unwrap();
    flaky
}

async fn history(store: &Store, name: &str) -> TestHistory {
    store.test_history(TaskId::new("One", "t0"), name.to_owned()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_test_with_both_outcomes_on_one_source_is_flaky_and_on_two_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("runs.sqlite")).unwrap();
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(some_run(&store, 1).await.0);
    }
    assert_eq!(record(&store, runs[0], 1, 1, &[("a", Failed), ("b", Passed), ("c", Skipped)]).await, 0);
    // Another source: mended.
    assert_eq!(record(&store, runs[1], 1, 2, &[("a", Passed), ("b", Passed), ("c", Passed)]).await, 0);
    assert!(!history(&store, "a").await.flaky);
    // The same source in another run.
    assert_eq!(record(&store, runs[2], 1, 2, &[("a", Failed), ("b", Passed), ("c", Skipped)]).await, 1);
    // Attempts of one run are on one source, even where the later one came to more images.
    assert_eq!(record(&store, runs[3], 1, 3, &[("a", Passed), ("b", Failed)]).await, 0);
    assert_eq!(record(&store, runs[3], 2, 4, &[("a", Passed), ("b", Passed)]).await, 1);
    // Of two of one name, the worst counts in each attempt: two crates may both have it.
    assert_eq!(record(&store, runs[3], 3, 4, &[("d", Passed), ("d", Failed)]).await, 0);
    assert_eq!(record(&store, runs[3], 4, 4, &[("d", Failed), ("d", Passed)]).await, 0);

    let stored = |run, attempt| {
        let store = &store;
        async move { store.tests(run, &TaskId::new("One", "t0"), attempt).await.unwrap().unwrap() }
    };
    // An attempt from before it was known, too.
    for (run, attempt, flaky) in [(runs[1], 1, "a"), (runs[2], 1, "a"), (runs[3], 1, "b"), (runs[3], 2, "b")]
    {
        let tests = stored(run, attempt).await.tests;
        let found: Vec<_> =
            tests.iter().filter(|test| test.flaky).map(|test| test.test.name.as_str()).collect();
        assert_eq!(found, [flaky], "{run} {attempt}");
    }
    assert!(stored(runs[0], 1).await.tests.iter().all(|test| !test.flaky));

    let a = history(&store, "a").await;
    let of: Vec<_> = a.runs.iter().map(|run| (run.run, run.attempt, run.outcome)).collect();
    assert_eq!(
        of,
        [
            (runs[3], 2, Passed),
            (runs[3], 1, Passed),
            (runs[2], 1, Failed),
            (runs[1], 1, Passed),
            (runs[0], 1, Failed)
        ]
    );
    assert_eq!(a.counts, TestCounts { passed: 3, failed: 2, skipped: 0, flaky: 1 });
    assert_eq!((a.failed_percent, a.runs[0].took_ms), (Some(40), Some(7)));
    assert_eq!(a.first_failed.unwrap().run, runs[2], "where its latest failures began");
    assert_eq!(a.last_passed.unwrap().attempt, 2);
    assert_eq!(history(&store, "c").await.first_failed, None);
    assert_eq!(store.test_history(TaskId::new("One", "t0"), "e".to_owned()).await.unwrap(), None);
    assert_eq!(store.test_history(TaskId::new("One", "t1"), "a".to_owned()).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_kept_of_tests_is_bounded_small_and_gone_with_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    let store = Store::open(&path).unwrap();
    let text = "é".repeat(5000);
    let mut results: Vec<_> =
        (0..25_000).map(|n| result(&format!("tests/test_it.py::test_{n}"), Passed)).collect();
    for result in &mut results[10_000..12_000] {
        (result.outcome, result.message, result.stack) = (Failed, Some(text.clone()), Some(text.clone()));
    }
    results[0].message = Some("not of one that passed".to_owned());
    let Tests { results, omitted, .. } = bounded(Tests { results, ..Tests::default() });
    assert_eq!((results.len(), omitted, results[0].outcome), (20_000, 5_000, Failed));
    assert_eq!(results[0].stack.as_ref().unwrap().len(), 4096);
    let words = |result: &TestResult| {
        result.message.as_ref().map_or(0, String::len) + result.stack.as_ref().map_or(0, String::len)
    };
    assert_eq!(results.iter().map(words).sum::<usize>(), 1024 * 1024);
    assert!(results[2_000..].iter().all(|result| words(result) == 0));

    let mut sizes = Vec::new();
    for number in 1..=80 {
        let (run, _) = some_run(&store, 1).await;
        let tests = AttemptTests {
            task: TaskId::new("One", "t0"),
            attempt: 1,
            ground: run.0.cast_signed(),
            commit: None,
            tree: None,
            ended_at_ms: 9,
            only_some: false,
            // The names of one run are no other's, as hostile ones are.
            results: if number < 3 { results.clone() } else { vec![result(&format!("of {number}"), Passed)] },
            omitted,
        };
        let event = RunEvent { seq: Seq(3), at_ms: 9, fact: RunFact::CancelAsked };
        appended_with(&store, run, event, None, Some(tests)).await.unwrap();
        append(&store, run, 4, false).await.unwrap();
        sizes.push(store.size_bytes().await.unwrap());
    }
    let read = store.tests(RunNumber(2), &TaskId::new("One", "t0"), 1).await.unwrap().unwrap();
    assert!(read.tests.iter().map(|test| &test.test).eq(&results) && read.omitted == omitted);
    // 20,000 tests once more, names known: some three bytes each, beside the 1 MiB of words.
    let again = sizes[1] - sizes[0];
    assert!((1_048_576..1_048_576 + 160_000).contains(&again), "{again} bytes");
    store.measured(RunNumber(2), 0).await.unwrap();

    for number in 1..=78 {
        assert!(store.begin_removal(RunNumber(number)).await.unwrap());
        store.end_removal(RunNumber(number)).await.unwrap();
    }
    let disk = Connection::open(&path).unwrap();
    let count = |table: &str| -> u64 {
        disk.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("attempt_tests"), count("test_failures")), (2, 0));
    // Those of the last runs; some more may be in use, as not every run writes that down.
    assert_eq!(count("test_name"), 66);
    assert_eq!(history(&store, "of 80").await.runs.len(), 1);
}
