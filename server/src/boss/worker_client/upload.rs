//! Brings a source to a worker: asks which blobs it lacks, sends these alone, in batches of bounded size, and has the
//! tree put together. What was sent once is not sent again, also after a cut connection.

use bytes::Bytes;
use common::{BlobId, MissingBlobs, Problem, Reason};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

use super::{NotNow, Patience, Trouble, WorkerClient, broken, unreachable, words_of};
use crate::boss::workers::WorkerAddress;
use crate::joined::joined;
use crate::source::{Source, SourceError, Wanted};

/// What one request carries at most. So much is sent once more where the connection is cut.
const BATCH_BYTES: u64 = 64 * 1024 * 1024;
const BATCH_BLOBS: usize = 10_000;

/// Of what is read ahead of the network.
const PIECE: usize = 256 * 1024;
const PIECES_AHEAD: usize = 4;

/// One request of these: a batch over a slow line, a tree of a million files on a slow disk. That the other end lives,
/// the kernel asks meanwhile.
const ONE_REQUEST: Duration = Duration::from_secs(600);

/// Why a request was not served.
enum Failed {
    NotNow(NotNow),
    ForGood(Box<Trouble>),
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Failed {
        Failed::ForGood(Box::new(trouble))
    }
}

impl WorkerClient {
    /// Returns once the worker has the tree of this source.
    pub(crate) async fn bring(&self, worker: &WorkerAddress, source: &Arc<Source>) -> Result<(), Trouble> {
        let mut patience = Patience::new();
        let stored = source.clone();
        let read = tokio::task::spawn_blocking(move || stored.manifest());
        let unreadable = |error| lost(&SourceError::NotStored { path: source.folder().to_owned(), error });
        let manifest = Bytes::from(joined(read.await).await.map_err(unreadable)?);
        loop {
            match self.bring_once(worker, source, &manifest, &mut patience).await {
                Ok(()) => return Ok(()),
                Err(Failed::ForGood(trouble)) => return Err(*trouble),
                Err(Failed::NotNow(why)) => patience.wait(false, self.has_met(worker), why).await?,
            }
        }
    }

    async fn bring_once(
        &self,
        worker: &WorkerAddress,
        source: &Arc<Source>,
        manifest: &Bytes,
        patience: &mut Patience,
    ) -> Result<(), Failed> {
        let asked = self.bulk.post(format!("{}/sources/missing", worker.base)).body(manifest.clone());
        let answer = self.served(worker, asked, patience).await?;
        let answer: MissingBlobs =
            answer.json().await.map_err(|error| broken(worker, &format!("no list of blobs: {error}")))?;
        if answer.tree != source.tree {
            return Err(broken(worker, "the id of another tree").into());
        }
        if answer.is_ready {
            return Ok(());
        }
        let batches = {
            let source = source.clone();
            let made = tokio::task::spawn_blocking(move || {
                source.batches(&answer.missing, BATCH_BYTES, BATCH_BLOBS)
            });
            joined(made.await).await.map_err(|error| lost(&error))?
        };
        for batch in batches {
            self.send(worker, source, batch, patience).await?;
        }
        let put = self.bulk.put(format!("{}/trees/{}", worker.base, source.tree)).body(manifest.clone());
        self.served(worker, put, patience).await?;
        Ok(())
    }

    async fn send(
        &self,
        worker: &WorkerAddress,
        source: &Arc<Source>,
        batch: Vec<BlobId>,
        patience: &mut Patience,
    ) -> Result<(), Failed> {
        let (to, from) = mpsc::channel(PIECES_AHEAD);
        let read = {
            let (source, batch) = (source.clone(), batch.clone());
            tokio::task::spawn_blocking(move || read_into(&source, &batch, &to))
        };
        let pieces = futures_util::stream::unfold(from, |mut from| async move {
            from.recv().await.map(|piece| (piece, from))
        });
        let put = self.bulk.put(format!("{}/blobs", worker.base)).body(Body::wrap_stream(pieces));
        let served = self.served(worker, put, patience).await;
        // What could not be read explains better why the request ended than its end does.
        joined(read.await).await.map_err(|error| lost(&error))?;
        let failed = match served {
            Ok(_) => return Ok(()),
            Err(failed) => failed,
        };
        // A refusal names the blob of which other bytes came.
        if let Failed::ForGood(trouble) = &failed
            && let Trouble::Refused(problem) = &**trouble
            && let Some(id) = batch.iter().find(|id| problem.error.contains(&id.to_string()))
            && let Some(path) = source.path_of(id)
        {
            return Err(lost(&SourceError::Changed(path)).into());
        }
        Err(failed)
    }

    /// The answer to a request that was served.
    async fn served(
        &self,
        worker: &WorkerAddress,
        request: RequestBuilder,
        patience: &mut Patience,
    ) -> Result<Response, Failed> {
        let request = request.bearer_auth(&worker.token).timeout(ONE_REQUEST);
        let answer = match request.header("content-type", "application/octet-stream").send().await {
            Ok(answer) => answer,
            Err(error) => return Err(Failed::NotNow(unreachable(worker, &error))),
        };
        let status = answer.status();
        if status.is_success() {
            self.meet(worker);
            patience.heard();
            return Ok(answer);
        }
        let text = words_of(answer).await;
        let problem = serde_json::from_str(&text).unwrap_or_else(|_| Problem {
            error: format!("the worker {} answered {status} when the source was brought to it", worker.base),
            hint: Some(
                "do boss and worker have the same version? compare bettertest --version on both".to_owned(),
            ),
            ..Problem::default()
        });
        let fault = |reason, problem: Problem| {
            Err(Trouble::Fault { reason, message: problem.error, hint: problem.hint }.into())
        };
        match status {
            // Blobs that it had are gone, or the disk is full just now: asked again from the beginning.
            StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => {
                let reason = problem.reason.unwrap_or(Reason::EngineUnavailable);
                Err(Failed::NotNow(NotNow { reason, problem, taken: false }))
            }
            StatusCode::UNPROCESSABLE_ENTITY => Err(Trouble::Refused(problem).into()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => fault(Reason::TokenRefused, problem),
            _ => fault(problem.reason.unwrap_or(Reason::WorkerBroken), problem),
        }
    }
}

fn lost(error: &SourceError) -> Trouble {
    Trouble::Fault { reason: Reason::SourceLost, message: error.to_string(), hint: Some(error.hint()) }
}

/// Writes the blobs as the worker reads them: the id, the length, and so many bytes.
fn read_into(
    source: &Source,
    batch: &[BlobId],
    to: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), SourceError> {
    let mut piece = Vec::with_capacity(PIECE);
    let sent = source.blobs(batch, |blob| {
        piece.extend_from_slice(format!("{} {}\n", blob.id, blob.size_bytes).as_bytes());
        let mut left = blob.size_bytes;
        let mut bytes = blob.bytes;
        while left > 0 {
            let room = (PIECE as u64).saturating_sub(piece.len() as u64).clamp(1, left);
            let read = bytes.by_ref().take(room).read_to_end(&mut piece)? as u64;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read;
            if piece.len() >= PIECE {
                let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE));
                // Where the request has ended, its answer says why.
                if to.blocking_send(Ok(full.into())).is_err() {
                    return Ok(Wanted::NoMore);
                }
            }
        }
        Ok(Wanted::More)
    });
    // A body that only ended would pass for a whole one.
    let last = match &sent {
        Ok(()) => Ok(piece.into()),
        Err(error) => Err(io::Error::other(error.to_string())),
    };
    drop(to.blocking_send(last));
    sent
}
