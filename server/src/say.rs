//! The one place where this program prints: what its commands say is their interface.

use std::io::{self, Write as _};

use crate::error::SetupError;
use crate::terminal::{self, plain};

/// Prints to standard output. A reader that has gone is not an error: `bettertest run | head` is fine.
pub(crate) fn out(text: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        tracing::debug!("standard output is closed: {error}");
    }
}

/// Prints one line of JSON, which may tell of what others wrote.
pub(crate) fn json(line: &str) {
    out(&(terminal::json(line) + "\n"));
}

/// Prints to standard error, where a refusal and what accompanies a long wait belong.
pub(crate) fn err(text: &str) {
    let mut stderr = io::stderr().lock();
    if let Err(error) = stderr.write_all(text.as_bytes()) {
        tracing::debug!("standard error is closed: {error}");
    }
}

/// Of a traceback that is longer the end is shown.
const TRACEBACK_LINES: usize = 40;

/// The two lines of every refusal.
pub(crate) fn refusal(error: &SetupError) {
    if let Some(traceback) = &error.traceback {
        err(&(terminal::tail(traceback.as_bytes(), TRACEBACK_LINES, false).join("\n") + "\n"));
    }
    err(&format!("error: {}\nhint: {}\n", plain(&error.error), plain(&error.hint)));
}
