//! Where an output leaves one that was green: the first line that the green one does not have anywhere. Not the first
//! place where both differ: tests that run at once print in another order each time, and that is nothing new.

use regex::bytes::{Captures, Regex};
use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;
use std::sync::LazyLock;

/// Of each output no more is read, and of the green one no more lines are kept in mind: where that is not all of it,
/// nobody knows what is new.
const READ_BYTES: u64 = 64 * 1024 * 1024;
const LINES: usize = 1_000_000;

/// Of a longer line the beginning is compared.
const LINE_BYTES: usize = 4096;

/// What is another each time, and means nothing by it.
static VARIES: LazyLock<Regex> = LazyLock::new(|| {
    let varies = [
        // Colours, and whatever else is not text.
        r"(?P<gone>\x1b\[[0-9;:?]*[ -/]*[@-~])",
        // Names of temporary files.
        r#"/(?:var/|private/)*tmp/[^\s"'`:;,)\]]+"#,
        r"\b(?:0[xX])?[0-9a-fA-F]{8,}\b",
        r"\b0[xX][0-9a-fA-F]+",
        // Of a date, where it stands beside a number.
        r"\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +[0-9]+",
        // A number, with the unit of a time behind it: 990ms may be 1.1s the next time.
        r"[0-9]+(?:[.,:][0-9]+)*(?:(?:ns|us|\xc2\xb5s|ms|s|m|h)\b)?",
        // What fills a line up, or a column.
        r"(?P<fill>[ \t]{2,}|={2,}|-{2,}|_{2,}|\.{2,}|#{2,}|\*{2,})",
    ];
    Regex::new(&format!("(?-u){}", varies.join("|"))).expect("it is written here")
});

/// The first line that is new.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Counted from 1.
    pub(super) line: u64,
    pub(super) text: Vec<u8>,
    /// What the green output has after the line that stands before this one, where it has that line once.
    pub(super) green: Option<Vec<u8>>,
}

pub(super) fn first_new_line(now: &Path, green: &Path) -> io::Result<Option<Found>> {
    let mut known = HashSet::new();
    let mut lines = Lines::of(green)?;
    while let Some(line) = lines.next()? {
        known.insert(sum(line));
        if known.len() > LINES {
            return Ok(None);
        }
    }
    if lines.is_cut()? {
        return Ok(None);
    }
    let mut before = None;
    let mut lines = Lines::of(now)?;
    let mut number = 0;
    while let Some(line) = lines.next()? {
        number += 1;
        let normal = normal(line);
        if normal.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let sum = sum_of(&normal);
        if !known.contains(&sum) {
            let text = line.to_vec();
            return Ok(Some(Found { line: number, text, green: after(green, before)? }));
        }
        before = Some(sum);
    }
    Ok(None)
}

/// The line after the only one that is this.
fn after(path: &Path, this: Option<u64>) -> io::Result<Option<Vec<u8>>> {
    let (mut found, mut is_next) = (None, this.is_none());
    let mut lines = Lines::of(path)?;
    while let Some(line) = lines.next()? {
        let normal = normal(line);
        if normal.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if std::mem::take(&mut is_next) {
            found = Some(line.to_vec());
            if this.is_none() {
                break;
            }
        }
        if this == Some(sum_of(&normal)) {
            if found.is_some() {
                return Ok(None);
            }
            is_next = true;
        }
    }
    Ok(found)
}

fn sum(line: &[u8]) -> u64 {
    sum_of(&normal(line))
}

fn sum_of(normal: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    normal.hash(&mut hasher);
    hasher.finish()
}

/// A line without what varies.
fn normal(line: &[u8]) -> Vec<u8> {
    // A progress bar is what it shows last.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.rsplit(|byte| *byte == b'\r').next().unwrap_or_default();
    let varied = VARIES.replace_all(line, |found: &Captures<'_>| {
        if found.name("gone").is_some() {
            Vec::new()
        } else if let Some(fill) = found.name("fill") {
            fill.as_bytes()[..1].to_vec()
        } else {
            b"0".to_vec()
        }
    });
    varied.trim_ascii().to_vec()
}

/// The lines of a file, in little memory however long they are.
struct Lines {
    from: io::Take<BufReader<File>>,
    line: Vec<u8>,
}

impl Lines {
    fn of(path: &Path) -> io::Result<Lines> {
        let from = BufReader::with_capacity(64 * 1024, File::open(path)?).take(READ_BYTES);
        Ok(Lines { from, line: Vec::new() })
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let mut any = false;
        loop {
            let ready = self.from.fill_buf()?;
            if ready.is_empty() {
                return Ok(any.then_some(self.line.as_slice()));
            }
            any = true;
            let end = memchr::memchr(b'\n', ready);
            let piece = &ready[..end.unwrap_or(ready.len())];
            let room = LINE_BYTES.saturating_sub(self.line.len()).min(piece.len());
            self.line.extend_from_slice(&piece[..room]);
            let used = piece.len() + usize::from(end.is_some());
            self.from.consume(used);
            if end.is_some() {
                return Ok(Some(self.line.as_slice()));
            }
        }
    }

    /// Is there more of the file than may be read?
    fn is_cut(&mut self) -> io::Result<bool> {
        Ok(self.from.limit() == 0 && !self.from.get_mut().fill_buf()?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(now: &str, green: &str) -> Option<(u64, String, Option<String>)> {
        let folder = tempfile::tempdir().unwrap();
        let [now, green] = [("now", now), ("green", green)].map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        });
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        first_new_line(&now, &green)
            .unwrap()
            .map(|found| (found.line, text(found.text), found.green.map(text)))
    }

    #[test]
    fn the_line_that_is_new_and_what_stood_there() {
        let green = "collected 3 items\ntest_a PASSED\ntest_b PASSED\n=== 3 passed in 0.12s ===\n";
        let now = "collected 3 items\ntest_a PASSED\ntest_b FAILED\n=== 1 failed in 1.2s ===\n";
        let new = (3, "test_b FAILED".to_owned(), Some("test_b PASSED".to_owned()));
        assert_eq!(compared(now, green), Some(new));
        assert_eq!(compared(green, green), None);
        assert_eq!(compared("", green), None);
        assert_eq!(compared("boom", ""), Some((1, "boom".to_owned(), None)));
        assert_eq!(compared("boom\n", "fine\n"), Some((1, "boom".to_owned(), Some("fine".to_owned()))));
    }

    #[test]
    fn another_order_is_nothing_new() {
        assert_eq!(compared("b ok\na ok\nc ok\n", "a ok\nb ok\nc ok\n"), None);
        // What stood there is told only where it is one line.
        assert_eq!(compared("ok\nbad\n", "ok\nx\nok\ny\n"), Some((2, "bad".to_owned(), None)));
    }

    #[test]
    fn what_varies_is_no_difference() {
        for (now, green) in [
            ("took 1.25s", "took 990ms"),
            ("2026-11-26T20:33:46.123Z start", "2025-01-02T01:02:03.4Z start"),
            ("Thu Nov 26 20:33:46 UTC", "Mon Jan  1 01:02:03 UTC"),
            ("<Thing object at 0x7f3a2c00>", "<Thing object at 0xdeadbe10>"),
            ("wrote /tmp/pytest-of-root/pytest-12/x.log", "wrote /tmp/tmpab_c9/y.log"),
            (
                "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
                "commit 1c002dd4b536e7479fe34593e72e6c6c1819e53b",
            ),
            ("\x1b[32mok\x1b[0m", "ok"),
            ("===== 2 passed =====", "=== 13 passed ==="),
            ("10%\r99%", "3%"),
            ("windows\r", "windows"),
        ] {
            assert_eq!(compared(now, green), None, "{now:?} {green:?}");
        }
        for (now, green) in [("..F.", "...."), ("test_a FAILED", "test_a PASSED"), ("/srv/a", "/srv/b")] {
            assert!(compared(now, green).is_some(), "{now:?} {green:?}");
        }
    }

    #[test]
    fn a_line_without_end_takes_little() {
        let long = "x".repeat(3_000_000);
        assert_eq!(compared(&format!("{long}\nnew"), &long), Some((2, "new".to_owned(), None)));
    }
}
