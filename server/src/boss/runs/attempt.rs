//! One attempt of one task: a Python process that asks for steps, the steps, and the verdict from both.

use common::{Mark, Problem, Reason, RunFact, StepEnd, StepId, StepSpec, TaskId, Verdict, step_id};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Run;
use super::log::{LogError, now_ms};
use super::step::{Step, StepDone};
use crate::boss::output::{Output, OutputId};
use crate::boss::pipedef::{Answer, Heard, Order, Runner, Say};

/// A task may take so long, not counting the time in which all that it waits for is queued.
const TASK_TIME: Duration = Duration::from_secs(7200);

/// What a pipedef's own Python may print in one attempt; the tests' output has a cap of its own.
const PIPEDEF_PRINTS: usize = 8 * 1024 * 1024;

/// How the Python process ended.
enum Last {
    Returned,
    Raised { call: Option<u64>, problem: Problem },
    Gone,
    Cancelled,
    OutOfTime,
}

pub(super) struct Attempt {
    run: Arc<Run>,
    task: TaskId,
    number: u32,
    output: Arc<Output>,
    /// Cancels what the task has started; a child of the run's own.
    cancel: CancellationToken,
    steps: JoinSet<(u64, Result<StepDone, LogError>)>,
    /// How each call came out.
    done: BTreeMap<u64, StepDone>,
    /// How many equal calls there were before, by the id that the first of them got.
    asked: HashMap<StepId, u32>,
    queued: watch::Sender<usize>,
    /// How much of what Python printed was kept, and how much was not.
    kept_bytes: usize,
    lost_bytes: u64,
}

/// Executes the next attempt of a task and records how it ended.
pub(super) async fn attempt(
    run: Arc<Run>,
    task: TaskId,
    cancel: CancellationToken,
) -> Result<Verdict, LogError> {
    let began = Instant::now();
    let number =
        run.log.look(|state| state.task(&task).map_or(0, |task| task.attempts.len())).await as u32 + 1;
    run.log.append(RunFact::TaskStarted { task: task.clone(), attempt: number }).await?;
    let (verdict, problem) = match run.open_output(&task, number).await {
        Ok(output) => {
            let output = Arc::new(output);
            let mut attempt = Attempt {
                run: run.clone(),
                task: task.clone(),
                number,
                output: output.clone(),
                cancel,
                steps: JoinSet::new(),
                done: BTreeMap::new(),
                asked: HashMap::new(),
                queued: watch::channel(0).0,
                kept_bytes: 0,
                lost_bytes: 0,
            };
            let ended = attempt.execute().await?;
            attempt.mark_what_was_not_kept();
            let stored = tokio::task::spawn_blocking(move || output.end())
                .await
                .unwrap_or_else(|panicked| Err(panicked.to_string()));
            match stored {
                Ok(()) => ended,
                Err(why) => lost_output(why),
            }
        }
        Err(why) => lost_output(why.to_string()),
    };
    let took_ms = began.elapsed().as_millis() as u64;
    run.log.append(RunFact::TaskEnded { task, attempt: number, verdict, took_ms, problem }).await?;
    Ok(verdict)
}

fn lost_output(why: String) -> (Verdict, Option<Problem>) {
    let hint = "free space on the disk of the data directory, then run it again";
    (
        Verdict::Not(Reason::OutputLost),
        Some(Problem::new(format!("the output could not be stored: {why}"), hint)),
    )
}

impl Attempt {
    async fn execute(&mut self) -> Result<(Verdict, Option<Problem>), LogError> {
        let order = Order::Task {
            pipedef: self.run.code.pipedef.clone(),
            files: self.run.code.files.clone(),
            stage: self.task.stage.clone(),
            task: self.task.task.clone(),
        };
        let mut runner = match self.run.all.python.start(&self.run.code.python, order).await {
            Ok(runner) => runner,
            Err(problem) => return Ok((Verdict::Not(Reason::RunnerDied), Some(problem))),
        };
        let last = self.converse(&mut runner).await?;
        // Whatever python has started is not wanted any more, unless it waits for it: `returned` says that it does not.
        if !matches!(last, Last::Returned) {
            self.cancel.cancel();
        }
        let rest = runner.end(matches!(last, Last::Cancelled | Last::OutOfTime)).await;
        self.print(&rest.bytes);
        self.lost_bytes += rest.lost_bytes as u64;
        let unwaited = !self.steps.is_empty();
        while let Some(joined) = self.steps.join_next().await {
            self.take(joined)?;
        }
        // A cancel that came while only these were still running is a cancel of the task all the same.
        let cancelled = unwaited && matches!(last, Last::Returned) && self.cancel.is_cancelled();
        Ok(self.verdict(if cancelled { Last::Cancelled } else { last }))
    }

    /// Talks to Python until it has said its last word, or is not to go on.
    async fn converse(&mut self, runner: &mut Runner) -> Result<Last, LogError> {
        let mut queued = self.queued.subscribe();
        let mut clock = Clock::new(TASK_TIME);
        let cancel = self.cancel.clone();
        loop {
            let in_queue = *queued.borrow_and_update();
            clock.run_or_stand(!self.steps.is_empty() && in_queue == self.steps.len());
            tokio::select! {
                // A cancel outweighs a last word that comes with it; and Python last, which may never stop printing.
                biased;
                () = cancel.cancelled() => return Ok(Last::Cancelled),
                Some(joined) = self.steps.join_next() => {
                    let call = self.take(joined)?;
                    match &self.done[&call] {
                        StepDone::Ended(end) => runner.answer(&Answer::of(call, end)).await,
                        StepDone::Refused(problem) => {
                            runner.answer(&Answer::Refused { call, problem: problem.clone() }).await;
                        }
                    }
                }
                // The clock is set anew at the head of the loop.
                Ok(()) = queued.changed() => {}
                () = clock.out() => return Ok(Last::OutOfTime),
                heard = runner.heard() => match heard {
                    Heard::Printed(bytes) => self.print(&bytes),
                    Heard::Said(Say::StepAsked { call, worker, spec }) => {
                        if let Err(problem) = self.ask(call, worker, spec).await? {
                            runner.answer(&Answer::Refused { call, problem: problem.clone() }).await;
                            self.done.insert(call, StepDone::Refused(problem));
                        }
                    }
                    Heard::Said(Say::Returned) => return Ok(Last::Returned),
                    Heard::Said(Say::Raised { call, problem }) => return Ok(Last::Raised { call, problem }),
                    Heard::Said(Say::Broken { problem }) => return Ok(Last::Raised { call: None, problem }),
                    Heard::Said(Say::Discovered { .. }) | Heard::Gone => return Ok(Last::Gone),
                },
            }
        }
    }

    /// Python called `run(...)`: records it, and starts to follow it.
    async fn ask(
        &mut self,
        call: u64,
        worker: String,
        spec: serde_json::Value,
    ) -> Result<Result<(), Problem>, LogError> {
        let hint = "change that call of run(...) in the pipedef";
        let spec: StepSpec = match serde_json::from_value(spec) {
            Ok(spec) => spec,
            Err(error) => return Ok(Err(Problem::new(format!("run(...) was called with {error}"), hint))),
        };
        if let Err(problem) = spec.check() {
            return Ok(Err(Problem::new(problem.to_string(), hint)));
        }
        let spec = spec.identity();
        let key = &self.run.key;
        let first = step_id(key, &self.task, self.number, &worker, &spec, 0);
        let before = self.asked.entry(first).or_default();
        let id = step_id(key, &self.task, self.number, &worker, &spec, *before);
        *before += 1;
        let fact = RunFact::StepAsked {
            task: self.task.clone(),
            attempt: self.number,
            step: id.clone(),
            worker: worker.clone(),
            spec: spec.clone(),
        };
        self.run.log.append(fact).await?;
        let step = Step {
            run: self.run.clone(),
            task: self.task.clone(),
            attempt: self.number,
            id,
            worker,
            spec,
            output: self.output.clone(),
            cancel: self.cancel.clone(),
            queued: self.queued.clone(),
        };
        self.steps.spawn(async move { (call, step.follow().await) });
        Ok(Ok(()))
    }

    /// A step has ended: remembers how, and tells of which call it was.
    fn take(
        &mut self,
        joined: Result<(u64, Result<StepDone, LogError>), tokio::task::JoinError>,
    ) -> Result<u64, LogError> {
        let (call, done) = match joined {
            Ok(ended) => ended,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        self.done.insert(call, done?);
        Ok(call)
    }

    fn mark_what_was_not_kept(&self) {
        if self.lost_bytes > 0 {
            self.output.mark(Mark::PipedefDropped { bytes: self.lost_bytes }, now_ms());
        }
    }

    fn print(&mut self, bytes: &[u8]) {
        let (kept, lost) = bytes.split_at(bytes.len().min(PIPEDEF_PRINTS - self.kept_bytes));
        self.kept_bytes += kept.len();
        self.lost_bytes += lost.len() as u64;
        if !kept.is_empty() {
            self.output.pipedef_printed(kept, now_ms());
        }
    }

    fn ends(&self) -> impl Iterator<Item = &StepEnd> {
        self.done.values().filter_map(|done| match done {
            StepDone::Ended(end) => Some(end),
            StepDone::Refused(_) => None,
        })
    }

    /// When a task passes: see `agents/architecture.md`. In the order of what outweighs what.
    fn verdict(&self, last: Last) -> (Verdict, Option<Problem>) {
        let fault = self.ends().find(|end| end.verdict.outcome() == common::Outcome::Errored);
        if let Some(end) = fault {
            let error = end.message.clone().unwrap_or_else(|| "a step errored".to_owned());
            return (end.verdict, Some(Problem { error, hint: end.hint.clone(), ..Problem::default() }));
        }
        match last {
            Last::Cancelled => (Verdict::Not(Reason::CancelAsked), None),
            Last::OutOfTime => {
                let error =
                    format!("the task took longer than {}", common::duration(TASK_TIME.as_millis() as u64));
                let hint = "split it into several tasks: they run at once";
                (Verdict::Not(Reason::TaskTimeout), Some(Problem::new(error, hint)))
            }
            Last::Gone => {
                let error = "the pipedef's Python ended without saying how the task ended";
                let hint =
                    "a task ends by returning or by an exception, not by sys.exit(), os._exit() or a signal";
                (Verdict::Not(Reason::RunnerDied), Some(Problem::new(error, hint)))
            }
            Last::Raised { call, problem } => {
                let reason = match call.and_then(|call| self.done.get(&call)) {
                    Some(StepDone::Refused(_)) => Reason::SpecRefused,
                    Some(StepDone::Ended(end)) => end.verdict.reason().unwrap_or(Reason::Raised),
                    None => Reason::Raised,
                };
                (Verdict::Not(reason), Some(problem))
            }
            Last::Returned if self.ends().next().is_none() => {
                let error = "the task ran nothing: it returned without calling run(...)";
                let hint = "call run(WORKER, IMAGE, \"command\") in it, or remove it";
                (Verdict::Not(Reason::RanNothing), Some(Problem::new(error, hint)))
            }
            Last::Returned => (Verdict::Passed, None),
        }
    }
}

/// A clock that can stand still.
struct Clock {
    left: Duration,
    /// Since when it runs; None while it stands.
    since: Option<Instant>,
}

impl Clock {
    fn new(left: Duration) -> Clock {
        Clock { left, since: Some(Instant::now()) }
    }

    fn run_or_stand(&mut self, stand: bool) {
        match (self.since, stand) {
            (Some(since), true) => {
                self.left = self.left.saturating_sub(since.elapsed());
                self.since = None;
            }
            (None, false) => self.since = Some(Instant::now()),
            (Some(_), false) | (None, true) => {}
        }
    }

    /// Waits until no time is left; for ever while it stands.
    async fn out(&self) {
        match self.since {
            Some(since) => tokio::time::sleep_until((since + self.left).into()).await,
            None => std::future::pending().await,
        }
    }
}

impl Run {
    async fn open_output(&self, task: &TaskId, attempt: u32) -> std::io::Result<Output> {
        let place = self.log.look(|state| state.tasks().position(|known| known.id == *task)).await;
        let task = place.ok_or_else(|| std::io::Error::other("an unknown task"))?;
        self.all.outputs.create(OutputId { run: self.number, task, attempt })
    }
}
