//! Reads what `docker save` gives for an image and unpacks its layers, in whatever of its forms it comes.
//!
//! Neither names nor manifests are believed: a layer is known by the hash of its bytes, which the image's own
//! description names, in order, and whatever else the archive holds is passed over. A layer whose turn it seems to be
//! when it comes is unpacked as it comes; all others wait in a spool. A wrong guess is found by its hash.

use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use super::reader::{Reader, is_header};
use super::{Bounds, Tree, Trouble, broken};

const BUFFER_BYTES: usize = 256 * 1024;
/// A description in an archive of the old form.
const JSON_BYTES: u64 = 4 * 1024 * 1024;
const HEAD_BYTES: u64 = 512;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

struct Saved<'a> {
    /// `sha256:...`, from the lowest.
    layers: &'a [String],
    /// How many are in the tree.
    done: usize,
    tree: Tree,
    spool: &'a Path,
    spooled: HashMap<String, PathBuf>,
    /// How many ever were: their names.
    spools: usize,
    old: OldForm,
    bounds: &'a mut Bounds,
}

/// The form before OCI's: a folder per layer, with a description that names the one below it.
#[derive(Default)]
struct OldForm {
    below: HashMap<String, Option<String>>,
    /// The folder of the layer that was unpacked last, where it was unpacked as it came.
    last: Option<String>,
}

#[derive(serde::Deserialize)]
struct OldDescription {
    parent: Option<String>,
}

/// Unpacks an image of these layers into `root`, an empty folder. `spool` is one too.
pub(crate) fn unpack_saved(
    archive: impl Read,
    layers: &[String],
    root: &Path,
    spool: &Path,
    bounds: &mut Bounds,
) -> Result<(), Trouble> {
    let tree = Tree::new(root).map_err(|error| Trouble::Io { what: root.display().to_string(), error })?;
    let (spooled, old) = (HashMap::new(), OldForm::default());
    let mut saved = Saved { layers, done: 0, tree, spool, spooled, spools: 0, old, bounds };
    let mut archive = Reader::new(archive);
    while let Some(entry) = archive.next()? {
        saved.bounds.take(0)?;
        if entry.kind.is_file() {
            saved.take(&mut archive, &String::from_utf8_lossy(&entry.name), entry.size)?;
        }
    }
    match layers.get(saved.done) {
        None => Ok(()),
        Some(layer) => Err(Trouble::Broken(format!("it lacks the layer {layer}"))),
    }
}

impl Saved<'_> {
    fn take(&mut self, mut entry: impl Read, name: &str, size: u64) -> Result<(), Trouble> {
        if let Some(folder) = name.strip_suffix("/json").filter(|_| size <= JSON_BYTES) {
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(broken)?;
            if let Ok(OldDescription { parent }) = serde_json::from_slice(&text) {
                self.old.below.insert(folder.to_owned(), parent);
            }
            return Ok(());
        }
        let mut head = Vec::new();
        entry.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(broken)?;
        let whole = head.as_slice().chain(entry);
        if head.starts_with(GZIP) {
            self.take_layer(flate2::read::MultiGzDecoder::new(BufReader::new(whole)), name)?;
        } else if head.starts_with(ZSTD) {
            let decoder = zstd::Decoder::new(whole).map_err(broken)?;
            self.take_layer(decoder, name)?;
        } else if is_tar(&head) {
            self.take_layer(whole, name)?;
        }
        Ok(())
    }

    fn take_layer(&mut self, layer: impl Read, name: &str) -> Result<(), Trouble> {
        let mut hashed = Hashed { inner: layer, hash: Sha256::new() };
        if self.is_next(name) {
            self.tree.apply(BufReader::with_capacity(BUFFER_BYTES, &mut hashed), self.bounds)?;
            let (is, wanted) = (hashed.digest(), &self.layers[self.done]);
            if is != *wanted {
                return Err(Trouble::Broken(format!("the layer {wanted} arrived as {is}")));
            }
            self.done += 1;
            self.old.last = name.strip_suffix("/layer.tar").map(str::to_owned);
        } else {
            self.spool(hashed)?;
        }
        self.apply_spooled()
    }

    /// Is this most likely the layer that comes next, and needed only once?
    fn is_next(&self, name: &str) -> bool {
        let Some(next) = self.layers.get(self.done) else { return false };
        if self.layers[self.done + 1..].contains(next) {
            return false;
        }
        if self.layers.len() == 1 || name.strip_prefix("blobs/sha256/") == next.strip_prefix("sha256:") {
            return true;
        }
        let below = name.strip_suffix("/layer.tar").and_then(|folder| self.old.below.get(folder));
        match below {
            Some(None) => self.done == 0,
            Some(below @ Some(_)) => self.done > 0 && *below == self.old.last,
            None => false,
        }
    }

    fn spool(&mut self, mut layer: Hashed<impl Read>) -> Result<(), Trouble> {
        let path = self.spool.join(self.spools.to_string());
        self.spools += 1;
        let failed = |error| Trouble::Io { what: path.display().to_string(), error };
        let mut file = File::create(&path).map_err(failed)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut bytes = 0;
        loop {
            let read = layer.read(&mut buffer).map_err(broken)?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
            self.bounds.take(read as u64)?;
            file.write_all(&buffer[..read]).map_err(failed)?;
        }
        let digest = layer.digest();
        if self.layers[self.done..].contains(&digest) && !self.spooled.contains_key(&digest) {
            self.spooled.insert(digest, path);
        } else {
            fs::remove_file(&path).map_err(failed)?;
            self.bounds.give_back(bytes);
        }
        Ok(())
    }

    fn apply_spooled(&mut self) -> Result<(), Trouble> {
        while let Some(next) = self.layers.get(self.done)
            && let Some(path) = self.spooled.get(next).cloned()
        {
            let failed = |error| Trouble::Io { what: path.display().to_string(), error };
            let file = File::open(&path).map_err(failed)?;
            let bytes = file.metadata().map_err(failed)?.len();
            self.tree.apply(BufReader::with_capacity(BUFFER_BYTES, file), self.bounds)?;
            self.done += 1;
            self.old.last = None;
            if !self.layers[self.done..].contains(next) {
                self.spooled.remove(next);
                fs::remove_file(&path).map_err(failed)?;
                self.bounds.give_back(bytes);
            }
        }
        Ok(())
    }
}

/// Where the first block is one of an archive. One of zeros is the end of an empty one.
fn is_tar(head: &[u8]) -> bool {
    if head.len() as u64 != HEAD_BYTES {
        return false;
    }
    head.iter().all(|byte| *byte == 0) || is_header(head)
}

struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashed<R> {
    fn digest(self) -> String {
        let hex: String = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hash.update(&into[..read]);
        Ok(read)
    }
}
