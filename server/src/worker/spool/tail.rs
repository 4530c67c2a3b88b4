//! The end of an output that is longer than its cap: on disk, in segments, the oldest of which goes when the
//! rest is enough. Memory does not grow with it.
//!
//! A segment is a row of frames: one byte that says what it is, four bytes of length, then so many bytes.

use common::Stream;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

const SEGMENTS: u64 = 8;
const SMALLEST_SEGMENT_BYTES: u64 = 4096;
pub(super) const LONGEST_FRAME_BYTES: usize = 64 * 1024;

pub(super) struct Tail {
    folder: PathBuf,
    cap_bytes: u64,
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    next: u64,
    file: Option<BufWriter<File>>,
}

struct Segment {
    number: u64,
    bytes: u64,
    has_gap: bool,
}

/// What left the tail for good.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) bytes: u64,
    pub(super) has_gap: bool,
}

/// What a tail consists of.
pub(super) enum Piece<'a> {
    Output(Stream, &'a [u8]),
    Gap,
}

impl Tail {
    /// The tail of this step's folder, with what an earlier worker left in it.
    pub(super) fn open(folder: &Path, cap_bytes: u64) -> io::Result<Tail> {
        let segment_bytes = (cap_bytes / SEGMENTS).max(SMALLEST_SEGMENT_BYTES);
        let mut tail = Tail { cap_bytes, segment_bytes, ..Tail::none(folder) };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("tail."));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        for number in numbers {
            let mut segment = Segment { number, bytes: 0, has_gap: false };
            each_piece(&tail.path(number), 0, &mut |piece| {
                match piece {
                    Piece::Output(_, bytes) => segment.bytes += bytes.len() as u64,
                    Piece::Gap => segment.has_gap = true,
                }
                Ok(())
            })?;
            tail.segments.push_back(segment);
            tail.next = number + 1;
        }
        Ok(tail)
    }

    /// A tail that was never written to.
    pub(super) fn none(folder: &Path) -> Tail {
        Tail {
            folder: folder.to_owned(),
            cap_bytes: 0,
            segment_bytes: 0,
            segments: VecDeque::new(),
            next: 0,
            file: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(super) fn write(&mut self, piece: &Piece) -> io::Result<()> {
        let (kind, bytes): (u8, &[u8]) = match piece {
            Piece::Output(Stream::Stdout, bytes) => (1, bytes),
            Piece::Output(Stream::Stderr | Stream::Pipedef, bytes) => (2, bytes),
            Piece::Gap => (3, &[]),
        };
        let full = self.segments.back().is_none_or(|segment| segment.bytes >= self.segment_bytes);
        if full || self.file.is_none() {
            self.begin_segment()?;
        }
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.back_mut()) else {
            return Err(io::Error::other("a tail has a segment to write to"));
        };
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        file.write_all(&[kind])?;
        file.write_all(&length.to_be_bytes())?;
        file.write_all(bytes)?;
        segment.bytes += u64::from(length);
        segment.has_gap |= matches!(piece, Piece::Gap);
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        if let Some(mut file) = self.file.take() {
            file.flush()?;
        }
        let number = self.next;
        let file = File::options().create_new(true).append(true).open(self.path(number))?;
        self.file = Some(BufWriter::with_capacity(128 * 1024, file));
        self.segments.push_back(Segment { number, bytes: 0, has_gap: false });
        self.next += 1;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.flush())
    }

    /// Lets go of the oldest segments without which the tail is still as long as it is to be.
    pub(super) fn let_go(&mut self) -> io::Result<Gone> {
        let mut gone = Gone::default();
        let mut have = self.bytes();
        while let Some(oldest) = self.segments.front()
            && have - oldest.bytes >= self.cap_bytes
            && self.segments.len() > 1
        {
            fs::remove_file(self.path(oldest.number))?;
            have -= oldest.bytes;
            gone.bytes += oldest.bytes;
            gone.has_gap |= oldest.has_gap;
            self.segments.pop_front();
        }
        Ok(gone)
    }

    /// Everything that is kept, oldest first, after leaving out the first `skip` bytes.
    pub(super) fn replay(
        &mut self,
        skip: u64,
        to: &mut dyn FnMut(Piece) -> io::Result<()>,
    ) -> io::Result<()> {
        self.flush()?;
        let mut skip = skip;
        for segment in &self.segments {
            each_piece(&self.path(segment.number), skip, to)?;
            skip = skip.saturating_sub(segment.bytes);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.file = None;
        while let Some(segment) = self.segments.pop_front() {
            fs::remove_file(self.path(segment.number))?;
        }
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("tail.{number}"))
    }
}

/// Stops at a frame that a crash cut short: its bytes were never told to anyone.
fn each_piece(path: &Path, skip: u64, to: &mut dyn FnMut(Piece) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufReader::with_capacity(128 * 1024, File::open(path)?);
    let mut skip = skip;
    let mut bytes = Vec::new();
    loop {
        let mut head = [0; 5];
        if !read_whole(&mut file, &mut head)? {
            return Ok(());
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > LONGEST_FRAME_BYTES {
            return Err(io::Error::other(format!("{} holds what no worker writes", path.display())));
        }
        bytes.resize(length, 0);
        if !read_whole(&mut file, &mut bytes)? {
            return Ok(());
        }
        let left_out = skip.min(length as u64) as usize;
        skip -= left_out as u64;
        let rest = &bytes[left_out..];
        match head[0] {
            1 if !rest.is_empty() => to(Piece::Output(Stream::Stdout, rest))?,
            2 if !rest.is_empty() => to(Piece::Output(Stream::Stderr, rest))?,
            1 | 2 => {}
            3 => to(Piece::Gap)?,
            other => return Err(io::Error::other(format!("a tail has no frame of kind {other}"))),
        }
    }
}

fn read_whole(file: &mut impl io::Read, into: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
