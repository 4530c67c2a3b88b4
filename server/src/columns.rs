//! How much room text takes in a terminal, and what becomes of text that has less. What is here is safe to print
//! already; the only sequences in it select colours, and take no room.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Of text without sequences.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// Cuts the end off, where it does not fit.
pub(crate) fn fit(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    beginning(text, width.saturating_sub(1)) + "…"
}

/// Cuts a name in its middle: names that are much alike differ at their ends.
pub(crate) fn fit_name(name: &str, width: usize) -> String {
    if columns(name) <= width {
        return name.to_owned();
    }
    let left = width.saturating_sub(1) / 2;
    let right = width.saturating_sub(1) - left;
    let backwards: String = name.chars().rev().collect();
    let end: String = beginning(&backwards, right).chars().rev().collect();
    beginning(name, left) + "…" + &end
}

fn beginning(text: &str, width: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    text.chars().take_while(fits).collect()
}

/// Breaks a line into as many as it needs, at most `rows`; each has its colours to itself.
pub(crate) fn fold(line: &str, width: usize, rows: usize) -> Vec<String> {
    let mut left = columns(&without_colours(line));
    let mut folded = Vec::new();
    let (mut row, mut used, mut colours) = (String::new(), 0, String::new());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\x1b' {
            let sequence = format!("\x1b{}m", rest.by_ref().take_while(|c| *c != 'm').collect::<String>());
            row.push_str(&sequence);
            if sequence == "\x1b[0m" {
                colours.clear();
            } else {
                colours.push_str(&sequence);
            }
            continue;
        }
        let needs = c.width().unwrap_or(0);
        let is_last = folded.len() + 1 >= rows;
        let room = if is_last && used + left > width { width.saturating_sub(1) } else { width };
        if used + needs > room {
            if is_last {
                row.push('…');
                break;
            }
            end_row(&mut row, &colours);
            folded.push(std::mem::replace(&mut row, colours.clone()));
            used = 0;
        }
        row.push(c);
        used += needs;
        left = left.saturating_sub(needs);
    }
    end_row(&mut row, &colours);
    folded.push(row);
    folded
}

fn end_row(row: &mut String, colours: &str) {
    if !colours.is_empty() {
        row.push_str("\x1b[0m");
    }
}

fn without_colours(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_fit_is_cut_or_folded() {
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("abcd", 4), "abcd");
        assert_eq!(fit("日本語です", 6), "日本…");
        assert_eq!(fit_name("Stage.case_001_of_many", 11), "Stage…_many");
        assert_eq!(fold("abcdefgh", 3, 9), ["abc", "def", "gh"]);
        assert_eq!(fold("abcdefgh", 3, 2), ["abc", "de…"]);
        assert_eq!(fold("abcdef", 3, 2), ["abc", "def"]);
        assert_eq!(fold("", 3, 2), [""]);
        assert_eq!(fold("\x1b[31mabcd\x1b[0me", 3, 2), ["\x1b[31mabc\x1b[0m", "\x1b[31md\x1b[0me"]);
        assert_eq!(fold("日本語", 3, 5), ["日", "本", "語"]);
    }

    proptest! {
        #[test]
        fn no_row_is_wider_than_it_may_be(text in "(\x1b\\[3[0-7]m|\x1b\\[0m|[a-z日é ]){0,60}", width in 3usize..30, rows in 1usize..5) {
            let folded = fold(&text, width, rows);
            prop_assert!(folded.len() <= rows);
            for row in &folded {
                prop_assert!(columns(&without_colours(row)) <= width, "{row:?}");
            }
            let plain = without_colours(&text);
            prop_assert!(columns(&fit(&plain, width)) <= width && columns(&fit_name(&plain, width)) <= width);
            if !folded.concat().contains('…') {
                prop_assert_eq!(without_colours(&folded.concat()), plain);
            }
        }
    }
}
