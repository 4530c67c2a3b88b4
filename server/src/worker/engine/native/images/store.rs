//! The folder of unpacked images. Several workers share it, any of them may die at any moment.
//!
//! An image is a folder named after its id: `rootfs`, `config.json`, `size`, `whole`, `lock`. It is made as
//! `tmp-ID` by whoever holds its `lock` alone, and gets its name when it is whole. Who uses it shares the lock; who
//! evicts it has to hold it alone. The lock goes where the folder goes, and counts only while it lies there.
//!
//! A crash of the whole machine may lose what was written last, after the name was given. `whole` says so: it has the
//! boot in which the image was made, until all of it is on the disk, which nobody waits for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::super::docker::ImageConfig;
use super::super::unpack;
use super::Image;
use crate::worker::disk;

const DRAFT: &str = "tmp-";
/// What is being removed. Nobody looks for it, so that it needs no lock.
const DOOMED: &str = "tmp-gone-";
const ON_DISK: &str = "on disk";

#[derive(Clone)]
pub(super) struct Store {
    folder: PathBuf,
}

/// Who makes the image.
pub(super) enum Drafting {
    Mine(Draft),
    /// It has just been made.
    There,
    /// Answers when the other one has ended: with a draft to go on with where it died.
    Others(std::pin::Pin<Box<dyn Future<Output = io::Result<Option<Draft>>> + Send>>),
}

/// A folder in which an image is being made. What does not become one is removed.
pub(super) struct Draft {
    path: PathBuf,
    lock: Option<File>,
}

impl Store {
    pub(super) fn open(folder: &Path) -> io::Result<Store> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Store { folder: folder.to_owned() })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn place(&self, image_id: &str) -> Option<PathBuf> {
        let hex = image_id.strip_prefix("sha256:")?;
        is_hash(hex).then(|| self.folder.join(hex))
    }

    /// Takes an image into use, where it is here.
    pub(super) fn image(&self, image_id: &str) -> Option<Image> {
        let place = self.place(image_id)?;
        let lock = place.join("lock");
        let held = File::open(&lock).ok()?;
        held.try_lock_shared().ok()?;
        if !is_at(&held, &lock) || !is_whole(&place) {
            return None;
        }
        let config = serde_json::from_slice(&fs::read(place.join("config.json")).ok()?).ok()?;
        let rootfs = place.join("rootfs");
        let image = Image { digest: image_id.to_owned(), rootfs, lock, config, _held: held };
        self.used(&image);
        Some(image)
    }

    /// Nobody has taken it away by hand.
    pub(super) fn has(&self, image: &Image) -> bool {
        is_at(&image._held, &image.lock)
    }

    /// Those that were used least recently are evicted first. Where it cannot be noted, one is evicted too early.
    pub(super) fn used(&self, image: &Image) {
        if let Err(error) = image._held.set_modified(SystemTime::now()) {
            tracing::debug!("{} does not say when it was used last: {error}", image.lock.display());
        }
    }

    pub(super) fn draft(&self, image_id: &str) -> io::Result<Drafting> {
        let place = self.place(image_id).ok_or_else(|| io::Error::other("its id is no sha256:..."))?;
        let mut name = std::ffi::OsString::from(DRAFT);
        name.push(place.file_name().unwrap_or_default());
        let path = self.folder.join(name);
        loop {
            let lock = open_lock(&path)?;
            if lock.try_lock().is_ok() {
                if !is_at(&lock, &path.join("lock")) {
                    continue;
                }
                let draft = Draft { path, lock: Some(lock) };
                if self.image(image_id).is_some() {
                    return Ok(Drafting::There);
                }
                // What is there under its name was not whole, or cannot be read.
                evict(&place)?;
                draft.empty()?;
                return Ok(Drafting::Mine(draft));
            }
            let (store, image_id) = (self.clone(), image_id.to_owned());
            return Ok(Drafting::Others(Box::pin(async move {
                wait_for(lock).await?;
                match store.image(&image_id) {
                    Some(_) => Ok(None),
                    None => match store.draft(&image_id)? {
                        Drafting::Mine(draft) => Ok(Some(draft)),
                        Drafting::There => Ok(None),
                        Drafting::Others(wait) => wait.await,
                    },
                }
            })));
        }
    }

    /// Removes drafts whose makers died.
    pub(super) fn sweep(&self) {
        for path in self.folders(|name| name.starts_with(DRAFT)) {
            let is_doomed =
                path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(DOOMED.as_bytes()));
            let removed = if is_doomed { unpack::remove_folder(&path) } else { evict(&path).map(drop) };
            if let Err(error) = removed {
                tracing::warn!("{} cannot be removed: {error}", path.display());
            }
        }
    }

    /// Removes images that nobody uses until all together have no more than this, those first that were used least
    /// recently.
    pub(super) fn evict(&self, bound_bytes: u64) {
        let mut images: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for path in self.folders(is_hash) {
            let used = fs::metadata(path.join("lock")).and_then(|lock| lock.modified());
            images.push((used.unwrap_or(SystemTime::UNIX_EPOCH), size_of_image(&path), path));
        }
        images.sort();
        let mut bytes: u64 = images.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size_bytes, path) in images {
            if bytes <= bound_bytes {
                return;
            }
            match evict(&path) {
                Ok(true) => bytes -= size_bytes,
                Ok(false) => {}
                Err(error) => tracing::warn!("{} cannot be evicted: {error}", path.display()),
            }
        }
    }

    /// Otherwise what is short, in words.
    pub(super) fn make_room(&self, bytes: u64, bound_bytes: u64) -> Option<String> {
        self.evict(bound_bytes.saturating_sub(bytes));
        let room = match disk::room(&self.folder) {
            Ok(room) => room,
            Err(why) => return Some(why),
        };
        (room.free_bytes < room.floor_bytes.saturating_add(bytes)).then(|| {
            format!(
                "an image of {} MiB has no room: {} MiB are free on the disk of {}, of which {} MiB have to stay",
                bytes >> 20,
                room.free_bytes >> 20,
                self.folder.display(),
                room.floor_bytes >> 20
            )
        })
    }

    fn folders(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| wanted(name)).map(|name| self.folder.join(name)).collect()
    }
}

impl Draft {
    pub(super) fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }

    /// Removes what one who died here may have left.
    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() != "lock" {
                unpack::remove_folder(&entry.path())?;
            }
        }
        DirBuilder::new().mode(0o755).create(self.rootfs())?;
        DirBuilder::new().mode(0o700).create(self.spool())
    }

    /// Makes it an image.
    pub(super) fn keep(mut self, config: &ImageConfig, bytes: u64) -> io::Result<()> {
        fs::remove_dir(self.spool())?;
        fs::write(self.path.join("config.json"), serde_json::to_vec(config)?)?;
        fs::write(self.path.join("size"), bytes.to_string())?;
        fs::write(self.path.join("whole"), this_boot()?)?;
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let place = self.path.with_file_name(name.trim_start_matches(DRAFT));
        let Some(lock) = self.lock.take() else { return Ok(()) };
        // Before it has its name: under that, others may use it, and none evicts it.
        let named = lock.lock_shared().and_then(|()| fs::rename(&self.path, &place));
        if let Err(error) = named {
            self.lock = Some(lock);
            return Err(error);
        }
        // A thread of its own: an end of this process does not wait for it, and then the next boot unpacks again.
        std::thread::spawn(move || {
            if let Err(error) = note_on_disk(&place) {
                tracing::warn!("{} would not survive a crash of this machine: {error}", place.display());
            }
            drop(lock);
        });
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.lock.is_some()
            && let Err(error) = discard(&self.path)
        {
            tracing::warn!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

fn note_on_disk(place: &Path) -> io::Result<()> {
    let folder = File::open(place)?;
    rustix::fs::syncfs(&folder)?;
    let draft = place.join("whole.draft");
    fs::write(&draft, ON_DISK)?;
    fs::rename(draft, place.join("whole"))
}

/// Removes an image or a draft that nobody uses; is it gone now?
fn evict(place: &Path) -> io::Result<bool> {
    if !place.exists() {
        return Ok(true);
    }
    let lock = open_lock(place)?;
    if lock.try_lock().is_err() || !is_at(&lock, &place.join("lock")) {
        return Ok(false);
    }
    discard(place)?;
    Ok(true)
}

/// For who holds its lock alone. First its name goes: a crash leaves no half of it under that.
fn discard(place: &Path) -> io::Result<()> {
    let doomed = place.with_file_name(format!("{DOOMED}{}", crate::auth::random_hex(16)));
    fs::rename(place, &doomed)?;
    unpack::remove_folder(&doomed)
}

fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn open_lock(folder: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join("lock"))
}

/// Is this file still the one of that name?
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    }
}

/// In a thread of its own, for which the end of this process does not wait.
async fn wait_for(lock: File) -> io::Result<()> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(tell.send(lock.lock_shared())));
    told.await.unwrap_or_else(|_| Err(io::Error::other("the wait for another worker broke off")))
}

fn this_boot() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

fn is_whole(place: &Path) -> bool {
    let Ok(whole) = fs::read_to_string(place.join("whole")) else { return false };
    whole == ON_DISK || this_boot().is_ok_and(|boot| whole == boot)
}

fn size_of_image(place: &Path) -> u64 {
    // One that does not say so was not whole, and goes with the first.
    fs::read_to_string(place.join("size")).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}
