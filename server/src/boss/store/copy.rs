//! Whole stores: a consistent copy of one that is in use, what makes of such a copy a history of its own, and whether
//! every page is what it should be.

use common::{RunEvent, RunFact, RunKey, RunNumber, Seq};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};
use std::path::Path;

use super::sums::{self, Row};
use super::{BUSY, STEPS, Store, StoreError, keep};

/// A store that is there; none is made.
fn open(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags);
    let store = opened.map_err(|source| StoreError::Unusable { path: path.to_owned(), source })?;
    store.busy_timeout(BUSY)?;
    Ok(store)
}

/// A copy of a store as it was at one moment, and the store that it is of.
pub(crate) struct StoreCopy {
    copy: Connection,
    of: Connection,
}

impl StoreCopy {
    /// Copies the store at `from` to `to`, whoever writes to it meanwhile. Without who is logged in: that is no part
    /// of the history.
    pub(crate) fn make(from: &Path, to: &Path) -> Result<StoreCopy, StoreError> {
        let unusable = |source| StoreError::Unusable { path: from.to_owned(), source };
        let name = to.to_str().ok_or_else(|| StoreError::Contradicts("its path is no UTF-8".to_owned()))?;
        let of = open(from)?;
        let found: usize = of.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unusable)?;
        if found != STEPS.len() {
            return Err(StoreError::OtherSchema { path: from.to_owned(), found, known: STEPS.len() });
        }
        of.execute("VACUUM INTO ?1", params![name]).map_err(unusable)?;
        let copy = Connection::open(to)?;
        copy.execute("DELETE FROM session", [])?;
        Ok(StoreCopy { copy, of })
    }

    pub(crate) fn runs(&self) -> Result<Vec<RunNumber>, StoreError> {
        let mut statement = self.copy.prepare("SELECT number FROM run WHERE removing = 0 ORDER BY number")?;
        let rows = statement.query_map([], |row| row.get(0).map(RunNumber))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Once their output was copied: runs that were removed meanwhile, perhaps before all of it was, are removed here,
    /// too. Closes the copy, and answers with how many are left.
    pub(crate) fn finish(self) -> Result<u64, StoreError> {
        let mut here = self.of.prepare("SELECT 1 FROM run WHERE number = ?1 AND removing = 0")?;
        for run in self.runs()? {
            if !here.exists(params![run.0])? {
                let row = Row::of(&self.copy, run)?.ok_or(StoreError::Removed(run))?;
                keep::remove(&self.copy, row)?;
            }
        }
        let left = self.runs()?.len() as u64;
        drop(here);
        self.copy.close().map_err(|(_, error)| error)?;
        Ok(left)
    }
}

/// How much of a store is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    /// Every page of every table.
    Tables,
    /// Also whether indices say the same, and whether each row is what was written.
    Everything,
}

/// What is damaged in the store at `path`, if anything is.
pub(crate) fn how_whole(path: &Path, whole: Whole) -> Result<Option<String>, StoreError> {
    let ask = match whole {
        Whole::Tables => "PRAGMA quick_check(1)",
        Whole::Everything => "PRAGMA integrity_check(1)",
    };
    let store = open(path)?;
    match store.query_row(ask, [], |row| row.get::<_, String>(0)) {
        Ok(said) if said != "ok" => return Ok(Some(said)),
        Ok(_) => {}
        Err(error) if is_damage(&error) => return Ok(Some(error.to_string())),
        Err(source) => return Err(StoreError::Unusable { path: path.to_owned(), source }),
    }
    let schema: usize = store.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match whole {
        Whole::Everything if schema == STEPS.len() => sums::broken(&store),
        // An older store has no sums, and a newer one perhaps others.
        Whole::Everything | Whole::Tables => Ok(None),
    }
}

/// What SQLite says where a page is not what it should be, and what a column says that holds what nobody wrote there:
/// text that is no UTF-8, a number where text was. All of our SQL fits the tables that we make: where one of them, or of
/// their columns, is not there, its name is another now.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnName(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::Utf8Error(..) => true,
        other => {
            let code = other.sqlite_error_code();
            matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
                || other.sqlite_extended_error_code() == Some(rusqlite::ffi::SQLITE_ERROR)
        }
    }
}

impl StoreError {
    /// Not the disk, nor the moment: what is in the file is not what was written there.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            StoreError::Failed(error) | StoreError::Unusable { source: error, .. } => is_damage(error),
            StoreError::Unreadable(_) | StoreError::Contradicts(_) => true,
            StoreError::Newer { .. }
            | StoreError::OtherSchema { .. }
            | StoreError::OldSqlite(_)
            | StoreError::NotCopied { .. }
            | StoreError::Removed(_) => false,
        }
    }
}

impl Store {
    /// Gives every run a new key, and forgets the steps that are still to be cancelled: this is another history from
    /// here on, and no step of the one that it was copied from is ever asked for by it, or ended.
    pub(crate) async fn become_another(&self) -> Result<(), StoreError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let mut statement = transaction.prepare("SELECT number FROM run")?;
            let rows = statement.query_map([], |row| row.get(0).map(RunNumber))?;
            let runs = rows.collect::<Result<Vec<_>, _>>()?;
            drop(statement);
            for run in runs {
                let select = "SELECT event, sum FROM event WHERE run = ?1 AND seq = 1";
                let begun = transaction
                    .query_row(select, params![run.0], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
                    .optional()?;
                // Where it is being removed, its events may be gone.
                let Some((json, sum)) = begun else { continue };
                sums::event(run, Seq(1), &json, sum)?;
                let mut event: RunEvent = serde_json::from_str(&json)?;
                if let RunFact::RunStarted { key, .. } = &mut event.fact {
                    *key = RunKey::from_random(crate::auth::random_u128());
                    let mut row = Row::of(&transaction, run)?.ok_or(StoreError::Removed(run))?;
                    row.key = key.as_str().to_owned();
                    row.write(&transaction)?;
                    let update = "UPDATE event SET event = ?2, sum = ?3 WHERE run = ?1 AND seq = 1";
                    let json = serde_json::to_string(&event)?;
                    transaction.execute(update, params![run.0, json, sums::of_event(run, Seq(1), &json)])?;
                }
            }
            transaction.execute("DELETE FROM orphan", [])?;
            Ok(transaction.commit()?)
        })
        .await
    }
}
