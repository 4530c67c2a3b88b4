//! How things end. A reason belongs to exactly one outcome, so that the two can never contradict each other.

use serde::{Deserialize, Serialize};
use std::fmt;

/// From harmless to worst: the outcome of a run is the greatest of its tasks'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    Cancelled,
    /// The user's command or pipedef.
    Failed,
    TimedOut,
    /// Our fault or the machine's.
    Errored,
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Cancelled => "cancelled",
            Outcome::Failed => "failed",
            Outcome::TimedOut => "timed_out",
            Outcome::Errored => "errored",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad`, so that a width in a format string is heeded.
        f.pad(self.word())
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal => $outcome:ident,)*) => {
        /// Why something did not pass: the one closed list.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            pub fn outcome(self) -> Outcome {
                match self { $(Reason::$name => Outcome::$outcome,)* }
            }

            pub fn word(self) -> &'static str {
                match self { $(Reason::$name => $word,)* }
            }
        }
    };
}

reasons! {
    /// A command ended with an exit code other than 0.
    CommandFailed = "command_failed" => Failed,
    /// The command ended with exit code 0, and its test runner said that it ran no test.
    NoTests = "no_tests" => Failed,
    /// All that was run again has passed, but that was not all of the task's tests.
    OnlySomeTests = "only_some_tests" => Failed,
    /// The pipedef raised an exception.
    Raised = "raised" => Failed,
    /// The worker refused what the pipedef asked for.
    SpecRefused = "spec_refused" => Failed,
    /// A step ran longer than its `timeout_s`.
    StepTimeout = "step_timeout" => TimedOut,
    /// A task took longer than a task may.
    TaskTimeout = "task_timeout" => TimedOut,
    /// Somebody asked for it.
    CancelAsked = "cancel_asked" => Cancelled,
    /// A step without an id whose last reader left.
    ReaderLeft = "reader_left" => Cancelled,
    /// The task that had started this step ended without waiting for it.
    TaskOver = "task_over" => Cancelled,
    /// The process that ran it was told to stop.
    ShutDown = "shut_down" => Cancelled,
    ImageNotFound = "image_not_found" => Errored,
    /// The name of the image meant another one in the middle of a run.
    ImageChanged = "image_changed" => Errored,
    /// The worker does not have the source that a step is to run on.
    UnknownTree = "unknown_tree" => Errored,
    /// The files under test could not be read, or not be sent as they were when the run began.
    SourceLost = "source_lost" => Errored,
    PullDenied = "pull_denied" => Errored,
    PullTimeout = "pull_timeout" => Errored,
    PullFailed = "pull_failed" => Errored,
    /// Docker, or what else makes the containers, does not answer or not well.
    EngineUnavailable = "engine_unavailable" => Errored,
    /// Docker restarted in mid-step and took the container with it.
    DockerRestart = "docker_restart" => Errored,
    /// The container could not be made or started: a command that does not exist, a user unknown to the image.
    StartFailed = "start_failed" => Errored,
    /// The container vanished before its exit code was known.
    ContainerLost = "container_lost" => Errored,
    /// The container is gone or ended, but nothing says with which exit code.
    ExitUnknown = "exit_unknown" => Errored,
    KillFailed = "kill_failed" => Errored,
    QueueTimeout = "queue_timeout" => Errored,
    SpoolFull = "spool_full" => Errored,
    /// A disk of ours takes no more, or nothing at all; the message says which.
    DiskFull = "disk_full" => Errored,
    /// No contact with the worker for too long, in the middle of a step.
    WorkerLost = "worker_lost" => Errored,
    /// No contact with the worker at all.
    WorkerUnreachable = "worker_unreachable" => Errored,
    /// The worker does not take our token.
    TokenRefused = "token_refused" => Errored,
    /// The worker answered with something that is not its protocol.
    WorkerBroken = "worker_broken" => Errored,
    /// The step's record is no longer there, and its id may not be used again.
    StepForgotten = "step_forgotten" => Errored,
    RanNothing = "ran_nothing" => Errored,
    /// The pipedef's Python process ended without saying how the task ended.
    RunnerDied = "runner_died" => Errored,
    ReplayDiverged = "replay_diverged" => Errored,
    PipedefChanged = "pipedef_changed" => Errored,
    /// The output could not be stored.
    OutputLost = "output_lost" => Errored,
    BossRestart = "boss_restart" => Errored,
    Internal = "internal" => Errored,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// How an attempt, a step or a run ended. In JSON: `"outcome"` and `"reason"` (null when passed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "Written", into = "Written")]
pub enum Verdict {
    Passed,
    Not(Reason),
}

impl Verdict {
    pub fn outcome(self) -> Outcome {
        match self {
            Verdict::Passed => Outcome::Passed,
            Verdict::Not(reason) => reason.outcome(),
        }
    }

    pub fn reason(self) -> Option<Reason> {
        match self {
            Verdict::Passed => None,
            Verdict::Not(reason) => Some(reason),
        }
    }

    pub fn passed(self) -> bool {
        self == Verdict::Passed
    }

    /// The worse of two; of equally bad ones the first.
    pub fn worse(self, other: Verdict) -> Verdict {
        if other.outcome() > self.outcome() { other } else { self }
    }
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct Written {
    outcome: Outcome,
    reason: Option<Reason>,
}

impl From<Verdict> for Written {
    fn from(verdict: Verdict) -> Written {
        Written { outcome: verdict.outcome(), reason: verdict.reason() }
    }
}

impl TryFrom<Written> for Verdict {
    type Error = String;

    fn try_from(written: Written) -> Result<Verdict, String> {
        let verdict = written.reason.map_or(Verdict::Passed, Verdict::Not);
        if verdict.outcome() == written.outcome {
            Ok(verdict)
        } else {
            Err(format!("outcome {} does not go with reason {:?}", written.outcome, written.reason))
        }
    }
}

/// Why a task never started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// A stage before it did not pass.
    EarlierStage,
    /// The run was cancelled first.
    Cancelled,
    /// The run is of a part of the pipeline, and this task is not in it.
    NotSelected,
    /// The process that carried the run ended before it came to this task.
    Abandoned,
}

impl SkipReason {
    pub fn word(self) -> &'static str {
        match self {
            SkipReason::EarlierStage => "earlier_stage",
            SkipReason::Cancelled => "cancelled",
            SkipReason::NotSelected => "not_selected",
            SkipReason::Abandoned => "abandoned",
        }
    }
}
