//! Being told to stop.

use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::SetupError;

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// SIGINT, as by Ctrl-C.
    Interrupt,
    /// SIGTERM, as by a service manager.
    Terminate,
}

/// Waits for the first of these. Listens from the call on, not only from the first await.
pub(crate) fn told_to_stop() -> Result<impl Future<Output = Stop>, SetupError> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            SetupError::new(
                format!("signals cannot be listened to: {error}"),
                "does this system support signals?",
            )
        })
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => Stop::Interrupt,
            _ = terminate.recv() => Stop::Terminate,
            // The terminal was closed; a server that was started in it goes with it, in order.
            _ = hang_up.recv() => Stop::Terminate,
        }
    })
}

/// Waits for either; for commands to which they mean the same.
pub(crate) fn interrupted() -> Result<impl Future<Output = ()>, SetupError> {
    let stop = told_to_stop()?;
    Ok(async move {
        stop.await;
    })
}
