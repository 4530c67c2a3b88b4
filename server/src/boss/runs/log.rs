//! A run's log while the run is alive: one event after another, each checked by the state machine, then stored,
//! and only then told. While events are on their way to the store more may follow them there; what is not there yet
//! nobody hears of, not even this process.

use common::{IllegalTransition, RunEvent, RunFact, RunNumber, RunState, RunSummary, Seq};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};

use super::All;
use super::counts::Ended;
use crate::boss::store::{AttemptTests, StoreError};

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
    /// Ahead of the store by what is on its way there.
    state: Mutex<RunState>,
    stored: Arc<watch::Sender<Stored>>,
    told: Arc<watch::Sender<Seq>>,
}

#[derive(Clone, Copy)]
struct Stored {
    through: Seq,
    /// The store failed once, so the state is ahead of it for good, and nothing may follow.
    broken_off: bool,
}

impl Log {
    pub(super) fn new(all: Arc<All>, state: RunState) -> Log {
        let told = Arc::new(watch::channel(state.last_seq).0);
        let stored = Stored { through: state.last_seq, broken_off: false };
        let run = state.number;
        Log { run, all, state: Mutex::new(state), stored: Arc::new(watch::channel(stored).0), told }
    }

    /// Appends one fact: on disk when this returns, and also where it is dropped before. After the freeze it never
    /// returns: whoever waits for it ends with this process, and the next one finds the log as it was.
    pub(super) async fn append(&self, fact: RunFact) -> Result<Seq, LogError> {
        self.append_with(fact, None).await
    }

    /// The same of the end of an attempt that had tests: both, or none.
    pub(super) async fn append_with(
        &self,
        fact: RunFact,
        tests: Option<AttemptTests>,
    ) -> Result<Seq, LogError> {
        let Some((seq, appended)) = self.begin(fact, tests)? else { return std::future::pending().await };
        match appended.await {
            Ok(appended) => appended.map(|()| seq).map_err(LogError::Store),
            // The process ends.
            Err(_) => std::future::pending().await,
        }
    }

    /// On its way to the store when this returns; None after the freeze.
    #[expect(clippy::type_complexity, reason = "what is waited for, and for what")]
    fn begin(
        &self,
        fact: RunFact,
        tests: Option<AttemptTests>,
    ) -> Result<Option<(Seq, oneshot::Receiver<Result<(), StoreError>>)>, LogError> {
        // Held until the store has it, so that the log has one order.
        let mut state = self.lock();
        if self.all.frozen.is_cancelled() {
            return Ok(None);
        }
        if self.stored.borrow().broken_off {
            return Err(LogError::BrokenOff);
        }
        let seq = Seq(state.last_seq.0 + 1);
        let listed = matches!(fact, RunFact::RunEnded { .. } | RunFact::RerunStarted { .. });
        let event = RunEvent { seq, at_ms: now_ms(), fact };
        state.apply(&event)?;
        let ended = Ended::of(&event.fact);
        let summary = listed.then(|| RunSummary::of(&state));
        let (tell, appended) = oneshot::channel();
        let (all, stored, told) = (self.all.clone(), self.stored.clone(), self.told.clone());
        self.all.store.append(self.run, event, summary, tests, move |result| {
            if result.is_ok() {
                if let Some(ended) = ended {
                    all.counts.add(&ended);
                }
                told.send_replace(seq);
                stored.send_modify(|stored| stored.through = seq);
                if listed {
                    all.changes.send_replace(());
                }
            } else {
                stored.send_modify(|stored| stored.broken_off = true);
            }
            // Where nobody waits any more, it is stored or broken off all the same.
            drop(tell.send(result));
        });
        Ok(Some((seq, appended)))
    }

    /// The run as it stands. A copy: a run of thousands of tasks is a few megabytes at most.
    pub(crate) async fn state(&self) -> RunState {
        self.look(RunState::clone).await
    }

    /// Looks at the run as it stands, without a copy.
    pub(crate) async fn look<T>(&self, at: impl FnOnce(&RunState) -> T) -> T {
        let (seen, through) = {
            let state = self.lock();
            (at(&state), state.last_seq)
        };
        let mut stored = self.stored.subscribe();
        // The sender is ours, so it does not go away meanwhile.
        drop(stored.wait_for(|stored| stored.through >= through || stored.broken_off).await);
        seen
    }

    /// Tells whenever there are more events in the store.
    pub(crate) fn follow(&self) -> watch::Receiver<Seq> {
        self.told.subscribe()
    }

    /// Held for moments only, never over an await.
    fn lock(&self) -> MutexGuard<'_, RunState> {
        self.state.lock().expect("no panic under this lock")
    }
}

/// The wall clock, for show.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
