//! What a container finds in its file system: the image below an upper layer of its own, and docker's mounts,
//! masks and devices on it. All of this happens in the mount namespace of the sandbox, and goes with it.

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{chdir, fchdir, pivot_root};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::cgroup::Hierarchy;
use super::order::{Base, Order};

/// What docker gives `/dev/shm`.
pub(super) const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// What says too much of the host, or acts on it; as in docker.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Words with what went wrong, for a person.
pub(super) trait Doing<T> {
    fn doing(self, what: &str) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Result<T, String> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

/// Makes the image with an upper layer in `folder` the root of this process.
pub(super) fn enter(folder: &Path, base: &Base) -> Result<(), String> {
    umask(Mode::empty());
    let none: Option<&str> = None;
    // Nothing that is mounted here shows outside, nor the other way round.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).doing("making mounts private")?;
    let root = folder.join("root");
    overlay(folder, &base.rootfs, &root)?;
    chdir(&root).doing("entering the container's root")?;
    let old = open("/", OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .doing("opening the host's root")?;
    // The old root lies under the new one, and is taken away from under it.
    pivot_root(".", ".").doing("changing the root")?;
    fchdir(&old).doing("leaving the host's root")?;
    umount2(".", MntFlags::MNT_DETACH).doing("taking the host's root away")?;
    chdir("/").doing("entering the new root")
}

fn overlay(folder: &Path, rootfs: &Path, root: &Path) -> Result<(), String> {
    // Names with commas and colons would be taken for more options: these are relative to a folder of ours.
    chdir(folder).doing("entering the step's folder")?;
    let lower = rootfs.to_str().filter(|path| !path.contains([',', ':', '\\']));
    let lower = lower.ok_or_else(|| format!("{} has a name that overlay cannot take", rootfs.display()))?;
    let options = format!("lowerdir={lower},upperdir=upper,workdir=work");
    // Device files of an image are files that nobody can open: those that there are to be come by `devices`.
    let flags = MsFlags::MS_NODEV;
    // What is thrown away need not reach the disk. Kernels before 5.10 do not know of that.
    let volatile = format!("{options},volatile");
    mount(Some("overlay"), root, Some("overlay"), flags, Some(volatile.as_str()))
        .or_else(|_| mount(Some("overlay"), root, Some("overlay"), flags, Some(options.as_str())))
        .doing("laying the container's layer over the image")
}

/// In the new root: everything that docker mounts there.
pub(super) fn furnish(base: &Base, hierarchy: &Hierarchy) -> Result<(), String> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // A link of the image's there would lead elsewhere.
    for path in ["/proc", "/sys", "/dev", "/etc"] {
        folder(path)?;
    }
    new_mount("proc", "/proc", quiet, None)?;
    new_mount("sysfs", "/sys", quiet | MsFlags::MS_RDONLY, None)?;
    cgroups(hierarchy, quiet)?;
    new_mount("tmpfs", "/dev", MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME, Some("mode=755,size=65536k"))?;
    devices()?;
    folder("/dev/pts")?;
    let pts = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    new_mount("devpts", "/dev/pts", pts, Some("newinstance,ptmxmode=0666,mode=0620,gid=5"))?;
    folder("/dev/shm")?;
    new_mount("tmpfs", "/dev/shm", quiet, Some(&format!("mode=1777,size={SHM_BYTES}")))?;
    folder("/dev/mqueue")?;
    new_mount("mqueue", "/dev/mqueue", quiet, None)?;
    MASKED.iter().try_for_each(|path| mask(path))?;
    READ_ONLY.iter().try_for_each(|path| read_only(path))?;
    base.volumes
        .iter()
        .try_for_each(|path| fs::create_dir_all(path).doing(&format!("making the volume {path}")))
}

/// What of it depends on the step.
pub(super) fn fit(order: &Order) -> Result<(), String> {
    if order.shm_bytes != SHM_BYTES {
        let again = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        new_mount("tmpfs", "/dev/shm", again, Some(&format!("size={}", order.shm_bytes)))?;
    }
    file("/etc/hostname", &format!("{}\n", order.container))?;
    file("/etc/hosts", &order.hosts)?;
    file("/etc/resolv.conf", &order.resolv_conf)
}

fn new_mount(kind: &str, path: &str, flags: MsFlags, options: Option<&str>) -> Result<(), String> {
    mount(Some(kind), path, Some(kind), flags, options).doing(&format!("mounting {path}"))
}

/// A folder there, and no link.
fn folder(path: &str) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => fs::remove_file(path).doing(&format!("replacing {path}"))?,
        Err(_) => {}
    }
    fs::create_dir(path).doing(&format!("making {path}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).doing(&format!("making {path}"))
}

/// A folder that everybody may write to. Where it cannot be made, whoever writes there says so.
pub(super) fn open_folder(path: &str) {
    let made = fs::create_dir_all(path);
    drop(made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o1777))));
}

/// A file of ours in place of the image's, whatever that was.
fn file(path: &str, content: &str) -> Result<(), String> {
    let what = format!("writing {path}");
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.doing(&what)?,
    }
    let opened = fs::File::options().write(true).create_new(true).mode(0o644).open(path);
    opened.and_then(|mut file| file.write_all(content.as_bytes())).doing(&what)
}

fn cgroups(hierarchy: &Hierarchy, quiet: MsFlags) -> Result<(), String> {
    let root = "/sys/fs/cgroup";
    if let Hierarchy::V2(_) = hierarchy {
        return mount(Some("cgroup"), root, Some("cgroup2"), quiet | MsFlags::MS_RDONLY, None::<&str>)
            .doing("mounting the cgroups");
    }
    new_mount("tmpfs", root, quiet, Some("mode=755"))?;
    for (options, name) in hierarchy.shown() {
        let path = format!("{root}/{name}");
        folder(&path)?;
        mount(Some("cgroup"), path.as_str(), Some("cgroup"), quiet | MsFlags::MS_RDONLY, Some(options))
            .doing(&format!("mounting {path}"))?;
    }
    let again = quiet | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, root, None::<&str>, again, None::<&str>).doing("closing the cgroups")
}

fn devices() -> Result<(), String> {
    for (name, major, minor) in DEVICES {
        let path = format!("/dev/{name}");
        let all = Mode::from_bits_truncate(0o666);
        mknod(path.as_str(), SFlag::S_IFCHR, all, makedev(major, minor)).doing(&format!("making {path}"))?;
    }
    for (to, path) in LINKS {
        symlink(to, path).doing(&format!("making {path}"))?;
    }
    Ok(())
}

fn mask(path: &str) -> Result<(), String> {
    let what = format!("hiding {path}");
    match fs::metadata(path) {
        Err(_) => Ok(()),
        Ok(found) if found.is_dir() => {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0k")).doing(&what)
        }
        Ok(_) => mount(Some("/dev/null"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).doing(&what),
    }
}

fn read_only(path: &str) -> Result<(), String> {
    if !Path::new(path).exists() {
        return Ok(());
    }
    let what = format!("closing {path}");
    let none: Option<&str> = None;
    mount(Some(path), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).doing(&what)?;
    let again = MsFlags::MS_BIND
        | MsFlags::MS_REMOUNT
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    mount(none, path, none, again, none).doing(&what)
}
