//! The store on a real disk: what it refuses to open, and what it keeps.

use common::{
    Pipeline, RunEvent, RunFact, RunKey, RunNumber, RunState, RunSummary, Seq, SkipReason, Stage, Task,
    TaskId,
};
use rusqlite::Connection;

use crate::boss::{Store, StoreError};

/// A run of some skipped tasks.
async fn some_run(store: &Store, tasks: usize) -> (RunNumber, RunKey) {
    let key = RunKey::from_random(crate::auth::random_u128());
    let names: Vec<String> = (0..tasks).map(|n| format!("t{n}")).collect();
    let declared = names.iter().map(|name| Task { name: name.clone(), line: None }).collect();
    let pipeline =
        Pipeline { stages: vec![Stage { name: "One".to_owned(), always: false, tasks: declared }] };
    let events = {
        let key = key.clone();
        move |run| {
            let begin = RunFact::RunStarted { run, key, pipeline, only: None };
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
    let number = store.create(key.clone(), "/p/pipedef.py".to_owned(), files, events).await.unwrap();
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
    assert!(!store.exists(RunNumber(3)).await.unwrap());
    assert_eq!(store.pipedef(first).await.unwrap().1["/p/pipedef.py"], "text");
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
