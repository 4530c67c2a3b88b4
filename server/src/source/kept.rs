//! What a run has of its source: a folder with the manifest, with what is said of it to people, and with the bytes of
//! those files that only lay on the disk. The others are git's, or are read from where they lay.

use common::{BlobId, Entry, EntryMode, Manifest, RunSource, TreeId};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::SourceError;
use super::files::{Looks, path_of};
use super::git::Objects;
use super::ids::open;

const MANIFEST: &str = "manifest";
const PACK: &str = "kept";
const FACTS: &str = "source.json";

/// The snapshot that a run has taken, as it lies in the run's folder.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) record: RunSource,
    pub(crate) tree: TreeId,
    folder: PathBuf,
    facts: Facts,
    kept: HashMap<BlobId, (u64, u64)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Facts {
    record: RunSource,
    root: OsString,
    repos: Vec<OsString>,
    /// Where in the pack each kept blob begins, and how long it is.
    kept: Vec<(BlobId, u64, u64)>,
}

/// The bytes of one file of a source, and how many there are.
pub(crate) struct Blob {
    pub(crate) id: BlobId,
    pub(crate) size_bytes: u64,
    pub(crate) bytes: Box<dyn Read + Send>,
}

/// Whether whoever takes blobs takes another one.
pub(crate) enum Wanted {
    More,
    NoMore,
}

/// Kept blobs, one after the other.
pub(super) struct Pack {
    path: PathBuf,
    file: File,
    length: u64,
    places: HashMap<BlobId, (u64, u64)>,
}

impl Pack {
    pub(super) fn create(folder: &Path) -> io::Result<Pack> {
        let path = folder.join(PACK);
        Ok(Pack { file: File::create(&path)?, path, length: 0, places: HashMap::new() })
    }

    pub(super) fn add(&mut self, id: BlobId, bytes: &[u8]) -> Result<(), SourceError> {
        if self.places.contains_key(&id) {
            return Ok(());
        }
        let not_stored = |error| SourceError::NotStored { path: self.path.clone(), error };
        self.file.write_all(bytes).map_err(not_stored)?;
        self.places.insert(id, (self.length, bytes.len() as u64));
        self.length += bytes.len() as u64;
        Ok(())
    }
}

pub(super) fn store(
    folder: &Path,
    root: PathBuf,
    repos: Vec<Vec<u8>>,
    record: RunSource,
    manifest: Vec<u8>,
    pack: Pack,
) -> io::Result<Source> {
    let kept = pack.places.iter().map(|(id, (from, length))| (*id, *from, *length)).collect();
    let repos = repos.into_iter().map(OsString::from_vec).collect();
    let facts = Facts { record: record.clone(), root: root.into(), repos, kept };
    std::fs::write(folder.join(MANIFEST), &manifest)?;
    std::fs::write(folder.join(FACTS), serde_json::to_vec(&facts)?)?;
    let tree = TreeId::of(&manifest);
    Ok(Source { record, tree, folder: folder.to_owned(), facts, kept: pack.places })
}

/// Of the snapshot in a run's folder; None where it has none.
pub(crate) fn manifest_in(folder: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(folder.join(MANIFEST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

impl Source {
    /// What an earlier process has stored; None where it has stored none.
    pub(crate) fn open(folder: &Path) -> io::Result<Option<Source>> {
        let facts = match std::fs::read(folder.join(FACTS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            facts => facts?,
        };
        let facts: Facts = serde_json::from_slice(&facts)?;
        let tree = TreeId::of(&std::fs::read(folder.join(MANIFEST))?);
        let kept = facts.kept.iter().map(|(id, from, length)| (*id, (*from, *length))).collect();
        Ok(Some(Source { record: facts.record.clone(), tree, folder: folder.to_owned(), facts, kept }))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The same, after its folder was given another name.
    pub(crate) fn moved_to(&self, folder: PathBuf) -> Source {
        Source { folder, ..self.clone() }
    }

    pub(crate) fn manifest(&self) -> io::Result<Vec<u8>> {
        std::fs::read(self.folder.join(MANIFEST))
    }

    /// Hands out the bytes of these blobs one after the other, as long as they are wanted. Each has the size that it
    /// says, or cannot be read to its end; whether its bytes are still those of its id the worker finds out.
    pub(crate) fn blobs(
        &self,
        ids: &[BlobId],
        mut to: impl FnMut(Blob) -> io::Result<Wanted>,
    ) -> Result<(), SourceError> {
        let bytes = self.manifest().map_err(|error| self.not_stored(error))?;
        let places = self.places(&bytes, ids)?;
        let mut objects = HashMap::new();
        for id in ids {
            // What is wanted and belongs to no file is not ours to send.
            let Some(entry) = places.get(id) else { continue };
            let blob = match self.kept.get(id) {
                Some(place) => self.packed_blob(*id, *place).map_err(|error| self.not_stored(error))?,
                None => self.blob_on_disk(entry).map_or_else(|| self.blob_of_git(entry, &mut objects), Ok)?,
            };
            let root = Path::new(&self.facts.root);
            match to(blob).map_err(|_| SourceError::Changed(path_of(root, entry.path)))? {
                Wanted::More => {}
                Wanted::NoMore => return Ok(()),
            }
        }
        Ok(())
    }

    /// The blobs in portions of at most so many bytes, or of one blob that is larger.
    pub(crate) fn batches(
        &self,
        ids: &[BlobId],
        most_bytes: u64,
        most: usize,
    ) -> Result<Vec<Vec<BlobId>>, SourceError> {
        let bytes = self.manifest().map_err(|error| self.not_stored(error))?;
        let places = self.places(&bytes, ids)?;
        let (mut batches, mut batch, mut room) = (Vec::new(), Vec::new(), most_bytes);
        for id in ids {
            let size_bytes = places.get(id).map_or(0, |entry| entry.size_bytes);
            if !batch.is_empty() && (size_bytes > room || batch.len() >= most) {
                batches.push(std::mem::take(&mut batch));
                room = most_bytes;
            }
            room = room.saturating_sub(size_bytes);
            batch.push(*id);
        }
        batches.extend(Some(batch).filter(|batch| !batch.is_empty()));
        Ok(batches)
    }

    /// A file that has these bytes, where there is any.
    pub(crate) fn path_of(&self, id: &BlobId) -> Option<PathBuf> {
        let bytes = self.manifest().ok()?;
        let places = self.places(&bytes, &[*id]).ok()?;
        places.get(id).map(|entry| path_of(Path::new(&self.facts.root), entry.path))
    }

    fn not_stored(&self, error: io::Error) -> SourceError {
        SourceError::NotStored { path: self.folder.clone(), error }
    }

    fn places<'a>(
        &self,
        manifest: &'a [u8],
        ids: &[BlobId],
    ) -> Result<HashMap<BlobId, Entry<'a>>, SourceError> {
        let manifest = Manifest::parse(manifest).map_err(|bad| self.not_stored(io::Error::other(bad)))?;
        let wanted: HashSet<&BlobId> = ids.iter().collect();
        let mut places = HashMap::new();
        for entry in manifest.entries().filter(|entry| wanted.contains(&entry.blob)) {
            places.entry(entry.blob).or_insert(entry);
        }
        Ok(places)
    }

    fn packed_blob(&self, id: BlobId, (from, size_bytes): (u64, u64)) -> io::Result<Blob> {
        let mut pack = File::open(self.folder.join(PACK))?;
        pack.seek(SeekFrom::Start(from))?;
        Ok(Blob { id, size_bytes, bytes: Box::new(pack.take(size_bytes)) })
    }

    /// Where it looks as it did.
    fn blob_on_disk(&self, entry: &Entry<'_>) -> Option<Blob> {
        let path = path_of(Path::new(&self.facts.root), entry.path);
        let Entry { blob: id, size_bytes, .. } = *entry;
        if entry.mode == EntryMode::Link {
            let target = std::fs::read_link(&path).ok()?.into_os_string().into_vec();
            let is_same = target.len() as u64 == size_bytes;
            return is_same.then(|| Blob { id, size_bytes, bytes: Box::new(io::Cursor::new(target)) });
        }
        let file = open(&path).ok()?;
        let looks = Looks::of(&file.metadata().ok()?);
        let is_same = looks.size_bytes == size_bytes && looks.mtime_ns == entry.mtime_ns;
        is_same.then(|| Blob { id, size_bytes, bytes: Box::new(file.take(size_bytes)) })
    }

    fn blob_of_git(
        &self,
        entry: &Entry<'_>,
        objects: &mut HashMap<OsString, Option<Objects>>,
    ) -> Result<Blob, SourceError> {
        let root = Path::new(&self.facts.root);
        let changed = || SourceError::Changed(path_of(root, entry.path));
        let holds = |repo: &&OsString| {
            let repo = repo.as_bytes();
            repo.is_empty() || entry.path.strip_prefix(repo).is_some_and(|rest| rest.starts_with(b"/"))
        };
        let repo = self.facts.repos.iter().filter(holds).max_by_key(|repo| repo.len()).ok_or_else(changed)?;
        let objects = objects.entry(repo.clone()).or_insert_with(|| Objects::of(&root.join(repo)).ok());
        let read = objects.as_mut().and_then(|objects| objects.read(&entry.blob).ok().flatten());
        let bytes = read.ok_or_else(changed)?;
        let (id, size_bytes) = (entry.blob, bytes.len() as u64);
        Ok(Blob { id, size_bytes, bytes: Box::new(io::Cursor::new(bytes)) })
    }
}
