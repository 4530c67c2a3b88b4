//! Names and numbers that identify things. Each is a type of its own, so that none is taken for another.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

use crate::StepSpec;

/// A text that is not the name it should be: what it was for, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName(pub String);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadName {}

/// A run's number, for people; counted from 1 in each store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct RunNumber(pub u64);

impl fmt::Display for RunNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of an event in its run's log, counted from 1. 0 means "before the first".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Seq(pub u64);

/// A run's random 128-bit key, for machines: 32 hex digits. No two runs share one, on any machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("pattern" = r"^[0-9a-f]{32}$"))
)]
#[serde(try_from = "String", into = "String")]
pub struct RunKey(String);

impl RunKey {
    pub fn from_random(bits: u128) -> RunKey {
        RunKey(format!("{bits:032x}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RunKey {
    type Error = BadName;

    fn try_from(text: String) -> Result<RunKey, BadName> {
        let hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex { Ok(RunKey(text)) } else { Err(BadName(format!("a run key is 32 hex digits, not {text:?}"))) }
    }
}

impl From<RunKey> for String {
    fn from(key: RunKey) -> String {
        key.0
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A step's id, chosen by its caller. It names a container and a folder, so its alphabet is small.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("pattern" = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"))
)]
#[serde(try_from = "String", into = "String")]
pub struct StepId(String);

impl StepId {
    pub const LONGEST: usize = 100;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first `-`: for a worker's queue, the run that this step belongs to.
    pub fn run(&self) -> &str {
        self.0.split('-').next().unwrap_or(&self.0)
    }
}

impl TryFrom<String> for StepId {
    type Error = BadName;

    fn try_from(text: String) -> Result<StepId, BadName> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if first && rest && text.len() <= StepId::LONGEST {
            Ok(StepId(text))
        } else {
            Err(BadName(format!(
                "a step id is 1 to {} of the characters a-z A-Z 0-9 - _ . and begins with a letter or digit",
                StepId::LONGEST
            )))
        }
    }
}

impl From<StepId> for String {
    fn from(id: StepId) -> String {
        id.0
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A task within a pipeline, written `Stage.task`. Both parts are Python identifiers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("pattern" = r"^[^.]+\.[^.]+$"))
)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId {
    pub stage: String,
    pub task: String,
}

impl TaskId {
    pub fn new(stage: &str, task: &str) -> TaskId {
        TaskId { stage: stage.to_owned(), task: task.to_owned() }
    }
}

impl TryFrom<String> for TaskId {
    type Error = BadName;

    fn try_from(text: String) -> Result<TaskId, BadName> {
        match text.split_once('.') {
            Some((stage, task)) if !stage.is_empty() && !task.is_empty() && !task.contains('.') => {
                Ok(TaskId::new(stage, task))
            }
            _ => Err(BadName(format!("a task is written Stage.task, not {text:?}"))),
        }
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> String {
        id.to_string()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.stage, self.task)
    }
}

/// The id of the step that a `run(...)` call stands for, from nothing but what was asked: asked again after a
/// crash, in whatever order and from whatever thread, an equal call is the same step.
///
/// `equal_before` is how many equal calls (same worker, same spec) this attempt has made before. The worker's
/// address takes part: without it, the same command sent to two workers from two threads would swap ids.
pub fn step_id(
    run: &RunKey,
    task: &TaskId,
    attempt: u32,
    worker: &str,
    spec: &StepSpec,
    equal_before: u32,
) -> StepId {
    let asked = (&task.stage, &task.task, attempt, worker, spec.identity(), equal_before);
    let text = serde_json::to_vec(&asked).expect("strings and numbers always serialise");
    let digest = Sha256::digest(&text);
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    StepId(format!("{run}-{hex}"))
}
