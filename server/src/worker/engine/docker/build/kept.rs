//! Which image was made of what, on the disk, for all workers of a data directory, and which of them are let go.
//!
//! `keys/KEY` holds an image's id. `images/ID` is there for each of them: when it was written last the image was used
//! last, and it holds how many bytes it has of its own, and the names that it was given. What has its name is whole.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
        for part in ["keys", "images", "tmp"] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder.join(part))?;
        }
        Ok(Kept { folder: folder.to_owned() })
    }

    pub(super) fn image_of(&self, key: &str) -> Option<String> {
        let id = fs::read_to_string(self.folder.join("keys").join(key)).ok()?;
        hex_of(&id).is_some().then_some(id)
    }

    pub(super) fn keep(&self, key: &str, image: &str, own_bytes: u64) -> io::Result<()> {
        self.add(image, own_bytes)?;
        self.write(&Path::new("keys").join(key), image)
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
            if fs::read_to_string(&path).is_ok_and(|id| id == image) {
                fs::remove_file(path)?;
            }
        }
        let hex = hex_of(image).ok_or_else(|| no_id(image))?;
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
        self.write(&Path::new("images").join(hex), &format!("{own_bytes}\n{names}"))
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
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
