//! The source of a run: a snapshot that is taken when the run begins, if its pipedef speaks of `source_at` or builds an
//! image, and that all of its steps see, also those of a re-run and those after a restart.

use common::{Problem, Reason, RunKey, RunNumber, RunSource, RunState, SourceAt, StepSpec, TreeId};
use std::sync::Arc;

use super::{All, Run};
use crate::boss::output::Outputs;
use crate::boss::pipedef::Code;
use crate::boss::worker_client::Trouble;
use crate::boss::workers::WorkerAddress;
use crate::joined::joined;
use crate::source::{Source, SourceError, snapshot};

/// What an author writes to have the source. Where no text of a run has one of these, nothing is looked at.
const WORDS: [&str; 3] = [AT, "build(", "build as "];

/// An argument of `run(...)`, and no part of a spec.
const AT: &str = "source_at";

/// What a run has of its source.
#[derive(Debug)]
pub(super) enum Taken {
    /// Its pipedef does not speak of it.
    NotWanted,
    Here(Arc<Source>),
    /// With the reason that a step ends with which asks for it.
    Not(Problem),
}

impl Taken {
    pub(super) fn record(&self) -> Option<RunSource> {
        match self {
            Taken::Here(source) => Some(source.record.clone()),
            Taken::NotWanted | Taken::Not(_) => None,
        }
    }

    fn not(error: &SourceError) -> Taken {
        Taken::Not(Problem { reason: Some(error.reason()), ..Problem::new(error.to_string(), error.hint()) })
    }

    /// From here on it lies with the output of its run, and goes when that goes.
    pub(super) fn moved_to_run(self, outputs: &Outputs, run: RunNumber) -> Taken {
        let Taken::Here(source) = self else { return self };
        match outputs.adopt(source.folder(), run) {
            Ok(folder) => Taken::Here(Arc::new(source.moved_to(folder))),
            Err(error) => Taken::not(&SourceError::NotStored { path: outputs.folder(run), error }),
        }
    }

    /// What a step gets that is to see the source in this folder of its container.
    fn at(&self, at: serde_json::Value) -> Result<SourceAt, Problem> {
        let tree = self.tree()?;
        match at {
            serde_json::Value::String(at) => Ok(SourceAt { tree: tree.clone(), at }),
            other => Err(Problem::new(
                format!("run(...) was called with source_at={other}"),
                "name a folder of the container, such as \"/app\"",
            )),
        }
    }

    fn tree(&self) -> Result<&TreeId, Problem> {
        match self {
            Taken::Here(source) => Ok(&source.tree),
            Taken::Not(problem) => Err(problem.clone()),
            Taken::NotWanted => Err(lost(
                "no snapshot was taken when the run began: no text that was read then has source_at or build(...)"
                    .into(),
                "write it in the pipedef, or in a module that it imports outside of its tasks",
            )),
        }
    }
}

fn lost(error: String, hint: &str) -> Problem {
    Problem { reason: Some(Reason::SourceLost), ..Problem::new(error, hint) }
}

impl All {
    /// Takes the snapshot, if it is wanted. It lies in a draft until there is a run.
    pub(super) async fn take_source(&self, key: &RunKey, code: &Code) -> Taken {
        if !speaks_of_source(code) {
            return Taken::NotWanted;
        }
        let (pipedef, draft) = (code.pipedef.clone(), self.outputs.draft(key));
        let memory = self.outputs.memory();
        let taken = tokio::task::spawn_blocking(move || {
            let taken = snapshot(&pipedef, &draft, &memory);
            if taken.is_err() {
                // What there is of it is of no use.
                drop(std::fs::remove_dir_all(&draft));
            }
            taken
        });
        match joined(taken.await).await {
            Ok(source) => Taken::Here(Arc::new(source)),
            Err(error) => Taken::not(&error),
        }
    }

    /// The source of a run that goes on, or runs again.
    pub(super) fn stored_source(&self, run: RunNumber, code: &Code) -> Taken {
        let folder = self.outputs.folder(run);
        match Source::open(&folder) {
            Ok(Some(source)) => Taken::Here(Arc::new(source)),
            Ok(None) if !speaks_of_source(code) => Taken::NotWanted,
            Ok(None) => {
                let error = "no snapshot of the source was stored when this run began".to_owned();
                Taken::Not(lost(error, "start a new run"))
            }
            Err(error) => {
                let path = folder.display();
                let error = format!("the snapshot of the source in {path} cannot be read: {error}");
                Taken::Not(lost(error, "start a new run"))
            }
        }
    }
}

impl Run {
    /// Returns once this worker has the source. While it is sent there for one step, the others wait for it; where the
    /// worker has lost it, it is to be brought `again`.
    pub(super) async fn bring_source(&self, worker: &WorkerAddress, again: bool) -> Result<(), Trouble> {
        let source = match &self.source {
            Taken::Here(source) => source,
            Taken::NotWanted | Taken::Not(_) => {
                return Err(Trouble::Fault {
                    reason: Reason::SourceLost,
                    message: "the snapshot of the source that this step was asked for with is gone"
                        .to_owned(),
                    hint: Some("start a new run".to_owned()),
                });
            }
        };
        let place = {
            let mut brought = self.brought.lock().expect("no panic under this lock");
            brought.entry(worker.base.clone()).or_default().clone()
        };
        let mut is_there = place.lock().await;
        if again || !*is_there {
            self.all.client.bring(worker, source).await?;
            *is_there = true;
        }
        Ok(())
    }
}

fn speaks_of_source(code: &Code) -> bool {
    code.files.values().any(|text| WORDS.iter().any(|word| text.contains(word)))
}

/// What a call of `run(...)` asks for, or what is wrong with it: the pipedef's mistake, unless it has another reason.
pub(super) fn read_spec(mut spec: serde_json::Value, source: &Taken) -> Result<StepSpec, Problem> {
    let hint = "change that call of run(...) or build(...) in the pipedef";
    let at = spec.as_object_mut().and_then(|spec| spec.remove(AT));
    // Which tree it is, only the run says.
    if let Some(build) = spec.pointer_mut("/command/build").and_then(serde_json::Value::as_object_mut) {
        build.insert("tree".to_owned(), source.tree()?.as_str().into());
    }
    let mut spec: StepSpec = serde_json::from_value(spec)
        .map_err(|error| Problem::new(format!("run(...) was called with {error}"), hint))?;
    spec.source = at.map(|at| source.at(at).map(Box::new)).transpose()?;
    spec.check().map_err(|problem| Problem::new(problem.to_string(), hint))?;
    Ok(spec.identity())
}

/// Within a run a name is built of one thing only: else it would depend on which came last what later steps run on.
pub(super) fn another_build(state: &RunState, worker: &str, spec: &StepSpec) -> Option<Problem> {
    let build = spec.build()?;
    let steps = state.tasks().flat_map(|task| &task.attempts).flat_map(|attempt| &attempt.steps);
    let same = steps.filter(|step| step.worker == worker && step.spec.image == spec.image);
    let other = same.filter_map(|step| step.spec.build()).find(|other| *other != build)?;
    let otherwise = if build.rebuild_on == other.rebuild_on { "" } else { ", with another rebuild_on" };
    let error = format!(
        "this run builds {:?} of {} in {:?} already, and not of {} in {:?}{otherwise}",
        spec.image, other.dockerfile, other.context, build.dockerfile, build.context
    );
    Some(Problem::new(error, "give each image that build(...) makes a name of its own"))
}
