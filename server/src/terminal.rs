//! Untrusted output in a terminal: text and colours pass, nothing else that a terminal would obey.

use std::io::IsTerminal as _;
use vte::{Params, Parser, Perform};

/// Are colours written?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Colours,
    Text,
}

/// Does a person read what is printed, as it is printed?
pub(crate) fn is_stdout() -> bool {
    std::io::stdout().is_terminal()
}

/// Does a person type what is read?
pub(crate) fn is_stdin() -> bool {
    std::io::stdin().is_terminal()
}

impl Paint {
    /// `code` selects a colour or a weight.
    pub(crate) fn sgr(self, code: &str, text: &str) -> String {
        match self {
            Paint::Colours => format!("\x1b[{code}m{text}\x1b[0m"),
            Paint::Text => text.to_owned(),
        }
    }
}

/// The last `lines` lines of some output, made safe. Progress bars show their last state. Colours are kept only
/// where `colours` says so, and do not leak beyond their line.
pub(crate) fn tail(bytes: &[u8], lines: usize, colours: bool) -> Vec<String> {
    let mut screen = Screen { colours, ..Screen::default() };
    screen.read(bytes);
    screen.tail(lines)
}

/// The same without colours, for readers that take a character for what it is: those that nobody sees are named.
pub(crate) fn shown_tail(bytes: &[u8], lines: usize) -> Vec<String> {
    let mut screen = Screen { names_hidden: true, ..Screen::default() };
    screen.read(bytes);
    screen.tail(lines)
}

/// Foreign words in a line of ours: text alone, on one line.
pub(crate) fn plain(text: &str) -> String {
    tail(text.as_bytes(), usize::MAX, false).join(" ")
}

/// A line of JSON as it is, but for characters that a terminal obeys: these are escaped, as JSON may.
pub(crate) fn json(line: &str) -> String {
    let mut safe = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_control() || turns(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Characters that turn the direction of text around could make one line read like another.
fn turns(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Characters that are there and not seen. They could say to a program what no person reads.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[derive(Default)]
struct Screen {
    colours: bool,
    /// A hidden character is written as its number.
    names_hidden: bool,
    lines: Vec<String>,
    line: String,
    /// A carriage return came: the next character begins the line anew.
    returned: bool,
    coloured: bool,
}

/// A line longer than this is cut: nobody reads on, and a terminal has to wrap it.
const LONGEST_LINE: usize = 2000;

impl Screen {
    fn read(&mut self, bytes: &[u8]) {
        Parser::new().advance(self, bytes);
        if !self.line.is_empty() {
            self.end_line();
        }
    }

    fn tail(mut self, lines: usize) -> Vec<String> {
        while self.lines.last().is_some_and(|line| line.trim().is_empty()) {
            self.lines.pop();
        }
        let from = self.lines.len().saturating_sub(lines);
        self.lines.split_off(from)
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.coloured) {
            line.push_str("\x1b[0m");
        }
        self.returned = false;
        self.lines.push(line);
    }
}

impl Perform for Screen {
    fn print(&mut self, c: char) {
        if std::mem::take(&mut self.returned) {
            self.line.clear();
            self.coloured = false;
        }
        if self.line.len() >= LONGEST_LINE {
            return;
        }
        let hidden = turns(c) || c.is_control() || (self.names_hidden && is_hidden(c));
        // This one only makes an emoji of a sign.
        if hidden && self.names_hidden && c != '\u{fe0f}' {
            self.line.push_str(&format!("<U+{:04X}>", u32::from(c)));
        } else if !hidden {
            self.line.push(c);
        }
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => self.returned = true,
            b'\t' => self.print(' '),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], _ignore: bool, action: char) {
        if action != 'm' || !intermediates.is_empty() || !self.colours || self.line.len() >= LONGEST_LINE {
            return;
        }
        let text: Vec<String> = (params.iter())
            .map(|param| param.iter().map(u16::to_string).collect::<Vec<_>>().join(":"))
            .collect();
        self.line.push_str(&format!("\x1b[{}m", text.join(";")));
        self.coloured = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_pass_and_nothing_else() {
        let hostile = b"\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m\x1b]52;c;AAAA\x1b\\ \xe2\x80\xaeend\nbar 1%\rbar 99%\n\n";
        assert_eq!(tail(hostile, 9, true), ["\x1b[31mred\x1b[0m end\x1b[0m", "bar 99%"]);
        assert_eq!(tail(hostile, 9, false), ["red end", "bar 99%"]);
        assert_eq!(tail(hostile, 1, false), ["bar 99%"]);
        assert_eq!(tail(b"no newline", 3, false), ["no newline"]);
    }

    #[test]
    fn what_nobody_sees_is_named() {
        let hostile = "a\u{202e}b\u{200b}c\u{e0041}d \x1b[31mred\x1b]0;title\x07 \u{2714}\u{fe0f}\n\n";
        assert_eq!(shown_tail(hostile.as_bytes(), 3), ["a<U+202E>b<U+200B>c<U+E0041>d red \u{2714}"]);
    }

    #[test]
    fn json_stays_json() {
        let said = "a\u{9b}31m\u{7f}\u{85}\u{202e}b\u{2028}é";
        let line = serde_json::json!({ "said": said }).to_string();
        let safe = json(&line);
        assert!(!safe.contains(['\u{9b}', '\u{7f}', '\u{85}', '\u{202e}']), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap()["said"], said);
    }

    /// Bytes among which sequences are likely.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "\x1b\\[[0-9:;<=>?]{0,9}[ -/]{0,2}[@-~]".prop_map(String::into_bytes),
            "\x1b[]P_^X][0-9;a-z]{0,9}(\x07|\x1b\\\\|)".prop_map(String::into_bytes),
            "[\u{80}-\u{9f}][0-9;]{0,4}[a-z]".prop_map(String::into_bytes),
            "[a-z\u{202e}\u{2066}\r\n\t]{0,5}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..5),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    /// Takes out what selects colours and weights.
    fn without_sgr(line: &str) -> String {
        let mut rest = String::new();
        let mut parts = line.split("\x1b[");
        rest.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let end = part.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ';' | ':'));
            rest.push_str(end.strip_prefix('m').unwrap_or("\x1b"));
        }
        rest
    }

    proptest! {
        #[test]
        fn colours_are_all_that_gets_through(hostile in hostile()) {
            for line in tail(&hostile, 1000, true) {
                prop_assert!(!without_sgr(&line).chars().any(|c| c.is_control() || turns(c)), "{:?}", line);
                prop_assert!(line.len() < LONGEST_LINE + 500, "{} bytes", line.len());
            }
        }

        #[test]
        fn no_byte_gets_through_that_a_terminal_obeys(noise in prop::collection::vec(any::<u8>(), 0..400)) {
            for line in tail(&noise, 1000, false) {
                prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
            }
        }
    }
}
