//! Steps in sandboxes of our own, from docker's images, without dockerd in the way: the same walls, made by the
//! kernel's own calls (`native/sandbox.rs`).
//!
//! A step is a folder here, which had another name before (`native/made.rs`). Whoever makes it holds its lock and passes
//! that on, by way of the launcher, to the supervisor of the sandbox, so that there is never a moment in which a step
//! that may still begin looks free. The supervisor outlives the worker, keeps what is printed meanwhile, and tells the
//! next worker from the very byte on that it does not have. Its exit code is evidence: it waited for the process itself.

mod ahead;
mod apparmor;
mod born;
mod cgroup;
mod demand;
mod files;
mod happens;
mod helper;
pub(crate) mod images;
mod kept;
mod launcher;
mod left;
mod link;
mod made;
pub(crate) mod net;
mod order;
mod over;
mod sandbox;
pub(crate) mod seccomp;
mod supervisor;
mod trial;
pub(crate) mod unpack;
mod users;
mod walls;

use common::{Command, Reason, StepId, StepSpec};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{Docker, Fault, Job, NO_COMMAND, News, Running, Signal, fair_memory_bytes};
use crate::worker::disk;
use ahead::Ahead;
use files::SHM_BYTES;
use helper::Helper;
use images::{Image, Images};
use link::{Link, Said};
use made::{MADE, NotBegun, Places};
use net::Egress;
use order::{BASE, Base, LOCK, ORDER, Order, Source};

pub(crate) use launcher::{ARGUMENT, launch};

/// In a worker's own.
const FOLDER: &str = "native";

/// How long a supervisor may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a sandbox may take to be made.
const START: Duration = Duration::from_secs(30);
/// How often is looked for what nobody tells.
const AGAIN: Duration = Duration::from_millis(10);

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What all steps of one worker share. Clones share it too.
#[derive(Clone)]
pub(crate) struct Native(Arc<Inner>);

struct Inner {
    docker: Docker,
    images: Images,
    egress: Egress,
    helper: Helper,
    ahead: Ahead,
    /// The steps' folders.
    folder: PathBuf,
    places: Places,
    /// What is thrown away.
    clearing: TaskTracker,
    instance: String,
    /// What a step gets whose spec does not say.
    fair_memory_bytes: u64,
    capabilities: Vec<String>,
    hierarchy: Result<cgroup::Hierarchy, String>,
    /// Why there are not all of docker's walls.
    missing: Option<String>,
}

/// What a worker is told of its native engine.
pub(crate) struct Place {
    pub(crate) docker: Docker,
    /// The worker's own.
    pub(crate) folder: PathBuf,
    /// Shared by all workers of a data directory.
    pub(crate) cache: PathBuf,
    pub(crate) cache_bytes: u64,
    pub(crate) instance: String,
    pub(crate) slots: usize,
    pub(crate) allow_caps: Vec<String>,
    /// This binary.
    pub(crate) program: PathBuf,
}

impl Native {
    pub(crate) fn new(place: Place) -> io::Result<Native> {
        let Place { docker, folder, cache, cache_bytes, instance, slots, allow_caps, program } = place;
        let folder = folder.join(FOLDER);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        disk::spread(&folder);
        let mut capabilities = super::CAPABILITIES.map(str::to_owned).to_vec();
        capabilities.extend(allow_caps);
        let hierarchy = cgroup::Hierarchy::of_this_host().map_err(|error| error.to_string());
        let fair_memory_bytes = fair_memory_bytes(memory_of_this_host("MemTotal:")?, slots);
        let missing = match &hierarchy {
            Ok(hierarchy) => missing(&capabilities, hierarchy),
            Err(why) => Some(why.clone()),
        };
        Ok(Native(Arc::new(Inner {
            images: Images::open(docker.clone(), &cache, cache_bytes)?,
            docker,
            egress: Egress::new(&instance),
            helper: Helper::new(program, &capabilities),
            ahead: Ahead::default(),
            folder,
            places: Places::default(),
            clearing: TaskTracker::new(),
            instance,
            fair_memory_bytes,
            capabilities,
            hierarchy,
            missing,
        })))
    }

    /// Has a worker that had this folder made sandboxes?
    pub(crate) fn was_in(folder: &Path) -> bool {
        folder.join(FOLDER).exists()
    }

    pub(super) async fn check(&self) -> Result<(), Fault> {
        if let Err(why) = self.walls() {
            return Err(Fault::new(
                Reason::EngineUnavailable,
                format!("this worker cannot make sandboxes of its own: {why}"),
                "start it with --engine docker",
            ));
        }
        // All images come from there.
        self.0.docker.check().await
    }

    /// Why this host, or this worker, has not all of docker's walls, as far as that can be told beforehand.
    pub(super) fn walls(&self) -> Result<(), String> {
        // AppArmor's profile comes with dockerd, which may begin after this worker.
        self.0.missing.clone().or_else(apparmor::missing).map_or(Ok(()), Err)
    }

    /// Is the image unpacked?
    pub(super) fn has(&self, digest: &str) -> bool {
        self.0.images.known(digest).is_some()
    }

    pub(super) async fn unpack(&self, digest: &str, news: &watch::Sender<Option<News>>) -> Result<(), Fault> {
        if !self.has(digest) {
            self.make_way_for(digest).await;
        }
        self.0.images.ready(digest, news).await.map(drop)
    }

    pub(super) async fn prepare(
        &self,
        spec: &StepSpec,
        news: &watch::Sender<Option<News>>,
    ) -> Result<String, Fault> {
        if let Some(digest) = &spec.image_digest
            && self.has(digest)
        {
            return Ok(digest.clone());
        }
        let digest = self.0.docker.prepare(spec, news).await?;
        self.unpack(&digest, news).await?;
        Ok(digest)
    }

    pub(super) async fn start(&self, job: &Job) -> Result<Running, Fault> {
        let (unheard, _) = watch::channel(None);
        let image = self.0.images.ready(&job.image_digest, &unheard).await?;
        // An earlier try of this very step, which a crash cut short.
        if let Some(running) = self.adopt(&job.step, 0).await? {
            return Ok(running);
        }
        let network = job.spec.network;
        let mut begun = None;
        if let Some(made) = self.take_ahead(&image, network) {
            match self.begin(made, job).await {
                Err(NotBegun { fault, is_certain: true }) => {
                    tracing::warn!(step = %job.step, "what was made ahead is not used: {fault}");
                }
                done => begun = Some(done),
            }
        }
        let begun = match begun {
            Some(begun) => begun,
            None => {
                let made = self.make(&image, network, false).await?;
                self.begin(made, job).await
            }
        };
        self.make_ahead(&image, network);
        begun.map_err(|not_begun| not_begun.fault)
    }

    fn order(&self, job: &Job, image: &Image, address: Option<Ipv4Addr>) -> Order {
        let (spec, config) = (&job.spec, &image.config);
        let source = job.source().map(|(tree, at)| Source {
            files: tree.files(),
            lock: tree.lock(),
            at: at.to_owned(),
        });
        let mut words = if spec.entrypoint { config.entrypoint.clone() } else { Vec::new() };
        match &spec.command {
            Command::Shell(text) => words.extend(["/bin/sh", "-c", text].map(str::to_owned)),
            Command::Exec(more) => words.extend(more.iter().cloned()),
            Command::Build { .. } => unreachable!("{NO_COMMAND}"),
        }
        let container = name_of(&self.0.instance, &job.step);
        let mut env = BTreeMap::from([("PATH", PATH), ("HOSTNAME", container.as_str())]);
        env.extend(config.env.iter().filter_map(|pair| pair.split_once('=')));
        env.extend(spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        Order {
            image_digest: image.digest.clone(),
            words,
            env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            workdir: spec.workdir.clone().unwrap_or_else(|| config.workdir.clone()),
            user: spec.user.clone().unwrap_or_else(|| config.user.clone()),
            memory_bytes: spec.memory_bytes.unwrap_or(self.0.fair_memory_bytes),
            cpus: spec.cpus,
            pids: spec.pids.unwrap_or(super::PIDS),
            shm_bytes: spec.shm_bytes.unwrap_or(SHM_BYTES),
            hosts: net::hosts(&container, address),
            resolv_conf: net::resolv_conf(),
            deadline_s: job.deadline_s,
            source,
            open_folder: spec.open_folder().map(str::to_owned),
            container,
        }
    }

    /// From the supervisor's own words to what a step's life wants to know.
    async fn follow(&self, folder: &Path, told: u64) -> io::Result<Followed> {
        let Order { container, image_digest, .. } = serde_json::from_slice(&fs::read(folder.join(ORDER))?)?;
        let link = tokio::time::timeout(ANSWER, Link::follow(folder, told)).await??;
        self.hear(link, folder, container, image_digest).await
    }

    async fn hear(
        &self,
        mut link: Link,
        folder: &Path,
        container: String,
        image_digest: String,
    ) -> io::Result<Followed> {
        let first = tokio::time::timeout(START, async {
            loop {
                match link.next().await? {
                    Some(Said::Ready) => {}
                    first => return io::Result::Ok(first),
                }
            }
        });
        match first.await?? {
            Some(Said::Began { age, has_ended }) => {
                let (tell, happenings) = tokio::sync::mpsc::channel(super::AHEAD);
                tokio::spawn(happens::pass_on(link, folder.to_owned(), tell));
                let image_digest = Some(image_digest);
                Ok(Followed::Running(Running { container, image_digest, age, has_ended, happenings }))
            }
            Some(Said::Failed(why)) => Ok(Followed::Failed(why)),
            Some(Said::Ready | Said::Output(..) | Said::Gone | Said::Over(_)) => {
                Err(io::Error::other("it does not say that the command began"))
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// `told`: how much of its output is stored.
    pub(super) async fn adopt(&self, step: &StepId, told: u64) -> Result<Option<Running>, Fault> {
        let folder = self.folder_of(step);
        if !folder.exists() {
            return Ok(None);
        }
        let unknown = |error: io::Error| {
            Fault::new(
                Reason::EngineUnavailable,
                format!("what became of the sandbox in {} cannot be seen: {error}", folder.display()),
                "the worker's log says more",
            )
        };
        if is_supervised(&folder).map_err(unknown)? {
            return match self.follow(&folder, told).await.map_err(unknown)? {
                Followed::Running(running) => Ok(Some(running)),
                // It never ran.
                Followed::Failed(_) => self.remove(step).await.map(|()| None),
            };
        }
        match happens::afterwards(&folder).map_err(unknown)? {
            Some(running) => Ok(Some(running)),
            None => self.remove(step).await.map(|()| None),
        }
    }

    pub(super) async fn signal(&self, step: &StepId, signal: Signal) -> Result<(), Fault> {
        let folder = self.folder_of(step);
        let what = match signal {
            Signal::Term => supervisor::TERMINATE,
            Signal::Kill => supervisor::KILL,
        };
        match tokio::time::timeout(ANSWER, link::ask(&folder, what)).await {
            Ok(Ok(_)) => Ok(()),
            // Nobody is there, so that nothing runs: a sandbox ends with its supervisor.
            Ok(Err(_)) if !is_supervised(&folder).unwrap_or(false) => Ok(()),
            Ok(Err(error)) => Err(silent(step, &error.to_string())),
            Err(_) => Err(silent(step, "no answer")),
        }
    }

    pub(super) async fn remove(&self, step: &StepId) -> Result<(), Fault> {
        let removed = self.remove_folder(&self.folder_of(step)).await;
        removed.map(drop).map_err(|error| silent(step, &error.to_string()))
    }

    /// Comes when nothing runs there any more.
    async fn end(&self, folder: &Path) -> io::Result<()> {
        let ended = tokio::time::timeout(ANSWER, async {
            while folder.exists() {
                match link::ask(folder, supervisor::REMOVE).await {
                    Ok(true) => break,
                    Ok(false) => return Err(io::Error::other("its processes do not go away")),
                    Err(_) if !is_supervised(folder)? => {
                        if let Some(cgroup) = self.cgroup_of(folder)? {
                            cgroup.remove()?;
                        }
                        break;
                    }
                    // It is just being started, or just ending.
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            }
            Ok(())
        });
        ended.await.map_err(|_| io::Error::other("no answer"))?
    }

    /// Its name is free at once. To remove what a test wrote takes longer, and nobody waits for that.
    fn throw_away(&self, folder: &Path) -> io::Result<()> {
        let name = folder.file_name().unwrap_or_default();
        let thrown = self.0.folder.join(format!("{THROWN}{}", name.to_string_lossy()));
        match fs::rename(folder, &thrown) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => {
                renamed?;
                self.clear_away(thrown);
            }
        }
        Ok(())
    }

    fn clear_away(&self, thrown: PathBuf) {
        let native = self.clone();
        self.0.clearing.spawn_blocking(move || match native.clear(&thrown) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} is left for the next sweep: {error}", thrown.display());
            }
            Ok(()) | Err(_) => {}
        });
    }

    /// Once its supervisor is gone, with what that could not remove.
    fn clear(&self, thrown: &Path) -> io::Result<()> {
        let _lock = match File::open(thrown.join(LOCK)) {
            // Half of it went with an earlier worker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => {
                let lock = opened?;
                lock.lock()?;
                Some(lock)
            }
        };
        if let Some(cgroup) = self.cgroup_of(thrown)? {
            cgroup.remove()?;
        }
        fs::remove_dir_all(thrown)
    }

    pub(super) async fn sweep(&self, keep: &(dyn Fn(&str) -> bool + Sync)) -> Result<HashSet<String>, Fault> {
        let images = self.0.images.clone();
        tokio::task::spawn_blocking(move || images.sweep());
        self.0.egress.sweep().await?;
        self.tidy_ahead();
        let mut left = HashSet::new();
        let listed = |error: io::Error| {
            Fault::new(
                Reason::EngineUnavailable,
                format!("{} cannot be read: {error}", self.0.folder.display()),
                "the worker's log says more",
            )
        };
        for entry in fs::read_dir(&self.0.folder).map_err(listed)? {
            let name = entry.map_err(listed)?.file_name().to_string_lossy().into_owned();
            if name.starts_with(THROWN) {
                // It may be under way, and then is gone soon.
                self.clear_away(self.0.folder.join(name));
                continue;
            }
            if name.starts_with(MADE) && !self.0.places.has(&name) {
                // A worker before this one was killed, or whatever it is waiting for.
                if let Err(error) = self.remove_folder(&self.0.folder.join(&name)).await {
                    tracing::warn!("a sandbox that waited for a step could not be removed: {name}: {error}");
                }
                continue;
            }
            let Ok(step) = StepId::try_from(name) else { continue };
            if keep(step.as_str()) {
                left.insert(step.to_string());
                continue;
            }
            tracing::info!(%step, "removing a sandbox that nobody waits for");
            if let Err(fault) = self.remove(&step).await {
                tracing::warn!(%step, "a sandbox could not be removed: {fault}");
                left.insert(step.to_string());
            }
        }
        Ok(left)
    }

    /// This worker ends: what was made ahead goes, and where no step runs on, all else outside of the steps' folders.
    pub(super) async fn leave(&self, nothing_runs: bool) {
        self.close_ahead().await;
        self.0.clearing.close();
        if tokio::time::timeout(ANSWER, self.0.clearing.wait()).await.is_err() {
            tracing::warn!("what is left of some sandboxes is left for the next worker");
        }
        if !nothing_runs {
            self.0.egress.close();
        } else if let Err(fault) = self.0.egress.remove().await {
            tracing::warn!("the network of this worker is left for the next one: {fault}");
        }
    }

    pub(super) fn kept_ready(&self) -> Vec<String> {
        let networks = self.0.egress.kept_ready();
        let networks = networks.iter().map(|address| format!("network {address}"));
        self.0.ahead.kept_ready().into_iter().chain(networks).collect()
    }

    /// None where nobody came so far as to have one made.
    fn cgroup_of(&self, folder: &Path) -> io::Result<Option<cgroup::Cgroup>> {
        let base = fs::read(folder.join(BASE)).ok();
        let Some(base) = base.and_then(|json| serde_json::from_slice::<Base>(&json).ok()) else {
            return Ok(None);
        };
        let hierarchy = self.0.hierarchy.clone().map_err(io::Error::other)?;
        Ok(Some(cgroup::Cgroup::of(hierarchy, &base.cgroup)))
    }

    fn cgroups(&self) -> String {
        format!("bettertest/{}", self.0.instance)
    }

    fn folder_of(&self, step: &StepId) -> PathBuf {
        self.0.folder.join(step.as_str())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // While steps run on, their groups hold this one.
        if let Ok(hierarchy) = self.hierarchy.clone() {
            drop(cgroup::Cgroup::of(hierarchy, &format!("bettertest/{}", self.instance)).let_go());
        }
    }
}

/// What docker has on this host, and these sandboxes have not.
fn missing(capabilities: &[String], hierarchy: &cgroup::Hierarchy) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it is not root".to_owned());
    }
    if fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1") {
        return Some("SELinux rules here, and only docker has a policy for containers".to_owned());
    }
    if let Err(error) = hierarchy.pass_on() {
        return Some(format!("its limits cannot be set: {error}"));
    }
    // With these a step could make and mount devices, which here no list of allowed ones stops.
    let strong = capabilities.iter().find(|name| matches!(name.as_str(), "MKNOD" | "SYS_ADMIN" | "ALL"));
    strong.map(|name| format!("--allow-cap {name} needs a list of the devices that containers may use"))
}

enum Followed {
    Running(Running),
    Failed(String),
}

/// No step has a name that begins so.
const THROWN: &str = ".thrown-";

/// Does anybody still start or supervise the step of this folder?
fn is_supervised(folder: &Path) -> io::Result<bool> {
    let lock = match File::open(folder.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Like docker's, twelve hexadecimal digits; another worker's step of the same id has another.
fn name_of(instance: &str, step: &StepId) -> String {
    let hash = Sha256::digest(format!("{instance} {step}"));
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// By how its line in `/proc/meminfo` begins.
fn memory_of_this_host(line: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let found = text.lines().find_map(|it| it.strip_prefix(line)?.trim().strip_suffix(" kB"));
    let kib: Option<u64> = found.and_then(|kib| kib.trim().parse().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other(format!("/proc/meminfo has no {line} of this host")))
}

fn start_failed(why: &str) -> Fault {
    Fault::new(
        Reason::StartFailed,
        format!("the sandbox could not be made: {why}"),
        "--engine docker is another way",
    )
}

fn silent(step: &StepId, why: &str) -> Fault {
    Fault::new(
        Reason::EngineUnavailable,
        format!("the supervisor of the sandbox of step {step} cannot be spoken with: {why}"),
        "the worker's log says more",
    )
}
