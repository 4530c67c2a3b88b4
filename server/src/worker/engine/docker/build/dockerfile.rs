//! What a Dockerfile says, as far as that has to be known before it is built: which instruction stands on which line,
//! and on which images it builds. Where that cannot be told for certain it says so; Docker alone knows what is right.

use std::collections::{BTreeSet, HashMap};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// In the order in which Docker counts them as steps.
    pub(super) instructions: Vec<Instruction>,
    pub(super) bases: Bases,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Counted from 1.
    pub(super) line: usize,
    /// On one line, whatever it was written on.
    pub(super) text: String,
}

/// The images that it builds upon or copies from, by the names that it has for them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bases {
    Named(BTreeSet<String>),
    /// It names one in a way that is not understood here.
    Unclear,
}

impl Dockerfile {
    pub(super) fn read(bytes: &[u8]) -> Dockerfile {
        let text = String::from_utf8_lossy(bytes);
        let instructions = instructions(text.strip_prefix('\u{feff}').unwrap_or(&text));
        let bases = bases(&instructions).map_or(Bases::Unclear, Bases::Named);
        Dockerfile { instructions, bases }
    }
}

fn instructions(text: &str) -> Vec<Instruction> {
    let escape = escape(text);
    let mut found: Vec<Instruction> = Vec::new();
    let mut goes_on = false;
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        // Also within an instruction; so are empty lines.
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let continued = text.strip_suffix(escape).filter(|rest| !rest.ends_with(escape));
        let part = continued.unwrap_or(text);
        match found.last_mut().filter(|_| goes_on) {
            Some(last) => {
                last.text.push(' ');
                last.text.push_str(part.trim());
            }
            None => found.push(Instruction { line, text: part.trim().to_owned() }),
        }
        goes_on = continued.is_some();
    }
    found
}

/// What a line ends with that goes on: a directive in the first lines may say another.
fn escape(text: &str) -> char {
    let directives = text.lines().map_while(|line| line.trim().strip_prefix('#')?.split_once('='));
    for (name, value) in directives {
        if name.trim().eq_ignore_ascii_case("escape") && value.trim() == "`" {
            return '`';
        }
    }
    '\\'
}

/// None where one cannot be made out.
fn bases(instructions: &[Instruction]) -> Option<BTreeSet<String>> {
    let mut bases = BTreeSet::new();
    let mut stages: Vec<String> = Vec::new();
    let mut arguments: HashMap<String, String> = HashMap::new();
    for Instruction { text, .. } in instructions {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let mut words = rest.split_whitespace();
        match word.to_ascii_uppercase().as_str() {
            // Those after the first FROM belong to a stage, and name no image.
            "ARG" if stages.is_empty() => {
                for word in words {
                    let (name, value) = word.split_once('=').unwrap_or((word, ""));
                    let value = substitute(unquoted(value)?, &arguments)?;
                    arguments.insert(name.to_owned(), value);
                }
            }
            "FROM" => {
                let image = substitute(words.next()?, &arguments)?;
                // A flag, which says that it is to be for another machine.
                if image.starts_with("--") || image.is_empty() {
                    return None;
                }
                let is_stage = stages.contains(&image.to_lowercase());
                if !is_stage && image != "scratch" {
                    bases.insert(image);
                }
                let named = words.next().filter(|word| word.eq_ignore_ascii_case("as"));
                stages.push(named.and_then(|_| words.next()).unwrap_or_default().to_lowercase());
            }
            "COPY" | "ADD" => {
                for flag in words.take_while(|word| word.starts_with("--")) {
                    let Some(from) = flag.strip_prefix("--from=") else { continue };
                    if from.contains(['$', '"', '\'', '\\']) {
                        return None;
                    }
                    let is_stage = stages.contains(&from.to_lowercase()) || from.parse::<usize>().is_ok();
                    if !is_stage {
                        bases.insert(from.to_owned());
                    }
                }
            }
            // Of an image that is built upon this one.
            "ONBUILD" if rest.contains("--from") => return None,
            _ => {}
        }
    }
    Some(bases)
}

fn unquoted(value: &str) -> Option<&str> {
    let within = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    let value = within('"').or_else(|| within('\'')).unwrap_or(value);
    (!value.contains(['"', '\'', '\\'])).then_some(value)
}

/// `$NAME`, `${NAME}`, `${NAME:-otherwise}` and `${NAME:+instead}`.
fn substitute(text: &str, arguments: &HashMap<String, String>) -> Option<String> {
    if text.contains(['"', '\'', '\\']) {
        return None;
    }
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        let (expression, left) = match after.strip_prefix('{') {
            Some(after) => after.split_once('}')?,
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                after.split_at(end.unwrap_or(after.len()))
            }
        };
        let set = |name: &str| arguments.get(name).filter(|value| !value.is_empty());
        let value = match (expression.split_once(":-"), expression.split_once(":+")) {
            (Some((name, otherwise)), _) => {
                set(name).cloned().map_or_else(|| substitute(otherwise, arguments), Some)?
            }
            (None, Some((name, instead))) if set(name).is_some() => substitute(instead, arguments)?,
            (None, Some(_)) => String::new(),
            (None, None) if is_name(expression) => set(expression).cloned().unwrap_or_default(),
            (None, None) => return None,
        };
        whole.push_str(&value);
        rest = left;
    }
    whole.push_str(rest);
    Some(whole)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::{Bases, Dockerfile};

    fn bases(text: &str) -> Bases {
        Dockerfile::read(text.as_bytes()).bases
    }

    fn named(names: &[&str]) -> Bases {
        Bases::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn instructions_stand_where_they_begin() {
        let text = "\u{feff}# syntax=x\n\nFROM a\nRUN one \\\n  # not a part\n\n  two\\\\\nrun  three\n";
        let read = Dockerfile::read(text.as_bytes());
        let found: Vec<(usize, &str)> = read.instructions.iter().map(|i| (i.line, i.text.as_str())).collect();
        assert_eq!(found, [(3, "FROM a"), (4, "RUN one two\\\\"), (8, "run  three")]);
        let read = Dockerfile::read(b"# escape=`\nFROM a\nRUN c:\\ `\n two");
        assert_eq!(read.instructions[1].text, "RUN c:\\ two");
    }

    #[test]
    fn bases_are_what_is_not_made_here() {
        assert_eq!(bases("from python:3-slim AS one\nFROM one\nFROM scratch\n"), named(&["python:3-slim"]));
        let many = "FROM a AS Build\nFROM b\nCOPY --chown=1 --from=build /x /y\nCOPY --from=0 . .\nCOPY --from=c x y";
        assert_eq!(bases(many), named(&["a", "b", "c"]));
        assert_eq!(bases("RUN x"), named(&[]));
    }

    #[test]
    fn arguments_before_the_first_stage_are_put_in() {
        let text = "ARG V=3\nARG TAG=\"$V-slim\"\nFROM python:${TAG}\nARG V=4\nFROM x:$V";
        assert_eq!(bases(text), named(&["python:3-slim", "x:3"]));
        assert_eq!(bases("ARG A\nFROM a${A:-b}${A:+c}"), named(&["ab"]));
        assert_eq!(bases("ARG A=1\nFROM a${A:-b}${A:+c}"), named(&["a1c"]));
    }

    #[test]
    fn what_is_not_understood_is_not_guessed() {
        for text in [
            "FROM --platform=linux/arm64 a",
            "FROM \"a\"",
            "FROM ${A#b}",
            "ARG A=b\\c\nFROM $A",
            "FROM a\nCOPY --from=$x a b",
            "FROM a\nONBUILD COPY --from=b c d",
            "FROM $NOTHING",
            "FROM",
        ] {
            assert_eq!(bases(text), Bases::Unclear, "{text}");
        }
    }
}
