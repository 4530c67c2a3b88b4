//! Ending a container that is to end: SIGTERM, some time, SIGKILL, some time, and then it is beyond our reach.

use common::{Reason, StepId};
use std::pin::Pin;
use tokio::time::{Instant, sleep_until};

use super::engine::{Fault, Signal};
use super::spool::Decision;
use super::steps::Steps;

type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send + 'a>>;

pub(super) struct Kill<'a> {
    steps: &'a Steps,
    step: &'a StepId,
    decision: Option<Decision>,
    next: Next,
    at: Instant,
    sending: Option<Sending<'a>>,
}

#[derive(Clone, Copy)]
enum Next {
    Term,
    Kill,
    GiveUp,
}

impl<'a> Kill<'a> {
    /// `decided`: by an earlier worker.
    pub(super) fn new(steps: &'a Steps, step: &'a StepId, decided: Option<Decision>) -> Kill<'a> {
        Kill { steps, step, decision: decided, next: Next::Term, at: Instant::now(), sending: None }
    }

    pub(super) fn decision(&self) -> Option<Decision> {
        self.decision
    }

    pub(super) fn begin(&mut self, decision: Decision) {
        self.decision = Some(decision);
        self.at = Instant::now();
    }

    /// The next stage, when its time has come; a fault after the last. May be dropped at any await.
    pub(super) async fn proceed(&mut self) -> Option<Fault> {
        if let Some(sending) = &mut self.sending {
            if let Err(fault) = sending.await {
                tracing::warn!(step = %self.step, "a signal could not be sent: {fault}");
            }
            self.sending = None;
        }
        sleep_until(self.at).await;
        let patience = self.steps.patience();
        let signal = match self.next {
            Next::Term => {
                self.next = Next::Kill;
                self.at = Instant::now() + patience.term;
                Signal::Term
            }
            Next::Kill => {
                self.next = Next::GiveUp;
                self.at = Instant::now() + patience.kill;
                Signal::Kill
            }
            Next::GiveUp => {
                return Some(Fault::new(
                    Reason::KillFailed,
                    format!("the container outlived SIGKILL by {} s", patience.kill.as_secs()),
                    "look at it on the worker's machine: docker ps; its slot is taken out of use",
                ));
            }
        };
        self.sending = Some(Box::pin(self.steps.engine().signal(self.step, signal)));
        None
    }
}
