//! The store on a real disk: what it refuses to open, and what it keeps.

use common::{
    Pipeline, RunEvent, RunFact, RunKey, RunNumber, RunState, RunSummary, Seq, SkipReason, Stage, Task,
    TaskId,
};
use rusqlite::Connection;

use crate::boss::{AttemptTests, Change, Standing, Store, StoreError, StoredCode};

/// A run of some skipped tasks.
pub(super) async fn some_run(store: &Store, tasks: usize) -> (RunNumber, RunKey) {
    let key = RunKey::from_random(crate::auth::random_u128());
    let names: Vec<String> = (0..tasks).map(|n| format!("t{n}")).collect();
    let declared = names.iter().map(|name| Task { name: name.clone(), line: None }).collect();
    let pipeline =
        Pipeline { stages: vec![Stage { name: "One".to_owned(), always: false, tasks: declared }] };
    let events = {
        let key = key.clone();
        move |run| {
            let begin =
                RunFact::RunStarted { run, key, pipeline, only: None, started_by: None, source: None };
            let skip = |name: &String| RunFact::TaskSkipped {
                task: TaskId::new("One", name),
                why: SkipReason::EarlierStage,
            };
            let mut state = RunState::default();
            let mut events = Vec::new();
            for (n, fact) in std::iter::once(begin).chain(names.iter().map(skip)).enumerate() {
                let event = RunEvent { seq: Seq(n as u64 + 1), at_ms: 7, fact };
                state.apply(&event).unwrap();
                events.push(event);
            }
            (events, RunSummary::of(&state))
        }
    };
    let files = [("/p/pipedef.py".to_owned(), "text".to_owned())].into();
    let code = StoredCode { pipedef: "/p/pipedef.py".to_owned(), files, python: None };
    let number = store.create(key.clone(), code, events).await.unwrap();
    (number, key)
}

#[tokio::test]
async fn a_newer_store_is_refused_and_left_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    drop(Store::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = Store::open(&path).err().unwrap();
    assert!(matches!(refused, StoreError::Newer { found: 99, .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    std::fs::write(&path, "this is a letter to my aunt, and no database at all").unwrap();
    let refused = Store::open(&path).err().unwrap();
    assert!(matches!(refused, StoreError::Unusable { .. }), "{refused}");
    assert!(std::fs::read_to_string(&path).unwrap().contains("my aunt"));
}

#[tokio::test]
async fn events_and_lists_survive_a_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    let store = Store::open(&path).unwrap();
    let (first, key) = some_run(&store, 3).await;
    let (second, _) = some_run(&store, 0).await;
    assert_eq!((first, second), (RunNumber(1), RunNumber(2)));
    drop(store);

    let store = Store::open(&path).unwrap();
    let seqs: Vec<Seq> =
        store.events_after(first, Seq(1), 2).await.unwrap().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(seqs, [Seq(2), Seq(3)]);
    assert_eq!(store.unended().await.unwrap()[0], (first, key));
    let page = store.page(None, 1).await.unwrap();
    assert_eq!((page.runs[0].run, page.next), (second, Some(second)));
    let page = store.page(page.next, 1).await.unwrap();
    assert_eq!((page.runs[0].run, page.next), (first, None));
    assert_eq!(page.runs[0].verdict, None);
    assert_eq!(store.standing(RunNumber(3)).await.unwrap(), Standing::Unknown);
    assert_eq!(store.standing(second).await.unwrap(), Standing::Here);
    assert_eq!(store.pipedef(first).await.unwrap().files["/p/pipedef.py"], "text");
}

/// What a bettertest of this schema wrote, with runs in it.
fn old_store(path: &std::path::Path, schema: usize, runs: usize) {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    let steps = [include_str!("../boss/store/0001_runs.sql"), include_str!("../boss/store/0002_replay.sql")];
    for step in &steps[..schema] {
        connection.execute_batch(step).unwrap();
    }
    connection.pragma_update(None, "user_version", schema).unwrap();
    for number in 1..=runs {
        let key = RunKey::from_random(number as u128);
        let run = RunNumber(number as u64);
        let begin = RunFact::RunStarted {
            run,
            key: key.clone(),
            pipeline: Pipeline::default(),
            only: None,
            started_by: None,
            source: None,
        };
        let event = RunEvent { seq: Seq(1), at_ms: 7, fact: begin };
        let mut state = RunState::default();
        state.apply(&event).unwrap();
        let summary = serde_json::to_string(&RunSummary::of(&state)).unwrap();
        let insert =
            "INSERT INTO run (key, state, summary, changed, pipedef) VALUES (?1, 'running', ?2, ?3, '/p')";
        connection.execute(insert, rusqlite::params![key.as_str(), summary, number]).unwrap();
        let json = serde_json::to_string(&event).unwrap();
        connection.execute("INSERT INTO event VALUES (?1, 1, ?2)", rusqlite::params![number, json]).unwrap();
        let text = "x".repeat(1000);
        connection
            .execute("INSERT INTO pipedef_file VALUES (?1, '/p', ?2)", rusqlite::params![number, text])
            .unwrap();
    }
}

fn integrity(path: &std::path::Path) -> (String, usize, usize) {
    let connection = Connection::open(path).unwrap();
    let whole = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let runs = connection.query_row("SELECT count(*) FROM run", [], |row| row.get(0)).unwrap();
    (whole, version, runs)
}

#[tokio::test]
async fn a_filled_store_is_copied_and_then_brought_to_this_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    old_store(&path, 1, 500);
    // As a crash in the middle of a copy leaves it.
    std::fs::write(folder.path().join("runs.sqlite.1.draft"), "half").unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.unended().await.unwrap().len(), 500);
    assert_eq!(store.pipedef(RunNumber(500)).await.unwrap().files["/p"].len(), 1000);
    assert_eq!(store.pipedef(RunNumber(500)).await.unwrap().python, None);
    some_run(&store, 1).await;
    drop(store);
    assert_eq!(integrity(&path), ("ok".to_owned(), 6, 501));
    assert_eq!(integrity(&folder.path().join("runs.sqlite.1")), ("ok".to_owned(), 1, 500));
    assert!(!folder.path().join("runs.sqlite.1.draft").exists());
    // And only once.
    std::fs::remove_file(folder.path().join("runs.sqlite.1")).unwrap();
    drop(Store::open(&path).unwrap());
    assert!(!folder.path().join("runs.sqlite.1").exists());
}

#[tokio::test]
async fn several_that_start_at_once_migrate_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    old_store(&path, 2, 50);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| drop(Store::open(&path).unwrap()));
        }
    });
    assert_eq!(integrity(&path), ("ok".to_owned(), 6, 50));
}

/// The run's last event; where `again`, the first of a re-run after it.
pub(super) async fn append(store: &Store, run: RunNumber, seq: u64, again: bool) -> Result<(), StoreError> {
    let mut state = RunState::default();
    for (_, json) in store.events_after(run, Seq(0), 100).await? {
        state.apply(&serde_json::from_str(&json)?).unwrap();
    }
    let ended = RunFact::RunEnded { verdict: state.verdict_now() };
    let fact = if again {
        RunFact::RerunStarted { only: vec![TaskId::new("One", "t0")], failed_tests: Vec::new() }
    } else {
        ended
    };
    let event = RunEvent { seq: Seq(seq), at_ms: 8, fact };
    state.apply(&event).unwrap();
    appended(store, run, event, Some(RunSummary::of(&state))).await
}

async fn appended(
    store: &Store,
    run: RunNumber,
    event: RunEvent,
    summary: Option<RunSummary>,
) -> Result<(), StoreError> {
    appended_with(store, run, event, summary, None).await
}

pub(super) async fn appended_with(
    store: &Store,
    run: RunNumber,
    event: RunEvent,
    summary: Option<RunSummary>,
    tests: Option<AttemptTests>,
) -> Result<(), StoreError> {
    let (tell, appended) = tokio::sync::oneshot::channel();
    store.append(run, event, summary, tests, |result| tell.send(result).unwrap());
    appended.await.unwrap()
}

#[tokio::test]
async fn a_run_that_runs_again_is_not_removed_and_one_that_is_removed_does_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("runs.sqlite")).unwrap();
    let (first, _) = some_run(&store, 1).await;
    let (second, _) = some_run(&store, 1).await;
    assert!(!store.begin_removal(first).await.unwrap(), "it runs");
    append(&store, first, 3, false).await.unwrap();
    append(&store, second, 3, false).await.unwrap();
    append(&store, first, 4, true).await.unwrap();
    assert!(!store.begin_removal(first).await.unwrap(), "it runs again");
    assert!(store.begin_removal(second).await.unwrap());
    assert!(!store.begin_removal(second).await.unwrap(), "only one removes it");
    let refused = append(&store, second, 4, true).await.unwrap_err();
    assert!(matches!(refused, StoreError::Removed(run) if run == second), "{refused}");
    assert_eq!(store.events_after(second, Seq(3), 9).await.unwrap(), []);

    // It was the latest to change, and numbers and changes still count on from there.
    let latest = store.latest_change().await.unwrap();
    store.end_removal(second).await.unwrap();
    store.end_removal(first).await.unwrap();
    assert_eq!(store.standing(second).await.unwrap(), Standing::Removed);
    assert_eq!(store.standing(first).await.unwrap(), Standing::Here);
    let (third, _) = some_run(&store, 1).await;
    assert_eq!(third, RunNumber(3));
    assert_eq!(store.latest_change().await.unwrap(), latest + 1);
    let changes = store.changed_after(latest - 1, 9).await.unwrap();
    assert!(matches!(changes[..], [(_, Change::Removed(run)), (_, Change::Run(_))] if run == second));
}

#[tokio::test]
async fn sessions_end_when_nobody_comes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("runs.sqlite")).unwrap();
    store.add_session("abc".to_owned(), 1_000).await.unwrap();
    assert!(store.see_session("abc".to_owned(), 0, 2_000).await.unwrap());
    assert!(!store.see_session("abd".to_owned(), 0, 2_000).await.unwrap());
    // Seen again much later, it lives on from there.
    assert!(store.see_session("abc".to_owned(), 0, 9_000_000).await.unwrap());
    assert!(store.see_session("abc".to_owned(), 8_999_999, 9_000_001).await.unwrap());
    assert!(!store.see_session("abc".to_owned(), 9_000_001, 9_000_002).await.unwrap());
}

/// What comes while the disk is busy is written together, in its order; what cannot be is told, takes nothing along,
/// and nothing of the same run follows it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_together_is_stored_together_and_one_that_fails_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    let store = Store::open(&path).unwrap();
    let (first, _) = some_run(&store, 1).await;
    let (second, _) = some_run(&store, 1).await;
    // While another process writes, everything waits.
    let mut other = Connection::open(&path).unwrap();
    let writing = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let append = |run: RunNumber, seq: u64| {
        let event = RunEvent { seq: Seq(seq), at_ms: 9, fact: RunFact::CancelAsked };
        let tell = tell.clone();
        store.append(run, event, None, None, move |result| tell.send((run, seq, result.is_ok())).unwrap());
    };
    for seq in 3..=50 {
        append(first, seq);
        append(second, if seq == 30 { 99 } else { seq });
    }
    drop(writing);
    let told: Vec<_> = (0..96).map(|_| told.recv().unwrap()).collect();
    let of = |run| told.iter().filter(move |told| told.0 == run);
    assert!(of(first).map(|told| told.1).eq(3..=50) && of(first).all(|told| told.2), "{told:?}");
    assert!(of(second).all(|told| told.2 == (told.1 < 30)), "{told:?}");
    assert_eq!(store.events_after(first, Seq(0), 1000).await.unwrap().len(), 50);
    assert_eq!(store.events_after(second, Seq(0), 1000).await.unwrap().len(), 29);
}
