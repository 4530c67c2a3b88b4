//! How much of the history is kept. Of the runs that have ended, the one that ended first goes first; one that runs, or
//! runs again, never goes, and the last one stays whatever its size and age.
//!
//! A run is taken from all lists, then its output is removed, then what the store has of it. Whatever a crash leaves
//! is known by that: to be finished by the next pass. So no list ever shows a run without its events.

use common::RunNumber;
use std::time::Duration;

use super::log::now_ms;
use super::{All, Runs};
use crate::boss::output::Outputs;
use crate::boss::store::StoreError;
use crate::joined::joined;
use crate::limits;

/// What is kept at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) runs: u64,
    pub(crate) age: Duration,
    /// Output, events and texts of all runs together.
    pub(crate) bytes: u64,
}

impl Keep {
    pub(crate) fn of_a_boss() -> Keep {
        Keep { runs: limits::KEEP_RUNS, age: limits::KEEP_AGE, bytes: limits::KEEP_BYTES }
    }

    pub(crate) fn of_local_runs() -> Keep {
        Keep { runs: limits::KEEP_LOCAL_RUNS, age: limits::KEEP_AGE, bytes: limits::KEEP_LOCAL_BYTES }
    }
}

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("its output cannot be removed: {0}")]
    Output(#[from] std::io::Error),
}

impl Runs {
    /// Keeps the history within its limits: now, whenever a run has ended, and now and then. Returns when what
    /// happens is for the next boss, and what this one had begun is done.
    pub(crate) async fn keep_house(self, keep: Keep) {
        let mut changes = self.changes();
        let mut first = true;
        loop {
            changes.mark_unchanged();
            if let Err(error) = self.all.remove_old(keep, std::mem::take(&mut first)).await {
                tracing::warn!("old runs cannot be removed now: {error}");
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(limits::KEEP_HOUSE) => first = true,
                () = self.all.frozen.cancelled() => return,
            }
        }
    }
}

impl All {
    /// Removes what is beyond the limits, one run after the other for as long as this boss is not to end; with `strays`,
    /// also output that no run has.
    async fn remove_old(&self, keep: Keep, strays: bool) -> Result<(), KeepError> {
        for run in self.store.being_removed().await? {
            if self.frozen.is_cancelled() {
                return Ok(());
            }
            self.remove(run).await?;
        }
        if strays {
            self.remove_strays().await?;
        }
        self.measure().await?;
        while !self.frozen.is_cancelled() {
            let held = self.store.holding().await?;
            let Some((oldest, ended_at_ms)) = held.oldest else { return Ok(()) };
            let age = Duration::from_millis(now_ms().saturating_sub(ended_at_ms));
            if held.runs <= keep.runs && held.bytes <= keep.bytes && age <= keep.age {
                return Ok(());
            }
            // Where it has just begun to run again, another one is the oldest now.
            if self.store.begin_removal(oldest).await? {
                self.remove(oldest).await?;
                self.changes.send_replace(());
            }
        }
        Ok(())
    }

    async fn remove(&self, run: RunNumber) -> Result<(), KeepError> {
        self.on_disk(move |outputs| outputs.remove(run)).await?;
        self.store.end_removal(run).await?;
        tracing::info!(run.id = run.0, "run {run} was removed, as it was the oldest");
        Ok(())
    }

    /// A folder of output is made after its run is in the store. One without a run is of a removal that the disk has
    /// forgotten in a crash, or of a store that was put back from an older copy.
    async fn remove_strays(&self) -> Result<(), KeepError> {
        self.on_disk(|outputs| outputs.remove_old_drafts()).await?;
        let runs = self.on_disk(|outputs| outputs.runs()).await?;
        for run in self.store.without_a_run(runs).await? {
            self.on_disk(move |outputs| outputs.remove(run)).await?;
            tracing::info!(run.id = run.0, "output of run {run}, which there is not, was removed");
        }
        Ok(())
    }

    async fn measure(&self) -> Result<(), KeepError> {
        loop {
            let unmeasured = self.store.unmeasured().await?;
            if unmeasured.is_empty() {
                return Ok(());
            }
            for run in unmeasured {
                if self.frozen.is_cancelled() {
                    return Ok(());
                }
                let output_bytes = self.on_disk(move |outputs| outputs.size_bytes(run)).await?;
                self.store.measured(run, output_bytes).await?;
            }
        }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(Outputs) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let outputs = self.outputs.clone();
        let worked = tokio::task::spawn_blocking(move || work(outputs)).await;
        joined(worked).await
    }
}
