//! Owner, mode, time and extended attributes of an entry. Left out are attributes that would speak to the overlay
//! (`trusted.overlay.*`, `user.overlay.*`): they are its own, and an image has no say in it. Also left out, as Docker
//! does it, is an attribute that this file system has no place for.

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use super::reader::Entry;
use super::{Trouble, refused};

pub(super) struct Metadata {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    pub(super) time: Timespec,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    pub(super) fn of(entry: &mut Entry) -> std::result::Result<Metadata, Trouble> {
        // All ones mean "as it is" to the kernel.
        let id = |id: i64| match u32::try_from(id) {
            Ok(id) if id != u32::MAX => Ok(id),
            Ok(_) | Err(_) => Err(refused(&entry.name, format!("no user or group has the number {id}"))),
        };
        let mut attributes = std::mem::take(&mut entry.attributes);
        attributes.retain(|(name, _)| !is_of_overlay(name));
        Ok(Metadata {
            uid: Uid::from_raw(id(entry.uid)?),
            gid: Gid::from_raw(id(entry.gid)?),
            mode: Mode::from_raw_mode((entry.mode & 0o7777) as u32),
            time: entry.time,
            attributes,
        })
    }

    pub(super) fn set_on_open(&self, file: impl AsFd) -> Result<()> {
        let file = file.as_fd();
        // In this order: a new owner takes away the set-user-ID bit and capabilities.
        rustix::fs::fchown(file, Some(self.uid), Some(self.gid))?;
        for (name, value) in &self.attributes {
            tolerant(rustix::fs::fsetxattr(file, &**name, value, XattrFlags::empty()))?;
        }
        rustix::fs::fchmod(file, self.mode)?;
        set_time(file, self.time)
    }

    /// One that a lower layer has too is all that this layer says of it.
    pub(super) fn set_on_folder(&self, folder: &OwnedFd, was_there: bool) -> Result<()> {
        if was_there {
            let mut names = vec![0; rustix::fs::flistxattr_query(folder)?];
            let bytes = rustix::fs::flistxattr(folder, &mut names[..])?;
            for name in names[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
                tolerant(rustix::fs::fremovexattr(folder, name))?;
            }
        }
        self.set_on_open(folder)
    }

    /// For what cannot be opened: links, devices, pipes.
    pub(super) fn set_on_name(&self, folder: &OwnedFd, name: &OsStr, is_link: bool) -> Result<()> {
        rustix::fs::chownat(folder, name, Some(self.uid), Some(self.gid), AtFlags::SYMLINK_NOFOLLOW)?;
        let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.as_bytes());
        for (name, value) in &self.attributes {
            tolerant(rustix::fs::lsetxattr(&*path, &**name, value, XattrFlags::empty()))?;
        }
        // A link has no mode.
        if !is_link {
            rustix::fs::chmodat(folder, name, self.mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(folder, name, &modified(self.time), AtFlags::SYMLINK_NOFOLLOW)
    }
}

pub(super) fn set_time(file: impl AsFd, time: Timespec) -> Result<()> {
    rustix::fs::futimens(file, &modified(time))
}

fn modified(time: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: time }
}

fn tolerant(set: Result<()>) -> Result<()> {
    match set {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        done => done,
    }
}

fn is_of_overlay(attribute: &[u8]) -> bool {
    attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.")
}
