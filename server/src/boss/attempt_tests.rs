//! The tests of an attempt: what its steps told of them when it ended, which is stored beside its end, and read from there
//! ever after. Of an attempt that still runs, and of one from before tests were stored, it is read from the output when
//! somebody asks.

use common::{
    Artifact, Artifacts, Attempt, AttemptArtifacts, RunNumber, RunState, Runner, StepId, StepRun, StepTests,
    TaskId, TestCounts, TestHistory, TestView, Tests, TestsView,
};
use std::collections::BTreeMap;
use std::io;

use super::junit;
use super::output::{OutputId, Outputs};
use super::store::{AttemptTests, StoreError, StoredTests, bounded, of_ground};
use super::{Runs, RunsError};
use crate::joined::joined;

/// The reports that steps of an attempt left.
pub(super) type Reports = Vec<(StepId, Vec<Artifact>)>;

/// So many reports that cannot be read are told of one step.
const MOST_TOLD: usize = 8;

/// So much of one step's reports is read.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

pub(super) fn reports(attempt: &Attempt) -> Reports {
    let of_step = |step: &StepRun| {
        let files = step.artifacts.as_ref()?.files.iter().filter(|file| file.junit).cloned();
        Some((step.id.clone(), files.collect()))
    };
    attempt.steps.iter().filter_map(of_step).filter(|(_, files): &(_, Vec<_>)| !files.is_empty()).collect()
}

/// By step: the one place where all that tells of a step's tests comes together. Waits for the disk.
pub(super) fn of_steps(
    outputs: &Outputs,
    id: OutputId,
    reports: &Reports,
) -> io::Result<BTreeMap<StepId, StepTests>> {
    let mut steps = outputs.heard(id)?;
    for (step, files) in reports {
        let Some(listed) = listed(outputs, id, files) else { continue };
        // Such a step is one pytest and nothing else. What else its output counts, such as a test that passed and broke in
        // its teardown as two, is none of its tests.
        let is_whole = files.iter().all(Artifact::is_unasked);
        let of_step = steps.entry(step.clone()).or_default();
        let heard = std::mem::take(&mut of_step.tests);
        // A runner that wrote a report of no test says so as much as one that prints it.
        of_step.ran_none |= listed.counts.total() == 0 && heard.counts.total() == 0;
        if is_whole {
            (of_step.runner, of_step.tests) = (Some(Runner::Pytest), listed);
        } else {
            of_step.tests = listed.rather_than(heard);
        }
    }
    Ok(steps)
}

/// None where none of them can be read: then what was heard is all there is. Why not is told with the files of the step.
fn listed(outputs: &Outputs, id: OutputId, files: &[Artifact]) -> Option<Tests> {
    read(outputs, id, files).filter_map(|(_, read)| read.ok()).reduce(Tests::and)
}

fn read<'a>(
    outputs: &'a Outputs,
    id: OutputId,
    files: &'a [Artifact],
) -> impl Iterator<Item = (&'a Artifact, Result<Tests, String>)> {
    let mut left = MOST_BYTES;
    files.iter().map(move |file| {
        let read = match left.checked_sub(file.size_bytes) {
            Some(rest) => {
                left = rest;
                std::fs::read(outputs.artifact(id, file))
                    .map_err(|error| error.to_string())
                    .and_then(|xml| junit::read(&xml, file.is_unasked()))
            }
            None => Err(format!("beyond {} MiB of reports for one step", MOST_BYTES >> 20)),
        };
        (file, read)
    })
}

/// What a step left, once it lies here, with why a report in it tells nothing of its tests: an author who asked for it is
/// to hear of that. Reads what is read once more when the attempt has ended; then nobody waits for the step any more.
pub(super) async fn with_unread(outputs: Outputs, id: OutputId, mut kept: Artifacts) -> Artifacts {
    let reports: Vec<Artifact> = kept.files.iter().filter(|file| file.junit).cloned().collect();
    if reports.is_empty() {
        return kept;
    }
    let looked = tokio::task::spawn_blocking(move || {
        let unread = |(file, read): (&Artifact, Result<Tests, String>)| {
            let why: String = read.err()?.chars().filter(|c| !c.is_control()).take(200).collect();
            Some(format!("the report {} is not read: {why}", file.path))
        };
        read(&outputs, id, &reports).filter_map(unread).take(MOST_TOLD).collect::<Vec<_>>()
    });
    kept.add_problems(joined(looked.await).await);
    kept
}

/// Of all its steps.
pub(super) fn of_attempt(steps: BTreeMap<StepId, StepTests>) -> Tests {
    bounded(steps.into_values().map(|step| step.tests).fold(Tests::default(), Tests::and))
}

/// What is to be stored of an attempt of a run that stands so, with how they count. None where nothing told of a test.
pub(super) fn to_store(
    state: &RunState,
    task: &TaskId,
    attempt: u32,
    heard: BTreeMap<StepId, StepTests>,
    ended_at_ms: u64,
) -> Option<(TestCounts, AttemptTests)> {
    let of = state.task(task)?.attempts.iter().find(|known| known.number == attempt)?;
    // Of the steps with tests only: whether a later one began is up to how these came out.
    let told = |step: &&StepRun| heard.get(&step.id).is_some_and(|told| told.tests != Tests::default());
    let images = of.steps.iter().filter(told).filter_map(|step| step.image_digest.as_deref());
    let source = state.source.as_ref();
    let tree = source.map(|source| source.tree.as_str());
    let ground = of_ground(task, tree, state.number, images);
    let tests = of_attempt(heard);
    (tests != Tests::default()).then(|| {
        let stored = AttemptTests {
            task: task.clone(),
            attempt,
            ground,
            commit: source.and_then(|source| source.commit.clone()),
            tree: tree.map(str::to_owned),
            ended_at_ms,
            only_some: of.some_tests().is_some(),
            results: tests.results,
            omitted: tests.omitted,
        };
        (tests.counts, stored)
    })
}

impl Runs {
    /// Of an attempt that has begun, as the caller knows.
    pub(crate) async fn tests(
        &self,
        run: RunNumber,
        task: &TaskId,
        attempt: u32,
    ) -> Result<TestsView, RunsError> {
        self.tests_in(&self.state(run).await?, task, attempt).await
    }

    /// The same, by one who has the run's state.
    pub(crate) async fn tests_in(
        &self,
        state: &RunState,
        task: &TaskId,
        attempt: u32,
    ) -> Result<TestsView, RunsError> {
        let run = state.number;
        let found = state.task(task).and_then(|task| task.attempts.get(attempt as usize - 1));
        let notes = found.map(|attempt| AttemptArtifacts::of(attempt).notes()).unwrap_or_default();
        let told = found.and_then(|attempt| attempt.end.as_ref()).and_then(|end| end.tests);
        let (counts, StoredTests { tests, omitted }) = match told {
            Some(counts) => match self.store().tests(run, task, attempt).await? {
                Some(stored) => (counts, stored),
                None => {
                    let what = format!("the tests of {task} in run {run} are not there, and were recorded");
                    return Err(StoreError::Contradicts(what).into());
                }
            },
            None => {
                let place = state.place(task).expect("it is a task of this run");
                let reports = found.map(reports).unwrap_or_default();
                let tests = self.heard_now(OutputId { run, task: place, attempt }, reports).await;
                let told = |test| TestView { test, flaky: false };
                let stored = StoredTests {
                    tests: tests.results.into_iter().map(told).collect(),
                    omitted: tests.omitted,
                };
                (tests.counts, stored)
            }
        };
        Ok(TestsView { run, task: task.clone(), attempt, counts, tests, omitted, notes })
    }

    async fn heard_now(&self, id: OutputId, reports: Reports) -> Tests {
        let outputs = self.outputs().clone();
        let heard = tokio::task::spawn_blocking(move || of_steps(&outputs, id, &reports)).await;
        match joined(heard).await {
            Ok(steps) => of_attempt(steps),
            Err(error) => {
                let path = self.outputs().path(id);
                tracing::warn!("the tests in {} are not told: {error}", path.display());
                Tests::default()
            }
        }
    }

    /// None where no attempt of that task had such a test.
    pub(crate) async fn test_history(
        &self,
        task: &TaskId,
        name: &str,
    ) -> Result<Option<TestHistory>, RunsError> {
        Ok(self.store().test_history(task.clone(), name.to_owned()).await?)
    }
}
