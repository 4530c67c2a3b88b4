//! All that a file system says of a folder's content, as text that can be compared.

use rustix::fs::{lgetxattr, llistxattr};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub(super) type Tree = BTreeMap<PathBuf, String>;

/// Without the times of folders in whose stead something was mounted or made.
pub(super) fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first_names: HashMap<u64, PathBuf> = HashMap::new();
    let mut folders = vec![PathBuf::new()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if std::fs::symlink_metadata(root.join(&path)).unwrap().is_dir() {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    // So that the first name of a file with several is the same one in any folder.
    found.sort();
    found.insert(0, PathBuf::new());
    for path in found {
        let whole = root.join(&path);
        let is = std::fs::symlink_metadata(&whole).unwrap();
        let mut says =
            format!("{:o} {}:{} {}.{:09}", is.mode(), is.uid(), is.gid(), is.mtime(), is.mtime_nsec());
        if is.is_file() {
            let hash = Sha256::digest(std::fs::read(&whole).unwrap());
            says += &format!(" {} bytes {:02x?}", is.size(), &hash[..8]);
        } else if is.is_symlink() {
            says += &format!(" -> {:?}", std::fs::read_link(&whole).unwrap());
        } else if !is.is_dir() {
            says += &format!(" device {:x}", is.rdev());
        }
        if !is.is_dir() && is.nlink() > 1 {
            let first = first_names.entry(is.ino()).or_insert_with(|| path.clone());
            says += &format!(" {} names, first {first:?}", is.nlink());
        }
        for (name, value) in attributes(&whole) {
            says += &format!(" {name:?}={value:02x?}");
        }
        tree.insert(path, says);
    }
    tree
}

pub(super) fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = [0; 4096];
    let bytes = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = [0; 4096];
            let bytes = lgetxattr(path, name, &mut value[..]).unwrap();
            (OsString::from_vec(name.to_vec()), value[..bytes].to_vec())
        })
        .collect()
}

/// One line for each thing that is not the same.
pub(super) fn differences(one: &Tree, other: &Tree) -> String {
    let mut lines = String::new();
    let paths: std::collections::BTreeSet<&PathBuf> = one.keys().chain(other.keys()).collect();
    for path in paths {
        let (left, right) = (one.get(path), other.get(path));
        if left != right {
            let name = String::from_utf8_lossy(path.as_os_str().as_bytes());
            lines += &format!("{name}:\n  {}\n  {}\n", left.map_or("-", |l| l), right.map_or("-", |r| r));
        }
    }
    lines
}
