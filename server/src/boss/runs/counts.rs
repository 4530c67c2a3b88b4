//! What a boss counts: every end that it records, from its own beginning on.

use common::{RunFact, StepEnd, Verdict};

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
        let running = self.all.live.lock().expect("no panic under this lock").len();
        scrape.gauge("runs_running", "Runs that have not ended", running as u64);
        let held = self.all.store.holding().await?;
        scrape.gauge("runs_kept", "Runs in the history", held.runs);
        scrape.gauge("history_bytes", "Output, events and texts of ended runs", held.bytes);
        scrape.gauge("store_bytes", "The store's file", self.all.store.size_bytes().await?);
        scrape.free_bytes(self.all.outputs.disk());
        Ok(scrape)
    }
}
