//! Ending a container that is to end: SIGTERM, some time, SIGKILL, some time, and then it is beyond our reach.
//!
//! Each stage has its time, whatever the engine does: a signal that hangs does not hold up the next, and one that
//! is refused is sent again for as long as it is its turn.

use common::{Reason, StepId};
use std::pin::Pin;
use tokio::time::{Instant, sleep_until};

use super::engine::{Fault, Signal};
use super::spool::Decision;
use super::steps::Steps;
use crate::limits;

type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send + 'a>>;

pub(super) struct Kill<'a> {
    steps: &'a Steps,
    step: &'a StepId,
    decision: Option<Decision>,
    next: Next,
    /// When the next stage begins.
    at: Instant,
    sending: Option<(Signal, Sending<'a>)>,
    /// A signal that the engine did not take, and when it is sent again.
    refused: Option<(Signal, Fault, Instant)>,
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
        let at = Instant::now();
        Kill { steps, step, decision: decided, next: Next::Term, at, sending: None, refused: None }
    }

    pub(super) fn decision(&self) -> Option<Decision> {
        self.decision
    }

    pub(super) fn begin(&mut self, decision: Decision) {
        self.decision = Some(decision);
        self.at = Instant::now();
    }

    /// The next thing to do, when its time has come; a fault after the last. May be dropped at any await.
    pub(super) async fn proceed(&mut self) -> Option<Fault> {
        let again_at = self.refused.as_ref().map(|(_, _, at)| *at).filter(|_| self.sending.is_none());
        tokio::select! {
            biased;
            () = sleep_until(self.at) => self.next_stage(),
            (signal, sent) = answer(&mut self.sending) => {
                self.sending = None;
                self.refused = sent.err().map(|fault| {
                    tracing::warn!(step = %self.step, "a signal could not be sent: {fault}");
                    (signal, fault, Instant::now() + limits::ENGINE_RETRY)
                });
                None
            }
            () = sleep_until(again_at.unwrap_or(self.at)), if again_at.is_some() => {
                if let Some((signal, _, _)) = self.refused {
                    self.send(signal);
                }
                None
            }
        }
    }

    fn next_stage(&mut self) -> Option<Fault> {
        let patience = self.steps.patience();
        match self.next {
            Next::Term => {
                self.next = Next::Kill;
                self.at = Instant::now() + patience.term;
                self.send(Signal::Term);
                None
            }
            Next::Kill => {
                self.next = Next::GiveUp;
                self.at = Instant::now() + patience.kill;
                self.send(Signal::Kill);
                None
            }
            Next::GiveUp => {
                let kill_s = patience.kill.as_secs();
                let message = match &self.refused {
                    Some((_, fault, _)) => format!("the container could not be killed: {fault}"),
                    None if self.sending.is_some() => format!("SIGKILL was not answered within {kill_s} s"),
                    None => format!("the container outlived SIGKILL by {kill_s} s"),
                };
                Some(Fault::new(
                    Reason::KillFailed,
                    message,
                    "look at it on the worker's machine: docker ps; its slot is taken out of use",
                ))
            }
        }
    }

    fn send(&mut self, signal: Signal) {
        self.sending = Some((signal, Box::pin(self.steps.signal(self.step, signal))));
    }
}

/// Of the signal that is on its way; never, if none is.
async fn answer(sending: &mut Option<(Signal, Sending<'_>)>) -> (Signal, Result<(), Fault>) {
    match sending {
        Some((signal, sent)) => (*signal, sent.await),
        None => std::future::pending().await,
    }
}
