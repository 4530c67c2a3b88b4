//! The ids of steps whose records are gone: for a year, so that none of them is ever started a second time.
//!
//! 256 files by the first byte of an id's hash, each a row of equal entries: 16 bytes of hash, and the day as four
//! bytes. To look one up, one file is read; memory does not grow with them.

use common::StepId;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const HASH_BYTES: usize = 16;
const ENTRY_BYTES: usize = HASH_BYTES + 4;
const DAYS: u32 = 366;

pub(crate) struct Forgotten {
    folder: PathBuf,
}

impl Forgotten {
    /// Lets go of what is older than a year on the way.
    pub(crate) fn open(folder: &Path) -> io::Result<Forgotten> {
        fs::create_dir_all(folder)?;
        let today = day();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let old = fs::read(&path)?;
            let young = |entry: &&[u8]| today.saturating_sub(day_in(entry)) < DAYS;
            let new: Vec<u8> = old.chunks_exact(ENTRY_BYTES).filter(young).flatten().copied().collect();
            if new.len() != old.len() {
                let draft = folder.with_extension("draft");
                fs::write(&draft, new)?;
                fs::rename(draft, path)?;
            }
        }
        Ok(Forgotten { folder: folder.to_owned() })
    }

    /// Survives a loss of power from here on.
    pub(crate) fn add(&self, id: &StepId) -> io::Result<()> {
        let (path, hash) = self.place(id);
        let mut file = File::options().create(true).append(true).open(path)?;
        // A full disk may have taken a part of the last one only; all that follow would be misread.
        let len = file.metadata()?.len();
        let whole = len - len % ENTRY_BYTES as u64;
        if whole != len {
            file.set_len(whole)?;
        }
        let mut entry = hash.to_vec();
        entry.extend_from_slice(&day().to_be_bytes());
        file.write_all(&entry)?;
        file.sync_all()
    }

    pub(crate) fn has(&self, id: &StepId) -> io::Result<bool> {
        let (path, hash) = self.place(id);
        match fs::read(path) {
            Ok(entries) => Ok(entries.chunks_exact(ENTRY_BYTES).any(|entry| entry[..HASH_BYTES] == hash)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn place(&self, id: &StepId) -> (PathBuf, [u8; HASH_BYTES]) {
        let digest = Sha256::digest(id.as_str());
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&digest[..HASH_BYTES]);
        (self.folder.join(format!("{:02x}", hash[0])), hash)
    }
}

fn day_in(entry: &[u8]) -> u32 {
    entry[HASH_BYTES..].iter().fold(0, |day, byte| day << 8 | u32::from(*byte))
}

fn day() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs() / 86_400).unwrap_or(u32::MAX)
}
