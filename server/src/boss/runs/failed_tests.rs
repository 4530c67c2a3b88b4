//! Re-running the tests alone that had failed: what that comes to for each task, known from what its latest attempt stored;
//! and what such an attempt proves, which is never that the task passes. Whatever is not certain makes it all of the task.

use common::{
    Attempt, OnlyTests, Problem, Reason, RunNumber, RunState, Runner, SomeTests, StepId, StepRun, StepSpec,
    StepState, StepTests, TaskAgain, TaskId, TestOutcome, Verdict, command_for,
};
use std::collections::{BTreeMap, BTreeSet};

use super::Runs;
use crate::boss::attempt_tests;
use crate::boss::output::OutputId;

/// The names stand in one event of the log.
const MOST_TESTS: usize = 2_000;

/// What the steps of an attempt printed of tests, and by all that is known of these, reports too, how many failed.
struct Told {
    heard: BTreeMap<StepId, StepTests>,
    failed: BTreeMap<StepId, u64>,
}

impl Runs {
    /// For those of these tasks that have run before.
    pub(super) async fn failed_tests(&self, run: &RunState, only: &[TaskId]) -> Vec<TaskAgain> {
        let mut all = Vec::new();
        let mut left = MOST_TESTS;
        for task in only {
            let Some(attempt) = run.task(task).and_then(|task| task.attempts.last()) else { continue };
            let place = run.place(task).expect("it is a task of this run");
            let id = OutputId { run: run.number, task: place, attempt: attempt.number };
            let planned = match self.told(id, attempt).await {
                Ok(told) => plan(attempt, &told),
                Err(why) => Err(format!("its output cannot be read: {why}")),
            };
            let count = |steps: &[OnlyTests]| steps.iter().map(|only| only.tests.len()).sum::<usize>();
            let planned = planned.and_then(|steps| match left.checked_sub(count(&steps)) {
                Some(rest) => {
                    left = rest;
                    Ok(steps)
                }
                None => Err(format!("more than {MOST_TESTS} tests failed in this run")),
            });
            let (steps, whole) = match planned {
                Ok(steps) => (steps, None),
                Err(why) => (Vec::new(), Some(why)),
            };
            all.push(TaskAgain { task: task.clone(), steps, whole });
        }
        all
    }

    async fn told(&self, id: OutputId, attempt: &Attempt) -> std::io::Result<Told> {
        let (outputs, reports) = (self.outputs().clone(), attempt_tests::reports(attempt));
        let told = tokio::task::spawn_blocking(move || {
            let all = attempt_tests::of_steps(&outputs, id, &reports)?;
            let failed = all.into_iter().map(|(step, told)| (step, told.tests.counts.failed)).collect();
            // What a runner prints it also takes, which is not true of every report.
            Ok(Told { heard: outputs.heard(id)?, failed })
        });
        told.await.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
    }
}

/// Which tests of which steps, or why it is all of the task.
fn plan(attempt: &Attempt, told: &Told) -> Result<Vec<OnlyTests>, String> {
    let verdict = attempt.end.as_ref().map(|end| end.verdict);
    if verdict == Some(Verdict::Not(Reason::OnlySomeTests)) {
        return Err("what had failed has passed since".to_owned());
    }
    let mut steps = Vec::new();
    for step in &attempt.steps {
        let StepState::Ended(end) = &step.state else { continue };
        match end.verdict {
            Verdict::Passed => {}
            Verdict::Not(Reason::CommandFailed) => {
                steps.push(only_failed(attempt, step, told).map_err(|why| format!("{why}: {}", shown(step)))?)
            }
            Verdict::Not(reason) => {
                return Err(format!(
                    "{reason}, and what else would have failed is not known: {}",
                    shown(step)
                ));
            }
        }
    }
    if steps.is_empty() { Err("none of its commands has failed".to_owned()) } else { Ok(steps) }
}

fn only_failed(attempt: &Attempt, step: &StepRun, told: &Told) -> Result<OnlyTests, String> {
    let template = step.spec.only_tests.as_deref().ok_or("it has no only_tests")?;
    let heard = told.heard.get(&step.id).ok_or("not all of its output is known")?;
    let runner = heard.runner.ok_or("not one test runner alone has named its tests")?;
    let failed = heard.tests.results.iter().filter(|result| result.outcome.is_bad());
    let names: Vec<&str> = failed.map(|result| result.name.as_str()).collect();
    let failed = told.failed.get(&step.id).copied().unwrap_or(0).max(heard.tests.counts.failed);
    if names.is_empty() {
        return Err("no test that failed in it has a name".to_owned());
    }
    if failed > names.len() as u64 + tests_around(runner, &names) || heard.tests.omitted > 0 {
        return Err("not every test that failed in it has a name".to_owned());
    }
    let tests: Vec<String> =
        names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect();
    command_for(template, runner, &tests)?;
    let before = attempt.only_tests(step);
    Ok(OnlyTests {
        step: before.map_or_else(|| step.id.clone(), |before| before.step.clone()),
        runner,
        tests,
        of: before.map_or_else(|| heard.tests.counts.total(), |before| before.of),
    })
}

/// Node counts a test that has tests in it as failed, too, which has no name of its own here.
fn tests_around(runner: Runner, names: &[&str]) -> u64 {
    match runner {
        Runner::Javascript | Runner::Tap => {
            let around = |name: &&str| {
                name.match_indices(" > ").map(|(at, _)| name[..at].to_owned()).collect::<Vec<_>>()
            };
            names.iter().flat_map(around).collect::<BTreeSet<_>>().len() as u64
        }
        Runner::Pytest | Runner::Unittest | Runner::Cargo | Runner::Go => 0,
    }
}

/// A call of `run(...)` whose failed tests alone are wanted.
#[derive(Debug)]
pub(super) struct Instead {
    worker: String,
    spec: StepSpec,
    /// So many equal calls came before it.
    before: u32,
    pub(super) instead_of: StepId,
    pub(super) command: String,
}

impl Instead {
    /// Those of the attempt of `task` that begins, or goes on, with this number.
    pub(super) fn of(run: &RunState, task: &TaskId, number: u32) -> Vec<Instead> {
        let attempts = run.task(task).map(|task| task.attempts.as_slice()).unwrap_or_default();
        let again = attempts
            .iter()
            .find(|attempt| attempt.number == number)
            .and_then(|attempt| attempt.again.as_ref());
        let instead = |only: &OnlyTests| {
            let in_it = |attempt: &&Attempt| attempt.steps.iter().any(|step| step.id == only.step);
            let steps = &attempts.iter().find(in_it)?.steps;
            let place = steps.iter().position(|step| step.id == only.step)?;
            let StepRun { worker, spec, .. } = &steps[place];
            let equal = |step: &&StepRun| step.worker == *worker && step.spec.same_as(spec);
            Some(Instead {
                worker: worker.clone(),
                spec: spec.clone(),
                before: steps[..place].iter().filter(equal).count() as u32,
                instead_of: only.step.clone(),
                // It was made once before there was the re-run.
                command: command_for(spec.only_tests.as_deref()?, only.runner, &only.tests).ok()?,
            })
        };
        again.iter().flat_map(|again| &again.steps).filter_map(instead).collect()
    }

    pub(super) fn is_for(&self, worker: &str, spec: &StepSpec, before: u32) -> bool {
        self.worker == worker && self.spec.same_as(spec) && self.before == before
    }
}

/// Of the steps of an attempt that ran only some tests: which these were.
pub(super) fn some_of(attempt: &Attempt) -> Vec<(StepId, OnlyTests)> {
    attempt
        .steps
        .iter()
        .filter_map(|step| Some((step.id.clone(), attempt.only_tests(step)?.clone())))
        .collect()
}

/// Many runners tell of a test that they were not asked for as skipped. In such an attempt it just was no part.
pub(super) fn forget_others(steps: &mut BTreeMap<StepId, StepTests>, some: &[(StepId, OnlyTests)]) {
    for (step, only) in some {
        let Some(told) = steps.get_mut(step) else { continue };
        let is_other = |result: &common::TestResult| {
            result.outcome == TestOutcome::Skipped && !only.tests.contains(&result.name)
        };
        told.tests.results.retain(|result| !is_other(result));
        let skipped = told.tests.results.iter().filter(|result| result.outcome == TestOutcome::Skipped);
        told.tests.counts.skipped = skipped.count() as u64;
    }
}

/// What is to be told of an attempt in which nothing failed, but which ran only some tests.
fn proves(run: RunNumber, some: &[(StepId, OnlyTests)], steps: &BTreeMap<StepId, StepTests>) -> Problem {
    let Ran { wanted, of, ran, failed } = Ran::of(some, steps);
    let the = if wanted == 1 { "the test".to_owned() } else { format!("the {wanted} tests") };
    let error = if ran == wanted && failed == 0 {
        let they = if wanted == 1 { "it is flaky, or depends" } else { "they are flaky, or depend" };
        format!("{the} that had failed passed this time, on the same files: {they} on the tests around")
    } else {
        let parts = [
            (ran.saturating_sub(failed), "passed this time, on the same files"),
            (failed, "failed again"),
            (wanted - ran, "did not run"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        format!("of {the} that had failed {}", parts.join(", "))
    };
    let others = match of.saturating_sub(wanted) {
        0 => "what else there is did not run again".to_owned(),
        1 => "the other one did not run again".to_owned(),
        others => format!("the other {others} did not run again"),
    };
    Problem::new(error, format!("{others}; {}", whole(run)))
}

/// How an attempt ends that ran only some tests.
pub(super) fn judged(
    run: RunNumber,
    some: &[(StepId, OnlyTests)],
    steps: &BTreeMap<StepId, StepTests>,
    (verdict, mut problem): (Verdict, Option<Problem>),
) -> (Verdict, Option<Problem>) {
    match verdict {
        Verdict::Passed => (Verdict::Not(Reason::OnlySomeTests), Some(proves(run, some, steps))),
        Verdict::Not(reason) => {
            let Ran { wanted, ran, .. } = Ran::of(some, steps);
            // It may well have failed because of that: a test that has another name now is not found.
            if matches!(reason, Reason::CommandFailed | Reason::NoTests) && ran < wanted {
                let few = format!("of the {wanted} tests that had failed {ran} ran; {}", whole(run));
                problem.get_or_insert_default().hint = Some(few);
            }
            (verdict, problem)
        }
    }
}

fn whole(run: RunNumber) -> String {
    format!("bettertest rerun {run} judges the whole task")
}

/// What became of the tests that were wanted.
struct Ran {
    wanted: u64,
    of: u64,
    ran: u64,
    failed: u64,
}

impl Ran {
    fn of(some: &[(StepId, OnlyTests)], steps: &BTreeMap<StepId, StepTests>) -> Ran {
        let SomeTests { tests, of } = SomeTests::of(some.iter().map(|(_, only)| only)).unwrap_or_default();
        let mut all = Ran { wanted: tests, of, ran: 0, failed: 0 };
        for (step, only) in some {
            let told = steps.get(step);
            all.ran += ran(only, told);
            all.failed += told.map_or(0, |told| told.tests.counts.failed);
        }
        all
    }
}

/// How many of these tests ran, as far as their runner says.
fn ran(only: &OnlyTests, told: Option<&StepTests>) -> u64 {
    let wanted = only.tests.len() as u64;
    let Some(StepTests { tests, .. }) = told else { return 0 };
    let counted = tests.counts.passed + tests.counts.failed;
    // Of what passed it says nothing without -v, and is believed.
    if only.runner == Runner::Go && tests.counts.passed == 0 && !told.is_some_and(|told| told.ran_none) {
        return wanted;
    }
    if (tests.results.len() as u64) < tests.counts.total() {
        return counted.min(wanted);
    }
    // A file, a class, a test with tests in it was run where something in it was.
    let is_in = |result: &str, name: &str| {
        result
            .strip_prefix(name)
            .is_some_and(|rest| rest.chars().next().is_none_or(|next| " :/.".contains(next)))
    };
    let ran = |name: &&String| {
        tests.results.iter().any(|result| result.outcome != TestOutcome::Skipped && is_in(&result.name, name))
    };
    only.tests.iter().filter(ran).count() as u64
}

/// A command in a sentence.
fn shown(step: &StepRun) -> String {
    let command = step.spec.command.for_show().split_whitespace().collect::<Vec<_>>().join(" ");
    match command.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command,
    }
}
