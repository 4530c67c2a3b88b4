//! Names below a folder, resolved by the kernel as if that folder were the root: neither `..`, nor an absolute name,
//! nor a link in any place leads out of it. What is made or removed is a last name in a folder that was so found.

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::rc::Rc;

/// Folders within folders. What is deeper cannot be walked with the descriptors that a process may have.
const DEPTH: usize = 256;

pub(super) struct Root {
    root: OwnedFd,
    /// The last folder that something was made in: archives go folder by folder.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
}

/// An entry's name as the names from the root to it, joined by single slashes; empty for the root itself.
pub(super) fn clean(name: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
    if name.contains(&0) {
        return Err("its name has a zero byte");
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop().ok_or("its name leads out of the image")?),
            part => parts.push(part),
        }
    }
    if parts.len() > DEPTH {
        return Err("it lies too deep");
    }
    Ok(parts.join(&b'/'))
}

/// The folder that holds it, and its own name.
pub(super) fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (&[], OsStr::from_bytes(path)),
    }
}

impl Root {
    pub(super) fn open(folder: &Path) -> io::Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root { root: rustix::fs::open(folder, flags, Mode::empty())?, last: None })
    }

    /// The folder of this name, through links that stay within the root.
    pub(super) fn folder(&self, path: &[u8]) -> Result<OwnedFd> {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// The same, but a link in the last place is not followed.
    pub(super) fn open_folder_itself(&self, path: &[u8]) -> Result<OwnedFd> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)
    }

    fn resolve(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { b"." } else { path };
        loop {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), within) {
                // Something anywhere was renamed meanwhile, and the kernel does not know whether it was here.
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// The folder in which something of this path is to be made; folders that are missing are made.
    pub(super) fn parent(&mut self, folder: &[u8]) -> Result<Rc<OwnedFd>> {
        if let Some((path, parent)) = &self.last
            && path == folder
        {
            return Ok(Rc::clone(parent));
        }
        let parent = Rc::new(match self.folder(folder) {
            Err(Errno::NOENT) => self.make_folders(folder)?,
            done => done?,
        });
        self.last = Some((folder.to_vec(), Rc::clone(&parent)));
        Ok(parent)
    }

    /// Where something was removed, names may mean something else from here on.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    fn make_folders(&self, path: &[u8]) -> Result<OwnedFd> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let part = &path[..end];
            if !matches!(self.folder(part), Err(Errno::NOENT)) {
                continue;
            }
            let (folder, name) = split(part);
            // A link to nowhere is in its place, where it exists: nothing is made through one.
            let parent = self.folder(folder)?;
            rustix::fs::mkdirat(&parent, name, Mode::empty())?;
            let made = open(parent.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
        }
        self.folder(path)
    }
}

/// A name in a folder, never through a link.
pub(super) fn open(folder: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// All at once: a folder from which things are removed while it is read may skip some.
pub(super) fn names(folder: Dir) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in folder {
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes what has this name, if anything has, with all that is in it. Somebody else may be at it too.
pub(super) fn remove(folder: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let inner = match open(folder, name, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => return Ok(()),
        done => done?,
    };
    for child in names(Dir::read_from(&inner)?)? {
        remove(inner.as_fd(), &child)?;
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// Removes a folder anywhere with all that is in it.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
    Ok(remove(parent.as_fd(), path.file_name().unwrap_or_default())?)
}
