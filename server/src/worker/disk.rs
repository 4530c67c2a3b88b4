//! Is there room for another step's output?

use nix::sys::statvfs::statvfs;
use std::path::Path;

use crate::limits;

/// None while there is room; otherwise what is short, in words.
pub(crate) fn shortage(folder: &Path) -> Option<String> {
    let disk = match statvfs(folder) {
        Ok(disk) => disk,
        Err(error) => return Some(format!("the disk of {} cannot be asked: {error}", folder.display())),
    };
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
