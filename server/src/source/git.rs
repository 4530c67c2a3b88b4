//! Asks git which files there are, and by which ids it has those that were not changed. Only here is git started.
//!
//! What counts is the bytes on disk. So the index is not asked whether a file was changed (it may be told to look away),
//! only what each file looked like when git read it; and where anything may make git's bytes others than those on disk
//! (ends of lines, LFS, keywords), none of its ids is believed.

use common::BlobId;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::files::path_of;
use super::ids::Hash;
use super::{Listed, Listing, SourceError, walk};

/// What a file looked like when git read it, as the index has it: 32 bits of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Looks {
    mtime: (u32, u32),
    ctime: (u32, u32),
    inode: u32,
    size_bytes: u32,
}

impl Looks {
    pub(super) fn are_of(&self, meta: &Metadata) -> bool {
        *self
            == Looks {
                mtime: (meta.mtime() as u32, meta.mtime_nsec() as u32),
                ctime: (meta.ctime() as u32, meta.ctime_nsec() as u32),
                inode: meta.ino() as u32,
                size_bytes: meta.len() as u32,
            }
    }
}

/// The root of the work tree that holds this folder.
pub(super) fn root_of(folder: &Path) -> Result<Option<PathBuf>, SourceError> {
    // Without one there is nothing to ask git for, and it need not even be there.
    if !folder.ancestors().any(|above| above.join(".git").exists()) {
        return Ok(None);
    }
    let asked = git(folder).args(["rev-parse", "--show-toplevel"]).output();
    match asked {
        Ok(answer) if answer.status.success() => {
            let root = answer.stdout.strip_suffix(b"\n").unwrap_or(&answer.stdout);
            Ok(Some(PathBuf::from(OsStr::from_bytes(root))))
        }
        Ok(answer) => {
            let why = String::from_utf8_lossy(&answer.stderr);
            Err(SourceError::Git { folder: folder.to_owned(), why: last_line(&why) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SourceError::NoGit(folder.to_owned())),
        Err(error) => Err(SourceError::Git { folder: folder.to_owned(), why: error.to_string() }),
    }
}

/// Every file of a work tree: those that git tracks, and those that it does not ignore.
pub(super) fn list(root: &Path) -> Result<Listing, SourceError> {
    // To look for changes takes longest, on a large tree: all else is asked meanwhile.
    let (status, asked) = std::thread::scope(|scope| {
        let status = scope.spawn(|| status(root));
        let asked = tracked(root).and_then(|tracked| {
            let is_changed = changes_bytes(root, &tracked)?;
            Ok((tracked, is_changed))
        });
        (status.join().expect("nothing in here panics"), asked)
    });
    let Status { commit, branch, mut is_dirty, untracked } = status?;
    let (Tracked { mut files, submodules, hash, index_time, .. }, mut is_changed) = asked?;
    let within = untracked.iter().filter_map(|path| path.strip_suffix(b"/")).map(<[u8]>::to_vec);
    let within: Vec<Vec<u8>> = within.chain(submodules).collect();
    let new = untracked.into_iter().filter(|path| !path.ends_with(b"/"));
    let new: Vec<Listed> = new.map(|path| Listed { path, known: None }).collect();
    is_changed = is_changed || attributes_in(root, &new).any(|path| may_change_bytes(&path));
    files.extend(new);
    for file in &mut files {
        // Changed in the same moment in which the index was written, a file may look as it did before.
        file.known = file.known.filter(|(_, looks)| !is_changed && looks.mtime < index_time);
    }
    let mut repos = vec![Vec::new()];
    for folder in within {
        let on_disk = path_of(root, &folder);
        let inner = if on_disk.join(".git").exists() { list(&on_disk)? } else { walk::list(&on_disk)? };
        let below = |path: Vec<u8>| {
            if path.is_empty() { folder.clone() } else { [&folder[..], b"/", &path].concat() }
        };
        is_dirty |= inner.is_dirty;
        repos.extend(inner.repos.into_iter().map(below));
        files.extend(inner.files.into_iter().map(|file| Listed { path: below(file.path), ..file }));
    }
    Ok(Listing { files, repos, commit, branch, is_dirty, hash })
}

struct Status {
    commit: Option<String>,
    branch: Option<String>,
    is_dirty: bool,
    /// With a slash at its end where it is a folder with a git of its own.
    untracked: Vec<Vec<u8>>,
}

fn status(root: &Path) -> Result<Status, SourceError> {
    let args = ["status", "--porcelain=v2", "--branch", "--untracked-files=all", "--no-renames", "-z"];
    let said = ask(root, &args)?;
    let mut status = Status { commit: None, branch: None, is_dirty: false, untracked: Vec::new() };
    for line in said.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let word =
            |prefix: &[u8]| line.strip_prefix(prefix).map(|word| String::from_utf8_lossy(word).into_owned());
        if let Some(commit) = word(b"# branch.oid ") {
            status.commit = Some(commit).filter(|commit| commit != "(initial)");
        } else if let Some(branch) = word(b"# branch.head ") {
            status.branch = Some(branch).filter(|branch| branch != "(detached)");
        } else if !line.starts_with(b"# ") {
            status.is_dirty = true;
            status.untracked.extend(line.strip_prefix(b"? ").map(<[u8]>::to_vec));
        }
    }
    Ok(status)
}

struct Tracked {
    files: Vec<Listed>,
    submodules: Vec<Vec<u8>>,
    hash: Hash,
    index_time: (u32, u32),
    /// The attributes that this repository has for itself.
    attributes: PathBuf,
}

fn tracked(root: &Path) -> Result<Tracked, SourceError> {
    let asked = ["rev-parse", "--show-object-format", "--git-path", "index", "--git-path", "info/attributes"];
    let where_is = ask(root, &asked)?;
    let mut lines = where_is.split(|byte| *byte == b'\n');
    let hash = if lines.next() == Some(&b"sha256"[..]) { Hash::Sha256 } else { Hash::Sha1 };
    let index = path_of(root, lines.next().unwrap_or_default());
    let attributes = path_of(root, lines.next().unwrap_or_default());
    // Before it is read: what comes after is then only read once more than it has to be.
    let index_time = index.metadata().map_or((0, 0), |meta| (meta.mtime() as u32, meta.mtime_nsec() as u32));
    let said = ask(root, &["ls-files", "-z", "--stage", "--debug"])?;
    let mut tracked = Tracked { files: Vec::new(), submodules: Vec::new(), hash, index_time, attributes };
    let mut rest = &said[..];
    let odd = || SourceError::Git {
        folder: root.to_owned(),
        why: "git ls-files speaks as none that is known".to_owned(),
    };
    while !rest.is_empty() {
        let end = memchr::memchr(0, rest).ok_or_else(odd)?;
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        let tab = memchr::memchr(b'\t', line).ok_or_else(odd)?;
        let (facts, path) = (&line[..tab], line[tab + 1..].to_vec());
        let (looks, after) = read_looks(after);
        rest = after;
        let facts = std::str::from_utf8(facts).map_err(|_| odd())?;
        let mut words = facts.split(' ');
        let (mode, id, stage) = (words.next(), words.next(), words.next());
        if mode == Some("160000") {
            tracked.submodules.push(path);
            continue;
        }
        let id: BlobId = id.and_then(|id| id.parse().ok()).ok_or_else(odd)?;
        // Of a file in conflict there are several.
        let known = looks.filter(|_| stage == Some("0")).map(|looks| (id, looks));
        if tracked.files.last().is_some_and(|last| last.path == path) {
            continue;
        }
        tracked.files.push(Listed { path, known });
    }
    Ok(tracked)
}

/// The five lines that `--debug` says of an entry, and what follows. Git does not promise them: without them a file is
/// read.
fn read_looks(text: &[u8]) -> (Option<Looks>, &[u8]) {
    let mut rest = text;
    let mut numbers = Vec::with_capacity(10);
    while rest.starts_with(b"  ") {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let line = &rest[..end];
        rest = &rest[end..];
        let words = line.split(|byte| byte.is_ascii_whitespace() || *byte == b':');
        let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u32>().ok();
        numbers.extend(words.filter_map(number));
    }
    // ctime, mtime, dev, ino, uid, gid, size; the flags are in hex, and may look like a number or not.
    let looks = match numbers[..] {
        [cs, cns, ms, mns, _, inode, _, _, size_bytes, ..] => {
            Some(Looks { mtime: (ms, mns), ctime: (cs, cns), inode, size_bytes })
        }
        _ => None,
    };
    (looks, rest)
}

/// May what git has of a file be other bytes than those on disk?
fn changes_bytes(root: &Path, tracked: &Tracked) -> Result<bool, SourceError> {
    // Also where attributes are looked for outside of the work tree, from git 2.42 on.
    let config = ask(root, &["var", "-l"])?;
    let config = String::from_utf8_lossy(&config);
    let mut outside = vec![PathBuf::from("/etc/gitattributes")];
    for line in config.lines() {
        match line.split_once('=') {
            Some(("core.autocrlf", set)) if !matches!(set, "false" | "no" | "off" | "0") => return Ok(true),
            // Only git knows whose home that is; a newer one says the whole path, too.
            Some(("core.attributesfile", path)) if path.starts_with('~') => return Ok(true),
            Some(("GIT_ATTR_SYSTEM" | "GIT_ATTR_GLOBAL" | "core.attributesfile", path)) => {
                outside.push(PathBuf::from(path));
            }
            Some(_) | None => {}
        }
    }
    outside.push(tracked.attributes.clone());
    Ok(outside.into_iter().chain(attributes_in(root, &tracked.files)).any(|path| may_change_bytes(&path)))
}

fn attributes_in(root: &Path, files: &[Listed]) -> impl Iterator<Item = PathBuf> {
    let is_attributes =
        |file: &&Listed| file.path.rsplit(|byte| *byte == b'/').next() == Some(&b".gitattributes"[..]);
    files.iter().filter(is_attributes).map(move |file| path_of(root, &file.path))
}

/// What cannot be read may say anything.
fn may_change_bytes(attributes: &Path) -> bool {
    match std::fs::read(attributes) {
        Ok(text) => attributes_change_bytes(&String::from_utf8_lossy(&text)),
        Err(error) => !super::files::is_gone(&error),
    }
}

fn attributes_change_bytes(text: &str) -> bool {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mut set = lines.flat_map(|line| line.split_whitespace().skip(1));
    set.any(|word| {
        let name = word.split('=').next().unwrap_or_default();
        matches!(name, "text" | "eol" | "crlf" | "ident" | "filter" | "working-tree-encoding")
    })
}

fn ask(root: &Path, args: &[&str]) -> Result<Vec<u8>, SourceError> {
    let failed = |why: String| SourceError::Git { folder: root.to_owned(), why };
    let answer = git(root).args(args).output().map_err(|error| failed(error.to_string()))?;
    if !answer.status.success() {
        return Err(failed(last_line(&String::from_utf8_lossy(&answer.stderr))));
    }
    Ok(answer.stdout)
}

fn last_line(text: &str) -> String {
    text.trim().lines().last().unwrap_or("it says nothing").trim_start_matches("fatal: ").to_owned()
}

/// A git that finds its repository from the folder alone, also where a hook of git's has started this process.
fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    // Whoever could give this repository a configuration that runs something can write its pipedef, too.
    command.args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false", "--no-optional-locks"]);
    command.arg("-C").arg(folder).stdin(Stdio::null()).env("LC_ALL", "C");
    for name in OF_HOOKS {
        command.env_remove(name);
    }
    command
}

/// What `git rev-parse --local-env-vars` says, and what changes how paths are read.
const OF_HOOKS: [&str; 19] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GLOB_PATHSPECS",
    "GIT_GRAFT_FILE",
    "GIT_ICASE_PATHSPECS",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_LITERAL_PATHSPECS",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// Gives the bytes of blobs that one repository has.
pub(super) struct Objects {
    child: Child,
    answers: io::BufReader<std::process::ChildStdout>,
}

impl Objects {
    pub(super) fn of(repo: &Path) -> io::Result<Objects> {
        let mut command = git(repo);
        command
            .args(["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        let answers = io::BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Objects { child, answers })
    }

    /// None where it does not have it.
    pub(super) fn read(&mut self, id: &BlobId) -> io::Result<Option<Vec<u8>>> {
        let questions = self.child.stdin.as_mut().expect("it is piped");
        questions.write_all(format!("{id}\n").as_bytes())?;
        questions.flush()?;
        let mut head = String::new();
        self.answers.read_line(&mut head)?;
        let mut words = head.trim_end().split(' ').skip(1);
        let (Some("blob"), Some(size)) = (words.next(), words.next()) else { return Ok(None) };
        let size: usize = size.parse().map_err(io::Error::other)?;
        let mut bytes = vec![0; size + 1];
        self.answers.read_exact(&mut bytes)?;
        bytes.pop();
        Ok(Some(bytes))
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // It ends when there is nothing more to ask; what it may still say nobody reads.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_change_bytes() {
        for changes in
            ["* text=auto", "*.bin filter=lfs diff=lfs -text", "*.c ident", "* eol=lf", "[attr]x text"]
        {
            assert!(attributes_change_bytes(changes), "{changes}");
        }
        for keeps in
            ["*.png binary", "* -text", "*.rs diff=rust", "# * text", "", "text", "* !eol merge=union"]
        {
            assert!(!attributes_change_bytes(keeps), "{keeps}");
        }
    }
}
