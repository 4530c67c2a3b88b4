//! What a build sees: a folder of the source without what its `.dockerignore` leaves out, and a Dockerfile. Both are
//! looked up by the kernel as if the source were the root of everything, so that no path and no link leads out of it.

use common::{Build, Entry, EntryMode, Manifest};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use super::super::super::Tree;
use super::super::archive::Archive;
use super::baked::Baked;
use super::ignore::{Ignore, clean};

const IGNORE: &str = ".dockerignore";

/// Of a Dockerfile or a `.dockerignore`.
const MOST_BYTES: u64 = 1024 * 1024;

pub(super) struct Context {
    tree: Arc<Tree>,
    /// The folder, from the root of the source, and a slash; nothing for the root itself.
    within: Vec<u8>,
    /// What Docker is told that it is called.
    pub(super) dockerfile_name: String,
    pub(super) dockerfile: Vec<u8>,
    /// It lies elsewhere in the source, and is put into the archive beside the folder's files.
    is_elsewhere: bool,
    ignore: Option<Vec<u8>>,
}

/// Why nothing can be built of it.
#[derive(Debug)]
pub(super) enum Unseen {
    /// In words for who wrote the files.
    Wrong(String),
    Io(io::Error),
}

impl From<io::Error> for Unseen {
    fn from(error: io::Error) -> Unseen {
        Unseen::Io(error)
    }
}

impl Context {
    pub(super) fn look(tree: Arc<Tree>, build: &Build) -> Result<Context, Unseen> {
        let root = File::open(tree.files())?;
        let real_root = place_of(&root)?;
        let no = |what: &str, path: &str| Unseen::Wrong(format!("the source has no {what} {path:?}"));
        let folder =
            beneath(&root, &build.context, OFlags::DIRECTORY)?.ok_or_else(|| no("folder", &build.context))?;
        let within = from_root(&real_root, &place_of(&folder)?)?;
        let file = beneath(&root, &build.dockerfile, OFlags::empty())?;
        let file = file.ok_or_else(|| no("file", &build.dockerfile))?;
        let path = from_root(&real_root, &place_of(&file)?)?;
        let dockerfile = read(file, &build.dockerfile)?;
        let within = if within.is_empty() { within } else { [&within[..], b"/"].concat() };
        let name = path.strip_prefix(&within[..]).and_then(|name| String::from_utf8(name.to_vec()).ok());
        let is_elsewhere = name.is_none();
        let own_name = || {
            let hash: String =
                Sha256::digest(&dockerfile).iter().take(8).map(|b| format!("{b:02x}")).collect();
            format!(".dockerfile.{hash}")
        };
        let dockerfile_name = name.unwrap_or_else(own_name);
        let ignore = match beneath(&folder, IGNORE, OFlags::empty())? {
            Some(file) => Some(read(file, IGNORE)?),
            None => None,
        };
        Ok(Context { tree, within, dockerfile_name, dockerfile, is_elsewhere, ignore })
    }

    /// Equal for equal files, whenever they were written.
    pub(super) fn hash(&self) -> Result<[u8; 32], Unseen> {
        let mut hash = Sha256::new();
        self.each(|entry, is_in| {
            if is_in {
                add(&mut hash, &entry);
            }
            Ok(())
        })?;
        Ok(hash.finalize().into())
    }

    /// Equal as long as the files are that `rebuild_on` names; and all that there are. Links are always among them:
    /// which file one leads to, no tool sees by the time of either.
    pub(super) fn named(&self, rebuild_on: &[String]) -> Result<([u8; 32], Baked), Unseen> {
        let ignore = self.ignore.clone().unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(format!("rebuild_on {} {}\n", self.within.len(), ignore.len()));
        hash.update(&self.within);
        hash.update(&ignore);
        let patterns = rebuild_on.iter().map(String::as_str);
        let mut named = Ignore::of(patterns, "rebuild_on").map_err(Unseen::Wrong)?;
        let mut plain: Vec<(&String, String, bool)> = rebuild_on
            .iter()
            .filter(|pattern| !pattern.contains(['*', '?', '[', '\\', '!']))
            .filter_map(|pattern| Some((pattern, clean(pattern.trim())?, false)))
            .collect();
        let (mut matched, mut files) = (false, Vec::new());
        self.each(|entry, is_in| {
            if !is_in {
                return Ok(());
            }
            let is_named = named.matches(entry.path);
            if is_named || entry.mode == EntryMode::Link {
                add(&mut hash, &entry);
            }
            matched |= is_named;
            for (_, path, is_there) in &mut plain {
                let rest = entry.path.strip_prefix(path.as_bytes());
                *is_there |= path == "." || rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
            }
            files.push((Entry { path: &[], ..entry }, [&self.within, entry.path].concat()));
            Ok(())
        })?;
        let has = "has, so that nothing would make the image anew if it changed: write it as it is, or with * in it";
        if let Some((pattern, ..)) = plain.iter().find(|(.., is_there)| !is_there) {
            return Err(Unseen::Wrong(format!(
                "rebuild_on names {pattern:?}, which no file of the context {has}"
            )));
        }
        if !matched {
            return Err(Unseen::Wrong(format!(
                "rebuild_on is {rebuild_on:?}, which no file of the context {has}"
            )));
        }
        let entries = files.iter().map(|(entry, path)| Entry { path, ..*entry }).collect();
        let files = Manifest::format(entries);
        Ok((hash.finalize().into(), Baked { within: self.within.clone(), ignore, files, made_ns: 0 }))
    }

    /// Dockerfile and `.dockerignore` are told to Docker in any case. It removes them itself where they are left out.
    pub(super) fn write(&self, archive: &mut Archive) -> io::Result<()> {
        let folder = self.tree.files().join(std::ffi::OsStr::from_bytes(&self.within));
        let written = self.each(|entry, is_in| {
            let is_ignore = entry.path == IGNORE.as_bytes();
            let is_told = entry.path == self.dockerfile_name.as_bytes() || is_ignore;
            if is_ignore && self.is_elsewhere || !is_in && !is_told {
                return Ok(());
            }
            archive.entry(&entry, &folder)
        });
        written.map_err(|unseen| match unseen {
            Unseen::Wrong(wrong) => io::Error::other(wrong),
            Unseen::Io(error) => error,
        })?;
        if self.is_elsewhere {
            // As `docker build` does it: what the folder does not have is left out of it again.
            let ignore = self.ignore.as_deref().unwrap_or(IGNORE.as_bytes());
            let ignore = [ignore, b"\n", self.dockerfile_name.as_bytes(), b"\n"].concat();
            archive.file(IGNORE.as_bytes(), &ignore)?;
            archive.file(self.dockerfile_name.as_bytes(), &self.dockerfile)?;
        }
        Ok(())
    }

    /// Goes through the folder's files, with paths from there, and says which of them are not left out.
    fn each(&self, mut take: impl FnMut(Entry<'_>, bool) -> io::Result<()>) -> Result<(), Unseen> {
        let manifest = self.tree.manifest()?;
        let manifest = Manifest::parse(&manifest).map_err(io::Error::other)?;
        let mut ignore =
            self.ignore.as_deref().map_or(Ok(Ignore::default()), Ignore::read).map_err(Unseen::Wrong)?;
        for entry in manifest.entries() {
            if let Some(path) = entry.path.strip_prefix(&self.within[..]) {
                let is_in = !ignore.matches(path);
                take(Entry { path, ..entry }, is_in)?;
            }
        }
        Ok(())
    }
}

fn add(hash: &mut Sha256, entry: &Entry<'_>) {
    hash.update(format!("{} {} ", entry.mode.word(), entry.blob));
    hash.update(entry.path);
    hash.update([0]);
}

/// None where there is nothing of that kind that does not lead out of the folder.
fn beneath(folder: &File, path: &str, kind: OFlags) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | kind;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve) {
        Ok(found) => {
            let found = File::from(found);
            let fits = kind.contains(OFlags::DIRECTORY) || found.metadata()?.is_file();
            Ok(fits.then_some(found))
        }
        Err(error) => {
            use rustix::io::Errno;
            match error {
                Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG => Ok(None),
                error => Err(error.into()),
            }
        }
    }
}

/// Where it lies, through all links.
fn place_of(file: &File) -> io::Result<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn from_root(root: &Path, place: &Path) -> io::Result<Vec<u8>> {
    let path = place.strip_prefix(root).map_err(|_| io::Error::other("it lies outside of the source"))?;
    Ok(path.as_os_str().as_bytes().to_vec())
}

fn read(file: File, path: &str) -> Result<Vec<u8>, Unseen> {
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Unseen::Wrong(format!("{path:?} has more than 1 MiB")));
    }
    Ok(bytes)
}
