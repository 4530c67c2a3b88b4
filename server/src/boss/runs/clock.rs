//! The time that a task may take: a clock that can stand still while all that the task waits for is queued.

use std::time::{Duration, Instant};

pub(super) struct Clock {
    left: Duration,
    /// Since when it runs; None while it stands.
    since: Option<Instant>,
}

impl Clock {
    pub(super) fn new(left: Duration) -> Clock {
        Clock { left, since: Some(Instant::now()) }
    }

    pub(super) fn run_or_stand(&mut self, stand: bool) {
        match (self.since, stand) {
            (Some(since), true) => {
                self.left = self.left.saturating_sub(since.elapsed());
                self.since = None;
            }
            (None, false) => self.since = Some(Instant::now()),
            (Some(_), false) | (None, true) => {}
        }
    }

    /// Waits until no time is left; for ever while it stands.
    pub(super) async fn out(&self) {
        match self.since {
            Some(since) => tokio::time::sleep_until((since + self.left).into()).await,
            None => std::future::pending().await,
        }
    }
}
