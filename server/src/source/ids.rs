//! Gives each file its id. Git's is believed where the file looks as it did when git read it, and our own from an
//! earlier snapshot likewise; all others are read, and of these the bytes are kept, as far as there is room.

use common::{BlobId, EntryMode};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::SourceError;
use super::files::{Found, Looks, in_parts, is_gone, path_of};
use super::kept::Pack;

/// Of which kind the ids of a repository are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
}

/// How much of what git does not have a run keeps, so that it is still there when the files were changed since.
const KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// A file that was changed so short ago may be changed once more and look the same.
const SETTLED_NS: i64 = 2_000_000_000;

/// How often a file is read that is another one at the end than at the beginning.
const TRIES: usize = 5;

pub(super) struct Identified {
    pub(super) files: Vec<(Found, BlobId)>,
    pub(super) pack: Pack,
    /// A file is another one than git takes it for.
    pub(super) differs: bool,
}

pub(super) fn identify(
    root: &Path,
    found: Vec<Found>,
    hash: Hash,
    memory: &mut Memory,
    pack: Pack,
) -> Result<Identified, SourceError> {
    let mut files = Vec::with_capacity(found.len());
    let mut unknown = Vec::new();
    for file in found {
        match file.known {
            Some((id, true)) => files.push((file, id)),
            Some((_, false)) | None => unknown.push(file),
        }
    }
    let (remembered, mut unread): (Vec<_>, Vec<_>) =
        unknown.into_iter().map(|file| (memory.recall(&file), file)).partition(|(id, _)| id.is_some());
    // The small ones first, so that as many as can be are kept.
    unread.sort_by_key(|(_, file)| file.looks.size_bytes);
    let mut room = KEPT_BYTES;
    let unread: Vec<(Found, bool)> = (unread.into_iter())
        .map(|(_, file)| {
            let is_kept = file.looks.size_bytes <= room;
            room -= if is_kept { file.looks.size_bytes } else { 0 };
            (file, is_kept)
        })
        .collect();
    let began_ns = now_ns();
    let pack = Mutex::new(pack);
    let read = in_parts(unread, |part| {
        let mut read = Vec::with_capacity(part.len());
        for (file, is_kept) in part {
            if let Some((file, id)) = read_one(root, file, hash, is_kept.then_some(&pack))? {
                read.push((file, id));
            }
        }
        Ok(read)
    })?;
    for (file, id) in &read {
        if file.looks.mtime_ns.max(file.looks.ctime_ns) < began_ns - SETTLED_NS {
            memory.remember(file, *id);
        }
    }
    files.extend(remembered.into_iter().filter_map(|(id, file)| Some((file, id?))));
    files.extend(read);
    let differs = files.iter().any(|(file, id)| file.known.is_some_and(|(known, _)| known != *id));
    let pack = pack.into_inner().expect("no panic under this lock");
    Ok(Identified { files, pack, differs })
}

/// A file with the id of the bytes that were read of it, or None where it is gone by now.
fn read_one(
    root: &Path,
    mut file: Found,
    hash: Hash,
    pack: Option<&Mutex<Pack>>,
) -> Result<Option<(Found, BlobId)>, SourceError> {
    let path = path_of(root, &file.path);
    let unreadable = |error| SourceError::Unreadable { path: path.clone(), error };
    for _ in 0..TRIES {
        if file.mode == EntryMode::Link {
            let target = match std::fs::read_link(&path) {
                Ok(target) => target,
                Err(error) if is_gone(&error) => return Ok(None),
                Err(error) => return Err(unreadable(error)),
            };
            let target = target.as_os_str().as_bytes();
            file.looks.size_bytes = target.len() as u64;
            let id = hash.of(target);
            keep(pack, id, target)?;
            return Ok(Some((file, id)));
        }
        let mut opened = match open(&path) {
            Ok(opened) => opened,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        file.looks = Looks::of(&opened.metadata().map_err(unreadable)?);
        let size_bytes = file.looks.size_bytes;
        // What has grown beyond all room since it was looked at is read like one that is too large from the start.
        let id = if let Some(pack) = pack.filter(|_| size_bytes <= KEPT_BYTES) {
            let mut bytes = Vec::with_capacity(size_bytes as usize);
            opened.by_ref().take(size_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
            if bytes.len() as u64 != size_bytes {
                continue;
            }
            let id = hash.of(&bytes);
            keep(Some(pack), id, &bytes)?;
            id
        } else {
            match hash.of_stream(&mut opened, size_bytes).map_err(unreadable)? {
                Some(id) => id,
                None => continue,
            }
        };
        if Looks::of(&opened.metadata().map_err(unreadable)?) == file.looks {
            return Ok(Some((file, id)));
        }
    }
    Err(SourceError::NeverStill(path))
}

fn keep(pack: Option<&Mutex<Pack>>, id: BlobId, bytes: &[u8]) -> Result<(), SourceError> {
    let Some(pack) = pack else { return Ok(()) };
    pack.lock().expect("no panic under this lock").add(id, bytes)
}

/// Opens what is a file, and nothing else: a pipe would never answer.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

impl Hash {
    pub(super) fn of(self, bytes: &[u8]) -> BlobId {
        match self.of_stream(&mut &bytes[..], bytes.len() as u64) {
            Ok(Some(id)) => id,
            Ok(None) | Err(_) => unreachable!("memory is as long as it is, and can be read"),
        }
    }

    /// None where there are not as many bytes as it was said.
    fn of_stream(self, from: &mut impl io::Read, size_bytes: u64) -> io::Result<Option<BlobId>> {
        fn feed<D: Digest>(from: &mut impl io::Read, size_bytes: u64) -> io::Result<Option<D>> {
            let mut hash = D::new_with_prefix(format!("blob {size_bytes}\0"));
            let mut left = size_bytes;
            let mut piece = vec![0; PIECE.min(size_bytes as usize + 1)];
            loop {
                match from.read(&mut piece)? {
                    0 => return Ok((left == 0).then_some(hash)),
                    read if read as u64 > left => return Ok(None),
                    read => {
                        hash.update(&piece[..read]);
                        left -= read as u64;
                    }
                }
            }
        }
        Ok(match self {
            Hash::Sha1 => feed::<Sha1>(from, size_bytes)?.map(|hash| BlobId::Sha1(hash.finalize().into())),
            Hash::Sha256 => {
                feed::<Sha256>(from, size_bytes)?.map(|hash| BlobId::Sha256(hash.finalize().into()))
            }
        })
    }
}

const PIECE: usize = 256 * 1024;

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Ids of files that were read before, by what these looked like then. A file of its own, which may be lost.
pub(super) struct Memory {
    file: PathBuf,
    before: HashMap<Vec<u8>, (Looks, BlobId)>,
    recalled: HashSet<Vec<u8>>,
    fresh: Vec<(Vec<u8>, Looks, BlobId)>,
}

impl Memory {
    pub(super) fn open(file: &Path) -> Memory {
        let text = std::fs::read(file).unwrap_or_default();
        let before = text.split(|byte| *byte == 0).filter_map(read_line).collect();
        Memory { file: file.to_owned(), before, recalled: HashSet::new(), fresh: Vec::new() }
    }

    fn recall(&mut self, file: &Found) -> Option<BlobId> {
        let (looks, id) = self.before.get(&file.path)?;
        let is_same = *looks == file.looks;
        is_same.then(|| {
            self.recalled.insert(file.path.clone());
            *id
        })
    }

    fn remember(&mut self, file: &Found, id: BlobId) {
        self.fresh.push((file.path.clone(), file.looks, id));
    }

    /// What is of no use any more is forgotten.
    pub(super) fn store(mut self) {
        if self.fresh.is_empty() && self.recalled.len() == self.before.len() {
            return;
        }
        self.before.retain(|path, _| self.recalled.contains(path));
        let mut text = Vec::new();
        let before = self.before.iter().map(|(path, (looks, id))| (path, looks, id));
        for (path, looks, id) in before.chain(self.fresh.iter().map(|(path, looks, id)| (path, looks, id))) {
            let Looks { size_bytes, mtime_ns, ctime_ns, inode } = looks;
            text.extend_from_slice(format!("{id} {size_bytes} {mtime_ns} {ctime_ns} {inode} ").as_bytes());
            text.extend_from_slice(path);
            text.push(0);
        }
        let draft = self.file.with_extension(std::process::id().to_string());
        let stored = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &self.file));
        if let Err(error) = stored {
            drop(std::fs::remove_file(&draft));
            // Nothing is lost but time.
            tracing::debug!("{} cannot be stored: {error}", self.file.display());
        }
    }
}

fn read_line(line: &[u8]) -> Option<(Vec<u8>, (Looks, BlobId))> {
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let mut word = || words.next();
    let text = |word: Option<&[u8]>| word.and_then(|word| std::str::from_utf8(word).ok().map(str::to_owned));
    let id = text(word())?.parse().ok()?;
    let looks = Looks {
        size_bytes: text(word())?.parse().ok()?,
        mtime_ns: text(word())?.parse().ok()?,
        ctime_ns: text(word())?.parse().ok()?,
        inode: text(word())?.parse().ok()?,
    };
    Some((word()?.to_vec(), (looks, id)))
}
