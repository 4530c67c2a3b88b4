//! The same words for the same thing in the terminal and on the page.

use crate::{Phase, RunSource, RunState, TaskRun, TaskState, TestCounts, Verdict};

/// A duration as people say it: `0.4s`, `12.3s`, `2m 05s`, `1h 02m`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..=59 => format!("{}.{}s", s, ms % 1000 / 100),
        60..=3599 => format!("{}m {:02}s", s / 60, s % 60),
        _ => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
    }
}

/// How a task stands: `running`, `passed on attempt 2`, `passed, 1 flaky test`, `skipped: earlier_stage`, `failed: command_failed`.
pub fn task_words(task: &TaskRun) -> String {
    let attempt = match task.attempts.len() {
        0 | 1 => String::new(),
        attempts => format!(" on attempt {attempts}"),
    };
    match task.state {
        TaskState::Pending => "pending".to_owned(),
        TaskState::Running => format!("running{attempt}"),
        TaskState::Skipped(why) => format!("skipped: {}", why.word()),
        TaskState::Ended(Verdict::Passed) => {
            format!("passed{attempt}{}", flaky_words(task.tests().unwrap_or_default()))
        }
        TaskState::Ended(Verdict::Not(reason)) => format!("{}{attempt}: {reason}", reason.outcome()),
    }
}

/// How a run stands, never plainer than the truth: a partial run, a later attempt and a flaky test say so.
pub fn headline(run: &RunState) -> String {
    let mut words = match run.phase {
        Phase::Unborn => "not started".to_owned(),
        Phase::Running if run.cancel_asked => "cancelling".to_owned(),
        Phase::Running => "running".to_owned(),
        Phase::Ended(Verdict::Not(reason)) => format!("{}: {reason}", reason.outcome()),
        Phase::Ended(Verdict::Passed) => match run.latest_attempt() {
            0 | 1 if run.reruns == 0 => "passed".to_owned(),
            // What a cancel or a crash had kept from starting has passed at its first attempt.
            0 | 1 => "passed after a re-run".to_owned(),
            attempts => format!("passed on attempt {attempts}"),
        },
    };
    if run.phase == Phase::Ended(Verdict::Passed) {
        words.push_str(&flaky_words(run_tests(run).unwrap_or_default()));
    }
    if let Some(only) = &run.only {
        words.push_str(&format!(" ({} of {} tasks)", only.len(), run.tasks().count()));
    }
    words
}

/// The tests of the latest attempts. None where no test runner spoke in any.
pub fn run_tests(run: &RunState) -> Option<TestCounts> {
    run.tasks().filter_map(TaskRun::tests).reduce(|mut all, more| {
        all.add(more);
        all
    })
}

/// Behind what has passed: some of that means less than it says.
fn flaky_words(tests: TestCounts) -> String {
    match tests.flaky {
        0 => String::new(),
        1 => ", 1 flaky test".to_owned(),
        flaky => format!(", {flaky} flaky tests"),
    }
}

/// Which files a run is of: `main at 1a2b3c4d5e, with changes`, or without git `5 files`.
pub fn source_words(source: &RunSource) -> String {
    let Some(commit) = &source.commit else {
        let s = if source.files == 1 { "" } else { "s" };
        return format!("{} file{s}, no commit", source.files);
    };
    let short = commit.get(..10).unwrap_or(commit);
    let branch = source.branch.as_ref().map(|branch| format!("{branch} at ")).unwrap_or_default();
    let changes = if source.is_dirty { ", with changes" } else { "" };
    format!("{branch}{short}{changes}")
}

/// How many of its tasks have passed, but not at their first attempt.
pub fn passed_again(run: &RunState) -> usize {
    let again = |task: &&TaskRun| task.state == TaskState::Ended(Verdict::Passed) && task.attempts.len() > 1;
    run.tasks().filter(again).count()
}
