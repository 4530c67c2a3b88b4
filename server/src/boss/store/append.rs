//! Appending to the runs' logs. While one transaction is on its way to the disk, what is to be appended meanwhile waits
//! for the next, which takes all of it: a thousand tasks at once cost tens of flushes and not thousands.

use common::{RunEvent, RunNumber, RunSummary};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use super::sums::Row;
use super::{AttemptTests, Store, StoreError, insert_event, next_change, results};

/// What waits for the next transaction.
#[derive(Default)]
pub(super) struct Queue {
    entries: Vec<Entry>,
    /// Somebody is at it.
    is_written: bool,
}

struct Entry {
    run: RunNumber,
    event: RunEvent,
    summary: Option<RunSummary>,
    tests: Option<AttemptTests>,
    done: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

impl Store {
    /// Appends one event; `summary` comes with those that lists are to be told of, `tests` with the end of an attempt
    /// that had some. Returns at once. `done` is called
    /// once it is on disk, or is not; of the events of one run in the order in which they were given, and none of
    /// them is stored after one that was not.
    pub(crate) fn append(
        &self,
        run: RunNumber,
        event: RunEvent,
        summary: Option<RunSummary>,
        tests: Option<AttemptTests>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        let mut queue = self.queue();
        queue.entries.push(Entry { run, event, summary, tests, done: Box::new(done) });
        if !queue.is_written {
            queue.is_written = true;
            let store = self.clone();
            tokio::task::spawn_blocking(move || store.write_queue());
        }
    }

    fn write_queue(&self) {
        loop {
            let entries = {
                let mut queue = self.queue();
                if queue.entries.is_empty() {
                    queue.is_written = false;
                    return;
                }
                std::mem::take(&mut queue.entries)
            };
            let mut connection =
                self.connection.lock().expect("a store panicked before, and nothing is sure any more");
            if entries.len() > 1 && append_all(&mut connection, &entries).is_ok() {
                drop(connection);
                entries.into_iter().for_each(|entry| (entry.done)(Ok(())));
                continue;
            }
            // One that fails is not to take the others along.
            for entry in entries {
                let appended = append_alone(&mut connection, &entry, &self.reserve);
                (entry.done)(appended);
            }
        }
    }

    /// Held for a few instructions only.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append_all(connection: &mut Connection, entries: &[Entry]) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for entry in entries {
        append_in(&transaction, entry)?;
    }
    Ok(transaction.commit()?)
}

fn append_alone(connection: &mut Connection, entry: &Entry, reserve: &Path) -> Result<(), StoreError> {
    match append_all(connection, std::slice::from_ref(entry)) {
        Err(StoreError::Failed(error)) if is_full(&error) && std::fs::remove_file(reserve).is_ok() => {
            tracing::warn!("the disk is full: the space that was set aside for this is used");
            append_all(connection, std::slice::from_ref(entry))
        }
        appended => appended,
    }
}

fn append_in(transaction: &Transaction<'_>, entry: &Entry) -> Result<(), StoreError> {
    let Entry { run, event, summary, tests, .. } = entry;
    if let Some(summary) = summary {
        let row = Row::of(transaction, *run)?.filter(|row| !row.removing);
        let mut row = row.ok_or(StoreError::Removed(*run))?;
        row.state.clone_from(&summary.state);
        row.summary = serde_json::to_string(summary)?;
        row.size_bytes = None;
        row.last_seq = Some(event.seq.0);
        row.changed = next_change(transaction)?;
        row.write(transaction)?;
    }
    let last: u64 = transaction
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM event WHERE run = ?1")?
        .query_row(params![run.0], |row| row.get(0))?;
    if event.seq.0 != last + 1 {
        let seq = event.seq.0;
        return Err(StoreError::Contradicts(format!("event {seq} of run {run} would follow event {last}")));
    }
    if let Some(tests) = tests {
        results::insert(transaction, *run, tests)?;
    }
    insert_event(transaction, *run, event)
}

fn is_full(error: &rusqlite::Error) -> bool {
    // Where a page of the log cannot be written, SQLite says so in one of these two ways.
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure)
    )
}
