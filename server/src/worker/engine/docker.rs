//! Steps in containers of a Docker Engine, by its HTTP API.
//!
//! A container is named after its instance and step, so that a step can never have two. Its output is attached to
//! before it is started, with the log driver `none`: reading logs back loses or alters bytes. How it ended is
//! read from `inspect` alone; `wait` only says when to look (on a container that was not yet started it answers
//! 0 at once). Nothing is removed by Docker itself. Nothing here decides that a step is to end.

mod body;
mod client;
mod clock;
mod images;
mod watch;

use bollard::Docker as Client;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, InspectContainerOptions, InspectNetworkOptions,
    KillContainerOptions, ListContainersOptions, RemoveContainerOptions, StartContainerOptions,
};
use common::{StepId, StepSpec};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::{Instant, sleep};

use super::{AHEAD, Fault, Happening, Job, News, Running, Signal};
use crate::limits;
use client::Trouble;
use images::Pulls;

const INSTANCE: &str = "bettertest.instance";
const STEP: &str = "bettertest.step";
const DEADLINE: &str = "bettertest.deadline";
/// Which Docker made it, as `Docker::which` tells.
const MADE_BY: &str = "bettertest.docker";

/// A stranger's container is removed so long after its own deadline, in seconds.
const LONG_PAST_S: u64 = 600;

/// What all steps of one worker share. Clones share it too.
#[derive(Clone)]
pub(crate) struct Docker(Arc<Inner>);

struct Inner {
    host: String,
    instance: String,
    /// How many steps run at once: the default of `memory_bytes` depends on it.
    slots: usize,
    /// Capabilities beyond the usual six, by the worker's operator.
    allow_caps: Vec<String>,
    /// Made at the first use: a worker may be there before its Docker is.
    client: Mutex<Option<Client>>,
    pulls: Pulls,
    /// Of the machine on which Docker runs.
    memory_total: OnceCell<u64>,
}

impl Docker {
    pub(crate) fn new(host: Option<&str>, instance: &str, slots: usize, allow_caps: Vec<String>) -> Docker {
        Docker(Arc::new(Inner {
            host: host.unwrap_or(client::DEFAULT_HOST).to_owned(),
            instance: instance.to_owned(),
            slots,
            allow_caps,
            client: Mutex::new(None),
            pulls: Pulls::default(),
            memory_total: OnceCell::new(),
        }))
    }

    pub(super) async fn check(&self) -> Result<(), Fault> {
        let client = self.client().await?;
        self.call(limits::DOCKER_LOOK, client.ping()).await.map(drop).map_err(|trouble| self.fault(trouble))
    }

    pub(super) async fn prepare(
        &self,
        spec: &StepSpec,
        news: &tokio::sync::watch::Sender<Option<News>>,
    ) -> Result<String, Fault> {
        images::resolve(self, spec, news).await
    }

    pub(super) async fn start(&self, job: &Job) -> Result<Running, Fault> {
        let client = self.client().await?;
        let name = self.container_name(&job.step);
        let memory = self.memory_bytes(&client, &job.spec).await?;
        let made_by = match self.which(&client).await {
            Ok(which) => Some(which),
            Err(Trouble::NotFound(_)) => None,
            Err(trouble) => return Err(self.fault(trouble)),
        };
        let body = body::container(&self.0, job, memory, made_by);
        let mut made = self.create(&client, &name, &body).await;
        let give_up = Instant::now() + limits::DOCKER_CHANGE;
        while matches!(made, Err(Trouble::Conflict(_))) && Instant::now() < give_up {
            // An earlier try of this very step, whose answer was lost or which a crash cut short.
            if let Some(running) = self.adopt_named(&client, &name).await? {
                return Ok(running);
            }
            // It was made, but never started: perhaps by another Docker than the one there is now.
            self.remove_unstarted(&client, &name).await.map_err(|trouble| self.fault(trouble))?;
            made = self.create(&client, &name, &body).await;
            if matches!(made, Err(Trouble::Conflict(_))) {
                // The last worker died in the middle of it, and Docker is at it still.
                sleep(limits::ENGINE_RETRY).await;
            }
        }
        let container = made.map_err(|trouble| match trouble {
            Trouble::NotFound(message) => {
                Fault::no_such_image("docker", &job.spec.image, &format!(" any more: {message}"))
            }
            trouble => self.start_failed(trouble),
        })?;
        let started = self.attach_and_start(&client, &name).await;
        if started.is_err() {
            // What did not start is not to stay. Where this fails too, the next sweep removes it.
            drop(self.remove(&job.step).await);
        }
        let happenings = self.watch(client, name, started?);
        let image_digest = job.image_digest.clone();
        let container = short(container);
        Ok(Running { container, image_digest, age: Duration::ZERO, has_ended: false, happenings })
    }

    async fn create(
        &self,
        client: &Client,
        name: &str,
        body: &ContainerCreateBody,
    ) -> Result<String, Trouble> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), platform: String::new() };
        let made = client.create_container(Some(options), body.clone());
        self.call(limits::DOCKER_CHANGE, made).await.map(|made| made.id)
    }

    async fn attach_and_start(&self, client: &Client, name: &str) -> Result<watch::Output, Fault> {
        let output = self.attach(client, name).await.map_err(|trouble| self.start_failed(trouble))?;
        let start = client.start_container(name, None::<StartContainerOptions>);
        match self.call(limits::DOCKER_START, start).await {
            Ok(()) => Ok(output),
            Err(Trouble::Away(message)) => {
                // The answer was lost, but perhaps not the start.
                let state = self.inspect(client, name).await.ok().and_then(|found| found.state);
                match state.and_then(|state| state.status) {
                    Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::EXITED) => Ok(output),
                    _ => Err(self.fault(Trouble::Away(message))),
                }
            }
            Err(trouble) => Err(self.start_failed(trouble)),
        }
    }

    pub(super) async fn adopt(&self, step: &StepId) -> Result<Option<Running>, Fault> {
        let client = self.client().await?;
        self.adopt_named(&client, &self.container_name(step)).await
    }

    /// None where no such container was ever started; one that was made only is left as it is.
    async fn adopt_named(&self, client: &Client, name: &str) -> Result<Option<Running>, Fault> {
        let found = match self.inspect(client, name).await {
            Ok(found) => found,
            Err(Trouble::NotFound(_)) => return Ok(None),
            Err(trouble) => return Err(self.fault(trouble)),
        };
        let Some(started) = watch::started_at(&found) else { return Ok(None) };
        // One that ended while nobody looked did not run until now.
        let finished = watch::finished_at(&found);
        let (has_ended, until) = (finished.is_some(), finished.unwrap_or_else(SystemTime::now));
        let age = until.duration_since(started).unwrap_or_default();
        // Whether it still runs or not, and what to make of that, is seen by the one who watches it.
        let happenings = self.watch(client.clone(), name.to_owned(), watch::Output::missed());
        let (container, image_digest) =
            (short(found.id.unwrap_or_default()), found.image.unwrap_or_default());
        Ok(Some(Running { container, image_digest, age, has_ended, happenings }))
    }

    fn watch(&self, client: Client, name: String, output: watch::Output) -> mpsc::Receiver<Happening> {
        let (tell, happenings) = mpsc::channel(AHEAD);
        let watcher = watch::Watcher::new(self.clone(), client, name, tell);
        // It ends with its container, or as soon as nobody listens any more.
        tokio::spawn(watcher.watch(output));
        happenings
    }

    pub(super) async fn signal(&self, step: &StepId, signal: Signal) -> Result<(), Fault> {
        let client = self.client().await?;
        let signal = match signal {
            Signal::Term => "SIGTERM",
            Signal::Kill => "SIGKILL",
        };
        let name = self.container_name(step);
        let options = KillContainerOptions { signal: signal.to_owned() };
        match self.call(limits::DOCKER_CHANGE, client.kill_container(&name, Some(options))).await {
            Ok(()) | Err(Trouble::NotFound(_) | Trouble::Conflict(_)) => Ok(()),
            Err(trouble) => Err(self.fault(trouble)),
        }
    }

    pub(super) async fn remove(&self, step: &StepId) -> Result<(), Fault> {
        let client = self.client().await?;
        let removed = self.remove_named(&client, &self.container_name(step)).await;
        removed.map_err(|trouble| self.fault(trouble))
    }

    async fn remove_named(&self, client: &Client, name: &str) -> Result<(), Trouble> {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        match self.call(limits::DOCKER_CHANGE, client.remove_container(name, Some(options))).await {
            // A conflict: its removal is under way already.
            Ok(()) | Err(Trouble::NotFound(_) | Trouble::Conflict(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Not by force: one that Docker starts at this moment is to be found running, not to be killed and run again.
    async fn remove_unstarted(&self, client: &Client, name: &str) -> Result<(), Trouble> {
        let options = RemoveContainerOptions { force: false, v: true, link: false };
        match self.call(limits::DOCKER_CHANGE, client.remove_container(name, Some(options))).await {
            Ok(()) | Err(Trouble::NotFound(_) | Trouble::Conflict(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    pub(super) async fn sweep(&self, keep: &(dyn Fn(&str) -> bool + Sync)) -> Result<HashSet<String>, Fault> {
        let client = self.client().await?;
        let labelled = HashMap::from([("label".to_owned(), vec![INSTANCE.to_owned()])]);
        let options = ListContainersOptions { all: true, filters: Some(labelled), ..Default::default() };
        let listed = client.list_containers(Some(options));
        let found = self.call(limits::DOCKER_CHANGE, listed).await.map_err(|trouble| self.fault(trouble))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut left = HashSet::new();
        for container in found {
            let (Some(id), Some(labels)) = (container.id, container.labels) else { continue };
            let step = labels.get(STEP).map(String::as_str).unwrap_or_default();
            let ours = labels.get(INSTANCE) == Some(&self.0.instance);
            let deadline = labels.get(DEADLINE).and_then(|text| text.parse::<u64>().ok());
            let long_past = deadline.is_some_and(|deadline| now > deadline.saturating_add(LONG_PAST_S));
            let unwanted = if ours { !keep(step) } else { long_past };
            if !unwanted {
                if ours {
                    left.insert(step.to_owned());
                }
                continue;
            }
            tracing::info!(step, container = id, "removing a container that nobody waits for");
            if let Err(trouble) = self.remove_named(&client, &id).await {
                let fault = self.fault(trouble);
                tracing::warn!(step, container = id, "a container could not be removed: {fault}");
                if ours {
                    left.insert(step.to_owned());
                }
            }
        }
        Ok(left)
    }

    async fn attach(&self, client: &Client, name: &str) -> Result<watch::Output, Trouble> {
        let options =
            AttachContainerOptions { stdout: true, stderr: true, stream: true, ..Default::default() };
        let attached = client.attach_container(name, Some(options));
        self.call(limits::DOCKER_LOOK, attached).await.map(|attached| watch::Output::live(attached.output))
    }

    async fn inspect(&self, client: &Client, name: &str) -> Result<ContainerInspectResponse, Trouble> {
        let inspected = client.inspect_container(name, None::<InspectContainerOptions>);
        self.call(limits::DOCKER_LOOK, inspected).await
    }

    /// A name that is another one when Docker was restarted.
    async fn which(&self, client: &Client) -> Result<String, Trouble> {
        let look = client.inspect_network("bridge", None::<InspectNetworkOptions>);
        let found = self.call(limits::DOCKER_LOOK, look).await?;
        found.id.ok_or_else(|| Trouble::NotFound("the network bridge has no id".to_owned()))
    }

    /// Where nobody says how much a step needs: an even share of the machine, but not less than 4 GiB, so that a
    /// few steps may be large, nor more than three quarters of it, so that no step takes the machine.
    async fn memory_bytes(&self, client: &Client, spec: &StepSpec) -> Result<u64, Fault> {
        if let Some(bytes) = spec.memory_bytes {
            return Ok(bytes);
        }
        let ask = || async {
            let info = self.call(limits::DOCKER_LOOK, client.info()).await?;
            Ok(info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
        };
        let total = *self.0.memory_total.get_or_try_init(ask).await.map_err(|trouble| self.fault(trouble))?;
        Ok(match total {
            0 => FAIR_MEMORY_BYTES,
            total => (total / self.0.slots.max(1) as u64).max(FAIR_MEMORY_BYTES).min(total / 4 * 3),
        })
    }

    fn container_name(&self, step: &StepId) -> String {
        format!("bettertest-{}-{step}", self.0.instance)
    }
}

/// Enough for most suites, where nobody says how much.
const FAIR_MEMORY_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// A container's id as people write it.
fn short(mut id: String) -> String {
    if id.len() == 64 {
        id.truncate(12);
    }
    id
}
