//! Steps in containers of a Docker Engine, by its HTTP API.
//!
//! A container is named after its instance and step, so that a step can never have two. Its output is attached to
//! before it is started, with the log driver `none`: reading logs back loses or alters bytes. How it ended is
//! read from `inspect` alone; `wait` only says when to look (on a container that was not yet started it answers
//! 0 at once). Nothing is removed by Docker itself. Nothing here decides that a step is to end.

mod archive;
mod artifacts;
mod body;
mod build;
mod client;
mod clock;
mod deadlines;
mod facts;
mod images;
mod output;
mod save;
mod source;
mod watch;

use bollard::Docker as Client;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, EventsOptions, InspectContainerOptions,
    InspectNetworkOptions, KillContainerOptions, ListContainersOptions, RemoveContainerOptions,
    StartContainerOptions,
};
use common::{Reason, StepId, StepSpec};
use futures_util::StreamExt as _;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::{Instant, sleep};

use super::together::Together;
use super::{AHEAD, Fault, Happening, Job, News, Running, Signal, fair_memory_bytes};
use crate::limits;
use client::Trouble;
use output::Output;

pub(crate) use build::Builds;
pub(crate) use deadlines::Deadlines;
pub(crate) use facts::DockerFacts;
pub(crate) use save::{ImageConfig, ImageFacts};

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
    deadlines: Deadlines,
    /// Made at the first use: a worker may be there before its Docker is.
    client: Mutex<Option<Client>>,
    /// By image id: was it built with `rebuild_on`, or upon such a one?
    older: Mutex<HashMap<String, bool>>,
    /// The pulls that are under way, by image.
    pulls: Together<()>,
    /// Of the machine on which Docker runs.
    memory_total: OnceCell<u64>,
    /// Set once this Docker was seen to be one that we can use.
    usable: OnceCell<()>,
}

impl Docker {
    pub(crate) fn new(
        host: Option<&str>,
        instance: &str,
        slots: usize,
        allow_caps: Vec<String>,
        deadlines: Deadlines,
    ) -> Docker {
        Docker(Arc::new(Inner {
            host: host.unwrap_or(client::DEFAULT_HOST).to_owned(),
            instance: instance.to_owned(),
            slots,
            allow_caps,
            deadlines,
            client: Mutex::new(None),
            older: Mutex::default(),
            pulls: Together::default(),
            memory_total: OnceCell::new(),
            usable: OnceCell::new(),
        }))
    }

    fn deadlines(&self) -> &Deadlines {
        &self.0.deadlines
    }

    pub(super) async fn check(&self) -> Result<(), Fault> {
        let client = self.client().await?;
        let pinged = self.call(self.deadlines().ping, client.ping()).await;
        pinged.map_err(|trouble| self.fault(trouble))?;
        let look = || async { self.made_by(&client).await.map(drop) };
        self.0.usable.get_or_try_init(look).await.copied()
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
        let made_by = self.made_by(&client).await?;
        let body = body::container(&self.0, job, memory, made_by);
        let mut made = self.create(&client, &name, &body).await;
        let give_up = Instant::now() + self.deadlines().change;
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
        let copied = match job.source() {
            Some((tree, at)) => self.copy_source(&client, &container, tree, at).await,
            None => Ok(()),
        };
        if let Some(folder) = job.spec.open_folder() {
            self.open_folder(&client, &container, folder).await;
        }
        let started = match copied {
            Ok(()) => self.attach_and_start(&client, &container).await,
            Err(fault) => Err(fault),
        };
        if started.is_err() {
            // What did not start is not to stay. Where this fails too, the next sweep removes it.
            drop(self.remove_named(&client, &container).await);
        }
        let happenings = self.watch(client, container.clone(), started?);
        let image_digest = Some(job.image_digest.clone());
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
        self.call(self.deadlines().change, made).await.map(|made| made.id)
    }

    async fn attach_and_start(&self, client: &Client, container: &str) -> Result<Output, Fault> {
        let output = self.attach(client, container).await.map_err(|trouble| self.start_failed(trouble))?;
        let start = client.start_container(container, None::<StartContainerOptions>);
        match self.call(self.deadlines().start, start).await {
            Ok(()) => Ok(output),
            Err(Trouble::Away(message)) => {
                // The answer was lost, but perhaps not the start.
                let found = self.inspect(client, container).await.ok();
                match found.as_ref().and_then(watch::started_at) {
                    Some(_) => Ok(output),
                    None => Err(self.fault(Trouble::Away(message))),
                }
            }
            Err(trouble) => Err(self.start_failed(trouble)),
        }
    }

    pub(super) async fn adopt(&self, step: &StepId) -> Result<Option<Running>, Fault> {
        let client = self.client().await?;
        if let Some(running) = self.adopt_named(&client, &self.container_name(step)).await? {
            return Ok(Some(running));
        }
        match self.renamed(&client, step).await.map_err(|trouble| self.fault(trouble))? {
            Some(container) => self.adopt_named(&client, &container).await,
            None => Ok(None),
        }
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
        let container = found.id.unwrap_or_else(|| name.to_owned());
        // Whether it still runs or not, and what to make of that, is seen by the one who watches it.
        let happenings = self.watch(client.clone(), container.clone(), Output::Broken);
        let (container, image_digest) = (short(container), Some(found.image.unwrap_or_default()));
        Ok(Some(Running { container, image_digest, age, has_ended, happenings }))
    }

    /// The container of a step that has not its name any more: people rename things. What we hold in our hands
    /// goes by its id, so that this is asked only where the name leads nowhere.
    async fn renamed(&self, client: &Client, step: &StepId) -> Result<Option<String>, Trouble> {
        let labels = vec![format!("{INSTANCE}={}", self.0.instance), format!("{STEP}={step}")];
        let found = self.labelled(client, labels).await?;
        Ok(found.into_iter().find_map(|container| container.id))
    }

    async fn labelled(&self, client: &Client, labels: Vec<String>) -> Result<Vec<ContainerSummary>, Trouble> {
        let filters = Some(HashMap::from([("label".to_owned(), labels)]));
        let options = ListContainersOptions { all: true, filters, ..Default::default() };
        self.call(self.deadlines().change, client.list_containers(Some(options))).await
    }

    fn watch(&self, client: Client, container: String, output: Output) -> mpsc::Receiver<Happening> {
        let (tell, happenings) = mpsc::channel(AHEAD);
        let watcher = watch::Watcher::new(self.clone(), client, container, tell);
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
        let mut sent = self.kill(&client, &self.container_name(step), signal).await;
        if let Err(Trouble::NotFound(_)) = sent {
            sent = match self.renamed(&client, step).await {
                Ok(Some(container)) => self.kill(&client, &container, signal).await,
                Ok(None) => Ok(()),
                Err(trouble) => Err(trouble),
            };
        }
        match sent {
            Ok(()) | Err(Trouble::NotFound(_) | Trouble::Conflict(_)) => Ok(()),
            Err(trouble) => Err(self.fault(trouble)),
        }
    }

    async fn kill(&self, client: &Client, name: &str, signal: &str) -> Result<(), Trouble> {
        let options = KillContainerOptions { signal: signal.to_owned() };
        // A signal can be sent twice, so that its answer is not waited for as long as that of another change.
        self.call(self.deadlines().look, client.kill_container(name, Some(options))).await
    }

    pub(super) async fn remove(&self, step: &StepId) -> Result<(), Fault> {
        let client = self.client().await?;
        let removed = async {
            if self.remove_named(&client, &self.container_name(step)).await? {
                return Ok(());
            }
            match self.renamed(&client, step).await? {
                Some(container) => self.remove_named(&client, &container).await.map(drop),
                None => Ok(()),
            }
        };
        removed.await.map_err(|trouble| self.fault(trouble))
    }

    /// Answers whether there was one.
    async fn remove_named(&self, client: &Client, name: &str) -> Result<bool, Trouble> {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        match self.call(self.deadlines().change, client.remove_container(name, Some(options))).await {
            // A conflict: its removal is under way already.
            Ok(()) | Err(Trouble::Conflict(_)) => Ok(true),
            Err(Trouble::NotFound(_)) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// Not by force: one that Docker starts at this moment is to be found running, not to be killed and run again.
    async fn remove_unstarted(&self, client: &Client, name: &str) -> Result<(), Trouble> {
        let options = RemoveContainerOptions { force: false, v: true, link: false };
        match self.call(self.deadlines().change, client.remove_container(name, Some(options))).await {
            Ok(()) | Err(Trouble::NotFound(_) | Trouble::Conflict(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    pub(super) async fn sweep(&self, keep: &(dyn Fn(&str) -> bool + Sync)) -> Result<HashSet<String>, Fault> {
        let client = self.client().await?;
        let found = self.labelled(&client, vec![INSTANCE.to_owned()]).await;
        let found = found.map_err(|trouble| self.fault(trouble))?;
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

    async fn attach(&self, client: &Client, name: &str) -> Result<Output, Trouble> {
        let options =
            AttachContainerOptions { stdout: true, stderr: true, stream: true, ..Default::default() };
        let attached = client.attach_container(name, Some(options));
        self.call(self.deadlines().look, attached).await.map(|attached| Output::Live(attached.output))
    }

    async fn inspect(&self, client: &Client, name: &str) -> Result<ContainerInspectResponse, Trouble> {
        let inspected = client.inspect_container(name, None::<InspectContainerOptions>);
        self.call(self.deadlines().look, inspected).await
    }

    /// Was the Docker that answers now there when that container ended? What it remembers of events is forgotten
    /// with it. It remembers the last 256; one that is not among them any more was not seen.
    async fn saw_end(&self, client: &Client, container: &str) -> bool {
        let only = [("type", "container"), ("event", "die"), ("container", container)];
        let filters = only.map(|(of, value)| (of.to_owned(), vec![value.to_owned()]));
        let all = EventsOptions { since: Some("1".to_owned()), until: None, filters: Some(filters.into()) };
        let mut events = std::pin::pin!(client.events(Some(all)));
        let first = tokio::time::timeout(self.deadlines().ping, events.next()).await;
        matches!(first, Ok(Some(Ok(_))))
    }

    /// Which Docker it is, for the label of a container. Without an answer no exit code could ever be believed.
    async fn made_by(&self, client: &Client) -> Result<String, Fault> {
        self.which(client).await.map_err(|trouble| match trouble {
            Trouble::NotFound(_) => Fault::new(
                Reason::EngineUnavailable,
                format!("docker at {} has no network \"bridge\", which steps need", self.0.host),
                "start it without --bridge=none (\"bridge\" in its daemon.json)",
            ),
            trouble => self.fault(trouble),
        })
    }

    /// A name that is another one when Docker was restarted.
    async fn which(&self, client: &Client) -> Result<String, Trouble> {
        let look = client.inspect_network("bridge", None::<InspectNetworkOptions>);
        let found = self.call(self.deadlines().look, look).await?;
        found.id.ok_or_else(|| Trouble::NotFound("the network bridge has no id".to_owned()))
    }

    async fn memory_bytes(&self, client: &Client, spec: &StepSpec) -> Result<u64, Fault> {
        if let Some(bytes) = spec.memory_bytes {
            return Ok(bytes);
        }
        let ask = || async {
            let info = self.call(self.deadlines().look, client.info()).await?;
            Ok(info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
        };
        let total = *self.0.memory_total.get_or_try_init(ask).await.map_err(|trouble| self.fault(trouble))?;
        Ok(fair_memory_bytes(total, self.0.slots))
    }

    fn container_name(&self, step: &StepId) -> String {
        format!("bettertest-{}-{step}", self.0.instance)
    }
}

/// A container's id as people write it.
fn short(mut id: String) -> String {
    if id.len() == 64 {
        id.truncate(12);
    }
    id
}
