//! What keeps a worker from being well though its engine answers: containers beyond its reach, a disk that takes no
//! more, ends that it could not write down. Housekeeping sees whether it has passed; nobody has to restart anything.

use common::{StepEvent, StepId};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

use super::disk;
use super::queue::{Slot, Slots};
use super::step::Step;

pub(crate) const SPOOL_HINT: &str =
    "wait for running steps to end, or start the worker with more --spool-bytes";

#[derive(Default)]
pub(super) struct Trouble {
    /// Steps whose containers cannot be removed, with the slots that they keep.
    beyond_reach: Mutex<Vec<(String, Option<Slot>)>>,
    /// What the disk said when it last refused a record.
    unwritable: Mutex<Option<String>>,
    /// A step was refused because running ones fill all that output may take.
    crowded: AtomicBool,
    /// Ends that the disk did not take.
    unrecorded: Mutex<Vec<(Arc<Step>, StepEvent)>>,
    /// Told when the disk begins to refuse.
    refused: Notify,
}

impl Trouble {
    /// In words, with a hint as the second line.
    pub(super) fn words(&self, shortage: Option<String>, are_full: bool, spool_bytes: u64) -> Option<String> {
        let stuck: Vec<String> = lock(&self.beyond_reach).iter().map(|(id, _)| id.clone()).collect();
        if !stuck.is_empty() {
            let named = stuck.join(", ");
            return Some(format!(
                "containers that cannot be killed: of steps {named}\nhint: look at them on this machine: docker ps"
            ));
        }
        if let Some(shortage) = shortage.or_else(|| lock(&self.unwritable).clone()) {
            return Some(format!("disk_full: {shortage}\nhint: {}", disk::HINT));
        }
        (self.crowded.load(Ordering::Relaxed) && are_full)
            .then(|| format!("{}\nhint: {SPOOL_HINT}", crowded_words(spool_bytes)))
    }

    /// What became of the last record that was written into this folder; in words, where it was not.
    pub(super) fn wrote<T>(&self, folder: &Path, written: io::Result<T>) -> Result<T, String> {
        let written = written.map_err(|error| format!("{} cannot be written: {error}", folder.display()));
        let before = std::mem::replace(&mut *lock(&self.unwritable), written.as_ref().err().cloned());
        if written.is_err() && before.is_none() {
            self.refused.notify_one();
        }
        written
    }

    pub(super) fn set_crowded(&self, crowded: bool) {
        self.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Keeps a slot out of use, because of a container that cannot be killed.
    pub(super) fn quarantine(&self, id: &StepId, slot: Option<Slot>) {
        lock(&self.beyond_reach).push((id.to_string(), slot));
    }

    /// `stuck`: the steps whose containers a sweep could not remove, an earlier worker's among them. The slots of
    /// the others go back.
    pub(super) fn swept(&self, stuck: &HashSet<String>, slots: &Slots) {
        let mut known = lock(&self.beyond_reach);
        known.retain(|(id, _)| stuck.contains(id));
        for id in stuck {
            if !known.iter().any(|(known, _)| known == id) {
                known.push((id.clone(), Some(slots.take_at_once())));
            }
        }
    }

    pub(super) fn keep_end(&self, step: Arc<Step>, event: StepEvent) {
        lock(&self.unrecorded).push((step, event));
        self.refused.notify_one();
    }

    /// Comes when something has to be written down again.
    pub(super) async fn of_disk(&self) {
        self.refused.notified().await;
    }

    pub(super) fn has_kept(&self, id: &StepId) -> bool {
        lock(&self.unrecorded).iter().any(|(step, _)| step.id == *id)
    }

    /// Something could not be written, and has to be tried again.
    pub(super) fn is_of_disk(&self) -> bool {
        lock(&self.unwritable).is_some() || !lock(&self.unrecorded).is_empty()
    }

    pub(super) fn take_ends(&self) -> Vec<(Arc<Step>, StepEvent)> {
        std::mem::take(&mut *lock(&self.unrecorded))
    }
}

pub(super) fn crowded_words(spool_bytes: u64) -> String {
    format!("spool_full: the running steps fill the {spool_bytes} bytes that all output may take")
}

/// Held for a few instructions only, never over an await.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
