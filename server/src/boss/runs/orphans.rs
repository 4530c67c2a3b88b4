//! Steps that nobody waits for any more: their workers are told to end them, until they have heard it.

use common::StepId;
use reqwest::StatusCode;
use std::sync::Arc;

use super::All;
use super::log::now_ms;
use crate::boss::store::{Orphan, StoreError};
use crate::limits;

impl All {
    /// Nobody waits for this step any more. Its worker is told so until it has heard it, over restarts, too.
    pub(super) async fn abandon(self: &Arc<All>, step: StepId, worker: String) -> Result<(), StoreError> {
        let orphan = Orphan { step, worker, since_ms: now_ms() };
        self.store.add_orphan(orphan.clone()).await?;
        self.end_orphan(orphan);
        Ok(())
    }

    pub(super) async fn end_orphans(self: &Arc<All>) -> Result<(), StoreError> {
        for orphan in self.store.orphans().await? {
            self.end_orphan(orphan);
        }
        Ok(())
    }

    fn end_orphan(self: &Arc<All>, orphan: Orphan) {
        let all = self.clone();
        tokio::spawn(async move {
            let heard = all.tell_until_heard(&orphan).await;
            if !heard {
                tracing::warn!(step = %orphan.step, "the worker {} was never told to end a step", orphan.worker);
            }
            if let Err(error) = all.store.remove_orphan(orphan.step).await {
                tracing::warn!("a step that was ended is told of again at the next start: {error}");
            }
        });
    }

    /// False where the worker did not come back for as long as a step can live.
    async fn tell_until_heard(&self, orphan: &Orphan) -> bool {
        let mut pause = limits::ORPHAN_AGAIN / 16;
        while now_ms() < orphan.since_ms.saturating_add(limits::ORPHAN.as_millis() as u64) {
            let Ok(worker) = self.workers_now().resolve(&orphan.worker) else { return false };
            match self.client.cancel(&worker, &orphan.step).await {
                Ok(()) => return true,
                Err(error) if error.status() == Some(StatusCode::GONE) => return true,
                // It has no such step; and none that was still on its way to it when that was given up.
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) && orphan.is_old() => {
                    return true;
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(limits::ORPHAN_AGAIN);
        }
        false
    }
}

impl Orphan {
    fn is_old(&self) -> bool {
        now_ms().saturating_sub(self.since_ms) > limits::ON_ITS_WAY.as_millis() as u64
    }
}
