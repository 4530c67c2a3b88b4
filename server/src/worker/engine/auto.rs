//! Both engines at once, and the choice between them, which nobody has to make: native where this host lets it have
//! every wall that docker's containers have here, else docker.
//!
//! The host is looked at once, when Docker first answers: what can be asked is asked, and then a sandbox is made for
//! trial, for only that shows that it can be. Where native is chosen docker still runs the steps of an image that is
//! not worth unpacking yet: one that is made anew for each commit is used a few times and never again. Its steps are
//! counted, and it is unpacked once they have cost in docker what unpacking costs.
//!
//! An earlier worker may have had the other engine, so what it left is looked for in both.

use common::{Artifacts, StepId, StepSpec};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use self::uses::Uses;
use super::{Docker, Fault, Job, Native, News, Running, Signal};

mod uses;

/// How much of an image is unpacked in the time that one step costs more in docker than in a sandbox of ours.
const BYTES_PER_STEP: u64 = 20_000_000;

#[derive(Clone)]
pub(crate) struct Auto(Arc<Inner>);

struct Inner {
    docker: Docker,
    native: Native,
    chosen: OnceCell<Choice>,
    uses: Uses,
    steps: Mutex<Steps>,
    /// What is unpacked for later steps, until this worker ends.
    leaving: CancellationToken,
}

#[derive(Default)]
struct Steps {
    /// Which engine has them.
    settled: HashMap<StepId, Choice>,
    /// Images, by their digests, that are being unpacked for later steps.
    unpacking: HashSet<String>,
    /// Images that only docker can run, and why.
    refused: HashMap<String, String>,
}

/// An engine, and why it is this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) engine: Which,
    pub(crate) why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Docker,
    Native,
}

impl Which {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Which::Docker => "docker",
            Which::Native => "native",
        }
    }
}

impl Choice {
    fn docker(why: impl Into<String>) -> Choice {
        Choice { engine: Which::Docker, why: why.into() }
    }

    fn native(why: impl Into<String>) -> Choice {
        Choice { engine: Which::Native, why: why.into() }
    }
}

impl Auto {
    /// `cache`: the folder of the unpacked images.
    pub(crate) fn new(docker: Docker, native: Native, cache: &Path) -> io::Result<Auto> {
        Ok(Auto(Arc::new(Inner {
            docker,
            native,
            chosen: OnceCell::new(),
            uses: Uses::open(cache)?,
            steps: Mutex::default(),
            leaving: CancellationToken::new(),
        })))
    }

    /// None before Docker has first answered.
    pub(crate) fn chosen(&self) -> Option<&Choice> {
        self.0.chosen.get()
    }

    /// What has, or is to have, this step.
    pub(crate) fn of(&self, step: &StepId) -> Option<Choice> {
        let settled = self.steps().settled.get(step).cloned();
        settled.or_else(|| self.chosen().cloned())
    }

    async fn choice(&self) -> Result<&Choice, Fault> {
        self.0.chosen.get_or_try_init(|| self.choose()).await
    }

    async fn choose(&self) -> Result<Choice, Fault> {
        if let Some(why) = self.0.docker.beyond_native().await? {
            return Ok(Choice::docker(why));
        }
        if let Err(why) = self.0.native.walls() {
            return Ok(Choice::docker(why));
        }
        Ok(match self.0.native.trial().await {
            Ok(()) => Choice::native("this host lets it have all of docker's walls"),
            Err(why) => Choice::docker(format!("a sandbox that was made for trial failed: {why}")),
        })
    }

    pub(super) async fn check(&self) -> Result<(), Fault> {
        self.choice().await?;
        self.0.docker.check().await
    }

    pub(super) async fn prepare(
        &self,
        spec: &StepSpec,
        news: &watch::Sender<Option<News>>,
    ) -> Result<String, Fault> {
        match self.choice().await?.engine {
            Which::Docker => self.0.docker.prepare(spec, news).await,
            Which::Native => {
                if let Some(digest) = spec.image_digest.as_ref().filter(|digest| self.0.native.has(digest)) {
                    return Ok(digest.clone());
                }
                let digest = self.0.docker.prepare(spec, news).await?;
                self.make_ready(&digest, news).await;
                Ok(digest)
            }
        }
    }

    /// Has an image unpacked where that is worth it: while the step waits, where it is done in the time of a step in
    /// docker, else for later ones.
    async fn make_ready(&self, digest: &str, news: &watch::Sender<Option<News>>) {
        if self.0.native.has(digest) || self.steps().refused.contains_key(digest) {
            return;
        }
        // What is wrong there docker says when it starts the step.
        let Ok(facts) = self.0.docker.image_facts(digest).await else { return };
        if facts.size_bytes <= BYTES_PER_STEP {
            let unpacked = self.0.native.unpack(digest, news).await;
            return self.note_unpacked(digest, unpacked);
        }
        let used = match self.0.uses.count(digest) {
            Ok(used) => used,
            Err(error) => return tracing::warn!("how often image {digest} is used cannot be noted: {error}"),
        };
        if used >= facts.size_bytes / BYTES_PER_STEP && self.steps().unpacking.insert(digest.to_owned()) {
            let (auto, digest) = (self.clone(), digest.to_owned());
            tokio::spawn(async move { auto.unpack_for_later(&digest).await });
        }
    }

    async fn unpack_for_later(&self, digest: &str) {
        tracing::info!("unpacking image {digest}, for its steps to be native from now on");
        let (unheard, _) = watch::channel(None);
        let unpacked = tokio::select! {
            unpacked = self.0.native.unpack(digest, &unheard) => Some(unpacked),
            () = self.0.leaving.cancelled() => None,
        };
        self.steps().unpacking.remove(digest);
        if let Some(unpacked) = unpacked {
            self.note_unpacked(digest, unpacked);
        }
    }

    fn note_unpacked(&self, digest: &str, unpacked: Result<(), Fault>) {
        match unpacked {
            Ok(()) => self.0.uses.forget(digest),
            Err(fault) => {
                tracing::warn!("docker runs the steps of image {digest}: {fault}");
                self.steps().refused.insert(digest.to_owned(), fault.message);
            }
        }
    }

    /// Which engine is to have this step; from here on it is that one, whatever becomes of its image.
    pub(super) fn settle(&self, job: &Job) {
        let is_there = self.0.native.has(&job.image_digest);
        let mut steps = self.steps();
        let choice = match self.chosen() {
            Some(chosen) if is_there || chosen.engine == Which::Docker => chosen.clone(),
            Some(_) | None => Choice::docker(match steps.refused.get(&job.image_digest) {
                Some(why) => why.clone(),
                None => "its image is not unpacked yet, which is done once it is used more often".to_owned(),
            }),
        };
        steps.settled.insert(job.step.clone(), choice);
    }

    pub(super) async fn start(&self, job: &Job) -> Result<Running, Fault> {
        match self.of(&job.step).map(|choice| choice.engine) {
            Some(Which::Native) => self.0.native.start(job).await,
            Some(Which::Docker) | None => self.0.docker.start(job).await,
        }
    }

    /// Whatever engine its worker had; also where Docker is away, and nothing was chosen yet.
    pub(super) async fn adopt(&self, step: &StepId, told: u64) -> Result<Option<Running>, Fault> {
        let why = "an earlier worker had begun it there";
        let (found, choice) = match self.0.native.adopt(step, told).await? {
            Some(running) => (Some(running), Choice::native(why)),
            None => (self.0.docker.adopt(step).await?, Choice::docker(why)),
        };
        if found.is_some() {
            self.steps().settled.insert(step.clone(), choice);
        }
        Ok(found)
    }

    pub(super) async fn signal(&self, step: &StepId, signal: Signal) -> Result<(), Fault> {
        match self.of(step).map(|choice| choice.engine) {
            Some(Which::Native) => self.0.native.signal(step, signal).await,
            Some(Which::Docker) | None => self.0.docker.signal(step, signal).await,
        }
    }

    pub(super) async fn take_artifacts(
        &self,
        step: &StepId,
        spec: &StepSpec,
        folder: &Path,
    ) -> Result<Artifacts, Fault> {
        match self.of(step).map(|choice| choice.engine) {
            Some(Which::Native) => self.0.native.take_artifacts(step, spec, folder).await,
            Some(Which::Docker) | None => self.0.docker.take_artifacts(step, spec, folder).await,
        }
    }

    pub(super) async fn remove(&self, step: &StepId) -> Result<(), Fault> {
        match self.of(step).map(|choice| choice.engine) {
            Some(Which::Native) => self.0.native.remove(step).await?,
            Some(Which::Docker) | None => self.0.docker.remove(step).await?,
        }
        self.steps().settled.remove(step);
        Ok(())
    }

    pub(super) fn kept_ready(&self) -> Vec<String> {
        match self.chosen().map(|choice| choice.engine) {
            Some(Which::Native) => self.0.native.kept_ready(),
            Some(Which::Docker) | None => Vec::new(),
        }
    }

    pub(super) async fn leave(&self, nothing_runs: bool) {
        self.0.leaving.cancel();
        let is_dockers = self.chosen().is_some_and(|choice| choice.engine == Which::Docker);
        // An earlier worker may have made what this one never came to use.
        if !is_dockers && self.0.native.walls().is_ok() {
            self.0.native.leave(nothing_runs).await;
        }
    }

    pub(super) async fn sweep(&self, keep: &(dyn Fn(&str) -> bool + Sync)) -> Result<HashSet<String>, Fault> {
        let mut left = match self.choice().await?.engine {
            Which::Native => self.0.native.sweep(keep).await?,
            Which::Docker => HashSet::new(),
        };
        left.extend(self.0.docker.sweep(keep).await?);
        Ok(left)
    }

    /// Held for a few instructions only, never over an await.
    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.0.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
