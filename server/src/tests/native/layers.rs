//! Archives by hand, in which anything can be said, and what becomes of them. Nothing may happen outside of the folder
//! that they are unpacked into, whatever they say.

use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::PathBuf;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::tree::tree;
use crate::worker::native::unpack::{Bounds, Trouble, unpack_saved};

/// An archive by hand, in which anything can be said.
pub(super) struct Layer(pub(super) Builder<Vec<u8>>);

impl Layer {
    pub(super) fn new() -> Layer {
        Layer(Builder::new(Vec::new()))
    }

    pub(super) fn with(mut self, kind: EntryType, name: &[u8], target: &[u8], data: &[u8]) -> Layer {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(super) fn file(self, name: &str, text: &str) -> Layer {
        self.with(EntryType::Regular, name.as_bytes(), b"", text.as_bytes())
    }

    pub(super) fn folder(self, name: &str) -> Layer {
        self.with(EntryType::Directory, name.as_bytes(), b"", b"")
    }

    pub(super) fn link(self, name: &str, target: &str) -> Layer {
        self.with(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
    }

    pub(super) fn pax(mut self, records: &[(&str, &[u8])]) -> Layer {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What Docker would save, of blobs in this order.
pub(super) fn saved(blobs: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut saved = Layer::new().folder("blobs/");
    for (name, bytes) in blobs {
        saved = saved.with(EntryType::Regular, name.as_bytes(), b"", bytes);
    }
    saved.file("manifest.json", "[{\"Layers\": [\"../../somewhere\"]}]").bytes()
}

pub(super) struct Unpacked {
    _folder: TempDir,
    pub(super) root: PathBuf,
    pub(super) result: Result<(), Trouble>,
    pub(super) canary: PathBuf,
}

impl Unpacked {
    pub(super) fn of(archive: &[u8], ids: &[String], bytes: u64) -> Unpacked {
        let folder = TempDir::new().unwrap();
        let (root, spool) = (folder.path().join("rootfs"), folder.path().join("spool"));
        let canary = folder.path().join("canary");
        for path in [&root, &spool, &canary] {
            fs::create_dir(path).unwrap();
        }
        fs::write(canary.join("file"), "alive").unwrap();
        let mut bounds = Bounds::new(bytes, CancellationToken::new());
        let result = unpack_saved(archive, ids, &root, &spool, &mut bounds);
        assert_eq!(fs::read_to_string(canary.join("file")).unwrap(), "alive");
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        Unpacked { _folder: folder, root, result, canary }
    }

    pub(super) fn layers(layers: Vec<Layer>) -> Unpacked {
        let layers: Vec<Vec<u8>> = layers.into_iter().map(Layer::bytes).collect();
        let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
        let blobs: Vec<(String, Vec<u8>)> =
            layers.into_iter().map(|layer| (format!("blobs/sha256/{}", hex(&layer)), layer)).collect();
        Unpacked::of(&saved(&blobs), &ids, 1 << 30)
    }

    pub(super) fn well(self) -> Unpacked {
        self.result.as_ref().unwrap();
        self
    }

    pub(super) fn names(&self) -> Vec<String> {
        let names = tree(&self.root).into_keys().map(|path| path.to_str().unwrap().to_owned());
        names.filter(|name| !name.is_empty()).collect()
    }

    pub(super) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.root.join(name)).unwrap()
    }
}
