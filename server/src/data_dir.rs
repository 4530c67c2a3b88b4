//! The data directory: where it is, whose it is, and who holds which part of it right now.
//!
//! `token` and `instance` lie at its top; `worker/` and `boss/` are each held by one process through a lock that
//! the kernel drops when that process ends, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::SetupError;

#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    path: PathBuf,
    instance: String,
}

/// A part of a data directory that this process alone uses for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Where the data lies unless `--data-dir` says otherwise: decided by who runs this, not by the environment.
    pub(crate) fn default_path() -> Result<PathBuf, SetupError> {
        let uid = nix::unistd::Uid::effective();
        if uid.is_root() {
            return Ok(PathBuf::from("/var/lib/bettertest"));
        }
        match nix::unistd::User::from_uid(uid) {
            Ok(Some(user)) => Ok(user.dir.join(".local/share/bettertest")),
            Ok(None) | Err(_) => Err(SetupError::new(
                format!("user {uid} has no home directory to keep data in"),
                "name a folder with --data-dir",
            )),
        }
    }

    pub(crate) fn open(path: &Path) -> Result<DataDir, SetupError> {
        make_folder(path)?;
        let path = path.canonicalize().map_err(|error| unusable(path, &error))?;
        let instance =
            once(&path.join("instance"), 0o644, || format!("{:032x}", crate::auth::random_u128()))?;
        Ok(DataDir { path, instance })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Random, made once: labels carry it, so that nobody touches the containers of another's data directory.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Takes `worker/` or `boss/` for this process, or names the process that has it.
    pub(crate) fn hold(&self, part: &str) -> Result<Held, SetupError> {
        hold(&self.path.join(part))
    }
}

/// Takes a folder for this process alone, making it where it is missing.
pub(crate) fn hold(path: &Path) -> Result<Held, SetupError> {
    let file = path.join("lock");
    let open = || {
        make_folder(path)?;
        let mut how = OpenOptions::new();
        how.create(true).truncate(false).read(true).write(true).mode(0o600);
        how.open(&file).map_err(|error| unusable(&file, &error))
    };
    let mut lock = open()?;
    if lock.try_lock().is_err() {
        let mut holder = String::new();
        let pid = lock.read_to_string(&mut holder).ok().map(|_| holder.trim()).filter(|pid| !pid.is_empty());
        return Err(SetupError::new(
            format!("{} is in use by process {}", path.display(), pid.unwrap_or("(unknown)")),
            "stop that process, or give this one its own --data-dir",
        ));
    }
    // One who tidies up may have removed the folder in between: then this is a lock of nothing.
    let is_there = |lock: &File| match (lock.metadata(), fs::metadata(&file)) {
        (Ok(ours), Ok(there)) => ours.ino() == there.ino(),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    };
    if !is_there(&lock) {
        lock = open()?;
        if lock.try_lock().is_err() || !is_there(&lock) {
            return Err(SetupError::new(
                format!("{} is being removed by another process", path.display()),
                "try again",
            ));
        }
    }
    lock.set_len(0).map_err(|error| unusable(&file, &error))?;
    // Only for those who find it locked. A full disk is no reason not to begin: what waits there has to go on.
    if let Err(error) = writeln!(lock, "{}", std::process::id()) {
        tracing::warn!("{} does not say who holds it: {error}", file.display());
    }
    Ok(Held { path: path.to_owned(), _lock: lock })
}

pub(crate) fn make_folder(path: &Path) -> Result<(), SetupError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| unusable(path, &error))
}

pub(crate) fn unusable(path: &Path, error: &std::io::Error) -> SetupError {
    SetupError::new(
        format!("cannot use {}: {error}", path.display()),
        "make it writable for this user, or name another folder with --data-dir",
    )
}

/// The content of a small file that is made once, whole: two processes that start at the same time agree on it.
pub(crate) fn once(path: &Path, mode: u32, content: impl FnOnce() -> String) -> Result<String, SetupError> {
    let read = || fs::read_to_string(path).map(|text| text.trim().to_owned());
    match read() {
        Ok(text) if !text.is_empty() => return Ok(text),
        Ok(_) => {
            return Err(SetupError::new(
                format!("{} is empty", path.display()),
                "remove it; a new one is made at the next start",
            ));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(path, &error)),
    }
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&draft)?;
        writeln!(file, "{}", content())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    };
    let written = write();
    // The draft has done its work, or never came to be.
    drop(fs::remove_file(&draft));
    written.and_then(|()| read()).map_err(|error| unusable(path, &error))
}
