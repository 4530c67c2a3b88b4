//! Following a spool: whole lines from a position on, and then whatever comes, until the end.
//!
//! A reader holds one batch of lines and nothing else, however far it is behind.

use common::StepEvent;
use std::fs::File;
use std::io::{self, BufRead as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

use super::prune::Pruned;
use super::{Phase, Progress};

/// How much is read at once: three of the longest events of plain text. With the same once more as frames on
/// their way out, a reader stays below 256 KiB.
const BATCH_BYTES: usize = 112 * 1024;

/// An end is shorter: its words are held to a length in `life.rs`.
const LAST_LINE_BYTES: u64 = 64 * 1024;

pub(crate) struct Reader {
    spool: Arc<Opened>,
    progress: watch::Receiver<Progress>,
    at: u64,
}

struct Opened {
    folder: PathBuf,
    file: File,
}

/// Whole lines, and the position at which the first one begins.
pub(crate) struct Lines {
    from: u64,
    text: Vec<u8>,
    /// Where the events go on, if this is the one line that stands for what was pruned.
    after: Option<u64>,
}

impl Lines {
    /// Each line without its end, with the position after it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let (mut position, mut rest) = (self.from, self.text.as_slice());
        std::iter::from_fn(move || {
            let (line, after) = rest.split_at(line_len(rest)?);
            rest = after;
            position = self.after.unwrap_or(position + line.len() as u64);
            Some((position, &line[..line.len() - 1]))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    fn end(&self) -> u64 {
        self.after.unwrap_or(self.from + self.text.len() as u64)
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = io::Result<StepEvent>> {
        self.iter().map(|(_, line)| serde_json::from_slice(line).map_err(io::Error::other))
    }
}

impl Reader {
    pub(super) fn open(
        folder: &Path,
        progress: watch::Receiver<Progress>,
        after: u64,
    ) -> io::Result<Option<Reader>> {
        let file = File::open(folder.join("events"))?;
        let len = progress.borrow().len;
        if after > len {
            return Ok(None);
        }
        if after > 0 && byte_at(&file, after - 1)? != b'\n' {
            // Where events were pruned, nobody can tell any more whether one ended there.
            let pruned = Pruned::of(folder)?;
            if pruned.is_none_or(|pruned| after <= pruned.from || after > pruned.to) {
                return Ok(None);
            }
        }
        let spool = Arc::new(Opened { folder: folder.to_owned(), file });
        Ok(Some(Reader { spool, progress, at: after }))
    }

    /// What follows, as soon as there is something; None when the step has ended and all was read.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Lines>> {
        let Some(until) = self.wait().await else { return Ok(None) };
        let (spool, from) = (self.spool.clone(), self.at);
        let lines = match spool.read(from, until, Source::Memory) {
            Ok(lines) => lines,
            // It may take its time, and if there is something wrong it says what.
            Err(_) => {
                let read = move || spool.read(from, until, Source::Disk);
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??
            }
        };
        self.at = lines.end();
        Ok(Some(lines))
    }

    /// Like `next`, but ends where the spool ends now.
    pub(crate) async fn next_ready(&mut self) -> io::Result<Option<Lines>> {
        if self.progress.borrow().len > self.at { self.next().await } else { Ok(None) }
    }

    async fn wait(&mut self) -> Option<u64> {
        let at = self.at;
        let more = |progress: &Progress| progress.len > at || matches!(progress.phase, Phase::Ended(_));
        // An error means that the step's record was dropped: there is nothing more to come either.
        let until = self.progress.wait_for(more).await.ok()?.len;
        (until > at).then_some(until)
    }
}

/// Where to read. What was just written is in memory still, and another thread would cost more than reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Memory,
    Disk,
}

impl Opened {
    fn fill(&self, room: &mut [u8], at: u64, source: Source) -> io::Result<()> {
        match source {
            Source::Memory => {
                let wanted = room.len();
                let at_once = rustix::io::ReadWriteFlags::NOWAIT;
                let found = rustix::io::preadv2(&self.file, &mut [io::IoSliceMut::new(room)], at, at_once)?;
                if found == wanted { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
            }
            Source::Disk => self.file.read_exact_at(room, at),
        }
    }

    fn read(&self, from: u64, until: u64, source: Source) -> io::Result<Lines> {
        let whole = usize::try_from(until - from).unwrap_or(usize::MAX);
        let mut text = Vec::new();
        loop {
            let had = text.len();
            text.resize(whole.min(had + BATCH_BYTES), 0);
            self.fill(&mut text[had..], from + had as u64, source)?;
            let mut lines = 0;
            while let Some(len) = line_len(&text[lines..]) {
                // JSON has no NUL: from there on the file is a hole.
                if text[lines] == 0 || text[lines + len - 2] == 0 {
                    break;
                }
                lines += len;
            }
            if lines > 0 {
                text.truncate(lines);
                return Ok(Lines { from, text, after: None });
            }
            if text[0] == 0 || text[text.len() - 1] == 0 {
                return match source {
                    Source::Memory => Err(io::ErrorKind::WouldBlock.into()),
                    Source::Disk => self.pruned(from),
                };
            }
            if text.len() == whole {
                return Err(io::Error::other("the spool does not end with a whole line"));
            }
        }
    }

    /// The gap that stands for what was pruned.
    fn pruned(&self, from: u64) -> io::Result<Lines> {
        let there = Pruned::of(&self.folder)?.filter(|pruned| (pruned.from..pruned.to).contains(&from));
        let pruned = there.ok_or_else(|| io::Error::other("the spool has a hole that nobody made"))?;
        // Of those who have seen a part of it, nobody knows how much is missing.
        let bytes = (from == pruned.from).then_some(pruned.bytes);
        let mut text = serde_json::to_vec(&StepEvent::Gap { bytes }).map_err(io::Error::other)?;
        text.push(b'\n');
        Ok(Lines { from, text, after: Some(pruned.to) })
    }
}

/// The length of the first line with its end, if it has one.
fn line_len(text: &[u8]) -> Option<usize> {
    // The standard library looks for a byte by the word here alone.
    let len = (&mut &*text).skip_until(b'\n').ok()?;
    (len > 0 && text[len - 1] == b'\n').then_some(len)
}

fn byte_at(file: &File, at: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(byte[0])
}

/// The last whole line of a file that ends with one.
pub(super) fn last_line(file: &File, len: u64) -> io::Result<Option<Vec<u8>>> {
    let from = len.saturating_sub(LAST_LINE_BYTES);
    let mut text = vec![0; (len - from) as usize];
    file.read_exact_at(&mut text, from)?;
    if text.pop() != Some(b'\n') {
        return Ok(None);
    }
    let begin = text.iter().rposition(|byte| matches!(byte, b'\n' | 0)).map_or(0, |end| end + 1);
    Ok((begin > 0 || from == 0).then(|| text.split_off(begin)))
}
