//! Network namespaces with a way out into the world, and none to this host: for steps with `network: "egress"`.
//!
//! Each instance has a bridge of its own, made when the first namespace is asked for. A namespace has `lo`, an `eth0`
//! on the bridge, an address and a default route; neighbours on the bridge do not see each other, and the host's
//! firewall lets through what goes into the world and what comes back (`rules.rs`). A few wait ready in a pool, which
//! is filled again after each take.
//!
//! Nobody frees an address: the last process or descriptor of a namespace takes it along, and with it its port on
//! the bridge, whose name says which address is taken. So a killed worker leaves a bridge and rules, and no more;
//! the next of its instance takes them over, and what its steps have goes on.

mod ground;
mod netlink;
mod resolv;
mod rules;
mod subnet;

use super::demand::Demand;
use crate::worker::engine::Fault;
use common::Reason;
use ground::Ground;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};
use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{RwLock, oneshot};
use tokio::task::{AbortHandle, spawn_blocking};

#[cfg(test)]
pub(crate) use ground::SYSCTLS;
pub(crate) use ground::settle;
pub(crate) use resolv::{hosts, resolv_conf};

/// What the names of our bridges begin with.
const BRIDGES: &str = "bt";
/// Somebody may have emptied the firewall's tables: looked at while namespaces are made, but not for each.
const RULES_TRUSTED: Duration = Duration::from_secs(5);

/// The way out of one worker instance.
#[derive(Clone)]
pub(crate) struct Egress {
    shared: Arc<Shared>,
}

struct Shared {
    bridge: String,
    /// None until the first take. Who makes a namespace holds it shared, who lays or clears it alone.
    ground: RwLock<Option<(Arc<Ground>, AbortOnDrop)>>,
    pool: Mutex<Pool>,
}

struct Pool {
    ready: VecDeque<Lease>,
    demand: Demand,
    filling: bool,
    open: bool,
    rules_seen: Instant,
}

/// A namespace, which lives as long as this or any process in it.
#[derive(Debug)]
pub(crate) struct Lease {
    namespace: OwnedFd,
    address: Ipv4Addr,
}

struct AbortOnDrop(AbortHandle);

impl Lease {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }
}

/// For setns.
impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

impl Egress {
    /// Makes nothing yet.
    pub(crate) fn new(instance: &str) -> Egress {
        let pool = Pool {
            ready: VecDeque::new(),
            demand: Demand::new(),
            filling: false,
            open: true,
            rules_seen: Instant::now(),
        };
        let bridge = ground::bridge_of(instance);
        Egress { shared: Arc::new(Shared { bridge, ground: RwLock::new(None), pool: Mutex::new(pool) }) }
    }

    /// A namespace that nobody else has or had.
    pub(crate) async fn take(&self) -> Result<Lease, Fault> {
        let ready = self.pool().take();
        let lease = match ready {
            Some(lease) => lease,
            None => {
                let ground = self.shared.ground().await.map_err(|error| fault(&error))?;
                make(ground).await.map_err(|error| fault(&error))?
            }
        };
        self.fill();
        Ok(lease)
    }

    /// The addresses of those that wait in the pool.
    pub(crate) fn kept_ready(&self) -> Vec<Ipv4Addr> {
        self.pool().ready.iter().map(Lease::address).collect()
    }

    /// Gives up what was made ahead, and makes no more ahead. Namespaces of steps keep working: for a worker that hands over.
    pub(crate) fn close(&self) {
        let ready = {
            let mut pool = self.pool();
            pool.open = false;
            std::mem::take(&mut pool.ready)
        };
        drop(ready);
    }

    /// Removes all that there is of this instance: pool, bridge, ports and rules, also those of an earlier worker.
    /// A step that still runs is cut off.
    pub(crate) async fn remove(&self) -> Result<(), Fault> {
        self.close();
        let mut ground = self.shared.ground.write().await;
        *ground = None;
        // What was being made meanwhile.
        self.close();
        let bridge = self.shared.bridge.clone();
        blocking(move || ground::clear(&bridge)).await.map_err(|error| fault(&error))
    }

    /// At the start of a worker: what an earlier one left is kept where steps of its still run, else removed.
    pub(crate) async fn sweep(&self) -> Result<(), Fault> {
        let ground = self.shared.ground.write().await;
        if ground.is_some() {
            return Ok(());
        }
        let bridge = self.shared.bridge.clone();
        let swept = blocking(move || match ground::ports(&bridge)? {
            Some(0) => ground::clear(&bridge),
            _ => Ok(()),
        });
        swept.await.map_err(|error| fault(&error))
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.shared.pool.lock().expect("nobody panics with it")
    }

    /// Fills the pool, unless that is being done.
    fn fill(&self) {
        let look = {
            let mut pool = self.pool();
            if !pool.open || pool.filling || pool.ready.len() >= pool.demand.wanted() {
                return;
            }
            pool.filling = true;
            let look = pool.rules_seen.elapsed() >= RULES_TRUSTED;
            if look {
                pool.rules_seen = Instant::now();
            }
            look
        };
        let egress = self.clone();
        tokio::spawn(async move {
            if let Err(error) = egress.fill_up(look).await {
                tracing::warn!(%error, bridge = egress.shared.bridge, "no network namespace can be made ahead");
                egress.pool().filling = false;
            }
        });
    }

    async fn fill_up(&self, look: bool) -> io::Result<()> {
        if look {
            self.shared.refresh().await?;
        }
        loop {
            let ground = self.shared.ground.read().await;
            let made = match &*ground {
                Some((ground, _)) => Some(make(ground.clone()).await?),
                None => None,
            };
            let mut pool = self.pool();
            if pool.open {
                pool.ready.extend(made);
            }
            if !pool.open || ground.is_none() || pool.ready.len() >= pool.demand.wanted() {
                pool.filling = false;
                return Ok(());
            }
        }
    }
}

impl Pool {
    fn take(&mut self) -> Option<Lease> {
        self.demand.take(self.ready.len());
        self.ready.pop_front()
    }
}

impl Shared {
    async fn ground(self: &Arc<Self>) -> io::Result<Arc<Ground>> {
        if let Some((ground, _)) = &*self.ground.read().await {
            return Ok(ground.clone());
        }
        // Whoever gives up waiting does not leave it half laid and unlocked.
        let shared = self.clone();
        tokio::spawn(async move { shared.lay().await }).await.map_err(io::Error::other)?
    }

    async fn lay(self: Arc<Self>) -> io::Result<Arc<Ground>> {
        let mut ground = self.ground.write().await;
        if let Some((ground, _)) = &*ground {
            return Ok(ground.clone());
        }
        // Before the first look, so that no change is missed in between.
        let changes = netlink::Netlink::route_changes()?;
        let bridge = self.bridge.clone();
        let laid = Arc::new(blocking(move || Ground::lay(&bridge)).await?);
        let watch = tokio::spawn(follow_routes(changes, Arc::downgrade(&self)));
        // After a removal, it begins again.
        self.pool.lock().expect("nobody panics with it").open = true;
        *ground = Some((laid.clone(), AbortOnDrop(watch.abort_handle())));
        Ok(laid)
    }

    /// Puts the firewall's rules in place, as they have to be now.
    async fn refresh(&self) -> io::Result<()> {
        match &*self.ground.read().await {
            Some((ground, _)) => {
                let ground = ground.clone();
                blocking(move || ground.refresh()).await
            }
            None => Ok(()),
        }
    }
}

/// A network that comes up leads out from then on, and what docker makes stays closed; told by the kernel.
async fn follow_routes(changes: TokioSocket, shared: Weak<Shared>) {
    loop {
        // What it says does not matter, nor that some was lost: all is read anew.
        match changes.recv_from_full().await {
            Err(error) if error.raw_os_error() != Some(nix::libc::ENOBUFS) => {
                tracing::warn!(%error, "the kernel tells no more of changes of this host's routes");
                return;
            }
            _ => while changes.socket_ref().recv_from_full().is_ok() {},
        }
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = shared.refresh().await {
            tracing::warn!(%error, "the firewall's rules do not follow a change of this host's routes");
        }
    }
}

/// On a thread of its own, since its namespace changes.
async fn make(ground: Arc<Ground>) -> io::Result<Lease> {
    let (made, lease) = oneshot::channel();
    std::thread::Builder::new().name("netns".to_owned()).spawn(move || made.send(ground.namespace()))?;
    lease.await.map_err(|_| io::Error::other("the thread that makes it is gone"))?
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

fn fault(error: &io::Error) -> Fault {
    Fault::new(
        Reason::EngineUnavailable,
        format!("no network with a way out can be made: {error}"),
        "it needs root, iptables and the kernel's bridge and veth; network \"none\" needs none of them",
    )
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
