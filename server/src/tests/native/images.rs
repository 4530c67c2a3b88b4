//! Images from a real Docker: what is unpacked is what a container would see; once for all; whatever crashes.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::rig::{IMAGE, docker};
use super::is_root;
use super::tree::{Tree, differences, tree};
use crate::worker::native::images::{Image, Images};
use crate::worker::{Deadlines, Docker, News};
use common::Reason;

const PLENTY: u64 = 1 << 40;

fn images(folder: &Path, bound_bytes: u64) -> Images {
    let docker = Docker::new(None, "images", 1, Vec::new(), Deadlines::default());
    Images::open(docker, &folder.join("cache/images"), bound_bytes).unwrap()
}

async fn ready(images: &Images, id: &str) -> Arc<Image> {
    images.ready(id, &watch::Sender::new(None)).await.unwrap()
}

/// An image of a test's own, removed with it.
struct Built(String);

impl Built {
    fn new(dockerfile: &str, files: impl FnOnce(&Path)) -> Built {
        let folder = TempDir::new().unwrap();
        let label = format!("LABEL test={}", crate::auth::random_hex(8));
        fs::write(folder.path().join("Dockerfile"), format!("{dockerfile}\n{label}\n")).unwrap();
        files(folder.path());
        let output = Command::new("docker")
            .args(["build", "-q", "--force-rm"])
            .arg(folder.path())
            .env("DOCKER_BUILDKIT", "0")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Built(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn small(text: &str) -> Built {
        Built::new(&format!("FROM {IMAGE}\nRUN echo {text} > /text"), |_| {})
    }

    fn id(&self) -> &str {
        &self.0
    }

    fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap()
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        drop(Command::new("docker").args(["rmi", "-f", &self.0]).output());
    }
}

/// What a container of it sees, but for what Docker makes in each for itself.
fn as_docker_has_it(id: &str, folder: &Path) -> Tree {
    let container = docker(&["create", id, "true"]);
    let export = format!(
        "docker export {} | tar --extract --xattrs --xattrs-include='*' --numeric-owner --preserve-permissions -C {}",
        container.trim(),
        folder.display()
    );
    let exported = Command::new("sh").args(["-c", &export]).status().unwrap();
    docker(&["rm", container.trim()]);
    assert!(exported.success());
    tree(folder)
}

/// Every kind of thing that an archive can have.
fn odd(path: &Path) {
    let mut layer = Builder::new(File::create(path).unwrap());
    let mut add = |kind: EntryType, name: &str, target: &str, mode: u32, uid: u64, text: &str| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid + 1);
        header.set_mtime(1_600_000_000);
        header.set_size(text.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(7).unwrap();
            header.set_device_minor(300).unwrap();
        }
        if target.is_empty() {
            layer.append_data(&mut header, name, text.as_bytes()).unwrap();
        } else {
            layer.append_link(&mut header, name, target).unwrap();
        }
    };
    let long = format!("odd/{}", "long-".repeat(50));
    add(EntryType::Directory, "odd/", "", 0o1777, 5, "");
    add(EntryType::Directory, "odd/group/", "", 0o2750, 6, "");
    add(EntryType::Regular, "odd/group/file", "", 0o640, 7, "in a folder that gives its group on");
    add(EntryType::Regular, "odd/setuid", "", 0o6755, 1000, "#!/bin/sh\n");
    add(EntryType::Link, "odd/twin", "odd/setuid", 0o6755, 1000, "");
    add(EntryType::Link, "odd/third", "odd/twin", 0o6755, 1000, "");
    add(EntryType::Regular, "odd/none", "", 0, 70_000, "");
    add(EntryType::Regular, "odd/ with\nall 'sorts' of \"names\" \u{e4}\u{1f980}\\", "", 0o644, 0, "x");
    add(EntryType::Regular, &long, "", 0o644, 0, "long");
    add(EntryType::Symlink, "odd/link", "/nowhere/at/../all", 0o777, 8, "");
    add(EntryType::Symlink, "odd/long-link", &"far/".repeat(60), 0o777, 8, "");
    add(EntryType::Char, "odd/char", "", 0o660, 9, "");
    add(EntryType::Block, "odd/block", "", 0o600, 9, "");
    add(EntryType::Fifo, "odd/pipe", "", 0o622, 9, "");
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    layer.append_pax_extensions([("SCHILY.xattr.security.capability", capability)]).unwrap();
    let mut header = Header::new_gnu();
    header.set_mode(0o755);
    header.set_mtime(1_600_000_001);
    header.set_size(4);
    layer.append_data(&mut header, "odd/capable", &b"able"[..]).unwrap();
    layer.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_what_its_containers_see() {
    if !is_root() {
        return;
    }
    let dockerfile = format!(
        "FROM {IMAGE}
ADD odd.tar /
RUN mkdir -p /d/deep /e/f /tree/x && echo 1 > /d/old && echo 1 > /d/deep/old && echo 1 > /e/f/g && echo 1 > /gone \\
 && echo 1 > /tree/x/leaf && ln /d/old /d/hard && echo 1 > /changed && mkfifo /pipe && ln -s d /to-d
RUN rm -r /d && mkdir /d && echo 2 > /d/new && rm /gone && rm -r /tree && echo 2 > /tree \\
 && chown 12:34 /e && chmod 700 /e/f && echo 2 >> /changed && rm /odd/twin && touch /odd/group/more
RUN rm /to-d && mkdir /to-d && echo 3 > /to-d/file && rm -r /e/f && ln /changed /changed-too && chmod u+s /changed
ENV ONE=1 TWO=\"a b=c\"
VOLUME [\"/vol\", \"/d\"]
WORKDIR /srv/here
USER 1000:50
ENTRYPOINT [\"/bin/echo\", \"an entry\"]
CMD [\"and\", \"words\"]"
    );
    let built = Built::new(&dockerfile, |folder| odd(&folder.join("odd.tar")));
    let data = TempDir::new().unwrap();
    let images = images(data.path(), PLENTY);
    let image = ready(&images, built.id()).await;

    let exported = TempDir::new().unwrap();
    let (mut ours, mut theirs) = (tree(&image.rootfs), as_docker_has_it(built.id(), exported.path()));
    // What Docker puts into every container, and folders that change by that.
    for name in [
        ".dockerenv",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
    ] {
        theirs.remove(Path::new(name));
    }
    for name in ["", "dev", "etc"] {
        ours.remove(Path::new(name));
        theirs.remove(Path::new(name));
    }
    assert_eq!(differences(&ours, &theirs), "");
    assert!(ours.len() > 300, "{}", ours.len());
    let says = |name: &str| ours.get(Path::new(name)).unwrap().as_str();
    assert!(
        says("odd/setuid").starts_with("106755 1000:1001 1600000000")
            && says("odd/setuid").contains("2 names")
    );
    assert!(says("odd/capable").contains("security.capability"), "{}", says("odd/capable"));
    assert!(says("odd/char").starts_with("20660") && says("odd/block").starts_with("60600"));

    let config = &image.config;
    assert_eq!(config.env, ["PATH=/bin", "ONE=1", "TWO=a b=c"]);
    assert_eq!((config.user.as_str(), config.workdir.as_str()), ("1000:50", "/srv/here"));
    assert_eq!(config.entrypoint, ["/bin/echo", "an entry"]);
    assert_eq!(config.cmd, ["and", "words"]);
    let mut volumes = config.volumes.clone();
    volumes.sort();
    assert_eq!(volumes, ["/d", "/vol"]);
    assert_eq!(image.digest, built.id());
    assert_eq!(fs::metadata(data.path().join("cache/images")).unwrap().permissions().mode() & 0o777, 0o700);
}

/// How often Docker was asked for the bytes of an image, from a moment in seconds since 1970 on.
fn exports(id: &str, since: u64) -> usize {
    let (since, until) = (since.to_string(), (now() + 1).to_string());
    let image = format!("image={id}");
    let words =
        ["events", "--since", &since, "--until", &until, "--filter", "event=save", "--filter", &image];
    docker(&words).lines().count()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_want_an_image_at_once_get_one() {
    if !is_root() {
        return;
    }
    let (built, data, began) = (Built::small("one"), TempDir::new().unwrap(), now());
    // The second one is another worker of this data directory.
    let (one, two) = (images(data.path(), PLENTY), images(data.path(), PLENTY));
    let all = (0..12).map(|n| ready(if n % 2 == 0 { &one } else { &two }, built.id()));
    let all = futures_util::future::join_all(all).await;
    let inode = |image: &Arc<Image>| fs::metadata(&image.rootfs).unwrap().ino();
    assert!(all.iter().all(|image| inode(image) == inode(&all[0])));
    assert!(all.iter().step_by(2).all(|image| Arc::ptr_eq(image, &all[0])));
    assert_eq!(fs::read_to_string(all[0].rootfs.join("text")).unwrap(), "one\n");
    assert_eq!(exports(built.id(), began), 1);
    drop(all);
    assert!(one.known(built.id()).is_some() && two.known(built.id()).is_some());
    ready(&one, built.id()).await;
    assert_eq!(exports(built.id(), began), 1);
}

fn folders(data: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(data.path().join("cache/images")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_no_image() {
    if !is_root() {
        return;
    }
    let (built, data) = (Built::small("crash"), TempDir::new().unwrap());
    let images = images(data.path(), PLENTY);
    let cache = data.path().join("cache/images");
    let left = |name: &str| -> PathBuf {
        let path = cache.join(name);
        fs::create_dir_all(path.join("rootfs/half")).unwrap();
        fs::write(path.join("lock"), "").unwrap();
        fs::write(path.join("spool"), "no folder").unwrap();
        path
    };
    // One that died, one that was removing, and one that is at it.
    left(&format!("tmp-{}", built.hex()));
    left("tmp-gone-1");
    let busy = left(&format!("tmp-{}", "b".repeat(64)));
    let held = File::open(busy.join("lock")).unwrap();
    held.lock().unwrap();
    assert!(images.known(built.id()).is_none());
    let image = ready(&images, built.id()).await;
    assert!(!image.rootfs.join("half").exists() && image.rootfs.join("text").exists());
    left(&format!("tmp-{}", "c".repeat(64)));
    images.sweep();
    assert_eq!(folders(&data), [built.hex().to_owned(), format!("tmp-{}", "b".repeat(64))]);

    // Whole by its name, but of another boot, after which nobody knows what of it came to the disk.
    drop(image);
    let place = cache.join(built.hex());
    while fs::read_to_string(place.join("whole")).unwrap() != "on disk" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(images.known(built.id()).is_some());
    fs::write(place.join("whole"), "another-boot").unwrap();
    fs::remove_file(place.join("rootfs/text")).unwrap();
    assert!(images.known(built.id()).is_none());
    assert!(ready(&images, built.id()).await.rootfs.join("text").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_stops_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let (built, data) = (Built::small("dropped"), TempDir::new().unwrap());
    let images = images(data.path(), PLENTY);
    let (tell, mut told) = watch::channel(None::<News>);
    let waiting = tokio::spawn({
        let (images, id) = (images.clone(), built.id().to_owned());
        async move { images.ready(&id, &tell).await.map(drop) }
    });
    told.wait_for(Option::is_some).await.unwrap();
    waiting.abort();
    assert!(waiting.await.is_err_and(|error| error.is_cancelled()) || images.known(built.id()).is_some());
    while folders(&data).iter().any(|name| name.starts_with("tmp-")) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ready(&images, built.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_is_never_evicted() {
    if !is_root() {
        return;
    }
    let data = TempDir::new().unwrap();
    let all = ["a", "b", "c"].map(Built::small);
    let plenty = images(data.path(), PLENTY);
    let [a, b, c] = all.each_ref().map(Built::id);
    let lock = ready(&plenty, a).await.lock.clone();
    let size = fs::read_to_string(lock.with_file_name("size")).unwrap().parse::<u64>().unwrap();
    // As the supervisor of a step holds it, whatever becomes of the worker.
    let held = File::open(&lock).unwrap();
    held.lock_shared().unwrap();
    drop(ready(&plenty, b).await);
    let in_use = ready(&plenty, c).await;
    settled(&data).await;

    let tight = images(data.path(), size * 5 / 2);
    tight.sweep();
    let is_there = |id: &str| folders(&data).contains(&id.replace("sha256:", ""));
    assert_eq!([a, b, c].map(is_there), [true, false, true], "the oldest that is not in use");
    images(data.path(), 0).sweep();
    assert_eq!([a, b, c].map(is_there), [true, false, true], "all that are in use");
    drop(held);
    // A new one makes room for itself.
    drop(ready(&tight, b).await);
    settled(&data).await;
    assert_eq!([a, b, c].map(is_there), [false, true, true]);
    assert!(in_use.rootfs.join("text").exists());
    drop(in_use);
    images(data.path(), 0).sweep();
    assert!(folders(&data).is_empty(), "{:?}", folders(&data));
}

/// Returns once nothing of it waits to come to the disk, which holds it as a use does.
async fn settled(data: &TempDir) {
    for name in folders(data) {
        let lock = File::open(data.path().join("cache/images").join(&name).join("whole"));
        drop(lock);
        let path = data.path().join("cache/images").join(&name);
        while fs::read_to_string(path.join("whole")).is_ok_and(|whole| whole != "on disk") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_told_with_its_reason() {
    if !is_root() {
        return;
    }
    let data = TempDir::new().unwrap();
    let absent = format!("sha256:{}", "a".repeat(64));
    let none = images(data.path(), PLENTY).ready(&absent, &watch::Sender::new(None)).await.unwrap_err();
    assert_eq!(none.reason, Reason::ImageNotFound, "{none}");
    assert!(none.message.contains(&absent) && none.hint.is_some());
    let built = Built::small("large");
    let large = images(data.path(), 1000).ready(built.id(), &watch::Sender::new(None)).await.unwrap_err();
    assert_eq!(large.reason, Reason::DiskFull, "{large}");
    assert!(large.message.contains(built.id()) && large.message.contains("1000"), "{large}");
    assert!(folders(&data).is_empty(), "{:?}", folders(&data));
}
