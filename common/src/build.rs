//! An image that is to be made: which Dockerfile, of which files. The image's name is that of the step's spec.

use serde::{Deserialize, Serialize};

use crate::{SpecProblem, TreeId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// The source, of which the image is made.
    pub tree: TreeId,
    /// Path of the Dockerfile, from the root of the source.
    pub dockerfile: String,
    /// The folder, from the root of the source, that the Dockerfile sees; `.` is all of it.
    pub context: String,
    /// Which files of the context, by patterns as a `.dockerignore` has them, are a reason to make the image anew when
    /// they change. Without it all are. What else was copied is in the image as it was, so that a step on it has to
    /// have the source over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild_on: Option<Vec<String>>,
}

impl Build {
    const LONGEST_PATH: usize = 4096;
    const MOST_PATTERNS: usize = 200;

    /// As a person would have it done by hand.
    pub fn for_show(&self) -> String {
        format!("docker build -f {} {}", self.dockerfile, self.context)
    }

    /// What JSON's types cannot say.
    pub fn check(&self) -> Result<(), SpecProblem> {
        for (name, path) in [("dockerfile", &self.dockerfile), ("context", &self.context)] {
            let wrong = if path.is_empty() {
                "is empty"
            } else if path.starts_with('/') {
                "has to be a path from the root of the source, not an absolute one"
            } else if path.split('/').any(|name| name == "..") {
                "has to stay within the source, without .. in it"
            } else if path.len() > Self::LONGEST_PATH || path.contains(|c: char| c.is_control()) {
                "is no path: it is too long, or has a control character in it"
            } else {
                continue;
            };
            return Err(SpecProblem { field: "build", what: format!("{name} {wrong}: {path:?}") });
        }
        self.check_rebuild_on()
    }

    fn check_rebuild_on(&self) -> Result<(), SpecProblem> {
        let Some(patterns) = &self.rebuild_on else { return Ok(()) };
        let problem = |what: String| Err(SpecProblem { field: "build", what: format!("rebuild_on {what}") });
        if patterns.is_empty() {
            return problem(
                "is empty, so that nothing would make the image anew: leave it out, or name files".into(),
            );
        }
        if patterns.len() > Self::MOST_PATTERNS {
            return problem(format!("has more than {} patterns", Self::MOST_PATTERNS));
        }
        let is_odd = |pattern: &&String| {
            pattern.trim().is_empty()
                || pattern.len() > Self::LONGEST_PATH
                || pattern.contains(|c: char| c.is_control())
        };
        match patterns.iter().find(is_odd) {
            Some(odd) => problem(format!("has what is no pattern: {odd:?}")),
            None => Ok(()),
        }
    }
}
