//! Being told to stop.

use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::SetupError;

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// SIGINT, as by Ctrl-C.
    Interrupt,
    /// SIGTERM, as by a service manager.
    Terminate,
}

/// What tells this process to stop. Listens from the start on, not only from the first wait.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Signals, SetupError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                SetupError::new(
                    format!("signals cannot be listened to: {error}"),
                    "does this system support signals?",
                )
            })
        };
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
            // The terminal was closed; a server that was started in it goes with it, in order.
            _ = self.hang_up.recv() => Stop::Terminate,
        }
    }
}

/// Waits for the first of these.
pub(crate) fn told_to_stop() -> Result<impl Future<Output = Stop>, SetupError> {
    let mut signals = Signals::listen()?;
    Ok(async move { signals.next().await })
}

/// Waits for either; for commands to which they mean the same.
pub(crate) fn interrupted() -> Result<impl Future<Output = ()>, SetupError> {
    let stop = told_to_stop()?;
    Ok(async move {
        stop.await;
    })
}
