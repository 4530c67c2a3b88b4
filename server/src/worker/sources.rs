//! The sources that steps run on, as they come to a worker: a manifest says which blobs a tree wants, those that are
//! not here are sent, and the tree is put together once for all steps (`sources/store.rs`). All of it comes from
//! strangers: what a manifest may say, `common` knows; that bytes are what they are called, `sources/frames.rs`.

mod change;
mod folders;
mod frames;
mod store;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use common::{BlobsStored, Manifest, MissingBlobs, Problem, Reason, TreeId};
use futures_util::StreamExt as _;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

use super::api::Api;
use super::disk;
use super::engine::Fault;
use super::pieces::{Piece, Pieces};
use crate::error::Refusal;
use crate::extract::Segments;
use crate::limits;
use frames::NotStored;
use store::{NotMade, Store};

pub(crate) use store::Tree;

/// Pieces of a body that may wait to be written.
const PIECES: usize = 16;

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Sources(Arc<Inner>);

struct Inner {
    store: Store,
    /// A manifest may be large, and this worker is not to be: one at a time is held whole.
    manifests: Semaphore,
}

impl Sources {
    /// In the cache folder of a data directory, which other workers may use at the same time.
    pub(crate) fn open(cache: &Path, bound_bytes: u64) -> io::Result<Sources> {
        let store = Store::open(cache, bound_bytes)?;
        Ok(Sources(Arc::new(Inner { store, manifests: Semaphore::new(1) })))
    }

    /// Takes a tree into use.
    pub(super) fn tree(&self, id: &TreeId) -> Option<Arc<Tree>> {
        self.0.store.tree(id).map(Arc::new)
    }

    /// Takes a tree into use that is put together of blobs which are here.
    pub(super) async fn made(&self, manifest: Arc<Vec<u8>>) -> Result<Arc<Tree>, Fault> {
        let (sources, id) = (self.clone(), TreeId::of(&manifest));
        let made = tokio::task::spawn_blocking(move || {
            let read = Manifest::parse(&manifest).map_err(|bad| bad.to_string())?;
            sources.0.store.assemble(&manifest, &read).map_err(|error| error.to_string())?;
            sources.tree(&id).ok_or_else(|| "it went at once".to_owned())
        });
        made.await.unwrap_or_else(|error| Err(error.to_string())).map_err(|error| {
            let message = format!("its source cannot be put together: {error}");
            Fault::new(Reason::UnknownTree, message, "run it again: the source is sent once more")
        })
    }

    /// Housekeeping. Reads the disk.
    pub(super) fn sweep(&self) -> io::Result<()> {
        self.0.store.sweep()
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let sources = self.clone();
        let done = tokio::task::spawn_blocking(move || act(&sources.0.store)).await;
        done.map_err(|error| Refusal::internal(&error.into()))
    }
}

/// `POST /sources/missing`
pub(super) async fn missing(State(api): State<Api>, body: Body) -> Result<Response, Refusal> {
    let sources = api.steps.sources();
    let _one = sources.0.manifests.acquire().await.map_err(anyhow::Error::from)?;
    let bytes = manifest_of(body).await?;
    let asked = sources.on_disk(move |store| {
        let manifest = Manifest::parse(&bytes)?;
        let tree = TreeId::of(&bytes);
        let is_ready = store.tree(&tree).is_some();
        let missing = if is_ready { Vec::new() } else { store.missing(&manifest) };
        Ok(MissingBlobs { tree, is_ready, missing })
    });
    asked.await?.map(json).map_err(bad_manifest)
}

/// `PUT /blobs`
pub(super) async fn put_blobs(State(api): State<Api>, body: Body) -> Result<Response, Refusal> {
    let (send, pieces) = Pieces::channel(PIECES);
    let storing = api.steps.sources().on_disk(|store| frames::store(store, pieces));
    let ((), stored) = tokio::join!(pass_on(body, send), storing);
    match stored? {
        Ok(stored) => Ok(json(BlobsStored { stored })),
        Err(error) => Err(not_stored(error)),
    }
}

/// `PUT /trees/{id}`
pub(super) async fn put_tree(
    State(api): State<Api>,
    Segments(id): Segments<String>,
    body: Body,
) -> Result<Response, Refusal> {
    let unlike = |error: String| {
        Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            error,
            "a tree's id is the SHA-256 of its manifest, in hex",
        )
    };
    let id = TreeId::try_from(id).map_err(|bad| unlike(bad.to_string()))?;
    let sources = api.steps.sources();
    let _one = sources.0.manifests.acquire().await.map_err(anyhow::Error::from)?;
    let bytes = manifest_of(body).await?;
    if TreeId::of(&bytes) != id {
        return Err(unlike(format!("the manifest that was sent as tree {id} has another id")));
    }
    let made = sources.on_disk(move |store| {
        let manifest = match Manifest::parse(&bytes) {
            Ok(manifest) => manifest,
            Err(bad) => return Err(bad_manifest(bad)),
        };
        if let Some(shortage) = disk::shortage(store.folder()) {
            return Err(disk_full(&shortage));
        }
        store.assemble(&bytes, &manifest).map_err(|error| not_made(&id, error))?;
        Ok(MissingBlobs { tree: id, is_ready: true, missing: Vec::new() })
    });
    made.await?.map(json)
}

/// A manifest's bytes, and not one more than it may have.
async fn manifest_of(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) =
        tokio::time::timeout(limits::SILENCE, pieces.next()).await.map_err(|_| cut_off())?
    {
        let piece = piece.map_err(|_| cut_off())?;
        if bytes.len() + piece.len() > Manifest::MOST_BYTES {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the manifest has more than 128 MiB",
                "leave out what a test does not need: let git ignore it",
            ));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Until all was taken, or the other side takes no more: then it says why.
async fn pass_on(body: Body, send: mpsc::Sender<Piece>) {
    let mut pieces = body.into_data_stream();
    loop {
        let piece = match tokio::time::timeout(limits::SILENCE, pieces.next()).await {
            Ok(Some(Ok(bytes))) => Piece::Bytes(bytes),
            Ok(None) => Piece::End,
            // Cut off, or silent: dropped, the channel says so.
            Ok(Some(Err(_))) | Err(_) => return,
        };
        let is_last = matches!(piece, Piece::End);
        let is_taken = send.send(piece).await.is_ok();
        // A stream that has ended is not asked again.
        if is_last {
            return;
        }
        if !is_taken {
            // Who is still sending does not hear an answer. It is not waited for longer than for one that is silent.
            let rest = async { while let Some(Ok(_)) = pieces.next().await {} };
            drop(tokio::time::timeout(limits::SILENCE, rest).await);
            return;
        }
    }
}

fn cut_off() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "the body was cut off", "send it again, whole")
}

fn bad_manifest(bad: common::BadManifest) -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        bad.to_string(),
        "a manifest names files beneath one folder, sorted by the bytes of their paths, each once",
    )
}

fn disk_full(shortage: &str) -> Refusal {
    let error = format!("disk_full: {shortage}");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, disk::HINT).because(Reason::DiskFull)
}

const TOO_LARGE: &str =
    "leave out what a test does not need, or start the worker with more --source-cache-bytes";

fn not_stored(error: NotStored) -> Refusal {
    let refuse = |status, hint: &str| Refusal::new(status, error.to_string(), hint);
    match &error {
        NotStored::NoFrame(_) => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "a frame is `BLOB_ID LENGTH`, a line's end, and so many bytes",
        ),
        NotStored::OtherBytes(_) => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the file may have changed while it was read: take the snapshot again",
        ),
        NotStored::TooLarge { .. } => refuse(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE),
        NotStored::CutOff(_) => refuse(StatusCode::BAD_REQUEST, "send what is missing again"),
        NotStored::DiskFull(shortage) => disk_full(shortage),
        NotStored::Io(error) => broken(error),
    }
}

fn not_made(id: &TreeId, error: NotMade) -> Refusal {
    let error_text = format!("tree {id} cannot be put together: {error}");
    let refuse = |status, hint: &str| Refusal { status, problem: Problem::new(error_text.clone(), hint) };
    match &error {
        NotMade::Missing(_) => {
            refuse(StatusCode::CONFLICT, "ask POST /sources/missing once more, and send them")
        }
        NotMade::OtherSize { .. } => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the file may have changed meanwhile: take the snapshot again",
        ),
        NotMade::OddTarget(_) => refuse(StatusCode::UNPROCESSABLE_ENTITY, "no link on a disk is so"),
        NotMade::SameName(_) => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "keep the worker's data on a disk that tells capitals from small letters",
        ),
        NotMade::TooLarge(..) => refuse(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE),
        NotMade::Io(error) => broken(error),
    }
}

fn broken(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => disk_full(&error.to_string()),
        _ => Refusal::internal(&anyhow::anyhow!("a source cannot be kept: {error}")),
    }
}

fn json<T: serde::Serialize>(body: T) -> Response {
    let text = serde_json::to_vec(&body).expect("bodies are strings and numbers");
    ([(header::CONTENT_TYPE, "application/json")], Bytes::from(text)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_has_ended_is_not_read_on_where_its_end_was_not_wanted() {
        let (send, pieces) = Pieces::channel(4);
        // Who reads it leaves in the moment of its end. It panics where it is asked once more.
        let body = futures_util::stream::unfold((true, pieces), |(is_first, pieces)| async move {
            is_first.then(|| (Ok::<_, io::Error>(Bytes::from("no frame")), (false, pieces)))
        });
        pass_on(Body::from_stream(body), send).await;
    }
}
