//! What a terminal program prints, as lines of styled text: incremental, and the same lines however the bytes are
//! cut into chunks.
//!
//! It keeps colours and weights (SGR), shows of a line that was redrawn by CR only its last state, and drops every
//! other escape sequence. It is no terminal: no cursor moves, no screen. Text it makes is only ever text.

/// A line this long is cut; how much was left out is counted. The stored output has all of it.
const LONGEST_LINE_BYTES: usize = 1024 * 1024;
/// More parameter bytes than any real SGR sequence has: the rest of such a sequence is dropped.
const MOST_PARAMETER_BYTES: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Colour {
    #[default]
    Plain,
    /// One of the 16 that have names; what they look like is the style sheet's.
    Named(u8),
    Rgb(u8, u8, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Style {
    pub ink: Colour,
    pub paper: Colour,
    pub bold: bool,
    pub dim: bool,
    pub italic: bool,
    pub underline: bool,
    pub strike: bool,
    pub reverse: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Byte position in the line's text, where this style ends and the next begins.
    pub end: u32,
    pub style: Style,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line {
    /// Where in the output its first byte stands.
    pub offset: u64,
    pub text: String,
    /// From the beginning; what follows the last one is plain.
    pub spans: Vec<Span>,
    /// What did not fit into `LONGEST_LINE_BYTES`.
    pub left_out_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// Between ESC and its last byte, as in `ESC ( B`.
    EscapeMiddle,
    Csi,
    /// Inside OSC, DCS, SOS, PM or APC, until BEL or ST.
    Text,
    /// An ESC in there: `\` makes it ST.
    TextEscape,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Ansi {
    state: State,
    parameters: Vec<u8>,
    style: Style,
    /// The beginning of a character whose rest has not come yet.
    carry: Vec<u8>,
    /// Bytes taken so far, those in `carry` included.
    position: u64,
    line: Line,
    /// A CR came: whatever is printed next replaces the line.
    redraw: bool,
}

impl Ansi {
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The line that has not ended yet.
    pub(crate) fn unfinished(&self) -> &Line {
        &self.line
    }

    /// Takes the next bytes of the output and gives each line that they end to `ended`.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut ended: impl FnMut(Line)) {
        let start = self.position - self.carry.len() as u64;
        self.position += bytes.len() as u64;
        let joined;
        let bytes = if self.carry.is_empty() {
            bytes
        } else {
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(bytes);
            joined = carry;
            &joined
        };
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            if byte == b'\n' {
                // Whatever sequence was open: text is never swallowed past the end of its line.
                self.state = State::Ground;
                self.redraw = false;
                at += 1;
                let next = Line { offset: start + at as u64, ..Line::default() };
                ended(std::mem::replace(&mut self.line, next));
            } else if self.state == State::Ground {
                at += self.ground(&bytes[at..]);
            } else if self.sequence(byte) {
                at += 1;
            }
        }
    }

    /// The output is over: half a character stays half.
    pub(crate) fn finish(&mut self) {
        if !self.carry.is_empty() {
            self.carry.clear();
            self.print("\u{FFFD}");
        }
    }

    /// Text up to the next control character, or one of these. How many bytes it has used up.
    fn ground(&mut self, bytes: &[u8]) -> usize {
        let is_control = |byte: &u8| *byte < 0x20 && *byte != b'\t' || *byte == 0x7F;
        let length = bytes.iter().position(is_control).unwrap_or(bytes.len());
        if length == 0 {
            match bytes[0] {
                0x1B => self.state = State::Escape,
                b'\r' => self.redraw = true,
                0x08 => self.line.backspace(),
                _ => {}
            }
            return 1;
        }
        for part in bytes[..length].utf8_chunks() {
            self.print_harmless(part.valid());
            let broken = part.invalid();
            let at_end = length == bytes.len() && broken.as_ptr_range().end == bytes.as_ptr_range().end;
            if at_end && std::str::from_utf8(broken).is_err_and(|error| error.error_len().is_none()) {
                self.carry = broken.to_vec();
            } else if !broken.is_empty() {
                self.print("\u{FFFD}");
            }
        }
        length
    }

    fn print_harmless(&mut self, text: &str) {
        if text.is_ascii() {
            self.print(text);
        } else {
            text.split(is_obeyed).for_each(|part| self.print(part));
        }
    }

    fn print(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if std::mem::take(&mut self.redraw) {
            self.line = Line { offset: self.line.offset, ..Line::default() };
        }
        self.line.push(text, self.style);
    }

    /// One byte inside an escape sequence. False where it is not part of it: the sequence is over then.
    fn sequence(&mut self, byte: u8) -> bool {
        let (next, taken) = match (self.state, byte) {
            (State::Text, 0x1B) => (State::TextEscape, true),
            (State::Text, 0x07 | 0x18 | 0x1A) | (State::TextEscape, b'\\') => (State::Ground, true),
            (State::Text, _) => (State::Text, true),
            (State::TextEscape, 0x1B) => (State::TextEscape, true),
            (State::TextEscape, _) => (State::Text, true),
            (_, 0x1B) => (State::Escape, true),
            (State::Escape, b'[') => {
                self.parameters.clear();
                (State::Csi, true)
            }
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (State::Text, true),
            (State::Escape | State::EscapeMiddle, 0x20..=0x2F) => (State::EscapeMiddle, true),
            (State::Escape | State::EscapeMiddle, 0x30..=0x7E) => (State::Ground, true),
            (State::Csi, 0x20..=0x3F) => {
                if self.parameters.len() < MOST_PARAMETER_BYTES {
                    self.parameters.push(byte);
                }
                (State::Csi, true)
            }
            (State::Csi, 0x40..=0x7E) => {
                if byte == b'm' {
                    self.style.select(&self.parameters);
                }
                (State::Ground, true)
            }
            (State::Ground | State::Escape | State::EscapeMiddle | State::Csi, _) => (State::Ground, false),
        };
        self.state = next;
        taken
    }
}

/// Control characters of eight bits, and those that turn the direction of text around, which could make one line
/// read like another.
fn is_obeyed(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9f}' | '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}')
}

impl Line {
    /// Each piece of the text with its style, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (&str, Style)> {
        let last = Span { end: self.text.len() as u32, style: Style::default() };
        self.spans.iter().copied().chain([last]).scan(0, |begin, span| {
            let piece = &self.text[*begin..span.end as usize];
            *begin = span.end as usize;
            Some((piece, span.style))
        })
    }

    fn push(&mut self, text: &str, style: Style) {
        let mut fits = text.len().min(LONGEST_LINE_BYTES.saturating_sub(self.text.len()));
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        // Once something was left out, nothing shorter may slip in behind it.
        if self.left_out_bytes > 0 {
            fits = 0;
        }
        self.left_out_bytes += (text.len() - fits) as u64;
        if fits == 0 {
            return;
        }
        let styled_to = self.spans.last().map_or(0, |span| span.end);
        let begin = self.text.len() as u32;
        self.text.push_str(&text[..fits]);
        let end = self.text.len() as u32;
        match self.spans.last_mut() {
            Some(last) if last.style == style && last.end == begin => last.end = end,
            _ if style == Style::default() => {}
            _ => {
                if styled_to < begin {
                    self.spans.push(Span { end: begin, style: Style::default() });
                }
                self.spans.push(Span { end, style });
            }
        }
    }

    fn backspace(&mut self) {
        self.text.pop();
        let end = self.text.len() as u32;
        while self.spans.last().is_some_and(|span| span.end > end) {
            let before = self.spans.len().checked_sub(2).map_or(0, |i| self.spans[i].end);
            match self.spans.last_mut() {
                Some(last) if before < end => last.end = end,
                _ => drop(self.spans.pop()),
            }
        }
    }
}

impl Style {
    /// What an SGR sequence selects. What it does not know it skips.
    fn select(&mut self, parameters: &[u8]) {
        let Ok(text) = std::str::from_utf8(parameters) else { return };
        if text.contains(|c: char| !c.is_ascii_digit() && c != ';' && c != ':') {
            return;
        }
        let mut groups = text.split(';');
        while let Some(group) = groups.next() {
            let mut parts = group.split(':');
            let code = number(parts.next());
            match code {
                38 | 48 => {
                    let colour = if group.contains(':') {
                        // `38:2::R:G:B` has a colour space before R, `38:2:R:G:B` has none.
                        let parts: Vec<&str> = parts.collect();
                        let skip = usize::from(parts.first() == Some(&"2") && parts.len() > 4);
                        Colour::read(&mut parts[..1].iter().chain(&parts[1 + skip..]).copied())
                    } else {
                        Colour::read(&mut groups)
                    };
                    if let Some(colour) = colour {
                        *(if code == 38 { &mut self.ink } else { &mut self.paper }) = colour;
                    }
                }
                _ => self.select_one(code, number(parts.next().or(Some("1")))),
            }
        }
    }

    fn select_one(&mut self, code: u16, detail: u16) {
        match code {
            0 => *self = Style::default(),
            1 => self.bold = true,
            2 => self.dim = true,
            3 => self.italic = true,
            4 => self.underline = detail != 0,
            7 => self.reverse = true,
            9 => self.strike = true,
            21 => self.underline = true,
            22 => (self.bold, self.dim) = (false, false),
            23 => self.italic = false,
            24 => self.underline = false,
            27 => self.reverse = false,
            29 => self.strike = false,
            30..=37 => self.ink = Colour::Named(code as u8 - 30),
            39 => self.ink = Colour::Plain,
            40..=47 => self.paper = Colour::Named(code as u8 - 40),
            49 => self.paper = Colour::Plain,
            90..=97 => self.ink = Colour::Named(code as u8 - 90 + 8),
            100..=107 => self.paper = Colour::Named(code as u8 - 100 + 8),
            _ => {}
        }
    }
}

impl Colour {
    /// What follows 38 or 48: `5;N` or `2;R;G;B`.
    fn read<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Option<Colour> {
        let mut next = || u8::try_from(number(parts.next())).ok();
        match next()? {
            5 => Some(Colour::of_256(next()?)),
            2 => Some(Colour::Rgb(next()?, next()?, next()?)),
            _ => None,
        }
    }

    /// The palette of 256: 16 with names, a cube of 6 x 6 x 6, and 24 greys.
    fn of_256(n: u8) -> Colour {
        let level = |l: u8| if l == 0 { 0 } else { 55 + 40 * l };
        match n {
            0..=15 => Colour::Named(n),
            16..=231 => Colour::Rgb(level((n - 16) / 36), level((n - 16) / 6 % 6), level((n - 16) % 6)),
            232..=255 => Colour::Rgb(8 + 10 * (n - 232), 8 + 10 * (n - 232), 8 + 10 * (n - 232)),
        }
    }
}

/// A parameter left empty means 0; one too large means something that nobody knows.
fn number(part: Option<&str>) -> u16 {
    match part {
        None | Some("") => 0,
        Some(digits) => digits.parse().unwrap_or(u16::MAX),
    }
}
