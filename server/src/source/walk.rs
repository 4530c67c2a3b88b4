//! Looks itself which files there are, where there is no git: all but those that a .gitignore names.

use ignore::WalkBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::ids::Hash;
use super::{Listed, Listing, SourceError};

pub(super) fn list(root: &Path) -> Result<Listing, SourceError> {
    let mut walk = WalkBuilder::new(root);
    walk.standard_filters(false).git_ignore(true).require_git(false).follow_links(false);
    walk.filter_entry(|entry| entry.file_name() != ".git");
    let mut files = Vec::new();
    for entry in walk.build() {
        let entry = match entry {
            Ok(entry) => entry,
            // It went away meanwhile.
            Err(error) if error.io_error().is_some_and(super::files::is_gone) => continue,
            Err(error) => {
                return Err(SourceError::Unreadable {
                    path: root.to_owned(),
                    error: io::Error::other(error),
                });
            }
        };
        if entry.file_type().is_some_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path().strip_prefix(root).expect("it was found there");
        files.push(Listed { path: path.as_os_str().as_bytes().to_vec(), known: None });
    }
    Ok(Listing { files, repos: Vec::new(), commit: None, branch: None, is_dirty: false, hash: Hash::Sha1 })
}
