//! The SQL of retention: what the history takes, which run is the next to go, and its removal in small steps. A run
//! is first taken from all lists, in one transaction; a crash at any time after it leaves the rest to the next pass.

use common::{RunNumber, RunSummary, Seq};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::sums::Row;
use super::{Store, StoreError, next_change, results};

/// Those who follow lists and were away for more removals than these read the list anew.
const REMOVALS_TOLD: u64 = 1000;

/// So many events go in one transaction: a few milliseconds, in which nobody else can write.
const EVENTS_AT_ONCE: u64 = 1000;

/// What the history takes, and which run would be the first to go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) runs: u64,
    pub(crate) bytes: u64,
    /// The run that was the first to end, and when. None where there is no other: the last one stays.
    pub(crate) oldest: Option<(RunNumber, u64)>,
}

/// What is known of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Here,
    /// There was such a run. Numbers are never used again.
    Removed,
    Unknown,
}

impl Store {
    pub(crate) async fn standing(&self, run: RunNumber) -> Result<Standing, StoreError> {
        self.with(move |connection| standing(connection, run)).await
    }

    pub(crate) async fn holding(&self) -> Result<Holding, StoreError> {
        self.with(|connection| {
            let (runs, bytes) = connection.query_row(HELD, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let mut statement = connection.prepare_cached(OLDEST)?;
            let mut rows = statement.query([])?;
            let mut ended = Vec::new();
            while let Some(row) = rows.next()? {
                ended.push(Row::read(row)?);
            }
            let oldest = match &ended[..] {
                [oldest, _] => {
                    let summary: RunSummary = serde_json::from_str(&oldest.summary)?;
                    Some((oldest.number, summary.ended_at_ms.unwrap_or(summary.started_at_ms)))
                }
                _ => None,
            };
            Ok(Holding { runs, bytes, oldest })
        })
        .await
    }

    /// What the file takes, with the room in it that is free.
    pub(crate) async fn size_bytes(&self) -> Result<u64, StoreError> {
        self.with(|connection| {
            let ask = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
            Ok(connection.query_row(ask, [], |row| row.get(0))?)
        })
        .await
    }

    /// Some runs that have ended and were not measured since.
    pub(crate) async fn unmeasured(&self) -> Result<Vec<RunNumber>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(UNMEASURED)?;
            let rows = statement.query_map([], |row| row.get(0).map(RunNumber))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Records what an ended run takes: its output, measured by the caller, and what stands here.
    pub(crate) async fn measured(&self, run: RunNumber, output_bytes: u64) -> Result<(), StoreError> {
        self.with(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let Some(mut row) = Row::of(&transaction, run)?.filter(|row| row.state == "ended") else {
                return Ok(());
            };
            let ask = "SELECT (SELECT coalesce(sum(octet_length(event)), 0) FROM event WHERE run = ?1)
                 + (SELECT coalesce(sum(octet_length(text)), 0) FROM pipedef_file WHERE run = ?1)";
            let here: u64 = transaction.query_row(ask, params![run.0], |row| row.get(0))?;
            row.size_bytes = Some(output_bytes + here + results::size_bytes(&transaction, run)?);
            row.write(&transaction)?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Takes an ended run from all lists, for good. False where it has not ended, or goes on: whichever of this and
    /// the first event of a re-run is committed first keeps the other out, in whatever process.
    pub(crate) async fn begin_removal(&self, run: RunNumber) -> Result<bool, StoreError> {
        self.with(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let row = Row::of(&transaction, run)?;
            let Some(row) = row.filter(|row| row.state == "ended" && !row.removing) else {
                return Ok(false);
            };
            remove(&transaction, row)?;
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// Runs whose removal has begun.
    pub(crate) async fn being_removed(&self) -> Result<Vec<RunNumber>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(BEING_REMOVED)?;
            let mut rows = statement.query([])?;
            let mut removed = Vec::new();
            while let Some(row) = rows.next()? {
                removed.push(Row::read(row)?.number);
            }
            Ok(removed)
        })
        .await
    }

    /// Removes what stands here of a run whose removal has begun. Its output has to be gone before.
    pub(crate) async fn end_removal(&self, run: RunNumber) -> Result<(), StoreError> {
        if !self.being_removed().await?.contains(&run) {
            return Ok(());
        }
        let mut to = Seq(EVENTS_AT_ONCE);
        while self.remove_events(run, to).await? {
            to.0 += EVENTS_AT_ONCE;
        }
        self.with(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for table in ["pipedef_file", "imported_file"] {
                transaction.execute(&format!("DELETE FROM {table} WHERE run = ?1"), params![run.0])?;
            }
            results::remove(&transaction, run)?;
            transaction.execute("DELETE FROM run WHERE number = ?1 AND removing = 1", params![run.0])?;
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Are there more of them?
    async fn remove_events(&self, run: RunNumber, to: Seq) -> Result<bool, StoreError> {
        self.with(move |connection| {
            connection.execute("DELETE FROM event WHERE run = ?1 AND seq <= ?2", params![run.0, to.0])?;
            let more = "SELECT 1 FROM event WHERE run = ?1 LIMIT 1";
            Ok(connection.query_row(more, params![run.0], |_| Ok(())).optional()?.is_some())
        })
        .await
    }

    /// Which of these numbers no run has (any more).
    pub(crate) async fn without_a_run(&self, numbers: Vec<RunNumber>) -> Result<Vec<RunNumber>, StoreError> {
        self.with(move |connection| {
            let mut without = Vec::new();
            for number in numbers {
                if Row::of(connection, number)?.is_none() {
                    standing(connection, number)?;
                    without.push(number);
                }
            }
            Ok(without)
        })
        .await
    }
}

/// That of a run that is there.
pub(super) fn row(connection: &Connection, run: RunNumber) -> Result<Row, StoreError> {
    match Row::of(connection, run)? {
        Some(row) if !row.removing => Ok(row),
        // Of one that nobody removed, this has another word.
        Some(_) | None => Err(standing(connection, run).err().unwrap_or(StoreError::Removed(run))),
    }
}

fn standing(connection: &Connection, run: RunNumber) -> Result<Standing, StoreError> {
    match Row::of(connection, run)? {
        Some(row) if row.removing => return Ok(Standing::Removed),
        Some(_) => return Ok(Standing::Here),
        None => {}
    }
    let select = "SELECT seq FROM sqlite_sequence WHERE name = 'run'";
    let latest: Option<u64> = connection.query_row(select, [], |row| row.get(0)).optional()?;
    if run.0 == 0 || latest.is_none_or(|latest| run.0 > latest) {
        return Ok(Standing::Unknown);
    }
    // Of removals that are long ago no list is kept.
    let select = "SELECT count(*) >= ?2 OR count(*) FILTER (WHERE run = ?1) > 0 FROM removed_run";
    if connection.query_row(select, params![run.0, REMOVALS_TOLD], |row| row.get(0))? {
        return Ok(Standing::Removed);
    }
    Err(StoreError::Contradicts(format!("run {run} is not there, and was not removed")))
}

/// Takes a run from all lists.
pub(super) fn remove(connection: &Connection, mut row: Row) -> Result<(), StoreError> {
    row.removing = true;
    row.write(connection)?;
    let insert = "INSERT INTO removed_run (changed, run) VALUES (?1, ?2)";
    connection.execute(insert, params![next_change(connection)?, row.number.0])?;
    let trim = "DELETE FROM removed_run WHERE changed <=
         (SELECT changed FROM removed_run ORDER BY changed DESC LIMIT 1 OFFSET ?1)";
    connection.execute(trim, params![REMOVALS_TOLD])?;
    Ok(())
}

pub(super) const HELD: &str = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM run WHERE removing = 0";

pub(super) const BEING_REMOVED: &str = "SELECT * FROM run WHERE removing = 1";

/// The plus keeps SQLite from walking through all that have ended.
pub(super) const UNMEASURED: &str = "SELECT number FROM run
     WHERE removing = 0 AND size_bytes IS NULL AND +state = 'ended' LIMIT 100";

/// Two, as the last one stays.
pub(super) const OLDEST: &str = "SELECT * FROM run INDEXED BY run_by_end
     WHERE state = 'ended' AND removing = 0 ORDER BY changed LIMIT 2";
