//! A build that several steps follow: each reads the whole of what it prints, and how it ended. It goes on for as long
//! as anybody follows it, and is given up with the last of them.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

use super::super::super::Fault;

/// What is kept of its output for those who come later or are slow. Nobody is told half of it without a word.
const KEPT_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The image's id.
    Made(String),
    /// The Dockerfile's fault, or its files'.
    Failed {
        code: u8,
        at: Option<String>,
    },
    Broken(Fault),
    /// Nobody followed any more, and Docker has nothing left of it.
    GivenUp,
}

pub(super) enum Next {
    Printed(Bytes),
    /// What came before was not kept.
    Gap,
    Ended(End),
}

pub(super) struct Work {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    /// How many pieces came before the first of these.
    gone: usize,
    bytes: usize,
    end: Option<End>,
    /// How many pieces each of them has read.
    followers: HashMap<usize, usize>,
    joined: usize,
    given_up: bool,
}

pub(super) struct Follower {
    work: Arc<Work>,
    name: usize,
}

impl Work {
    pub(super) fn new() -> Arc<Work> {
        Arc::new(Work { state: Mutex::default(), changed: watch::Sender::new(()) })
    }

    /// None where it is over, or about to be.
    pub(super) fn follow(self: &Arc<Work>) -> Option<Follower> {
        let mut state = self.lock();
        if state.given_up || state.end.is_some() {
            return None;
        }
        let name = state.joined;
        state.joined += 1;
        state.followers.insert(name, 0);
        Some(Follower { work: self.clone(), name })
    }

    /// Waits while the slowest of those who follow is far behind.
    pub(super) async fn print(&self, piece: Bytes) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if self.lock().take(&piece) {
                break;
            }
            // Cannot fail: the sender is in `self`.
            drop(changed.changed().await);
        }
        self.changed.send_replace(());
    }

    /// Comes when nobody follows any more.
    pub(super) async fn given_up(&self) {
        self.until(|state| state.given_up.then_some(())).await;
    }

    pub(super) fn end(&self, end: End) {
        self.lock().end = Some(end);
        self.changed.send_replace(());
    }

    async fn until<T>(&self, look: impl Fn(&mut State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let found = look(&mut self.lock());
            match found {
                Some(found) => return found,
                // Cannot fail: the sender is in `self`.
                None => drop(changed.changed().await),
            }
        }
    }

    /// Held for a few instructions only, never over an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, piece: &Bytes) -> bool {
        let read_by_all = self.followers.values().min().copied().unwrap_or(usize::MAX);
        while self.bytes + piece.len() > KEPT_BYTES && self.gone < read_by_all {
            let Some(first) = self.pieces.pop_front() else { break };
            self.bytes -= first.len();
            self.gone += 1;
        }
        let fits = self.pieces.is_empty() || self.bytes + piece.len() <= KEPT_BYTES;
        if fits {
            self.bytes += piece.len();
            self.pieces.push_back(piece.clone());
        }
        fits
    }
}

impl Follower {
    /// May be dropped at its await.
    pub(super) async fn next(&self) -> Next {
        let next = |state: &mut State| {
            let read = state.followers.get_mut(&self.name)?;
            if *read < state.gone {
                *read = state.gone;
                return Some(Next::Gap);
            }
            match state.pieces.get(*read - state.gone) {
                Some(piece) => {
                    *read += 1;
                    Some(Next::Printed(piece.clone()))
                }
                None => state.end.clone().map(Next::Ended),
            }
        };
        let next = self.work.until(next).await;
        self.work.changed.send_replace(());
        next
    }

    /// Returns once nothing goes on that only this one wanted.
    pub(super) async fn leave(self) {
        let work = self.work.clone();
        drop(self);
        work.until(|state| (!state.given_up || state.end.is_some()).then_some(())).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.work.lock();
        state.followers.remove(&self.name);
        if state.followers.is_empty() && state.end.is_none() {
            state.given_up = true;
        }
        drop(state);
        self.work.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(follower: &Follower) -> String {
        match follower.next().await {
            Next::Printed(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Next::Gap => "gap".to_owned(),
            Next::Ended(end) => format!("{end:?}"),
        }
    }

    #[tokio::test]
    async fn each_reads_all_of_it_and_it_is_given_up_with_the_last() {
        let work = Work::new();
        let first = work.follow().unwrap();
        work.print(Bytes::from("one")).await;
        let second = work.follow().unwrap();
        work.print(Bytes::from("two")).await;
        assert_eq!((read(&second).await, read(&second).await), ("one".to_owned(), "two".to_owned()));
        second.leave().await;
        assert_eq!((read(&first).await, read(&first).await), ("one".to_owned(), "two".to_owned()));
        let leaving = tokio::spawn(first.leave());
        work.given_up().await;
        assert!(work.follow().is_none());
        work.end(End::GivenUp);
        leaving.await.unwrap();
    }

    #[tokio::test]
    async fn who_is_slow_is_waited_for_and_who_comes_late_is_told_what_is_gone() {
        let work = Work::new();
        let slow = work.follow().unwrap();
        let piece = Bytes::from(vec![b'x'; KEPT_BYTES / 2]);
        work.print(piece.clone()).await;
        work.print(piece.clone()).await;
        {
            let mut third = std::pin::pin!(work.print(Bytes::from("three")));
            assert!(futures_util::poll!(&mut third).is_pending());
            assert!(matches!(slow.next().await, Next::Printed(_)));
            third.await;
        }
        let late = work.follow().unwrap();
        assert_eq!(read(&late).await, "gap");
        for follower in [&slow, &late] {
            assert!(matches!(follower.next().await, Next::Printed(bytes) if bytes == piece));
            assert_eq!(read(follower).await, "three");
        }
        work.end(End::Made("i".to_owned()));
        assert_eq!(read(&late).await, "Made(\"i\")");
        assert!(work.follow().is_none());
    }
}
