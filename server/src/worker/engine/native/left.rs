//! What a sandbox that has ended has left: the image, or the source, as the step changed it.
//!
//! The sandbox's own mounts went with its processes, but what it wrote lies in its folder, whoever died meanwhile. The
//! same layers are laid over each other once more, for reading, in no place, and walked from there. Nothing runs in
//! them any more; all the same nothing is believed of what lies there: folders are entered and files opened beneath
//! that mount only, through no link below the working directory.

use common::{Artifacts, StepId, StepSpec};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use tokio::sync::oneshot;

use super::super::super::artifacts::{Look, Taker, Wanted};
use super::files::Doing as _;
use super::order::{BASE, Base, ORDER, Order, STARTED};
use super::over::{self, FOLDER};
use super::{Fault, Native};

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const WITHIN: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

impl Native {
    pub(in super::super) async fn take_artifacts(
        &self,
        step: &StepId,
        spec: &StepSpec,
        to: &Path,
    ) -> Result<Artifacts, Fault> {
        let (folder, spec, to) = (self.folder_of(step), spec.clone(), to.to_owned());
        let (stopper, stops) = oneshot::channel();
        let taking = tokio::task::spawn_blocking(move || take(&folder, &spec, &to, stopper));
        // With this future it goes, and the thread does soon after.
        let _stops = stops.await;
        let taken = taking.await.unwrap_or_else(|error| Err(error.to_string()));
        taken.map_err(Fault::not_taken)
    }
}

fn take(
    folder: &Path,
    spec: &StepSpec,
    to: &Path,
    stopper: oneshot::Sender<super::super::super::artifacts::Stopper>,
) -> Result<Artifacts, String> {
    let what = "reading what the step was";
    let base: Base = serde_json::from_slice(&fs::read(folder.join(BASE)).doing(what)?).doing(what)?;
    let order: Order = serde_json::from_slice(&fs::read(folder.join(ORDER)).doing(what)?).doing(what)?;
    // Where the supervisor has died, nobody holds them any more.
    let _image = held(&base.image_lock, "the image")?;
    let _source = order.source.as_ref().map(|source| held(&source.lock, "the source")).transpose()?;
    let left = Left::of(folder, &base, &order)?;
    let wanted = Wanted::new(&order.workdir, spec)?;
    // Written by the same clock right before it began.
    let since = fs::metadata(folder.join(STARTED)).and_then(|started| started.modified()).ok();
    let mut taker = Taker::new(to, &wanted, since).doing("making room for artifacts")?;
    // Nobody may wait for it any more.
    drop(stopper.send(taker.stopper()));
    for look in wanted.looks() {
        if let Err(error) = left.look(look, &mut taker) {
            taker.trouble(format!("keeping files of {}: {error}", look.words()));
        }
    }
    Ok(taker.end())
}

fn held(lock: &Path, what: &str) -> Result<File, String> {
    let file = File::open(lock).doing(&format!("opening {what}"))?;
    file.try_lock_shared().doing(&format!("holding {what}"))?;
    Ok(file)
}

/// The file system of the container, without what only its kernel mounts held.
struct Left {
    root: OwnedFd,
    /// The names of the folder where the source lies, and what is there.
    source: Option<(Vec<String>, OwnedFd)>,
}

impl Left {
    fn of(folder: &Path, base: &Base, order: &Order) -> Result<Left, String> {
        let open = |path: &Path| {
            rustix::fs::open(path, FOLDER, Mode::empty()).doing(&format!("opening {}", path.display()))
        };
        let (upper, rootfs) = (open(&folder.join("upper"))?, open(&base.rootfs)?);
        let root = over::seen_through(&[&upper, &rootfs]).doing("laying the container's layers together")?;
        let Some(source) = &order.source else { return Ok(Left { root, source: None }) };
        let (upper, files) = (open(&folder.join("source-upper"))?, open(&source.files)?);
        let beneath = over::find(&rootfs, &source.at).ok();
        let layers: Vec<&OwnedFd> = [&upper, &files].into_iter().chain(&beneath).collect();
        let over = over::seen_through(&layers).doing("laying the source's layers together")?;
        let at = source.at.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(Left { root, source: Some((at, over)) })
    }

    /// These names from the root, of which the first so many may be links.
    fn open(&self, names: &[String], trusted: usize, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (base, names, trusted) = match &self.source {
            Some((at, over)) if names.starts_with(at) => {
                (over, &names[at.len()..], trusted.saturating_sub(at.len()))
            }
            Some(_) | None => (&self.root, names, trusted),
        };
        let (first, rest) = names.split_at(trusted);
        if first.is_empty() {
            return resolve(base, rest, flags, BENEATH);
        }
        if rest.is_empty() {
            return resolve(base, first, flags, WITHIN);
        }
        let folder = resolve(base, first, FOLDER, WITHIN)?;
        resolve(&folder, rest, flags, BENEATH)
    }

    /// Fails where the files cannot be taken in.
    fn look(&self, look: &Look, taker: &mut Taker) -> std::io::Result<()> {
        let trusted = look.trusted;
        let found = match self.open(&look.root, trusted, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(Errno::LOOP) => {
                let words = format!("{} leads through a link, and none is followed", look.words());
                look.leads_nowhere(taker, words);
                return Ok(());
            }
            Err(error) => {
                taker.trouble(format!("{} cannot be looked at: {error}", look.words()));
                return Ok(());
            }
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
            FileType::RegularFile => return self.offer(look, look.root.clone(), taker),
            FileType::Directory => {}
            FileType::Symlink if trusted < look.root.len() => {
                look.leads_nowhere(taker, format!("{} is a link, and none is followed", look.words()));
                return Ok(());
            }
            // The working directory itself: where it is a link, that was opened above.
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Ok(()),
        }
        let mut folders = vec![look.root.clone()];
        while let Some(path) = folders.pop() {
            let below = path.len() - look.root.len();
            let opened = self.open(&path, trusted, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW);
            let Ok(folder) = opened.and_then(Dir::new) else {
                taker.trouble(format!("the folder /{} cannot be read", path.join("/")));
                continue;
            };
            let mut inner = Vec::new();
            let mut files = Vec::new();
            for entry in folder {
                if !taker.goes_on() {
                    return Ok(());
                }
                let Ok(entry) = entry else {
                    taker.trouble(format!("the folder /{} cannot be read to its end", path.join("/")));
                    break;
                };
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let kind = match entry.file_type() {
                    FileType::Unknown => self.kind(&path, trusted, OsStr::from_bytes(name.to_bytes())),
                    kind => kind,
                };
                let Ok(text) = name.to_str() else {
                    if kind == FileType::RegularFile && look.depth == usize::MAX {
                        taker.leave_out_unnamed(name.to_bytes());
                    }
                    continue;
                };
                let mut whole = path.clone();
                whole.push(text.to_owned());
                match kind {
                    FileType::RegularFile if look.wants(&format!("/{}", whole.join("/"))) => {
                        files.push(whole)
                    }
                    FileType::Directory if below + 1 < look.depth => inner.push(whole),
                    FileType::RegularFile
                    | FileType::Directory
                    | FileType::Symlink
                    | FileType::Fifo
                    | FileType::Socket
                    | FileType::CharacterDevice
                    | FileType::BlockDevice
                    | FileType::Unknown => {}
                }
            }
            files.sort();
            for file in files {
                if !taker.goes_on() {
                    return Ok(());
                }
                self.offer(look, file, taker)?;
            }
            inner.sort_by(|one, other| other.cmp(one));
            folders.extend(inner);
        }
        Ok(())
    }

    fn kind(&self, path: &[String], trusted: usize, name: &OsStr) -> FileType {
        let folder = self.open(path, trusted, FOLDER);
        let found = folder.and_then(|folder| rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW));
        found.map_or(FileType::Unknown, |found| FileType::from_raw_mode(found.st_mode))
    }

    fn offer(&self, look: &Look, names: Vec<String>, taker: &mut Taker) -> std::io::Result<()> {
        let path = format!("/{}", names.join("/"));
        if !look.wants(&path) || taker.has_met(&path) {
            return Ok(());
        }
        // Of what is no regular file after all, opening must neither wait nor do anything.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = self.open(&names, look.trusted.min(names.len() - 1), flags);
        let file = match opened.map(File::from) {
            Ok(file) => file,
            Err(_) => {
                taker.leave_out_unread(&path);
                return Ok(());
            }
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Ok(());
        }
        taker.offer(&path, found.len(), found.modified().ok(), file)
    }
}

fn resolve(base: &OwnedFd, names: &[String], flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if names.is_empty() { ".".to_owned() } else { names.join("/") };
    loop {
        match rustix::fs::openat2(base.as_fd(), &path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            // Something anywhere was renamed meanwhile, and the kernel does not know whether it was here.
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}
