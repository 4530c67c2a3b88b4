//! The folders of a tree that is being made. The kernel resolves their names, through no link whatsoever: on a disk
//! to which names are the same that are not the same to us, a link might lie in the way.

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::store::NotMade;

pub(super) struct Folders {
    pub(super) root: OwnedFd,
    /// The last one: a tree is made folder by folder.
    last: (Vec<u8>, OwnedFd),
}

impl Folders {
    pub(super) fn open(files: &Path) -> io::Result<Folders> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(files, flags, Mode::empty())?;
        let last = (Vec::new(), rustix::io::dup(&root)?);
        Ok(Folders { root, last })
    }

    pub(super) fn folder(&mut self, path: &[u8]) -> Result<&OwnedFd, NotMade> {
        if self.last.0 != path {
            let folder = match self.open_beneath(path) {
                Err(Errno::NOENT) => self.make(path),
                opened => opened,
            };
            let folder = folder.map_err(|error| match error {
                Errno::NOTDIR | Errno::LOOP | Errno::EXIST => {
                    NotMade::SameName(String::from_utf8_lossy(path).into_owned())
                }
                error => NotMade::Io(error.into()),
            })?;
            self.last = (path.to_vec(), folder);
        }
        Ok(&self.last.1)
    }

    /// Takes these files away, and the folders that have nothing in them then.
    pub(super) fn clear(mut self, gone: &[&[u8]]) -> Result<(), NotMade> {
        let mut emptied = BTreeSet::new();
        for path in gone {
            let (parent, name) = split(path);
            let folder = self.folder(parent)?;
            rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(io::Error::from)?;
            let above = (0..parent.len()).filter(|at| parent[*at] == b'/').chain([parent.len()]);
            emptied.extend(above.map(|end| &parent[..end]).filter(|folder| !folder.is_empty()));
        }
        // What lies in a folder stands after it.
        for path in emptied.into_iter().rev() {
            let (parent, name) = split(path);
            match rustix::fs::unlinkat(self.folder(parent)?, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOTEMPTY) => {}
                Err(error) => return Err(NotMade::Io(error.into())),
            }
        }
        Ok(())
    }

    fn open_beneath(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { b"." } else { path };
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), within) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    fn make(&mut self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let (parent, name) = split(path);
        let parent = match self.open_beneath(parent) {
            Err(Errno::NOENT) => self.make(parent)?,
            opened => opened?,
        };
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
        let made = self.open_beneath(path)?;
        set_mode(&made)?;
        Ok(made)
    }
}

/// Whoever a container's command runs as, it can make its own files beside the tree's: nobody else is in there.
pub(super) fn set_mode(folder: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::fchmod(folder, Mode::from_raw_mode(0o777))
}

pub(super) fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (&[], OsStr::from_bytes(path)),
    }
}
