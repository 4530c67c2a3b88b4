//! The tree that was used last. The next one is most often the same but for a few files, and to give tens of thousands of
//! files their names once more takes longer than many a test. So where nobody uses it any more, it becomes the next one:
//! in the time that the changes take. Whoever wants the former again has it made again, in the same way.

use common::Manifest;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::store::{is_at, is_older, list};
use crate::limits;

pub(super) struct Latest {
    folder: PathBuf,
    manifest: Vec<u8>,
}

impl Latest {
    /// In the folder of a boot. None also where it cannot be read: it is of use, and never needed.
    pub(super) fn find(sources: &Path) -> Option<Latest> {
        let trees = list(&sources.join("trees")).ok()?.into_iter();
        let used = |tree: &PathBuf| fs::metadata(tree.join("lock")).and_then(|lock| lock.modified()).ok();
        let (_, folder) = trees.filter_map(|tree| Some((used(&tree)?, tree))).max()?;
        let manifest = fs::read(folder.join("manifest")).ok()?;
        Some(Latest { folder, manifest })
    }

    pub(super) fn manifest(&self) -> Option<Manifest<'_>> {
        Manifest::parse(&self.manifest).ok()
    }

    /// Moves it to where the next one is made, and takes away what said that it is whole; false where somebody uses it
    /// or did so just now. To be called by who alone may name files of blobs.
    pub(super) fn take(&self, draft: &Path) -> io::Result<bool> {
        let lock = self.folder.join("lock");
        let Ok(held) = File::open(&lock) else { return Ok(false) };
        let is_idle = held.try_lock().is_ok()
            && is_at(&held, &lock)
            && is_older(held.metadata()?.modified(), limits::SOURCE_IDLE);
        if is_idle {
            fs::rename(&self.folder, draft)?;
            // Whoever has it open finds that it is no longer the one of its name; the new tree gets its own.
            fs::remove_file(draft.join("lock"))?;
        }
        Ok(is_idle)
    }
}
