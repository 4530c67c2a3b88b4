//! The tests of attempts: what was heard of them when each ended, and what comes of many of these: a test's history, and
//! which are flaky. A result, once written, is never written again.

mod packed;

use common::{RunNumber, TaskId, TestCounts, TestHistory, TestOutcome, TestResult, TestRun, TestView, Tests};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::collections::{HashMap, HashSet};

use super::sums::{self, Row};
use super::{Store, StoreError};
use packed::{Packed, pack, unpack};

/// So many tests of an attempt are recorded by name; the others are counted.
const MOST_TESTS: usize = 20_000;

/// A message, and a stack, takes so much of the store at most; and all of an attempt together.
const LONGEST_WORDS: usize = 4 * 1024;
const MOST_WORDS: usize = 1024 * 1024;

/// A name is written anew as used only where it seems to have been unused for so many runs.
const USE_SLACK: u64 = 64;

/// Of the attempts on one ground so many count, the latest.
const GROUND_ATTEMPTS: usize = 50;

/// A test is looked for in so many attempts of its task.
const LOOKED_THROUGH: usize = 200;

/// How often a history tells of a test at most.
const TOLD: usize = 50;

/// Of one attempt, as it goes into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptTests {
    pub(crate) task: TaskId,
    pub(crate) attempt: u32,
    /// Equal for attempts on equal files in equal images; see `sums::of_ground`.
    pub(crate) ground: i64,
    pub(crate) commit: Option<String>,
    pub(crate) tree: Option<String>,
    pub(crate) ended_at_ms: u64,
    /// It ran only some tests of its task.
    pub(crate) only_some: bool,
    /// The worst first, and bounded.
    pub(crate) results: Vec<TestResult>,
    pub(crate) omitted: u64,
}

/// Of one attempt, as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredTests {
    pub(crate) tests: Vec<TestView>,
    pub(crate) omitted: u64,
}

/// A row of `attempt_tests`.
struct Told {
    run: RunNumber,
    task: String,
    attempt: u32,
    ground: i64,
    commit: Option<String>,
    tree: Option<String>,
    ended_at_ms: u64,
    only_some: bool,
    omitted: u64,
    results: Vec<u8>,
    failures_sum: Option<i64>,
}

/// Bounds what comes of a stranger's output, and puts the worst first.
pub(crate) fn bounded(mut tests: Tests) -> Tests {
    tests.results.sort_by_key(|result| result.outcome);
    let more = tests.results.len().saturating_sub(MOST_TESTS);
    tests.results.truncate(MOST_TESTS);
    tests.omitted = tests.omitted.saturating_add(more as u64);
    let mut left = MOST_WORDS;
    for result in &mut tests.results {
        let is_bad = result.outcome.is_bad();
        for words in [&mut result.message, &mut result.stack] {
            let room = left.min(LONGEST_WORDS);
            *words = words.take().filter(|_| is_bad && room > 0).map(|text| cut(text, room));
            left -= words.as_ref().map_or(0, String::len);
        }
    }
    tests
}

fn cut(mut text: String, longest: usize) -> String {
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

impl Store {
    /// How many of the tests of an attempt that is about to be recorded have now had both outcomes on its source.
    pub(crate) async fn flaky_with(&self, run: RunNumber, tests: &AttemptTests) -> Result<u64, StoreError> {
        let (task, ground) = (tests.task.to_string(), tests.ground);
        let results: Vec<_> =
            tests.results.iter().map(|result| (result.name.clone(), result.outcome)).collect();
        self.with(move |connection| {
            let before = told_on(connection, ground, &task, run)?;
            if before.is_empty() {
                return Ok(0);
            }
            let mut now = Vec::new();
            for (name, outcome) in results {
                // Of a name that is new there is nothing from before.
                if let Some(name) = find_name(connection, &task, &name)? {
                    now.push(Packed { name, outcome, took_ms: None });
                }
            }
            let tested: HashSet<i64> = now.iter().map(|result| result.name).collect();
            let mut attempts = vec![now];
            for told in &before {
                attempts.push(told.results()?);
            }
            Ok(flaky(&attempts).intersection(&tested).count() as u64)
        })
        .await
    }

    /// None where no test is recorded of that attempt.
    pub(crate) async fn tests(
        &self,
        run: RunNumber,
        task: &TaskId,
        attempt: u32,
    ) -> Result<Option<StoredTests>, StoreError> {
        let task = task.to_string();
        self.with(move |connection| {
            let transaction = connection.transaction()?;
            let select = "SELECT * FROM attempt_tests WHERE task = ?1 AND run = ?2 AND attempt = ?3";
            let told = transaction
                .prepare_cached(select)?
                .query_row(params![task, run.0, attempt], |row| Ok(Told::read(row)))
                .optional()?;
            let Some(told) = told.transpose()? else { return Ok(None) };
            let told = told.expect(|told| (told.run, told.attempt) == (run, attempt) && told.task == task)?;
            let mut attempts = Vec::new();
            for told in told_on(&transaction, told.ground, &told.task, run)? {
                attempts.push(told.results()?);
            }
            let flaky = flaky(&attempts);
            let mut tests = Vec::new();
            for Packed { name, outcome, took_ms } in told.results()? {
                let flaky = flaky.contains(&name);
                let name = name_of(&transaction, &task, name)?;
                tests.push(TestView {
                    test: TestResult { name, outcome, took_ms, message: None, stack: None },
                    flaky,
                });
            }
            for (place, message, stack) in failures_of(&transaction, &told)? {
                if let Some(test) = tests.get_mut(place) {
                    (test.test.message, test.test.stack) = (message, stack);
                }
            }
            // What cannot be relied on is worse than what only was not run.
            tests.sort_by_key(|test| match test.test.outcome {
                TestOutcome::Failed => 0,
                TestOutcome::Errored => 1,
                TestOutcome::Skipped | TestOutcome::Passed if test.flaky => 2,
                TestOutcome::Skipped => 3,
                TestOutcome::Passed => 4,
            });
            Ok(Some(StoredTests { tests, omitted: told.omitted }))
        })
        .await
    }

    /// The latest attempts that had this test. None where none had.
    pub(crate) async fn test_history(
        &self,
        task: TaskId,
        name: String,
    ) -> Result<Option<TestHistory>, StoreError> {
        self.with(move |connection| {
            let transaction = connection.transaction()?;
            let Some(id) = find_name(&transaction, &task.to_string(), &name)? else { return Ok(None) };
            let mut runs = Vec::new();
            let mut grounds: HashMap<Ground, Vec<Vec<Packed>>> = HashMap::new();
            for told in told_of(&transaction, &task)? {
                if runs.len() == TOLD {
                    break;
                }
                let results: Vec<_> = told.results()?.into_iter().filter(|one| one.name == id).collect();
                // Of several with one name the worst is what somebody has to mend.
                let Some(worst) = results.iter().min_by_key(|result| result.outcome).copied() else {
                    continue;
                };
                // It is in no list any more.
                if Row::of(&transaction, told.run)?.is_none_or(|row| row.removing) {
                    continue;
                }
                // The attempts of one run are on one source, whatever steps they came to.
                for of in [Ground::Sum(told.ground), Ground::Run(told.run)] {
                    grounds.entry(of).or_default().push(vec![worst]);
                }
                runs.push(TestRun {
                    run: told.run,
                    attempt: told.attempt,
                    outcome: worst.outcome,
                    took_ms: worst.took_ms,
                    at_ms: told.ended_at_ms,
                    only_some: told.only_some,
                    commit: told.commit,
                    tree: told.tree,
                });
            }
            if runs.is_empty() {
                return Ok(None);
            }
            let is_flaky = grounds.values().any(|attempts| !flaky(attempts).is_empty());
            Ok(Some(history(task, name, is_flaky, runs)))
        })
        .await
    }
}

/// What makes of two attempts of a task attempts on one source.
#[derive(PartialEq, Eq, Hash)]
enum Ground {
    Sum(i64),
    Run(RunNumber),
}

/// From the latest to the oldest.
fn history(task: TaskId, name: String, flaky: bool, runs: Vec<TestRun>) -> TestHistory {
    let mut counts = TestCounts { flaky: flaky.into(), ..TestCounts::default() };
    runs.iter().for_each(|run| counts.count(run.outcome, 1));
    // One that passes without the others only is broken all the while.
    let passed = |run: &&TestRun| run.outcome == TestOutcome::Passed && !run.only_some;
    let last_passed = runs.iter().find(passed).cloned();
    let latest_failures =
        (runs.iter()).skip_while(|run| !run.outcome.is_bad()).take_while(|run| !passed(run));
    let first_failed = latest_failures.filter(|run| run.outcome.is_bad()).last().cloned();
    let failed_percent = (counts.failed * 100).checked_div(counts.failed + counts.passed);
    TestHistory { task, name, flaky, first_failed, last_passed, counts, failed_percent, runs }
}

/// The names that have passed in one of these attempts, and not in another. Where an attempt has a name several times,
/// each with an outcome of its own, the worst counts: these are different tests, or in different images.
fn flaky(attempts: &[Vec<Packed>]) -> HashSet<i64> {
    let mut seen: HashMap<i64, (bool, bool)> = HashMap::new();
    for results in attempts {
        let mut worst: HashMap<i64, TestOutcome> = HashMap::new();
        for result in results {
            let known = worst.entry(result.name).or_insert(result.outcome);
            *known = (*known).min(result.outcome);
        }
        for (name, outcome) in worst {
            let (passed, failed) = seen.entry(name).or_default();
            *passed |= outcome == TestOutcome::Passed;
            *failed |= outcome.is_bad();
        }
    }
    seen.into_iter().filter(|(_, seen)| *seen == (true, true)).map(|(name, _)| name).collect()
}

/// In the transaction of the attempt's end.
pub(super) fn insert(
    connection: &Connection,
    run: RunNumber,
    tests: &AttemptTests,
) -> Result<(), StoreError> {
    let task = tests.task.to_string();
    let mut results = Vec::with_capacity(tests.results.len());
    let mut failures: Vec<Failure> = Vec::new();
    for (place, result) in tests.results.iter().enumerate() {
        let name = use_name(connection, run, &task, &result.name)?;
        results.push(Packed { name, outcome: result.outcome, took_ms: result.took_ms });
        if result.message.is_some() || result.stack.is_some() {
            failures.push((place, result.message.clone(), result.stack.clone()));
        }
    }
    let failures = if failures.is_empty() { None } else { Some(serde_json::to_string(&failures)?) };
    let told = Told {
        run,
        task,
        attempt: tests.attempt,
        ground: tests.ground,
        commit: tests.commit.clone(),
        tree: tests.tree.clone(),
        ended_at_ms: tests.ended_at_ms,
        only_some: tests.only_some,
        omitted: tests.omitted,
        results: pack(&results),
        failures_sum: failures.as_deref().map(sum_of_failures),
    };
    let insert = "INSERT INTO attempt_tests
         (task, run, attempt, ground, commit_id, tree, ended_at_ms, omitted, results, failures_sum, sum, only_some)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    connection.prepare_cached(insert)?.execute(params![
        told.task,
        run.0,
        told.attempt,
        told.ground,
        told.commit,
        told.tree,
        told.ended_at_ms,
        told.omitted,
        told.results,
        told.failures_sum,
        told.sum(),
        told.only_some
    ])?;
    if let Some(failures) = failures {
        let insert = "INSERT INTO test_failures (task, run, attempt, failures) VALUES (?1, ?2, ?3, ?4)";
        connection.execute(insert, params![told.task, run.0, told.attempt, failures])?;
    }
    Ok(())
}

/// Its place among the results, the message, the stack.
type Failure = (usize, Option<String>, Option<String>);

/// What an ended run takes here.
pub(super) fn size_bytes(connection: &Connection, run: RunNumber) -> Result<u64, StoreError> {
    let ask = "SELECT (SELECT coalesce(sum(octet_length(results)), 0) FROM attempt_tests WHERE run = ?1)
         + (SELECT coalesce(sum(octet_length(failures)), 0) FROM test_failures WHERE run = ?1)";
    Ok(connection.query_row(ask, params![run.0], |row| row.get(0))?)
}

/// With the run, and in its transaction. Names that no run has any more go later, when no run that is left can have them.
pub(super) fn remove(connection: &Connection, run: RunNumber) -> Result<(), StoreError> {
    for table in ["attempt_tests", "test_failures"] {
        connection.execute(&format!("DELETE FROM {table} WHERE run = ?1"), params![run.0])?;
    }
    let oldest: Option<u64> =
        connection
            .query_row("SELECT min(number) FROM run WHERE number <> ?1", params![run.0], |row| row.get(0))?;
    if let Some(unused) = oldest.and_then(|oldest| oldest.checked_sub(USE_SLACK)) {
        connection.execute("DELETE FROM test_name WHERE used_in < ?1", params![unused])?;
    }
    Ok(())
}

/// Refuses what is not what was written, wherever it is.
pub(super) fn look(connection: &Connection) -> Result<(), StoreError> {
    let mut statement = connection.prepare("SELECT * FROM attempt_tests")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let told = Told::read(row)?;
        failures_of(connection, &told)?;
        for result in told.results()? {
            name_of(connection, &told.task, result.name)?;
        }
    }
    Ok(())
}

impl Told {
    fn read(row: &rusqlite::Row<'_>) -> Result<Told, StoreError> {
        let told = Told {
            run: RunNumber(row.get("run")?),
            task: row.get("task")?,
            attempt: row.get("attempt")?,
            ground: row.get("ground")?,
            commit: row.get("commit_id")?,
            tree: row.get("tree")?,
            ended_at_ms: row.get("ended_at_ms")?,
            only_some: row.get("only_some")?,
            omitted: row.get("omitted")?,
            results: row.get("results")?,
            failures_sum: row.get("failures_sum")?,
        };
        sums::hold(Some(row.get("sum")?), told.sum(), || told.words())?;
        Ok(told)
    }

    fn results(&self) -> Result<Vec<Packed>, StoreError> {
        unpack(&self.results)
            .ok_or_else(|| StoreError::Contradicts(format!("{} cannot be read", self.words())))
    }

    fn words(&self) -> String {
        format!("what is said of the tests of {} in run {}", self.task, self.run)
    }

    fn sum(&self) -> i64 {
        let mut sum = sums::Sum::default();
        sum.text(&self.task);
        for number in [self.run.0, self.attempt.into(), self.ground.cast_unsigned(), self.ended_at_ms] {
            sum.number(number);
        }
        for text in [&self.commit, &self.tree] {
            sum.text(text.as_deref().unwrap_or_default());
        }
        sum.number(self.omitted);
        sum.bytes(&self.results);
        // One more than it is, as a null is another thing than a 0.
        sum.number(self.failures_sum.map_or(0, |sum| sum.cast_unsigned().wrapping_add(1)));
        // As what was written before there was this has it.
        if self.only_some {
            sum.number(1);
        }
        sum.end()
    }

    /// One that is read by what an index says of it is another where that is damaged.
    fn expect(self, is_it: impl Fn(&Told) -> bool) -> Result<Told, StoreError> {
        if is_it(&self) {
            return Ok(self);
        }
        Err(StoreError::Contradicts(format!("{} is found as another's", self.words())))
    }
}

fn sum_of_failures(failures: &str) -> i64 {
    let mut sum = sums::Sum::default();
    sum.text(failures);
    sum.end()
}

/// The attempts on the source that an attempt is on: the latest on its ground, and those of its run.
fn told_on(
    connection: &Connection,
    ground: i64,
    task: &str,
    run: RunNumber,
) -> Result<Vec<Told>, StoreError> {
    let mut told = Vec::new();
    let mut statement = connection.prepare_cached(ON_GROUND)?;
    let mut rows = statement.query(params![ground, GROUND_ATTEMPTS])?;
    while let Some(row) = rows.next()? {
        told.push(Told::read(row)?.expect(|told| told.ground == ground)?);
    }
    let mut statement = connection.prepare_cached(OF_RUN)?;
    let mut rows = statement.query(params![task, run.0, GROUND_ATTEMPTS])?;
    while let Some(row) = rows.next()? {
        let of_run = Told::read(row)?.expect(|told| told.run == run && told.task == task)?;
        if of_run.ground != ground {
            told.push(of_run);
        }
    }
    Ok(told)
}

/// The latest attempts of a task.
fn told_of(connection: &Connection, task: &TaskId) -> Result<Vec<Told>, StoreError> {
    let mut statement = connection.prepare_cached(OF_TASK)?;
    let mut rows = statement.query(params![task.to_string(), LOOKED_THROUGH])?;
    let mut told = Vec::new();
    while let Some(row) = rows.next()? {
        told.push(Told::read(row)?.expect(|told| told.task == task.to_string())?);
    }
    Ok(told)
}

pub(super) const ON_GROUND: &str =
    "SELECT * FROM attempt_tests WHERE ground = ?1 ORDER BY rowid DESC LIMIT ?2";

pub(super) const OF_RUN: &str = "SELECT * FROM attempt_tests WHERE task = ?1 AND run = ?2
     ORDER BY attempt DESC LIMIT ?3";

pub(super) const OF_TASK: &str =
    "SELECT * FROM attempt_tests WHERE task = ?1 ORDER BY run DESC, attempt DESC LIMIT ?2";

fn failures_of(connection: &Connection, told: &Told) -> Result<Vec<Failure>, StoreError> {
    let Some(written) = told.failures_sum else { return Ok(Vec::new()) };
    let select = "SELECT failures FROM test_failures WHERE task = ?1 AND run = ?2 AND attempt = ?3";
    let found: Option<String> = connection
        .prepare_cached(select)?
        .query_row(params![told.task, told.run.0, told.attempt], |row| row.get(0))
        .optional()?;
    let failures =
        found.ok_or_else(|| StoreError::Contradicts(format!("a part of {} is not there", told.words())))?;
    sums::hold(Some(written), sum_of_failures(&failures), || told.words())?;
    Ok(serde_json::from_str(&failures)?)
}

fn hash_of_name(task: &str, name: &str) -> i64 {
    let mut hash = sums::Sum::default();
    hash.text(task);
    hash.text(name);
    hash.end()
}

fn sum_of_name(id: i64, task: &str, name: &str) -> i64 {
    let mut sum = sums::Sum::default();
    sum.number(id.cast_unsigned());
    sum.text(task);
    sum.text(name);
    sum.end()
}

/// The name is compared, too: a hash of 64 bits is not all that somebody can make of a name.
pub(super) const FIND_NAME: &str =
    "SELECT id, used_in FROM test_name WHERE hash = ?1 AND task = ?2 AND name = ?3";

fn find_name(connection: &Connection, task: &str, name: &str) -> Result<Option<i64>, StoreError> {
    let mut statement = connection.prepare_cached(FIND_NAME)?;
    Ok(statement.query_row(params![hash_of_name(task, name), task, name], |row| row.get(0)).optional()?)
}

/// The number of a name, which is written down where it is not known yet.
fn use_name(connection: &Connection, run: RunNumber, task: &str, name: &str) -> Result<i64, StoreError> {
    let hash = hash_of_name(task, name);
    let known: Option<(i64, u64)> = connection
        .prepare_cached(FIND_NAME)?
        .query_row(params![hash, task, name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((id, used_in)) = known {
        if used_in + USE_SLACK < run.0 {
            connection
                .prepare_cached("UPDATE test_name SET used_in = ?2 WHERE id = ?1")?
                .execute(params![id, run.0])?;
        }
        return Ok(id);
    }
    let last: i64 = connection
        .prepare_cached("SELECT coalesce(max(id), 0) FROM test_name")?
        .query_row([], |row| row.get(0))?;
    let id = last + 1;
    let insert = "INSERT INTO test_name (id, task, name, used_in, hash, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    connection.prepare_cached(insert)?.execute(params![
        id,
        task,
        name,
        run.0,
        hash,
        sum_of_name(id, task, name)
    ])?;
    Ok(id)
}

fn name_of(connection: &Connection, task: &str, id: i64) -> Result<String, StoreError> {
    let found: Option<(String, String, i64)> = connection
        .prepare_cached("SELECT task, name, sum FROM test_name WHERE id = ?1")?
        .query_row(params![id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let wrong = || format!("the name of a test of {task}");
    let Some((of, name, sum)) = found.filter(|(of, ..)| of == task) else {
        return Err(StoreError::Contradicts(format!("{} is not there", wrong())));
    };
    sums::hold(Some(sum), sum_of_name(id, &of, &name), wrong)?;
    Ok(name)
}
