//! What can be seen on this machine without asking anybody: Python, the disk and the token of the data directory. A
//! look makes nothing: a data directory that is not there yet is none the worse for it.

use common::Check;
use nix::unistd::{AccessFlags, access};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Seen;
use crate::{boss, limits, worker};

/// What the library and its reader need.
const OLDEST_PYTHON: (u32, u32) = (3, 9);

const INSTALL_PYTHON: &str = "install a newer one that `python3` leads to: sudo apt-get install python3";

pub(super) async fn python() -> Seen {
    let said = match boss::which_python().await {
        Ok(said) => said,
        Err(problem) => {
            return Seen::of(Check::wrong("python", problem.error, problem.hint.unwrap_or_default()));
        }
    };
    let (version, path) = said.split_once(' ').unwrap_or((&said, "python3"));
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let found = format!("{version} ({path})");
    Seen::of(match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST_PYTHON => Check::well("python", found),
        (Some(_), Some(_)) => {
            let (major, minor) = OLDEST_PYTHON;
            Check::wrong("python", format!("{found} is older than {major}.{minor}"), INSTALL_PYTHON)
        }
        (_, _) => Check::wrong("python", format!("python3 says that it is {said:?}"), INSTALL_PYTHON),
    })
}

pub(super) fn disk(data: &Path) -> Check {
    let is_there = data.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let shown = data.display();
    if let Err(error) = access(is_there, AccessFlags::W_OK | AccessFlags::X_OK) {
        return Check::wrong(
            "disk",
            format!("{shown} cannot be written by this user: {error}"),
            "make it writable for this user, or name another folder with --data-dir",
        );
    }
    // The worker's folder has what is kept for the ends of steps.
    let own = data.join("worker");
    let room = match worker::room(if own.exists() { &own } else { is_there }) {
        Ok(room) => room,
        Err(why) => return Check::wrong("disk", why, "name a folder on another disk with --data-dir"),
    };
    let (free, total) = (gib(room.free_bytes), gib(room.total_bytes));
    let found = format!("{free} of {total} GiB are free on the disk of {shown}");
    if room.free_bytes < room.floor_bytes {
        let floor = gib(room.floor_bytes);
        return Check::wrong(
            "disk",
            format!("{found}; {floor} GiB have to be for a step to run"),
            "docker system prune removes what Docker does not need; or name a folder on another disk with --data-dir",
        );
    }
    let spare = room.free_bytes - room.floor_bytes;
    if spare < limits::SPOOL_BYTES {
        let spool = gib(limits::SPOOL_BYTES);
        return Check::warning(
            "disk",
            format!("{found}; the output that a worker keeps may grow to {spool} GiB"),
            format!("start the worker with a smaller limit, such as --spool-bytes {}", spare / 2),
        );
    }
    Check::well("disk", found)
}

fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / (1u64 << 30) as f64)
}

/// Whoever can read it may run commands on this machine.
pub(super) fn token(data: &Path) -> Check {
    let path = data.join("token");
    let shown = path.display();
    let meta = match path.metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Check::well("token", format!("none yet; the first start makes {shown}"));
        }
        Err(error) => return unreadable(&path, &error),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return unreadable(&path, &error),
    };
    if text.trim().is_empty() {
        return Check::wrong(
            "token",
            format!("{shown} is empty"),
            format!("rm {shown}; the next start makes a new one"),
        );
    }
    let mode = meta.mode() & 0o777;
    let group = nix::unistd::Group::from_name("bettertest").ok().flatten();
    let is_shared = mode & 0o077 == 0o040 && group.is_some_and(|group| group.gid.as_raw() == meta.gid());
    if mode & 0o077 != 0 && !is_shared {
        return Check::wrong(
            "token",
            format!("{shown} has mode {mode:04o}: who can read it can run commands on this machine"),
            format!("chmod 600 {shown}"),
        );
    }
    let whose = if is_shared { ", shared with the group bettertest" } else { "" };
    Check::well("token", format!("{shown} (mode {mode:04o}{whose})"))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Check {
    Check::wrong(
        "token",
        format!("{} cannot be read: {error}", path.display()),
        "name a data directory of this user with --data-dir; or, to share root's: sudo usermod -aG bettertest USER, then log in again",
    )
}
