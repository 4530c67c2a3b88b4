//! Blobs and trees on the disk, shared by all workers of a data directory, any of which may die at any moment.
//!
//! What has its name is whole: everything is made under another name first. All of it lies in a folder named after the
//! boot in which it was made, and goes with that: so nothing need be forced onto the disk, and what a loss of power
//! left half written is never looked at. Senders send again what is not there.
//!
//! A file of a tree is a further name of its blob, so that a tree is made in the time that names take and shares its
//! bytes with every other. But names share mode and time of their file as well. Where a tree wants others than the
//! blob has, and another tree has that already, the blob gets a file of its own for the new tree: the one that was
//! used last is what the next tree is most like. Files that were blobs lie in `old` as long as a tree has them. And where
//! nobody uses that tree any more, it becomes the next one (`change.rs`).

mod draft;
mod sweep;

use common::{BlobId, Entry, EntryMode, Manifest, TreeId};
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

use super::change::Latest;
use super::folders::{Folders, set_mode, split};

/// What a folder takes on most disks, whatever is in it.
const FOLDER_BYTES: u64 = 4096;

pub(super) struct Store {
    /// Of this boot.
    folder: PathBuf,
    bound_bytes: u64,
    /// A blob was not there that has to be. So all are looked for, when they are asked for again.
    in_doubt: AtomicBool,
}

/// An assembled tree. It is not evicted while this value lives, nor while anybody else holds a shared lock of `lock`.
#[derive(Debug)]
pub(crate) struct Tree {
    folder: PathBuf,
    held: File,
}

impl Tree {
    /// The tree itself. Nobody writes to it.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.folder.join("lock")
    }

    pub(crate) fn manifest(&self) -> io::Result<Vec<u8>> {
        fs::read(self.folder.join("manifest"))
    }
}

/// Why there is no tree of this manifest.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMade {
    #[error("{} of its blobs are not here, the first is {}", .0.len(), .0[0])]
    Missing(Vec<BlobId>),
    #[error("{path:?} has {told} bytes in the manifest, and its blob {blob} has {found}")]
    OtherSize { path: String, blob: BlobId, told: u64, found: u64 },
    #[error("{0:?} is a link whose target has a NUL")]
    OddTarget(String),
    #[error("{0:?} cannot lie where it is to lie: to this disk its name is the same as another")]
    SameName(String),
    #[error("it has files of {0} bytes, and this worker keeps {1} bytes of sources")]
    TooLarge(u64, u64),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Store {
    pub(super) fn open(cache: &Path, bound_bytes: u64) -> io::Result<Store> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let folder = cache.join(boot.trim());
        for part in ["blobs", "old", "trees", "tmp"] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder.join(part))?;
        }
        Ok(Store { folder, bound_bytes, in_doubt: AtomicBool::new(false) })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn bound_bytes(&self) -> u64 {
        self.bound_bytes
    }

    fn blob(&self, id: &BlobId) -> PathBuf {
        let hex = id.to_string();
        self.folder.join("blobs").join(&hex[..2]).join(&hex[2..])
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.folder.join("tmp").join(crate::auth::random_hex(16))
    }

    /// The blobs of this manifest that are not here, each once. Those of the tree that was used last are.
    pub(super) fn missing(&self, manifest: &Manifest<'_>) -> Vec<BlobId> {
        let latest = (!self.in_doubt.swap(false, Relaxed)).then(|| Latest::find(&self.folder)).flatten();
        match latest.as_ref().and_then(Latest::manifest) {
            Some(before) => self.lacking(manifest.changes_since(&before).come.into_iter()),
            None => self.lacking(manifest.entries()),
        }
    }

    fn lacking<'a>(&self, entries: impl Iterator<Item = Entry<'a>>) -> Vec<BlobId> {
        let wanted: BTreeSet<BlobId> = entries.map(|entry| entry.blob).collect();
        wanted.into_iter().filter(|id| fs::symlink_metadata(self.blob(id)).is_err()).collect()
    }

    /// Takes a tree into use, where it is here.
    pub(super) fn tree(&self, id: &TreeId) -> Option<Tree> {
        let folder = self.folder.join("trees").join(id.as_str());
        let held = File::open(folder.join("lock")).ok()?;
        held.try_lock_shared().ok()?;
        let tree = Tree { folder, held };
        if !is_at(&tree.held, &tree.lock()) {
            return None;
        }
        if let Err(error) = tree.held.set_modified(SystemTime::now()) {
            tracing::debug!("{} does not say when it was used last: {error}", tree.lock().display());
        }
        Some(tree)
    }

    /// Puts a tree together, unless it is here.
    pub(super) fn assemble(&self, bytes: &[u8], manifest: &Manifest<'_>) -> Result<(), NotMade> {
        let id = TreeId::of(bytes);
        let size_bytes = manifest.size_bytes();
        if size_bytes > self.bound_bytes {
            return Err(NotMade::TooLarge(size_bytes, self.bound_bytes));
        }
        let _alone = self.alone()?;
        if self.tree(&id).is_some() {
            return Ok(());
        }
        let draft = self.temporary();
        let made = self.put_together(&draft, bytes, manifest).and_then(|()| {
            let place = self.folder.join("trees").join(id.as_str());
            if place.exists() {
                // Somebody took a part of it away by hand.
                self.discard(&place)?;
            }
            Ok(fs::rename(&draft, place)?)
        });
        if made.is_err() {
            self.in_doubt.store(true, Relaxed);
            drop(fs::remove_dir_all(&draft));
        }
        made
    }

    fn put_together(&self, draft: &Path, bytes: &[u8], manifest: &Manifest<'_>) -> Result<(), NotMade> {
        let latest = Latest::find(&self.folder);
        let before = latest.as_ref().and_then(Latest::manifest);
        let changes = before.map(|before| manifest.changes_since(&before));
        // Of a tree that is hardly like it more would have to be taken away than is won.
        let changes =
            changes.filter(|changes| changes.come.len() + changes.gone.len() <= manifest.count() / 2);
        let missing = match &changes {
            Some(changes) => self.lacking(changes.come.iter().copied()),
            None => self.lacking(manifest.entries()),
        };
        if !missing.is_empty() {
            return Err(NotMade::Missing(missing));
        }
        let files = draft.join("files");
        let changes = match (&latest, changes) {
            (Some(latest), Some(changes)) if latest.take(draft)? => Some(changes),
            (Some(_) | None, Some(_) | None) => None,
        };
        match changes {
            Some(changes) => {
                Folders::open(&files)?.clear(&changes.gone)?;
                self.fill(&files, changes.come.into_iter())?;
            }
            None => {
                DirBuilder::new().recursive(true).mode(0o700).create(&files)?;
                self.fill(&files, manifest.entries())?;
            }
        }
        fs::write(draft.join("manifest"), bytes)?;
        // What the tree takes besides its blobs.
        let size_bytes = bytes.len() as u64 + (manifest.folders() + 1) * FOLDER_BYTES;
        fs::write(draft.join("size"), size_bytes.to_string())?;
        fs::write(draft.join("lock"), b"")?;
        Ok(())
    }

    fn fill<'a>(&self, files: &Path, entries: impl Iterator<Item = Entry<'a>>) -> Result<(), NotMade> {
        let mut folders = Folders::open(files)?;
        for entry in entries {
            self.place(&entry, &mut folders)?;
        }
        Ok(set_mode(&folders.root).map_err(io::Error::from)?)
    }

    fn place(&self, entry: &Entry<'_>, folders: &mut Folders) -> Result<(), NotMade> {
        let shown = || String::from_utf8_lossy(entry.path).into_owned();
        let (parent, name) = split(entry.path);
        let folder = folders.folder(parent)?;
        let blob = self.blob(&entry.blob);
        let found = fs::symlink_metadata(&blob).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NotMade::Missing(vec![entry.blob]),
            _ => NotMade::Io(error),
        })?;
        if found.len() != entry.size_bytes {
            let (told, found) = (entry.size_bytes, found.len());
            return Err(NotMade::OtherSize { path: shown(), blob: entry.blob, told, found });
        }
        let placed = if entry.mode == EntryMode::Link {
            let target = fs::read(&blob)?;
            if target.contains(&0) {
                return Err(NotMade::OddTarget(shown()));
            }
            // It is text here: whatever it says, this worker never follows it.
            rustix::fs::symlinkat(OsStr::from_bytes(&target), folder, name).and_then(|()| {
                rustix::fs::utimensat(folder, name, &times(entry.mtime_ns), AtFlags::SYMLINK_NOFOLLOW)
            })
        } else {
            self.make_alike(entry, &blob, &found)?;
            let linked = rustix::fs::linkat(CWD, &blob, folder, name, AtFlags::empty());
            if linked == Err(Errno::MLINK) {
                self.renew(entry, &blob)?;
                rustix::fs::linkat(CWD, &blob, folder, name, AtFlags::empty())
            } else {
                linked
            }
        };
        match placed {
            Err(Errno::EXIST) => Err(NotMade::SameName(shown())),
            placed => Ok(placed.map_err(io::Error::from)?),
        }
    }

    /// Gives the blob the mode and the time that the tree wants for it.
    fn make_alike(&self, entry: &Entry<'_>, blob: &Path, found: &Metadata) -> io::Result<()> {
        let mtime_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        if found.mode() & 0o7777 == mode_of(entry) && mtime_ns == i128::from(entry.mtime_ns) {
            return Ok(());
        }
        if found.nlink() > 1 {
            return self.renew(entry, blob);
        }
        let file = File::open(blob)?;
        dress(&file, entry)
    }

    /// A file of its own for the blob, in place of the one that trees have.
    fn renew(&self, entry: &Entry<'_>, blob: &Path) -> io::Result<()> {
        let draft = self.temporary();
        let copied = fs::copy(blob, &draft).and_then(|_| dress(&File::open(&draft)?, entry));
        let renewed = copied.and_then(|()| {
            // It is never without a file.
            fs::hard_link(blob, self.folder.join("old").join(crate::auth::random_hex(16)))?;
            fs::rename(&draft, blob)
        });
        if renewed.is_err() {
            drop(fs::remove_file(&draft));
        }
        renewed
    }

    fn lock_file(&self) -> io::Result<File> {
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.folder.join("lock"))
    }

    /// Only one at a time names files of blobs, or removes any.
    fn alone(&self) -> io::Result<File> {
        let lock = self.lock_file()?;
        lock.lock()?;
        Ok(lock)
    }

    fn try_alone(&self) -> io::Result<Option<File>> {
        let lock = self.lock_file()?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn mode_of(entry: &Entry<'_>) -> u32 {
    match entry.mode {
        EntryMode::Executable => 0o755,
        EntryMode::File | EntryMode::Link => 0o644,
    }
}

fn times(mtime_ns: i64) -> Timestamps {
    let second = 1_000_000_000;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime_ns.div_euclid(second),
            tv_nsec: mtime_ns.rem_euclid(second),
        },
    }
}

/// Its access time says when it was last sent or changed.
fn dress(file: &File, entry: &Entry<'_>) -> io::Result<()> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode_of(entry)))?;
    let mut times = times(entry.mtime_ns);
    times.last_access.tv_nsec = UTIME_NOW;
    Ok(rustix::fs::futimens(file.as_fd(), &times)?)
}

pub(super) fn is_older(at: io::Result<SystemTime>, than: std::time::Duration) -> bool {
    at.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > than))
}

/// Is this file still the one of that name?
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    }
}

pub(super) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}
