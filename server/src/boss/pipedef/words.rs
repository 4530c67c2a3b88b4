//! What is said on a pipedef's descriptor, one JSON object per line. `common/wire/descriptor_*` has a sample of each.

use common::{Outcome, Pipeline, Problem, Reason, StepEnd};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    Discover {
        pipedef: PathBuf,
        /// What a run has stored, for a re-run; without it, what lies on disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<BTreeMap<String, String>>,
        /// To be forked for tasks afterwards.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stay: bool,
    },
    Task {
        pipedef: PathBuf,
        files: BTreeMap<String, String>,
        stage: String,
        task: String,
    },
    /// To one that stays: fork. The descriptor and the output of the fork come along.
    Fork,
    /// To one that stays: these have ended, and nobody needs their numbers any more.
    Reap {
        pids: Vec<i32>,
    },
    /// To one that stays.
    End,
    /// To a fork: a task of the pipedef that it has executed already.
    Forked {
        stage: String,
        task: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum Say {
    Discovered {
        pipeline: Pipeline,
        files: BTreeMap<String, String>,
        python: PathBuf,
        addresses: Vec<String>,
        /// What the pipedef does that would not be the same in a fork. It has not stayed, then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unforkable: Option<String>,
    },
    /// The first word of a fork, which has no order yet. `pid` is what it takes for its number.
    Ready {
        pid: i32,
    },
    Broken {
        problem: Problem,
    },
    /// `spec` is checked by whom it is for: what is wrong with it is the pipedef's mistake, not the protocol's.
    StepAsked {
        call: u64,
        worker: String,
        spec: serde_json::Value,
    },
    /// This text, which the run has not stored, is executed once that is answered.
    Imported {
        call: u64,
        path: String,
        sha256: String,
    },
    Returned,
    Raised {
        call: Option<u64>,
        problem: Problem,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    StepResult {
        call: u64,
        outcome: Outcome,
        reason: Option<Reason>,
        exit_code: Option<u8>,
        oom: bool,
        took_ms: u64,
        message: Option<String>,
        hint: Option<String>,
    },
    Refused {
        call: u64,
        problem: Problem,
    },
    /// To `imported`: it may be executed.
    Recorded {
        call: u64,
    },
}

impl Answer {
    pub(crate) fn of(call: u64, end: &StepEnd) -> Answer {
        Answer::StepResult {
            call,
            outcome: end.verdict.outcome(),
            reason: end.verdict.reason(),
            exit_code: end.exit_code,
            oom: end.oom,
            took_ms: end.took_ms,
            message: end.message.clone(),
            hint: end.hint.clone(),
        }
    }
}
