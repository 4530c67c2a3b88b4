//! A part of an output that may be long, line by line as it is read: the last lines, those that match, those from one on.
//! What comes out is safe to print, and hides nothing.

use regex::bytes::{Regex, RegexBuilder};
use std::collections::VecDeque;

use crate::error::SetupError;
use crate::terminal;

/// Of a longer line the beginning is taken.
const LINE_BYTES: usize = 64 * 1024;

pub(crate) struct Slice {
    grep: Option<Regex>,
    /// Only the last so many are wanted.
    tail: Option<usize>,
    /// Those before it are not wanted; counted from 1.
    from: u64,
    kept: VecDeque<(u64, String)>,
    line: Vec<u8>,
    number: u64,
}

impl Slice {
    pub(crate) fn new(grep: Option<&str>, tail: Option<usize>) -> Result<Slice, SetupError> {
        let grep = grep.map(|pattern| RegexBuilder::new(pattern).size_limit(1 << 20).build()).transpose();
        let grep = grep.map_err(|error| {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            SetupError::new(
                format!("--grep is no regular expression: {why}"),
                "what has a meaning there is taken as it is after a backslash: \\( \\[ \\.",
            )
        })?;
        Ok(Slice { grep, tail, from: 1, kept: VecDeque::new(), line: Vec::new(), number: 0 })
    }

    pub(crate) fn from(self, from: u64) -> Slice {
        Slice { from, ..self }
    }

    /// The next bytes of the output; `out` gets each line that is wanted, and which one it is, once that is known.
    pub(crate) fn take(&mut self, mut bytes: &[u8], out: &mut impl FnMut(u64, &str)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.add(&bytes[..end]);
            self.end_line(out);
            bytes = &bytes[end + 1..];
        }
        self.add(bytes);
    }

    /// No more comes. Says how many lines there were.
    pub(crate) fn end(mut self, out: &mut impl FnMut(u64, &str)) -> u64 {
        if !self.line.is_empty() {
            self.end_line(out);
        }
        for (number, line) in &self.kept {
            out(*number, line);
        }
        self.number
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
    }

    fn end_line(&mut self, out: &mut impl FnMut(u64, &str)) {
        self.number += 1;
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if self.number < self.from || self.grep.as_ref().is_some_and(|grep| !grep.is_match(line)) {
            return;
        }
        let text = terminal::shown_tail(line, 1).pop().unwrap_or_default();
        match self.tail {
            None => out(self.number, &text),
            Some(tail) => {
                self.kept.push_back((self.number, text));
                if self.kept.len() > tail {
                    self.kept.pop_front();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sliced(output: &str, grep: Option<&str>, tail: Option<usize>, pieces: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let mut out = |number: u64, line: &str| {
            lines.push(if grep.is_some() { format!("{number}:{line}") } else { line.to_owned() });
        };
        let mut slice = Slice::new(grep, tail).unwrap();
        for piece in output.as_bytes().chunks(pieces) {
            slice.take(piece, &mut out);
        }
        assert_eq!(slice.end(&mut out), if output.is_empty() { 0 } else { 5 });
        lines
    }

    #[test]
    fn whatever_the_pieces_are() {
        let output = "one\r\ntwo\n\nthree \u{202e}x\x1b[31m!\nlast";
        for pieces in 1..output.len() {
            assert_eq!(sliced(output, None, None, pieces), ["one", "two", "", "three <U+202E>x!", "last"]);
            assert_eq!(sliced(output, None, Some(2), pieces), ["three <U+202E>x!", "last"]);
            assert_eq!(sliced(output, Some("^t"), None, pieces), ["2:two", "4:three <U+202E>x!"]);
            assert_eq!(sliced(output, Some("t"), Some(1), pieces), ["5:last"]);
        }
        assert!(sliced("", None, Some(3), 1).is_empty());
    }

    #[test]
    fn from_a_line_on() {
        let mut lines = Vec::new();
        let mut out = |number: u64, line: &str| lines.push((number, line.to_owned()));
        let mut slice = Slice::new(Some("o"), None).unwrap().from(2);
        slice.take(b"one\ntwo\nthree\nfour\n", &mut out);
        assert_eq!(slice.end(&mut out), 4);
        assert_eq!(lines, [(2, "two".to_owned()), (4, "four".to_owned())]);
    }

    #[test]
    fn what_is_no_expression_is_said() {
        let error = Slice::new(Some("a(b"), None).err().unwrap();
        assert!(error.error.contains("no regular expression: unclosed group"), "{error}");
    }
}
