//! Running some tests only, those that had failed: what is wanted of each task, and the command that its runner takes for it.
//! A runner may run more than it was asked for; where it would run less, there is no such command.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::runner::{LONGEST_NAME, Runner};
use crate::{StepId, TaskId};

/// What stands in a template for the names, as words of a shell, and as one regular expression.
const WORDS: &str = "{tests}";
const REGEX: &str = "{tests:regex}";

/// Of more tests than these a list is no shorter than all of it.
const MOST_TESTS: usize = 200;

/// Of one argument the kernel takes four times as much.
const LONGEST_COMMAND: usize = 32 * 1024;

/// What a re-run of failed tests comes to for one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskAgain {
    pub task: TaskId,
    /// The steps of which only some tests are run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<OnlyTests>,
    /// Why all of the task is run, where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
}

/// Some tests of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OnlyTests {
    /// Where an earlier attempt had asked for all of them.
    pub step: StepId,
    pub runner: Runner,
    /// As their runner calls them.
    pub tests: Vec<String>,
    /// Of so many.
    pub of: u64,
}

/// How many tests are run alone, and of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SomeTests {
    pub tests: u64,
    pub of: u64,
}

impl TaskAgain {
    /// `3 of 589 tests`, or `all of it: it has no only_tests: make test`.
    pub fn words(&self) -> String {
        match (SomeTests::of(self.steps.iter()), &self.whole) {
            (Some(some), _) => some.words(),
            (None, Some(why)) => format!("all of it: {why}"),
            (None, None) => "all of it".to_owned(),
        }
    }
}

impl SomeTests {
    pub fn of<'a>(steps: impl Iterator<Item = &'a OnlyTests>) -> Option<SomeTests> {
        let counts = steps.map(|only| (only.tests.len() as u64, only.of));
        let (tests, of) = counts.reduce(|(tests, of), (more, of_more)| (tests + more, of + of_more))?;
        Some(SomeTests { tests, of })
    }

    /// `3 of 589 tests`. Not every runner says how many there are.
    pub fn words(self) -> String {
        let s = if self.tests == 1 { "" } else { "s" };
        match self.of > self.tests {
            true => format!("{} of {} tests", self.tests, self.of),
            false => format!("{} test{s}", self.tests),
        }
    }
}

pub(crate) fn wrong_template(template: &str) -> Option<&'static str> {
    match (template.contains(WORDS), template.contains(REGEX)) {
        (true, false) | (false, true) => None,
        (true, true) => Some("has to have {tests} or {tests:regex} in it, and not both"),
        (false, false) => Some(
            "has to have {tests} in it, which becomes the names of tests, or {tests:regex}, which becomes one regular \
             expression that matches them",
        ),
    }
}

/// The command that runs these tests, or why there is none.
pub fn command_for(template: &str, runner: Runner, tests: &[String]) -> Result<String, String> {
    if tests.len() > MOST_TESTS {
        return Err(format!("more than {MOST_TESTS} tests failed"));
    }
    // A name that is shown is not always the whole name.
    let is_whole = |name: &&String| name.len() < LONGEST_NAME && !name.contains(char::is_control);
    if let Some(name) = tests.iter().find(|name| !is_whole(name)) {
        return Err(format!("a test has no name that it could be asked for by: {}", short(name)));
    }
    let (placeholder, asked) = match runner {
        Runner::Pytest | Runner::Unittest | Runner::Cargo => (WORDS, words(runner, tests)?),
        Runner::Go => (REGEX, quoted(&go(tests)?)),
        Runner::Javascript | Runner::Tap => (REGEX, quoted(&nested(tests))),
    };
    if !template.contains(placeholder) {
        return Err(format!("its runner takes names by {placeholder}, which its only_tests does not have"));
    }
    let command = template.replace(placeholder, &asked);
    if command.len() > LONGEST_COMMAND {
        return Err(format!(
            "with the names of all that failed the command has more than {LONGEST_COMMAND} bytes"
        ));
    }
    Ok(command)
}

fn words(runner: Runner, tests: &[String]) -> Result<String, String> {
    let mut words = BTreeSet::new();
    for name in tests {
        let word = match runner {
            Runner::Cargo => cargo(name)?,
            Runner::Unittest => unittest(name),
            Runner::Pytest | Runner::Go | Runner::Javascript | Runner::Tap => name,
        };
        if word.is_empty() || word.starts_with('-') {
            return Err(format!("a test has no name that it could be asked for by: {}", short(name)));
        }
        words.insert(quoted(word));
    }
    Ok(words.into_iter().collect::<Vec<_>>().join(" "))
}

/// nextest names a test behind its binary.
fn cargo(name: &str) -> Result<&str, String> {
    match name.split(' ').collect::<Vec<_>>().as_slice() {
        [_] => Ok(name),
        [_, test] => Ok(test),
        // rustdoc takes a filter to pieces at its blanks, and then none fits.
        _ => Err(format!("a test of the documentation cannot be asked for alone: {}", short(name))),
    }
}

/// Without the parameters of a subtest; of what prepares a class or a module, that; of what cannot be imported, that.
fn unittest(name: &str) -> &str {
    let name = name.split(' ').next().unwrap_or(name);
    let name = name.strip_prefix("unittest.loader._FailedTest.").unwrap_or(name);
    ["setUpClass", "tearDownClass", "setUpModule", "tearDownModule"]
        .iter()
        .find_map(|prepares| name.strip_suffix(prepares)?.strip_suffix('.'))
        .unwrap_or(name)
}

/// `example.com/shop.TestA/case` runs with all of `TestA`, in each package that has one. A package may have points itself.
fn go(tests: &[String]) -> Result<String, String> {
    let mut tops = BTreeSet::new();
    for name in tests {
        let points = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
        let mut found = false;
        for rest in
            points.filter(|rest| ["Test", "Example", "Fuzz"].iter().any(|word| rest.starts_with(word)))
        {
            tops.insert(escaped(rest.split('/').next().unwrap_or(rest)));
            found = true;
        }
        if !found {
            return Err(format!("it is no test that failed, but {}", short(name)));
        }
    }
    Ok(format!("^({})$", tops.into_iter().collect::<Vec<_>>().join("|")))
}

/// `suite > case`. Runners match a test by its name with those of all its suites, joined by blanks. Node 20 matches each
/// name alone, and goes into a test that has tests in it only where that matches.
fn nested(tests: &[String]) -> String {
    let (mut whole, mut parts) = (BTreeSet::new(), BTreeSet::new());
    for name in tests {
        whole.insert(escaped(name).replace(" > ", "( > | )"));
        // A name may have such a mark of its own, so that all that could be one are taken.
        let marks: Vec<usize> = name.match_indices(" > ").map(|(at, _)| at).collect();
        let begins = std::iter::once(0).chain(marks.iter().map(|at| at + 3));
        for begin in begins {
            let ends = marks.iter().copied().chain([name.len()]).filter(|end| *end > begin);
            parts.extend(ends.map(|end| escaped(&name[begin..end])));
        }
    }
    let any = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join("|");
    format!("(^| )({})$|^({})$", any(whole), any(parts))
}

/// For the expressions of Go and of JavaScript alike.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,@%+".contains(c);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn short(name: &str) -> String {
    let name: String = name.chars().filter(|letter| !letter.is_control()).collect();
    match name.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}
