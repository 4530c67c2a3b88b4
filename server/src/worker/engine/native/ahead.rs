//! Sandboxes that are made before there is a step for them, so that the step need not wait for that: a few for each
//! image that was used lately, one made at a time and after a step has begun. Each is used once. None is needed: where
//! there is none, or it is no longer whole, one is made for the step.

use common::Network;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Native;
use super::demand::Demand;
use super::images::Image;
use super::made::Made;

/// For so many images and kinds of network, those that were used last.
const SHELVES: usize = 4;
/// A step that has just begun is not disturbed by what is made for the next ones: most steps are over soon.
const AFTER: Duration = Duration::from_millis(20);
/// What was not used for so long has no more of them.
const IDLE: Duration = Duration::from_secs(300);
/// With less than one part in so many of this host's memory left, there are none.
const SPARE_MEMORY: u64 = 10;

#[derive(Default)]
pub(super) struct Ahead {
    pool: Mutex<Pool>,
    /// One is made at a time.
    making: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Pool {
    closed: bool,
    /// The one that was used last comes last.
    shelves: Vec<Shelf>,
}

struct Shelf {
    /// This very one, and no other of the same id that was unpacked again.
    image: Arc<Image>,
    network: Network,
    used: Instant,
    demand: Demand,
    ready: VecDeque<Made>,
    is_filling: bool,
}

impl Shelf {
    fn is_of(&self, image: &Arc<Image>, network: Network) -> bool {
        Arc::ptr_eq(&self.image, image) && self.network == network
    }
}

impl Pool {
    /// The shelf, as the one that was used last; and what has to go for it.
    fn shelf(&mut self, image: &Arc<Image>, network: Network) -> (&mut Shelf, Vec<Made>) {
        let mut gone = Vec::new();
        match self.shelves.iter().position(|shelf| shelf.is_of(image, network)) {
            Some(at) => self.shelves[at..].rotate_left(1),
            None => {
                // The same image as it was before somebody removed it.
                gone.extend(
                    self.clear(|shelf| {
                        shelf.image.digest == image.digest && !Arc::ptr_eq(&shelf.image, image)
                    }),
                );
                if self.shelves.len() == SHELVES {
                    gone.extend(self.shelves.remove(0).ready);
                }
                let (demand, ready) = (Demand::new(), VecDeque::new());
                let (image, used) = (image.clone(), Instant::now());
                self.shelves.push(Shelf { image, network, used, demand, ready, is_filling: false });
            }
        }
        let shelf = self.shelves.last_mut().expect("it was just put there");
        shelf.used = Instant::now();
        (shelf, gone)
    }

    fn find(&mut self, image: &Arc<Image>, network: Network) -> Option<&mut Shelf> {
        self.shelves.iter_mut().find(|shelf| shelf.is_of(image, network))
    }

    /// What is on those shelves, which are no more.
    fn clear(&mut self, is_done: impl Fn(&Shelf) -> bool) -> Vec<Made> {
        self.shelves.extract_if(.., |shelf| is_done(shelf)).flat_map(|shelf| shelf.ready).collect()
    }
}

impl Ahead {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, by name.
    pub(super) fn kept_ready(&self) -> Vec<String> {
        let pool = self.pool();
        let named = |shelf: &Shelf, made: &Made| {
            let digest = shelf.image.digest.trim_start_matches("sha256:");
            let network = if shelf.network == Network::None { "none" } else { "egress" };
            let digest = digest.get(..12).unwrap_or(digest);
            format!("sandbox {} of image {digest}, network {network}", made.place.name)
        };
        let all = pool.shelves.iter().flat_map(|shelf| shelf.ready.iter().map(move |made| (shelf, made)));
        all.filter(|(_, made)| made.link.is_open()).map(|(shelf, made)| named(shelf, made)).collect()
    }
}

impl Native {
    /// One that waits for a step of this image, where there is one.
    pub(super) fn take_ahead(&self, image: &Arc<Image>, network: Network) -> Option<Made> {
        let (taken, gone) = {
            let mut pool = self.0.ahead.pool();
            let (shelf, mut gone) = pool.shelf(image, network);
            shelf.demand.take(shelf.ready.len());
            let whole = shelf.ready.iter().position(|made| made.link.is_open()).unwrap_or(shelf.ready.len());
            gone.extend(shelf.ready.drain(..whole));
            (shelf.ready.pop_front(), gone)
        };
        self.discard_all(gone);
        taken
    }

    /// Makes as many ahead as are wanted, unless that is being done. Nobody waits for it.
    pub(super) fn make_ahead(&self, image: &Arc<Image>, network: Network) {
        {
            let mut pool = self.0.ahead.pool();
            if pool.closed {
                return;
            }
            let Some(shelf) = pool.find(image, network) else { return };
            if std::mem::replace(&mut shelf.is_filling, true) {
                return;
            }
        }
        let (native, image) = (self.clone(), image.clone());
        tokio::spawn(async move { native.fill(&image, network).await });
    }

    async fn fill(&self, image: &Arc<Image>, network: Network) {
        tokio::time::sleep(AFTER).await;
        let _one_at_a_time = self.0.ahead.making.lock().await;
        while self.wants_more(image, network) {
            let made = match self.make(image, network, true).await {
                Ok(mut made) => match made.link.is_ready().await {
                    Ok(()) => made,
                    Err(error) => {
                        tracing::warn!(image = image.digest, "no sandbox can be made ahead: {error}");
                        self.discard(made).await;
                        break;
                    }
                },
                Err(fault) => {
                    tracing::warn!(image = image.digest, "no sandbox can be made ahead: {fault}");
                    break;
                }
            };
            let unwanted = {
                let mut pool = self.0.ahead.pool();
                match pool.find(image, network) {
                    Some(shelf) => {
                        shelf.ready.push_back(made);
                        None
                    }
                    None => Some(made),
                }
            };
            if let Some(made) = unwanted {
                self.discard(made).await;
            }
        }
        if let Some(shelf) = self.0.ahead.pool().find(image, network) {
            shelf.is_filling = false;
        }
    }

    fn wants_more(&self, image: &Arc<Image>, network: Network) -> bool {
        let wanted = {
            let mut pool = self.0.ahead.pool();
            let shelf = pool.find(image, network);
            shelf.is_some_and(|shelf| shelf.ready.len() < shelf.demand.wanted())
        };
        wanted && !memory_is_short()
    }

    /// Housekeeping: what nobody used for long goes, and all of it where memory is short.
    pub(super) fn tidy_ahead(&self) {
        let is_short = memory_is_short();
        let gone = {
            let mut pool = self.0.ahead.pool();
            let mut gone = pool.clear(|shelf| is_short || shelf.used.elapsed() > IDLE);
            for shelf in &mut pool.shelves {
                let (whole, broken) = shelf.ready.drain(..).partition(|made| made.link.is_open());
                shelf.ready = whole;
                gone.extend::<VecDeque<Made>>(broken);
            }
            gone
        };
        self.discard_all(gone);
    }

    /// Other images may have to make room, which those that are used do not.
    pub(super) async fn make_way_for(&self, digest: &str) {
        let gone = self.0.ahead.pool().clear(|shelf| shelf.image.digest != digest);
        futures_util::future::join_all(gone.into_iter().map(|made| self.discard(made))).await;
    }

    /// Ends all of them, and makes no more.
    pub(super) async fn close_ahead(&self) {
        let gone = {
            let mut pool = self.0.ahead.pool();
            pool.closed = true;
            pool.clear(|_| true)
        };
        futures_util::future::join_all(gone.into_iter().map(|made| self.discard(made))).await;
        // Until the one that is just being made has found that nobody wants it.
        drop(self.0.ahead.making.lock().await);
    }

    fn discard_all(&self, gone: Vec<Made>) {
        for made in gone {
            let native = self.clone();
            tokio::spawn(async move { native.discard(made).await });
        }
    }
}

fn memory_is_short() -> bool {
    let bytes = |name: &str| super::memory_of_this_host(name);
    let both = bytes("MemAvailable:").and_then(|available| Ok((available, bytes("MemTotal:")?)));
    both.map_or_else(
        |error: io::Error| {
            tracing::debug!("nobody knows how much memory is left: {error}");
            false
        },
        |(available, total)| available < total / SPARE_MEMORY,
    )
}
