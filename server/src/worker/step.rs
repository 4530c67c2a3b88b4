//! One step, as those who ask for it hold it: its id, its spool, who reads it, and whether it is to stop.

use common::{Reason, StepId, StepSpec, StepView};
use sha2::{Digest as _, Sha256};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

use super::spool::{Phase, Spool};

/// Readers come and go; the step stays until its own end.
pub(crate) struct Step {
    pub(crate) id: StepId,
    /// What was asked, without id and pin: the same again is the same step.
    asked: [u8; 32],
    pub(crate) spool: Arc<Spool>,
    /// Why it is to stop. The first reason stays.
    stop: watch::Sender<Option<Reason>>,
    /// That it ends, or has ended, is on disk.
    settled: watch::Sender<bool>,
    readers: watch::Sender<usize>,
}

impl Step {
    pub(super) fn new(id: StepId, spec: &StepSpec, spool: Arc<Spool>) -> Step {
        let settled = watch::Sender::new(spool.has_ended());
        let (stop, readers) = (watch::Sender::new(None), watch::Sender::new(0));
        Step { id, asked: identity(spec), spool, stop, settled, readers }
    }

    pub(super) fn is_of(&self, spec: &StepSpec) -> bool {
        self.asked == identity(spec)
    }

    /// For the queue: steps of one run take turns with those of another.
    pub(super) fn queue_name(&self) -> &str {
        self.id.run()
    }

    /// The first reason stays. Of no effect on a step that has ended.
    pub(crate) fn ask_to_stop(&self, reason: Reason) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            *stop = stop.or(Some(reason));
            first
        });
    }

    pub(super) async fn asked_to_stop(&self) -> Reason {
        let mut stop = self.stop.subscribe();
        let asked = stop.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        match asked {
            Some(reason) => reason,
            // The sender is in `self`, so it is there.
            None => std::future::pending().await,
        }
    }

    pub(super) fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// Comes when no crash can take back any more that it stops.
    pub(crate) async fn is_settled(&self) {
        // Cannot fail: the sender is in `self`.
        drop(self.settled.subscribe().wait_for(|settled| *settled).await);
    }

    /// A reader, for as long as the answer lives.
    pub(crate) fn read(self: &Arc<Step>) -> Reading {
        self.readers.send_modify(|readers| *readers += 1);
        Reading(self.clone())
    }

    pub(crate) fn view(&self) -> io::Result<StepView> {
        let spec = self.spool.spec()?;
        let phase = self.spool.phase();
        let state = match phase {
            Phase::Queued => "queued",
            Phase::Preparing => "preparing",
            Phase::Running => "running",
            Phase::Ended(_) => "ended",
        };
        let end = match phase {
            Phase::Ended(end) => Some(end),
            Phase::Queued | Phase::Preparing | Phase::Running => None,
        };
        Ok(StepView {
            id: self.id.clone(),
            image: spec.image,
            command: spec.command.for_show(),
            state: state.to_owned(),
            verdict: end.as_ref().map(|end| end.verdict),
            exit_code: end.as_ref().and_then(|end| end.exit_code),
            took_ms: end.map(|end| end.took_ms),
        })
    }
}

/// Somebody reads a step's events or output.
pub(crate) struct Reading(Arc<Step>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.send_modify(|readers| *readers -= 1);
    }
}

/// A step without an id of its caller's lives only as long as somebody reads it.
pub(super) async fn lease(step: Arc<Step>, patience: Duration) {
    let mut readers = step.readers.subscribe();
    let mut progress = step.spool.follow();
    let ended = progress.wait_for(|progress| matches!(progress.phase, Phase::Ended(_)));
    let left = async {
        loop {
            // Cannot fail: the sender is in `step`.
            drop(readers.wait_for(|count| *count == 0).await);
            let came_back = readers.wait_for(|count| *count > 0);
            if tokio::time::timeout(patience, came_back).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = ended => {}
        () = left => step.ask_to_stop(Reason::ReaderLeft),
    }
}

fn identity(spec: &StepSpec) -> [u8; 32] {
    let text = serde_json::to_vec(&spec.identity()).expect("a spec is strings and numbers");
    Sha256::digest(text).into()
}
