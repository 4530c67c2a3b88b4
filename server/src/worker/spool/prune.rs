//! Taking the output and the kept files out of an ended spool, so that everything else of it stays where it is.
//!
//! The output becomes a hole in the file: positions stay what they were, and the disk has its room back. What
//! was there is in a small file beside it, from which readers are told of a gap.

use common::StepEvent;
use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// From where to where the events are gone, and how many bytes of output they told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pruned {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) bytes: u64,
}

impl Pruned {
    /// What was taken out of this folder's events, if something was.
    pub(super) fn of(folder: &Path) -> io::Result<Option<Pruned>> {
        match fs::read(folder.join("pruned")) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a record takes on disk. It may be of a step that lives, whose files come and go meanwhile.
pub(crate) fn size_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(found) if found.is_dir() => bytes += size_bytes_or_none(&entry.path())?,
            Ok(file) => bytes += file.blocks() * 512,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn size_bytes_or_none(folder: &Path) -> io::Result<u64> {
    match size_bytes(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        size => size,
    }
}

/// Takes output and kept files out, and answers how many bytes of disk that gave.
pub(crate) fn prune(folder: &Path) -> io::Result<u64> {
    let kept = folder.join(super::ARTIFACTS);
    let freed = size_bytes_or_none(&kept)?;
    match fs::remove_dir_all(kept) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    Ok(freed + prune_output(folder)?)
}

fn prune_output(folder: &Path) -> io::Result<u64> {
    let path = folder.join("events");
    let file = File::options().read(true).write(true).open(&path)?;
    let Some(pruned) = to_prune(&file)? else { return Ok(0) };
    let before = file.metadata()?.blocks();
    let draft = folder.join("pruned.draft");
    fs::write(&draft, serde_json::to_vec(&pruned).expect("numbers are JSON"))?;
    File::open(&draft)?.sync_all()?;
    fs::rename(draft, folder.join("pruned"))?;
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let offset = |at: u64| i64::try_from(at).map_err(io::Error::other);
    let times = fs::FileTimes::new().set_modified(file.metadata()?.modified()?);
    fallocate(&file, hole, offset(pruned.from)?, offset(pruned.to - pruned.from)?)?;
    // When it was last written says when its step ended.
    file.set_times(times)?;
    Ok(before.saturating_sub(file.metadata()?.blocks()) * 512)
}

/// All that is between `started` and the end; None where that is nothing, or was taken before.
fn to_prune(file: &File) -> io::Result<Option<Pruned>> {
    let mut lines = BufReader::with_capacity(128 * 1024, file);
    let (mut line, mut at) = (Vec::new(), 0);
    let mut pruned: Option<Pruned> = None;
    while lines.read_until(b'\n', &mut line)? > 0 {
        if line.first() == Some(&0) {
            return Ok(None);
        }
        let told = match serde_json::from_slice(&line).map_err(io::Error::other)? {
            StepEvent::Output { bytes, .. } => Some(bytes.len() as u64),
            StepEvent::Dropped { bytes } => Some(bytes),
            StepEvent::Gap { bytes } => Some(bytes.unwrap_or(0)),
            StepEvent::Queued
            | StepEvent::Preparing { .. }
            | StepEvent::Started { .. }
            | StepEvent::Artifacts(_) => None,
            StepEvent::Exited { .. }
            | StepEvent::TimedOut { .. }
            | StepEvent::Cancelled { .. }
            | StepEvent::Errored { .. } => None,
        };
        let end = at + line.len() as u64;
        if let Some(told) = told {
            let pruned = pruned.get_or_insert(Pruned { from: at, to: end, bytes: 0 });
            pruned.to = end;
            pruned.bytes += told;
        }
        at = end;
        line.clear();
    }
    Ok(pruned)
}
