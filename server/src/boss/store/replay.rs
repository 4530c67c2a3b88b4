//! A run as the sum of its events, all of them or none: whoever reads a run that nobody drives has no other word for it.

use common::{Phase, RunEvent, RunNumber, RunState};

use super::sums::Row;
use super::{Store, StoreError, keep};

/// So many are read at once; others may write in between.
const BATCH: usize = 1000;

impl Store {
    /// A run as it stands, rebuilt from its events. Damage, where they do not come to what its row says.
    pub(crate) async fn replay(&self, run: RunNumber) -> Result<RunState, StoreError> {
        loop {
            let before = self.row(run).await?;
            let state = self.add_up(run).await;
            // Where it has ended, begun again or gone meanwhile, what was read is partly of then and partly of now.
            if self.row(run).await? == before {
                let state = state?;
                before.agrees(&state)?;
                return Ok(state);
            }
        }
    }

    async fn row(&self, run: RunNumber) -> Result<Row, StoreError> {
        self.with(move |connection| keep::row(connection, run)).await
    }

    async fn add_up(&self, run: RunNumber) -> Result<RunState, StoreError> {
        let mut state = RunState::default();
        loop {
            let events = self.events_after(run, state.last_seq, BATCH).await?;
            if events.is_empty() {
                return Ok(state);
            }
            for (_, json) in events {
                let event: RunEvent = serde_json::from_str(&json)?;
                state.apply(&event).map_err(|wrong| {
                    StoreError::Contradicts(format!(
                        "the events of run {run} cannot follow each other: {wrong}"
                    ))
                })?;
            }
        }
    }
}

impl Row {
    /// A row and the event that changes it are one transaction.
    fn agrees(&self, state: &RunState) -> Result<(), StoreError> {
        let (run, last) = (self.number, state.last_seq.0);
        let as_written = match (self.state.as_str(), state.phase) {
            ("ended", Phase::Ended(_)) => self.last_seq.is_none_or(|written| written == last),
            ("running", Phase::Running) => self.last_seq.is_none_or(|written| written <= last),
            (_, Phase::Unborn | Phase::Running | Phase::Ended(_)) => false,
        };
        if as_written {
            return Ok(());
        }
        let how = match state.phase {
            Phase::Unborn => "there are none",
            Phase::Running => "they stop before its end",
            Phase::Ended(_) => "they end otherwise",
        };
        let word = &self.state;
        Err(StoreError::Contradicts(format!("run {run} is {word}, but of its events, {last} in all, {how}")))
    }
}
