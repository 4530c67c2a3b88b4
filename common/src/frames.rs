//! The places of a source that a failure's stack goes through, as test runners print them: `file.py:7: in f`,
//! `File "file.py", line 7, in f`, `at f (file.js:7:3)`, `at ./src/lib.rs:7:5`, `file_test.go:7:`. What is a place is taken from the
//! text; which of them lie in the source, only who has its files can say.

/// Of one test so many say where it is.
pub const FRAMES_TOLD: usize = 5;

/// A name that is longer says nothing more.
const LONGEST_NAME: usize = 80;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// As it stands in the text.
    pub path: String,
    pub line: u64,
    /// The function, where the runner names it.
    pub within: Option<String>,
}

/// All places, the one where it happened first.
pub fn frames(stack: &str) -> Vec<Frame> {
    let mut found: Vec<Frame> = Vec::new();
    let mut before = "";
    // Of the function whose text pytest prints above a place.
    let mut defined: Option<&str> = None;
    for line in stack.lines() {
        if let Some(name) = def(line) {
            defined = defined.or(Some(name));
        } else if !is_quoted(line)
            && let Some((path, number, rest)) = place(line)
        {
            let within = named(line, before, rest).or_else(|| defined.take());
            let within = within.filter(|name| !name.is_empty() && name.len() <= LONGEST_NAME);
            let frame = Frame { path: path.to_owned(), line: number, within: within.map(str::to_owned) };
            if !found.iter().any(|known| (&known.path, known.line) == (&frame.path, frame.line)) {
                found.push(frame);
            }
            defined = None;
        }
        before = line;
    }
    // Python tells of the innermost call last, all others first.
    if found.iter().any(|frame| frame.path.ends_with(".py")) {
        found.reverse();
    }
    found
}

/// `def name(`, as pytest shows the text of a function.
fn def(line: &str) -> Option<&str> {
    let text = line.strip_prefix('>').unwrap_or(line).trim_start();
    let text = text.strip_prefix("async ").unwrap_or(text).strip_prefix("def ")?;
    text.split_once('(').map(|(name, _)| name)
}

/// Text of a file, or what an assertion says: a place in there is no place of the stack.
fn is_quoted(line: &str) -> bool {
    let text = line.trim_start();
    let numbered = text.strip_prefix('>').unwrap_or(text).trim_start();
    let numbered = numbered.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().starts_with('|');
    numbered || line.starts_with("E  ") || line.starts_with('>')
}

/// The first place in a line: its path, its line, and what comes after.
fn place(line: &str) -> Option<(&str, u64, &str)> {
    if let Some((path, rest)) =
        line.trim_start().strip_prefix("File \"").and_then(|rest| rest.split_once('"'))
    {
        let (number, rest) = digits(rest.strip_prefix(", line ")?)?;
        return Some((path, number, rest));
    }
    for (at, _) in line.match_indices(':') {
        let Some((number, rest)) = digits(&line[at + 1..]) else { continue };
        if rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '/')) {
            continue;
        }
        let before = |c: char| c.is_whitespace() || "()[]{}<>\"'`,;|=".contains(c);
        let begins = line[..at].char_indices().rev().find(|(_, c)| before(*c));
        let begins = begins.map_or(0, |(place, c)| place + c.len_utf8());
        if !leads_to_place(line[..begins].trim_end()) {
            continue;
        }
        let path = &line[begins..at];
        let path = path.strip_prefix("file://").unwrap_or(path);
        let name = path.rsplit('/').next().unwrap_or(path);
        let end = name.rsplit_once('.').map_or("", |(_, end)| end);
        if end.starts_with(|c: char| c.is_ascii_alphabetic()) && !path.contains(':') {
            return Some((path, number, rest));
        }
    }
    None
}

/// A place stands first in its line, or after one of these. Elsewhere it is a word of a sentence, or of a program.
fn leads_to_place(before: &str) -> bool {
    let word = before.rsplit(char::is_whitespace).next().unwrap_or(before);
    matches!(word, "" | "at" | "async" | "❯" | "(")
}

fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// The function that a line, or the one before it, names beside a place.
fn named<'a>(line: &'a str, before: &'a str, rest: &'a str) -> Option<&'a str> {
    // Python.
    if let Some((_, name)) = rest.split_once(" in ").filter(|(between, _)| matches!(*between, "," | ":")) {
        return Some(name.trim());
    }
    if let Some(called) = line.trim_start().strip_prefix("at ") {
        // JavaScript, and cargo with RUST_BACKTRACE, whose name stands in the line above.
        return match called.split_once(" (") {
            Some((name, _)) => {
                Some(name.strip_prefix("async ").unwrap_or(name)).filter(|name| !name.contains('<'))
            }
            None => {
                let (number, name) = before.trim_start().split_once(": ")?;
                number.bytes().all(|byte| byte.is_ascii_digit()).then_some(name.trim())
            }
        };
    }
    // Go, where it panicked.
    if line.starts_with('\t') && rest.contains(" +0x") {
        return before.rsplit_once('(').map(|(name, _)| name);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(stack: &str) -> Vec<String> {
        let told = |frame: &Frame| match &frame.within {
            Some(name) => format!("{}:{} in {name}", frame.path, frame.line),
            None => format!("{}:{}", frame.path, frame.line),
        };
        frames(stack).iter().map(told).collect()
    }

    #[test]
    fn python() {
        let long = "\
    def test_parse():
>       parse('x')

test_a.py:7: 
_ _ _ _ _ _ _ _ _

text = 'x'

    def parse(text):
        \"\"\"see other.py:3 for more\"\"\"
>       return deeper(text)

src/click/core.py:123: 
_ _ _ _ _
/usr/lib/python3.11/json/decoder.py:355: in raw_decode
    raise JSONDecodeError(\"x\", s, err.value)
E   ValueError: no x at elsewhere.py:9

src/click/deep.py:5: ValueError";
        assert_eq!(
            told(long),
            [
                "src/click/deep.py:5",
                "/usr/lib/python3.11/json/decoder.py:355 in raw_decode",
                "src/click/core.py:123 in parse",
                "test_a.py:7 in test_parse",
            ]
        );
        let short = "Traceback (most recent call last):\n  File \"/app/case.py\", line 8, in test_described\n    \
                     raise KeyError(\"five\")\n  File \"/app/of one.py\", line 2, in <lambda>\nKeyError: 'five'";
        assert_eq!(told(short), ["/app/of one.py:2 in <lambda>", "/app/case.py:8 in test_described"]);
    }

    #[test]
    fn javascript() {
        let stack = "AssertionError: at 12:30:05 it was http://localhost:80/x.js:1\n      at Object.toEqual (a.test.js:2:38)\n    \
                     at async Promise.all (index 0)\n    at load (file:///app/src/load.mjs:7:1)\n    at /app/src/b.ts:3:9\n    \
                     at Test.run (node:internal/test_runner/test:796:25)\n    > 3 | x.js:9:1\n ❯ v.test.mjs:3:38";
        assert_eq!(
            told(stack),
            [
                "a.test.js:2 in Object.toEqual",
                "/app/src/load.mjs:7 in load",
                "/app/src/b.ts:3",
                "v.test.mjs:3"
            ]
        );
    }

    #[test]
    fn rust_and_go() {
        let stack = "thread 'tests::bad' (21748) panicked at src/lib.rs:8:45:\nassertion failed\nstack backtrace:\n   \
                     2: core::panicking::panic_fmt\n             at /rustc/598/library/core/src/panicking.rs:80:14\n   \
                     4: sums::tests::bad\n             at ./src/lib.rs:9:45";
        assert_eq!(
            told(stack),
            [
                "src/lib.rs:8",
                "/rustc/598/library/core/src/panicking.rs:80 in core::panicking::panic_fmt",
                "./src/lib.rs:9 in sums::tests::bad"
            ]
        );
        let go = "    sums_test.go:6: got 2, wanted 3\npanic: oh [recovered]\ngoroutine 7 [running]:\n\
                  example.org/sums.(*Sum).Add(0xc000)\n\t/app/sums.go:12 +0x1d";
        assert_eq!(told(go), ["sums_test.go:6", "/app/sums.go:12 in example.org/sums.(*Sum).Add"]);
    }
}
