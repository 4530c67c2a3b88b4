//! A step's life, from the queue to its end: the one place that decides how a step ends.
//!
//! Each step has one such life, and one owner of every decision about it, so that two can never both win. What
//! decides against a step (a cancel, its time limit) is on disk before the first signal is sent; how it ended is
//! on disk before anyone is told; and what is told last is told once. A life that is handed over stops without an
//! end: the next worker goes on with it. Knows neither HTTP nor how containers are made.

use common::{Artifacts, Reason, StepEvent, StepSpec};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::age;
use super::builder::Order;
use super::ends::{built, decision_event, disk_fault, errored, exited, words};
use super::engine::{Fault, Happening, Job, News, Running};
use super::kill::Kill;
use super::queue::Slot;
use super::sources::Tree;
use super::spool::{Decision, Pen, Phase};
use super::step::Step;
use super::steps::Steps;
use crate::limits;

/// A container may be removed by any worker so long after its time limit: the kill, and some slack.
const DEADLINE_SLACK_S: u64 = 120;

/// An engine keeps to its time itself, and may be late by so much.
const LATE: Duration = Duration::from_secs(10);

/// What a life comes to.
enum Done {
    Ended(StepEvent),
    HandedOver,
}

pub(super) struct Life {
    steps: Steps,
    step: Arc<Step>,
    spec: StepSpec,
    /// What its spec has as source; None also where that went with an earlier worker.
    tree: Option<Arc<Tree>>,
    pen: Pen,
    /// Fires when this worker hands over to the next.
    hand_over: CancellationToken,
}

impl Life {
    pub(super) fn new(
        steps: Steps,
        step: Arc<Step>,
        spec: StepSpec,
        tree: Option<Arc<Tree>>,
        pen: Pen,
    ) -> Life {
        let hand_over = steps.hand_over().clone();
        Life { steps, step, spec, tree, pen, hand_over }
    }

    /// To the end, or until this worker hands over. `begun`: a worker before this one had taken the step on.
    pub(super) async fn live(self, begun: bool) {
        let mut slot = None;
        match self.go(&mut slot, begun).await {
            Done::HandedOver => {
                if self.spec.build().is_some() {
                    // The next worker cannot take it over, and begins it again.
                    self.steps.builder().remove(&self.step.id).await;
                }
                self.pen.put_down().await;
            }
            Done::Ended(event) => match Box::pin(self.take_artifacts(&event)).await {
                Ok(artifacts) => Box::pin(self.end(event, artifacts, slot, begun)).await,
                Err(Left) => self.pen.put_down().await,
            },
        }
    }

    /// Which files are kept of a step that has ended so. Its container is there still.
    async fn take_artifacts(&self, event: &StepEvent) -> Result<Option<Artifacts>, Left> {
        let wants_none = self.spec.artifacts.is_empty() && self.spec.junit.is_empty();
        if wants_none || self.step.spool.phase() != Phase::Running {
            return Ok(None);
        }
        let why_none = match event {
            StepEvent::Exited { .. } | StepEvent::TimedOut { .. } => None,
            // Who cancelled it may want to see how far it came; but one that nobody will ask for is let go.
            StepEvent::Cancelled { reason: Reason::ShutDown | Reason::ReaderLeft, .. } => {
                Some("nobody is left to ask for them".to_owned())
            }
            StepEvent::Cancelled { .. } => None,
            StepEvent::Errored { .. } => Some("what became of the container is not certain".to_owned()),
            StepEvent::Queued
            | StepEvent::Preparing { .. }
            | StepEvent::Started { .. }
            | StepEvent::Output { .. }
            | StepEvent::Dropped { .. }
            | StepEvent::Gap { .. }
            | StepEvent::Artifacts(_) => Some("the step has not ended".to_owned()),
        };
        if let Some(why) = why_none.or_else(|| self.steps.shortage()) {
            return Ok(Some(none_taken(&why)));
        }
        let folder = self.step.spool.artifacts();
        let engine = self.steps.engine();
        let is_cancelled = matches!(event, StepEvent::Cancelled { .. });
        let taken = tokio::select! {
            biased;
            () = self.hand_over.cancelled() => return Err(Left),
            _ = self.step.asked_to_stop(), if !is_cancelled => Err("the step was cancelled meanwhile".to_owned()),
            taken = timeout(limits::ARTIFACTS + LATE, engine.take_artifacts(&self.step.id, &self.spec, &folder)) => {
                match taken {
                    Ok(taken) => taken.map_err(|fault| fault.message),
                    Err(_) => Err("the engine does not answer".to_owned()),
                }
            }
        };
        Ok(Some(match taken {
            Ok(artifacts) => {
                self.steps.takes(artifacts.files.iter().map(|file| file.size_bytes).sum());
                artifacts
            }
            Err(why) => none_taken(&why),
        }))
    }

    async fn go(&self, slot: &mut Option<Slot>, begun: bool) -> Done {
        let went = self.try_go(slot, begun).await;
        went.unwrap_or_else(|error| Done::Ended(errored(disk_fault(&error), 0, None)))
    }

    /// Fails only where the spool cannot be written. What comes after the queue is boxed: thousands of steps wait
    /// in it, and need no more memory than it takes to wait.
    async fn try_go(&self, slot: &mut Option<Slot>, begun: bool) -> io::Result<Done> {
        let mut decided = self.step.spool.decision();
        if decided.is_some() {
            self.step.settle();
        }
        let order = self.order();
        if begun
            && order.is_none()
            && let Some(done) = Box::pin(self.go_on(slot, &mut decided)).await?
        {
            return Ok(done);
        }
        if let Some(decision) = decided {
            return Ok(Done::Ended(decision_event(decision, 0, None)));
        }
        if let Some(order) = &order {
            if self.step.spool.phase() == Phase::Running {
                // It ended with the worker that had begun it. What was built by then is not built again.
                self.pen.say(StepEvent::Gap { bytes: None }).await?;
            }
            if let Some(running) = Box::pin(self.steps.builder().look(order)).await {
                return Box::pin(self.watch(running, None)).await;
            }
        }
        match self.queue().await {
            Ok(taken) => *slot = Some(taken),
            Err(stopped) => return Ok(stopped.done()),
        }
        Box::pin(self.run()).await
    }

    /// With what an earlier worker had begun; None where there is no container to go on with.
    async fn go_on(
        &self,
        slot: &mut Option<Slot>,
        decided: &mut Option<Decision>,
    ) -> io::Result<Option<Done>> {
        match self.noting(decided, self.find()).await? {
            Ok(Some(running)) => {
                // It runs already, so it cannot wait for a slot; but it takes one.
                *slot = Some(self.steps.slots().take_at_once());
                self.watch(self.aged(running), *decided).await.map(Some)
            }
            Ok(None) if decided.is_none() && self.step.spool.phase() == Phase::Running => {
                let fault = Fault::new(
                    Reason::ContainerLost,
                    "the container was gone when the worker came back, and with it its exit code",
                    "run it again",
                );
                Ok(Some(Done::Ended(errored(fault, 0, None))))
            }
            Ok(None) => Ok(None),
            Err(stopped) => Ok(Some(stopped.done())),
        }
    }

    /// In its slot: image, container, end.
    async fn run(&self) -> io::Result<Done> {
        if self.spec.tree().is_some() && self.tree.is_none() {
            let fault = Fault::new(
                Reason::UnknownTree,
                "the source of this step went while no worker ran",
                "run it again: the source is sent once more",
            );
            return Ok(Done::Ended(errored(fault, 0, None)));
        }
        let (tell, news) = watch::channel(None);
        if let Some(order) = self.order() {
            return match self.prepare(news, self.steps.builder().build(&order, &tell)).await? {
                Ok(running) => self.watch(running, None).await,
                Err(stopped) => Ok(stopped.done()),
            };
        }
        let preparing = async {
            let image_digest = self.steps.engine().prepare(&self.spec, &tell).await?;
            let tree = self.tree_over(&image_digest).await?;
            Ok((image_digest, tree))
        };
        let (image_digest, tree) = match self.prepare(news, preparing).await? {
            Ok(prepared) => prepared,
            Err(stopped) => return Ok(stopped.done()),
        };
        self.steps.builder().note_use(&image_digest);
        let job = Job {
            step: self.step.id.clone(),
            spec: self.spec.clone(),
            tree,
            image_digest,
            deadline_s: now_s() + u64::from(self.timeout_s()) + DEADLINE_SLACK_S,
        };
        let engine = self.steps.engine();
        engine.settle(&job);
        let mut decided = None;
        // Where there may be a container, the record has to survive whatever that survives.
        let recorded = async {
            self.pen.sync().await?;
            self.note_start().await
        };
        let started = if engine.outlasts_power(&job.step) {
            recorded.await?;
            self.noting(&mut decided, engine.start(&job)).await?
        } else {
            let (recorded, started) = tokio::join!(recorded, self.noting(&mut decided, engine.start(&job)));
            recorded?;
            started?
        };
        match (started, decided) {
            (Ok(running), _) if running.age.is_zero() && engine.outlasts_power(&job.step) => {
                // More exactly now. Without it the time that the engine took counts as well.
                if let Err(error) = self.note_start().await {
                    tracing::warn!(step = %self.step.id, "when it started could not be noted: {error}");
                }
                self.watch(running, decided).await
            }
            (Ok(running), _) if running.age.is_zero() => self.watch(running, decided).await,
            (Ok(running), _) => self.watch(self.aged(running), decided).await,
            // What does not run needs no stopping.
            (Err(_), Some(decision)) => Ok(Done::Ended(decision_event(decision, 0, None))),
            (Err(fault), None) => Ok(Done::Ended(errored(fault, 0, None))),
        }
    }

    /// The source as it is to lie over this image.
    async fn tree_over(&self, image_digest: &str) -> Result<Option<Arc<Tree>>, Fault> {
        match self.steps.builder().over(image_digest, self.tree.as_deref()).await? {
            Some(manifest) => self.steps.sources().made(manifest).await.map(Some),
            None => Ok(self.tree.clone()),
        }
    }

    async fn note_start(&self) -> io::Result<()> {
        let spool = self.step.spool.clone();
        let noted = tokio::task::spawn_blocking(move || age::note_start(spool.folder()));
        noted.await.map_err(io::Error::other)?
    }

    /// A container that was found, its age by a clock that nobody can set.
    fn aged(&self, found: Running) -> Running {
        let age = age::of_adopted(self.step.spool.folder(), found.age, found.has_ended);
        Running { age, ..found }
    }

    /// Waits for the engine, however long that takes. Whoever wants the step to stop does not: it is noted at once.
    async fn noting<T>(
        &self,
        decided: &mut Option<Decision>,
        engine: impl Future<Output = T>,
    ) -> io::Result<T> {
        let mut engine = std::pin::pin!(engine);
        let reason = tokio::select! {
            biased;
            done = &mut engine => return Ok(done),
            reason = self.step.asked_to_stop(), if decided.is_none() => reason,
        };
        let decision = Decision::Cancelled(reason);
        let noted = self.record(decision).await;
        *decided = Some(decision);
        let done = engine.await;
        noted.map(|()| done)
    }

    /// The container that an earlier worker left, once the engine can be asked.
    async fn find(&self) -> Result<Option<Running>, Stopped> {
        let engine = self.steps.engine();
        let give_up = Instant::now() + limits::ENGINE_AWAY;
        let spool = self.step.spool.clone();
        let told = tokio::task::spawn_blocking(move || spool.told()).await;
        let told = match told.map_err(io::Error::other).and_then(|told| told) {
            Ok(told) => told,
            Err(error) => return Err(Stopped::Fault(disk_fault(&error))),
        };
        loop {
            match engine.adopt(&self.step.id, told).await {
                Ok(found) => return Ok(found),
                Err(fault) if Instant::now() >= give_up => return Err(Stopped::Fault(fault)),
                Err(_) => {}
            }
            tokio::select! {
                () = self.hand_over.cancelled() => return Err(Stopped::HandOver),
                () = sleep(limits::ENGINE_RETRY) => {}
            }
        }
    }

    async fn queue(&self) -> Result<Slot, Stopped> {
        let patience = self.steps.patience();
        tokio::select! {
            biased;
            () = self.hand_over.cancelled() => Err(Stopped::HandOver),
            reason = self.step.asked_to_stop() => Err(Stopped::Asked(reason)),
            slot = timeout(patience.queue, self.steps.slots().take(self.step.queue_name())) => {
                slot.map_err(|_| {
                    Stopped::Fault(Fault::new(
                        Reason::QueueTimeout,
                        format!("no slot became free within {} h", patience.queue.as_secs() / 3600),
                        "give the worker more --slots, or use more workers",
                    ))
                })
            }
        }
    }

    /// The image that is to be made, where it is no command and its source is here.
    fn order(&self) -> Option<Order> {
        Some(Order {
            step: self.step.id.clone(),
            image: self.spec.image.clone(),
            build: self.spec.build()?.clone(),
            tree: self.tree.clone()?,
        })
    }

    async fn prepare<T>(
        &self,
        mut news: watch::Receiver<Option<News>>,
        preparing: impl Future<Output = Result<T, Fault>>,
    ) -> io::Result<Result<T, Stopped>> {
        let mut prepared = std::pin::pin!(preparing);
        loop {
            tokio::select! {
                biased;
                () = self.hand_over.cancelled() => return Ok(Err(Stopped::HandOver)),
                reason = self.step.asked_to_stop() => return Ok(Err(Stopped::Asked(reason))),
                result = &mut prepared => return Ok(result.map_err(Stopped::Fault)),
                // Its sender lives as long as this loop.
                Ok(()) = news.changed() => {
                    let latest = news.borrow_and_update().clone();
                    if let Some(latest) = latest {
                        self.pen.say(StepEvent::Preparing {
                            what: latest.what,
                            done_bytes: latest.done_bytes,
                            total_bytes: latest.total_bytes,
                        }).await?;
                    }
                }
            }
        }
    }

    async fn say_started(&self, container: String, image_digest: Option<String>) -> io::Result<()> {
        let (engine, engine_why) = match self.spec.build() {
            Some(_) => (self.steps.builder().name(), None),
            None => self.steps.engine().of(&self.step.id),
        };
        let engine = engine.to_owned();
        self.pen.say(StepEvent::Started { container, image_digest, engine, engine_why }).await
    }

    /// From the start of the container to its end.
    async fn watch(&self, running: Running, decided: Option<Decision>) -> io::Result<Done> {
        let Running { container, image_digest, age, mut happenings, .. } = running;
        let began = Instant::now();
        let took_ms = || u64::try_from((age + began.elapsed()).as_millis()).unwrap_or(u64::MAX);
        if self.step.spool.phase() != Phase::Running {
            self.say_started(container, image_digest).await?;
        }
        let limit = Duration::from_secs(u64::from(self.timeout_s())).saturating_sub(age);
        let mut kill = Kill::new(&self.steps, &self.step.id, decided);
        let mut unsettled = false;
        loop {
            // Decisions before output: a step that never stops printing is stopped all the same.
            let happening = tokio::select! {
                biased;
                () = self.hand_over.cancelled() => return Ok(Done::HandedOver),
                reason = self.step.asked_to_stop(), if kill.decision().is_none() => {
                    self.decide(&mut kill, Decision::Cancelled(reason)).await?;
                    continue;
                }
                () = sleep_until(began + limit), if kill.decision().is_none() => {
                    self.decide(&mut kill, Decision::TimedOut).await?;
                    continue;
                }
                failed = kill.proceed(), if kill.decision().is_some() => match failed {
                    None => continue,
                    Some(fault) => return Ok(Done::Ended(errored(fault, took_ms(), None))),
                },
                happening = happenings.recv() => happening,
                () = sleep(limits::SETTLE), if unsettled => {
                    self.pen.settle().await;
                    unsettled = false;
                    continue;
                }
            };
            match happening {
                Some(Happening::Output(stream, bytes)) => {
                    self.pen.output(stream, bytes).await;
                    unsettled = true;
                }
                Some(Happening::Gap) => self.pen.say(StepEvent::Gap { bytes: None }).await?,
                Some(Happening::Exited(exit)) => {
                    return Ok(Done::Ended(match kill.decision() {
                        Some(decision) => decision_event(decision, took_ms(), Some(exit.code)),
                        None => exited(exit, took_ms()),
                    }));
                }
                Some(Happening::Made(image)) => {
                    return Ok(Done::Ended(match kill.decision() {
                        Some(decision) => decision_event(decision, took_ms(), Some(0)),
                        None => built(Ok(image), took_ms()),
                    }));
                }
                Some(Happening::NotMade { code, at }) => {
                    return Ok(Done::Ended(match kill.decision() {
                        Some(decision) => decision_event(decision, took_ms(), Some(code)),
                        None => built(Err((code, at)), took_ms()),
                    }));
                }
                Some(Happening::Lost { fault, exit_code }) => {
                    return Ok(Done::Ended(match kill.decision() {
                        // It is gone, which is what was decided.
                        Some(decision) if fault.reason == Reason::ContainerLost => {
                            decision_event(decision, took_ms(), exit_code)
                        }
                        Some(_) | None => errored(fault, took_ms(), exit_code),
                    }));
                }
                None => {
                    let fault = Fault {
                        reason: Reason::Internal,
                        message: "the engine stopped watching the container without a word".to_owned(),
                        hint: Some("the worker's log says more".to_owned()),
                    };
                    return Ok(Done::Ended(errored(fault, took_ms(), None)));
                }
            }
        }
    }

    /// On disk first: a worker after this one must not take the end that follows for the command's own.
    async fn decide(&self, kill: &mut Kill<'_>, decision: Decision) -> io::Result<()> {
        self.record(decision).await?;
        kill.begin(decision);
        Ok(())
    }

    async fn record(&self, decision: Decision) -> io::Result<()> {
        self.pen.decide(decision).await?;
        tracing::info!(step = %self.step.id, "stopping: {decision:?}");
        self.step.settle();
        Ok(())
    }

    fn timeout_s(&self) -> u32 {
        self.spec.timeout_s.unwrap_or(limits::STEP_TIMEOUT_S)
    }

    /// Recorded, then cleaned up, then told: whoever hears of the end finds nothing left of the step.
    async fn end(self, event: StepEvent, artifacts: Option<Artifacts>, slot: Option<Slot>, begun: bool) {
        let Life { steps, step, pen, .. } = self;
        // Without a slot it never came to a container, unless under an earlier worker.
        let had_container = begun || slot.is_some();
        let remove = async || if had_container { steps.remove(&step.id).await } else { Ok(()) };
        let (written, is_written) = oneshot::channel();
        let record = async {
            let recorded = pen.end(artifacts, event.clone(), written).await;
            if recorded.is_ok() {
                step.settle();
            }
            recorded
        };
        let (recorded, removed) = if steps.engine().outlasts_power(&step.id) {
            let recorded = record.await;
            (recorded, remove().await)
        } else {
            // What no loss of power spares may go while the disk still takes the end in.
            let cleaned = async {
                // An error: it cannot be written, and nobody will ask for the container again.
                drop(is_written.await);
                remove().await
            };
            tokio::join!(record, cleaned)
        };
        if let Err(fault) = &removed {
            tracing::warn!(step = %step.id, "the container is left for the next sweep: {fault}");
        }
        let beyond_reach = matches!(event, StepEvent::Errored { reason: Reason::KillFailed, .. });
        if beyond_reach && removed.is_err() {
            steps.quarantine(&step.id, slot);
        }
        match recorded {
            Ok(unpublished) => {
                tracing::info!(step = %step.id, "ended: {}", words(&event));
                steps.count(&event);
                unpublished.publish();
            }
            Err(error) => {
                tracing::error!(step = %step.id, "the end of a step could not be recorded: {error}");
                let event = errored(disk_fault(&error), 0, None);
                steps.count(&event);
                steps.keep_end(step, event);
            }
        }
    }
}

/// This worker hands the step over.
struct Left;

fn none_taken(why: &str) -> Artifacts {
    let problem = format!("no file was kept: {why}");
    let problem = problem.chars().filter(|c| !c.is_control()).take(1000).collect();
    Artifacts { problem: Some(problem), ..Artifacts::default() }
}

/// Why a step does not get to run.
enum Stopped {
    HandOver,
    Asked(Reason),
    Fault(Fault),
}

impl Stopped {
    fn done(self) -> Done {
        match self {
            Stopped::HandOver => Done::HandedOver,
            Stopped::Asked(reason) => Done::Ended(decision_event(Decision::Cancelled(reason), 0, None)),
            Stopped::Fault(fault) => Done::Ended(errored(fault, 0, None)),
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
