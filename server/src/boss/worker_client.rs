//! The only code that speaks to a worker: starts a step, follows it to its end through cut connections, cancels
//! it. It never starts a step anew that a worker may have seen.

mod artifacts;
mod upload;

use bytes::Bytes;
use common::{Health, Outcome, Problem, Reason, StepEvent, StepId, StepSpec, WorkerView};
use futures_util::{Stream, StreamExt as _};
use reqwest::{Response, StatusCode, header};
use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::sse;
use super::workers::WorkerAddress;
use crate::limits;

#[derive(Clone)]
pub(crate) struct WorkerClient {
    http: reqwest::Client,
    /// For what takes its time, and says nothing while it does.
    bulk: reqwest::Client,
    /// The addresses of workers that answered once. Such a one that is away is likely to come back.
    met: Arc<Mutex<HashSet<String>>>,
}

/// Why there is no more to hear of a step.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The worker does not take this spec: the pipedef's mistake.
    Refused(Problem),
    /// The worker does not have the source that this step is to see. Once it has, the step can be asked for again.
    NoTree(Problem),
    /// Ours, the machine's or the network's.
    Fault { reason: Reason, message: String, hint: Option<String> },
}

/// A step of one worker, listened to from `position` on.
pub(crate) struct Followed {
    client: WorkerClient,
    worker: WorkerAddress,
    spec: StepSpec,
    id: StepId,
    /// Where the spool continues after the last event that was handed out.
    position: u64,
    stream: Option<EventStream>,
    /// Did the worker ever tell of this step? From then on it is followed, never posted again.
    known: bool,
    patience: Patience,
}

/// How long a worker is waited for that does not serve, and with which pauses it is asked again.
struct Patience {
    heard_at: Instant,
    tries: u32,
}

struct EventStream {
    bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    decoder: sse::Decoder,
    ready: VecDeque<sse::Event>,
}

impl WorkerClient {
    pub(crate) fn new() -> WorkerClient {
        let client = || {
            reqwest::Client::builder()
                // What is on the way is chosen by the pipedef, not by this machine's environment.
                .no_proxy()
                .connect_timeout(Duration::from_secs(5))
                .tcp_nodelay(true)
                .tcp_user_timeout(limits::SILENCE)
                .tcp_keepalive(limits::KEEP_ALIVE)
                .tcp_keepalive_interval(limits::KEEP_ALIVE)
                // Shorter than the other end keeps it, so that none is used that is just being closed.
                .pool_idle_timeout(limits::SILENCE)
                .redirect(reqwest::redirect::Policy::none())
        };
        let build = |client: reqwest::ClientBuilder| {
            client.build().expect("a client without TLS needs nothing that could be missing")
        };
        // Of headers and of each read after them.
        let http = build(client().read_timeout(limits::SILENCE));
        WorkerClient { http, bulk: build(client()), met: Arc::default() }
    }

    fn has_met(&self, worker: &WorkerAddress) -> bool {
        self.met.lock().expect("no panic under this lock").contains(&worker.base)
    }

    fn meet(&self, worker: &WorkerAddress) {
        self.met.lock().expect("no panic under this lock").insert(worker.base.clone());
    }

    /// Listens to a step from this position of its spool on. One that is not `known` does not have to exist yet.
    /// `spec.id` has to be set.
    pub(crate) fn follow(
        &self,
        worker: WorkerAddress,
        id: StepId,
        spec: StepSpec,
        position: u64,
        known: bool,
    ) -> Followed {
        Followed {
            client: self.clone(),
            worker,
            spec,
            id,
            position,
            stream: None,
            known,
            patience: Patience::new(),
        }
    }

    /// Asks once that a step be cancelled. That it was, its events tell.
    pub(crate) async fn cancel(&self, worker: &WorkerAddress, id: &StepId) -> Result<(), reqwest::Error> {
        let url = format!("{}/steps/{id}", worker.base);
        let sent = self.http.delete(url).bearer_auth(&worker.token).timeout(Duration::from_secs(10)).send();
        sent.await?.error_for_status().map(|_| ())
    }

    /// How a worker is, as a row of a list; its address is for the caller to fill in. It takes 15 s at most.
    pub(crate) async fn look(&self, worker: &WorkerAddress, token_hint: &str) -> WorkerView {
        let not_well = |why: &str, hint: &str| WorkerView {
            why: Some(why.to_owned()),
            hint: Some(hint.to_owned()),
            ..WorkerView::default()
        };
        match self.probe(worker).await {
            Probe::Ours => {}
            Probe::OtherToken => return not_well("it does not take our token", token_hint),
            Probe::Other => {
                return not_well(
                    "what answers there, or does not answer, is no worker",
                    "look at the address",
                );
            }
            Probe::Nothing => {
                return not_well("nothing listens there", "start a worker there: bettertest --worker");
            }
        }
        match self.health(worker).await {
            Some((health, _)) => {
                let (why, hint) =
                    match health.why.as_deref().map(|why| why.split_once("\nhint: ").unwrap_or((why, ""))) {
                        Some((why, "")) => (Some(why.to_owned()), None),
                        Some((why, hint)) => (Some(why.to_owned()), Some(hint.to_owned())),
                        None => (None, None),
                    };
                WorkerView {
                    ok: health.ok,
                    why,
                    hint,
                    version: Some(health.version),
                    engine: Some(health.engine),
                    slots: Some(health.slots),
                    ..WorkerView::default()
                }
            }
            None => not_well("it does not say how it is", "is it of the same version as this boss?"),
        }
    }

    /// What a worker says of itself, and its clock as HTTP writes it.
    pub(crate) async fn health(&self, worker: &WorkerAddress) -> Option<(Health, Option<String>)> {
        let asked =
            self.http.get(format!("{}/health", worker.base)).header(header::ACCEPT, "application/json");
        let answer = asked.timeout(Duration::from_secs(5)).send().await.ok()?;
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        Some((answer.json().await.ok()?, date))
    }

    /// Does a worker answer at this address, and does it take this token?
    pub(crate) async fn probe(&self, worker: &WorkerAddress) -> Probe {
        // Without the token first: what listens there may be anybody.
        let health = self.http.get(format!("{}/health", worker.base)).timeout(Duration::from_secs(5)).send();
        match health.await {
            Ok(answer) if answer.headers().contains_key("bettertest-version") => {}
            Ok(_) => return Probe::Other,
            Err(error) if error.is_connect() => return Probe::Nothing,
            Err(_) => return Probe::Other,
        }
        let url = format!("{}/steps", worker.base);
        let asked = self.http.get(url).bearer_auth(&worker.token).timeout(Duration::from_secs(5)).send();
        match asked.await {
            Ok(answer) if answer.status().is_success() => Probe::Ours,
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => Probe::OtherToken,
            Ok(_) => Probe::Other,
            Err(error) if error.is_connect() => Probe::Nothing,
            Err(_) => Probe::Other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    Ours,
    OtherToken,
    /// Something answers that is no worker of ours.
    Other,
    Nothing,
}

impl Followed {
    /// The next event and the position after it. After an end nothing may be asked for.
    pub(crate) async fn next(&mut self) -> Result<(StepEvent, u64), Trouble> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.connect().await?;
                continue;
            };
            if let Some(event) = stream.ready.pop_front() {
                let Some(position) = event.id.filter(|position| *position < MOST) else {
                    return Err(broken(&self.worker, "an event without a position"));
                };
                if position <= self.position {
                    return Err(broken(&self.worker, "a position that was there before"));
                }
                let said = serde_json::from_slice(&event.data)
                    .map_err(|error| broken(&self.worker, &format!("an event that is none: {error}")))?;
                self.position = position;
                return Ok((said, position));
            }
            match stream.bytes.next().await {
                Some(Ok(bytes)) => {
                    self.patience.heard();
                    let EventStream { decoder, ready, .. } = stream;
                    decoder
                        .feed(&bytes, |event| ready.push_back(event))
                        .map_err(|error| broken(&self.worker, &error.to_string()))?;
                }
                // Cut, or silent for too long, before the end was told.
                Some(Err(_)) | None => {
                    self.stream = None;
                    let error =
                        format!("the worker {} does not tell how step {} ended", self.worker.base, self.id);
                    let problem = Problem::new(error, "its log may say why");
                    self.wait_or_give_up(NotNow { reason: Reason::WorkerLost, problem, taken: true }).await?;
                }
            }
        }
    }

    /// Connects once, or waits a little and leaves the next try to the next call.
    async fn connect(&mut self) -> Result<(), Trouble> {
        let Followed { client, worker, spec, id, position, known, .. } = &*self;
        let request = if *known {
            let url = format!("{}/steps/{id}/events", worker.base);
            client.http.get(url).header("last-event-id", position.to_string())
        } else {
            client.http.post(format!("{}/run", worker.base)).json(spec)
        };
        let request = request.bearer_auth(&worker.token);
        let why = match request.send().await {
            Ok(answer) if answer.status().is_success() => {
                // Only what it sends counts as heard: a stream may be opened again and again and say nothing.
                self.known = true;
                self.client.meet(&self.worker);
                self.stream = Some(EventStream {
                    bytes: Box::pin(answer.bytes_stream()),
                    decoder: sse::Decoder::default(),
                    ready: VecDeque::new(),
                });
                return Ok(());
            }
            Ok(answer) => {
                let problem = self.not_served(answer).await?;
                // Whatever a worker says, a step that it does not take is nobody's failure.
                let ours = problem.reason.filter(|reason| reason.outcome() == Outcome::Errored);
                NotNow { reason: ours.unwrap_or(Reason::EngineUnavailable), problem, taken: false }
            }
            Err(error) => unreachable(&self.worker, &error),
        };
        self.wait_or_give_up(why).await
    }

    /// An answer that says no: for good, or (503) for now.
    async fn not_served(&mut self, answer: Response) -> Result<Problem, Trouble> {
        let status = answer.status();
        let text = words_of(answer).await;
        let problem: Problem = serde_json::from_str(&text).unwrap_or_else(|_| Problem {
            error: format!("the worker {} answered {status}", self.worker.base),
            hint: Some("is that address a bettertest worker?".to_owned()),
            ..Problem::default()
        });
        let fault =
            |reason, problem: Problem| Trouble::Fault { reason, message: problem.error, hint: problem.hint };
        if problem.reason == Some(Reason::UnknownTree) && !self.known {
            return Err(Trouble::NoTree(problem));
        }
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Ok(problem),
            // A step that is under way may be served at the next try.
            status if status.is_server_error() && self.known => Ok(problem),
            // Of a step that is under way this says nothing about its spec.
            StatusCode::UNPROCESSABLE_ENTITY if !self.known => Err(Trouble::Refused(problem)),
            StatusCode::UNPROCESSABLE_ENTITY => Err(fault(Reason::WorkerLost, problem)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(fault(Reason::TokenRefused, problem)),
            StatusCode::GONE => Err(fault(Reason::StepForgotten, problem)),
            StatusCode::NOT_FOUND if self.known => Err(Trouble::Fault {
                reason: Reason::WorkerLost,
                message: format!("the worker {} no longer knows step {}", self.worker.base, self.id),
                hint: Some("was its data directory replaced while the step ran?".to_owned()),
            }),
            _ => Err(fault(Reason::WorkerBroken, problem)),
        }
    }

    async fn wait_or_give_up(&mut self, why: NotNow) -> Result<(), Trouble> {
        let has_met = self.client.has_met(&self.worker);
        self.patience.wait(self.known, has_met, why).await
    }
}

impl Patience {
    fn new() -> Patience {
        Patience { heard_at: Instant::now(), tries: 0 }
    }

    fn heard(&mut self) {
        *self = Patience::new();
    }

    /// Waits a little before the next try, unless there were enough.
    async fn wait(&mut self, known: bool, has_met: bool, why: NotNow) -> Result<(), Trouble> {
        let (patience, reason) = match (known, why.reason) {
            (true, _) => (WORKER_LOST, Reason::WorkerLost),
            (false, reason @ Reason::WorkerUnreachable) if why.taken || has_met => (WORKER_LOST, reason),
            (false, reason @ Reason::WorkerUnreachable) => (FIRST_CONTACT, reason),
            (false, reason) => (NOT_READY, reason),
        };
        // Never at the first failure: where the silence was our own, because this process or its machine was
        // stopped, the next try is the first that can tell.
        if self.tries > 0 && self.heard_at.elapsed() > patience {
            return Err(Trouble::Fault { reason, message: why.problem.error, hint: why.problem.hint });
        }
        let pause = Duration::from_millis(50) * 2u32.pow(self.tries.min(5));
        self.tries += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

fn unreachable(worker: &WorkerAddress, error: &reqwest::Error) -> NotNow {
    NotNow {
        reason: Reason::WorkerUnreachable,
        taken: !error.is_connect(),
        problem: Problem::new(
            format!("the worker {} does not answer: {}", worker.base, root_of(error)),
            format!("is it running there? start it with: bettertest --worker{}", listen_flag(worker)),
        ),
    }
}

/// A step that is not served at the moment, but may be at the next try.
struct NotNow {
    reason: Reason,
    problem: Problem,
    /// The worker may have taken the step before it went away.
    taken: bool,
}

/// What an answer that says no has to say. It may come from anybody, so neither for ever nor without end.
async fn words_of(answer: Response) -> String {
    let mut words = Vec::new();
    let mut pieces = answer.bytes_stream();
    let read = async {
        while words.len() < LONGEST_WORDS
            && let Some(Ok(piece)) = pieces.next().await
        {
            words.extend_from_slice(&piece);
        }
    };
    // What came in time is what is known.
    drop(tokio::time::timeout(limits::SILENCE, read).await);
    words.truncate(LONGEST_WORDS);
    String::from_utf8_lossy(&words).into_owned()
}

/// More words than this are no refusal of ours.
const LONGEST_WORDS: usize = 64 * 1024;

/// Beyond any spool; a position is what we count on with.
const MOST: u64 = 1 << 53;

/// Without contact for so long, a step that was under way is `errored: worker_lost`.
const WORKER_LOST: Duration = Duration::from_secs(60);

/// A worker that nobody ever heard of may be starting just now; more is not worth waiting for.
const FIRST_CONTACT: Duration = Duration::from_secs(10);

/// A worker that takes no step now may have its Docker back after a restart, or room on its disk after tidying up;
/// longer is a fault to tell.
const NOT_READY: Duration = Duration::from_secs(20);

fn broken(worker: &WorkerAddress, what: &str) -> Trouble {
    Trouble::Fault {
        reason: Reason::WorkerBroken,
        message: format!("the worker {} sent {what}", worker.base),
        hint: Some(
            "do boss and worker have the same version? compare bettertest --version on both".to_owned(),
        ),
    }
}

fn listen_flag(worker: &WorkerAddress) -> String {
    match worker.base.strip_prefix("http://") {
        Some("localhost:9009" | "127.0.0.1:9009") | None => String::new(),
        Some(address) => format!(" --listen {}", address.replace("localhost", "127.0.0.1")),
    }
}

/// The innermost error: what a person can do something about.
fn root_of(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
