//! Watching one started container until it is certain how it ended, over a restart of Docker too.
//!
//! That a container has ended says nothing about its command when Docker itself was restarted meanwhile: Docker
//! ends the containers that it does not keep, and some commands answer that with exit code 0. It even answers
//! `wait` then, and where systemd holds its socket the next call goes to the next Docker without a pause. So an
//! exit code is believed only from the Docker that made the container. Which one that was is in a label: each
//! Docker makes its network `bridge` anew when it begins, unless it keeps its containers. No clock has a say.

use bollard::Docker as Client;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::WaitContainerOptions;
use bytes::BytesMut;
use common::{Reason, Stream as Of};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use std::pin::Pin;
use std::time::SystemTime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::{Exit, Fault, Happening};
use super::client::Trouble;
use super::{Docker, MADE_BY, clock};
use crate::limits;

/// More is not waited for once there is so much.
const BATCH_BYTES: usize = 128 * 1024;

/// Less than this is waited on a little, in case it is one of many small writes. More is a step that prints as
/// fast as it can, and is not to be slowed down.
const SMALL_BYTES: usize = 8 * 1024;

type Pieces = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;

/// What a container prints, if we are attached to it.
pub(super) struct Output(Option<Pieces>);

impl Output {
    pub(super) fn live(pieces: Pieces) -> Output {
        Output(Some(pieces))
    }

    /// Of a container that nobody was attached to.
    pub(super) fn missed() -> Output {
        Output(None)
    }
}

pub(super) struct Watcher {
    docker: Docker,
    client: Client,
    name: String,
    tell: mpsc::Sender<Happening>,
}

/// Nobody listens any more.
struct Unheard;

enum Followed {
    /// Docker says that it is over, and all that it printed was passed on.
    ToTheEnd,
    /// Docker stopped talking.
    Broken,
}

impl Watcher {
    pub(super) fn new(
        docker: Docker,
        client: Client,
        name: String,
        tell: mpsc::Sender<Happening>,
    ) -> Watcher {
        Watcher { docker, client, name, tell }
    }

    pub(super) async fn watch(self, output: Output) {
        let Ok(last) = self.until_known(output).await else { return };
        // Unheard as well: then nobody wants to know.
        drop(self.tell.send(last).await);
    }

    async fn until_known(&self, mut output: Output) -> Result<Happening, Unheard> {
        loop {
            let followed = match output.0.take() {
                Some(pieces) => self.follow(pieces).await?,
                None => Followed::Broken,
            };
            let (found, at_once) = match self.look().await? {
                Ok(seen) => seen,
                Err(fault) => return Ok(Happening::Lost { fault, exit_code: None }),
            };
            if has_ended(&found) {
                let heard_all = matches!(followed, Followed::ToTheEnd);
                if !heard_all {
                    self.tell(Happening::Gap).await?;
                }
                return self.conclude(&found, heard_all && at_once).await;
            }
            if started_at(&found).is_none() {
                let fault = Fault {
                    reason: Reason::ExitUnknown,
                    message: "docker says of a container that it ran that it never started".to_owned(),
                    hint: None,
                };
                return Ok(Happening::Lost { fault, exit_code: None });
            }
            // It still runs: listen again, from here on.
            match self.docker.attach(&self.client, &self.name).await {
                Ok(live) => {
                    output = live;
                    self.tell(Happening::Gap).await?;
                }
                Err(_) => sleep(limits::ENGINE_RETRY).await,
            }
        }
    }

    /// Passes on what is printed, until Docker says that the container has ended.
    async fn follow(&self, mut pieces: Pieces) -> Result<Followed, Unheard> {
        // `not-running` answers at once of a container that was not started yet. This one was.
        let condition = WaitContainerOptions { condition: "not-running".to_owned() };
        let wait = self.client.wait_container(&self.name, Some(condition));
        let mut wait = std::pin::pin!(wait);
        let mut open = true;
        let mut told = Instant::now();
        loop {
            tokio::select! {
                piece = pieces.next(), if open => {
                    let mut batch = Batch::default();
                    open = batch.add(piece) && batch.fill(&mut pieces);
                    if open && batch.bytes < SMALL_BYTES && told.elapsed() < limits::OUTPUT_PACE {
                        sleep_until(told + limits::OUTPUT_PACE).await;
                        open = batch.fill(&mut pieces);
                    }
                    self.tell_all(batch).await?;
                    told = Instant::now();
                }
                answer = wait.next() => match answer {
                    Some(Ok(_) | Err(Error::DockerContainerWaitError { .. })) => break,
                    Some(Err(_)) | None => return Ok(Followed::Broken),
                },
                () = self.tell.closed() => return Err(Unheard),
            }
        }
        while open {
            match timeout(limits::LAST_OUTPUT, pieces.next()).await {
                Ok(piece) => {
                    let mut batch = Batch::default();
                    open = batch.add(piece) && batch.fill(&mut pieces);
                    self.tell_all(batch).await?;
                }
                Err(_) => {
                    self.tell(Happening::Gap).await?;
                    open = false;
                }
            }
        }
        Ok(Followed::ToTheEnd)
    }

    async fn tell_all(&self, batch: Batch) -> Result<(), Unheard> {
        for (stream, bytes) in batch.pieces {
            self.tell(Happening::Output(stream, bytes.freeze())).await?;
        }
        if batch.cut { self.tell(Happening::Gap).await } else { Ok(()) }
    }

    /// The container as Docker has it now, and whether Docker said so at once.
    async fn look(&self) -> Result<Result<(ContainerInspectResponse, bool), Fault>, Unheard> {
        let (found, at_once) = self.ask(|| self.docker.inspect(&self.client, &self.name)).await?;
        Ok(match found {
            Ok(found) => Ok((found, at_once)),
            Err(Trouble::NotFound(_)) => Err(Fault::new(
                Reason::ContainerLost,
                "the container is gone, and with it its exit code",
                "did somebody remove it, or prune docker? run it again",
            )),
            Err(trouble) => Err(self.docker.fault(trouble)),
        })
    }

    /// Asks until Docker answers, or has been away for too long; and whether it answered at once.
    async fn ask<T, C>(&self, call: impl Fn() -> C) -> Result<(Result<T, Trouble>, bool), Unheard>
    where
        C: Future<Output = Result<T, Trouble>>,
    {
        let give_up = Instant::now() + limits::ENGINE_AWAY;
        let mut at_once = true;
        loop {
            let answer = call().await;
            if matches!(answer, Ok(_) | Err(Trouble::NotFound(_))) || Instant::now() >= give_up {
                return Ok((answer, at_once));
            }
            at_once = false;
            tokio::select! {
                () = sleep(limits::ENGINE_RETRY) => {}
                () = self.tell.closed() => return Err(Unheard),
            }
        }
    }

    async fn conclude(
        &self,
        found: &ContainerInspectResponse,
        uninterrupted: bool,
    ) -> Result<Happening, Unheard> {
        let state = found.state.clone().unwrap_or_default();
        let exit_code = state.exit_code.and_then(|code| u8::try_from(code).ok());
        if let Some(fault) = self.untrusted(found, uninterrupted).await? {
            return Ok(Happening::Lost { fault, exit_code });
        }
        Ok(match exit_code {
            Some(code) => Happening::Exited(Exit {
                code,
                oom: state.oom_killed == Some(true),
                // Docker gives 137 for `exit 137` and for SIGKILL alike, and counts no resources.
                signal: None,
                cpu_ms: None,
                peak_memory_bytes: None,
            }),
            None => {
                let message = format!("docker tells no exit code that there is: {:?}", state.exit_code);
                let fault = Fault { reason: Reason::ExitUnknown, message, hint: None };
                Happening::Lost { fault, exit_code: None }
            }
        })
    }

    /// Why its exit code says nothing, if so. Asked after the container was looked at, never before.
    async fn untrusted(
        &self,
        found: &ContainerInspectResponse,
        uninterrupted: bool,
    ) -> Result<Option<Fault>, Unheard> {
        let (now, _) = self.ask(|| self.docker.which(&self.client)).await?;
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        let made_by = labels.and_then(|labels| labels.get(MADE_BY));
        Ok(match (now, made_by) {
            (Ok(now), Some(made_by)) if now == *made_by => None,
            (Ok(_), Some(_)) => Some(Fault::new(
                Reason::DockerRestart,
                "docker was restarted and ended the container",
                "run it again; with live-restore in docker's daemon.json containers survive its restarts",
            )),
            // A Docker without that network is believed if it was there all the time.
            (Err(Trouble::NotFound(_)), None) if uninterrupted => None,
            (Ok(_) | Err(_), _) => {
                let message =
                    "docker was out of sight when the container ended; its exit code is not certain";
                Some(Fault::new(Reason::ExitUnknown, message, "run it again"))
            }
        })
    }

    async fn tell(&self, happening: Happening) -> Result<(), Unheard> {
        self.tell.send(happening).await.map_err(|_| Unheard)
    }
}

/// What was printed in one go. Passing on a thousand small writes one by one costs more than making them.
#[derive(Default)]
struct Batch {
    pieces: Vec<(Of, BytesMut)>,
    bytes: usize,
    /// The connection broke within a piece.
    cut: bool,
}

impl Batch {
    /// Answers whether there can be more.
    fn add(&mut self, piece: Option<Result<LogOutput, Error>>) -> bool {
        let (stream, bytes) = match piece {
            Some(Ok(LogOutput::StdOut { message })) => (Of::Stdout, message),
            Some(Ok(LogOutput::StdErr { message })) => (Of::Stderr, message),
            // Not a frame of Docker's, or half of one.
            Some(Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. }) | Err(_)) => {
                self.cut = true;
                return false;
            }
            None => return false,
        };
        self.bytes += bytes.len();
        match self.pieces.last_mut() {
            Some((last, joined)) if *last == stream => joined.extend_from_slice(&bytes),
            Some(_) | None => self.pieces.push((stream, BytesMut::from(bytes))),
        }
        true
    }

    /// Adds what is there already.
    fn fill(&mut self, pieces: &mut Pieces) -> bool {
        while self.bytes < BATCH_BYTES {
            match pieces.next().now_or_never() {
                None => break,
                Some(piece) => {
                    if !self.add(piece) {
                        return false;
                    }
                }
            }
        }
        true
    }
}

fn has_ended(found: &ContainerInspectResponse) -> bool {
    let status = found.state.as_ref().and_then(|state| state.status);
    matches!(status, Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD))
        && started_at(found).is_some()
}

/// None if it never did.
pub(super) fn started_at(found: &ContainerInspectResponse) -> Option<SystemTime> {
    clock::parse(found.state.as_ref()?.started_at.as_deref()?)
}

/// None while it runs.
pub(super) fn finished_at(found: &ContainerInspectResponse) -> Option<SystemTime> {
    if has_ended(found) { clock::parse(found.state.as_ref()?.finished_at.as_deref()?) } else { None }
}
