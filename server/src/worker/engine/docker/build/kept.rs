//! Which image was made of what, on the disk, for all workers of a data directory.
//!
//! `keys/KEY` holds an image's id. `images/ID` is there for each of them: when it was written last the image was used
//! last, and it holds the names that it was given. What has its name is whole.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(super) struct Kept {
    folder: PathBuf,
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

    pub(super) fn keep(&self, key: &str, image: &str) -> io::Result<()> {
        let hex = hex_of(image).ok_or_else(|| io::Error::other(format!("{image:?} is no id of an image")))?;
        match File::create_new(self.folder.join("images").join(hex)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.used(image),
            Err(error) => return Err(error),
        }
        self.write(&Path::new("keys").join(key), image)
    }

    /// A name is added to those that the image was given.
    pub(super) fn named(&self, image: &str, name: &str) {
        let Some(hex) = hex_of(image) else { return };
        let path = Path::new("images").join(hex);
        let mut names = fs::read_to_string(self.folder.join(&path)).unwrap_or_default();
        if names.lines().all(|known| known != name) {
            names.push_str(name);
            names.push('\n');
            if let Err(error) = self.write(&path, &names) {
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

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let draft = self.folder.join("tmp").join(crate::auth::random_hex(16));
        fs::write(&draft, text)?;
        fs::rename(draft, self.folder.join(path))
    }
}

/// The digits of an image's id, which are a name for a file.
fn hex_of(image: &str) -> Option<&str> {
    let hex = image.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hex)
}
