//! What a pipedef declares.

use serde::{Deserialize, Serialize};

use crate::TaskId;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pipeline {
    pub stages: Vec<Stage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stage {
    pub name: String,
    /// Runs even where an earlier stage did not pass (but not after a cancel).
    #[serde(default)]
    pub always: bool,
    pub tasks: Vec<Task>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Task {
    /// The method's name without `task_`.
    pub name: String,
    /// The line of the pipedef where the method begins, where Python knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

impl Pipeline {
    /// Every task, in the order in which the pipedef declares them.
    pub fn tasks(&self) -> impl Iterator<Item = TaskId> {
        self.stages
            .iter()
            .flat_map(|stage| stage.tasks.iter().map(|task| TaskId::new(&stage.name, &task.name)))
    }
}
