//! The source under test, as it lies on disk at one moment: which files there are, and the id of each one's bytes.
//!
//! Where git keeps an unchanged file, its own id is believed and nothing is read; all else is read once, and what was
//! read is what the id is of. `git.rs` asks git what there is, `walk.rs` looks itself where there is no git, `files.rs`
//! looks at the disk, `ids.rs` makes ids, `kept.rs` is what a run has of its source from then on. Who sends it where is
//! not known here.

mod files;
mod git;
mod ids;
mod kept;
#[cfg(test)]
mod tests;
mod walk;

use common::{BlobId, Manifest, Reason, RunSource};
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use kept::{Source, Wanted, manifest_in};

/// Why there is no source, or not what it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{} has no source: it lies neither in a git work tree nor in a folder .bettertest/", .0.display())]
    NoProject(PathBuf),
    #[error("{} lies in a git work tree, and there is no git on this machine's PATH", .0.display())]
    NoGit(PathBuf),
    #[error("git cannot tell which files there are in {}: {why}", folder.display())]
    Git { folder: PathBuf, why: String },
    #[error("{} cannot be read for the snapshot of the source: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is being written all the time: no moment of it can be taken", .0.display())]
    NeverStill(PathBuf),
    #[error("the source in {} cannot be a tree: {why}", folder.display())]
    NoTree { folder: PathBuf, why: String },
    #[error("the snapshot of the source cannot be stored in {}: {error}", path.display())]
    NotStored { path: PathBuf, error: io::Error },
    /// After the snapshot, and before anybody had its bytes.
    #[error("{} was changed after the run had begun, and before it was sent to a worker", .0.display())]
    Changed(PathBuf),
}

impl SourceError {
    pub(crate) fn hint(&self) -> String {
        match self {
            SourceError::NoProject(_) => {
                "git init in the project's folder, or move the pipedef to .bettertest/pipedef.py there"
            }
            SourceError::NoGit(_) => "install it: sudo apt-get install git",
            SourceError::Git { .. } => "does git status work there by hand, as this user?",
            SourceError::Unreadable { .. } => "make it readable for this user, or let .gitignore name it",
            SourceError::NeverStill(_) => "let .gitignore name it, where it is no part of the source",
            SourceError::NoTree { .. } => "rename it, or let .gitignore name it",
            SourceError::NotStored { .. } => "free space on that disk, then run it again",
            SourceError::Changed(_) => {
                "start a new run, which takes what is there now; to be safe from this, git add it first"
            }
        }
        .to_owned()
    }

    /// What a step ends with that cannot have its source.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            SourceError::NoProject(_) => Reason::SpecRefused,
            SourceError::NoGit(_)
            | SourceError::Git { .. }
            | SourceError::Unreadable { .. }
            | SourceError::NeverStill(_)
            | SourceError::NoTree { .. }
            | SourceError::NotStored { .. }
            | SourceError::Changed(_) => Reason::SourceLost,
        }
    }
}

/// A file that belongs to the source, if it lies on disk.
struct Listed {
    /// From the root, with `/` between names.
    path: Vec<u8>,
    /// The id that git has, and what the file looked like when it had.
    known: Option<(BlobId, git::Looks)>,
}

/// What there is, before anybody has looked at the files themselves.
struct Listing {
    files: Vec<Listed>,
    /// The git work trees in it, by path from the root; the first one is the root itself.
    repos: Vec<Vec<u8>>,
    commit: Option<String>,
    branch: Option<String>,
    is_dirty: bool,
    /// Of new ids.
    hash: ids::Hash,
}

/// Takes a snapshot of the source that this pipedef belongs to, and puts what is needed of it later into a new folder.
/// What was learned about files that git does not keep stays in `memory`, for the next time. It waits for the disk.
pub(crate) fn snapshot(pipedef: &Path, into: &Path, memory: &Path) -> Result<Source, SourceError> {
    let folder = pipedef.parent().unwrap_or(Path::new("/"));
    let project = folder.parent().filter(|_| folder.file_name().is_some_and(|name| name == ".bettertest"));
    let (root, listing) = match (git::root_of(folder)?, project) {
        (Some(root), _) => {
            let listing = git::list(&root)?;
            (root, listing)
        }
        (None, Some(project)) => (project.to_owned(), walk::list(project)?),
        (None, None) => return Err(SourceError::NoProject(pipedef.to_owned())),
    };
    let not_stored = |error| SourceError::NotStored { path: into.to_owned(), error };
    std::fs::create_dir_all(into).map_err(not_stored)?;
    let found = files::look(&root, listing.files)?;
    let mut remembered = ids::Memory::open(memory);
    let kept = kept::Pack::create(into).map_err(not_stored)?;
    let identified = ids::identify(&root, found, listing.hash, &mut remembered, kept)?;
    remembered.store();
    let no_tree = |why: String| SourceError::NoTree { folder: root.clone(), why };
    let bytes = Manifest::format(identified.files.iter().map(|(file, id)| file.entry(*id)).collect());
    let manifest = Manifest::parse(&bytes).map_err(|bad| no_tree(bad.to_string()))?;
    let record = RunSource {
        commit: listing.commit,
        branch: listing.branch,
        is_dirty: listing.is_dirty || identified.differs,
        tree: manifest.content_id(),
        files: manifest.count() as u64,
        bytes: manifest.size_bytes(),
    };
    kept::store(into, root, listing.repos, record, bytes, identified.pack).map_err(not_stored)
}
