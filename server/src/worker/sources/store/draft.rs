//! A blob that is being written: it gets its name once its bytes are seen to have the id that was told.

use common::BlobId;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::Store;

pub(in super::super) struct Draft<'a> {
    store: &'a Store,
    path: PathBuf,
    file: File,
    hash: Hash,
}

enum Hash {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Store {
    pub(in super::super) fn draft(&self, id: &BlobId, size_bytes: u64) -> io::Result<Draft<'_>> {
        let path = self.temporary();
        let file = OpenOptions::new().create_new(true).write(true).mode(0o644).open(&path)?;
        let mut draft = Draft { store: self, path, file, hash: Hash::of(id) };
        draft.hash.add(format!("blob {size_bytes}\0").as_bytes());
        Ok(draft)
    }
}

impl Draft<'_> {
    pub(in super::super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.add(bytes);
        self.file.write_all(bytes)
    }

    /// Makes it the blob of this id; false where it is not.
    pub(in super::super) fn keep(mut self, id: &BlobId) -> io::Result<bool> {
        let hash = std::mem::replace(&mut self.hash, Hash::Sha1(Sha1::new()));
        if hash.end() != *id {
            return Ok(false);
        }
        let blob = self.store.blob(id);
        let named = || rustix::fs::renameat_with(CWD, &self.path, CWD, &blob, RenameFlags::NOREPLACE);
        match named() {
            // It has come from somebody else as well; this one goes.
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => {
                DirBuilder::new().recursive(true).mode(0o700).create(blob.parent().unwrap_or(&blob))?;
                match named() {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            named => named?,
        }
        Ok(true)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // Gone where it has become a blob.
        drop(fs::remove_file(&self.path));
    }
}

impl Hash {
    fn of(id: &BlobId) -> Hash {
        match id {
            BlobId::Sha1(_) => Hash::Sha1(Sha1::new()),
            BlobId::Sha256(_) => Hash::Sha256(Sha256::new()),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        match self {
            Hash::Sha1(hash) => hash.update(bytes),
            Hash::Sha256(hash) => hash.update(bytes),
        }
    }

    fn end(self) -> BlobId {
        match self {
            Hash::Sha1(hash) => BlobId::Sha1(hash.finalize().into()),
            Hash::Sha256(hash) => BlobId::Sha256(hash.finalize().into()),
        }
    }
}
