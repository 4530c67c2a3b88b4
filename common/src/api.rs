//! The bodies of both HTTP servers, other than the events.

use serde::{Deserialize, Serialize};

use crate::{
    Phase, Reason, RunNumber, RunSource, RunState, SkipReason, SomeTests, StartedBy, StepId, TaskId,
    TaskState, TestCounts, Verdict,
};

/// What went wrong and what to do next; the body of every refusal, and a part of `task_ended`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// What happened to what, in one line.
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// For machines, where a worker cannot take a step now: what the step ends with if it stays so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Where in the user's own files, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The pipedef's own traceback, where it raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
}

impl Problem {
    pub fn new(error: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { error: error.into(), hint: Some(hint.into()), ..Problem::default() }
    }
}

/// The body of `POST /api/runs`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OnlyTasks {
    /// Null for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<TaskId>>,
}

/// The body of `POST /api/runs/{n}/rerun`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rerun {
    /// Null for all that did not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<TaskId>>,
    /// Of these the tests alone that had failed, where their runner can be asked for them; else all of the task.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed_tests: bool,
}

/// The answer to `POST /api/runs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunCreated {
    pub run: RunNumber,
}

/// One row of a list of runs; also what `GET /api/events` tells, whenever a run starts or ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunSummary {
    pub run: RunNumber,
    /// `running` or `ended`.
    pub state: String,
    /// Null while running.
    #[serde(flatten)]
    pub verdict: Option<Verdict>,
    /// The verdict in words, such as `passed (3 of 14 tasks)`.
    pub headline: String,
    pub partial: bool,
    pub tasks: usize,
    pub tasks_passed: usize,
    pub started_at_ms: u64,
    pub ended_at_ms: Option<u64>,
    /// Not known of runs from before this was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<StartedBy>,
}

/// A page of `GET /api/runs`, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Page {
    pub runs: Vec<RunSummary>,
    /// `?before=` for the next page; null on the last.
    pub next: Option<RunNumber>,
}

/// `GET /api/runs/{n}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunView {
    #[serde(flatten)]
    pub summary: RunSummary,
    /// Of a run whose pipedef speaks of `source_at`: which files it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RunSource>,
    pub stages: Vec<StageView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StageView {
    pub stage: String,
    pub tasks: Vec<TaskView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskView {
    pub task: TaskId,
    /// `pending`, `running`, `ended` or `skipped`.
    pub state: String,
    #[serde(flatten)]
    pub verdict: Option<Verdict>,
    pub skipped: Option<SkipReason>,
    pub attempts: Vec<AttemptView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AttemptView {
    pub attempt: u32,
    /// `running` or `ended`.
    pub state: String,
    #[serde(flatten)]
    pub verdict: Option<Verdict>,
    pub started_at_ms: u64,
    pub took_ms: Option<u64>,
    pub problem: Option<Problem>,
    pub steps: usize,
    /// Where it ran only some tests: it does not pass then, however these end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub some_tests: Option<SomeTests>,
    /// How its tests ended, where a test runner spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestCounts>,
}

impl RunSummary {
    pub fn of(run: &RunState) -> RunSummary {
        let verdict = match run.phase {
            Phase::Ended(verdict) => Some(verdict),
            Phase::Running | Phase::Unborn => None,
        };
        let passed = |task: &&crate::TaskRun| task.state == TaskState::Ended(Verdict::Passed);
        RunSummary {
            run: run.number,
            state: if verdict.is_some() { "ended" } else { "running" }.to_owned(),
            verdict,
            headline: crate::headline(run),
            partial: run.is_partial(),
            tasks: run.tasks().count(),
            tasks_passed: run.tasks().filter(passed).count(),
            started_at_ms: run.started_at_ms,
            ended_at_ms: run.ended_at_ms,
            started_by: run.started_by,
        }
    }
}

impl RunView {
    pub fn of(run: &RunState) -> RunView {
        let stages = run.stages.iter().map(|stage| StageView {
            stage: stage.name.clone(),
            tasks: stage.tasks.iter().map(TaskView::of).collect(),
        });
        RunView { summary: RunSummary::of(run), source: run.source.clone(), stages: stages.collect() }
    }
}

impl TaskView {
    fn of(task: &crate::TaskRun) -> TaskView {
        let (state, verdict, skipped) = match task.state {
            TaskState::Pending => ("pending", None, None),
            TaskState::Running => ("running", None, None),
            TaskState::Ended(verdict) => ("ended", Some(verdict), None),
            TaskState::Skipped(why) => ("skipped", None, Some(why)),
        };
        let attempts = task.attempts.iter().map(|attempt| AttemptView {
            attempt: attempt.number,
            state: if attempt.end.is_some() { "ended" } else { "running" }.to_owned(),
            verdict: attempt.end.as_ref().map(|end| end.verdict),
            started_at_ms: attempt.started_at_ms,
            took_ms: attempt.end.as_ref().map(|end| end.took_ms),
            problem: attempt.end.as_ref().and_then(|end| end.problem.clone()),
            steps: attempt.steps.len(),
            some_tests: attempt.some_tests(),
            tests: attempt.end.as_ref().and_then(|end| end.tests),
        });
        TaskView {
            task: task.id.clone(),
            state: state.to_owned(),
            verdict,
            skipped,
            attempts: attempts.collect(),
        }
    }
}

/// `GET /health` of a worker, where JSON is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    pub ok: bool,
    /// Why it is not ok.
    pub why: Option<String>,
    pub version: String,
    pub engine: String,
    /// Why this engine, where the worker had the choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_why: Option<String>,
    pub slots: usize,
    /// What the engine keeps ready between steps, by name.
    pub kept_ready: Vec<String>,
}

/// `GET /api/boss`: whose boss this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BossView {
    /// The name of the project's folder; with that of the pipedef after it, where that is not `pipedef.py`.
    pub project: String,
    pub version: String,
}

/// `GET /api/workers`: how the workers are that the pipedef and workers.toml name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkersView {
    pub workers: Vec<WorkerView>,
    /// Why these are the lines that workers.toml had before: it cannot be read as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<Problem>,
}

/// One worker, as the boss has just found it. What it did not say is null.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkerView {
    /// Its address.
    pub worker: String,
    pub ok: bool,
    /// Why it is not ok.
    pub why: Option<String>,
    pub hint: Option<String>,
    pub version: Option<String>,
    pub engine: Option<String>,
    pub slots: Option<usize>,
}

/// One row of a worker's `GET /steps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StepView {
    pub id: StepId,
    pub image: String,
    pub command: String,
    /// `queued`, `preparing`, `running` or `ended`.
    pub state: String,
    #[serde(flatten)]
    pub verdict: Option<Verdict>,
    pub exit_code: Option<u8>,
    pub took_ms: Option<u64>,
}
