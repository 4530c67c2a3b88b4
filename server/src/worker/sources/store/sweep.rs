//! What goes from the disk: what crashed workers and earlier boots left, and what is more than the bound.

use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Store, is_older, list};
use crate::limits;

impl Store {
    /// Removes what crashed workers and earlier boots left, and what is more than the bound: blobs that no tree has,
    /// then trees, those first that were used least recently. What is used, or was sent lately, stays.
    pub(in super::super) fn sweep(&self) -> io::Result<()> {
        let Some(_alone) = self.try_alone()? else { return Ok(()) };
        let is_old = |found: &Metadata| is_older(found.modified(), limits::SOURCE_DRAFT);
        for path in list(&self.folder.join("tmp"))? {
            if fs::symlink_metadata(&path).is_ok_and(|found| is_old(&found)) {
                remove(&path)?;
            }
        }
        if let Some(cache) = self.folder.parent() {
            for boot in list(cache)?.iter().filter(|boot| **boot != self.folder) {
                remove(boot)?;
            }
        }
        let mut trees: Vec<(SystemTime, PathBuf)> = Vec::new();
        for tree in list(&self.folder.join("trees"))? {
            let used = fs::metadata(tree.join("lock")).and_then(|lock| lock.modified());
            trees.push((used.unwrap_or(SystemTime::UNIX_EPOCH), tree));
        }
        trees.sort();
        let mut trees = trees.into_iter();
        while self.loosen()? > self.bound_bytes {
            let Some((used, tree)) = trees.next() else { break };
            if is_older(Ok(used), limits::SOURCE_RECENT) {
                self.evict(&tree)?;
            }
        }
        Ok(())
    }

    /// Removes blobs that no tree has, as far as there are too many bytes; answers with how many there are.
    fn loosen(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for tree in list(&self.folder.join("trees"))? {
            let size = fs::read_to_string(tree.join("size")).ok();
            bytes += size.and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
        }
        for old in list(&self.folder.join("old"))? {
            let found = fs::symlink_metadata(&old)?;
            if found.nlink() == 1 {
                fs::remove_file(&old)?;
            } else {
                bytes += found.len();
            }
        }
        let mut loose = Vec::new();
        for part in list(&self.folder.join("blobs"))? {
            for blob in list(&part)? {
                let found = fs::symlink_metadata(&blob)?;
                bytes += found.len();
                if found.nlink() == 1 && is_older(found.accessed(), limits::SOURCE_RECENT) {
                    loose.push((found.accessed()?, found.len(), blob));
                }
            }
        }
        loose.sort();
        for (_, size_bytes, blob) in loose {
            if bytes <= self.bound_bytes {
                break;
            }
            fs::remove_file(blob)?;
            bytes -= size_bytes;
        }
        Ok(bytes)
    }

    fn evict(&self, tree: &Path) -> io::Result<()> {
        match File::open(tree.join("lock")) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => self.discard(tree),
                Err(TryLockError::WouldBlock) => Ok(()),
                Err(TryLockError::Error(error)) => Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.discard(tree),
            Err(error) => Err(error),
        }
    }

    /// First its name goes: a crash leaves no half of it under that.
    pub(super) fn discard(&self, tree: &Path) -> io::Result<()> {
        let doomed = self.temporary();
        fs::rename(tree, &doomed)?;
        fs::remove_dir_all(doomed)
    }
}

/// Whatever it is; somebody else may be at it too.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
