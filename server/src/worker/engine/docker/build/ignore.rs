//! What a `.dockerignore` leaves out, by Docker's rules: of the patterns that match a path or a folder above it the
//! last one decides, and one that begins with `!` lets in. By the same rules `rebuild_on` names files.

use regex::bytes::{Regex, RegexBuilder};
use std::collections::HashMap;

#[derive(Debug, Default)]
pub(super) struct Ignore {
    patterns: Vec<Pattern>,
    /// Which of the patterns match a folder or what is above it, by its path.
    folders: HashMap<Vec<u8>, Vec<bool>>,
}

#[derive(Debug)]
struct Pattern {
    lets_in: bool,
    matches: Regex,
}

impl Ignore {
    /// Fails with the line that is no pattern.
    pub(super) fn read(bytes: &[u8]) -> Result<Ignore, String> {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines();
        let patterns = lines.filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        Ignore::of(patterns, ".dockerignore")
    }

    pub(super) fn of<'a>(patterns: impl Iterator<Item = &'a str>, whose: &str) -> Result<Ignore, String> {
        let read = |text: &str| {
            let (lets_in, pattern) = match text.trim().strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, text.trim()),
            };
            let matches = RegexBuilder::new(&expression(&clean(pattern)?)).size_limit(1 << 20).build();
            Some(Pattern { lets_in, matches: matches.ok()? })
        };
        let patterns =
            patterns.map(|text| read(text).ok_or_else(|| format!("{text:?} in {whose} is no pattern")));
        Ok(Ignore { patterns: patterns.collect::<Result<_, _>>()?, folders: HashMap::new() })
    }

    /// Is the last pattern that has to do with this path one without `!`? `path`: from the root of the context.
    pub(super) fn matches(&mut self, path: &[u8]) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let parent = path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at]);
        let above = parent.map(|parent| self.folder(parent).to_vec());
        let mut left_out = false;
        for (at, pattern) in self.patterns.iter().enumerate() {
            let decides = pattern.lets_in == left_out;
            if decides && (above.as_ref().is_some_and(|above| above[at]) || pattern.matches.is_match(path)) {
                left_out = !pattern.lets_in;
            }
        }
        left_out
    }

    fn folder(&mut self, path: &[u8]) -> &[bool] {
        if !self.folders.contains_key(path) {
            let parent = path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at]);
            let above = parent.map(|parent| self.folder(parent).to_vec());
            let matched = |(at, pattern): (usize, &Pattern)| {
                above.as_ref().is_some_and(|above| above[at]) || pattern.matches.is_match(path)
            };
            let matched = self.patterns.iter().enumerate().map(matched).collect();
            self.folders.insert(path.to_vec(), matched);
        }
        &self.folders[path]
    }
}

/// As Go's `filepath.Clean` has it, and without a slash at its beginning. None for a lone `!`.
pub(super) fn clean(pattern: &str) -> Option<String> {
    if pattern.is_empty() {
        return None;
    }
    let mut names: Vec<&str> = Vec::new();
    for name in pattern.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
            ".." if pattern.starts_with('/') => {}
            name => names.push(name),
        }
    }
    Some(if names.is_empty() { ".".to_owned() } else { names.join("/") })
}

/// `*` and `?` are within a name, `**` is any number of folders.
fn expression(pattern: &str) -> String {
    let mut found = String::from(r"(?s)\A");
    let mut rest = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = rest.next() {
        match c {
            '*' if !in_class && rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                found.push_str(if rest.peek().is_none() { "(?-u:.)*" } else { "(?:(?-u:.)*/)?" });
            }
            '*' if !in_class => found.push_str("(?-u:[^/])*"),
            '?' if !in_class => found.push_str("[^/]"),
            '\\' => match rest.next() {
                Some(c) => found.push_str(&regex::escape(&c.to_string())),
                None => found.push_str(r"\\"),
            },
            '[' if !in_class => {
                in_class = true;
                found.push('[');
                if rest.next_if_eq(&'^').is_some() {
                    found.push('^');
                }
            }
            ']' if in_class => {
                in_class = false;
                found.push(']');
            }
            '-' if in_class => found.push('-'),
            c => found.push_str(&regex::escape(&c.to_string())),
        }
    }
    found + r"\z"
}

#[cfg(test)]
mod tests {
    use super::Ignore;

    fn lets_in(ignore: &str, path: &str) -> bool {
        !Ignore::read(ignore.as_bytes()).unwrap().matches(path.as_bytes())
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for bad in ["!", "a[", "[b-a]", "x/[^]"] {
            let refused = Ignore::read(bad.as_bytes()).unwrap_err();
            assert!(refused.contains(bad), "{refused}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_names_too() {
        let mut ignore = Ignore::read(b"a/*\n").unwrap();
        assert!(ignore.matches(b"a/\xff/\xfe"));
        assert!(!ignore.matches(b"\xff"));
    }

    #[test]
    fn the_last_that_matches_decides() {
        assert!(lets_in("*\n!src\n", "src/a/b.rs"));
        assert!(!lets_in("*\n!src\n", "other"));
        assert!(!lets_in("*\n!src\nsrc/secret*", "src/secret.txt"));
    }
}
