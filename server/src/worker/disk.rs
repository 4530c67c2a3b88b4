//! Room on the disk: is there enough for another step, and the room that is kept for what must not be lost.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::limits;

pub(crate) const HINT: &str = "make room there, and make it writable; the worker goes on by itself";

/// None while there is room; otherwise what is short, in words.
pub(crate) fn shortage(folder: &Path) -> Option<String> {
    let disk = match statvfs(folder) {
        Ok(disk) => disk,
        Err(error) => return Some(format!("the disk of {} cannot be asked: {error}", folder.display())),
    };
    if disk.flags().contains(FsFlags::ST_RDONLY) {
        return Some(format!("the disk of {} is mounted read-only", folder.display()));
    }
    let unit = disk.fragment_size();
    // What a user who is not root may use.
    let (free, total) = (disk.blocks_available() * unit, disk.blocks() * unit);
    let floor = floor_bytes(total);
    (free < floor).then(|| {
        format!(
            "only {} MiB are free on the disk of {}; {} MiB have to be",
            free >> 20,
            folder.display(),
            floor >> 20
        )
    })
}

fn floor_bytes(total: u64) -> u64 {
    if total < limits::SMALL_DISK_BYTES { total / 10 } else { limits::FREE_BYTES }
}

/// Fails as the next record would.
pub(crate) fn try_to_write(folder: &Path) -> io::Result<()> {
    let path = folder.join(".try");
    fs::write(&path, b"written").and_then(|()| fs::remove_file(path))
}

/// Kept free for the ends of steps, when everything else is full.
const RESERVE_BYTES: i64 = 16 * 1024 * 1024;

/// Sets the reserve aside, where it is not. `worker` is the folder of the worker.
pub(crate) fn keep_reserve(worker: &Path) -> io::Result<()> {
    let path = worker.join("reserve");
    if path.exists() || shortage(worker).is_some() {
        return Ok(());
    }
    let file = File::options().create(true).truncate(true).write(true).open(path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?)
}

/// Gives the reserve up, for the step in this folder, `worker/steps/ID`.
pub(crate) fn release_reserve(step: &Path) {
    let Some(worker) = step.ancestors().nth(2) else { return };
    match fs::remove_file(worker.join("reserve")) {
        Ok(()) => tracing::warn!("the disk is full: the reserve is used up for the ends of steps"),
        Err(error) => tracing::debug!("there is no reserve to release: {error}"),
    }
}
