//! What is a manifest, and every way of not being one, by the words with which it is refused.

use proptest::prelude::*;

use crate::*;

const EMPTY: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";

fn entry(path: &str) -> String {
    format!("100644 {EMPTY} 0 0 {path}\0")
}

fn manifest(entries: &[String]) -> Vec<u8> {
    format!("bettertest tree 1\n{}", entries.concat()).into_bytes()
}

fn refused(entries: &[String]) -> String {
    Manifest::parse(&manifest(entries)).unwrap_err().to_string()
}

#[test]
fn a_manifest_reads_as_it_is_written() {
    let blob: BlobId = EMPTY.parse().unwrap();
    let wide = BlobId::Sha256([7; 32]);
    let entries = vec![
        Entry { mode: EntryMode::Executable, blob, size_bytes: 0, mtime_ns: -1, path: b"bin/run it" },
        Entry {
            mode: EntryMode::File,
            blob: wide,
            size_bytes: 12,
            mtime_ns: 1_700_000_000_123_456_789,
            path: b"a",
        },
        Entry { mode: EntryMode::Link, blob, size_bytes: 3, mtime_ns: i64::MAX, path: b"bin\xff\n" },
    ];
    let bytes = Manifest::format(entries.clone());
    let read = Manifest::parse(&bytes).unwrap();
    assert_eq!((read.count(), read.size_bytes()), (3, 15));
    assert_eq!(read.entries().collect::<Vec<_>>(), [entries[1], entries[0], entries[2]]);
    assert_eq!(Manifest::format(read.entries().collect()), bytes);
    let nothing = Manifest::format(vec![]);
    assert_eq!(Manifest::parse(&nothing).unwrap().count(), 0);
}

#[test]
fn equal_files_are_the_same_source_whenever_they_were_written() {
    let id = |facts: &str| {
        let bytes = manifest(&[format!("{facts} a\0")]);
        (TreeId::of(&bytes), Manifest::parse(&bytes).unwrap().content_id())
    };
    let (tree, content) = id(&format!("100644 {EMPTY} 0 0"));
    let (later, same) = id(&format!("100644 {EMPTY} 0 1"));
    assert_eq!(content, same);
    assert_ne!(tree, later);
    assert_ne!(content, id(&format!("100755 {EMPTY} 0 0")).1);
    assert_ne!(content, id(&format!("100644 {} 0 0", "0".repeat(40))).1);
}

#[test]
fn what_makes_one_tree_of_another() {
    let (a, b) = (
        manifest(&[entry("a.b"), entry("a/b/c"), entry("a/b/d"), entry("a0"), entry("e f")]),
        manifest(&[
            entry("a/b"),
            entry("a/b0/c"),
            format!("100755 {EMPTY} 0 0 a0\0"),
            entry("e f"),
            entry("g"),
        ]),
    );
    let (a, b) = (Manifest::parse(&a).unwrap(), Manifest::parse(&b).unwrap());
    assert_eq!((a.folders(), b.folders()), (2, 2));
    let changes = b.changes_since(&a);
    let words = |paths: Vec<&[u8]>| {
        paths.into_iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(words(changes.gone), ["a.b", "a/b/c", "a/b/d", "a0"]);
    assert_eq!(words(changes.come.iter().map(|entry| entry.path).collect()), ["a/b", "a/b0/c", "a0", "g"]);
    assert_eq!(a.changes_since(&a), Changes { gone: vec![], come: vec![] });
    let nothing = Manifest::format(vec![]);
    let nothing = Manifest::parse(&nothing).unwrap();
    assert_eq!((a.changes_since(&nothing).come.len(), nothing.changes_since(&a).gone.len()), (5, 5));
}

#[test]
fn a_file_may_begin_with_the_name_of_another() {
    let entries = ["a", "a!", "a!/b", "a.b/c", "a.b/d", "aa"].map(entry);
    assert_eq!(
        refused(&entries),
        "entry 3 of the manifest, \"a!/b\", lies beneath what is a file or link itself"
    );
    assert!(Manifest::parse(&manifest(&["a", "a!", "a.b/c", "a.b/d", "aa"].map(entry))).is_ok());
}

#[test]
fn every_refusal_says_what_it_is_about() {
    let one = |path: &str| refused(&[entry("Z"), entry(path)]);
    let words = |what: &str, path: &str| format!("entry 2 of the manifest, {path:?}, {what}");
    assert_eq!(one(""), words("has no path", ""));
    assert_eq!(one("/etc/passwd"), words("has an absolute path", "/etc/passwd"));
    assert_eq!(one("a/../../b"), words("has the name .. in its path", "a/../../b"));
    assert_eq!(one(".."), words("has the name .. in its path", ".."));
    assert_eq!(one("./a"), words("has the name . in its path", "./a"));
    assert_eq!(one("a//b"), words("has an empty name in its path", "a//b"));
    assert_eq!(one("a/"), words("has an empty name in its path", "a/"));
    assert_eq!(one("Z"), words("is there twice", "Z"));
    assert!(one("A").contains("sorted by their bytes"));
    assert!(one(&"a".repeat(256)).contains("has a name of more than 255 bytes"));
    assert!(one(&("a/".repeat(201) + "a")).contains("lies more than 200 folders deep"));
    assert!(one(&"a/".repeat(2049)).contains("has a path of more than 4096 bytes"));
    assert!(refused(&[entry("a"), entry("a/b")]).contains("lies beneath what is a file"));
    assert!(refused(&[entry("a"), entry("a.b"), entry("a/b/c")]).contains("lies beneath what is a file"));

    let facts = |facts: &str| refused(&[format!("{facts} a\0")]);
    for mode in ["040000", "160000", "100664", "100000", "0100644", "rwx"] {
        assert!(facts(&format!("{mode} {EMPTY} 0 0")).contains("has a mode that is none of"), "{mode}");
    }
    let upper = EMPTY.to_uppercase();
    for blob in [&EMPTY[1..], &upper, "", "../../etc/passwd"] {
        assert!(facts(&format!("100644 {blob} 0 0")).contains("has a blob id that is not"), "{blob}");
    }
    for size in ["-1", "+1", "01", "1e3", "", "18446744073709551616"] {
        assert!(facts(&format!("100644 {EMPTY} {size} 0")).contains("has a size that is not"), "{size}");
    }
    for mtime in ["-0", "+1", "1.5", "9223372036854775808"] {
        assert!(facts(&format!("100644 {EMPTY} 0 {mtime}")).contains("has a time that is not"), "{mtime}");
    }
    assert!(facts(&format!("120000 {EMPTY} 0 0")).contains("a link whose target is empty or longer"));
    assert!(facts(&format!("120000 {EMPTY} 4096 0")).contains("a link whose target is empty or longer"));
    assert!(refused(&[format!("100644 {EMPTY} 0\0")]).contains("is not MODE BLOB SIZE MTIME PATH"));
    let most = format!("100644 {EMPTY} {} 0 ", u64::MAX);
    assert!(refused(&[format!("{most}a\0"), format!("{most}b\0")]).contains("has a size that no disk has"));

    let whole = |bytes: &[u8]| Manifest::parse(bytes).unwrap_err().to_string();
    assert!(whole(b"").contains("does not begin with"));
    assert!(whole(b"bettertest tree 2\n").contains("does not begin with"));
    let mut cut = manifest(&[entry("a")]);
    cut.pop();
    assert!(whole(&cut).contains("is cut off"));
    let many: String = (0..=Manifest::MOST_ENTRIES).map(|n| entry(&format!("{n:07}"))).collect();
    assert_eq!(refused(&[many]), "the manifest has more than 1000000 entries");
    assert!(whole(&vec![0; Manifest::MOST_BYTES + 1]).contains("more than 128 MiB"));
}

#[test]
fn where_a_source_can_lie() {
    let check = |at: &str| SourceAt { tree: TreeId::of(b""), at: at.to_owned() }.check();
    for good in ["/app", "/usr/src/my project", "/home/me/.x", "/processes", "/etc/app"] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for bad in [
        "", "app", "/", "/app/", "//app", "/a/../b", "/a/./b", "/proc", "/proc/x", "/sys/a", "/dev", "/etc",
        "/a\nb",
    ] {
        assert_eq!(check(bad).unwrap_err().field, "source", "{bad}");
    }
}

/// The rule of `parse` for files beneath files, written down the long way.
fn has_file_beneath_file(paths: &[String]) -> bool {
    paths.iter().any(|path| paths.iter().any(|other| other.starts_with(&format!("{path}/"))))
}

proptest! {
    #[test]
    fn what_lies_beneath_what_is_seen_in_any_tree(
        names in proptest::collection::btree_set("[a!0]{1,2}(/[a!0]{1,2}){0,2}", 1..12)
    ) {
        let paths: Vec<String> = names.into_iter().collect();
        let bytes = manifest(&paths.iter().map(|path| entry(path)).collect::<Vec<_>>());
        prop_assert_eq!(Manifest::parse(&bytes).is_err(), has_file_beneath_file(&paths));
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut all = b"bettertest tree 1\n".to_vec();
        all.extend_from_slice(&bytes);
        if let Ok(read) = Manifest::parse(&all) {
            prop_assert_eq!(Manifest::format(read.entries().collect()), all.clone());
        }
    }
}
