//! The files that are kept of an attempt: in a folder of its own beside its output, each under its SHA-256 as its name.
//! No name that a container chose ever becomes one on this disk, and equal files are kept once.

use common::{Artifact, Artifacts};
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt as _;

use super::{Output, OutputId, Outputs};

pub(crate) const FOLDER: &str = "artifacts";

/// Of all steps of one attempt: four that keep as much as one may.
const ATTEMPT_BYTES: u64 = 4 * Artifacts::ALL_BYTES;

const OTHER: &str = "other bytes came than it had in its container";

impl Outputs {
    pub(crate) fn artifacts(&self, id: OutputId) -> PathBuf {
        self.path(id).with_extension(FOLDER)
    }

    /// Where such a file of the attempt is kept. Its hash was checked by whoever let it into the log.
    pub(crate) fn artifact(&self, id: OutputId, file: &Artifact) -> PathBuf {
        self.artifacts(id).join(&file.sha256)
    }
}

impl Output {
    /// Is there room for one more file in this attempt?
    pub(crate) fn has_room_for(&self, file: &Artifact) -> Result<(), String> {
        let before = self.artifact_bytes.fetch_add(file.size_bytes, Ordering::Relaxed);
        if before + file.size_bytes <= ATTEMPT_BYTES {
            return Ok(());
        }
        self.artifact_bytes.fetch_sub(file.size_bytes, Ordering::Relaxed);
        Err(format!("beyond {} MiB for one attempt", ATTEMPT_BYTES >> 20))
    }

    /// Writes a file down, if these are its bytes to the last.
    pub(crate) async fn keep(
        &self,
        file: &Artifact,
        bytes: impl Stream<Item = Result<bytes::Bytes, String>>,
    ) -> Result<(), String> {
        let to = self.all.artifact(self.id, file);
        let words = |error: io::Error| format!("it cannot be kept in {}: {error}", to.display());
        match tokio::fs::metadata(&to).await {
            Ok(kept) if kept.len() == file.size_bytes => return Ok(()),
            // One of two that have this hash lies about its length.
            Ok(_) => return Err(OTHER.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(words(error)),
        }
        tokio::fs::create_dir_all(self.all.artifacts(self.id)).await.map_err(words)?;
        // Two steps may keep equal files at the same time.
        let draft = to.with_extension(crate::auth::random_hex(8));
        let kept = async {
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).await;
            let mut draft_file = opened.map_err(words)?;
            let mut bytes = std::pin::pin!(bytes);
            let (mut hash, mut size_bytes) = (Sha256::new(), 0);
            while let Some(piece) = bytes.next().await {
                let piece = piece?;
                size_bytes += piece.len() as u64;
                if size_bytes > file.size_bytes {
                    return Err("more bytes came than it has".to_owned());
                }
                hash.update(&piece);
                draft_file.write_all(&piece).await.map_err(words)?;
            }
            draft_file.flush().await.map_err(words)?;
            let sha256: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if size_bytes != file.size_bytes || sha256 != file.sha256 {
                return Err(OTHER.to_owned());
            }
            tokio::fs::rename(&draft, &to).await.map_err(words)
        };
        let kept = kept.await;
        if kept.is_err() {
            drop(tokio::fs::remove_file(&draft).await);
        }
        kept
    }
}

/// What lies in such a folder; nothing where it is none.
pub(super) fn size_bytes(folder: &Path) -> io::Result<u64> {
    if folder.extension().is_none_or(|extension| extension != FOLDER) {
        return Ok(0);
    }
    let mut size_bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let meta = entry?.metadata()?;
        size_bytes += meta.len().max(meta.blocks() * 512);
    }
    Ok(size_bytes)
}
