//! What a fake container does, read from its command: a small part of what a shell does, and some mishaps.

use bytes::Bytes;
use common::{Command, Stream};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// `echo TEXT`, `print TEXT`; with `>&2`, or as `eprint TEXT`, to stderr; `printf TEXT`; `bytes HEX`; `cat PATH`
    /// of a file of the step's source.
    Print(Stream, Bytes),
    /// `printf TEXT > PATH`: into a file.
    Write(String, Bytes),
    /// `flood N`: so many bytes, in lines.
    Flood(u64),
    /// `sleep SECONDS`.
    Sleep(Duration),
    /// `true`, `false`, and 127 for a word unknown to it: the exit code, unless something follows.
    Status(u8),
    /// `exit N`.
    Exit(u8),
    /// `trap '' TERM`: ignores SIGTERM from here on.
    Trap,
    /// `hang`: ignores SIGKILL too, as a process does that waits for a broken disk.
    Hang,
    /// `oom`: killed for its memory.
    Oom,
    /// `lose`: the container vanishes.
    Lose,
    /// `engine-error`: the engine breaks in the middle.
    EngineError,
    /// `start-error`, anywhere: the engine cannot start it.
    StartError,
}

/// `read`: what there is to `cat`.
pub(super) fn acts(command: &Command, read: &dyn Fn(&str) -> Option<Bytes>) -> Vec<Act> {
    match command {
        Command::Shell(text) => statements(text).iter().map(|words| act(words, read)).collect(),
        Command::Exec(words) => match words.as_slice() {
            [sh, flag, text] if matches!(sh.as_str(), "sh" | "/bin/sh") && flag == "-c" => {
                acts(&Command::Shell(text.clone()), read)
            }
            words => vec![act(words, read)],
        },
        Command::Build { build } => {
            let dockerfile = read(&build.dockerfile).unwrap_or_default();
            let text = String::from_utf8_lossy(&dockerfile);
            let commands = text.lines().filter_map(|line| line.trim().strip_prefix("RUN "));
            commands.flat_map(|command| acts(&Command::Shell(command.to_owned()), read)).collect()
        }
    }
}

fn act(words: &[String], read: &dyn Fn(&str) -> Option<Bytes>) -> Act {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let seconds = |text: &str| Duration::try_from_secs_f64(text.parse().unwrap_or(0.0)).unwrap_or_default();
    match words.as_slice() {
        ["echo" | "print", text @ .., ">&2"] | ["eprint", text @ ..] => {
            Act::Print(Stream::Stderr, line(text))
        }
        ["echo" | "print", text @ ..] => Act::Print(Stream::Stdout, line(text)),
        ["printf", text, ">", path] => Act::Write((*path).to_owned(), unescaped(text)),
        ["printf", text, ">&2"] => Act::Print(Stream::Stderr, unescaped(text)),
        ["printf", text] => Act::Print(Stream::Stdout, unescaped(text)),
        ["bytes", hex] => Act::Print(Stream::Stdout, from_hex(hex)),
        ["cat", path] => read(path).map_or(Act::Status(1), |bytes| Act::Print(Stream::Stdout, bytes)),
        ["flood", count] => Act::Flood(count.parse().unwrap_or(0)),
        ["sleep", time] => Act::Sleep(seconds(time)),
        ["true"] => Act::Status(0),
        ["false"] => Act::Status(1),
        ["exit", code] => Act::Exit(code.parse().unwrap_or(2)),
        ["trap", "", "TERM"] => Act::Trap,
        ["hang"] => Act::Hang,
        ["oom"] => Act::Oom,
        ["lose"] => Act::Lose,
        ["engine-error"] => Act::EngineError,
        ["start-error"] => Act::StartError,
        _ => Act::Status(127),
    }
}

fn line(words: &[&str]) -> Bytes {
    Bytes::from(words.join(" ") + "\n")
}

/// As printf has it: `\n`, `\t`, `\\` and up to three octal digits.
fn unescaped(text: &str) -> Bytes {
    let mut bytes = Vec::new();
    let mut rest = text.bytes().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(digit @ b'0'..=b'7') => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    if let Some(digit) = rest.next_if(|byte| (b'0'..=b'7').contains(byte)) {
                        value = value * 8 + u32::from(digit - b'0');
                    }
                }
                bytes.push(value as u8);
            }
            Some(other) => bytes.push(other),
            None => bytes.push(b'\\'),
        }
    }
    Bytes::from(bytes)
}

fn from_hex(hex: &str) -> Bytes {
    let pairs = hex.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

/// Statements end at `;` and at line ends; quotes hold words together.
fn statements(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in text.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, ';' | '\n') => {
                words.extend(word.take());
                all.push(std::mem::take(&mut words));
            }
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    all.push(words);
    all.retain(|words| !words.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_shell_would() {
        let text = "echo  'a;  b' c >&2; printf '\\101\\n'; trap '' TERM\nsleep 0.5;; nosuch x; exit 3";
        assert_eq!(
            acts(&Command::Shell(text.to_owned()), &|_| None),
            [
                Act::Print(Stream::Stderr, Bytes::from("a;  b c\n")),
                Act::Print(Stream::Stdout, Bytes::from("A\n")),
                Act::Trap,
                Act::Sleep(Duration::from_millis(500)),
                Act::Status(127),
                Act::Exit(3),
            ]
        );
    }
}
