//! The same words for the same thing in the terminal and on the page.

use crate::{Phase, RunState, TaskRun, TaskState, Verdict};

/// A duration as people say it: `0.4s`, `12.3s`, `2m 05s`, `1h 02m`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..=59 => format!("{}.{}s", s, ms % 1000 / 100),
        60..=3599 => format!("{}m {:02}s", s / 60, s % 60),
        _ => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
    }
}

/// How a task stands: `running`, `passed on attempt 2`, `skipped: earlier_stage`, `failed: command_failed`.
pub fn task_words(task: &TaskRun) -> String {
    match task.state {
        TaskState::Pending | TaskState::Running => task.state.word().to_owned(),
        TaskState::Skipped(why) => format!("skipped: {}", why.word()),
        TaskState::Ended(Verdict::Passed) if task.attempts.len() > 1 => {
            format!("passed on attempt {}", task.attempts.len())
        }
        TaskState::Ended(Verdict::Passed) => "passed".to_owned(),
        TaskState::Ended(Verdict::Not(reason)) => format!("{}: {reason}", reason.outcome()),
    }
}

/// How a run stands, never plainer than the truth: a partial run and a later attempt say so.
pub fn headline(run: &RunState) -> String {
    let mut words = match run.phase {
        Phase::Unborn => "not started".to_owned(),
        Phase::Running if run.cancel_asked => "cancelling".to_owned(),
        Phase::Running => "running".to_owned(),
        Phase::Ended(Verdict::Not(reason)) => format!("{}: {reason}", reason.outcome()),
        Phase::Ended(Verdict::Passed) => {
            match run.tasks().map(|task| task.attempts.len()).max().unwrap_or(0) {
                0 | 1 => "passed".to_owned(),
                attempts => format!("passed on attempt {attempts}"),
            }
        }
    };
    if let Some(only) = &run.only {
        words.push_str(&format!(" ({} of {} tasks)", only.len(), run.tasks().count()));
    }
    words
}
