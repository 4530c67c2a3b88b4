//! What happens to a step: born on the worker, written to its spool, and from then on only wrapped.

use serde::{Deserialize, Serialize};

use crate::{Artifacts, Bytes, Reason, Stream, Verdict};

/// In order: `queued`, `preparing` (any number), `started`, `output`, `dropped` and `gap` (any number), then
/// `artifacts` where the step asked for some and its container had started, and exactly one of the last four.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum StepEvent {
    Queued,
    /// What it waits for, such as `pulling python:3.12`, and how far that is, where it is known.
    Preparing {
        what: String,
        done_bytes: Option<u64>,
        total_bytes: Option<u64>,
    },
    Started {
        container: String,
        /// Null for a build, whose image there is at its end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image_digest: Option<String>,
        engine: String,
        /// Why this engine, where the worker had the choice.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        engine_why: Option<String>,
    },
    Output {
        stream: Stream,
        #[serde(flatten)]
        bytes: Bytes,
    },
    /// So many more bytes were left out, because the output is longer than its cap.
    Dropped {
        bytes: u64,
    },
    /// Output was lost; null where nobody can know how much.
    Gap {
        bytes: Option<u64>,
    },
    /// Which files of its container are kept.
    Artifacts(Artifacts),
    Exited {
        /// 0 to 255.
        exit_code: u8,
        /// Out of memory, on evidence only.
        oom: bool,
        took_ms: u64,
        signal: Option<u8>,
        cpu_ms: Option<u64>,
        peak_memory_bytes: Option<u64>,
        /// The image that a build has made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image_digest: Option<String>,
        /// Where a build failed: line and instruction of the Dockerfile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    TimedOut {
        took_ms: u64,
        exit_code: Option<u8>,
    },
    Cancelled {
        reason: Reason,
        took_ms: u64,
        exit_code: Option<u8>,
    },
    Errored {
        reason: Reason,
        message: String,
        hint: Option<String>,
        took_ms: u64,
        exit_code: Option<u8>,
    },
}

/// How a step ended. A view of one of the four last events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepEnd {
    pub verdict: Verdict,
    /// After `exited` the result; otherwise evidence only.
    pub exit_code: Option<u8>,
    pub oom: bool,
    pub took_ms: u64,
    pub message: Option<String>,
    pub hint: Option<String>,
}

impl StepEvent {
    /// The end that this event tells of, if it is one of the last four.
    pub fn end(&self) -> Option<StepEnd> {
        match self {
            StepEvent::Queued
            | StepEvent::Preparing { .. }
            | StepEvent::Started { .. }
            | StepEvent::Output { .. }
            | StepEvent::Dropped { .. }
            | StepEvent::Gap { .. }
            | StepEvent::Artifacts(_) => None,
            StepEvent::Exited { exit_code, oom, took_ms, message, .. } => Some(StepEnd {
                verdict: if *exit_code == 0 { Verdict::Passed } else { Verdict::Not(Reason::CommandFailed) },
                exit_code: Some(*exit_code),
                oom: *oom,
                took_ms: *took_ms,
                message: message.clone(),
                hint: None,
            }),
            StepEvent::TimedOut { took_ms, exit_code } => {
                Some(ended(Reason::StepTimeout, *exit_code, *took_ms, None, None))
            }
            StepEvent::Cancelled { reason, took_ms, exit_code } => {
                Some(ended(*reason, *exit_code, *took_ms, None, None))
            }
            StepEvent::Errored { reason, message, hint, took_ms, exit_code } => {
                Some(ended(*reason, *exit_code, *took_ms, Some(message.clone()), hint.clone()))
            }
        }
    }
}

fn ended(
    reason: Reason,
    exit_code: Option<u8>,
    took_ms: u64,
    message: Option<String>,
    hint: Option<String>,
) -> StepEnd {
    StepEnd { verdict: Verdict::Not(reason), exit_code, oom: false, took_ms, message, hint }
}
