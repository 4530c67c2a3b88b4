//! The text of the pipedef.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::Task;

pub(super) const FILE: &str = ".bettertest/pipedef.py";

/// Of a line, as most formatters of Python have it.
const WIDTH: usize = 100;

/// `at`: where the project lies in the image, where that is known. `rebuild_on`: of a `Plan`.
pub(super) fn text(image: &str, at: Option<&str>, rebuild_on: &[String], tasks: &[Task]) -> String {
    let source = at.map_or_else(String::new, |at| format!(", source_at=\"{at}\""));
    let mut text = format!(
        "\"\"\"How this project is tested. `bettertest init` wrote it; from now on it is yours.\"\"\"\n\n\
         from bettertest import Stage, build, run\n\n\
         WORKER = \"http://localhost:9009\"\n\
         IMAGE = \"{image}\"\n\n\n\
         class Image(Stage):\n{}\n\n\
         class Tests(Stage):\n",
        task_build(rebuild_on)
    );
    let mut taken = HashSet::new();
    for (index, task) in tasks.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        let name = unlike(&identifier(&task.name), &mut taken);
        let call = call(task, &source);
        write!(text, "{gap}    @staticmethod\n    def task_{name}() -> None:\n{call}\n")
            .expect("a String takes everything");
    }
    text
}

fn call(task: &Task, source: &str) -> String {
    let command = literal(&task.command);
    let Some(only) = &task.only_tests else {
        return format!("        run(WORKER, IMAGE, {command}{source})");
    };
    let call = format!("        run(WORKER, IMAGE, {command}, only_tests={}{source})", literal(only));
    if call.len() <= WIDTH {
        return call;
    }
    let mut words = vec![command, format!("only_tests={}", literal(only))];
    words.extend(source.strip_prefix(", ").map(str::to_owned));
    let lines: String = words.iter().map(|word| format!("            {word},\n")).collect();
    format!("        run(\n            WORKER,\n            IMAGE,\n{lines}        )")
}

fn task_build(rebuild_on: &[String]) -> String {
    let patterns: Vec<String> = rebuild_on.iter().map(|pattern| literal(pattern)).collect();
    let (why, more) = match patterns.join(", ") {
        none if none.is_empty() => ("Any file that the Dockerfile sees makes a new image.", String::new()),
        patterns => (
            "Only these make a new image, or a file that is gone: all others lie over it as they are, by source_at.",
            format!(", rebuild_on=[{patterns}]"),
        ),
    };
    let call = format!("        build(WORKER, IMAGE{more})");
    let call = if call.len() <= WIDTH {
        call
    } else {
        let lines: String = patterns.iter().map(|pattern| format!("                {pattern},\n")).collect();
        format!(
            "        build(\n            WORKER,\n            IMAGE,\n            rebuild_on=[\n{lines}            ],\n        )"
        )
    };
    format!("    @staticmethod\n    def task_build() -> None:\n        # {why}\n{call}\n")
}

/// What Python takes behind `task_`.
fn identifier(name: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = name.chars().map(kept).collect();
    let words: Vec<&str> = name.split('_').filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "tests".to_owned() } else { words.join("_") }
}

fn unlike(name: &str, taken: &mut HashSet<String>) -> String {
    let mut other = name.to_owned();
    let mut count = 2;
    while !taken.insert(other.clone()) {
        other = format!("{name}_{count}");
        count += 1;
    }
    other
}

/// A string as Python reads it: JSON's are, but for nothing that a command can have.
fn literal(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}
