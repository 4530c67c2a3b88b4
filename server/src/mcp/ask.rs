//! The tools: their names, what an agent is told of them, and what each is asked with. Whatever is not known is refused.

use rmcp::model::{JsonObject, Tool as Described, ToolAnnotations};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::SetupError;

#[derive(Debug, Clone, Copy)]
pub(super) enum Tool {
    Run,
    RunFailed,
    ShowFailure,
    Output,
    ListRuns,
    TestHistory,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// A folder below the project that has a pipedef of its own, or a pipedef; leave out for the project's
    pub(super) path: Option<PathBuf>,
    /// Only the tasks of these stages
    #[serde(default)]
    pub(super) stages: Vec<String>,
    /// Only these tasks, as `Stage.task` or, where only one has that name, as `task`
    #[serde(default)]
    pub(super) tasks: Vec<String>,
    /// Stop at the first task that does not pass
    #[serde(default)]
    pub(super) fail_fast: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunFailed {
    /// As for `run`
    pub(super) path: Option<PathBuf>,
    /// Stop at the first task that does not pass
    #[serde(default)]
    pub(super) fail_fast: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowFailure {
    /// As for `run`
    pub(super) path: Option<PathBuf>,
    /// The number of the run; leave out for the last one
    #[schemars(range(min = 1))]
    pub(super) run: Option<u32>,
    /// Only this task, which has room for more then
    pub(super) task: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    /// As for `run`
    pub(super) path: Option<PathBuf>,
    /// The number of the run; leave out for the last one
    #[schemars(range(min = 1))]
    pub(super) run: Option<u32>,
    /// The task; may be left out where only one has failed
    pub(super) task: Option<String>,
    /// Which attempt of it; leave out for the latest
    #[schemars(range(min = 1))]
    pub(super) attempt: Option<u32>,
    /// The last so many lines (with `grep`: of those that match); 50 where nothing else is asked for
    #[schemars(range(min = 1, max = 1000))]
    pub(super) tail: Option<u32>,
    /// Only lines that match this regular expression
    pub(super) grep: Option<String>,
    /// From this line on, counted from 1
    #[schemars(range(min = 1))]
    pub(super) from: Option<u64>,
    /// With `from` or `grep`, so many lines at most; 200 where it is left out
    #[schemars(range(min = 1, max = 1000))]
    pub(super) lines: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListRuns {
    /// As for `run`
    pub(super) path: Option<PathBuf>,
    /// So many, the newest first; 10 where it is left out
    #[schemars(range(min = 1, max = 50))]
    pub(super) limit: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestHistory {
    /// As for `run`
    pub(super) path: Option<PathBuf>,
    /// The name of the test, or a part of it that no other has
    pub(super) test: String,
    /// The task that runs it; may be left out where only one has such a test
    pub(super) task: Option<String>,
    /// As it was in that run; leave out for the last one
    #[schemars(range(min = 1))]
    pub(super) run: Option<u32>,
}

impl Tool {
    pub(super) const ALL: [Tool; 6] =
        [Tool::Run, Tool::RunFailed, Tool::ShowFailure, Tool::Output, Tool::ListRuns, Tool::TestHistory];

    pub(super) fn named(name: &str) -> Option<Tool> {
        Tool::ALL.into_iter().find(|tool| tool.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Tool::Run => "run",
            Tool::RunFailed => "run_failed",
            Tool::ShowFailure => "show_failure",
            Tool::Output => "output",
            Tool::ListRuns => "list_runs",
            Tool::TestHistory => "test_history",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Tool::Run => {
                "Run the project's tests in containers, on the files as they are now, and wait for the verdict. Answers \
                 with it and, where tests failed, with what failed and why (6 KB at most)."
            }
            Tool::RunFailed => {
                "Run again only what did not pass when it last ran, on the files as they are now. When it has passed, run \
                 all of it once."
            }
            Tool::ShowFailure => {
                "What failed in a run, and why: tests by name, messages, the first line that is new since it last passed, \
                 the last lines (6 KB at most)."
            }
            Tool::Output => {
                "A part of what a task printed, with line numbers: the last lines, those that match, or those from a line \
                 on (16 KB at most)."
            }
            Tool::ListRuns => "The last runs of this project and how they ended, the newest first.",
            Tool::TestHistory => {
                "One test by name: how it failed with its whole stack, and how it came out in earlier runs: since when it \
                 fails, when it last passed, whether it is flaky."
            }
        }
    }

    pub(super) fn described(self) -> Described {
        let (schema, looks) = match self {
            Tool::Run => (schema::<Run>(), false),
            Tool::RunFailed => (schema::<RunFailed>(), false),
            Tool::ShowFailure => (schema::<ShowFailure>(), true),
            Tool::Output => (schema::<Output>(), true),
            Tool::ListRuns => (schema::<ListRuns>(), true),
            Tool::TestHistory => (schema::<TestHistory>(), true),
        };
        // A run is one more run in the history: nothing that was there is gone.
        let effects = ToolAnnotations::new().read_only(looks).destructive(false);
        Described::new(self.name(), self.description(), schema).with_annotations(effects)
    }
}

/// Without what says nothing to an agent.
fn schema<T: JsonSchema>() -> Arc<JsonObject> {
    let mut schema = schemars::SchemaGenerator::default().into_root_schema_for::<T>();
    let object = schema.ensure_object();
    for word in ["$schema", "title"] {
        object.remove(word);
    }
    Arc::new(std::mem::take(object))
}

pub(super) fn arguments<T: DeserializeOwned>(said: JsonObject) -> Result<T, SetupError> {
    serde_json::from_value(serde_json::Value::Object(said)).map_err(|error| {
        SetupError::new(
            format!("the arguments are not what this tool takes: {error}"),
            "tools/list has the schema of each tool; leave out what you do not need",
        )
    })
}

/// A number within what the schema says of it.
pub(super) fn within(name: &str, asked: Option<u32>, most: u32, usual: u32) -> Result<usize, SetupError> {
    match asked.unwrap_or(usual) {
        number if (1..=most).contains(&number) => Ok(number as usize),
        number => Err(SetupError::new(format!("{name} is {number}"), format!("it is between 1 and {most}"))),
    }
}
