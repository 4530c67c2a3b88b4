//! What a container prints, as far as we are attached to it, and whether all of it was heard.
//!
//! The stream is raw: when it ends, nothing in it says whether the container did or only the connection. But what
//! holds the container's end of it is the container's init, for as long as that lives. So a stream that closes
//! before its container ends was cut.

use bollard::container::LogOutput;
use bollard::errors::Error;
use bytes::{Bytes, BytesMut};
use common::Stream as Of;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use std::pin::Pin;
use std::time::SystemTime;
use tokio::time::{Instant, sleep_until};

use crate::limits;

/// More is not waited for once there is so much.
const BATCH_BYTES: usize = 128 * 1024;

/// Less than this is waited on a little, in case it is one of many small writes. More is a step that prints as
/// fast as it can, and is not to be slowed down.
const SMALL_BYTES: usize = 8 * 1024;

pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;

pub(super) enum Output {
    Live(Pieces),
    Closed(Closed),
    /// Something may be missing from here on, which nobody was told of yet.
    Broken,
}

/// When a stream closed in which nothing was amiss.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    at: Instant,
    time: SystemTime,
}

impl Closed {
    /// Too long ago for a container that has not ended meanwhile.
    pub(super) fn overdue(self) -> Instant {
        self.at + limits::OUTPUT_CLOSED
    }

    /// Did it close because the container ended? That is so where Docker told both at once. Where Docker was slow
    /// to tell the end, its clock has a say, though never more than about a gap.
    pub(super) fn by_the_end(self, finished: Option<SystemTime>) -> bool {
        self.at.elapsed() < limits::OUTPUT_CLOSED
            || finished.is_some_and(|finished| finished <= self.time + limits::OUTPUT_CLOSED)
    }
}

impl Output {
    /// Of a container that still runs: is it not the end of the output that we heard?
    pub(super) fn is_cut(&self) -> bool {
        match self {
            Output::Live(_) => false,
            Output::Closed(closed) => closed.overdue() <= Instant::now(),
            Output::Broken => true,
        }
    }

    /// The next that is printed; for ever, where nothing more can come. May be dropped at any time.
    pub(super) async fn next(&mut self) -> Option<Result<LogOutput, Error>> {
        match self {
            Output::Live(pieces) => pieces.next().await,
            Output::Closed(_) | Output::Broken => std::future::pending().await,
        }
    }

    /// That piece, and all that comes right after it. `told`: when somebody was told of output before.
    pub(super) async fn batch(
        &mut self,
        first: Option<Result<LogOutput, Error>>,
        told: Instant,
    ) -> Vec<(Of, Bytes)> {
        let mut batch = Batch::default();
        let Output::Live(pieces) = self else { return Vec::new() };
        let mut end = batch.add(first).or_else(|| batch.fill(pieces));
        let due = told + limits::OUTPUT_PACE;
        if end.is_none() && batch.bytes < SMALL_BYTES && Instant::now() < due {
            sleep_until(due).await;
            end = batch.fill(pieces);
        }
        match end {
            None => {}
            Some(End::Closed) => {
                *self = Output::Closed(Closed { at: Instant::now(), time: SystemTime::now() });
            }
            Some(End::Cut) => *self = Output::Broken,
        }
        batch.pieces.into_iter().map(|(of, bytes)| (of, bytes.freeze())).collect()
    }
}

/// How a stream ended.
enum End {
    Closed,
    /// With an error, or within a piece.
    Cut,
}

/// What was printed in one go. Passing on a thousand small writes one by one costs more than making them.
#[derive(Default)]
struct Batch {
    pieces: Vec<(Of, BytesMut)>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, piece: Option<Result<LogOutput, Error>>) -> Option<End> {
        let (stream, bytes) = match piece {
            Some(Ok(LogOutput::StdOut { message })) => (Of::Stdout, message),
            Some(Ok(LogOutput::StdErr { message })) => (Of::Stderr, message),
            // Not a frame of Docker's, or half of one.
            Some(Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. }) | Err(_)) => return Some(End::Cut),
            None => return Some(End::Closed),
        };
        self.bytes += bytes.len();
        match self.pieces.last_mut() {
            Some((last, joined)) if *last == stream => joined.extend_from_slice(&bytes),
            Some(_) | None => self.pieces.push((stream, BytesMut::from(bytes))),
        }
        None
    }

    /// Adds what is there already.
    fn fill(&mut self, pieces: &mut Pieces) -> Option<End> {
        while self.bytes < BATCH_BYTES {
            let piece = pieces.next().now_or_never()?;
            if let Some(end) = self.add(piece) {
                return Some(end);
            }
        }
        None
    }
}
