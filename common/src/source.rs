//! The source under test as it goes over the wire: what lies in a tree, byte by byte, and where a step wants it.
//!
//! A **manifest** is a list of files, a **tree** what it describes, and a **blob** the bytes of one file, by the id
//! that git gives them. All of it comes from strangers: `Manifest::parse` is the one place that says what a tree may
//! be, and names what it refuses. What a name means to a disk, and whether bytes match their id, is not known here.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::{BadName, SpecProblem};

/// Git's id of a file's bytes: the hash of `blob LENGTH\0` and the bytes, by SHA-1 or, in newer repositories, SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BlobId {
    Sha1([u8; 20]),
    Sha256([u8; 32]),
}

impl BlobId {
    /// The longest way to write one.
    pub const LONGEST: usize = 64;

    fn digest(&self) -> &[u8] {
        match self {
            BlobId::Sha1(digest) => digest,
            BlobId::Sha256(digest) => digest,
        }
    }

    fn read(hex: &[u8]) -> Option<BlobId> {
        match hex.len() {
            40 => read_hex(hex).map(BlobId::Sha1),
            64 => read_hex(hex).map(BlobId::Sha256),
            _ => None,
        }
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut hex, digest) = ([0; Self::LONGEST], self.digest());
        // A source has many, and each is written often: by far quicker than byte by byte through a formatter.
        for (pair, byte) in hex.chunks_exact_mut(2).zip(digest) {
            pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        f.write_str(std::str::from_utf8(&hex[..2 * digest.len()]).expect("digits are ASCII"))
    }
}

impl FromStr for BlobId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<BlobId, BadName> {
        let bad = || BadName(format!("a blob id is 40 or 64 of the digits 0-9 a-f, not {text:?}"));
        BlobId::read(text.as_bytes()).ok_or_else(bad)
    }
}

impl TryFrom<String> for BlobId {
    type Error = BadName;

    fn try_from(text: String) -> Result<BlobId, BadName> {
        text.parse()
    }
}

impl From<BlobId> for String {
    fn from(id: BlobId) -> String {
        id.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for BlobId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BlobId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^([0-9a-f]{40}|[0-9a-f]{64})$"})
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A tree's id: the SHA-256 of its manifest's bytes, times and sizes included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("pattern" = r"^[0-9a-f]{64}$"))
)]
#[serde(try_from = "String", into = "String")]
pub struct TreeId(String);

impl TreeId {
    /// The id of the tree that these bytes describe, if they are a manifest at all.
    pub fn of(manifest: &[u8]) -> TreeId {
        TreeId(write_hex(&Sha256::digest(manifest)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TreeId {
    type Error = BadName;

    fn try_from(text: String) -> Result<TreeId, BadName> {
        let hex = read_hex::<32>(text.as_bytes()).is_some();
        if hex {
            Ok(TreeId(text))
        } else {
            Err(BadName(format!("a tree id is 64 of the digits 0-9 a-f, not {text:?}")))
        }
    }
}

impl From<TreeId> for String {
    fn from(id: TreeId) -> String {
        id.0
    }
}

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tree, and the folder of the container in which a step finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SourceAt {
    pub tree: TreeId,
    /// Absolute path in the container. What the image has there stays, beneath the tree's files.
    pub at: String,
}

impl SourceAt {
    /// What JSON's types cannot say.
    pub fn check(&self) -> Result<(), SpecProblem> {
        let problem = |what: &str| Err(SpecProblem { field: "source", what: what.to_owned() });
        let at = &self.at;
        let Some(path) = at.strip_prefix('/') else {
            return problem(&format!("at has to be an absolute path in the container, not {at:?}"));
        };
        if path.is_empty() {
            return problem("at cannot be / itself: a source lies in a folder of its own, such as /app");
        }
        let odd = |name: &str| matches!(name, "" | "." | "..") || name.len() > Manifest::LONGEST_NAME;
        if path.split('/').any(odd) || at.len() > Manifest::LONGEST_PATH {
            return problem(&format!(
                "at has to be written without //, . and .. and at its end without /: {at:?}"
            ));
        }
        if at.contains(|c: char| c.is_control()) {
            return problem("at contains a control character");
        }
        if matches!(path.split('/').next(), Some("proc" | "sys" | "dev")) {
            return problem(&format!("at cannot be in /proc, /sys or /dev, which are the kernel's: {at:?}"));
        }
        if path == "etc" {
            return problem("at cannot be /etc, where a container has its own names and addresses");
        }
        Ok(())
    }
}

/// The answer to `POST /sources/missing`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MissingBlobs {
    pub tree: TreeId,
    /// The tree is assembled: nothing has to be sent.
    pub is_ready: bool,
    /// Each once. Empty where the tree only has to be put together.
    pub missing: Vec<BlobId>,
}

/// The answer to `PUT /blobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlobsStored {
    pub stored: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryMode {
    File,
    Executable,
    /// Its blob is its target.
    Link,
}

impl EntryMode {
    /// As git writes it.
    pub fn word(self) -> &'static str {
        match self {
            EntryMode::File => "100644",
            EntryMode::Executable => "100755",
            EntryMode::Link => "120000",
        }
    }

    fn read(word: &[u8]) -> Option<EntryMode> {
        [EntryMode::File, EntryMode::Executable, EntryMode::Link]
            .into_iter()
            .find(|mode| mode.word().as_bytes() == word)
    }
}

/// A file or link of a tree. Its folders are those that its path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub mode: EntryMode,
    pub blob: BlobId,
    pub size_bytes: u64,
    /// Nanoseconds since 1970, as the file has it on disk: cargo and make decide by it what to build anew.
    pub mtime_ns: i64,
    /// Beneath the tree's root, with `/` between names. Any bytes but NUL, as on a disk.
    pub path: &'a [u8],
}

impl Entry<'_> {
    fn write(&self, to: &mut Vec<u8>) {
        let facts = format!("{} {} {} {} ", self.mode.word(), self.blob, self.size_bytes, self.mtime_ns);
        to.extend_from_slice(facts.as_bytes());
        to.extend_from_slice(self.path);
        to.push(0);
    }
}

/// A manifest that was read to its end and found good.
#[derive(Debug, Clone, Copy)]
pub struct Manifest<'a> {
    entries: &'a [u8],
    count: usize,
    size_bytes: u64,
}

/// How one tree differs from another. What has the same path and is another entry has gone and come.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes<'a, 'b> {
    pub gone: Vec<&'b [u8]>,
    pub come: Vec<Entry<'a>>,
}

/// Why bytes are no manifest: which entry (counted from 1, 0 for the whole), its path as far as it was read, what of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadManifest {
    pub entry: usize,
    pub path: String,
    pub what: &'static str,
}

impl fmt::Display for BadManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entry == 0 {
            return write!(f, "the manifest {}", self.what);
        }
        write!(f, "entry {} of the manifest, {:?}, {}", self.entry, self.path, self.what)
    }
}

impl std::error::Error for BadManifest {}

impl<'a> Manifest<'a> {
    pub const MOST_ENTRIES: usize = 1_000_000;
    pub const LONGEST_PATH: usize = 4096;
    pub const LONGEST_NAME: usize = 255;
    /// Folders within folders: more cannot be walked with the descriptors that a process may have.
    pub const DEEPEST: usize = 200;
    /// Linux takes no longer target.
    pub const LONGEST_TARGET: u64 = 4095;
    /// So that a worker can hold one whole: a million entries of 130 bytes.
    pub const MOST_BYTES: usize = 128 * 1024 * 1024;

    const FIRST_LINE: &'static [u8] = b"bettertest tree 1\n";

    /// The bytes of a manifest. Entries may come in any order; whether they are a tree, `parse` knows.
    pub fn format(mut entries: Vec<Entry<'_>>) -> Vec<u8> {
        entries.sort_by(|a, b| a.path.cmp(b.path));
        let mut bytes = Self::FIRST_LINE.to_vec();
        entries.iter().for_each(|entry| entry.write(&mut bytes));
        bytes
    }

    pub fn parse(bytes: &'a [u8]) -> Result<Manifest<'a>, BadManifest> {
        let whole = |what| Err(BadManifest { entry: 0, path: String::new(), what });
        if bytes.len() > Self::MOST_BYTES {
            return whole("has more than 128 MiB");
        }
        let Some(entries) = bytes.strip_prefix(Self::FIRST_LINE) else {
            return whole("does not begin with \"bettertest tree 1\"");
        };
        if !entries.is_empty() && !entries.ends_with(&[0]) {
            return whole("is cut off: it does not end with a NUL");
        }
        let mut manifest = Manifest { entries, count: 0, size_bytes: 0 };
        let mut before: &[u8] = &[];
        // Files whose path is a prefix of the current one. In a sorted list no other can have something beneath it.
        let mut above: Vec<&[u8]> = Vec::new();
        for record in records(entries) {
            manifest.count += 1;
            let refuse = |path: &[u8], what| {
                let path = String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned();
                Err(BadManifest { entry: manifest.count, path, what })
            };
            if manifest.count > Self::MOST_ENTRIES {
                return whole("has more than 1000000 entries");
            }
            let entry = match read_entry(record) {
                Ok(entry) => entry,
                Err((path, what)) => return refuse(path, what),
            };
            let path = entry.path;
            if let Err(what) = check_path(path) {
                return refuse(path, what);
            }
            if manifest.count > 1 && path == before {
                return refuse(path, "is there twice");
            }
            if path < before {
                return refuse(
                    path,
                    "stands after what it has to stand before: entries are sorted by their bytes",
                );
            }
            while above.last().is_some_and(|file| !path.starts_with(file)) {
                above.pop();
            }
            if above.iter().any(|file| path[file.len()] == b'/') {
                return refuse(path, "lies beneath what is a file or link itself");
            }
            if entry.mode == EntryMode::Link && !(1..=Self::LONGEST_TARGET).contains(&entry.size_bytes) {
                return refuse(path, "is a link whose target is empty or longer than 4095 bytes");
            }
            let Some(size_bytes) = manifest.size_bytes.checked_add(entry.size_bytes) else {
                return refuse(path, "has a size that no disk has");
            };
            manifest.size_bytes = size_bytes;
            above.push(path);
            before = path;
        }
        Ok(manifest)
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        records(self.entries).map(|record| read_entry(record).expect("parse has read it"))
    }

    /// What makes this tree of another one.
    pub fn changes_since<'b>(&self, before: &Manifest<'b>) -> Changes<'a, 'b> {
        let mut changes = Changes { gone: Vec::new(), come: Vec::new() };
        let mut old = records(before.entries).map(|record| (path_in(record), record)).peekable();
        let mut new = records(self.entries).map(|record| (path_in(record), record)).peekable();
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let gone = if order.is_le() { old.next() } else { None };
            let come = if order.is_ge() { new.next() } else { None };
            if gone.map(|(_, record)| record) != come.map(|(_, record)| record) {
                changes.gone.extend(gone.map(|(path, _)| path));
                changes.come.extend(come.map(|(_, record)| read_entry(record).expect("parse has read it")));
            }
        }
    }

    /// Folders that these paths need, the root not among them.
    pub fn folders(&self) -> u64 {
        let mut before: &[u8] = &[];
        let mut folders = 0;
        for path in records(self.entries).map(path_in) {
            let slashes = (0..path.len()).filter(|at| path[*at] == b'/');
            folders += slashes.filter(|at| !before.starts_with(&path[..=*at])).count() as u64;
            before = path;
        }
        folders
    }

    /// How many entries.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What all files come to.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Which source this is, for people and for the history: equal files give an equal id, whenever they were
    /// written to the disk. 64 hex digits.
    pub fn content_id(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"bettertest content 1\n");
        for entry in self.entries() {
            hash.update(format!("{} {} ", entry.mode.word(), entry.blob));
            hash.update(entry.path);
            hash.update([0]);
        }
        write_hex(&hash.finalize())
    }
}

fn records(entries: &[u8]) -> impl Iterator<Item = &[u8]> {
    entries.split_inclusive(|byte| *byte == 0).map(|record| record.strip_suffix(&[0]).unwrap_or(record))
}

/// Of a record that was found good.
fn path_in(record: &[u8]) -> &[u8] {
    record.splitn(5, |byte| *byte == b' ').last().unwrap_or(record)
}

/// What is wrong with an entry, and its path as far as one can be made out.
type Wrong<'a> = (&'a [u8], &'static str);

fn read_entry(record: &[u8]) -> Result<Entry<'_>, Wrong<'_>> {
    let mut fields = record.splitn(5, |byte| *byte == b' ');
    let mut next = || fields.next().ok_or((record, "is not MODE BLOB SIZE MTIME PATH"));
    let (mode, blob, size, mtime, path) = (next()?, next()?, next()?, next()?, next()?);
    let wrong = |what| (path, what);
    Ok(Entry {
        mode: EntryMode::read(mode).ok_or(wrong("has a mode that is none of 100644, 100755 and 120000"))?,
        blob: BlobId::read(blob).ok_or(wrong("has a blob id that is not 40 or 64 of the digits 0-9 a-f"))?,
        size_bytes: read_number(size).ok_or(wrong("has a size that is not a number of bytes"))?,
        mtime_ns: read_number(mtime).ok_or(wrong("has a time that is not a number of nanoseconds"))?,
        path,
    })
}

/// As numbers are written here: one way only, so that equal manifests have equal bytes.
fn read_number<N: FromStr>(text: &[u8]) -> Option<N> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_plain =
        digits.iter().all(u8::is_ascii_digit) && (digits[..] == *b"0" || !digits.starts_with(b"0"));
    if !is_plain || text == b"-0" {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("has no path");
    }
    if path[0] == b'/' {
        return Err("has an absolute path");
    }
    if path.len() > Manifest::LONGEST_PATH {
        return Err("has a path of more than 4096 bytes");
    }
    if path.iter().filter(|byte| **byte == b'/').count() > Manifest::DEEPEST {
        return Err("lies more than 200 folders deep");
    }
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" => return Err("has an empty name in its path"),
            b"." => return Err("has the name . in its path"),
            b".." => return Err("has the name .. in its path"),
            name if name.len() > Manifest::LONGEST_NAME => {
                return Err("has a name of more than 255 bytes in its path");
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_hex<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if hex.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn write_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
