//! A source over what the image has in a folder: an overlay whose lower layers are the tree and that folder, and whose
//! upper one lies with the sandbox. Nothing is copied for it, and what is written reaches nobody.
//!
//! A sandbox that was made ahead sees nothing of the host any more. So its supervisor makes the mount, in no place at
//! all, and hands it over with the order; the sandbox puts it where it belongs.

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use std::fs::{self, DirBuilder, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::files::Doing as _;
use super::order::{Base, Source};

pub(super) const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// As if that folder were the root of all, and through nothing that is mounted in it.
const WITHIN: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// The mount, in no place yet, and the tree, held: it is not evicted as long as a step may run on it.
pub(super) struct Over {
    mount: OwnedFd,
    pub(super) tree: File,
}

impl Over {
    /// In the supervisor, which is in `folder`.
    pub(super) fn make(folder: &Path, rootfs: &Path, source: &Source) -> Result<Over, String> {
        let tree = File::open(&source.lock).doing("opening the source")?;
        tree.lock_shared().doing("holding the source")?;
        let files = rustix::fs::open(&source.files, FOLDER, Mode::empty()).doing("opening the source")?;
        let rootfs = rustix::fs::open(rootfs, FOLDER, Mode::empty()).doing("opening the image")?;
        let at = &source.at;
        let beneath = match find(&rootfs, at) {
            Ok(beneath) => Some(beneath),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(format!("the image has no folder {at}, but something else: {error}")),
        };
        let (upper, work) = (folder.join("source-upper"), folder.join("source-work"));
        for path in [&upper, &work] {
            fs::create_dir(path).doing("making the folders of the source")?;
        }
        dress(&upper, beneath.as_ref()).doing("making the folders of the source")?;
        let mount = overlay(&files, beneath.as_ref(), &upper, &work, true)
            .or_else(|_| overlay(&files, beneath.as_ref(), &upper, &work, false))
            .doing(&format!("laying the source over {at}"))?;
        Ok(Over { mount, tree })
    }

    /// To the sandbox, right after its order.
    pub(super) fn hand_over(&self, go: &UnixStream) -> Result<(), String> {
        let (byte, fds) = ([IoSlice::new(&[1])], [self.mount.as_raw_fd()]);
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(go.as_raw_fd(), &byte, &rights, MsgFlags::MSG_NOSIGNAL, None)
            .doing("handing over the source")
            .map(drop)
    }
}

/// The folder of this path as its root has it, through links that stay within.
pub(super) fn find(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    loop {
        match rustix::fs::openat2(root, path, FOLDER, Mode::empty(), WITHIN) {
            // Something anywhere was renamed meanwhile, and the kernel does not know whether it was here.
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

/// What the container sees of the folder itself is the upper layer's: it stays as the image has it, and where that
/// has none, everybody may write in it, as in the tree's folders.
fn dress(upper: &Path, beneath: Option<&OwnedFd>) -> io::Result<()> {
    let upper = File::open(upper)?;
    let Some(beneath) = beneath else {
        return Ok(rustix::fs::fchmod(&upper, Mode::from_raw_mode(0o777))?);
    };
    let found = rustix::fs::fstat(beneath)?;
    rustix::fs::fchown(&upper, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))?;
    Ok(rustix::fs::fchmod(&upper, Mode::from_raw_mode(found.st_mode & 0o7777))?)
}

fn overlay(
    files: &OwnedFd,
    beneath: Option<&OwnedFd>,
    upper: &Path,
    work: &Path,
    is_volatile: bool,
) -> rustix::io::Result<OwnedFd> {
    // By their descriptors: a name may lead elsewhere by now, or have a colon in it.
    let lower: Vec<String> = [Some(files), beneath]
        .into_iter()
        .flatten()
        .map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .collect();
    let overlay = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(overlay.as_fd(), "source", "overlay")?;
    rustix::mount::fsconfig_set_string(overlay.as_fd(), "lowerdir", lower.join(":"))?;
    rustix::mount::fsconfig_set_string(overlay.as_fd(), "upperdir", upper)?;
    rustix::mount::fsconfig_set_string(overlay.as_fd(), "workdir", work)?;
    if is_volatile {
        // What is thrown away need not reach the disk. Kernels before 5.10 do not know of that.
        rustix::mount::fsconfig_set_flag(overlay.as_fd(), "volatile")?;
    }
    rustix::mount::fsconfig_create(overlay.as_fd())?;
    // No wall is lower than that of the container's root.
    rustix::mount::fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// What these layers, the highest first, come to: in no place at all, for whoever holds it, and for nobody to write to.
pub(super) fn seen_through(layers: &[&OwnedFd]) -> rustix::io::Result<OwnedFd> {
    let lower: Vec<String> = layers.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    let overlay = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(overlay.as_fd(), "source", "overlay")?;
    rustix::mount::fsconfig_set_string(overlay.as_fd(), "lowerdir", lower.join(":"))?;
    // The highest is, as long as the sandbox is not removed, that of another mount, in which nothing moves any more.
    rustix::mount::fsconfig_set_string(overlay.as_fd(), "index", "off")?;
    rustix::mount::fsconfig_create(overlay.as_fd())?;
    let closed = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, closed)
}

/// In the sandbox: takes the mount that comes after the order, and puts it in its place.
pub(super) fn lay(go: &UnixStream, base: &Base, at: &str) -> Result<(), String> {
    let mount = receive(go)?;
    let make = |path: &str| DirBuilder::new().recursive(true).mode(0o755).create(path);
    make(at).doing(&format!("making {at}"))?;
    let root = rustix::fs::open("/", FOLDER, Mode::empty()).doing("opening the container's root")?;
    // A link of the image may lead to where the kernel's own mounts are, or to the root. Neither is to be hidden.
    let place = find(&root, at).doing(&format!("finding {at}, which has to lie on the image's own disk"))?;
    let which = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|found| (found.st_dev, found.st_ino));
    if which(&place).doing(&format!("looking at {at}"))? == which(&root).doing("looking at the root")? {
        return Err(format!("{at} leads to the root of the image, over which no source can lie"));
    }
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), "", place.as_fd(), "", both)
        .doing(&format!("putting the source at {at}"))?;
    // Those within it were made where they are hidden now.
    base.volumes
        .iter()
        .try_for_each(|path| fs::create_dir_all(path).doing(&format!("making the volume {path}")))
}

fn receive(go: &UnixStream) -> Result<OwnedFd, String> {
    let what = "waiting for the source";
    let mut byte = [0];
    let mut room = nix::cmsg_space!([RawFd; 1]);
    let mut into = [IoSliceMut::new(&mut byte)];
    let message =
        recvmsg::<()>(go.as_raw_fd(), &mut into, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC).doing(what)?;
    for part in message.cmsgs().doing(what)? {
        if let ControlMessageOwned::ScmRights(fds) = part
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just made it for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(format!("{what}: it did not come"))
}
