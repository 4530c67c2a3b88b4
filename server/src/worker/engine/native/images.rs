//! From the id of one of Docker's images to an unpacked root filesystem: at once where it is in the cache, else
//! exported from Docker, once for all who wait for it, and kept (`images/store.rs`).

mod store;

use common::Reason;
use futures_util::StreamExt as _;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::store::{Draft, Drafting, Store};
use super::super::docker::{Docker, ImageConfig, ImageFacts};
use super::super::together::{Teller, Together};
use super::super::{Fault, News};
use super::unpack::{Bounds, Trouble, unpack_saved};
use crate::limits;
use crate::worker::pieces::{Piece, Pieces};

/// Pieces of an export, of some 10 to 100 KB each, that may wait to be unpacked.
const PIECES: usize = 64;

#[derive(Clone)]
pub(crate) struct Images(Arc<Inner>);

struct Inner {
    docker: Docker,
    store: Store,
    bound_bytes: u64,
    /// Those in use, by id.
    known: Mutex<HashMap<String, Weak<Image>>>,
    exports: Together<Arc<Image>>,
}

/// An unpacked image. It is not evicted while this value lives, nor while anybody else holds a shared lock of `lock`.
#[derive(Debug)]
pub(crate) struct Image {
    /// Docker's id of it: `sha256:...`.
    pub(crate) digest: String,
    pub(crate) rootfs: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) config: ImageConfig,
    _held: fs::File,
}

impl Image {
    /// An empty root filesystem, in this folder.
    pub(super) fn of_nothing(folder: &Path) -> io::Result<Image> {
        let (rootfs, lock) = (folder.join("rootfs"), folder.join("lock"));
        fs::create_dir_all(&rootfs)?;
        let held = fs::File::create(&lock)?;
        Ok(Image { digest: String::new(), rootfs, lock, config: ImageConfig::default(), _held: held })
    }
}

impl Images {
    /// Of the cache folder of a data directory, which other workers may use at the same time.
    pub(crate) fn open(docker: Docker, folder: &Path, bound_bytes: u64) -> io::Result<Images> {
        let store = Store::open(folder)?;
        let inner =
            Inner { docker, store, bound_bytes, known: Mutex::default(), exports: Together::default() };
        Ok(Images(Arc::new(inner)))
    }

    /// Removes what crashed workers left, and what is more than the bound. Takes as long as removing takes.
    pub(crate) fn sweep(&self) {
        self.0.store.sweep();
        self.0.store.evict(self.0.bound_bytes);
    }

    /// The image where it is here and whole.
    pub(crate) fn known(&self, image_id: &str) -> Option<Arc<Image>> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let in_use = known.get(image_id).and_then(Weak::upgrade);
        if let Some(image) = in_use.filter(|image| self.0.store.has(image)) {
            self.0.store.used(&image);
            return Some(image);
        }
        let image = Arc::new(self.0.store.image(image_id)?);
        known.retain(|_, image| image.strong_count() > 0);
        known.insert(image_id.to_owned(), Arc::downgrade(&image));
        Some(image)
    }

    /// Dropping the future stops what nobody else waits for.
    pub(crate) async fn ready(
        &self,
        image_id: &str,
        news: &watch::Sender<Option<News>>,
    ) -> Result<Arc<Image>, Fault> {
        if let Some(image) = self.known(image_id) {
            return Ok(image);
        }
        let (images, id) = (self.clone(), image_id.to_owned());
        self.0.exports.wait(image_id, news, |tell| async move { images.fetch(&id, &tell).await }).await
    }

    async fn fetch(&self, image_id: &str, tell: &Teller<Arc<Image>>) -> Result<Arc<Image>, Fault> {
        let facts = self.0.docker.image_facts(image_id).await?;
        let news = |what: &str| News { what: what.to_owned(), done_bytes: None, total_bytes: None };
        let draft = match self.draft(image_id, facts.size_bytes).await? {
            Drafting::There => return self.known(image_id).ok_or_else(|| gone(image_id)),
            Drafting::Mine(draft) => draft,
            Drafting::Others(wait) => {
                tell.tell(news("waiting for another worker that unpacks the image"));
                match wait.await.map_err(|error| self.unusable(image_id, &error))? {
                    None => return self.known(image_id).ok_or_else(|| gone(image_id)),
                    Some(draft) => draft,
                }
            }
        };
        tell.tell(news("exporting the image from docker"));
        self.export(image_id, facts, draft, tell).await?;
        self.known(image_id).ok_or_else(|| gone(image_id))
    }

    /// Makes room for an image, and a place.
    async fn draft(&self, image_id: &str, size_bytes: u64) -> Result<Drafting, Fault> {
        let (images, id) = (self.clone(), image_id.to_owned());
        let drafted = tokio::task::spawn_blocking(move || {
            if let Some(message) = images.0.store.make_room(size_bytes, images.0.bound_bytes) {
                return Err(Fault::new(Reason::DiskFull, message, "make room there, then run it again"));
            }
            images.0.store.draft(&id).map_err(|error| images.unusable(&id, &error))
        });
        drafted.await.unwrap_or_else(|error| Err(broke_off(image_id, &error)))
    }

    async fn export(
        &self,
        image_id: &str,
        facts: ImageFacts,
        draft: Draft,
        tell: &Teller<Arc<Image>>,
    ) -> Result<(), Fault> {
        let total_bytes = facts.size_bytes;
        let (send, pieces) = Pieces::channel(PIECES);
        let gone = CancellationToken::new();
        let _ends_with_this = gone.clone().drop_guard();
        let bounds = Bounds::new(self.0.bound_bytes, gone);
        // It ends soon after this future is dropped, and removes the draft then.
        let unpacking = tokio::task::spawn_blocking(move || unpack(draft, &facts, pieces, bounds));
        let export = async {
            let mut archive = std::pin::pin!(self.0.docker.save(image_id).await?);
            let (mut done_bytes, mut told) = (0, None::<Instant>);
            while let Some(piece) = archive.next().await {
                let piece = piece?;
                done_bytes += piece.len() as u64;
                if told.is_none_or(|told| told.elapsed() >= limits::PULL_NEWS) {
                    told = Some(Instant::now());
                    let what = "unpacking the image".to_owned();
                    let done_bytes = Some(done_bytes.min(total_bytes));
                    tell.tell(News { what, done_bytes, total_bytes: Some(total_bytes) });
                }
                if send.send(Piece::Bytes(piece)).await.is_err() {
                    // It was refused; the other side says why.
                    return Ok(());
                }
            }
            // None there to take it: the same.
            drop(send.send(Piece::End).await);
            Ok(())
        };
        let exported = export.await;
        drop(send);
        let unpacked = unpacking.await;
        exported?;
        match unpacked {
            Ok(unpacked) => unpacked.map_err(|trouble| self.fault(image_id, &trouble)),
            Err(error) => Err(broke_off(image_id, &error)),
        }
    }

    fn unusable(&self, image_id: &str, error: &io::Error) -> Fault {
        let what = format!("unpacking image {image_id} into {}", self.0.store.folder().display());
        let reason = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::DiskFull,
            _ => Reason::PullFailed,
        };
        Fault::new(reason, format!("{what}: {error}"), "make room there, and make it writable for this user")
    }

    fn fault(&self, image_id: &str, trouble: &Trouble) -> Fault {
        match trouble {
            Trouble::Io { what, error } => {
                let mut fault = self.unusable(image_id, error);
                fault.message = format!("{} ({what})", fault.message);
                fault
            }
            Trouble::TooLarge(_) => Fault::new(
                Reason::DiskFull,
                format!("image {image_id} cannot be unpacked: {trouble}"),
                "let the cache be larger (--image-cache-bytes), or take a smaller image",
            ),
            Trouble::Refused { .. } | Trouble::Broken(_) | Trouble::Gone => Fault::new(
                Reason::PullFailed,
                format!("image {image_id} cannot be unpacked: {trouble}"),
                "build or pull it anew; --engine docker runs it as it is",
            ),
        }
    }
}

fn gone(image_id: &str) -> Fault {
    let message = format!("image {image_id} was removed from the cache right after it was unpacked");
    Fault::new(Reason::PullFailed, message, "run it again; the cache may be too small for what runs at once")
}

fn broke_off(image_id: &str, error: &tokio::task::JoinError) -> Fault {
    let message = format!("unpacking image {image_id} broke off: {error}");
    Fault::new(Reason::PullFailed, message, "this is a fault of bettertest; please report it")
}

fn unpack(draft: Draft, facts: &ImageFacts, pieces: Pieces, mut bounds: Bounds) -> Result<(), Trouble> {
    unpack_saved(pieces, &facts.layers, &draft.rootfs(), &draft.spool(), &mut bounds)?;
    draft
        .keep(&facts.config, bounds.taken_bytes())
        .map_err(|error| Trouble::Io { what: "keeping it".to_owned(), error })
}
