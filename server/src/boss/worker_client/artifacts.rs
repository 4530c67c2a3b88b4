//! Fetches the files that a worker has kept of a step. The step has ended by then: whatever goes wrong here is told, and
//! changes nothing of how.

use common::{Artifact, Artifacts, StepId};
use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::StatusCode;
use std::time::Duration;

use super::{WorkerClient, root_of, words_of};
use crate::boss::output::Output;
use crate::boss::workers::WorkerAddress;
use crate::limits;

/// Of a report of a thousand small files each takes the time of a question and its answer.
const AT_ONCE: usize = 8;

/// A worker that is being replaced, or a connection that was cut, is asked again.
const TRIES: u32 = 6;

/// So many reasons are told; more are likely to be the same ones.
const TOLD: usize = 3;

impl WorkerClient {
    /// Keeps these files of a step with its attempt's output. What could not be had is left out of the answer, and told.
    pub(crate) async fn keep_artifacts(
        &self,
        worker: &WorkerAddress,
        step: &StepId,
        artifacts: Artifacts,
        output: &Output,
    ) -> Artifacts {
        let Artifacts { files, mut left_out, problem } = artifacts;
        let until = tokio::time::Instant::now() + limits::ARTIFACTS_FETCH;
        let fetched =
            futures_util::stream::iter(files.into_iter().enumerate()).map(|(number, file)| async move {
                if let Err(why) = output.has_room_for(&file) {
                    return (file, Err(why));
                }
                let fetched =
                    tokio::time::timeout_at(until, self.fetch(worker, step, number, &file, output)).await;
                let late = || Err(format!("it did not come within {} s", limits::ARTIFACTS_FETCH.as_secs()));
                (file, fetched.unwrap_or_else(|_| late()))
            });
        let (mut files, mut lost, mut told) = (Vec::new(), 0u64, Vec::new());
        let mut fetched = std::pin::pin!(fetched.buffered(AT_ONCE));
        while let Some((file, fetched)) = fetched.next().await {
            match fetched {
                Ok(()) => files.push(file),
                Err(why) => {
                    lost += 1;
                    if told.len() < TOLD {
                        told.push(format!("{}: {why}", file.path));
                    }
                }
            }
        }
        left_out += lost;
        let lost = (lost > 0).then(|| format!("not fetched from the worker: {lost} ({})", told.join("; ")));
        let mut kept = Artifacts { files, left_out, problem };
        kept.add_problems(lost);
        kept
    }

    async fn fetch(
        &self,
        worker: &WorkerAddress,
        step: &StepId,
        number: usize,
        file: &Artifact,
        output: &Output,
    ) -> Result<(), String> {
        let url = format!("{}/steps/{step}/artifacts/{number}", worker.base);
        let mut why = String::new();
        for again in 0..TRIES {
            if again > 0 {
                tokio::time::sleep(Duration::from_millis(50) * 2u32.pow(again)).await;
            }
            why = match self.http.get(&url).bearer_auth(&worker.token).send().await {
                Ok(answer) if answer.status().is_success() => {
                    let bytes = answer.bytes_stream().map_err(|error| root_of(&error));
                    match output.keep(file, bytes).await {
                        Ok(()) => return Ok(()),
                        Err(why) => why,
                    }
                }
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
                    return Err("the worker has it no more".to_owned());
                }
                Ok(answer) => {
                    let status = answer.status();
                    format!(
                        "the worker answers {status}: {}",
                        words_of(answer).await.chars().take(200).collect::<String>()
                    )
                }
                Err(error) => root_of(&error),
            };
        }
        Err(why)
    }
}
