//! `bettertest show --artifacts`: the files that are kept of a task, listed, or written into a folder. Their names were
//! chosen in a container: here they lead nowhere but down from that folder, and over nothing that is there.

use bytes::Bytes;
use common::{Artifact, AttemptArtifacts, RunNumber, StepArtifacts, TaskId, is_path};
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{Past, output_of, unreadable};
use crate::cli::ShowArgs;
use crate::error::SetupError;
use crate::http::part;
use crate::say;
use crate::terminal::plain;

/// The bytes of a file, as they come.
type Pieces = Box<dyn Stream<Item = io::Result<Bytes>> + Send + Unpin>;

impl Past {
    pub(super) async fn show_artifacts(
        &self,
        run: RunNumber,
        task: &TaskId,
        args: &ShowArgs,
    ) -> Result<u8, SetupError> {
        let mut kept = self.artifacts(run, task, args.attempt).await?;
        if args.json {
            say::json(&serde_json::to_string(&kept).expect("names and numbers are JSON"));
            return Ok(0);
        }
        let path = args.path.as_deref();
        let counts = |file: &Artifact| is_named(file, None) || is_named(file, path);
        let many = kept.steps.iter().filter(|step| step.artifacts.files.iter().any(counts)).count() > 1;
        if let Some(into) = &args.into {
            let wanted = named(&kept, path);
            if wanted.is_empty() {
                return Err(nothing(run, task, &kept, path));
            }
            for (step, number, file) in wanted {
                let place = place(into, many.then_some(step), &file)?;
                let bytes = self.artifact(run, task, kept.attempt, (step, number), &file).await?;
                write(&place, &file, bytes).await?;
                say::out(&format!("{}\n", plain(&place.display().to_string())));
            }
            return Ok(0);
        }
        kept.steps.iter_mut().for_each(|step| step.artifacts.files.retain(|file| is_named(file, path)));
        let says_nothing =
            |step: &StepArtifacts| step.artifacts.files.is_empty() && step.artifacts.problem.is_none();
        if kept.steps.iter().all(says_nothing) {
            return Err(nothing(run, task, &kept, path));
        }
        for StepArtifacts { step, artifacts } in &kept.steps {
            if many {
                say::out(&format!("step {step}\n"));
            }
            for file in &artifacts.files {
                say::out(&format!("{:>12}  {}\n", file.size_bytes, plain(&file.path)));
            }
            if let Some(problem) = &artifacts.problem {
                say::out(&format!("warning: {}\n", plain(problem)));
            }
        }
        Ok(0)
    }

    async fn artifacts(
        &self,
        run: RunNumber,
        task: &TaskId,
        attempt: Option<u32>,
    ) -> Result<AttemptArtifacts, SetupError> {
        match self {
            Past::Here { runs, .. } => {
                let id = output_of(runs, run, task, attempt).await?;
                runs.artifacts(id).await.map_err(unreadable)
            }
            Past::Boss(boss) => {
                let which = attempt.map_or(String::new(), |attempt| format!("?attempt={attempt}"));
                boss.get(&format!("/api/runs/{run}/tasks/{task}/artifacts{which}")).await
            }
        }
    }

    /// Of that step, at that place in its list.
    async fn artifact(
        &self,
        run: RunNumber,
        task: &TaskId,
        attempt: u32,
        (step, number): (u32, usize),
        file: &Artifact,
    ) -> Result<Pieces, SetupError> {
        match self {
            Past::Here { runs, .. } => {
                let id = output_of(runs, run, task, Some(attempt)).await?;
                let opened = tokio::fs::File::open(runs.outputs().artifact(id, file)).await;
                let kept = opened.map_err(|error| {
                    let what = format!("{} cannot be read: {error}", plain(&file.path));
                    SetupError::new(what, "run the task again")
                })?;
                Ok(Box::new(Box::pin(part(kept, file.size_bytes))))
            }
            Past::Boss(boss) => {
                let path =
                    format!("/api/runs/{run}/tasks/{task}/artifacts/{step}/{number}?attempt={attempt}");
                let answer = boss.ask(&path).await?;
                Ok(Box::new(answer.bytes_stream().map(|piece| piece.map_err(io::Error::other))))
            }
        }
    }
}

fn named(kept: &AttemptArtifacts, path: Option<&str>) -> Vec<(u32, usize, Artifact)> {
    let files = kept.steps.iter().flat_map(|StepArtifacts { step, artifacts }| {
        artifacts.files.iter().enumerate().map(|(number, file)| (*step, number, file.clone()))
    });
    files.filter(|(_, _, file)| is_named(file, path)).collect()
}

/// Is it the file of that path? Where none is named, all are that somebody asked for.
fn is_named(file: &Artifact, path: Option<&str>) -> bool {
    path.map_or(!file.is_unasked(), |path| file.path == path)
}

fn nothing(run: RunNumber, task: &TaskId, kept: &AttemptArtifacts, path: Option<&str>) -> SetupError {
    let what = path.map_or_else(|| "file".to_owned(), |path| format!("file {path}"));
    SetupError::new(
        format!("no {what} is kept of attempt {} of {task} in run {run}", kept.attempt),
        "a step keeps what its call asks for: run(WORKER, IMAGE, \"...\", artifacts=[\"report/**\"])",
    )
}

/// Where a file of a container goes here. Files of several steps may have the same name.
fn place(into: &Path, step: Option<u32>, file: &Artifact) -> Result<PathBuf, SetupError> {
    if !is_path(&file.path) {
        return Err(SetupError::new(
            format!("{:?} is no path of an artifact", file.path),
            "compare bettertest --version here and of the boss",
        ));
    }
    let below = step.map_or_else(|| into.to_owned(), |step| into.join(format!("step-{step}")));
    Ok(below.join(file.path.trim_start_matches('/')))
}

async fn write(place: &Path, file: &Artifact, mut bytes: Pieces) -> Result<(), SetupError> {
    let wrong = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => "nothing is written over: name another folder with --into",
            _ => "try again, or name another folder with --into",
        };
        SetupError::new(format!("{} cannot be written: {error}", place.display()), hint)
    };
    fs::create_dir_all(place.parent().unwrap_or(Path::new("."))).map_err(wrong)?;
    let mut to = OpenOptions::new().write(true).create_new(true).open(place).map_err(wrong)?;
    let (mut hash, mut size_bytes) = (Sha256::new(), 0);
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(wrong)?;
        hash.update(&piece);
        size_bytes += piece.len() as u64;
        to.write_all(&piece).map_err(wrong)?;
    }
    let sha256: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if size_bytes != file.size_bytes || sha256 != file.sha256 {
        drop(fs::remove_file(place));
        return Err(SetupError::new(
            format!("{} came with other bytes than were kept", plain(&file.path)),
            "try again; where it stays so, run the task again",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_but_down() {
        let of = |path: &str| {
            let file = Artifact { path: path.to_owned(), size_bytes: 0, sha256: String::new(), junit: false };
            place(Path::new("to"), Some(2), &file).ok()
        };
        assert_eq!(of("a/b"), Some(PathBuf::from("to/step-2/a/b")));
        assert_eq!(of("/tmp/b"), Some(PathBuf::from("to/step-2/tmp/b")));
        for path in ["", "/", "//etc/x", "../x", "a/../../x", "a//b", "./a", "a\nb"] {
            assert_eq!(of(path), None, "{path:?}");
        }
    }
}
