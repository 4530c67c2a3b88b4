//! The process that runs steps: HTTP in front (`api.rs`), the steps it knows (`steps.rs`), each with its life
//! (`life.rs`), its record on disk (`spool.rs`) and its turn (`queue.rs`), on an engine that makes containers
//! (`engine.rs`). It knows nothing of pipelines, runs or verdicts on tasks, and keeps nothing in memory that it
//! needs after a crash.

pub(crate) mod age;
mod api;
mod artifacts;
mod builder;
mod disk;
mod ends;
mod engine;
pub(crate) mod forgotten;
mod kill;
mod life;
mod output;
mod pieces;
pub(crate) mod queue;
mod records;
mod routes;
mod sources;
pub(crate) mod spool;
mod step;
mod steps;
mod trouble;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::Token;
use crate::data_dir::{DataDir, Held, hold, unusable};
use crate::error::SetupError;
use crate::http;
use crate::limits;
use crate::signals::Stop;
use builder::Builder;
use engine::{Auto, Builds, Engine, Fault, Native, NativePlace};
use sources::Sources;
use steps::{Capacity, Steps};

pub(crate) use disk::room;
pub(crate) use engine::{Deadlines, Docker, DockerFacts, NATIVE_LAUNCHER, launch};
#[cfg(test)]
pub(crate) use engine::{News, native};
pub(crate) use steps::Patience;
#[cfg(test)]
pub(crate) use {engine::Fake, routes::DOCUMENT};

/// The folder of a worker, in that of its data directory or of a local run.
const WORKER: &str = "worker";

/// What `--worker` is told by its flags.
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) slots: Option<u16>,
    /// `auto`, `docker`, `native` or `fake`.
    pub(crate) engine: String,
    pub(crate) docker_host: Option<String>,
    pub(crate) data: DataDir,
    pub(crate) max_output_bytes: Option<u64>,
    pub(crate) spool_bytes: Option<u64>,
    pub(crate) image_cache_bytes: Option<u64>,
    pub(crate) source_cache_bytes: Option<u64>,
    pub(crate) build_cache_bytes: Option<u64>,
    pub(crate) allow_cap: Vec<String>,
}

/// Serves until `told`: on Terminate hands running steps over, on Interrupt cancels them. `ready` is given the
/// lines to print once it listens.
pub(crate) async fn serve(
    options: Options,
    told: impl Future<Output = Stop>,
    ready: impl FnOnce(&str),
) -> Result<(), SetupError> {
    let Options { listen, slots, engine, docker_host, data, max_output_bytes, spool_bytes, .. } = options;
    let (image_cache_bytes, allow_cap) = (options.image_cache_bytes, options.allow_cap);
    let (source_cache_bytes, build_cache_bytes) = (options.source_cache_bytes, options.build_cache_bytes);
    let folder = data.hold(WORKER)?;
    let token = Token::of(&data)?;
    let token_path = token.path().display().to_string();
    let mut setup = Setup::new(http::listen(listen).await?, folder, &data, data.instance(), token);
    setup.slots = slots.map_or(setup.slots, usize::from);
    setup.engine = match engine.as_str() {
        "fake" => EngineChoice::Fake(engine::Fake::default()),
        named => {
            let native = NativeChoice { docker_host, ..NativeChoice::of(data.path(), image_cache_bytes) };
            EngineChoice::named(named, native)
        }
    };
    setup.allow_caps = allow_cap;
    setup.max_output_bytes = max_output_bytes.unwrap_or(setup.max_output_bytes);
    setup.spool_bytes = spool_bytes.unwrap_or(setup.spool_bytes);
    setup.source_cache_bytes = source_cache_bytes.unwrap_or(setup.source_cache_bytes);
    setup.build_cache_bytes = build_cache_bytes.unwrap_or(setup.build_cache_bytes);
    let slots = setup.slots;
    let worker = Worker::begin(setup).await?;
    let engine = worker.steps.engine();
    if let Err(fault) = engine.check().await {
        tracing::warn!("no steps can be run yet: {fault}");
    }
    let plural = if slots == 1 { "" } else { "s" };
    let why = engine.why().map(|why| format!("engine: {}, for {why}\n", engine.name())).unwrap_or_default();
    ready(&format!(
        "worker: http://{} ({}, {slots} step{plural} at once)\n{why}token: {token_path}\n",
        worker.address,
        engine.name(),
    ));
    worker.stop(told.await).await;
    Ok(())
}

/// A worker of `bettertest run`'s own, on a free port of loopback.
pub(crate) struct PrivateWorker(Worker);

/// Starts one that keeps its spools in `folder`, calls its containers after `instance`, and shares with others what
/// lies in the data directory.
pub(crate) async fn serve_privately(
    folder: &Path,
    instance: &str,
    token: &Token,
    data: &DataDir,
    engine: &str,
) -> Result<PrivateWorker, SetupError> {
    let listener = http::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let mut setup = Setup::new(listener, hold(&folder.join(WORKER))?, data, instance, token.clone());
    setup.engine = EngineChoice::named(engine, NativeChoice::of(data.path(), None));
    let worker = Worker::begin(setup).await?;
    // Nobody else could mend it later: without an engine there is no point in beginning.
    match worker.steps.engine().check().await {
        Ok(()) => Ok(PrivateWorker(worker)),
        Err(fault) => {
            worker.stop(Stop::Interrupt).await;
            Err(setup_error(fault))
        }
    }
}

impl PrivateWorker {
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// Cancels what still runs, and returns when nothing is left.
    pub(crate) async fn shut_down(self) {
        self.0.stop(Stop::Interrupt).await;
    }
}

/// Removes what is left of the private worker that had this folder and instance, and whose process is gone.
pub(crate) async fn sweep_instance(folder: &Path, instance: &str, data: &DataDir) -> Result<(), SetupError> {
    let docker = Docker::new(None, instance, 1, Vec::new(), Deadlines::default());
    let worker = folder.join(WORKER);
    if Native::was_in(&worker) {
        let choice = NativeChoice::of(data.path(), None);
        let place = choice.place(docker.clone(), &worker, instance.to_owned(), 1, Vec::new());
        let native = Engine::Native(Native::new(place).map_err(|error| unusable(&worker, &error))?);
        native.sweep(&|_| false).await.map_err(setup_error)?;
        native.leave(true).await;
    }
    Engine::Docker(docker).sweep(&|_| false).await.map(drop).map_err(setup_error)
}

/// What `bettertest doctor` wants to know of a Docker; the usual one where no host is named.
pub(crate) async fn docker_facts(host: Option<&str>) -> Result<DockerFacts, SetupError> {
    let docker = Docker::new(host, "", 1, Vec::new(), Deadlines::default());
    docker.facts(limits::DOCTOR).await.map_err(setup_error)
}

fn setup_error(fault: Fault) -> SetupError {
    SetupError::new(fault.message, fault.hint.unwrap_or_default())
}

/// Everything a worker needs, with defaults for what may be chosen.
pub(crate) struct Setup {
    listener: TcpListener,
    /// The worker's folder, ours alone.
    folder: Held,
    instance: String,
    token: Token,
    pub(crate) slots: usize,
    pub(crate) engine: EngineChoice,
    /// Capabilities of containers beyond the usual ones, such as `SYS_PTRACE`.
    pub(crate) allow_caps: Vec<String>,
    /// The most that a spec may ask for as `output_cap_bytes`.
    pub(crate) max_output_bytes: u64,
    /// What all spools together may take on disk.
    pub(crate) spool_bytes: u64,
    /// Where the sources of steps lie, for all workers of the data directory, and how much they may take.
    source_cache: PathBuf,
    pub(crate) source_cache_bytes: u64,
    /// Where it is written down which images were built, for all workers of the data directory, and its instance.
    build_cache: PathBuf,
    pub(crate) build_cache_bytes: u64,
    owner: String,
    pub(crate) patience: Patience,
    pub(crate) deadlines: Deadlines,
}

#[derive(Clone)]
pub(crate) enum EngineChoice {
    /// The socket or address of its daemon; None for the usual one.
    Docker {
        host: Option<String>,
    },
    /// Native where this host lets it have all of docker's walls, else docker.
    Auto(NativeChoice),
    Native(NativeChoice),
    Fake(engine::Fake),
}

#[derive(Clone)]
pub(crate) struct NativeChoice {
    /// Where images come from; None for the usual one.
    pub(crate) docker_host: Option<String>,
    /// This binary, whose launcher makes the sandboxes.
    pub(crate) program: PathBuf,
    /// Where images are unpacked, for all workers of the data directory, and how much they may take.
    pub(crate) cache: PathBuf,
    pub(crate) cache_bytes: u64,
}

impl EngineChoice {
    /// `auto`, `docker` or `native`.
    fn named(name: &str, native: NativeChoice) -> EngineChoice {
        match name {
            "docker" => EngineChoice::Docker { host: native.docker_host },
            "native" => EngineChoice::Native(native),
            _ => EngineChoice::Auto(native),
        }
    }
}

impl NativeChoice {
    /// With the usual Docker.
    fn of(data: &Path, cache_bytes: Option<u64>) -> NativeChoice {
        NativeChoice {
            docker_host: None,
            // Also where another version has taken its place since.
            program: PathBuf::from("/proc/self/exe"),
            cache: data.join("cache").join("images"),
            cache_bytes: cache_bytes.unwrap_or(limits::IMAGE_CACHE_BYTES),
        }
    }

    fn place(
        self,
        docker: Docker,
        folder: &Path,
        instance: String,
        slots: usize,
        allow_caps: Vec<String>,
    ) -> NativePlace {
        let NativeChoice { program, cache, cache_bytes, .. } = self;
        let folder = folder.to_owned();
        NativePlace { docker, folder, cache, cache_bytes, instance, slots, allow_caps, program }
    }
}

impl Setup {
    pub(crate) fn new(
        listener: TcpListener,
        folder: Held,
        data: &DataDir,
        instance: &str,
        token: Token,
    ) -> Setup {
        Setup {
            listener,
            folder,
            instance: instance.to_owned(),
            token,
            slots: std::thread::available_parallelism().map_or(1, usize::from),
            engine: EngineChoice::Docker { host: None },
            allow_caps: Vec::new(),
            max_output_bytes: limits::OUTPUT_CAP_BYTES,
            spool_bytes: limits::SPOOL_BYTES,
            source_cache: data.path().join("cache").join("sources"),
            source_cache_bytes: limits::SOURCE_CACHE_BYTES,
            build_cache: data.path().join("cache").join("builds"),
            build_cache_bytes: limits::BUILD_CACHE_BYTES,
            owner: data.instance().to_owned(),
            patience: Patience::default(),
            deadlines: Deadlines::default(),
        }
    }
}

/// A worker that serves.
pub(crate) struct Worker {
    address: SocketAddr,
    steps: Steps,
    /// Ends the streams of steps that are handed over.
    cut: CancellationToken,
    closing: CancellationToken,
    serving: JoinHandle<()>,
    housekeeping: JoinHandle<()>,
    _folder: Held,
}

impl Worker {
    pub(crate) async fn begin(setup: Setup) -> Result<Worker, SetupError> {
        let Setup { listener, folder, instance, token, slots, engine, allow_caps, .. } = setup;
        let (max_output_bytes, spool_bytes) = (setup.max_output_bytes, setup.spool_bytes);
        let (source_cache, source_cache_bytes) = (setup.source_cache, setup.source_cache_bytes);
        let unusable = |error: std::io::Error| unusable(&folder.path, &error);
        let builder = |docker| {
            Builds::open(docker, &setup.build_cache, &setup.owner, setup.build_cache_bytes)
                .map(Builder::Docker)
                .map_err(unusable)
        };
        let (engine, builder) = match engine {
            EngineChoice::Docker { host } => {
                let docker = Docker::new(host.as_deref(), &instance, slots, allow_caps, setup.deadlines);
                (Engine::Docker(docker.clone()), builder(docker)?)
            }
            EngineChoice::Auto(choice) => {
                let (host, caps) = (choice.docker_host.as_deref(), allow_caps.clone());
                let docker = Docker::new(host, &instance, slots, caps, setup.deadlines);
                let cache = choice.cache.clone();
                let place = choice.place(docker.clone(), &folder.path, instance, slots, allow_caps);
                let native = Native::new(place).map_err(unusable)?;
                let builder = builder(docker.clone())?;
                (Engine::Auto(Auto::new(docker, native, &cache).map_err(unusable)?), builder)
            }
            EngineChoice::Native(choice) => {
                let host = choice.docker_host.as_deref();
                let docker = Docker::new(host, &instance, slots, Vec::new(), setup.deadlines);
                let builder = builder(docker.clone())?;
                let place = choice.place(docker, &folder.path, instance, slots, allow_caps);
                (Engine::Native(Native::new(place).map_err(unusable)?), builder)
            }
            EngineChoice::Fake(fake) => (Engine::Fake(fake.clone()), Builder::Fake(fake)),
        };
        let capacity = Capacity { slots, max_output_bytes, spool_bytes };
        let address = listener.local_addr().map_err(unusable)?;
        let (path, patience) = (folder.path.clone(), setup.patience);
        let opened = tokio::task::spawn_blocking(move || {
            let sources = Sources::open(&source_cache, source_cache_bytes)?;
            let steps = Steps::open(&path, engine, builder, sources, capacity, patience)?;
            if let Err(error) = steps.keep_reserve() {
                tracing::warn!("no room could be kept for the ends of steps: {error}");
            }
            steps.resume()?;
            Ok(steps)
        });
        let steps =
            opened.await.map_err(std::io::Error::other).and_then(|opened| opened).map_err(unusable)?;
        let (cut, closing) = (CancellationToken::new(), CancellationToken::new());
        let router = routes::router(api::Api { steps: steps.clone(), cut: cut.clone() }, token);
        let serving = tokio::spawn(http::serve(listener, router, closing.clone()));
        let housekeeping = tokio::spawn(keep_house(steps.clone()));
        Ok(Worker { address, steps, cut, closing, serving, housekeeping, _folder: folder })
    }

    #[cfg(test)]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Comes back when all is tidy.
    pub(crate) async fn stop(self, how: Stop) {
        self.housekeeping.abort();
        match how {
            // Readers hear the ends, so their streams are left to end by themselves.
            Stop::Interrupt => {
                self.steps.cancel_all().await;
                self.steps.engine().leave(true).await;
            }
            Stop::Terminate => {
                self.steps.leave_all().await;
                self.steps.engine().leave(false).await;
                self.cut.cancel();
            }
        }
        self.closing.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!("serving failed: {error}");
        }
    }
}

async fn keep_house(steps: Steps) {
    let mut kept: Option<Instant> = None;
    loop {
        if let Err(fault) = steps.sweep().await {
            tracing::debug!("nothing can be swept now: {fault}");
        }
        if let Err(fault) = steps.sweep_images().await {
            tracing::debug!("the images that were built cannot be looked through now: {fault}");
        }
        steps.record_ends().await;
        let due = steps.are_full() || kept.is_none_or(|kept| kept.elapsed() >= limits::KEEP_RECORDS);
        let on_disk = steps.clone();
        let tidied = tokio::task::spawn_blocking(move || {
            if due {
                on_disk.keep_house()?;
            }
            if let Err(error) = on_disk.sources().sweep() {
                tracing::warn!("the sources could not be kept in order: {error}");
            }
            on_disk.keep_reserve()
        });
        match tidied.await.map_err(std::io::Error::other).and_then(|tidied| tidied) {
            Ok(()) if due => kept = Some(Instant::now()),
            Ok(()) => {}
            Err(error) => tracing::warn!("the records could not be kept in order: {error}"),
        }
        if steps.has_disk_trouble() {
            tokio::time::sleep(limits::DISK_AGAIN).await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(limits::SWEEP) => {}
                () = steps.disk_trouble() => {}
            }
        }
    }
}
