//! A run's log while the run is alive: one event after another, each checked by the state machine, then stored,
//! and only then told.

use common::{IllegalTransition, RunEvent, RunFact, RunNumber, RunState, RunSummary, Seq};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, watch};

use super::All;
use super::counts::Ended;
use crate::boss::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("a wrong event: {0}")]
    Illegal(#[from] IllegalTransition),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event before this one could not be stored: what followed would leave a hole.
    #[error("the log broke off before")]
    BrokenOff,
}

pub(crate) struct Log {
    run: RunNumber,
    all: Arc<All>,
    /// Held while an event is stored, so that the log has one order.
    state: Mutex<RunState>,
    /// The store failed once, so the state is ahead of it, and nothing may follow.
    broken_off: AtomicBool,
    told: watch::Sender<Seq>,
}

impl Log {
    pub(super) fn new(all: Arc<All>, state: RunState) -> Log {
        let told = watch::channel(state.last_seq).0;
        let run = state.number;
        Log { run, all, state: Mutex::new(state), broken_off: AtomicBool::new(false), told }
    }

    /// Appends one fact: on disk when this returns. After the freeze it never returns: whoever waits for it ends
    /// with this process, and the next one finds the log as it was.
    pub(super) async fn append(&self, fact: RunFact) -> Result<Seq, LogError> {
        let mut state = self.state.lock().await;
        if self.all.frozen.is_cancelled() {
            drop(state);
            return std::future::pending().await;
        }
        if self.broken_off.load(Ordering::Relaxed) {
            return Err(LogError::BrokenOff);
        }
        let seq = Seq(state.last_seq.0 + 1);
        let listed = matches!(fact, RunFact::RunEnded { .. } | RunFact::RerunStarted { .. });
        let event = RunEvent { seq, at_ms: now_ms(), fact };
        state.apply(&event)?;
        let ended = Ended::of(&event.fact);
        // Also where this is dropped in the middle of the write.
        self.broken_off.store(true, Ordering::Relaxed);
        let summary = listed.then(|| RunSummary::of(&state));
        self.all.store.append(self.run, event, summary).await?;
        self.broken_off.store(false, Ordering::Relaxed);
        if let Some(ended) = ended {
            self.all.counts.add(&ended);
        }
        self.told.send_replace(seq);
        if listed {
            self.all.changes.send_replace(());
        }
        Ok(seq)
    }

    /// The run as it stands. A copy: a run of thousands of tasks is a few megabytes at most.
    pub(crate) async fn state(&self) -> RunState {
        self.state.lock().await.clone()
    }

    /// Looks at the run as it stands, without a copy.
    pub(crate) async fn look<T>(&self, at: impl FnOnce(&RunState) -> T) -> T {
        at(&*self.state.lock().await)
    }

    /// Tells whenever there are more events in the store.
    pub(crate) fn follow(&self) -> watch::Receiver<Seq> {
        self.told.subscribe()
    }
}

/// The wall clock, for show.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
