//! What a sandbox printed and nobody has stored yet: bounded, and from there read by position.

use std::collections::VecDeque;

#[derive(Default)]
pub(super) struct Kept {
    pieces: VecDeque<Piece>,
    /// The number of the first piece.
    first: u64,
    /// How many bytes of output were let go before it.
    gone: u64,
    bytes: usize,
}

pub(super) struct Piece {
    pub(super) kind: u8,
    pub(super) bytes: Vec<u8>,
}

/// Where a reader goes on: a piece, and how many bytes of it it knows already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) piece: u64,
    pub(super) skip: usize,
    /// So much of what it does not know is not here any more.
    pub(super) missing: u64,
}

impl Kept {
    pub(super) fn push(&mut self, kind: u8, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.pieces.push_back(Piece { kind, bytes });
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, piece: u64) -> Option<&Piece> {
        self.pieces.get(usize::try_from(piece.checked_sub(self.first)?).ok()?)
    }

    /// For a reader that knows the first `told` bytes.
    pub(super) fn after(&self, told: u64) -> Place {
        let mut before = self.gone;
        if told < before {
            return Place { piece: self.first, skip: 0, missing: before - told };
        }
        for (piece, number) in self.pieces.iter().zip(self.first..) {
            let behind = before + piece.bytes.len() as u64;
            if told < behind {
                return Place { piece: number, skip: (told - before) as usize, missing: 0 };
            }
            before = behind;
        }
        Place { piece: self.first + self.pieces.len() as u64, skip: 0, missing: 0 }
    }

    /// The first `told` bytes are stored: no piece of them is wanted any more.
    pub(super) fn let_go(&mut self, told: u64) {
        while let Some(piece) = self.pieces.front()
            && self.gone + piece.bytes.len() as u64 <= told
        {
            self.gone += piece.bytes.len() as u64;
            self.bytes -= piece.bytes.len();
            self.first += 1;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, Place};

    #[test]
    fn a_reader_goes_on_at_the_very_byte() {
        let mut kept = Kept::default();
        kept.push(1, b"hello ".to_vec());
        kept.push(2, b"world".to_vec());
        let at = |piece, skip, missing| Place { piece, skip, missing };
        assert_eq!(kept.after(0), at(0, 0, 0));
        assert_eq!(kept.after(4), at(0, 4, 0));
        assert_eq!(kept.after(6), at(1, 0, 0));
        assert_eq!(kept.after(11), at(2, 0, 0));
        kept.let_go(5);
        assert_eq!(kept.bytes(), 11);
        kept.let_go(8);
        assert_eq!(kept.bytes(), 5);
        assert!(kept.get(0).is_none() && kept.get(1).is_some());
        assert_eq!(kept.after(2), at(1, 0, 4));
        assert_eq!(kept.after(7), at(1, 1, 0));
    }
}
