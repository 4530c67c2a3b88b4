//! Bytes that come while others wait, for code that reads them on a thread of its own: archives, exports, bodies.

use bytes::Bytes;
use std::io::{self, Read};
use tokio::sync::mpsc;

pub(super) enum Piece {
    Bytes(Bytes),
    /// Without it, what comes broke off.
    End,
}

pub(super) struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    now: Bytes,
    has_ended: bool,
}

impl Pieces {
    /// So many may wait to be read.
    pub(super) fn channel(most: usize) -> (mpsc::Sender<Piece>, Pieces) {
        let (send, pieces) = mpsc::channel(most);
        (send, Pieces { pieces, now: Bytes::new(), has_ended: false })
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() && !self.has_ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.now = bytes,
                Some(Piece::End) => self.has_ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off")),
            }
        }
        let count = self.now.len().min(into.len());
        into[..count].copy_from_slice(&self.now.split_to(count));
        Ok(count)
    }
}
