//! What makes containers: the contract that every engine keeps, in prose and in types.
//!
//! A step's life (`life.rs`) asks an engine to `prepare` its image, to `start` one container for it, and then
//! reads what happens there until the container has `Exited` or is `Lost`, exactly one of the two, as the last.
//!
//! * One container per step id, ever. Asked again for a step whose container exists, `start` takes that one.
//! * An exit code is told only on evidence: of this very container, which ran and has ended by itself or by a
//!   signal that was sent on purpose. Where that is not certain it is `Lost`.
//! * Output comes in order and whole, or there is a `Gap` exactly where some is missing.
//! * Where a step has a source, its files lie where the spec says before the command begins, over those of the image;
//!   what is written there reaches nobody else.
//! * Every call comes back within a limit. An engine that does not answer is a `Fault`, never an exit code.
//! * What a container holds can be taken out of it between its end and its removal, also by a later worker: the bytes
//!   of regular files, through no link below the working directory. What only memory held (`/dev/shm`) is gone with it.
//! * It touches nothing that is not labelled as its instance's, except what is long past its own deadline.
//!
//! Engines decide nothing: time limits, cancelling and killing are in `life.rs`, for all of them alike.

mod auto;
mod docker;
mod fake;
pub(crate) mod native;
mod together;

use bytes::Bytes;
use common::{Artifacts, Reason, StepId, StepSpec, Stream};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

use super::sources::Tree;

pub(crate) use auto::{Auto, Choice, Which};
pub(crate) use docker::{Builds, Deadlines, Docker, DockerFacts};
pub(crate) use fake::Fake;
pub(crate) use native::{ARGUMENT as NATIVE_LAUNCHER, Native, Place as NativePlace, launch};

/// How many batches of output an engine may be ahead of the one who writes them down.
const AHEAD: usize = 3;

/// What package managers, `su` and test suites need, and nothing that reaches out of the container.
const CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"];

/// A step that has no container is not asked of an engine.
const NO_COMMAND: &str = "a builder makes images";

/// Processes and threads at once, unless the spec says otherwise: a fork bomb ends here.
const PIDS: u32 = 1024;

/// Enough for most suites, where nobody says how much.
const FAIR_MEMORY_BYTES: u64 = 4 * 1024 * 1024 * 1024;

#[derive(Clone)]
pub(crate) enum Engine {
    Auto(Auto),
    Docker(Docker),
    Native(Native),
    Fake(Fake),
}

/// Why a step cannot go on that is not its own fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// A container to be made.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) step: StepId,
    pub(crate) spec: StepSpec,
    /// What the spec has as source, where it has one.
    pub(crate) tree: Option<Arc<Tree>>,
    /// What `prepare` found.
    pub(crate) image_digest: String,
    /// Seconds since 1970 after which any worker may remove the container.
    pub(crate) deadline_s: u64,
}

/// A container that was started, and what happens in it.
pub(crate) struct Running {
    pub(crate) container: String,
    /// None where the image is still to be made.
    pub(crate) image_digest: Option<String>,
    /// How long ago it started.
    pub(crate) age: Duration,
    /// Then its age is how long it ran.
    pub(crate) has_ended: bool,
    pub(crate) happenings: mpsc::Receiver<Happening>,
}

#[derive(Debug)]
pub(crate) enum Happening {
    Output(Stream, Bytes),
    /// Something may be missing here.
    Gap,
    Exited(Exit),
    /// A build has made this image, and given it its name.
    Made(String),
    /// A build came to its end without an image, where the Dockerfile or its files are to blame.
    NotMade {
        /// Never 0.
        code: u8,
        /// Line and instruction.
        at: Option<String>,
    },
    /// What became of the container is not known for certain.
    Lost {
        fault: Fault,
        /// As evidence only.
        exit_code: Option<u8>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: u8,
    /// Out of memory, on evidence only.
    pub(crate) oom: bool,
    pub(crate) signal: Option<u8>,
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) peak_memory_bytes: Option<u64>,
}

/// How far a preparation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) what: String,
    pub(crate) done_bytes: Option<u64>,
    pub(crate) total_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Term,
    Kill,
}

impl Job {
    /// The tree that the step runs on, and where it is to lie.
    fn source(&self) -> Option<(&Tree, &str)> {
        Some((self.tree.as_deref()?, self.spec.source.as_ref()?.at.as_str()))
    }
}

impl Engine {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Engine::Auto(auto) => auto.chosen().map_or("auto", |choice| choice.engine.name()),
            Engine::Docker(_) => "docker",
            Engine::Native(_) => "native",
            Engine::Fake(_) => "fake",
        }
    }

    /// Says once and for all which engine is to have the step.
    pub(crate) fn settle(&self, job: &Job) {
        match self {
            Engine::Auto(auto) => auto.settle(job),
            Engine::Docker(_) | Engine::Native(_) | Engine::Fake(_) => {}
        }
    }

    /// The step's container is still there, ended, after this machine lost its power; then so has to be what is known
    /// of it.
    pub(crate) fn outlasts_power(&self, step: &StepId) -> bool {
        match self {
            Engine::Auto(auto) => auto.of(step).is_none_or(|choice| choice.engine == Which::Docker),
            Engine::Docker(_) => true,
            Engine::Native(_) | Engine::Fake(_) => false,
        }
    }

    /// Why it is this one, where there was a choice.
    pub(crate) fn why(&self) -> Option<&str> {
        match self {
            Engine::Auto(auto) => auto.chosen().map(|choice| choice.why.as_str()),
            Engine::Docker(_) | Engine::Native(_) | Engine::Fake(_) => None,
        }
    }

    /// The name of the engine that has this step, and why it is that one, where there was a choice.
    pub(crate) fn of(&self, step: &StepId) -> (&'static str, Option<String>) {
        match self {
            Engine::Auto(auto) => match auto.of(step) {
                Some(Choice { engine, why }) => (engine.name(), Some(why)),
                None => (self.name(), None),
            },
            Engine::Docker(_) | Engine::Native(_) | Engine::Fake(_) => (self.name(), None),
        }
    }

    /// Can it run steps right now?
    pub(crate) async fn check(&self) -> Result<(), Fault> {
        match self {
            Engine::Auto(auto) => auto.check().await,
            Engine::Docker(docker) => docker.check().await,
            Engine::Native(native) => native.check().await,
            Engine::Fake(fake) => fake.check(),
        }
    }

    /// Finds the image, fetching it where it is not here, and answers with its digest. Dropping the future
    /// stops what nobody else waits for.
    pub(crate) async fn prepare(
        &self,
        spec: &StepSpec,
        news: &watch::Sender<Option<News>>,
    ) -> Result<String, Fault> {
        match self {
            Engine::Auto(auto) => auto.prepare(spec, news).await,
            Engine::Docker(docker) => docker.prepare(spec, news).await,
            Engine::Native(native) => native.prepare(spec, news).await,
            Engine::Fake(fake) => fake.prepare(spec, news).await,
        }
    }

    /// Makes the step's container and starts it. Not to be dropped before it answers. A command that is not there
    /// is no fault: it exits, with 127 where it is not found and 126 where it is no program, as in shells.
    pub(crate) async fn start(&self, job: &Job) -> Result<Running, Fault> {
        match self {
            Engine::Auto(auto) => auto.start(job).await,
            Engine::Docker(docker) => docker.start(job).await,
            Engine::Native(native) => native.start(job).await,
            Engine::Fake(fake) => fake.start(job),
        }
    }

    /// The container of a step that an earlier worker started; None where there is none, or one that never ran.
    /// `told`: how many bytes of its output are stored. An engine that kept what came since goes on right there.
    pub(crate) async fn adopt(&self, step: &StepId, told: u64) -> Result<Option<Running>, Fault> {
        match self {
            Engine::Auto(auto) => auto.adopt(step, told).await,
            Engine::Docker(docker) => docker.adopt(step).await,
            Engine::Native(native) => native.adopt(step, told).await,
            Engine::Fake(fake) => fake.adopt(step),
        }
    }

    /// A container that has ended already is no fault.
    pub(crate) async fn signal(&self, step: &StepId, signal: Signal) -> Result<(), Fault> {
        match self {
            Engine::Auto(auto) => auto.signal(step, signal).await,
            Engine::Docker(docker) => docker.signal(step, signal).await,
            Engine::Native(native) => native.signal(step, signal).await,
            Engine::Fake(fake) => fake.signal(step, signal),
        }
    }

    /// Takes the files that its spec wants out of the step's container, which has ended, into a new folder. Comes
    /// back within `limits::ARTIFACTS`, with what was taken by then. Dropped, it stops soon.
    pub(crate) async fn take_artifacts(
        &self,
        step: &StepId,
        spec: &StepSpec,
        folder: &Path,
    ) -> Result<Artifacts, Fault> {
        match self {
            Engine::Auto(auto) => auto.take_artifacts(step, spec, folder).await,
            Engine::Docker(docker) => docker.take_artifacts(step, spec, folder).await,
            Engine::Native(native) => native.take_artifacts(step, spec, folder).await,
            Engine::Fake(fake) => fake.take_artifacts(step, spec, folder),
        }
    }

    /// Removes the step's container with all that belongs to it, running or not. None there is no fault.
    pub(crate) async fn remove(&self, step: &StepId) -> Result<(), Fault> {
        match self {
            Engine::Auto(auto) => auto.remove(step).await,
            Engine::Docker(docker) => docker.remove(step).await,
            Engine::Native(native) => native.remove(step).await,
            Engine::Fake(fake) => fake.remove(step),
        }
    }

    /// What was made ahead and waits for a step, by name.
    pub(crate) fn kept_ready(&self) -> Vec<String> {
        match self {
            Engine::Auto(auto) => auto.kept_ready(),
            Engine::Native(native) => native.kept_ready(),
            Engine::Docker(_) | Engine::Fake(_) => Vec::new(),
        }
    }

    /// The worker ends. `nothing_runs`: no step runs on for the next one.
    pub(crate) async fn leave(&self, nothing_runs: bool) {
        match self {
            Engine::Auto(auto) => auto.leave(nothing_runs).await,
            Engine::Native(native) => native.leave(nothing_runs).await,
            Engine::Docker(_) | Engine::Fake(_) => {}
        }
    }

    /// Removes the containers of this instance that are not of these steps, and of other instances what is long
    /// past its deadline. Answers with the steps that have a container afterwards.
    pub(crate) async fn sweep(&self, keep: &(dyn Fn(&str) -> bool + Sync)) -> Result<HashSet<String>, Fault> {
        match self {
            Engine::Auto(auto) => auto.sweep(keep).await,
            Engine::Docker(docker) => docker.sweep(keep).await,
            Engine::Native(native) => native.sweep(keep).await,
            Engine::Fake(fake) => Ok(fake.sweep(keep)),
        }
    }
}

/// Where nobody says how much memory a step needs: an even share of the machine, but not less than 4 GiB, so that a
/// few steps may be large, nor more than three quarters of it, so that no step takes the machine. `total`: 0 where
/// it is not known.
fn fair_memory_bytes(total: u64, slots: usize) -> u64 {
    match total {
        0 => FAIR_MEMORY_BYTES,
        total => (total / slots.max(1) as u64).max(FAIR_MEMORY_BYTES).min(total / 4 * 3),
    }
}

impl Fault {
    pub(crate) fn new(reason: Reason, message: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault { reason, message: message.into(), hint: Some(hint.into()) }
    }

    /// Of files that are not kept after all; the step's own end stays what it is.
    fn not_taken(why: impl std::fmt::Display) -> Fault {
        Fault { reason: Reason::EngineUnavailable, message: why.to_string(), hint: None }
    }

    pub(crate) fn no_such_image(engine: &str, image: &str, also: &str) -> Fault {
        Fault::new(
            Reason::ImageNotFound,
            format!("{engine} has no image \"{image}\"{also}"),
            format!("build it on this worker: docker build -t {image} ."),
        )
    }
}
