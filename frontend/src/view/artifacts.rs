//! The files that are kept of an attempt: each to be saved, none to be opened here, for a stranger's test wrote them.

use common::{Artifact, Attempt, AttemptArtifacts, RunNumber, StepArtifacts, TaskId};
use yew::prelude::*;

use super::parts;

/// More are not shown at once, unless somebody asks.
const SHOWN: usize = 8;

pub(crate) fn view(run: RunNumber, task: &TaskId, attempt: &Attempt) -> Html {
    let kept = AttemptArtifacts::of(attempt);
    let files = kept.steps.iter().flat_map(|step| &step.artifacts.files);
    let count = files.filter(|file| !file.is_unasked()).count();
    let many = attempt.steps.len() > 1;
    let step = |step: &StepArtifacts| view_step(run, task, attempt.number, step, many);
    html! {
        <>
            { for kept.notes().into_iter().map(parts::note) }
            if count > 0 {
                <details class="artifacts" open={count <= SHOWN}>
                    <summary>{ parts::count(count, "artifact") }</summary>
                    { for kept.steps.iter().map(step) }
                </details>
            }
        </>
    }
}

fn view_step(run: RunNumber, task: &TaskId, attempt: u32, step: &StepArtifacts, many: bool) -> Html {
    let StepArtifacts { step, artifacts } = step;
    let row = |(number, file): (usize, &Artifact)| {
        let url = format!("/api/runs/{run}/tasks/{task}/artifacts/{step}/{number}?attempt={attempt}");
        let name = file.path.rsplit('/').next().unwrap_or_default().to_owned();
        html! {
            <li>
                <a href={url} download={name}>{ &file.path }</a>
                <span class="size">{ parts::size(file.size_bytes) }</span>
            </li>
        }
    };
    // A file goes by its place among all.
    let files: Vec<_> = artifacts.files.iter().enumerate().filter(|(_, file)| !file.is_unasked()).collect();
    html! {
        <>
            if !files.is_empty() {
                <ul aria-label={if many { format!("artifacts of step {step}") } else { "artifacts".to_owned() }}>
                    if many {
                        <li class="step-of">{ format!("step {step}") }</li>
                    }
                    { for files.into_iter().map(row) }
                </ul>
            }
        </>
    }
}
