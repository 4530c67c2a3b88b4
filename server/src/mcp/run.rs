//! `run` and `run_failed`: a run as `bettertest run` makes one, told by progress where the client wants it. It is cancelled
//! when the client takes its request back, and when it goes away.

use common::{Packet, Phase, RunEvent, RunFact, RunState, SkipReason, TaskState, Verdict};
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{RequestContext, RoleServer};
use tokio::sync::mpsc;

use super::answer::{Answer, one_line};
use super::{RUNS, Server, ask};
use crate::cli::RunArgs;
use crate::error::SetupError;
use crate::run_command::{self, Ready};
use crate::terminal::Paint;
use crate::watch::Audience;
use crate::{limits, only_failed, packet_text};

/// So much news waits for a client that is slow to take it; what comes then is not told.
const NEWS: usize = 256;

pub(super) async fn run(
    server: &Server,
    asked: ask::Run,
    context: RequestContext<RoleServer>,
) -> Result<Answer, SetupError> {
    let path = server.project(asked.path.as_deref())?;
    let how = server.how_to_run(asked.stages, asked.tasks);
    execute(server, RunArgs { path, fail_fast: asked.fail_fast, only_failed: false, how }, context).await
}

pub(super) async fn run_failed(
    server: &Server,
    asked: ask::RunFailed,
    context: RequestContext<RoleServer>,
) -> Result<Answer, SetupError> {
    let path = server.project(asked.path.as_deref())?;
    let how = server.how_to_run(Vec::new(), Vec::new());
    execute(server, RunArgs { path, fail_fast: asked.fail_fast, only_failed: true, how }, context).await
}

async fn execute(
    server: &Server,
    args: RunArgs,
    context: RequestContext<RoleServer>,
) -> Result<Answer, SetupError> {
    let _permit = server.runs.try_acquire().map_err(|_| {
        SetupError::new(
            format!("{} runs are going on already", RUNS),
            "wait for one of them to end, or cancel it",
        )
    })?;
    let unwanted = async {
        tokio::select! {
            () = context.ct.cancelled() => {}
            () = server.gone.cancelled() => {}
        }
    };
    tokio::pin!(unwanted);
    // Not left in the middle: it may have brought a worker already.
    let ready = run_command::prepare(&args).await?;
    if context.ct.is_cancelled() || server.gone.is_cancelled() {
        ready.give_up().await;
        return Err(SetupError::new("cancelled before it began", "call it again"));
    }
    let gone = gone(&ready);
    let (ground, number) = ready.start().await?;
    let (tell, mut told) = mpsc::channel(NEWS);
    let mut progress = Progress { token: context.meta.get_progress_token(), tell, done: 0 };
    let follow = async {
        let followed = ground.follow(number, RunState::default(), &mut progress, unwanted.as_mut()).await;
        drop(progress);
        let ended = match followed {
            Ok((run, Verdict::Passed)) => Ok((Packet::empty(&run), run)),
            Ok((run, Verdict::Not(_))) => ground.packet(number).await.map(|packet| (packet, run)),
            Err(error) => Err(error),
        };
        // However slowly the client takes what it is told.
        ground.end().await;
        ended
    };
    let forward = async {
        let mut silence = Silence::default();
        while let Some(news) = silence.broken_by(&mut told).await {
            let told = tokio::select! {
                told = context.peer.notify_progress(news) => told.is_ok(),
                // Nobody takes it any more, and it would be waited for.
                () = server.gone.cancelled() => false,
            };
            if !told {
                break;
            }
        }
    };
    let (ended, ()) = tokio::join!(follow, forward);
    let (packet, run) = ended?;
    Ok(verdict(&packet, &run, gone.as_deref(), args.only_failed))
}

fn gone(ready: &Ready) -> Option<String> {
    let names = one_line(&only_failed::names(&ready.gone));
    (!ready.gone.is_empty()).then(|| format!("note: {}: {names}", only_failed::GONE))
}

/// The verdict first, then what to do with it.
fn verdict(packet: &Packet, run: &RunState, gone: Option<&str>, only_failed: bool) -> Answer {
    let mut said = vec![format!("run {}: {}", packet.run, one_line(&packet.headline))];
    let (passed, tasks) = counts(run);
    let took = run.ended_at_ms.map_or(0, |ended| ended.saturating_sub(run.started_at_ms));
    said.push(format!("{passed} of {tasks} tasks passed, in {}", common::duration(took)));
    said.extend(gone.map(str::to_owned));
    let has_passed = run.phase == Phase::Ended(Verdict::Passed);
    if has_passed && (only_failed || run.is_partial()) {
        said.push("a part has passed, and proves a part: `run` without arguments runs all of it".to_owned());
    }
    if !has_passed {
        said.push("more: `show_failure` and `output` with a task; after a change: `run_failed`".to_owned());
    }
    let printed = (!has_passed).then(|| packet_text::text(packet, Paint::Text));
    let structured = Some(serde_json::to_value(packet).expect("a packet is JSON"));
    Answer { said: said.join("\n"), printed, structured }
}

/// Of those that are a part of this run: how many have passed, and all.
fn counts(run: &RunState) -> (usize, usize) {
    let selected = || run.tasks().filter(|task| task.state != TaskState::Skipped(SkipReason::NotSelected));
    let passed = selected().filter(|task| task.state == TaskState::Ended(Verdict::Passed)).count();
    (passed, selected().count())
}

/// While nothing happens, says that from time to time: a client may give up a call of which it hears nothing.
#[derive(Default)]
struct Silence {
    last: Option<ProgressNotificationParam>,
    beats: u32,
}

impl Silence {
    /// What is to be told next. None: there is no more.
    async fn broken_by(
        &mut self,
        told: &mut mpsc::Receiver<ProgressNotificationParam>,
    ) -> Option<ProgressNotificationParam> {
        match tokio::time::timeout(limits::MCP_SILENCE, told.recv()).await {
            Ok(news) => {
                (self.last, self.beats) = (news.clone(), 0);
                news
            }
            // Of what nobody asked to hear there is no silence either.
            Err(_) if self.last.is_none() => told.recv().await,
            Err(_) => {
                self.beats += 1;
                self.last.clone().map(|last| beat(last, self.beats))
            }
        }
    }
}

/// More than what was told before, and less than what is told next: progress has to grow.
fn beat(mut last: ProgressNotificationParam, beats: u32) -> ProgressNotificationParam {
    last.progress += f64::from(beats) / f64::from(beats + 1);
    let silent_ms = limits::MCP_SILENCE.as_millis() as u64 * u64::from(beats);
    let what = last.message.unwrap_or_default();
    last.message = Some(format!("{what}; no news for {}", common::duration(silent_ms)));
    last
}

/// Tells how far a run has come, where somebody asked for that.
struct Progress {
    token: Option<ProgressToken>,
    tell: mpsc::Sender<ProgressNotificationParam>,
    /// What was told last: it only grows.
    done: usize,
}

impl Audience for Progress {
    fn hear(&mut self, event: &RunEvent, _json: &str, run: &RunState) {
        let (Some(token), Some(what)) = (&self.token, words(event, run)) else { return };
        let selected = run.tasks().map(|task| task.state);
        let (mut done, mut all) = (0, 0);
        for state in selected.filter(|state| *state != TaskState::Skipped(SkipReason::NotSelected)) {
            all += 2;
            done += match state {
                TaskState::Pending => 0,
                TaskState::Running => 1,
                TaskState::Ended(_) | TaskState::Skipped(_) => 2,
            };
        }
        if done <= self.done {
            return;
        }
        self.done = done;
        let news = ProgressNotificationParam::new(token.clone(), done as f64).with_total(all as f64);
        // A client that is that slow has the verdict to come.
        if self.tell.try_send(news.with_message(what)).is_err() {
            tracing::debug!("the client does not take its progress");
        }
    }
}

/// What has become of a task.
fn words(event: &RunEvent, run: &RunState) -> Option<String> {
    let task = match &event.fact {
        RunFact::TaskStarted { task, .. }
        | RunFact::TaskEnded { task, .. }
        | RunFact::TaskSkipped { task, .. } => task,
        RunFact::RunStarted { .. }
        | RunFact::StepAsked { .. }
        | RunFact::Step { .. }
        | RunFact::TaskEnding { .. }
        | RunFact::CancelAsked
        | RunFact::RerunStarted { .. }
        | RunFact::RunEnded { .. } => return None,
    };
    let words = common::task_words(run.task(task)?);
    Some(one_line(&format!("{task} {words}")))
}
