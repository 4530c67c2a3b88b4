//! What a step is to do: the body of `POST /run`, and what `run(...)` in a pipedef comes down to.

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

use crate::only_tests;
use crate::{Artifacts, Build, PYTEST_REPORT, SourceAt, StepId, TreeId};

/// A field left out means "the worker's default"; a field unknown to us is refused by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// The image that the command runs in, or the one that is to be made.
    pub image: String,
    pub command: Command,
    /// Chosen by the caller: the same id again attaches to the step instead of starting it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<StepId>,
    /// The exact image that `image` has to be, as an earlier `started` event named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Absolute path in the container; by default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// `name`, `uid` or `uid:gid`; by default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Seconds from `started`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = StepSpec::LONGEST_TIMEOUT_S)))]
    pub timeout_s: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = StepSpec::SMALLEST_MEMORY_BYTES, max = i64::MAX)))]
    pub memory_bytes: Option<u64>,
    /// Cores, e.g. 1.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0.01, max = 4096.0)))]
    pub cpus: Option<f64>,
    /// How many processes and threads there may be at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 2)))]
    pub pids: Option<u32>,
    /// Size of `/dev/shm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 4096, max = i64::MAX)))]
    pub shm_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Network::is_default")]
    pub network: Network,
    /// How much of the beginning, and as much again of the end, of the output is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_cap_bytes: Option<u64>,
    /// Run the command through the image's ENTRYPOINT instead of replacing it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub entrypoint: bool,
    /// A test runner that runs no test is all right. For the boss; no worker is told of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_no_tests: bool,
    /// The command that runs some tests only, with `{tests}` or `{tests:regex}` where their names go. For the boss, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_tests: Option<String>,
    /// Files that lie over the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Box<SourceAt>>,
    /// Which files are kept once the command has ended, whatever its exit: paths below the working directory or from
    /// the root, with `*` and `?` within a name and `**` across folders. A folder means all that is in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// The same, of files that are also read as JUnit XML: what they say of tests is believed rather than the output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub junit: Vec<String>,
}

/// What the step does: a string runs by `/bin/sh -c`, a list is executed as it is, and `{"build": ...}` makes the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Command {
    Shell(String),
    Exec(Vec<String>),
    Build { build: Box<Build> },
}

impl Command {
    /// The command as a person would write it, for lists and headings.
    pub fn for_show(&self) -> String {
        match self {
            Command::Shell(text) => text.clone(),
            Command::Exec(words) => words.join(" "),
            Command::Build { build } => build.for_show(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Out to the world, nothing in.
    #[default]
    Egress,
    None,
}

impl Network {
    fn is_default(&self) -> bool {
        *self == Network::default()
    }
}

/// A field of a spec that cannot be meant so: its name, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecProblem {
    pub field: &'static str,
    pub what: String,
}

impl fmt::Display for SpecProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.what)
    }
}

impl StepSpec {
    pub const LONGEST_TIMEOUT_S: u32 = 7 * 24 * 3600;
    pub const SMALLEST_MEMORY_BYTES: u64 = 6 * 1024 * 1024;

    pub fn new(image: &str, command: Command) -> StepSpec {
        StepSpec {
            image: image.to_owned(),
            command,
            id: None,
            image_digest: None,
            workdir: None,
            env: BTreeMap::new(),
            user: None,
            timeout_s: None,
            memory_bytes: None,
            cpus: None,
            pids: None,
            shm_bytes: None,
            network: Network::default(),
            output_cap_bytes: None,
            entrypoint: false,
            allow_no_tests: false,
            only_tests: None,
            source: None,
            artifacts: Vec::new(),
            junit: Vec::new(),
        }
    }

    /// The spec without what does not take part in "is this the same step": its id and the pinned image.
    pub fn identity(&self) -> StepSpec {
        StepSpec { id: None, image_digest: None, ..self.clone() }
    }

    /// Is this the same request as `other`, whatever the ids and pins?
    pub fn same_as(&self, other: &StepSpec) -> bool {
        self.identity() == other.identity()
    }

    /// The image to be made, where the step is no command.
    pub fn build(&self) -> Option<&Build> {
        match &self.command {
            Command::Build { build } => Some(build),
            Command::Shell(_) | Command::Exec(_) => None,
        }
    }

    /// The source that it needs.
    pub fn tree(&self) -> Option<&TreeId> {
        let of_build = self.build().map(|build| &build.tree);
        of_build.or(self.source.as_ref().map(|source| &source.tree))
    }

    /// A folder that is to be there for whoever the command runs as: that of the report that pytest is asked for. Where
    /// it could not write that, pytest would fail though all tests passed.
    pub fn open_folder(&self) -> Option<&'static str> {
        let (folder, _) = PYTEST_REPORT.rsplit_once('/')?;
        self.junit.iter().any(|pattern| pattern == PYTEST_REPORT).then_some(folder)
    }

    /// What JSON's types cannot say.
    pub fn check(&self) -> Result<(), SpecProblem> {
        let problem = |field, what: &str| Err(SpecProblem { field, what: what.to_owned() });
        let plain = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_control());
        if !is_image_name(&self.image) {
            return problem("image", "has to be the name of an image, such as python:3.12");
        }
        match &self.command {
            Command::Shell(text) if text.trim().is_empty() => return problem("command", "is empty"),
            Command::Exec(words) if words.first().is_none_or(|first| first.is_empty()) => {
                return problem("command", "has to name a program");
            }
            Command::Build { build } => {
                build.check()?;
                self.check_build()?;
            }
            Command::Shell(_) | Command::Exec(_) => {}
        }
        if self.command.has_nul() {
            return problem("command", "contains a NUL character, which no program can be given");
        }
        if let Some(digest) = &self.image_digest {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return problem("image_digest", "has to be sha256: and 64 hex digits");
            }
        }
        if self.workdir.as_ref().is_some_and(|dir| !dir.starts_with('/') || !plain(dir)) {
            return problem("workdir", "has to be an absolute path in the container");
        }
        if self.user.as_ref().is_some_and(|user| !plain(user)) {
            return problem("user", "has to be a name, a uid or uid:gid");
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return problem("env", &format!("{name:?} cannot be the name or value of a variable"));
            }
        }
        if self.timeout_s.is_some_and(|s| s == 0 || s > Self::LONGEST_TIMEOUT_S) {
            return problem("timeout_s", "has to be from 1 to 604800 seconds (7 days)");
        }
        if self
            .memory_bytes
            .is_some_and(|bytes| bytes < Self::SMALLEST_MEMORY_BYTES || bytes > i64::MAX as u64)
        {
            return problem("memory_bytes", "has to be at least 6 MiB");
        }
        if self.cpus.is_some_and(|cpus| !(0.01..=4096.0).contains(&cpus)) {
            return problem("cpus", "has to be from 0.01 to 4096");
        }
        if self.pids.is_some_and(|pids| pids < 2) {
            return problem("pids", "has to be at least 2");
        }
        if self.shm_bytes.is_some_and(|bytes| bytes < 4096 || bytes > i64::MAX as u64) {
            return problem("shm_bytes", "has to be at least 4096");
        }
        if let Some(what) = self.wrong_template() {
            return problem("only_tests", what);
        }
        if let Some(what) = Artifacts::wrong_patterns(&self.artifacts) {
            return problem("artifacts", &what);
        }
        if let Some(what) = Artifacts::wrong_patterns(&self.junit) {
            return problem("junit", &what);
        }
        self.source.as_ref().map_or(Ok(()), |source| source.check())
    }

    fn wrong_template(&self) -> Option<&'static str> {
        let template = self.only_tests.as_deref()?;
        match &self.command {
            Command::Shell(_) => only_tests::wrong_template(template),
            Command::Exec(_) | Command::Build { .. } => {
                Some("goes with a command that is a string for /bin/sh -c, as it is one itself")
            }
        }
    }

    /// A build has no container of its own, to which these could apply.
    fn check_build(&self) -> Result<(), SpecProblem> {
        let none = StepSpec::new(&self.image, self.command.clone());
        let StepSpec { timeout_s, output_cap_bytes, .. } = self;
        let bare = StepSpec { timeout_s: *timeout_s, output_cap_bytes: *output_cap_bytes, ..none };
        if self.identity() != bare {
            let what = "takes an id, timeout_s and output_cap_bytes, and nothing else that commands take";
            return Err(SpecProblem { field: "build", what: what.to_owned() });
        }
        if self.image.contains('@') || self.image.starts_with("sha256:") {
            let what = "has to be a name for the image that is made, such as myproject-test".to_owned();
            return Err(SpecProblem { field: "image", what });
        }
        Ok(())
    }
}

/// A name becomes a part of a path in an engine's API, so what means something in paths and URLs is no name.
fn is_image_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:@".contains(&b));
    first && rest && text.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

impl Command {
    fn has_nul(&self) -> bool {
        match self {
            Command::Shell(text) => text.contains('\0'),
            Command::Exec(words) => words.iter().any(|word| word.contains('\0')),
            // Its paths were looked at.
            Command::Build { .. } => false,
        }
    }
}

// By hand, because serde's own words for an untagged enum tell a user nothing.
impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Command, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = Command;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command: a string for /bin/sh -c, or a list of strings to execute, or a build")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Command, E> {
                Ok(Command::Shell(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Command, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(Command::Exec(words))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Command, A::Error> {
                let mut build = None;
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "build" if build.is_none() => build = Some(map.next_value()?),
                        other => return Err(de::Error::unknown_field(other, &["build"])),
                    }
                }
                let build = build.ok_or_else(|| de::Error::missing_field("build"))?;
                Ok(Command::Build { build })
            }
        }

        from.deserialize_any(Words)
    }
}
