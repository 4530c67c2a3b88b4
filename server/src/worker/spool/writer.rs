//! The one writer of a spool: the beginning of an output as it comes, the end of a long one when it is known, and
//! the end of the step last of all. It waits for the disk, so it works on a thread of its own (`pen.rs`).

use common::{Artifacts, StepEnd, StepEvent, Stream};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::disk;
use super::encode::Encoder;
use super::tail::{Gone, LONGEST_FRAME_BYTES, Piece, Tail};
use super::{Decision, Meter, Phase, Progress, Spool};

/// What is ready is written at once, up to so much at a time.
const BATCH_BYTES: usize = 256 * 1024;

pub(crate) struct Writer {
    spool: Arc<Spool>,
    meter: Arc<Meter>,
    events: File,
    /// The length of `events`, which always ends with a whole line.
    len: u64,
    phase: Phase,
    /// Whole lines that are not in the file yet, and how many bytes of output they hold.
    lines: Vec<u8>,
    lines_output: u64,
    encoder: Encoder,
    cap_bytes: u64,
    head_left: u64,
    tail: Tail,
    lost: Lost,
}

/// What the events of a spool tell of how far its writer came.
pub(super) struct Found {
    /// Where the last whole line ends, or where the replay of a tail began that a crash interrupted: it is replayed
    /// again, with the same bytes at the same positions.
    pub(super) len: u64,
    pub(super) phase: Phase,
    head_bytes: u64,
    /// Of what came after that, for good.
    dropped_bytes: u64,
    past_head: bool,
}

impl Found {
    /// How many bytes of the output its writer had taken in and stored, or let go.
    pub(super) fn told(&self, folder: &Path) -> io::Result<u64> {
        Ok(self.head_bytes + self.dropped_bytes + Tail::open(folder, 0)?.bytes())
    }

    pub(super) fn in_folder(folder: &Path) -> io::Result<Found> {
        let mut lines = BufReader::new(File::open(folder.join("events"))?);
        let until = replay_began(folder)?.unwrap_or(u64::MAX);
        let mut found =
            Found { len: 0, phase: Phase::Queued, head_bytes: 0, dropped_bytes: 0, past_head: false };
        let mut line = Vec::new();
        while found.len < until && lines.read_until(b'\n', &mut line)? > 0 && line.last() == Some(&b'\n') {
            let event: StepEvent = serde_json::from_slice(&line).map_err(io::Error::other)?;
            if let StepEvent::Output { bytes, .. } = &event {
                found.head_bytes += bytes.len() as u64;
            }
            if let StepEvent::Dropped { bytes } = &event {
                found.dropped_bytes += bytes;
                found.past_head = true;
            }
            found.phase = phase_after(found.phase, &event);
            found.len += line.len() as u64;
            line.clear();
        }
        Ok(found)
    }
}

/// Output that the disk did not take. Once something was lost, nothing more is written of this step's output:
/// a hole in the middle that nobody can see would be worse than an end that says how much is missing.
enum Lost {
    Nothing,
    Bytes(u64),
}

impl Writer {
    /// Goes on after the last whole line that is there.
    pub(crate) fn open(spool: Arc<Spool>, meter: Arc<Meter>, cap_bytes: u64) -> io::Result<Writer> {
        let found = Found::in_folder(&spool.folder)?;
        let events = File::options().append(true).open(spool.folder.join("events"))?;
        events.set_len(found.len)?;
        let tail = Tail::open(&spool.folder, cap_bytes)?;
        let full = found.past_head || !tail.is_empty();
        Ok(Writer {
            spool,
            meter,
            events,
            len: found.len,
            phase: found.phase,
            lines: Vec::new(),
            lines_output: 0,
            encoder: Encoder::new(),
            cap_bytes,
            head_left: if full { 0 } else { cap_bytes.saturating_sub(found.head_bytes) },
            tail,
            lost: Lost::Nothing,
        })
    }

    /// Anything but output and the end.
    pub(crate) fn say(&mut self, event: &StepEvent) -> io::Result<()> {
        if self.head_left == 0 && matches!(event, StepEvent::Gap { .. }) {
            // It belongs among what is held back.
            if let Err(error) = self.tail.write(&Piece::Gap) {
                self.give_up(0, &error);
            }
            return Ok(());
        }
        self.settle();
        self.line(event);
        self.phase = phase_after(self.phase.clone(), event);
        self.flush().or_else(|_| {
            self.use_reserve();
            self.flush()
        })
    }

    /// The disk is full. What must not be lost has room kept for it, of which no step's output gets anything.
    fn use_reserve(&self) {
        self.meter.stop_output();
        disk::release_reserve(&self.spool.folder);
    }

    fn line(&mut self, event: &StepEvent) {
        serde_json::to_writer(&mut self.lines, event).expect("an event is strings and numbers");
        self.lines.push(b'\n');
    }

    /// Takes output in; it is in the file after the next `flush`.
    pub(crate) fn output(&mut self, stream: Stream, bytes: &[u8]) {
        if let Lost::Bytes(lost) = &mut self.lost {
            *lost += bytes.len() as u64;
            return;
        }
        if self.meter.has_stopped_output() {
            self.give_up(bytes.len() as u64, &io::Error::from(io::ErrorKind::StorageFull));
            return;
        }
        let in_head = usize::try_from(self.head_left).unwrap_or(usize::MAX).min(bytes.len());
        let (head, rest) = bytes.split_at(in_head);
        if !head.is_empty() {
            self.encode(stream, head);
            self.head_left -= head.len() as u64;
        }
        if self.head_left == 0 {
            self.settle();
        }
        let mut kept = 0;
        for piece in rest.chunks(LONGEST_FRAME_BYTES) {
            if let Err(error) = self.tail.write(&Piece::Output(stream, piece)) {
                self.give_up((rest.len() - kept) as u64, &error);
                return;
            }
            kept += piece.len();
        }
        self.meter.add(kept as u64);
        match self.tail.let_go() {
            Ok(gone) => self.say_gone(&gone),
            Err(error) => self.give_up(0, &error),
        }
        if self.lines.len() >= BATCH_BYTES {
            self.flush_output();
        }
    }

    fn say_gone(&mut self, gone: &Gone) {
        self.meter.remove(gone.bytes);
        if gone.bytes > 0 {
            self.line(&StepEvent::Dropped { bytes: gone.bytes });
        }
        if gone.has_gap {
            self.line(&StepEvent::Gap { bytes: None });
        }
    }

    fn encode(&mut self, stream: Stream, bytes: &[u8]) {
        let held = self.encoder.held() + bytes.len();
        self.encoder.write(&mut self.lines, stream, bytes);
        self.lines_output += (held - self.encoder.held()) as u64;
    }

    /// The rest of a character will not come soon.
    pub(super) fn settle(&mut self) {
        self.lines_output += self.encoder.held() as u64;
        self.encoder.settle(&mut self.lines);
    }

    /// Like `flush`, where what cannot be written is output: it is counted, and said at the end.
    pub(crate) fn flush_output(&mut self) {
        let waiting = self.lines_output + self.encoder.held() as u64;
        if let Err(error) = self.flush().and_then(|()| self.tail.flush()) {
            self.lines.clear();
            self.lines_output = 0;
            self.encoder = Encoder::new();
            self.give_up(waiting, &error);
        }
    }

    fn give_up(&mut self, bytes: u64, error: &io::Error) {
        tracing::error!(
            folder = %self.spool.folder.display(),
            "the output of a step cannot be stored any more: {error}"
        );
        let before = match self.lost {
            Lost::Nothing => 0,
            Lost::Bytes(lost) => lost,
        };
        self.lost = Lost::Bytes(before + bytes + self.tail.bytes());
        self.meter.remove(self.tail.bytes());
        if let Err(error) = self.tail.remove() {
            tracing::warn!("what was kept of an output's end could not be removed: {error}");
        }
    }

    /// Writes what waits, then tells the readers.
    fn flush(&mut self) -> io::Result<()> {
        self.write()?;
        let (len, phase) = (self.len, self.phase.clone());
        self.spool.progress.send_replace(Progress { len, phase });
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        if let Err(error) = self.events.write_all(&self.lines) {
            // Half a line must not stay: what comes next would be glued to it.
            self.events.set_len(self.len)?;
            return Err(error);
        }
        self.len += self.lines.len() as u64;
        self.meter.add(self.lines.len() as u64);
        self.lines.clear();
        self.lines_output = 0;
        Ok(())
    }

    pub(super) fn decide(&self, decision: Decision) -> io::Result<()> {
        self.spool.decide(decision).or_else(|_| {
            self.use_reserve();
            self.spool.decide(decision)
        })
    }

    /// Survives a loss of power from here on.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.events.sync_all()?;
        File::open(self.spool.folder.join("spec.json"))?.sync_all()?;
        File::open(&self.spool.folder)?.sync_all()?;
        self.spool.folder.parent().map_or(Ok(()), |steps| File::open(steps)?.sync_all())
    }

    /// Records the end, durably, behind all that was held back. Nobody is told before `Unpublished::publish`, but for
    /// `written`, once it is in the file.
    pub(crate) fn end(
        mut self,
        artifacts: Option<Artifacts>,
        event: &StepEvent,
        written: impl FnOnce(),
    ) -> io::Result<Unpublished> {
        let end = event.end().ok_or_else(|| io::Error::other("this event is no end"))?;
        self.settle();
        self.flush_output();
        if !self.tail.is_empty() {
            self.replay();
        }
        if let Lost::Bytes(bytes) = self.lost {
            self.line(&StepEvent::Gap { bytes: Some(bytes) });
        }
        if let Some(artifacts) = artifacts {
            self.line(&StepEvent::Artifacts(artifacts));
        }
        self.line(event);
        let before = self.len;
        let whole = self.write().or_else(|_| {
            self.use_reserve();
            self.write()
        });
        if whole.is_ok() {
            written();
        }
        if let Err(error) = whole.and_then(|()| self.events.sync_data()) {
            // Nobody knows what of it is on the disk. If it can be taken back, it is.
            drop(self.events.set_len(before));
            return Err(error);
        }
        // From here on the step has ended, whatever becomes of what is no longer needed.
        let swept =
            self.tail.remove().and_then(|()| match fs::remove_file(replay_file(&self.spool.folder)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            });
        if let Err(error) = swept {
            tracing::warn!("what is no longer needed of a spool could not be removed: {error}");
        }
        Ok(Unpublished { spool: self.spool, len: self.len, end })
    }

    fn replay(&mut self) {
        let kept = self.tail.bytes().min(self.cap_bytes);
        let skip = self.tail.bytes() - kept;
        let mut flushed = 0;
        if let Err(error) = self.try_replay(skip, &mut flushed) {
            self.lines.clear();
            self.lines_output = 0;
            self.encoder = Encoder::new();
            // All of the tail counts as lost but for what reached the file.
            self.give_up(0, &error);
            if let Lost::Bytes(lost) = &mut self.lost {
                *lost -= flushed;
            }
        }
    }

    fn try_replay(&mut self, skip: u64, flushed: &mut u64) -> io::Result<()> {
        fs::write(replay_file(&self.spool.folder), self.len.to_string())?;
        if skip > 0 {
            self.line(&StepEvent::Dropped { bytes: skip });
        }
        self.flush()?;
        *flushed = skip;
        // Taken out for the time being, because both it and the rest of the writer are needed.
        let empty = Tail::none(&self.spool.folder);
        let mut tail = std::mem::replace(&mut self.tail, empty);
        let replayed = tail.replay(skip, &mut |piece| {
            match piece {
                Piece::Output(stream, bytes) => self.encode(stream, bytes),
                Piece::Gap => {
                    self.settle();
                    self.line(&StepEvent::Gap { bytes: None });
                }
            }
            if self.lines.len() >= BATCH_BYTES {
                let output = self.lines_output;
                self.flush()?;
                *flushed += output;
            }
            Ok(())
        });
        self.tail = tail;
        replayed?;
        self.settle();
        let output = self.lines_output;
        self.flush()?;
        *flushed += output;
        Ok(())
    }
}

/// A recorded end that nobody has been told of yet.
pub(crate) struct Unpublished {
    spool: Arc<Spool>,
    len: u64,
    end: StepEnd,
}

impl Unpublished {
    pub(crate) fn publish(self) {
        self.spool.progress.send_replace(Progress { len: self.len, phase: Phase::Ended(self.end) });
    }
}

fn phase_after(phase: Phase, event: &StepEvent) -> Phase {
    match event {
        StepEvent::Queued => Phase::Queued,
        StepEvent::Preparing { .. } => Phase::Preparing,
        StepEvent::Started { .. } => Phase::Running,
        StepEvent::Output { .. }
        | StepEvent::Dropped { .. }
        | StepEvent::Gap { .. }
        | StepEvent::Artifacts(_) => phase,
        StepEvent::Exited { .. }
        | StepEvent::TimedOut { .. }
        | StepEvent::Cancelled { .. }
        | StepEvent::Errored { .. } => event.end().map_or(phase, Phase::Ended),
    }
}

fn replay_file(folder: &Path) -> PathBuf {
    folder.join("replay")
}

/// Where in the events a crash interrupted the replay of a tail.
fn replay_began(folder: &Path) -> io::Result<Option<u64>> {
    match fs::read_to_string(replay_file(folder)) {
        Ok(len) => Ok(len.parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
