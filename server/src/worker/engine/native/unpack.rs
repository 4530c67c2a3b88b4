//! Puts the layers of an image into one folder, as a container of it would see them.
//!
//! An archive is a stranger's. Whatever it says, nothing is touched outside of the folder: every name is resolved by
//! the kernel beneath it (`beneath.rs`), and sizes, counts and depths have bounds. What cannot be done as the archive
//! says is refused with the entry's name; nothing is left out silently, but for what `metadata.rs` says.
//!
//! Where a layer hides something of those below it (`.wh.NAME`, `.wh..wh..opq`, or a character device 0:0 as overlay
//! file systems have it), only what is from below goes, in whatever order the layer's entries come.

mod beneath;
mod entry;
mod metadata;
mod reader;
mod saved;
mod sparse;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, Timespec};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use tokio_util::sync::CancellationToken;

use beneath::Root;
use reader::Reader;

pub(crate) use beneath::remove_folder;
pub(crate) use saved::unpack_saved;

/// What a layer's folders and their times may take in memory, and how many entries a layer may have: many times what
/// the largest images have, and little enough for a worker to bear.
const FOLDERS_BYTES: usize = 48 * 1024 * 1024;
const ENTRIES: usize = 4_000_000;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("its entry \"{entry}\" is refused: {why}")]
    Refused { entry: String, why: String },
    #[error("its archive is broken: {0}")]
    Broken(String),
    #[error("it takes more than {0} bytes")]
    TooLarge(u64),
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
    #[error("nobody waits for it any more")]
    Gone,
}

/// What all layers of one image share.
pub(crate) struct Bounds {
    /// What may be written still.
    left_bytes: u64,
    bytes: u64,
    gone: CancellationToken,
}

impl Bounds {
    pub(crate) fn new(bytes: u64, gone: CancellationToken) -> Bounds {
        Bounds { left_bytes: bytes, bytes, gone }
    }

    pub(crate) fn taken_bytes(&self) -> u64 {
        self.bytes - self.left_bytes
    }

    fn take(&mut self, bytes: u64) -> Result<(), Trouble> {
        if self.gone.is_cancelled() {
            return Err(Trouble::Gone);
        }
        self.left_bytes = self.left_bytes.checked_sub(bytes).ok_or(Trouble::TooLarge(self.bytes))?;
        Ok(())
    }

    fn give_back(&mut self, bytes: u64) {
        self.left_bytes = self.left_bytes.saturating_add(bytes).min(self.bytes);
    }
}

/// The folder that the layers of an image are put into, one after another.
pub(crate) struct Tree {
    root: Root,
    /// Below the first layer there is nothing.
    layers: usize,
}

/// One layer on its way into the tree.
struct Layer<'a> {
    root: &'a mut Root,
    bounds: &'a mut Bounds,
    /// The paths that this layer has, folders above them included, as hashes. None in the first layer.
    has: Option<HashSet<u64>>,
    hasher: RandomState,
    entries: usize,
    /// Their times are set at the end: what is made in them changes them.
    folders: Vec<(Box<[u8]>, Timespec)>,
    folders_bytes: usize,
    buffer: Vec<u8>,
}

impl Tree {
    pub(crate) fn new(folder: &Path) -> io::Result<Tree> {
        Ok(Tree { root: Root::open(folder)?, layers: 0 })
    }

    /// Applies the layer that is read, an uncompressed archive.
    pub(crate) fn apply(&mut self, archive: impl Read, bounds: &mut Bounds) -> Result<(), Trouble> {
        let first = self.layers == 0;
        self.layers += 1;
        let mut layer = Layer {
            root: &mut self.root,
            bounds,
            has: (!first).then(HashSet::new),
            hasher: RandomState::new(),
            entries: 0,
            folders: Vec::new(),
            folders_bytes: 0,
            buffer: vec![0; 128 * 1024],
        };
        let mut archive = Reader::new(archive);
        while let Some(entry) = archive.next()? {
            layer.add(entry, &mut archive)?;
        }
        layer.finish()
    }
}

fn broken(error: io::Error) -> Trouble {
    Trouble::Broken(error.to_string())
}

/// A name as people can read it, and not longer than that.
fn shown(path: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(path).escape_debug().take(200).collect::<String>();
    if path.len() > 200 {
        text.push_str("...");
    }
    text
}

fn refused(path: &[u8], why: impl Into<String>) -> Trouble {
    Trouble::Refused { entry: shown(path), why: why.into() }
}

/// What the kernel did not do with an entry. A full disk is no fault of the entry.
fn not_done(path: &[u8], what: &str, error: Errno) -> Trouble {
    match error {
        Errno::NOSPC
        | Errno::DQUOT
        | Errno::IO
        | Errno::ROFS
        | Errno::MFILE
        | Errno::NFILE
        | Errno::NOMEM => Trouble::Io { what: format!("\"{}\": {what}", shown(path)), error: error.into() },
        error => refused(path, format!("{what}: {}", io::Error::from(error))),
    }
}

impl Layer<'_> {
    fn hash(&self, path: &[u8]) -> u64 {
        self.hasher.hash_one(path)
    }

    /// Notes that this layer has this path.
    fn note(&mut self, path: &[u8]) {
        let mut part = path;
        while !part.is_empty() {
            let hash = self.hash(part);
            let Some(has) = &mut self.has else { return };
            if !has.insert(hash) {
                return;
            }
            part = beneath::split(part).0;
        }
    }

    /// Hides what lower layers have at this path.
    fn hide(&mut self, path: &[u8]) -> Result<(), Trouble> {
        if self.has.is_none() {
            return Ok(());
        }
        let (folder, name) = beneath::split(path);
        let parent = match self.root.folder(folder) {
            Ok(parent) => parent,
            // There is nothing to hide.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(not_done(path, "hiding it", error)),
        };
        self.root.forget();
        self.hide_in(parent.as_fd(), path, name).map_err(|error| not_done(path, "hiding it", error))
    }

    /// Hides everything that lower layers have in this folder.
    fn hide_all(&mut self, path: &[u8]) -> Result<(), Trouble> {
        if self.has.is_none() {
            return Ok(());
        }
        match self.root.open_folder_itself(path) {
            Ok(folder) => {
                self.root.forget();
                self.clear(folder, path).map_err(|error| not_done(path, "hiding what is in it", error))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(not_done(path, "hiding what is in it", error)),
        }
    }

    fn hide_in(&self, parent: BorrowedFd<'_>, path: &[u8], name: &OsStr) -> rustix::io::Result<()> {
        if !self.has.as_ref().is_some_and(|has| has.contains(&self.hash(path))) {
            return beneath::remove(parent, name);
        }
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            done => done?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        self.clear(beneath::open(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?, path)
    }

    fn clear(&self, folder: OwnedFd, path: &[u8]) -> rustix::io::Result<()> {
        for name in beneath::names(Dir::read_from(&folder)?)? {
            let mut child = path.to_vec();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(name.as_bytes());
            self.hide_in(folder.as_fd(), &child, &name)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Trouble> {
        for (path, time) in &self.folders {
            // Another entry of the same name may have taken its place.
            let folder = match self.root.open_folder_itself(path) {
                Ok(folder) => folder,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(not_done(path, "setting its time", error)),
            };
            metadata::set_time(&folder, *time).map_err(|error| not_done(path, "setting its time", error))?;
        }
        Ok(())
    }
}
