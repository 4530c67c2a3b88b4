//! Bytes of a stream as lines of text, as a person would see them: without colours and without what a carriage
//! return has overwritten. What is longer than any runner's line is cut.

const LONGEST: usize = 4096;

#[derive(Debug, Clone, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    pub(super) fn take(&mut self, bytes: &[u8], mut tell: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = LONGEST.saturating_sub(self.bytes.len());
            self.bytes.extend_from_slice(&text[..text.len().min(room)]);
            if is_whole {
                self.end(&mut tell);
            }
        }
    }

    /// What is there, if only as much as came.
    pub(super) fn end(&mut self, mut tell: impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        tell(&plain(text.rsplit('\r').next().unwrap_or(text)));
        self.bytes.clear();
    }
}

/// Without escape sequences.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\u{1b}' {
            plain.push(letter);
            continue;
        }
        match letters.next() {
            // CSI ... letter
            Some('[') => drop(letters.find(|letter| ('\u{40}'..='\u{7e}').contains(letter))),
            // OSC ... BEL or ESC \
            Some(']') => {
                if letters.find(|letter| matches!(letter, '\u{7}' | '\u{1b}')) == Some('\u{1b}') {
                    letters.next();
                }
            }
            Some(_) | None => {}
        }
    }
    plain
}
