//! What the listed files are on disk: which of them are there, of what kind, how large, how old. No file is opened here.

use common::{BlobId, Entry, EntryMode};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Listed, SourceError};

/// A file or link that is there.
pub(super) struct Found {
    pub(super) path: Vec<u8>,
    pub(super) mode: EntryMode,
    pub(super) looks: Looks,
    /// What git has it by, and whether that is what lies here: it looks as it did when git read it.
    pub(super) known: Option<(BlobId, bool)>,
}

/// All by which a file that was changed can be told from one that was not, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Looks {
    pub(super) size_bytes: u64,
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
    pub(super) inode: u64,
}

impl Looks {
    pub(super) fn of(meta: &Metadata) -> Looks {
        let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Looks {
            size_bytes: meta.len(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }
}

impl Found {
    pub(super) fn entry(&self, blob: BlobId) -> Entry<'_> {
        let Looks { size_bytes, mtime_ns, .. } = self.looks;
        Entry { mode: self.mode, blob, size_bytes, mtime_ns, path: &self.path }
    }
}

pub(super) fn path_of(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path))
}

/// The parts of a list, for as many threads as there are cores: a look waits for the kernel.
pub(super) fn in_parts<T: Send, R: Send>(
    mut list: Vec<T>,
    work: impl Fn(Vec<T>) -> Result<Vec<R>, SourceError> + Sync,
) -> Result<Vec<R>, SourceError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let size = list.len().div_ceil(threads).max(SMALL_PART);
    let mut parts = Vec::new();
    while list.len() > size {
        parts.push(list.split_off(list.len() - size));
    }
    let work = &work;
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || work(part))).collect();
        let mut done = work(list)?;
        for other in others {
            done.extend(other.join().expect("nothing in here panics")?);
        }
        Ok(done)
    })
}

/// So few that a thread for them would take longer than they do.
const SMALL_PART: usize = 256;

/// Looks at every listed file. One that is gone is no part of the source, nor is a socket, a pipe or a device.
pub(super) fn look(root: &Path, listed: Vec<Listed>) -> Result<Vec<Found>, SourceError> {
    let folders = real_folders(root, &listed);
    let folders = &folders;
    let listed: Vec<Listed> = listed
        .into_iter()
        .filter(|file| folders.get(folder_of(&file.path)).copied().unwrap_or(true))
        .collect();
    in_parts(listed, |part| {
        let mut found = Vec::with_capacity(part.len());
        for Listed { path, known } in part {
            let on_disk = path_of(root, &path);
            let meta = match on_disk.symlink_metadata() {
                Ok(meta) => meta,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(SourceError::Unreadable { path: on_disk, error }),
            };
            let mode = if meta.is_symlink() {
                EntryMode::Link
            } else if !meta.is_file() {
                continue;
            } else if meta.mode() & 0o100 != 0 {
                EntryMode::Executable
            } else {
                EntryMode::File
            };
            let known = known.map(|(id, looks)| (id, looks.are_of(&meta)));
            found.push(Found { path, mode, looks: Looks::of(&meta), known });
        }
        Ok(found)
    })
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn folder_of(path: &[u8]) -> &[u8] {
    memchr::memrchr(b'/', path).map_or(b"", |end| &path[..end])
}

/// Of each folder with files in it, whether it is one itself: git may list what once lay where a link lies now, and
/// what is seen through a link is no part of the source.
fn real_folders(root: &Path, listed: &[Listed]) -> HashMap<Vec<u8>, bool> {
    fn is_real(root: &Path, folder: &[u8], seen: &mut HashMap<Vec<u8>, bool>) -> bool {
        if folder.is_empty() {
            return true;
        }
        if let Some(known) = seen.get(folder) {
            return *known;
        }
        let real = is_real(root, folder_of(folder), seen)
            && path_of(root, folder).symlink_metadata().is_ok_and(|meta| meta.is_dir());
        seen.insert(folder.to_owned(), real);
        real
    }
    let mut seen = HashMap::new();
    for file in listed {
        is_real(root, folder_of(&file.path), &mut seen);
    }
    seen
}
