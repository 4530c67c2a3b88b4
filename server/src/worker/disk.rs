//! Room on the disk: is there enough for another step, and the room that is kept for what must not be lost.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::limits;

pub(crate) const HINT: &str = "make room there, and make it writable; the worker goes on by itself";

/// Has the folders in this one spread over the disk, where the file system is ext4. It puts what is made in a folder near
/// that, and for minutes does not give away again what was removed there: where a hundred folders a second come and go
/// side by side, half of all time is spent looking for a place. Elsewhere it does nothing, and nothing is missing.
pub(crate) fn spread(folder: &Path) {
    let spread = || -> io::Result<()> {
        let folder = File::open(folder)?;
        let flags = rustix::fs::ioctl_getflags(&folder)?;
        Ok(rustix::fs::ioctl_setflags(&folder, flags | rustix::fs::IFlags::TOPDIR)?)
    };
    if let Err(error) = spread() {
        tracing::debug!("the folders in {} cannot be spread: {error}", folder.display());
    }
}

/// What there is on the disk of a worker's folder.
pub(crate) struct Room {
    /// What a user who is not root may use.
    pub(crate) free_bytes: u64,
    pub(crate) total_bytes: u64,
    /// With less free no step is taken.
    pub(crate) floor_bytes: u64,
}

/// Otherwise why nothing can be kept there at all, in words.
pub(crate) fn room(worker: &Path) -> Result<Room, String> {
    let disk = statvfs(worker)
        .map_err(|error| format!("the disk of {} cannot be asked: {error}", worker.display()))?;
    if disk.flags().contains(FsFlags::ST_RDONLY) {
        return Err(format!("the disk of {} is mounted read-only", worker.display()));
    }
    let unit = disk.fragment_size();
    let (free_bytes, total_bytes) = (disk.blocks_available() * unit, disk.blocks() * unit);
    // What is kept for ends is nobody else's: where it is gone, that much more has to be free.
    let reserve = if worker.join("reserve").exists() { 0 } else { RESERVE_BYTES.unsigned_abs() };
    Ok(Room { free_bytes, total_bytes, floor_bytes: floor_bytes(total_bytes) + reserve })
}

/// None while there is room on the disk of the worker's folder; otherwise what is short, in words.
pub(crate) fn shortage(worker: &Path) -> Option<String> {
    let room = match room(worker) {
        Ok(room) => room,
        Err(why) => return Some(why),
    };
    (room.free_bytes < room.floor_bytes).then(|| {
        format!(
            "only {} MiB are free on the disk of {}; {} MiB have to be",
            room.free_bytes >> 20,
            worker.display(),
            room.floor_bytes >> 20
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

/// Sets the reserve aside, where it is not; is it there now? `worker` is the folder of the worker.
pub(crate) fn keep_reserve(worker: &Path) -> io::Result<bool> {
    let path = worker.join("reserve");
    if path.exists() {
        return Ok(true);
    }
    if shortage(worker).is_some() {
        return Ok(false);
    }
    // Whole or not at all: one without its room would be taken for the real one.
    let draft = worker.join("reserve.draft");
    let file = File::options().create(true).truncate(true).write(true).open(&draft)?;
    let made = fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES).map_err(io::Error::from);
    let made = made.and_then(|()| fs::rename(&draft, path));
    if made.is_err() {
        drop(fs::remove_file(draft));
    }
    made.map(|()| true)
}

/// Gives the reserve up, for the step in this folder, `worker/steps/ID`.
pub(crate) fn release_reserve(step: &Path) {
    let Some(worker) = step.ancestors().nth(2) else { return };
    match fs::remove_file(worker.join("reserve")) {
        Ok(()) => tracing::warn!("the disk is full: the reserve is used up for the ends of steps"),
        Err(error) => tracing::debug!("there is no reserve to release: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::IFlags;

    #[test]
    fn folders_are_spread_where_the_disk_can() {
        let folder = tempfile::tempdir().unwrap();
        spread(folder.path());
        let flags = |folder: &Path| rustix::fs::ioctl_getflags(File::open(folder).unwrap());
        let Ok(found) = flags(folder.path()) else { return };
        // The magic number of ext4, as statfs(2) has it.
        let is_ext4 = rustix::fs::statfs(folder.path()).unwrap().f_type as u64 == 0xef53;
        assert_eq!(found.contains(IFlags::TOPDIR), is_ext4);
        // Not what is made in it: that belongs together.
        let step = folder.path().join("step");
        fs::create_dir(&step).unwrap();
        assert!(!flags(&step).unwrap().contains(IFlags::TOPDIR));
    }
}
