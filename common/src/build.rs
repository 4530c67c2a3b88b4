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
}

impl Build {
    const LONGEST_PATH: usize = 4096;

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
        Ok(())
    }
}
