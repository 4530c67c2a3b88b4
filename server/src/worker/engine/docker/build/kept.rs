//! Which image was made of what, on the disk, for all workers of a data directory, and which of them are let go.
//!
//! `keys/KEY` holds ids of images, the one last that was made last: of one key there are several where it leaves files
//! out, and `baked/ID` says then which of these the image has. `images/ID` is there for each image: when it was written
//! last the image was used last, and it holds how many bytes it has of its own, and the names that it was given. What has
//! its name is whole.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::baked::Baked;

/// Of one key, in turns: as many as people work on a project in folders of their own.
const IMAGES_OF_KEY: usize = 8;

pub(super) struct Kept {
    folder: PathBuf,
}

/// An image of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) id: String,
    /// Without what the images have that it was built upon.
    pub(super) own_bytes: u64,
    pub(super) names: Vec<String>,
    pub(super) used: SystemTime,
}

impl Kept {
    pub(super) fn open(folder: &Path) -> io::Result<Kept> {
        for part in ["keys", "images", "baked", "tmp"] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder.join(part))?;
        }
        Ok(Kept { folder: folder.to_owned() })
    }

    /// The one first that was made last.
    pub(super) fn images_of(&self, key: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("keys").join(key)).unwrap_or_default();
        text.lines().rev().filter(|id| hex_of(id).is_some()).map(str::to_owned).collect()
    }

    /// Of an image that leaves no file out nothing is `baked`.
    pub(super) fn keep(
        &self,
        key: &str,
        image: &str,
        own_bytes: u64,
        baked: Option<Baked>,
    ) -> io::Result<()> {
        // Other workers write these too.
        let lock = File::create(self.folder.join("lock"))?;
        lock.lock()?;
        self.add(image, own_bytes)?;
        if let Some(baked) = baked {
            let hex = hex_of(image).ok_or_else(|| no_id(image))?;
            let baked = self.baked(image).map_or(Ok(baked.clone()), |before| before.or(&baked))?;
            self.write(&Path::new("baked").join(hex), &baked.to_bytes())?;
        }
        let mut images = self.images_of(key);
        images.retain(|other| other != image);
        images.truncate(IMAGES_OF_KEY - 1);
        images.reverse();
        images.push(image.to_owned());
        self.write(&Path::new("keys").join(key), images.join("\n").as_bytes())
    }

    pub(super) fn baked(&self, image: &str) -> Option<Baked> {
        Baked::read(&fs::read(self.folder.join("baked").join(hex_of(image)?)).ok()?)
    }

    /// One of which it is not known any more what it was made of, so that it can go when it is its turn.
    pub(super) fn add(&self, image: &str, own_bytes: u64) -> io::Result<()> {
        match self.read(image) {
            Some(_) => {
                self.used(image);
                Ok(())
            }
            None => self.write_image(image, own_bytes, &[]),
        }
    }

    /// A name is added to those that the image was given.
    pub(super) fn named(&self, image: &str, name: &str) {
        let Some(mut known) = self.read(image) else { return };
        if known.names.iter().all(|known| known != name) {
            known.names.push(name.to_owned());
            if let Err(error) = self.write_image(image, known.own_bytes, &known.names) {
                tracing::warn!("which names {image} has could not be written down: {error}");
            }
        }
    }

    /// Of no effect on an image that is none of these.
    pub(super) fn used(&self, image: &str) {
        let Some(hex) = hex_of(image) else { return };
        if let Ok(file) = File::open(self.folder.join("images").join(hex))
            && let Err(error) = file.set_modified(SystemTime::now())
        {
            tracing::warn!("when {image} was used last could not be written down: {error}");
        }
    }

    /// All of them, the one first that was not used for longest.
    pub(super) fn images(&self) -> io::Result<Vec<Image>> {
        let mut images = Vec::new();
        for entry in fs::read_dir(self.folder.join("images"))? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            images.extend(self.read(&format!("sha256:{name}")));
        }
        images.sort_by_key(|image| image.used);
        Ok(images)
    }

    /// There is no such image any more.
    pub(super) fn forget(&self, image: &str) -> io::Result<()> {
        for entry in fs::read_dir(self.folder.join("keys"))? {
            let path = entry?.path();
            // Others of that key are made again when they are wanted.
            if fs::read_to_string(&path).is_ok_and(|ids| ids.lines().any(|id| id == image)) {
                fs::remove_file(path)?;
            }
        }
        let hex = hex_of(image).ok_or_else(|| no_id(image))?;
        match fs::remove_file(self.folder.join("baked").join(hex)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::remove_file(self.folder.join("images").join(hex))
    }

    fn read(&self, image: &str) -> Option<Image> {
        let path = self.folder.join("images").join(hex_of(image)?);
        let used = fs::metadata(&path).and_then(|file| file.modified()).ok()?;
        let text = fs::read_to_string(path).ok()?;
        let mut lines = text.lines();
        let own_bytes = lines.next()?.parse().ok()?;
        Some(Image { id: image.to_owned(), own_bytes, names: lines.map(str::to_owned).collect(), used })
    }

    fn write_image(&self, image: &str, own_bytes: u64, names: &[String]) -> io::Result<()> {
        let hex = hex_of(image).ok_or_else(|| no_id(image))?;
        let names: String = names.iter().map(|name| format!("{name}\n")).collect();
        self.write(&Path::new("images").join(hex), format!("{own_bytes}\n{names}").as_bytes())
    }

    fn write(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let draft = self.folder.join("tmp").join(crate::auth::random_hex(16));
        fs::write(&draft, text)?;
        fs::rename(draft, self.folder.join(path))
    }
}

fn no_id(image: &str) -> io::Error {
    io::Error::other(format!("{image:?} is no id of an image"))
}

/// The digits of an image's id, which are a name for a file.
fn hex_of(image: &str) -> Option<&str> {
    let hex = image.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hex)
}
