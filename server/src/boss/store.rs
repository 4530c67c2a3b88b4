//! The only SQL: what happened in each run, and who may look. Every change is committed, and on disk, before
//! anybody is told of it.

mod append;
mod copy;
mod keep;
mod replay;
mod results;
mod sums;

use common::{Page, RunEvent, RunKey, RunNumber, RunSummary, Seq, StepId};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::joined::joined;

pub(crate) use copy::{StoreCopy, Whole, how_whole};
pub(crate) use keep::Standing;
pub(crate) use results::{AttemptTests, StoredTests, bounded};
use sums::Row;
pub(crate) use sums::of_ground;

/// Applied in order by `PRAGMA user_version`; never edited once released.
const STEPS: &[&str] = &[
    include_str!("store/0001_runs.sql"),
    include_str!("store/0002_replay.sql"),
    include_str!("store/0003_retention.sql"),
    include_str!("store/0004_sums.sql"),
    include_str!("store/0005_tests.sql"),
    include_str!("store/0006_some_tests.sql"),
];

/// Changes of runs are counted, and their removals with them: no number comes twice.
const NEXT_CHANGE: &str = "SELECT 1 + max((SELECT coalesce(max(changed), 0) FROM run),
     (SELECT coalesce(max(changed), 0) FROM removed_run))";

/// Before this version, SQLite's write-ahead log could be reset under a writer and lose a commit.
const OLDEST_SQLITE: i32 = 3_051_003;

/// So long a transaction waits for one of another process.
const BUSY: Duration = Duration::from_secs(5);

/// Enough for the ends of thousands of tasks.
const RESERVE_BYTES: i64 = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{path} was written by a newer bettertest (schema {found}, this one knows {known})")]
    Newer { path: PathBuf, found: usize, known: usize },
    #[error("{path} has schema {found}, and this bettertest copies schema {known} only")]
    OtherSchema { path: PathBuf, found: usize, known: usize },
    #[error("the SQLite in this binary is {0}, which can lose commits")]
    OldSqlite(String),
    #[error("{path} cannot be used: {source}")]
    Unusable { path: PathBuf, source: rusqlite::Error },
    #[error("the store cannot be copied to {path} before it is brought to this version: {source}")]
    NotCopied { path: PathBuf, source: std::io::Error },
    #[error("the store failed: {0}")]
    Failed(#[from] rusqlite::Error),
    /// Its events are not there any more, so none can follow.
    #[error("run {0} was removed")]
    Removed(RunNumber),
    #[error("the store holds what cannot be: {0}")]
    Contradicts(String),
    #[error("the store holds what this bettertest cannot read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// A step that nobody waits for any more, at the worker that the pipedef names so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Orphan {
    pub(crate) step: StepId,
    pub(crate) worker: String,
    pub(crate) since_ms: u64,
}

/// What followers of lists are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A run started or ended: its RunSummary, as JSON.
    Run(String),
    Removed(RunNumber),
}

/// What a run executes: its pipedef, the texts, and the interpreter that discovery ran in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredCode {
    pub(crate) pipedef: String,
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) python: Option<String>,
}

/// A handle; clones share one connection. The lock is held for single statements and short transactions on a
/// blocking thread, never over an await.
#[derive(Clone)]
pub(crate) struct Store {
    connection: Arc<Mutex<Connection>>,
    queue: Arc<Mutex<append::Queue>>,
    /// Space on the disk that is given up when there is no other, so that what happened can still be recorded.
    reserve: PathBuf,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Store, StoreError> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            return Err(StoreError::OldSqlite(rusqlite::version().to_owned()));
        }
        let unusable = |source| StoreError::Unusable { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(unusable)?;
        connection.busy_timeout(BUSY)?;
        let found: usize =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unusable)?;
        if found > STEPS.len() {
            return Err(StoreError::Newer { path: path.to_owned(), found, known: STEPS.len() });
        }
        connection.pragma_update(None, "journal_mode", "wal").map_err(unusable)?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        if found < STEPS.len() {
            migrate(&mut connection, path)?;
        }
        Ok(Store {
            connection: Arc::new(Mutex::new(connection)),
            queue: Arc::default(),
            reserve: beside(path, ".reserve"),
        })
    }

    /// Sets space aside for a full disk, where there is enough of it now.
    pub(crate) async fn keep_reserve(&self) {
        let reserve = self.reserve.clone();
        let kept = tokio::task::spawn_blocking(move || keep_reserve(&reserve)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!("no space can be set aside for when the disk is full: {error}");
        }
    }

    /// Brings everything into the one file, so that the next start need not look through it.
    pub(crate) async fn settle(&self) -> Result<(), StoreError> {
        self.with(|connection| Ok(connection.query_row("PRAGMA wal_checkpoint(truncate)", [], |_| Ok(()))?))
            .await
    }

    /// Can anything be recorded? Writes what stands there already.
    pub(crate) async fn check(&self, run: RunNumber) -> Result<(), StoreError> {
        self.with(move |connection| {
            connection.execute("UPDATE run SET key = key WHERE number = ?1", params![run.0])?;
            Ok(())
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.connection.clone();
        let worked = tokio::task::spawn_blocking(move || {
            let mut connection =
                connection.lock().expect("a store panicked before, and nothing is sure any more");
            work(&mut connection)
        });
        joined(worked.await).await
    }

    /// Makes a run, with its first events, in one transaction; `events` is given the number that it gets.
    pub(crate) async fn create(
        &self,
        key: RunKey,
        code: StoredCode,
        events: impl FnOnce(RunNumber) -> (Vec<RunEvent>, RunSummary) + Send + 'static,
    ) -> Result<RunNumber, StoreError> {
        self.with(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let insert = format!(
                "INSERT INTO run (key, state, summary, changed, pipedef, python)
                 VALUES (?1, 'running', '', ({NEXT_CHANGE}), ?2, ?3)"
            );
            transaction.execute(&insert, params![key.as_str(), code.pipedef, code.python])?;
            let number = RunNumber(transaction.last_insert_rowid() as u64);
            let (events, summary) = events(number);
            for event in &events {
                insert_event(&transaction, number, event)?;
            }
            let mut row = Row::of(&transaction, number)?.expect("it was made in this transaction");
            row.summary = serde_json::to_string(&summary)?;
            row.last_seq = events.last().map(|last| last.seq.0);
            row.code_sum = Some(sums::of_code(&code.pipedef, &code.files));
            row.write(&transaction)?;
            for (path, text) in &code.files {
                let insert = "INSERT INTO pipedef_file (run, path, text) VALUES (?1, ?2, ?3)";
                transaction.execute(insert, params![number.0, path, text])?;
            }
            transaction.commit()?;
            Ok(number)
        })
        .await
    }

    /// The next events of a run after `seq`, as JSON, at most `limit` of them.
    pub(crate) async fn events_after(
        &self,
        run: RunNumber,
        seq: Seq,
        limit: usize,
    ) -> Result<Vec<(Seq, String)>, StoreError> {
        self.with(move |connection| {
            let mut statement = connection.prepare_cached(EVENTS)?;
            let mut rows = statement.query(params![run.0, seq.0, limit])?;
            let mut events = Vec::new();
            while let Some(row) = rows.next()? {
                let (seq, event) = (Seq(row.get(0)?), row.get::<_, String>(1)?);
                sums::event(run, seq, &event, row.get(2)?)?;
                events.push((seq, event));
            }
            Ok(events)
        })
        .await
    }

    /// Runs that have not ended, oldest first: after a start, those that a crash has left.
    pub(crate) async fn unended(&self) -> Result<Vec<(RunNumber, RunKey)>, StoreError> {
        self.with(move |connection| {
            let mut statement = connection.prepare_cached(UNENDED)?;
            let mut rows = statement.query([])?;
            let mut unended = Vec::new();
            while let Some(row) = rows.next()? {
                let row = Row::read(row)?;
                let key =
                    RunKey::try_from(row.key).map_err(|bad| StoreError::Contradicts(bad.to_string()))?;
                unended.push((row.number, key));
            }
            Ok(unended)
        })
        .await
    }

    /// Which pipedef a run is of, and the texts that it executes.
    pub(crate) async fn pipedef(&self, run: RunNumber) -> Result<StoredCode, StoreError> {
        self.with(move |connection| {
            let row = keep::row(connection, run)?;
            let files = sums::code(connection, &row)?;
            Ok(StoredCode { pipedef: row.pipedef, files, python: row.python })
        })
        .await
    }

    /// Records that a run executes this text of `path`; returns the hash of the one that it executed first.
    pub(crate) async fn first_import(
        &self,
        run: RunNumber,
        path: String,
        sha256: String,
    ) -> Result<String, StoreError> {
        self.with(move |connection| {
            let insert = "INSERT OR IGNORE INTO imported_file (run, path, sha256) VALUES (?1, ?2, ?3)";
            connection.execute(insert, params![run.0, path, sha256])?;
            let select = "SELECT sha256 FROM imported_file WHERE run = ?1 AND path = ?2";
            Ok(connection.query_row(select, params![run.0, path], |row| row.get(0))?)
        })
        .await
    }

    /// A step that nobody waits for any more, and that its worker has to be told to end.
    pub(crate) async fn add_orphan(&self, orphan: Orphan) -> Result<(), StoreError> {
        self.with(move |connection| {
            let insert = "INSERT OR IGNORE INTO orphan (step, worker, since_ms) VALUES (?1, ?2, ?3)";
            connection.execute(insert, params![orphan.step.as_str(), orphan.worker, orphan.since_ms])?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn remove_orphan(&self, step: StepId) -> Result<(), StoreError> {
        self.with(move |connection| {
            connection.execute("DELETE FROM orphan WHERE step = ?1", params![step.as_str()])?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn orphans(&self) -> Result<Vec<Orphan>, StoreError> {
        self.with(move |connection| {
            let mut statement = connection.prepare_cached("SELECT step, worker, since_ms FROM orphan")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let mut orphans = Vec::new();
            for row in rows {
                let (step, worker, since_ms): (String, String, u64) = row?;
                let step = StepId::try_from(step).map_err(|bad| StoreError::Contradicts(bad.to_string()))?;
                orphans.push(Orphan { step, worker, since_ms });
            }
            Ok(orphans)
        })
        .await
    }

    /// A page of runs, newest first, older than `before`.
    pub(crate) async fn page(&self, before: Option<RunNumber>, limit: usize) -> Result<Page, StoreError> {
        self.with(move |connection| {
            let mut statement = connection.prepare_cached(PAGE)?;
            let before = before.map_or(i64::MAX as u64, |run| run.0);
            let mut rows = statement.query(params![before])?;
            let mut runs = Vec::new();
            while runs.len() <= limit
                && let Some(row) = rows.next()?
            {
                let row = Row::read(row)?;
                if !row.removing {
                    runs.push(serde_json::from_str::<RunSummary>(&row.summary)?);
                }
            }
            let more = runs.len() > limit;
            runs.truncate(limit);
            let next = runs.last().filter(|_| more).map(|last| last.run);
            Ok(Page { runs, next })
        })
        .await
    }

    /// What changed after the change `after`, each with its number.
    pub(crate) async fn changed_after(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Change)>, StoreError> {
        self.with(move |connection| {
            let transaction = connection.transaction()?;
            let mut statement = transaction.prepare_cached(CHANGED)?;
            let rows = statement.query_map(params![after, limit], |row| {
                Ok((row.get(0)?, RunNumber(row.get(1)?), row.get::<_, bool>(2)?))
            })?;
            let mut changes = Vec::new();
            for row in rows {
                let (changed, run, removed) = row?;
                let change = match Row::of(&transaction, run)? {
                    Some(row) if !removed => Change::Run(row.summary),
                    Some(_) | None => Change::Removed(run),
                };
                changes.push((changed, change));
            }
            Ok(changes)
        })
        .await
    }

    /// The number of the latest change.
    pub(crate) async fn latest_change(&self) -> Result<u64, StoreError> {
        self.with(|connection| {
            Ok(connection.query_row(&format!("SELECT ({NEXT_CHANGE}) - 1"), [], |row| row.get(0))?)
        })
        .await
    }

    pub(crate) async fn add_session(&self, cookie_sha256: String, now_ms: u64) -> Result<(), StoreError> {
        self.with(move |connection| {
            let insert = "INSERT INTO session (cookie_sha256, last_seen_ms) VALUES (?1, ?2)";
            connection.execute(insert, params![cookie_sha256, now_ms])?;
            Ok(())
        })
        .await
    }

    /// Is this a session that was seen after `since_ms`? If so, it has now been seen at `now_ms`.
    pub(crate) async fn see_session(
        &self,
        cookie_sha256: String,
        since_ms: u64,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.with(move |connection| {
            let select = "SELECT last_seen_ms FROM session WHERE cookie_sha256 = ?1 AND last_seen_ms >= ?2";
            let seen: Option<u64> = connection
                .query_row(select, params![cookie_sha256, since_ms], |row| row.get(0))
                .optional()?;
            // Written once an hour at most: a page asks often, and a write is a disk's flush.
            if seen.is_some_and(|seen| now_ms > seen + 3_600_000) {
                let update = "UPDATE session SET last_seen_ms = ?2 WHERE cookie_sha256 = ?1";
                connection.execute(update, params![cookie_sha256, now_ms])?;
                connection.execute("DELETE FROM session WHERE last_seen_ms < ?1", params![since_ms])?;
            }
            Ok(seen.is_some())
        })
        .await
    }
}

const EVENTS: &str = "SELECT seq, event, sum FROM event WHERE run = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";

/// Once at a start, and of the rows themselves: no damage of an index keeps a run from going on.
const UNENDED: &str = "SELECT * FROM run NOT INDEXED WHERE state = 'running' ORDER BY number";

/// As many of these as are wanted. That one is being removed is believed by its sum only.
const PAGE: &str = "SELECT * FROM run WHERE number < ?1 ORDER BY number DESC";

const CHANGED: &str = "SELECT changed, number, 0 FROM run WHERE changed > ?1 AND +removing = 0
     UNION ALL SELECT changed, run, 1 FROM removed_run WHERE changed > ?1 ORDER BY changed LIMIT ?2";

/// Brings a store to this version, in one transaction, after a copy of it was made beside it.
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Read again under the lock: another process may have been faster.
    let found: usize = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > 0 && found < STEPS.len() {
        copy(path, found)?;
    }
    for step in &STEPS[found.min(STEPS.len())..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", found.max(STEPS.len()))?;
    Ok(transaction.commit()?)
}

/// `runs.sqlite` of schema 1 is copied to `runs.sqlite.1`. A copy that is there was left by a crash in mid-copy, or
/// is of this same store: nothing is written to a store between its copy and its migration.
fn copy(path: &Path, version: usize) -> Result<(), StoreError> {
    let (to, draft) = (beside(path, &format!(".{version}")), beside(path, &format!(".{version}.draft")));
    let not_copied = |source: std::io::Error| StoreError::NotCopied { path: to.clone(), source };
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(not_copied(error)),
        Ok(()) | Err(_) => {}
    }
    // A connection of its own reads what is committed, while the lock keeps others from committing more.
    let draft_name =
        draft.to_str().ok_or_else(|| not_copied(std::io::Error::other("its path is no UTF-8")))?;
    Connection::open(path)?.execute("VACUUM INTO ?1", params![draft_name])?;
    let synced = std::fs::File::open(&draft).and_then(|file| file.sync_all());
    synced.and_then(|()| std::fs::rename(&draft, &to)).map_err(not_copied)
}

/// Real blocks, not a hole: only those are there when they are needed.
fn keep_reserve(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let draft = beside(path, ".draft");
    let file = std::fs::File::create(&draft)?;
    let made = nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, RESERVE_BYTES)
        .map_err(std::io::Error::from)
        .and_then(|()| std::fs::rename(&draft, path));
    if made.is_err() {
        // Half of it would only be in the way.
        drop(std::fs::remove_file(&draft));
    }
    made
}

/// A file of the same name, and this behind it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn insert_event(connection: &Connection, run: RunNumber, event: &RunEvent) -> Result<(), StoreError> {
    let mut insert =
        connection.prepare_cached("INSERT INTO event (run, seq, event, sum) VALUES (?1, ?2, ?3, ?4)")?;
    let json = serde_json::to_string(event)?;
    insert.execute(params![run.0, event.seq.0, json, sums::of_event(run, event.seq, &json)])?;
    Ok(())
}

fn next_change(connection: &Connection) -> Result<u64, StoreError> {
    Ok(connection.query_row(&format!("SELECT ({NEXT_CHANGE})"), [], |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of 100,000 runs is long. What is asked often has to find its place by an index, and needs no sorting.
    #[test]
    fn no_list_reads_the_whole_history() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.sqlite");
        drop(Store::open(&path).unwrap());
        let store = Connection::open(path).unwrap();
        let latest = format!("SELECT ({NEXT_CHANGE}) - 1");
        let of_runs = [PAGE, CHANGED, &latest, keep::OLDEST, keep::UNMEASURED, keep::BEING_REMOVED, EVENTS];
        for asked in of_runs.into_iter().chain([
            results::ON_GROUND,
            results::OF_RUN,
            results::OF_TASK,
            results::FIND_NAME,
        ]) {
            let mut statement = store.prepare(&format!("EXPLAIN QUERY PLAN {asked}")).unwrap();
            let count = statement.parameter_count();
            let none = std::iter::repeat_n(rusqlite::types::Value::Integer(7), count);
            let rows = statement.query_map(rusqlite::params_from_iter(none), |row| row.get::<_, String>(3));
            for step in rows.unwrap().map(Result::unwrap) {
                let scanned =
                    ["run", "event", "attempt_tests", "test_name"].map(|table| format!("SCAN {table}"));
                assert!(!scanned.iter().any(|scan| step.contains(scan)), "{asked}: {step}");
                assert!(!step.contains("TEMP B-TREE"), "{asked}: {step}");
            }
        }
        // Every run counts in this one; but only a narrow index is read for it.
        let held = store
            .prepare(&format!("EXPLAIN QUERY PLAN {}", keep::HELD))
            .unwrap()
            .query_row([], |row| row.get::<_, String>(3));
        assert!(held.unwrap().contains("COVERING INDEX run_by_size"));
    }
}
