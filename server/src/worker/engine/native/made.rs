//! A sandbox as the worker has it made: in a folder without the name of a step, up to where it waits for one; and how
//! it gets its step. Made ahead or for a step that is there already, all go this one way.

use common::Network;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::images::Image;
use super::link::{self, Link};
use super::net::Lease;
use super::order::{BASE, Base, LOCK, ORDER, STARTED};
use super::{Fault, Followed, Job, Native, Running, start_failed};

/// How the folders begin of those that have no step yet. No step has a name that begins so.
pub(super) const MADE: &str = ".made-";

/// Waits for its step, or is just being made. Dropped, it ends, and its folder is left for the next sweep.
pub(super) struct Made {
    pub(super) place: Place,
    pub(super) link: Link,
    /// The image's lock is held.
    pub(super) image: Arc<Image>,
    address: Option<Ipv4Addr>,
}

/// The folders of this worker that have no step yet, which no sweep touches.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashSet<String>>>);

pub(super) struct Place {
    places: Places,
    pub(super) name: String,
    pub(super) folder: PathBuf,
}

impl Places {
    fn claim(&self, within: &Path) -> Place {
        let name = format!("{MADE}{}", crate::auth::random_hex(16));
        self.lock().insert(name.clone());
        Place { places: self.clone(), folder: within.join(&name), name }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.lock().contains(name)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.name);
    }
}

/// Why a step did not get to run in a sandbox.
pub(super) struct NotBegun {
    pub(super) fault: Fault,
    /// Its command cannot have run, not even a little: it may be started in another.
    pub(super) is_certain: bool,
}

impl Native {
    /// Has a sandbox made.
    pub(super) async fn make(
        &self,
        image: &Arc<Image>,
        network: Network,
        is_ahead: bool,
    ) -> Result<Made, Fault> {
        let lease = match network {
            Network::Egress => Some(self.0.egress.take().await?),
            Network::None => None,
        };
        let address = lease.as_ref().map(Lease::address);
        let place = self.0.places.claim(&self.0.folder);
        let base = Base {
            rootfs: image.rootfs.clone(),
            image_lock: image.lock.clone(),
            volumes: image.config.volumes.clone(),
            capabilities: self.0.capabilities.clone(),
            cgroup: format!("{}/{}", self.cgroups(), place.name),
            is_ahead,
        };
        let (native, folder) = (self.clone(), place.folder.clone());
        let asked = tokio::task::spawn_blocking(move || native.ask_for(&folder, &base, lease.as_ref()));
        let link = asked.await.map_err(io::Error::other).and_then(|asked| asked).map_err(|error| {
            start_failed(&format!("it cannot be ordered in {}: {error}", place.folder.display()))
        })?;
        Ok(Made { place, link, image: image.clone(), address })
    }

    fn ask_for(&self, folder: &Path, base: &Base, network: Option<&Lease>) -> io::Result<Link> {
        fs::DirBuilder::new().mode(0o700).create(folder)?;
        let lock = File::create(folder.join(LOCK))?;
        lock.lock()?;
        fs::write(folder.join(BASE), serde_json::to_vec(base)?)?;
        let listener = link::listen(folder)?;
        let (link, theirs) = Link::pair()?;
        let held = File::open(folder)?;
        let mut given = vec![held.as_fd(), lock.as_fd(), listener.as_fd(), theirs.as_fd()];
        given.extend(network.map(Lease::as_fd));
        // The lock goes along, and is held until the last of all who have it has closed it; so is the network.
        self.0.helper.order(&given)?;
        Ok(link)
    }

    /// Makes it the sandbox of this step, and lets that begin. The step's folder is there from one moment to the next,
    /// whole and locked, and only one can ever give it that name.
    pub(super) async fn begin(&self, made: Made, job: &Job) -> Result<Running, NotBegun> {
        let Made { place, mut link, image, address } = made;
        let not_yet = |fault| NotBegun { fault, is_certain: true };
        let order = self.order(job, &image, address);
        let (from, to) = (place.folder.clone(), self.folder_of(&job.step));
        let into = to.clone();
        let (container, image_digest) = (order.container.clone(), order.image_digest.clone());
        let named = tokio::task::spawn_blocking(move || {
            fs::write(from.join(ORDER), serde_json::to_vec(&order)?)?;
            let once = rustix::fs::RenameFlags::NOREPLACE;
            Ok(rustix::fs::renameat_with(rustix::fs::CWD, &from, rustix::fs::CWD, &into, once)?)
        });
        if let Err(error) = named.await.map_err(io::Error::other).and_then(|named| named) {
            drop(self.remove_folder(&place.folder).await);
            let why = format!("it cannot have the folder {}: {error}", to.display());
            return Err(not_yet(start_failed(&why)));
        }
        let followed = match link.go().await {
            Ok(()) => self.hear(link, &to, container, image_digest).await,
            Err(error) => Err(error),
        };
        let why = match followed {
            Ok(Followed::Running(running)) => return Ok(running),
            Ok(Followed::Failed(why)) => why,
            Err(error) => format!("its supervisor does not answer: {error}"),
        };
        // Asked once nobody can let it begin any more.
        let removed = self.remove_folder(&to).await;
        let is_certain = removed.as_ref().is_ok_and(|has_started| !has_started);
        Err(NotBegun { fault: start_failed(&why), is_certain })
    }

    /// Ends one that has no step.
    pub(super) async fn discard(&self, made: Made) {
        if let Err(error) = self.remove_folder(&made.place.folder).await {
            tracing::warn!("{} is left for the next sweep: {error}", made.place.folder.display());
        }
    }

    /// Ends what runs there, and removes it. Answers whether its command may ever have begun.
    pub(super) async fn remove_folder(&self, folder: &Path) -> io::Result<bool> {
        self.end(folder).await?;
        let has_started = folder.join(STARTED).exists();
        self.throw_away(folder)?;
        Ok(has_started)
    }
}
