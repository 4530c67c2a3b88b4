//! Watching one started container until it is certain how it ended, over a restart of Docker too.
//!
//! That a container has ended says nothing about its command when Docker itself was restarted meanwhile: Docker
//! ends the containers that it does not keep, and some commands answer that with exit code 0. It even answers
//! `wait` then, and where systemd holds its socket the next call goes to the next Docker without a pause. So an
//! exit code is believed only from the Docker that made the container. Which one that was is in a label: each
//! Docker makes its network `bridge` anew when it begins, unless it keeps its containers. No clock has a say.
//!
//! Nor is a stream believed that says nothing: an answer to `wait` may never come, and output may be cut. Each is
//! only a sign that it is time to look, and after some silence we look without one.

use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerWaitResponse};
use bollard::query_parameters::WaitContainerOptions;
use common::Reason;
use futures_util::{Stream, StreamExt as _};
use std::pin::Pin;
use std::time::SystemTime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::{Exit, Fault, Happening};
use super::client::Trouble;
use super::output::Output;
use super::{Docker, MADE_BY, clock};
use crate::limits;

/// The exit code that a Docker which keeps its containers gives to those that ended in the moment in which it was
/// restarted. Commands end with it too, but then the Docker that tells it was there.
const NOT_KNOWN: u8 = 255;

type Wait = Pin<Box<dyn Stream<Item = Result<ContainerWaitResponse, Error>> + Send>>;

pub(super) struct Watcher {
    docker: Docker,
    client: Client,
    /// The id, which stays whatever people rename.
    container: String,
    tell: mpsc::Sender<Happening>,
}

/// Nobody listens any more.
struct Unheard;

/// Why it is time to look at the container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// `wait` was answered.
    Waited,
    /// It broke: Docker may have gone.
    WaitBroke,
    /// Its output broke or closed, or nothing came for long.
    Output,
}

impl Watcher {
    pub(super) fn new(
        docker: Docker,
        client: Client,
        container: String,
        tell: mpsc::Sender<Happening>,
    ) -> Watcher {
        Watcher { docker, client, container, tell }
    }

    pub(super) async fn watch(self, output: Output) {
        let Ok(last) = self.until_known(output).await else { return };
        // Unheard as well: then nobody wants to know.
        drop(self.tell.send(last).await);
    }

    async fn until_known(&self, mut output: Output) -> Result<Happening, Unheard> {
        let mut wait = self.wait();
        loop {
            let sign = self.follow(&mut output, &mut wait).await?;
            if sign == Sign::WaitBroke {
                // What closes now closes because Docker is gone, not because the container ended; and a Docker that
                // is quick to be back may tell of an end that came meanwhile.
                output = Output::Broken;
            }
            let found = match self.look().await? {
                Ok(found) => found,
                Err(fault) => {
                    self.tell_rest(&mut output, None).await?;
                    return Ok(Happening::Lost { fault, exit_code: None });
                }
            };
            if has_ended(&found) {
                self.tell_rest(&mut output, finished_at(&found)).await?;
                return self.conclude(&found).await;
            }
            if started_at(&found).is_none() {
                return self.never_started(&found).await;
            }
            // It still runs.
            if output.is_cut() {
                match self.docker.attach(&self.client, &self.container).await {
                    Ok(live) => {
                        output = live;
                        self.tell(Happening::Gap).await?;
                    }
                    Err(_) => {
                        output = Output::Broken;
                        sleep(limits::ENGINE_RETRY).await;
                    }
                }
            }
            if sign != Sign::Output {
                sleep(limits::ENGINE_RETRY).await;
                wait = self.wait();
            }
        }
    }

    fn wait(&self) -> Wait {
        // `not-running` answers at once of a container that was not started yet. This one was.
        let condition = WaitContainerOptions { condition: "not-running".to_owned() };
        Box::pin(self.client.wait_container(&self.container, Some(condition)))
    }

    /// Passes on what is printed, until there is a sign that it may be over.
    async fn follow(&self, output: &mut Output, wait: &mut Wait) -> Result<Sign, Unheard> {
        let mut told = Instant::now();
        loop {
            let look_at = match output {
                Output::Live(_) => told + self.docker.deadlines().silence,
                Output::Closed(closed) => closed.overdue(),
                Output::Broken => return Ok(Sign::Output),
            };
            tokio::select! {
                piece = output.next() => {
                    for (stream, bytes) in output.batch(piece, told).await {
                        self.tell(Happening::Output(stream, bytes)).await?;
                    }
                    told = Instant::now();
                }
                answer = wait.next() => return Ok(match answer {
                    Some(Ok(ContainerWaitResponse { error: None, .. })) => Sign::Waited,
                    Some(Err(Error::DockerContainerWaitError { error, .. })) if error.is_empty() => Sign::Waited,
                    // An answer that tells an error is that of a Docker that stopped waiting.
                    Some(Ok(_) | Err(_)) | None => Sign::WaitBroke,
                }),
                () = sleep_until(look_at) => return Ok(Sign::Output),
                () = self.tell.closed() => return Err(Unheard),
            }
        }
    }

    /// What an ended container printed and nobody heard yet.
    async fn tell_rest(&self, output: &mut Output, finished: Option<SystemTime>) -> Result<(), Unheard> {
        // What closed before now closed when it did; what closes from now on was held open until the end.
        let whole = match output {
            Output::Live(_) => true,
            Output::Closed(closed) => closed.by_the_end(finished),
            Output::Broken => false,
        };
        while let Output::Live(_) = output {
            let Ok(piece) = timeout(self.docker.deadlines().last_output, output.next()).await else {
                *output = Output::Broken;
                break;
            };
            for (stream, bytes) in output.batch(piece, Instant::now()).await {
                self.tell(Happening::Output(stream, bytes)).await?;
            }
        }
        match output {
            Output::Closed(_) if whole => Ok(()),
            Output::Live(_) | Output::Closed(_) | Output::Broken => self.tell(Happening::Gap).await,
        }
    }

    /// The container as Docker has it now.
    async fn look(&self) -> Result<Result<ContainerInspectResponse, Fault>, Unheard> {
        let found = self.ask(|| self.docker.inspect(&self.client, &self.container)).await?;
        Ok(found.map_err(|trouble| match trouble {
            Trouble::NotFound(_) => Fault::new(
                Reason::ContainerLost,
                "the container is gone, and with it its exit code",
                "did somebody remove it, or prune docker? run it again",
            ),
            trouble => self.docker.fault(trouble),
        }))
    }

    /// Asks until Docker answers, or has been away for too long.
    async fn ask<T, C>(&self, call: impl Fn() -> C) -> Result<Result<T, Trouble>, Unheard>
    where
        C: Future<Output = Result<T, Trouble>>,
    {
        let give_up = Instant::now() + self.docker.deadlines().away;
        loop {
            let answer = call().await;
            if matches!(answer, Ok(_) | Err(Trouble::NotFound(_))) || Instant::now() >= give_up {
                return Ok(answer);
            }
            tokio::select! {
                () = sleep(limits::ENGINE_RETRY) => {}
                () = self.tell.closed() => return Err(Unheard),
            }
        }
    }

    async fn conclude(&self, found: &ContainerInspectResponse) -> Result<Happening, Unheard> {
        let state = found.state.clone().unwrap_or_default();
        let exit_code = state.exit_code.and_then(|code| u8::try_from(code).ok());
        if let Some(fault) = self.untrusted(found).await? {
            return Ok(Happening::Lost { fault, exit_code });
        }
        Ok(match exit_code {
            Some(NOT_KNOWN) if !self.docker.saw_end(&self.client, &self.container).await => {
                let message = "the command ended while docker was away, which does not know its exit code";
                let fault = Fault::new(Reason::ExitUnknown, message, "run it again");
                Happening::Lost { fault, exit_code }
            }
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

    /// Its start was answered, but Docker does not know of it: one that broke before it could write that down.
    async fn never_started(&self, found: &ContainerInspectResponse) -> Result<Happening, Unheard> {
        let fault = self.untrusted(found).await?.unwrap_or_else(|| Fault {
            reason: Reason::ExitUnknown,
            message: "docker says of a container that it ran that it never started".to_owned(),
            hint: None,
        });
        Ok(Happening::Lost { fault, exit_code: None })
    }

    /// Why what Docker says of its end says nothing, if so. Asked after the container was looked at, never before.
    async fn untrusted(&self, found: &ContainerInspectResponse) -> Result<Option<Fault>, Unheard> {
        let now = self.ask(|| self.docker.which(&self.client)).await?;
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        let made_by = labels.and_then(|labels| labels.get(MADE_BY));
        Ok(match (now, made_by) {
            (Ok(now), Some(made_by)) if now == *made_by => None,
            (Ok(_) | Err(Trouble::NotFound(_)), Some(_)) => Some(Fault::new(
                Reason::DockerRestart,
                "docker was restarted and ended the container",
                "run it again; with live-restore in docker's daemon.json containers survive its restarts",
            )),
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
