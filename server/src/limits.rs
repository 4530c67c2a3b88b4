//! Every limit that both servers share and every timer there is, each with its reason. Nothing in this program
//! asks on a timer whether something is done.

use std::time::Duration;

/// A comment on every stream that is silent for so long, so that both ends know that the other lives.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A stream that says nothing for so long, not even a keep-alive, is taken for dead.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);

/// A reader that takes no byte for so long is disconnected. What it missed it can fetch: readers follow files.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(30);

/// From accepting a connection to the end of its request's headers.
pub(crate) const HEADERS: Duration = Duration::from_secs(30);

/// How long answers that are being written may go on at shutdown, after streams have been ended.
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(5);

/// The longest body of a request. A StepSpec or a list of 20,000 tasks fits well.
pub(crate) const BODY_BYTES: usize = 4 * 1024 * 1024;
