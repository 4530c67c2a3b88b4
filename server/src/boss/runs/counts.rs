//! What a boss counts: every end that it records, from its own beginning on.

use common::{RunFact, RunState, StepEnd, StepState, Verdict};

use super::{Runs, RunsError};
use crate::metrics::{Ends, Scrape, StepEnds};

pub(super) struct Counts {
    runs: Ends,
    attempts: Ends,
    steps: StepEnds,
}

/// An end that a fact tells of.
pub(super) enum Ended {
    Run(Verdict),
    Attempt(Verdict),
    Step(StepEnd),
}

impl Ended {
    pub(super) fn of(fact: &RunFact) -> Option<Ended> {
        match fact {
            RunFact::RunEnded { verdict } => Some(Ended::Run(*verdict)),
            RunFact::TaskEnded { verdict, .. } => Some(Ended::Attempt(*verdict)),
            RunFact::Step { said, .. } => said.end().map(Ended::Step),
            RunFact::RunStarted { .. }
            | RunFact::RerunStarted { .. }
            | RunFact::CancelAsked
            | RunFact::TaskStarted { .. }
            | RunFact::TaskEnding { .. }
            | RunFact::TaskSkipped { .. }
            | RunFact::StepAsked { .. } => None,
        }
    }
}

impl Counts {
    pub(super) fn new() -> Counts {
        Counts { runs: Ends::default(), attempts: Ends::default(), steps: StepEnds::new() }
    }

    pub(super) fn add(&self, ended: &Ended) {
        match ended {
            Ended::Run(verdict) => self.runs.count(*verdict),
            Ended::Attempt(verdict) => self.attempts.count(*verdict),
            Ended::Step(end) => self.steps.count(end),
        }
    }
}

/// How many steps of a run wait, and how many have a slot. An attempt that has ended has neither.
fn steps_at_it(state: &RunState) -> (u64, u64) {
    let attempts =
        state.tasks().filter_map(|task| task.attempts.last()).filter(|attempt| attempt.end.is_none());
    attempts.flat_map(|attempt| &attempt.steps).fold((0, 0), |(queued, running), step| match step.state {
        StepState::Asked | StepState::Queued => (queued + 1, running),
        StepState::Preparing { .. } | StepState::Running { .. } => (queued, running + 1),
        StepState::Ended(_) => (queued, running),
    })
}

impl Runs {
    /// The counts, and how things stand.
    pub(crate) async fn scrape(&self) -> Result<Scrape, RunsError> {
        let counts = &self.all.counts;
        let mut scrape = Scrape::begin("boss");
        scrape.ends("runs_ended", "Times that a run has ended, by outcome and reason", &counts.runs);
        scrape.ends(
            "attempts_ended",
            "Attempts of tasks that have ended, by outcome and reason",
            &counts.attempts,
        );
        scrape.step_ends(&counts.steps);
        let live: Vec<_> =
            self.all.live.lock().expect("no panic under this lock").values().cloned().collect();
        scrape.gauge("runs_running", "Runs that have not ended", live.len() as u64);
        let (mut queued, mut running) = (0, 0);
        for run in live {
            let (of_queued, of_running) = run.log.look(steps_at_it).await;
            queued += of_queued;
            running += of_running;
        }
        scrape.gauge("steps_queued", "Steps that were asked for and wait for a slot of their worker", queued);
        scrape.gauge("steps_running", "Steps that have a slot", running);
        let held = self.all.store.holding().await?;
        scrape.gauge("runs_kept", "Runs in the history", held.runs);
        scrape.gauge("history_bytes", "Output, events and texts of ended runs", held.bytes);
        scrape.gauge("store_bytes", "The store's file", self.all.store.size_bytes().await?);
        scrape.free_bytes(self.all.outputs.disk());
        Ok(scrape)
    }
}
