//! Layers of every make, and archives that mean harm: nothing is ever made, changed or removed outside.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::is_root;
use super::layers::{Layer, Unpacked, hex, saved};
use super::tree::{attributes, differences, tree};
use crate::worker::native::unpack::Trouble;

#[test]
fn what_a_layer_hides_is_of_those_below_it_in_any_order() {
    if !is_root() {
        return;
    }
    let below = || {
        let layer = Layer::new().folder("d/").file("d/old", "1").folder("d/deep/").file("d/deep/old", "1");
        layer.file("gone", "1").folder("tree/").file("tree/leaf", "1").file("same", "1")
    };
    let above = |first: bool| {
        let mut layer = Layer::new().file(".wh.gone", "").file(".wh.tree", "").folder("d/");
        if first {
            layer = layer.file("d/.wh..wh..opq", "").file(".wh.same", "");
        }
        layer = layer.file("d/new", "2").folder("d/deep/").file("d/deep/new", "2").file("same", "2");
        if !first {
            layer = layer.file(".wh.same", "").file("d/.wh..wh..opq", "");
        }
        layer.file(".wh.never", "").file("nowhere/.wh.never", "").file(".wh..wh.plnk", "aufs")
    };
    for first in [true, false] {
        let unpacked = Unpacked::layers(vec![below(), above(first)]).well();
        assert_eq!(unpacked.names(), ["d", "d/deep", "d/deep/new", "d/new", "same"], "{first}");
        assert_eq!(unpacked.text("same"), "2");
    }
    // As an overlay writes it.
    let device = Layer::new().with(EntryType::Char, b"gone", b"", b"");
    assert!(!Unpacked::layers(vec![below(), device]).well().root.join("gone").exists());
}

#[test]
fn an_entry_takes_the_place_of_what_was_there() {
    if !is_root() {
        return;
    }
    let below = Layer::new().folder("a/").file("a/b", "1").file("f", "1").link("l", "a").folder("kept/");
    let below = below.file("kept/file", "1").with(EntryType::Link, b"twin", b"f", b"");
    let above = Layer::new().file("a", "2").folder("f/").file("f/x", "2").folder("l/").file("l/x", "2");
    let unpacked = Unpacked::layers(vec![below, above.folder("kept/")]).well();
    assert_eq!(unpacked.names(), ["a", "f", "f/x", "kept", "kept/file", "l", "l/x", "twin"]);
    assert_eq!((unpacked.text("a"), unpacked.text("twin")), ("2".into(), "1".into()));
}

#[test]
fn layers_come_in_any_order_and_wrapping() {
    if !is_root() {
        return;
    }
    let (a, b, c) = (Layer::new().file("x", "a"), Layer::new().file("x", "b"), Layer::new().file("x", "c"));
    let empty = vec![0; 1024];
    let layers = [a.bytes(), b.bytes(), empty.clone(), c.bytes()];
    let id = |layer: &[u8]| format!("sha256:{}", hex(layer));
    // The empty one is in the image twice.
    let ids = [id(&layers[0]), id(&empty), id(&layers[1]), id(&empty), id(&layers[3])];
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let wrap = |how: &str, bytes: &[u8]| match how {
        "gzip" => gzip(bytes),
        "zstd" => zstd::encode_all(bytes, 1).unwrap(),
        _ => bytes.to_vec(),
    };
    for how in ["plain", "gzip", "zstd"] {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
            let blobs: Vec<(String, Vec<u8>)> = order
                .iter()
                .map(|at| wrap(how, &layers[*at]))
                .map(|blob| (format!("blobs/sha256/{}", hex(&blob)), blob))
                .collect();
            let unpacked = Unpacked::of(&saved(&blobs), &ids, 1 << 30).well();
            assert_eq!(unpacked.text("x"), "c", "{order:?}");
        }
    }
    // The old form, in which folders are named by something else.
    for order in [[0, 1, 3], [3, 1, 0], [1, 0, 3]] {
        let mut archive = Layer::new();
        for at in order {
            let json =
                if at == 0 { "{\"id\":\"0\"}".to_owned() } else { format!("{{\"parent\":\"{}\"}}", at / 2) };
            let data = |name: &str| format!("{at}/{name}");
            archive = archive.file(&data("VERSION"), "1.0").file(&data("json"), &json);
            archive = archive.with(EntryType::Regular, data("layer.tar").as_bytes(), b"", &layers[at]);
        }
        let ids = [&ids[0], &ids[2], &ids[4]].map(Clone::clone);
        assert_eq!(Unpacked::of(&archive.bytes(), &ids, 1 << 30).well().text("x"), "c", "{order:?}");
    }
}

#[test]
fn what_an_archive_says_of_a_file_is_so() {
    if !is_root() {
        return;
    }
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.odd", b"a\0=\nb"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("mtime", b"1234567890.123456789"),
            ("uid", b"3000000000"),
        ])
        .file("file", "text")
        .pax(&[("SCHILY.xattr.trusted.of_link", b"v"), ("mtime", b"-5.5")])
        .link("link", "/nowhere")
        .with(EntryType::Fifo, b"pipe", b"", b"");
    let unpacked = Unpacked::layers(vec![layer]).well();
    let file = unpacked.root.join("file");
    let found = attributes(&file);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[std::ffi::OsStr::new("security.capability")], capability);
    assert_eq!(found[std::ffi::OsStr::new("user.odd")], b"a\0=\nb");
    let is = fs::metadata(&file).unwrap();
    assert_eq!((is.mtime(), is.mtime_nsec(), is.uid()), (1_234_567_890, 123_456_789, 3_000_000_000));
    assert_eq!(attributes(&unpacked.root.join("link")).len(), 1);
    let is = fs::symlink_metadata(unpacked.root.join("link")).unwrap();
    assert_eq!((is.mtime(), is.mtime_nsec()), (-6, 500_000_000));
    assert!(fs::metadata(unpacked.root.join("pipe")).unwrap().file_type().is_fifo());

    // A folder is what the last layer says of it.
    let below = Layer::new().pax(&[("SCHILY.xattr.user.old", b"1")]).folder("d/").file("d/f", "1");
    let above = Layer::new().pax(&[("SCHILY.xattr.user.new", b"1")]).folder("d/");
    let unpacked = Unpacked::layers(vec![below, above]).well();
    let names: Vec<_> = attributes(&unpacked.root.join("d")).into_keys().collect();
    assert_eq!(names, ["user.new"]);
    assert_eq!(fs::metadata(unpacked.root.join("d")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn files_with_holes_are_whole_and_small() {
    if !is_root() {
        return;
    }
    let source = TempDir::new().unwrap();
    let file = File::create(source.path().join("holes")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", 50_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 10_000], 70_000_000).unwrap();
    file.set_len(100_000_000).unwrap();
    for n in 0..30 {
        std::os::unix::fs::FileExt::write_all_at(&file, b"and often", 80_000_000 + n * 100_000).unwrap();
    }
    let forms: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ];
    for form in forms {
        let mut tar = Command::new("tar");
        tar.args(form).args(["--sparse", "--create", "--directory"]).arg(source.path());
        let layer = tar.args(["--xattrs", "holes"]).output().unwrap().stdout;
        assert!(layer.len() < 1_000_000, "{form:?}: {}", layer.len());
        let id = format!("sha256:{}", hex(&layer));
        let unpacked = Unpacked::of(&saved(&[("a-layer".to_owned(), layer)]), &[id], 1 << 22).well();
        let is = fs::metadata(unpacked.root.join("holes")).unwrap();
        assert!(is.blocks() < 4_000, "{form:?}: {} blocks", is.blocks());
        let (there, here) = (source.path().join("holes"), unpacked.root.join("holes"));
        assert!(fs::read(there).unwrap() == fs::read(here).unwrap(), "{form:?}");
    }
}

#[test]
fn nothing_leads_out_of_the_image() {
    if !is_root() {
        return;
    }
    let hard = |name: &str, target: &str| {
        Layer::new().with(EntryType::Link, name.as_bytes(), target.as_bytes(), b"")
    };
    let refused = [
        ("a name above", Layer::new().file("../canary/x", "")),
        ("a name that climbs", Layer::new().folder("a/").file("a/../../canary/x", "")),
        ("a hard link above", hard("x", "../canary/file")),
        ("a hard link by an absolute name", hard("x", "/canary/file")),
        ("a hard link through a link", {
            let layer = Layer::new().link("out", "../canary");
            layer.with(EntryType::Link, b"x", b"out/file", b"")
        }),
        ("a hard link to a folder", Layer::new().folder("d/").with(EntryType::Link, b"x", b"d", b"")),
        ("a folder through a link to nowhere", Layer::new().link("out", "../canary").file("out/x", "")),
        ("a link as root", Layer::new().link("./", "/")),
        ("a file as root", Layer::new().file(".", "x")),
        ("hiding what is above", Layer::new().file("d/.wh...", "")),
        ("hiding itself", Layer::new().file("d/.wh..", "")),
        ("a name longer than any", Layer::new().pax(&[("path", &[b'x'; 300])]).file("short", "")),
        (
            "a depth without end",
            Layer::new().pax(&[("path", "d/".repeat(1000).as_bytes())]).file("short", ""),
        ),
        ("a zero byte", Layer::new().pax(&[("path", b"a\0b")]).file("short", "")),
        ("an owner that none is", Layer::new().pax(&[("uid", b"4294967295")]).file("x", "")),
        ("a kind that none is", Layer::new().with(EntryType::new(b'Z'), b"x", b"", b"")),
        ("pieces beyond all", {
            let map: &[(&str, &[u8])] =
                &[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"18446744073709551615,9")];
            Layer::new().pax(map).file("x", "123456789")
        }),
    ];
    for (what, layer) in refused {
        let unpacked = Unpacked::layers(vec![layer]);
        let error = unpacked.result.as_ref().expect_err(what);
        assert!(matches!(error, Trouble::Refused { .. }), "{what}: {error}");
    }
    // What stays within is what it would be in a container.
    let layer = Layer::new().folder("canary/").link("out", "/canary").link("up", "../../../canary");
    let layer = layer.file("out/x", "1").file("up/y", "1").file("/abs/z", "1").file("out/../in", "1");
    let unpacked = Unpacked::layers(vec![layer]).well();
    assert_eq!(unpacked.names(), ["abs", "abs/z", "canary", "canary/x", "canary/y", "in", "out", "up"]);
    // Hiding goes through links as little as anything.
    let below = Layer::new().link("out", "../canary").link("file", "../canary/file");
    let above = Layer::new().file("out/.wh.file", "").file("out/.wh..wh..opq", "").file(".wh.file", "");
    let unpacked = Unpacked::layers(vec![below, above]).well();
    assert_eq!(unpacked.names(), ["out"]);
    assert!(unpacked.canary.join("file").exists());
}

#[test]
fn what_is_no_image_is_refused() {
    if !is_root() {
        return;
    }
    let layer = Layer::new().file("x", &"text ".repeat(1000)).bytes();
    let id = format!("sha256:{}", hex(&layer));
    let name = format!("blobs/{}", id.replace(':', "/"));
    let of = |blob: &[u8], bytes: u64| {
        let archive = saved(&[(name.clone(), blob.to_vec())]);
        Unpacked::of(&archive, std::slice::from_ref(&id), bytes).result.expect_err("a broken image")
    };
    let mut other = layer.clone();
    other[600] ^= 1;
    assert!(of(&other, 1 << 30).to_string().contains("arrived as"));
    assert!(of(&layer[..3000], 1 << 30).to_string().contains("ends within"));
    assert!(matches!(of(&layer, 100), Trouble::TooLarge(100)));
    assert!(of(b"{}", 1 << 30).to_string().contains("lacks the layer"));

    let archive = saved(&[(name.clone(), layer.clone())]);
    let cut = Unpacked::of(&archive[..3000], std::slice::from_ref(&id), 1 << 30);
    assert!(cut.result.is_err());

    // A head that would be kept in memory, of any length.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let archive = header.as_bytes().chain(std::io::repeat(b'x').take(1 << 26));
    let mut bytes = Vec::new();
    archive.take(1 << 26).read_to_end(&mut bytes).unwrap();
    assert!(of(&bytes, 1 << 30).to_string().contains("precedes"));
}

#[test]
fn it_is_what_tar_makes_of_it() {
    if !is_root() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tar =
        Command::new("tar").args(["--create", "--format=posix", "--directory"]).arg(root).arg("src").output();
    let layer = tar.unwrap().stdout;
    let other = TempDir::new().unwrap();
    fs::write(other.path().join("layer"), &layer).unwrap();
    fs::create_dir(other.path().join("rootfs")).unwrap();
    let by_tar = Command::new("tar")
        .args(["--extract", "--numeric-owner", "--preserve-permissions", "--file"])
        .arg(other.path().join("layer"))
        .arg("--directory")
        .arg(other.path().join("rootfs"))
        .status();
    assert!(by_tar.unwrap().success());
    let id = format!("sha256:{}", hex(&layer));
    let unpacked = Unpacked::of(&saved(&[("x".to_owned(), layer)]), &[id], 1 << 30).well();
    let (ours, theirs) = (tree(&unpacked.root.join("src")), tree(&other.path().join("rootfs/src")));
    assert_eq!(differences(&ours, &theirs), "");
}
