//! Files that are kept after a step: what may be asked for, and what came of it. Which files of a container a pattern
//! means is for its worker to find out.

use serde::{Deserialize, Serialize};

use crate::{Attempt, StepRun};

/// Where `run(...)` has pytest write a report that nobody asked for (`bettertest/_report.py`). Its folder is made before the
/// command starts, for whoever that runs as, and that there is none in the end is no news.
pub const PYTEST_REPORT: &str = "/tmp/.bettertest/pytest.xml";

/// One file, as it lay in the container when its command had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Artifact {
    /// Below the step's working directory, or else from the root: then it begins with a slash.
    pub path: String,
    pub size_bytes: u64,
    /// 64 hex digits.
    pub sha256: String,
    /// The step asked for it as a report of its tests, and it was written while that ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub junit: bool,
}

impl Artifact {
    /// It is there for its tests to be read, and not for anybody who looks for what a step left.
    pub fn is_unasked(&self) -> bool {
        self.path == PYTEST_REPORT
    }
}

/// The files of one step. What could not be had takes nothing from the step's own end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Artifacts {
    /// A file goes by its place here, counted from 0.
    pub files: Vec<Artifact>,
    /// So many more were found and not kept.
    pub left_out: u64,
    /// What was left out and why, or what stood in the way, in words.
    pub problem: Option<String>,
}

impl Artifacts {
    /// A report with a page for each file of a large project has some hundreds.
    pub const MOST_FILES: usize = 1000;
    /// A screen recording fits, a disk image does not.
    pub const LARGEST_BYTES: u64 = 64 * 1024 * 1024;
    /// Of one step: what goes over a slow line in a minute.
    pub const ALL_BYTES: u64 = 256 * 1024 * 1024;
    pub const LONGEST_PATH: usize = 1024;
    /// Of one step: all of them stand in one event, which everybody who follows the run is sent.
    pub const ALL_PATHS: usize = 64 * 1024;
    pub const LONGEST_PROBLEM: usize = 4096;

    const MOST_PATTERNS: usize = 32;
    const LONGEST_PATTERN: usize = 256;

    /// May these be what one step left? For those who do not trust the one who says so.
    pub fn check(&self) -> Result<(), String> {
        let count = self.files.len();
        if count > Self::MOST_FILES {
            return Err(format!("{count} artifacts are more than {}", Self::MOST_FILES));
        }
        if self.problem.as_ref().is_some_and(|problem| problem.len() > Self::LONGEST_PROBLEM) {
            return Err("the problem with its artifacts is too long".to_owned());
        }
        let (mut bytes, mut paths) = (0u64, 0);
        for Artifact { path, size_bytes, sha256, .. } in &self.files {
            if !is_path(path) {
                return Err(format!("{path:?} is no path of an artifact"));
            }
            if sha256.len() != 64 || !sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!("artifact {path} has a hash that is none"));
            }
            if *size_bytes > Self::LARGEST_BYTES {
                return Err(format!("artifact {path} is larger than any may be"));
            }
            bytes += size_bytes;
            paths += path.len();
        }
        if bytes > Self::ALL_BYTES || paths > Self::ALL_PATHS {
            return Err("its artifacts are more than those of one step may be".to_owned());
        }
        Ok(())
    }

    /// Says also this, as far as there is room for words.
    pub fn add_problems(&mut self, more: impl IntoIterator<Item = String>) {
        let words: Vec<String> = self.problem.take().into_iter().chain(more).collect();
        let words = words.join("; ");
        // A character has four bytes at most.
        let problem: String =
            words.chars().filter(|c| !c.is_control()).take(Self::LONGEST_PROBLEM / 4).collect();
        self.problem = (!problem.is_empty()).then_some(problem);
    }

    /// Why nobody may ask for files by these patterns, if so.
    pub(crate) fn wrong_patterns(patterns: &[String]) -> Option<String> {
        if patterns.len() > Self::MOST_PATTERNS {
            return Some(format!("has more than {} patterns", Self::MOST_PATTERNS));
        }
        let wrong = patterns.iter().find(|pattern| {
            let has_name = pattern.split('/').any(|part| !part.is_empty() && part != ".");
            let leads_up = pattern.split('/').any(|part| part == "..");
            let is_plain = !pattern.contains(|c: char| c.is_control());
            !has_name || leads_up || !is_plain || pattern.len() > Self::LONGEST_PATTERN
        });
        wrong.map(|pattern| {
            format!(
                "{pattern:?} has to be a path such as report/**, of at most {} bytes and without ..",
                Self::LONGEST_PATTERN
            )
        })
    }
}

/// The files of one attempt, by step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AttemptArtifacts {
    pub attempt: u32,
    /// Those of which something is known, in the order in which they were asked for.
    pub steps: Vec<StepArtifacts>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StepArtifacts {
    /// Counted from 1, of all steps of the attempt.
    pub step: u32,
    #[serde(flatten)]
    pub artifacts: Artifacts,
}

impl AttemptArtifacts {
    pub fn of(attempt: &Attempt) -> AttemptArtifacts {
        let of_step = |(number, step): (u32, &StepRun)| {
            let artifacts = step.artifacts.as_deref()?.clone();
            Some(StepArtifacts { step: number, artifacts })
        };
        AttemptArtifacts {
            attempt: attempt.number,
            steps: (1..).zip(&attempt.steps).filter_map(of_step).collect(),
        }
    }

    /// What is not to be lost on whoever looks at how the attempt ended: files that were asked for and are not kept, reports
    /// that are not read.
    pub fn notes(&self) -> Vec<String> {
        let note = |step: &StepArtifacts| {
            let of_step = if step.step > 1 { format!(" of step {}", step.step) } else { String::new() };
            Some(format!("artifacts{of_step}: {}", step.artifacts.problem.as_ref()?))
        };
        self.steps.iter().filter_map(note).collect()
    }
}

/// It can be shown anywhere, and leads nowhere but down.
pub fn is_path(path: &str) -> bool {
    let below = path.strip_prefix('/').unwrap_or(path);
    path.len() <= Artifacts::LONGEST_PATH
        && !path.contains(|c: char| c.is_control())
        && below.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
