//! How often the images are used that are not unpacked: of each an empty-looking file, as long in bytes as it was used
//! in steps. Workers and local runs of a data directory count together, and a crash loses nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of an image that was not used for so long nothing more is known.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) struct Uses {
    folder: PathBuf,
}

impl Uses {
    /// Beside the folder of the unpacked images.
    pub(super) fn open(images: &Path) -> io::Result<Uses> {
        let folder = images.with_file_name("image-uses");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            // One that another worker has just removed is as well.
            let used = path.metadata().and_then(|meta| meta.modified());
            if used.is_ok_and(|used| used.elapsed().is_ok_and(|since| since > FORGOTTEN)) {
                drop(fs::remove_file(&path));
            }
        }
        Ok(Uses { folder })
    }

    /// One more; answers how many there were before.
    pub(super) fn count(&self, digest: &str) -> io::Result<u64> {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(digest))?;
        file.write_all(b".")?;
        Ok(file.metadata()?.len().saturating_sub(1))
    }

    /// It is unpacked.
    pub(super) fn forget(&self, digest: &str) {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!("the uses of image {digest} stay counted: {error}");
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(digest.rsplit(':').next().unwrap_or(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_together_and_forgotten() {
        let data = tempfile::tempdir().unwrap();
        let images = data.path().join("cache").join("images");
        let (one, other) = (Uses::open(&images).unwrap(), Uses::open(&images).unwrap());
        assert_eq!(one.count("sha256:aa").unwrap(), 0);
        assert_eq!(other.count("sha256:aa").unwrap(), 1);
        assert_eq!(one.count("sha256:bb").unwrap(), 0);
        one.forget("sha256:aa");
        one.forget("sha256:aa");
        assert_eq!(other.count("sha256:aa").unwrap(), 0);
        let old = std::time::SystemTime::now() - FORGOTTEN - Duration::from_secs(1);
        let file = fs::File::options().write(true).open(other.path("sha256:bb")).unwrap();
        file.set_modified(old).unwrap();
        let again = Uses::open(&images).unwrap();
        assert_eq!(again.count("sha256:bb").unwrap(), 0);
        assert_eq!(again.count("sha256:aa").unwrap(), 1);
    }
}
