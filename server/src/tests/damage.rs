//! Pages of a store that are not what was written: a boss says so and does not begin, or what it tells is right. The
//! seed is fixed.

use common::{RunEvent, RunNumber, Seq};
use std::path::Path;

use super::store::some_run;
use crate::boss::{Store, StoreError, Whole, how_whole};

const RUNS: u64 = 12;

/// All that lists and runs show.
async fn everything(store: &Store) -> Result<Vec<String>, StoreError> {
    let mut told = vec![format!("{:?}", store.page(None, 50).await?)];
    for run in (1..=RUNS).map(RunNumber) {
        for (_, json) in store.events_after(run, Seq(0), 1000).await? {
            serde_json::from_str::<RunEvent>(&json)?;
            told.push(json);
        }
        told.push(format!("{:?}", store.pipedef(run).await?));
    }
    Ok(told)
}

async fn opened(path: &Path) -> Result<Vec<String>, StoreError> {
    if let Some(what) = how_whole(path, Whole::Tables)? {
        return Err(StoreError::Contradicts(what));
    }
    everything(&Store::open(path)?).await
}

#[tokio::test]
async fn a_damaged_store_is_refused_or_tells_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.sqlite");
    let store = Store::open(&path).unwrap();
    for _ in 0..RUNS {
        some_run(&store, 150).await;
    }
    let written = everything(&store).await.unwrap();
    store.settle().await.unwrap();
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 100 * 4096, "{} bytes", bytes.len());
    let mut seed = 32_u64;
    let mut below = |bound: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % bound
    };
    let mut refused = 0;
    for round in 0..200 {
        let mut damaged = bytes.clone();
        let from = below(bytes.len() as u64) as usize;
        let to = (from + 1 + below(4096) as usize).min(bytes.len());
        // No text of ours has such bytes; SQLite keeps no sum of what it stores, so other text would pass for text.
        damaged[from..to].fill_with(|| 0x80 | below(128) as u8);
        let copy = folder.path().join("copy.sqlite");
        for name in ["copy.sqlite", "copy.sqlite-wal", "copy.sqlite-shm"] {
            drop(std::fs::remove_file(folder.path().join(name)));
        }
        std::fs::write(&copy, &damaged).unwrap();
        match opened(&copy).await {
            Ok(told) => assert!(told == written, "round {round}: bytes {from} to {to} pass for others"),
            Err(error) => {
                assert!(error.is_damage(), "round {round}: {error}");
                refused += 1;
            }
        }
        assert!(copy.metadata().unwrap().len() > 0, "round {round}: it was made anew");
    }
    assert!(refused > 150, "only {refused} of 200 were noticed");
}
