//! What an earlier execution of an attempt had asked for and heard, so that this one is told the same, in the same
//! order: a task that looks at which of two steps ends first then goes the way that it went before.

use common::{Seq, StepId, StepRun};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// A replay that asks for nothing for so long may never ask for what it asked for before.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct Replay {
    /// Steps of the log that were not asked for again yet.
    steps: HashMap<StepId, StepRun>,
    /// When these were asked for, in the log.
    asked: BTreeMap<Seq, StepId>,
    /// Ends in the log that were not told again yet, with the call that waits for each, once there is one.
    ends: BTreeMap<Seq, Option<u64>>,
    /// Calls whose steps ended in this process, while ends of the log were still to be told.
    later: Vec<u64>,
    heard_at: Instant,
}

impl Replay {
    pub(super) fn of(steps: Vec<StepRun>) -> Replay {
        Replay {
            asked: steps.iter().map(|step| (step.asked, step.id.clone())).collect(),
            ends: steps.iter().filter_map(|step| Some((step.ended?, None))).collect(),
            steps: steps.into_iter().map(|step| (step.id.clone(), step)).collect(),
            later: Vec::new(),
            heard_at: Instant::now(),
        }
    }

    /// The step that this call had been before, if it had been any.
    pub(super) fn ask_again(&mut self, id: &StepId, call: u64) -> Option<StepRun> {
        self.heard_at = Instant::now();
        let step = self.steps.remove(id)?;
        self.asked.remove(&step.asked);
        if let Some(waits) = step.ended.and_then(|ended| self.ends.get_mut(&ended)) {
            *waits = Some(call);
        }
        Some(step)
    }

    /// The step of this call has ended now.
    pub(super) fn ended(&mut self, call: u64) {
        if !self.ends.values().any(|waits| *waits == Some(call)) {
            self.later.push(call);
        }
    }

    /// The calls that can be told of their ends now, in order.
    pub(super) fn due(&mut self) -> Vec<u64> {
        let mut due = Vec::new();
        while let Some(first) = self.ends.first_entry() {
            let before = self.asked.first_key_value().is_some_and(|(asked, _)| asked < first.key());
            match *first.get() {
                Some(call) if !before => {
                    first.remove();
                    due.push(call);
                }
                Some(_) | None => return due,
            }
        }
        due.append(&mut self.later);
        due
    }

    /// Waits until the order of the log is not to be waited for any longer. For ever where nothing is held back.
    pub(super) async fn out_of_patience(&self) {
        if self.later.is_empty() && self.ends.values().all(Option::is_none) {
            return std::future::pending().await;
        }
        tokio::time::sleep_until((self.heard_at + PATIENCE).into()).await;
    }

    /// From here on, calls are told as their steps end. Those that were held back until now.
    pub(super) fn let_go(&mut self) -> Vec<u64> {
        let mut held: Vec<u64> = std::mem::take(&mut self.ends).into_values().flatten().collect();
        held.append(&mut self.later);
        held
    }

    /// What was never asked for again.
    pub(super) fn strays(&mut self) -> Vec<StepRun> {
        self.asked.clear();
        self.steps.drain().map(|(_, step)| step).collect()
    }

    pub(super) fn has_unended(&self) -> bool {
        self.steps.values().any(|step| step.ended.is_none())
    }
}
