//! A source on its way to a worker: what is taken, what is refused by which words, and that nothing of what was refused
//! lies anywhere afterwards. That steps run on it, every engine has to show in `engines.rs`.

use common::{BlobId, BlobsStored, Entry, EntryMode, Manifest, MissingBlobs, TreeId};
use reqwest::{Body, Method, Response, StatusCode};
use serde_json::{Value, json};
use sha1::Digest as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt as _;

use super::rig::{IMAGE, Rig};
use crate::worker::{EngineChoice, Fake};

/// A folder of files, as somebody has them: mode, time, path, bytes.
pub(super) struct Files(pub(super) Vec<(EntryMode, i64, &'static str, Vec<u8>)>);

pub(super) fn blob_id(bytes: &[u8]) -> BlobId {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    BlobId::Sha1(hash.finalize().into())
}

impl Files {
    pub(super) fn manifest(&self) -> Vec<u8> {
        let entry = |(mode, mtime_ns, path, bytes): &'_ (EntryMode, i64, &'static str, Vec<u8>)| Entry {
            mode: *mode,
            blob: blob_id(bytes),
            size_bytes: bytes.len() as u64,
            mtime_ns: *mtime_ns,
            path: path.as_bytes(),
        };
        Manifest::format(self.0.iter().map(entry).collect())
    }

    fn frames(&self, wanted: &[BlobId]) -> Vec<u8> {
        let mut frames = Vec::new();
        for id in wanted {
            let (_, _, _, bytes) = self.0.iter().find(|(.., bytes)| blob_id(bytes) == *id).unwrap();
            frames.extend(format!("{id} {}\n", bytes.len()).into_bytes());
            frames.extend(bytes);
        }
        frames
    }

    /// Sends what the worker lacks, and has the tree put together.
    pub(super) async fn send(&self, rig: &Rig) -> TreeId {
        let manifest = self.manifest();
        let asked: MissingBlobs =
            json(ask(rig, Method::POST, "/sources/missing", manifest.clone()).await).await;
        assert_eq!(asked.tree, TreeId::of(&manifest));
        if !asked.is_ready {
            let put: BlobsStored =
                json(ask(rig, Method::PUT, "/blobs", self.frames(&asked.missing)).await).await;
            assert_eq!(put.stored as usize, asked.missing.len());
            let put: MissingBlobs =
                json(ask(rig, Method::PUT, &format!("/trees/{}", asked.tree), manifest).await).await;
            assert!(put.is_ready);
        }
        asked.tree
    }
}

async fn ask(rig: &Rig, method: Method, path: &str, body: impl Into<Body>) -> Response {
    rig.bare().request(method, rig.url(path)).bearer_auth(rig.token()).body(body).send().await.unwrap()
}

async fn json<T: serde::de::DeserializeOwned>(response: Response) -> T {
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn refused(response: Response, status: StatusCode) -> String {
    let (found, problem) = (response.status(), response.json::<Value>().await.unwrap());
    assert_eq!(found, status, "{problem}");
    assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{problem}");
    problem["error"].as_str().unwrap().to_owned()
}

/// All that lies in the data directory, but for what the worker has for itself.
fn all_files(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![data.join("cache")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.retain(|path| path.file_name().is_some_and(|name| name != "lock"));
    found
}

pub(super) fn files() -> Files {
    Files(vec![
        (EntryMode::File, 1_700_000_000_123_456_789, "README", b"read me\n".to_vec()),
        // To some who make layers of archives, and to none of ours, such a name means that `x` was removed.
        (EntryMode::File, 1, "a/.wh.x", b"no whiteout\n".to_vec()),
        (EntryMode::File, 1_600_000_000_000_000_001, "a.b", Vec::new()),
        (EntryMode::File, 1_600_000_000_000_000_002, "a/__init__.py", Vec::new()),
        (EntryMode::Link, 5, "a/link", b"../../../etc/passwd".to_vec()),
        (EntryMode::Executable, -1_000_000_000, "bin/run", b"#!/bin/sh\n".to_vec()),
        // The same bytes as another, in another dress.
        (EntryMode::Executable, 7, "bin/README", b"read me\n".to_vec()),
    ])
}

fn trees(rig: &Rig) -> PathBuf {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    rig.data.path().join("cache/sources").join(boot.trim()).join("trees")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_missing_travels_and_a_tree_is_as_its_manifest_says() {
    let rig = Rig::fake().await;
    let mut source = files();
    let first = source.send(&rig).await;
    let asked: MissingBlobs =
        json(ask(&rig, Method::POST, "/sources/missing", source.manifest()).await).await;
    assert_eq!((asked.is_ready, asked.missing.len()), (true, 0));

    // One file has changed, another was touched.
    source.0[0].3 = b"read me again\n".to_vec();
    source.0[5].1 = 42;
    let asked: MissingBlobs =
        json(ask(&rig, Method::POST, "/sources/missing", source.manifest()).await).await;
    assert_eq!((asked.is_ready, asked.missing.as_slice()), (false, &[blob_id(b"read me again\n")][..]));
    let second = source.send(&rig).await;

    let at = |tree: &TreeId, path: &str| trees(&rig).join(tree.as_str()).join("files").join(path);
    for (tree, readme, run_ns) in [(&first, "read me\n", -1_000_000_000), (&second, "read me again\n", 42)] {
        assert_eq!(fs::read_to_string(at(tree, "README")).unwrap(), readme);
        assert_eq!(fs::read_link(at(tree, "a/link")).unwrap(), Path::new("../../../etc/passwd"));
        for (path, mode, mtime_ns) in [
            ("README", 0o100_644, 1_700_000_000_123_456_789),
            ("a.b", 0o100_644, 1_600_000_000_000_000_001),
            ("a/__init__.py", 0o100_644, 1_600_000_000_000_000_002),
            ("a/link", 0o120_777, 5),
            ("bin/run", 0o100_755, run_ns),
            ("bin/README", 0o100_755, 7),
        ] {
            let found = at(tree, path).symlink_metadata().unwrap();
            let found_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
            assert_eq!((found.mode(), found_ns), (mode, mtime_ns), "{path} of {tree}");
        }
        assert_eq!(at(tree, "a").metadata().unwrap().mode(), 0o040_777);
    }
    // What did not change is there once.
    let inode = |tree: &TreeId, path: &str| at(tree, path).metadata().unwrap().ino();
    assert_eq!(inode(&first, "a/.wh.x"), inode(&second, "a/.wh.x"));
    assert_ne!(inode(&first, "bin/run"), inode(&second, "bin/run"));
    rig.finish().await;
}

/// As if it had been used so long ago for the last time.
fn age(rig: &Rig, tree: &TreeId, seconds: u64) {
    let lock = trees(rig).join(tree.as_str()).join("lock");
    let lock = fs::File::options().write(true).open(lock).unwrap();
    lock.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

fn paths_in(tree: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![tree.join("files")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(tree.join("files")).unwrap().to_str().unwrap().to_owned());
            if path.symlink_metadata().unwrap().is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What is made of the tree before is what would have been made from nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_nobody_uses_becomes_the_next_one() {
    let rig = Rig::fake().await;
    let mut source = files();
    for n in ["x/y/1", "x/y/2", "x/z", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9", "la", "lb", "lc"]
    {
        source.0.push((EntryMode::File, 3, n, n.as_bytes().to_vec()));
    }
    let first = source.send(&rig).await;
    let place = |tree: &TreeId| trees(&rig).join(tree.as_str());

    // Gone with the folder that it alone was in; a file where a folder was, and a folder where a file was; touched.
    source.0.retain(|(_, _, path, _)| !matches!(*path, "bin/run" | "bin/README" | "x/y/1" | "x/y/2" | "k1"));
    source.0.push((EntryMode::File, 4, "x/y", b"a file".to_vec()));
    source.0.push((EntryMode::File, 4, "k1/in/it", b"k2".to_vec()));
    source.0.iter_mut().find(|(_, _, path, _)| *path == "k2").unwrap().1 = 77;
    // Used just now, it stays.
    let second = source.send(&rig).await;
    assert!(place(&first).exists() && place(&second).exists());
    let anew = paths_in(&place(&second));
    fs::remove_dir_all(place(&second)).unwrap();
    age(&rig, &first, 60);

    assert_eq!(source.send(&rig).await, second);
    assert!(!place(&first).exists());
    assert_eq!(paths_in(&place(&second)), anew);
    assert!(anew.iter().any(|path| path == "k1/in/it") && !anew.iter().any(|path| path.starts_with("bin")));
    let read = |path: &str| fs::read_to_string(place(&second).join("files").join(path)).unwrap();
    assert_eq!(
        (read("x/y"), read("k1/in/it"), read("README")),
        ("a file".into(), "k2".into(), "read me\n".into())
    );
    let touched = place(&second).join("files/k2").metadata().unwrap();
    assert_eq!((touched.mtime(), touched.mtime_nsec()), (0, 77));
    // What the former needs is still there, so that it comes back the same way.
    age(&rig, &second, 60);
    let before = files();
    let asked: MissingBlobs =
        json(ask(&rig, Method::POST, "/sources/missing", before.manifest()).await).await;
    assert_eq!((asked.is_ready, asked.missing.len()), (false, 0));

    // Used by a step, it stays however long ago that began.
    let spec = json!({"image": IMAGE, "command": "echo on; sleep 60", "id": "a-1", "source": {"tree": second, "at": "/app"}});
    assert_eq!(rig.post(&spec).await.status(), StatusCode::OK);
    age(&rig, &second, 60);
    source.0[0].3 = b"read me again\n".to_vec();
    let third = source.send(&rig).await;
    assert!(place(&second).exists() && place(&third).exists());
    rig.finish().await;
}

/// That a blob is there is not asked of those that the latest tree has. Where one is not, it is found out, and mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_somebody_took_away_is_sent_again() {
    let rig = Rig::fake().await;
    let mut source = files();
    source.send(&rig).await;
    let gone = blob_id(b"no whiteout\n").to_string();
    let boot = trees(&rig).parent().unwrap().to_owned();
    fs::remove_file(boot.join("blobs").join(&gone[..2]).join(&gone[2..])).unwrap();
    source.0[0].3 = b"read me again\n".to_vec();
    let manifest = source.manifest();
    let asked: MissingBlobs = json(ask(&rig, Method::POST, "/sources/missing", manifest.clone()).await).await;
    assert_eq!(asked.missing, [blob_id(b"read me again\n")]);
    json::<BlobsStored>(ask(&rig, Method::PUT, "/blobs", source.frames(&asked.missing)).await).await;
    let path = format!("/trees/{}", asked.tree);
    let error = refused(ask(&rig, Method::PUT, &path, manifest).await, StatusCode::CONFLICT).await;
    assert!(error.contains(&format!("1 of its blobs are not here, the first is {gone}")), "{error}");
    assert_eq!(source.send(&rig).await, asked.tree);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_are_not_what_they_are_called_are_refused_and_those_before_them_kept() {
    let rig = Rig::fake().await;
    let put = async |body: Vec<u8>| ask(&rig, Method::PUT, "/blobs", body).await;
    let frame =
        |id: &str, length: &str, bytes: &[u8]| [format!("{id} {length}\n").as_bytes(), bytes].concat();
    let good = |bytes: &[u8]| frame(&blob_id(bytes).to_string(), &bytes.len().to_string(), bytes);

    let other = blob_id(b"other").to_string();
    let body = [good(b"one"), frame(&other, "3", b"two"), good(b"three")].concat();
    let error = refused(put(body).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(error, format!("the bytes that were sent as blob {other} have another id"));
    assert_eq!(all_files(rig.data.path()).len(), 1);

    let error = refused(put(frame(&other, "5", b"oth")).await, StatusCode::BAD_REQUEST).await;
    assert_eq!(error, "the body ended in the middle of frame 1");
    let error =
        refused(put(frame(&other, "18446744073709551615", b"other")).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(error.await.contains("is to have 18446744073709551615 bytes"));
    for (id, length) in [
        ("../../../etc/passwd", "5"),
        (&other.to_uppercase(), "5"),
        (&other, "-5"),
        (&other, "+5"),
        (&other, ""),
        (&other, "99999999999999999999999999"),
        ("", ""),
    ] {
        let error = refused(put(frame(id, length, b"other")).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(error, "frame 1 does not begin with BLOB_ID LENGTH and a line's end", "{id} {length}");
    }
    refused(put(vec![b'a'; 1_000_000]).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    // Only the first good one is there, and nothing half.
    assert_eq!(all_files(rig.data.path()).len(), 1);
    let put: BlobsStored = json(put(Vec::new()).await).await;
    assert_eq!(put.stored, 0);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_leaves_nothing_half() {
    let rig = Rig::fake().await;
    let id = blob_id(&vec![7; 1 << 20]);
    let mut stream = tokio::net::TcpStream::connect(rig.address()).await.unwrap();
    let head = format!(
        "PUT /blobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 2000000\r\n\r\n{id} {}\n",
        rig.token(),
        1 << 20
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[7; 1000]).await.unwrap();
    let give_up = std::time::Instant::now() + Duration::from_secs(30);
    let until = async |is_empty: bool| {
        while all_files(rig.data.path()).is_empty() != is_empty {
            assert!(std::time::Instant::now() < give_up, "{:?}", all_files(rig.data.path()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until(false).await;
    drop(stream);
    until(true).await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_manifests_are_refused_by_name_and_write_nothing() {
    let rig = Rig::fake().await;
    let empty = blob_id(b"");
    let put = async |manifest: Vec<u8>| {
        let path = format!("/trees/{}", TreeId::of(&manifest));
        ask(&rig, Method::PUT, &path, manifest).await
    };
    let one = |facts: &str, path: &str| format!("bettertest tree 1\n{facts} {path}\0").into_bytes();
    let facts = format!("100644 {empty} 0 0");
    for (path, words) in [
        ("../escaped", "has the name .. in its path"),
        ("a/../../escaped", "has the name .. in its path"),
        ("/escaped", "has an absolute path"),
        ("a//escaped", "has an empty name in its path"),
    ] {
        for (method, to) in [(Method::PUT, None), (Method::POST, Some("/sources/missing"))] {
            let manifest = one(&facts, path);
            let to = to.map_or_else(|| format!("/trees/{}", TreeId::of(&manifest)), str::to_owned);
            let error =
                refused(ask(&rig, method, &to, manifest).await, StatusCode::UNPROCESSABLE_ENTITY).await;
            assert!(error.contains(words) && error.contains(path), "{error}");
        }
    }
    // A link, and a file that would be written where it leads.
    let source = Files(vec![
        (EntryMode::Link, 0, "out", rig.data.path().to_str().unwrap().as_bytes().to_vec()),
        (EntryMode::File, 0, "out/escaped", b"x".to_vec()),
    ]);
    let error = refused(put(source.manifest()).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(error.contains("\"out/escaped\", lies beneath what is a file or link itself"), "{error}");

    let manifest = one(&facts, "a");
    let error = refused(put(manifest.clone()).await, StatusCode::CONFLICT).await;
    assert!(error.contains(&format!("1 of its blobs are not here, the first is {empty}")), "{error}");
    let other = format!("/trees/{}", TreeId::of(b"other"));
    let error =
        refused(ask(&rig, Method::PUT, &other, manifest).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(error.contains("has another id"), "{error}");
    let error =
        refused(ask(&rig, Method::PUT, "/trees/..%2F..", "").await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(error.contains("a tree id is 64"), "{error}");

    // What is sent as it should be, but is not as it says.
    let sent =
        Files(vec![(EntryMode::File, 0, "a", b"abc".to_vec()), (EntryMode::Link, 0, "b", b"x\0y".to_vec())]);
    json::<BlobsStored>(
        ask(&rig, Method::PUT, "/blobs", sent.frames(&[blob_id(b"abc"), blob_id(b"x\0y")])).await,
    )
    .await;
    let before = all_files(rig.data.path());
    let error = refused(put(sent.manifest()).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(error.contains("\"b\" is a link whose target has a NUL"), "{error}");
    let manifest = one(&format!("100644 {} 4 0", blob_id(b"abc")), "a");
    let error = refused(put(manifest).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(error.contains("\"a\" has 4 bytes in the manifest, and its blob"), "{error}");
    let manifest = one(&format!("100644 {} {} 0", blob_id(b"abc"), 1u64 << 60), "a");
    let error = refused(put(manifest).await, StatusCode::PAYLOAD_TOO_LARGE).await;
    assert!(error.contains("it has files of 1152921504606846976 bytes"), "{error}");
    assert_eq!(all_files(rig.data.path()), before);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_used_goes_when_there_is_too_much() {
    let large = |byte: u8| Files(vec![(EntryMode::File, 0, "large", vec![byte; 1 << 20])]);
    let rig =
        Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.source_cache_bytes = 5 << 19).await;
    let mut sent = Vec::new();
    for byte in 0..3 {
        sent.push(large(byte).send(&rig).await);
    }
    let spec = json!({"image": IMAGE, "command": "echo on; sleep 60", "id": "a-1", "source": {"tree": sent[0], "at": "/app"}});
    assert_eq!(rig.post(&spec).await.status(), StatusCode::OK);
    let (data, engine) = rig.hand_over().await;
    let age = |tree: &TreeId, hours: u64| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let lock = data
            .path()
            .join("cache/sources")
            .join(boot.trim())
            .join("trees")
            .join(tree.as_str())
            .join("lock");
        let lock = fs::File::options().write(true).open(lock).unwrap();
        lock.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
    };
    for (hours, tree) in [(3, &sent[0]), (2, &sent[1]), (1, &sent[2])] {
        age(tree, hours);
    }
    for blob in
        all_files(data.path()).iter().filter(|path| path.components().any(|part| part.as_os_str() == "blobs"))
    {
        let long_ago = fs::FileTimes::new().set_accessed(SystemTime::now() - Duration::from_secs(7200));
        fs::File::options().write(true).open(blob).unwrap().set_times(long_ago).unwrap();
    }
    // A worker that starts tidies up. The oldest is used by a step that goes on, so the next one has to go.
    let rig = Rig::on(data, engine, |setup| setup.source_cache_bytes = 5 << 19).await;
    let is_there = |tree: &TreeId| trees(&rig).join(tree.as_str()).exists();
    let give_up = std::time::Instant::now() + Duration::from_secs(30);
    while is_there(&sent[1]) {
        assert!(std::time::Instant::now() < give_up, "nothing was evicted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(is_there(&sent[0]) && is_there(&sent[2]));
    let spec = json!({"image": IMAGE, "command": "true", "source": {"tree": sent[1], "at": "/app"}});
    assert_eq!(rig.post(&spec).await.status(), StatusCode::CONFLICT);
    rig.finish().await;
}
