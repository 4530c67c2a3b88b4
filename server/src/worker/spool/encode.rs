//! Bytes as `output` events: text wherever they are UTF-8, base64 where they are not.
//!
//! Written by hand, for speed, in the exact form that serde gives a `StepEvent`; a test holds the two together.
//! A character that is split between two reads is held back until its other bytes are there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::Stream;

/// The longest run of bytes in one event.
const OUTPUT_EVENT_BYTES: usize = 32 * 1024;

/// The longest line: control characters take six bytes each in JSON, and a reader has to hold a whole line.
const LINE_BYTES: usize = 96 * 1024;

pub(crate) struct Encoder {
    stream: Stream,
    /// The first bytes of a character whose others have not come yet: at most 3.
    held: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder { stream: Stream::Stdout, held: Vec::with_capacity(4) }
    }

    /// Appends these bytes as lines, but for an unfinished character at their end.
    pub(crate) fn write(&mut self, lines: &mut Vec<u8>, stream: Stream, bytes: &[u8]) {
        if self.stream != stream {
            self.settle(lines);
            self.stream = stream;
        }
        if self.held.is_empty() {
            self.write_pieces(lines, bytes);
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(bytes);
            self.write_pieces(lines, &joined);
        }
    }

    /// How many bytes are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Gives up waiting for the rest of a character.
    pub(crate) fn settle(&mut self, lines: &mut Vec<u8>) {
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            write_event(lines, self.stream, &held);
        }
    }

    fn write_pieces(&mut self, lines: &mut Vec<u8>, mut bytes: &[u8]) {
        while bytes.len() > OUTPUT_EVENT_BYTES {
            let cut = OUTPUT_EVENT_BYTES - unfinished(&bytes[..OUTPUT_EVENT_BYTES]);
            write_event(lines, self.stream, &bytes[..cut]);
            bytes = &bytes[cut..];
        }
        let (whole, held) = bytes.split_at(bytes.len() - unfinished(bytes));
        if !whole.is_empty() {
            write_event(lines, self.stream, whole);
        }
        self.held.extend_from_slice(held);
    }
}

/// How many bytes at the end begin a character without finishing it.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let wants = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => return 0,
        };
        return if wants > back { back } else { 0 };
    }
    0
}

fn write_event(lines: &mut Vec<u8>, stream: Stream, bytes: &[u8]) {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Pipedef => "pipedef",
    };
    let begin = lines.len();
    lines.extend_from_slice(b"{\"event\":\"output\",\"stream\":\"");
    lines.extend_from_slice(name.as_bytes());
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            lines.extend_from_slice(b"\",\"text\":");
            serde_json::to_writer(&mut *lines, text).expect("writing to a Vec does not fail");
        }
        Err(_) => {
            lines.extend_from_slice(b"\",\"base64\":\"");
            let at = lines.len();
            lines.resize(at + bytes.len().div_ceil(3) * 4, 0);
            STANDARD.encode_slice(bytes, &mut lines[at..]).expect("the room is what base64 needs");
            lines.push(b'"');
        }
    }
    lines.extend_from_slice(b"}\n");
    if lines.len() - begin > LINE_BYTES {
        // Only text with thousands of control characters gets here; its halves are text as well.
        lines.truncate(begin);
        let half = bytes.len() / 2;
        let cut = half - unfinished(&bytes[..half]);
        write_event(lines, stream, &bytes[..cut]);
        write_event(lines, stream, &bytes[cut..]);
    }
}
