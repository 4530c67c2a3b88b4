//! An archive of a tree's files, made as it is sent: nothing of it lies on a disk, nor more than a few pieces in memory.

use bytes::Bytes;
use common::{Entry, EntryMode, Manifest};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How much of the archive is made before it is sent on, and how many such pieces may wait.
const PIECE_BYTES: usize = 128 * 1024;
const PIECES: usize = 8;

/// What the header of an entry has room for; a longer name stands in a record before it.
const SHORT_NAME: usize = 100;

pub(super) struct Archive {
    to: tar::Builder<Pieces>,
    /// Before all paths.
    pub(super) within: Vec<u8>,
    /// The folder of the entry before.
    folder: Vec<u8>,
    folder_mode: u32,
}

/// Begins to make one; its pieces as they come, and how the making ended.
pub(super) fn stream(
    folder_mode: u32,
    make: impl FnOnce(&mut Archive) -> io::Result<()> + Send + 'static,
) -> (impl futures_util::Stream<Item = Bytes> + Send + 'static, JoinHandle<Result<(), String>>) {
    let (send, pieces) = mpsc::channel(PIECES);
    let making = tokio::task::spawn_blocking(move || {
        let to = tar::Builder::new(Pieces { send, now: Vec::new() });
        let mut archive = Archive { to, within: Vec::new(), folder: Vec::new(), folder_mode };
        let made =
            make(&mut archive).and_then(|()| archive.to.into_inner()).and_then(|mut last| last.flush());
        made.map_err(|error| error.to_string())
    });
    let body = futures_util::stream::unfold(pieces, |mut pieces: mpsc::Receiver<Bytes>| async move {
        Some((pieces.recv().await?, pieces))
    });
    (body, making)
}

impl Archive {
    pub(super) fn tree(&mut self, manifest: &[u8], files: &Path) -> io::Result<()> {
        let manifest = Manifest::parse(manifest).map_err(io::Error::other)?;
        manifest.entries().try_for_each(|entry| self.entry(&entry, files))
    }

    pub(super) fn entry(&mut self, entry: &Entry<'_>, files: &Path) -> io::Result<()> {
        let parent = entry.path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at);
        self.folders(&entry.path[..parent])?;
        let file: PathBuf = files.join(std::ffi::OsStr::from_bytes(entry.path));
        let mut header = header(match entry.mode {
            EntryMode::File => 0o644,
            EntryMode::Executable => 0o755,
            EntryMode::Link => 0o777,
        });
        header.set_mtime(u64::try_from(entry.mtime_ns / 1_000_000_000).unwrap_or(0));
        let mtime = seconds(entry.mtime_ns);
        match entry.mode {
            EntryMode::File | EntryMode::Executable => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(entry.size_bytes);
                self.append(header, entry.path, &[], Some(&mtime), File::open(file)?)
            }
            EntryMode::Link => {
                header.set_entry_type(tar::EntryType::Symlink);
                let target = fs::read_link(file)?;
                self.append(header, entry.path, target.as_os_str().as_bytes(), Some(&mtime), io::empty())
            }
        }
    }

    /// Those that the entry before did not have.
    fn folders(&mut self, path: &[u8]) -> io::Result<()> {
        let before = std::mem::replace(&mut self.folder, path.to_vec());
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]).filter(|end| *end > 0) {
            let is_there =
                before.starts_with(&path[..end]) && before.get(end).is_none_or(|byte| *byte == b'/');
            if !is_there {
                self.folder(&path[..end])?;
            }
        }
        Ok(())
    }

    /// A file that no tree has.
    pub(super) fn file(&mut self, path: &[u8], bytes: &[u8]) -> io::Result<()> {
        let mut header = header(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        self.append(header, path, &[], None, bytes)
    }

    pub(super) fn folder(&mut self, path: &[u8]) -> io::Result<()> {
        let mut header = header(self.folder_mode);
        header.set_entry_type(tar::EntryType::Directory);
        // Newer than all that is in it: what was removed from it shows in nothing else.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        header.set_mtime(now.as_secs());
        self.append(header, path, &[], None, io::empty())
    }

    /// Names that are long, and times to the nanosecond, stand in a record of their own before the entry.
    fn append(
        &mut self,
        mut header: tar::Header,
        path: &[u8],
        target: &[u8],
        mtime: Option<&str>,
        bytes: impl io::Read,
    ) -> io::Result<()> {
        let path = [&self.within, path].concat();
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        records.extend(mtime.map(|mtime| ("mtime", mtime.as_bytes())));
        if path.len() > SHORT_NAME {
            records.push(("path", &path));
        }
        if target.len() > SHORT_NAME {
            records.push(("linkpath", target));
        }
        self.to.append_pax_extensions(records)?;
        let (short, short_target) =
            (&path[..path.len().min(SHORT_NAME)], &target[..target.len().min(SHORT_NAME)]);
        let fields = header.as_ustar_mut().ok_or_else(|| io::Error::other("it is no ustar header"))?;
        fields.name[..short.len()].copy_from_slice(short);
        fields.linkname[..short_target.len()].copy_from_slice(short_target);
        header.set_cksum();
        self.to.append(&header, bytes)
    }
}

/// Root's, as all of an image is that says nothing else.
fn header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// A number with nine places, as such records have it.
fn seconds(mtime_ns: i64) -> String {
    let (sign, ns) =
        if mtime_ns < 0 { ("-", mtime_ns.unsigned_abs()) } else { ("", mtime_ns.unsigned_abs()) };
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// Passes on what is written, piece by piece, to the one who sends it.
struct Pieces {
    send: mpsc::Sender<Bytes>,
    now: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.now.extend_from_slice(bytes);
        if self.now.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.now));
        self.send.blocking_send(piece).map_err(|_| io::Error::other("docker takes no more of it"))
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_written_with_all_their_places() {
        assert_eq!(seconds(1_700_000_000_000_000_001), "1700000000.000000001");
        assert_eq!(seconds(-1), "-0.000000001");
        assert_eq!(seconds(-1_500_000_000), "-1.500000000");
    }
}
