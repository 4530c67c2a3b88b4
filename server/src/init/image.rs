//! The image: its name, and the Dockerfile that makes it.

use std::path::Path;

use super::Plan;

/// Where the project lies in the image.
pub(super) const AT: &str = "/app";

/// None of it is part of a project, and some of it is large.
pub(super) const IGNORED: &str = "\
.git
.bettertest
**/.venv
**/venv
**/__pycache__
**/.tox
**/.mypy_cache
**/.pytest_cache
**/node_modules
**/target
";

/// `My Shop` in a folder of that name is `my-shop-test`.
pub(super) fn name(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let words: Vec<&str> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "project-test".to_owned() } else { format!("{}-test", words.join("-")) }
}

pub(super) fn dockerfile(plan: &Plan) -> String {
    format!("FROM {}\nWORKDIR {AT}\n{}\n", plan.from, plan.steps.join("\n"))
}
