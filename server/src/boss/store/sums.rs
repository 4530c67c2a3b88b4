//! What was written is what is read, or it is damage: SQLite keeps no sum of a row, so each has one of its own. A row of
//! `run` is written here only, so that none is ever changed without its sum, and none that is damaged gets a new one.

use common::{RunNumber, Seq, TaskId};
use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

use super::StoreError;

/// A row of `run`, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) number: RunNumber,
    pub(super) key: String,
    pub(super) state: String,
    pub(super) summary: String,
    pub(super) changed: u64,
    pub(super) pipedef: String,
    pub(super) python: Option<String>,
    pub(super) removing: bool,
    pub(super) size_bytes: Option<u64>,
    pub(super) last_seq: Option<u64>,
    pub(super) code_sum: Option<i64>,
}

impl Row {
    /// From a `SELECT *`.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> Result<Row, StoreError> {
        let read = Row {
            number: RunNumber(row.get("number")?),
            key: row.get("key")?,
            state: row.get("state")?,
            summary: row.get("summary")?,
            changed: row.get("changed")?,
            pipedef: row.get("pipedef")?,
            python: row.get("python")?,
            removing: row.get("removing")?,
            size_bytes: row.get("size_bytes")?,
            last_seq: row.get("last_seq")?,
            code_sum: row.get("code_sum")?,
        };
        hold(row.get("sum")?, read.sum(), || format!("what lists say of run {}", read.number))?;
        Ok(read)
    }

    pub(super) fn of(connection: &Connection, run: RunNumber) -> Result<Option<Row>, StoreError> {
        let mut statement = connection.prepare_cached("SELECT * FROM run WHERE number = ?1")?;
        let read = statement.query_row(params![run.0], |row| Ok(Row::read(row))).optional()?;
        read.transpose()
    }

    /// Everything of it that ever changes.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        let mut update = connection.prepare_cached(
            "UPDATE run SET key = ?2, state = ?3, summary = ?4, changed = ?5, removing = ?6, size_bytes = ?7,
             last_seq = ?8, code_sum = ?9, sum = ?10 WHERE number = ?1",
        )?;
        let head = params![
            self.number.0,
            self.key,
            self.state,
            self.summary,
            self.changed,
            self.removing,
            self.size_bytes,
            self.last_seq,
            self.code_sum,
            self.sum()
        ];
        update.execute(head)?;
        Ok(())
    }

    fn sum(&self) -> i64 {
        let mut sum = Sum::default();
        sum.number(self.number.0);
        for text in [&self.key, &self.state, &self.summary, &self.pipedef] {
            sum.text(text);
        }
        sum.number(self.changed);
        sum.text(self.python.as_deref().unwrap_or_default());
        for number in [Some(self.removing.into()), self.size_bytes, self.last_seq] {
            // One more than it is, as a null is another thing than a 0.
            sum.number(number.map_or(0, |number| number.wrapping_add(1)));
        }
        sum.number(self.code_sum.unwrap_or_default().cast_unsigned());
        sum.end()
    }
}

pub(super) fn of_event(run: RunNumber, seq: Seq, event: &str) -> i64 {
    let mut sum = Sum::default();
    sum.number(run.0);
    sum.number(seq.0);
    sum.text(event);
    sum.end()
}

/// What an attempt was on: the files, or without a source the run that has them in its images; and these.
pub(crate) fn of_ground<'a>(
    task: &TaskId,
    tree: Option<&str>,
    run: RunNumber,
    images: impl Iterator<Item = &'a str>,
) -> i64 {
    let mut sum = Sum::default();
    sum.text(&task.to_string());
    match tree {
        Some(tree) => sum.text(tree),
        None => sum.number(run.0),
    }
    // In whatever order its steps began.
    for image in images.collect::<BTreeSet<_>>() {
        sum.text(image);
    }
    sum.end()
}

pub(super) fn of_code(pipedef: &str, files: &BTreeMap<String, String>) -> i64 {
    let mut sum = Sum::default();
    sum.text(pipedef);
    for (path, text) in files {
        sum.text(path);
        sum.text(text);
    }
    sum.end()
}

/// Refuses what is not what was written. What has no sum is older than sums.
pub(super) fn hold(
    written: Option<i64>,
    found: i64,
    what: impl FnOnce() -> String,
) -> Result<(), StoreError> {
    match written {
        Some(written) if written != found => {
            Err(StoreError::Contradicts(format!("{} is not what was written", what())))
        }
        Some(_) | None => Ok(()),
    }
}

/// The first thing in a store that is not what was written, if there is one.
pub(super) fn broken(connection: &Connection) -> Result<Option<String>, StoreError> {
    let looked = look(connection);
    match looked {
        Ok(()) => Ok(None),
        Err(error) if error.is_damage() => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

fn look(connection: &Connection) -> Result<(), StoreError> {
    let mut statement = connection.prepare("SELECT * FROM run")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let row = Row::read(row)?;
        code(connection, &row)?;
    }
    let mut statement = connection.prepare("SELECT run, seq, event, sum FROM event")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        event(RunNumber(row.get(0)?), Seq(row.get(1)?), &row.get::<_, String>(2)?, row.get(3)?)?;
    }
    super::results::look(connection)
}

/// Refuses an event that is another.
pub(super) fn event(run: RunNumber, seq: Seq, event: &str, sum: Option<i64>) -> Result<(), StoreError> {
    hold(sum, of_event(run, seq, event), || format!("event {} of run {run}", seq.0))
}

/// The texts that a run executes.
pub(super) fn code(connection: &Connection, row: &Row) -> Result<BTreeMap<String, String>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT path, text FROM pipedef_file WHERE run = ?1")?;
    let files = statement.query_map(params![row.number.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let files = files.collect::<Result<_, _>>()?;
    // They go before their row does.
    if !row.removing {
        hold(row.code_sum, of_code(&row.pipedef, &files), || format!("the pipedef of run {}", row.number))?;
    }
    Ok(files)
}

/// The first 64 bits of a SHA-256 over parts, each with its length. Nobody is kept from lying by it; a disk is.
#[derive(Default)]
pub(super) struct Sum(Sha256);

impl Sum {
    pub(super) fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    pub(super) fn end(self) -> i64 {
        let digest = self.0.finalize();
        i64::from_le_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"))
    }
}
