//! Slots, and who gets the next one: runs take turns, and within a run first come is first served.
//!
//! A run that asks for a thousand steps delays another run's first step by one step, not by a thousand.
//! There is no priority and nothing is ever taken back from a step that has its slot.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Things that wait, by run. Pure, so that its fairness can be tested.
pub(crate) struct FairQueue<T> {
    /// Runs that have something waiting, the one whose turn is next in front.
    turns: VecDeque<String>,
    waiting: HashMap<String, VecDeque<T>>,
}

impl<T> FairQueue<T> {
    pub(crate) fn new() -> FairQueue<T> {
        FairQueue { turns: VecDeque::new(), waiting: HashMap::new() }
    }

    pub(crate) fn push(&mut self, run: &str, item: T) {
        let items = self.waiting.entry(run.to_owned()).or_default();
        if items.is_empty() {
            self.turns.push_back(run.to_owned());
        }
        items.push_back(item);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let run = self.turns.pop_front()?;
        let items = self.waiting.get_mut(&run)?;
        let item = items.pop_front();
        if items.is_empty() {
            self.waiting.remove(&run);
        } else {
            self.turns.push_back(run);
        }
        item
    }
}

/// A fixed number of slots. Clones share them.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Mutex<Inner>>);

struct Inner {
    /// Below zero while steps that ran before this worker began are more than its slots.
    free: isize,
    queue: FairQueue<oneshot::Sender<Slot>>,
}

/// The right to run one step, until it is dropped. Empty only on its way out.
pub(crate) struct Slot(Option<Slots>);

impl Slots {
    pub(crate) fn new(count: usize) -> Slots {
        Slots(Arc::new(Mutex::new(Inner {
            free: isize::try_from(count).unwrap_or(isize::MAX),
            queue: FairQueue::new(),
        })))
    }

    /// Waits for this run's turn. Dropping the future leaves the queue.
    pub(crate) async fn take(&self, run: &str) -> Slot {
        let granted = {
            let mut inner = self.lock();
            if inner.free > 0 {
                // A free slot means that nobody waits: `give_back` serves those first.
                inner.free -= 1;
                return Slot(Some(self.clone()));
            }
            let (grant, granted) = oneshot::channel();
            inner.queue.push(run, grant);
            granted
        };
        granted.await.expect("the queue outlives those who wait in it, for each holds a clone")
    }

    /// For a step that runs already.
    pub(crate) fn take_at_once(&self) -> Slot {
        self.lock().free -= 1;
        Slot(Some(self.clone()))
    }

    fn give_back(&self) {
        loop {
            let next = {
                let mut inner = self.lock();
                match if inner.free < 0 { None } else { inner.queue.pop() } {
                    Some(next) => next,
                    None => {
                        inner.free += 1;
                        return;
                    }
                }
            };
            match next.send(Slot(Some(self.clone()))) {
                Ok(()) => return,
                // That one stopped waiting. Emptied, so that dropping it does not come back here: ten thousand
                // that stopped would be ten thousand calls deep.
                Err(mut refused) => refused.0 = None,
            }
        }
    }

    /// Held for a few instructions only, never over an await.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.give_back();
        }
    }
}
