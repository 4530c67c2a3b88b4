//! What an agent has to know, added to the project's AGENTS.md.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use crate::error::SetupError;

pub(super) const FILE: &str = "AGENTS.md";

const SKILL: &str = include_str!("../../../agents/skill.md");

/// Around our part, so that it is found again.
const BEGIN: &str = "<!-- bettertest: begin -->";
const END: &str = "<!-- bettertest: end -->";

/// Answers with a word for what was done, and more of it. Never twice, and what else is there stays.
pub(super) fn add(folder: &Path) -> Result<(&'static str, &'static str), SetupError> {
    let path = folder.join(FILE);
    let cannot = |error: std::io::Error| {
        let what = format!("{} cannot be added to: {error}", path.display());
        SetupError::new(what, "make it a file of text that this user may write")
    };
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(cannot(error)),
    };
    if before.contains(BEGIN) {
        return Ok(("there", "left as it is: it tells of bettertest"));
    }
    let gap = match before.as_str() {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let mut file = OpenOptions::new().append(true).create(true).open(&path).map_err(cannot)?;
    file.write_all(format!("{gap}{BEGIN}\n{SKILL}{END}\n").as_bytes()).map_err(cannot)?;
    Ok(("wrote", "how an agent runs the tests"))
}
