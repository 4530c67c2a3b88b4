//! An engine without containers, told what to do by the command text (`fake/script.rs`), for tests and demos.
//!
//! It keeps the same contract as the real ones, adoption included: its containers live as long as the value that
//! made them, so that a second worker in the same process finds those of the first. Every image exists, but for
//! `fake-missing`, `fake-denied` and `fake-endless`, which is being pulled for ever.

mod build;
mod script;

use bytes::Bytes;
use common::{Artifacts, Reason, StepId, StepSpec, Stream};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::super::artifacts::{Taker, Wanted};
use super::{AHEAD, Exit, Fault, Happening, Job, News, Running, Signal};
use script::Act;

/// A machine on which fake containers live. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<World>);

#[derive(Default)]
struct World {
    containers: Mutex<HashMap<String, Arc<Container>>>,
    away: AtomicBool,
    started: AtomicUsize,
    /// Images that were built: by their names, the last one; and all.
    named: Mutex<HashMap<String, String>>,
    built: Mutex<HashSet<String>>,
}

struct Container {
    /// None in one that builds.
    image_digest: Option<String>,
    workdir: String,
    /// What was written, by path from the root.
    files: Mutex<BTreeMap<String, Bytes>>,
    began: Instant,
    signal: watch::Sender<Option<Signal>>,
    ear: Mutex<Ear>,
    /// No signal ends it any more.
    hangs: AtomicBool,
}

/// Who listens, and what became of it. What is printed while nobody listens is gone.
#[derive(Default)]
struct Ear {
    listener: Option<mpsc::Sender<Happening>>,
    /// And how long it ran.
    ended: Option<(Exit, Duration)>,
}

impl Fake {
    /// From now on it does not answer, or does again.
    #[cfg(test)]
    pub(crate) fn set_away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    /// How many containers were ever started.
    #[cfg(test)]
    pub(crate) fn started(&self) -> usize {
        self.0.started.load(Ordering::SeqCst)
    }

    /// The steps that have a container now.
    #[cfg(test)]
    pub(crate) fn containers(&self) -> Vec<String> {
        lock(&self.0.containers).keys().cloned().collect()
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.0.away.load(Ordering::SeqCst) {
            return Err(Fault::new(Reason::EngineUnavailable, "the fake engine is away", "bring it back"));
        }
        Ok(())
    }

    pub(super) async fn prepare(
        &self,
        spec: &StepSpec,
        news: &watch::Sender<Option<News>>,
    ) -> Result<String, Fault> {
        self.check()?;
        let pinned = spec.image_digest.as_ref().filter(|digest| lock(&self.0.built).contains(*digest));
        if let Some(pinned) = pinned {
            return Ok(pinned.clone());
        }
        let named = lock(&self.0.named).get(&spec.image).cloned();
        let digest = named.unwrap_or_else(|| digest(&[spec.image.as_bytes()]));
        match spec.image.as_str() {
            "fake-missing" => Err(Fault::no_such_image("fake", &spec.image, "")),
            "fake-denied" => Err(Fault::new(Reason::PullDenied, "the registry says no", "log in")),
            "fake-endless" => {
                let what = format!("pulling {}", spec.image);
                news.send_replace(Some(News { what, done_bytes: Some(1), total_bytes: Some(2) }));
                std::future::pending().await
            }
            _ if spec.image_digest.as_ref().is_some_and(|pinned| *pinned != digest) => Err(Fault::new(
                Reason::ImageChanged,
                format!("image \"{}\" is not the one it was", spec.image),
                "start a new run",
            )),
            _ => Ok(digest),
        }
    }

    pub(super) fn start(&self, job: &Job) -> Result<Running, Fault> {
        self.check()?;
        let acts = script::acts(&job.spec.command, &|path| read(job, path));
        if acts.contains(&Act::StartError) {
            return Err(Fault::new(Reason::StartFailed, "the fake engine cannot start this", ""));
        }
        if let Some(running) = self.adopt(&job.step)? {
            return Ok(running);
        }
        let workdir = job.spec.workdir.as_deref().unwrap_or("/");
        Ok(self.begin(&job.step, Some(job.image_digest.clone()), workdir, acts))
    }

    fn begin(&self, step: &StepId, image_digest: Option<String>, workdir: &str, acts: Vec<Act>) -> Running {
        self.0.started.fetch_add(1, Ordering::SeqCst);
        let (listener, happenings) = mpsc::channel(AHEAD);
        let container = Arc::new(Container {
            image_digest: image_digest.clone(),
            workdir: workdir.to_owned(),
            files: Mutex::default(),
            began: Instant::now(),
            signal: watch::Sender::new(None),
            ear: Mutex::new(Ear { listener: Some(listener), ended: None }),
            hangs: AtomicBool::new(false),
        });
        lock(&self.0.containers).insert(step.to_string(), container.clone());
        let (world, name) = (self.clone(), step.to_string());
        tokio::spawn(async move { container.play(&world, &name, acts).await });
        let container = format!("fake-{step}");
        Running { container, image_digest, age: Duration::ZERO, has_ended: false, happenings }
    }

    pub(super) fn adopt(&self, step: &StepId) -> Result<Option<Running>, Fault> {
        self.check()?;
        let Some(container) = self.container(step) else { return Ok(None) };
        let (listener, happenings) = mpsc::channel(AHEAD);
        // There is room: it is new.
        drop(listener.try_send(Happening::Gap));
        let mut ear = lock(&container.ear);
        match ear.ended {
            Some((exit, _)) => drop(listener.try_send(Happening::Exited(exit))),
            None => ear.listener = Some(listener),
        }
        Ok(Some(Running {
            container: format!("fake-{step}"),
            image_digest: container.image_digest.clone(),
            age: ear.ended.map_or_else(|| container.began.elapsed(), |(_, ran)| ran),
            has_ended: ear.ended.is_some(),
            happenings,
        }))
    }

    pub(super) fn signal(&self, step: &StepId, signal: Signal) -> Result<(), Fault> {
        self.check()?;
        if let Some(container) = self.container(step) {
            container.signal.send_replace(Some(signal));
        }
        Ok(())
    }

    pub(super) fn take_artifacts(
        &self,
        step: &StepId,
        spec: &StepSpec,
        folder: &Path,
    ) -> Result<Artifacts, Fault> {
        self.check()?;
        let container = self.container(step).ok_or_else(|| Fault::not_taken("the container is gone"))?;
        let wanted = Wanted::new(&container.workdir, spec).map_err(Fault::not_taken)?;
        let mut taker = Taker::new(folder, &wanted, None).map_err(Fault::not_taken)?;
        let files = lock(&container.files).clone();
        for (path, bytes) in &files {
            if wanted.looks().iter().any(|look| look.wants(path)) {
                taker.offer(path, bytes.len() as u64, None, &bytes[..]).map_err(Fault::not_taken)?;
            }
        }
        Ok(taker.end())
    }

    pub(super) fn remove(&self, step: &StepId) -> Result<(), Fault> {
        self.signal(step, Signal::Kill)?;
        if self.container(step).is_some_and(|container| container.hangs.load(Ordering::SeqCst)) {
            return Err(Fault::new(Reason::EngineUnavailable, "the container cannot be killed", "reboot"));
        }
        lock(&self.0.containers).remove(step.as_str());
        Ok(())
    }

    pub(super) fn sweep(&self, keep: &(dyn Fn(&str) -> bool + Sync)) -> HashSet<String> {
        let mut containers = lock(&self.0.containers);
        containers.retain(|step, container| {
            let kept = keep(step) || container.hangs.load(Ordering::SeqCst);
            if !kept {
                container.signal.send_replace(Some(Signal::Kill));
            }
            kept
        });
        containers.keys().cloned().collect()
    }

    fn container(&self, step: &StepId) -> Option<Arc<Container>> {
        lock(&self.0.containers).get(step.as_str()).cloned()
    }
}

impl Container {
    async fn play(&self, world: &Fake, step: &str, acts: Vec<Act>) {
        let mut status = 0;
        let mut traps = false;
        for act in acts {
            let done = match act {
                Act::Print(stream, bytes) => self.interruptible(traps, self.print(stream, bytes)).await,
                Act::Write(path, bytes) => {
                    let path = if path.starts_with('/') {
                        path
                    } else {
                        format!("{}/{path}", self.workdir.trim_end_matches('/'))
                    };
                    lock(&self.files).insert(path, bytes);
                    Ok(())
                }
                Act::Flood(bytes) => self.interruptible(traps, self.flood(bytes)).await,
                Act::Sleep(time) => self.interruptible(traps, tokio::time::sleep(time)).await,
                Act::Trap => {
                    traps = true;
                    Ok(())
                }
                Act::Status(code) => {
                    status = code;
                    continue;
                }
                Act::Exit(code) => return self.end(code, false).await,
                Act::Hang => {
                    self.hangs.store(true, Ordering::SeqCst);
                    std::future::pending().await
                }
                Act::Oom => return self.end(137, true).await,
                Act::Lose => {
                    lock(&world.0.containers).remove(step);
                    let fault = Fault::new(Reason::ContainerLost, "the container is gone", "run it again");
                    return self.tell(Happening::Lost { fault, exit_code: None }).await;
                }
                Act::EngineError => {
                    let fault =
                        Fault::new(Reason::EngineUnavailable, "the fake engine broke", "run it again");
                    return self.tell(Happening::Lost { fault, exit_code: None }).await;
                }
                Act::StartError => unreachable!("it was not started"),
            };
            match done {
                Ok(()) => status = 0,
                Err(signal) => return self.end(signal, false).await,
            }
        }
        self.end(status, false).await;
    }

    /// The exit code, where a signal came first.
    async fn interruptible(&self, traps: bool, act: impl Future<Output = ()>) -> Result<(), u8> {
        let mut signals = self.signal.subscribe();
        let fatal = |signal: &Option<Signal>| match signal {
            Some(Signal::Term) => !traps,
            Some(Signal::Kill) => true,
            None => false,
        };
        let killed = async {
            match signals.wait_for(fatal).await.as_deref() {
                Ok(Some(Signal::Term)) => 143,
                Ok(Some(Signal::Kill) | None) | Err(_) => 137,
            }
        };
        tokio::select! {
            biased;
            code = killed => Err(code),
            () = act => Ok(()),
        }
    }

    async fn print(&self, stream: Stream, bytes: Bytes) {
        self.tell(Happening::Output(stream, bytes)).await;
    }

    async fn flood(&self, bytes: u64) {
        let line = Bytes::from(format!("{:0>98}\n", 7).repeat(300));
        let mut left = bytes;
        while left > 0 {
            let piece = line.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.print(Stream::Stdout, line.slice(..piece)).await;
            left -= piece as u64;
        }
    }

    async fn end(&self, code: u8, oom: bool) {
        let exit = Exit { code, oom, signal: None, cpu_ms: None, peak_memory_bytes: None };
        let listener = {
            let mut ear = lock(&self.ear);
            ear.ended = Some((exit, self.began.elapsed()));
            ear.listener.take()
        };
        if let Some(listener) = listener {
            // Unheard, it is still there for the worker that adopts it.
            drop(listener.send(Happening::Exited(exit)).await);
        }
    }

    async fn tell(&self, happening: Happening) {
        let listener = lock(&self.ear).listener.clone();
        if let Some(listener) = listener {
            // Unheard, it is gone: the worker that adopts it begins with a gap.
            drop(listener.send(happening).await);
        }
    }
}

fn digest(of: &[&[u8]]) -> String {
    let hex = Sha256::digest(of.concat()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256:{hex}")
}

/// Held for a few instructions only, never over an await.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file of the step's source, the only ones that there are.
fn read(job: &Job, path: &str) -> Option<Bytes> {
    let (tree, at) = job.source()?;
    let within = path.strip_prefix(at)?.strip_prefix('/')?;
    std::fs::read(tree.files().join(within)).ok().map(Bytes::from)
}
