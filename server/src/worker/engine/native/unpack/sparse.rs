//! Files of which an archive has only the pieces that are not zeros, as GNU tar writes them in PAX archives
//! (0.0, 0.1 and 1.0) and, as type `S`, in its own.

use std::io::Read;

/// Pieces of one file. GNU tar makes one per hole.
const PIECES: usize = 1_000_000;
const BLOCK: u64 = 512;

type Piece = (u64, u64);

#[derive(Default)]
pub(super) struct Map {
    /// The file's own: the entry is named for tars that know nothing of this.
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    major: Option<u64>,
    offset: Option<u64>,
    pieces: Vec<Piece>,
}

fn number(text: &[u8]) -> Result<u64, &'static str> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or("its map of pieces has something that is no number")
}

impl Map {
    pub(super) fn is_any(&self) -> bool {
        self.size.is_some() || self.major.is_some() || !self.pieces.is_empty()
    }

    /// Takes one of the PAX records `GNU.sparse.KEY`.
    pub(super) fn note(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"major" => self.major = Some(number(value)?),
            b"offset" => self.offset = Some(number(value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or("its map of pieces has a length without a place")?;
                self.add(offset, number(value)?)?;
            }
            b"map" => {
                let numbers: Vec<&[u8]> = value.split(|byte| *byte == b',').collect();
                for pair in numbers.chunks(2).filter(|pair| *pair != [b""]) {
                    let [offset, bytes] = pair else { return Err("its map of pieces is cut off") };
                    self.add(number(offset)?, number(bytes)?)?;
                }
            }
            // How many there are, and the minor version, say nothing new.
            _ => {}
        }
        Ok(())
    }

    /// The size of the whole, from a header's field.
    pub(super) fn set_size(
        &mut self,
        size: &[u8],
        number: impl Fn(&[u8]) -> Option<i64>,
    ) -> Result<(), &'static str> {
        self.size = Some(number(size).and_then(|size| u64::try_from(size).ok()).ok_or("its size")?);
        Ok(())
    }

    /// A piece, from a header's fields.
    pub(super) fn add_fields(
        &mut self,
        offset: &[u8],
        bytes: &[u8],
        number: impl Fn(&[u8]) -> Option<i64>,
    ) -> Result<(), &'static str> {
        let number = |field| number(field).and_then(|value| u64::try_from(value).ok());
        let offset = number(offset).ok_or("the place of a piece")?;
        self.add(offset, number(bytes).ok_or("the length of a piece")?)
    }

    fn add(&mut self, offset: u64, bytes: u64) -> Result<(), &'static str> {
        let after = self.pieces.last().map_or(0, |(offset, bytes)| offset + bytes);
        if self.pieces.len() == PIECES {
            return Err("it has too many pieces");
        }
        if offset < after || offset.checked_add(bytes).is_none() {
            return Err("its pieces are not in order");
        }
        self.pieces.push((offset, bytes));
        Ok(())
    }

    /// The pieces, in the order in which `data` has them from here on, and the size of the whole.
    pub(super) fn read(mut self, data: &mut impl Read) -> Result<(Vec<Piece>, u64), &'static str> {
        let size = self.size.ok_or("its map of pieces says no size")?;
        match self.major {
            Some(1) => {
                let mut taken = 0;
                let count = line(data, &mut taken)?;
                for _ in 0..count {
                    let (offset, bytes) = (line(data, &mut taken)?, line(data, &mut taken)?);
                    self.add(offset, bytes)?;
                }
                let mut rest = data.take(taken.next_multiple_of(BLOCK) - taken);
                std::io::copy(&mut rest, &mut std::io::sink()).map_err(|_| "its map of pieces is cut off")?;
            }
            Some(0) | None => {}
            Some(_) => return Err("its map of pieces is of a kind that is not known"),
        }
        match self.pieces.last() {
            Some((offset, bytes)) if offset + bytes > size => Err("its pieces reach beyond its end"),
            Some(_) | None => Ok((self.pieces, size)),
        }
    }
}

fn line(data: &mut impl Read, taken: &mut u64) -> Result<u64, &'static str> {
    let mut digits = Vec::new();
    loop {
        let mut byte = [0];
        data.read_exact(&mut byte).map_err(|_| "its map of pieces is cut off")?;
        *taken += 1;
        match byte[0] {
            b'\n' if digits.is_empty() => return Err("its map of pieces has an empty line"),
            b'\n' => return number(&digits),
            _ if digits.len() == 20 => return Err("its map of pieces has something that is no number"),
            digit => digits.push(digit),
        }
    }
}
