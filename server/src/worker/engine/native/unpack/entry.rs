//! One entry of a layer, made: what there was of its name makes room, except that a folder stays one.

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use tar::EntryType;

use super::metadata::Metadata;
use super::reader::{Entry, Reader};
use super::sparse::Map;
use super::{ENTRIES, FOLDERS_BYTES, Layer, Trouble, beneath, broken, not_done, refused};

/// What one takes on the disk besides its bytes: an inode, and on average the unused half of its last block.
const ENTRY_BYTES: u64 = 2304;

const HIDES: &[u8] = b".wh.";
const HIDES_ALL: &[u8] = b".wh..wh..opq";
/// What AUFS kept for itself.
const OF_AUFS: &[u8] = b".wh..wh.";

impl Layer<'_> {
    /// Adds an entry, whose data is what the archive reads next.
    pub(super) fn add(&mut self, mut entry: Entry, data: &mut Reader<impl Read>) -> Result<(), Trouble> {
        self.entries += 1;
        if self.entries > ENTRIES {
            return Err(Trouble::Broken(format!("a layer of it has more than {ENTRIES} entries")));
        }
        self.bounds.take(ENTRY_BYTES)?;
        let metadata = Metadata::of(&mut entry)?;
        let name = &entry.name;
        let mut kind = entry.kind;
        if kind.is_file() && name.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        let path = beneath::clean(name).map_err(|why| refused(name, why))?;
        let (folder, last) = beneath::split(&path);
        let last = last.as_encoded_bytes();
        if last == HIDES_ALL {
            return self.hide_all(folder);
        }
        if last.starts_with(OF_AUFS) {
            return Ok(());
        }
        if let Some(hidden) = last.strip_prefix(HIDES) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(refused(name, "it hides nothing that could be there"));
            }
            let hidden = if folder.is_empty() { hidden.to_vec() } else { [folder, b"/", hidden].concat() };
            return self.hide(&hidden);
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(data, &path, entry.sparse.take(), entry.size, &metadata)
            }
            EntryType::Directory => self.folder(&path, &metadata),
            EntryType::Symlink => self.symlink(&entry.target, &path, &metadata),
            EntryType::Link => self.hard_link(&entry.target, &path),
            EntryType::Char => self.node(&entry, &path, FileType::CharacterDevice, &metadata),
            EntryType::Block => self.node(&entry, &path, FileType::BlockDevice, &metadata),
            EntryType::Fifo => self.node(&entry, &path, FileType::Fifo, &metadata),
            other => {
                Err(refused(name, format!("no file system has its kind ({:?})", other.as_byte() as char)))
            }
        }?;
        self.note(&path);
        Ok(())
    }

    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Trouble> {
        if path.is_empty() {
            return Err(refused(b"/", "the root is a folder and nothing else"));
        }
        let (folder, _) = beneath::split(path);
        self.root.parent(folder).map_err(|error| not_done(path, "its folder", error))
    }

    /// Makes something new of this path; what there is makes room.
    fn make<T>(
        &mut self,
        path: &[u8],
        make: impl Fn(&OwnedFd, &std::ffi::OsStr) -> rustix::io::Result<T>,
    ) -> Result<(Rc<OwnedFd>, T), Trouble> {
        let mut parent = self.parent(path)?;
        let (_, name) = beneath::split(path);
        let mut made = make(&parent, name);
        if matches!(made, Err(Errno::EXIST)) {
            beneath::remove(parent.as_fd(), name)
                .map_err(|error| not_done(path, "removing what was there", error))?;
            self.root.forget();
            parent = self.parent(path)?;
            made = make(&parent, name);
        }
        Ok((parent, made.map_err(|error| not_done(path, "making it", error))?))
    }

    fn file(
        &mut self,
        data: &mut Reader<impl Read>,
        path: &[u8],
        map: Option<Map>,
        size: u64,
        metadata: &Metadata,
    ) -> Result<(), Trouble> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (_, made) = self
            .make(path, |parent, name| rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)))?;
        let mut file = File::from(made);
        match map {
            Some(map) => self.pieces(data, &mut file, path, map)?,
            None => self.copy(data, &mut file, path, size)?,
        }
        metadata.set_on_open(&file).map_err(|error| not_done(path, "owner, mode or attributes", error))
    }

    /// A file of which only some pieces are stored; between them are zeros.
    fn pieces(
        &mut self,
        data: &mut Reader<impl Read>,
        file: &mut File,
        path: &[u8],
        map: Map,
    ) -> Result<(), Trouble> {
        let (pieces, size) = map.read(data).map_err(|why| refused(path, why))?;
        for (offset, bytes) in pieces {
            file.seek(SeekFrom::Start(offset)).map_err(|error| io_trouble(path, error))?;
            self.copy(data, file, path, bytes)?;
        }
        file.set_len(size).map_err(|error| io_trouble(path, error))
    }

    fn copy(
        &mut self,
        data: &mut Reader<impl Read>,
        file: &mut File,
        path: &[u8],
        bytes: u64,
    ) -> Result<(), Trouble> {
        let mut left = bytes;
        while left > 0 {
            let most = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = data.read(&mut self.buffer[..most]).map_err(broken)?;
            if read == 0 {
                return Err(refused(path, format!("{left} of its {bytes} bytes are missing")));
            }
            left -= read as u64;
            self.bounds.take(read as u64)?;
            file.write_all(&self.buffer[..read]).map_err(|error| io_trouble(path, error))?;
        }
        Ok(())
    }

    fn folder(&mut self, path: &[u8], metadata: &Metadata) -> Result<(), Trouble> {
        let open_it = OFlags::RDONLY | OFlags::DIRECTORY;
        let failed = |error| not_done(path, "owner, mode or attributes", error);
        if path.is_empty() {
            let root = self.root.open_folder_itself(path).map_err(failed)?;
            metadata.set_on_folder(&root, true).map_err(failed)?;
        } else {
            let parent = self.parent(path)?;
            let (_, name) = beneath::split(path);
            let there = match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => None,
                Err(Errno::EXIST) => beneath::open(parent.as_fd(), name, open_it).ok(),
                Err(error) => return Err(not_done(path, "making it", error)),
            };
            let was_there = there.is_some();
            let folder = match there {
                Some(folder) => folder,
                None => match beneath::open(parent.as_fd(), name, open_it) {
                    Ok(folder) => folder,
                    // A link or a file has this name.
                    Err(Errno::NOTDIR | Errno::LOOP) => {
                        let make = |parent: &OwnedFd, name: &std::ffi::OsStr| {
                            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
                        };
                        let (parent, ()) = self.make(path, make)?;
                        beneath::open(parent.as_fd(), name, open_it).map_err(failed)?
                    }
                    Err(error) => return Err(failed(error)),
                },
            };
            metadata.set_on_folder(&folder, was_there).map_err(failed)?;
        }
        self.folders_bytes += path.len() + size_of::<(Box<[u8]>, rustix::fs::Timespec)>();
        if self.folders_bytes > FOLDERS_BYTES {
            return Err(Trouble::Broken("a layer of it has too many folders".to_owned()));
        }
        self.folders.push((path.into(), metadata.time));
        Ok(())
    }

    fn symlink(&mut self, target: &[u8], path: &[u8], metadata: &Metadata) -> Result<(), Trouble> {
        let make = |parent: &OwnedFd, name: &std::ffi::OsStr| rustix::fs::symlinkat(target, parent, name);
        let (parent, ()) = self.make(path, make)?;
        let (_, name) = beneath::split(path);
        metadata
            .set_on_name(&parent, name, true)
            .map_err(|error| not_done(path, "owner or attributes", error))
    }

    /// The other name of the file has all that this one would say.
    fn hard_link(&mut self, target: &[u8], path: &[u8]) -> Result<(), Trouble> {
        let target = beneath::clean(target)
            .map_err(|_| refused(path, format!("it is linked to \"{}\"", super::shown(target))))?;
        if target == path {
            return Err(refused(path, "it is linked to itself"));
        }
        let (folder, target_name) = beneath::split(&target);
        let linked = |error| not_done(path, &format!("linking it to \"{}\"", super::shown(&target)), error);
        let from = self.root.folder(folder).map_err(linked)?;
        // Looked at first: the way to it must not be what makes room.
        rustix::fs::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW).map_err(linked)?;
        self.make(path, |parent, name| {
            rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty())
        })?;
        Ok(())
    }

    fn node(
        &mut self,
        entry: &Entry,
        path: &[u8],
        kind: FileType,
        metadata: &Metadata,
    ) -> Result<(), Trouble> {
        let number =
            |number: i64| u32::try_from(number).map_err(|_| refused(path, "no device has its number"));
        let (major, minor) = match kind {
            FileType::Fifo => (0, 0),
            _ => (number(entry.device.0)?, number(entry.device.1)?),
        };
        if kind == FileType::CharacterDevice && (major, minor) == (0, 0) {
            // An overlay takes it for the mark that something is hidden, in a lower layer too.
            return self.hide(path);
        }
        let device = rustix::fs::makedev(major, minor);
        let (parent, ()) = self.make(path, |parent, name| {
            rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)
        })?;
        let (_, name) = beneath::split(path);
        metadata
            .set_on_name(&parent, name, false)
            .map_err(|error| not_done(path, "owner, mode or attributes", error))
    }
}

fn io_trouble(path: &[u8], error: std::io::Error) -> Trouble {
    match Errno::from_io_error(&error) {
        Some(errno) => not_done(path, "writing it", errno),
        None => Trouble::Io { what: super::shown(path), error },
    }
}
