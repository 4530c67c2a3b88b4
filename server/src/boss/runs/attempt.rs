//! One attempt of one task: a Python process that asks for steps, the steps, and the verdict from both.
//!
//! An attempt that an earlier boss has left unended is executed again: a call that it had made before finds its step
//! by id, and hears what the log or the worker says of it; a call that is new is a new step.

use common::{
    Command, Mark, Problem, Reason, RunFact, RunState, StepEnd, StepId, StepRun, StepSpec, StepState,
    StepTests, TaskId, TaskState, TestCounts, Verdict, step_id,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Run;
use super::clock::Clock;
use super::failed_tests::{self, Instead};
use super::log::{LogError, now_ms};
use super::replay::Replay;
use super::source::{another_build, read_spec};
use super::step::{Before, Step, StepDone};
use crate::boss::attempt_tests;
use crate::boss::output::{Output, OutputId, Stored};
use crate::boss::pipedef::{Answer, Heard, Runner, Say};
use crate::boss::store::AttemptTests;
use crate::joined::joined;

/// A task may take so long, not counting the time in which all that it waits for is queued.
const TASK_TIME: Duration = Duration::from_secs(7200);

/// What a pipedef's own Python may print in one attempt; the tests' output has a cap of its own.
const PIPEDEF_PRINTS: usize = 8 * 1024 * 1024;

/// How an attempt ends, and what to tell a person of it.
type Word = (Verdict, Option<Problem>);

/// Why there is no more to talk about with Python.
enum Stop {
    Returned,
    Raised {
        call: Option<u64>,
        problem: Problem,
    },
    Gone,
    Cancelled,
    OutOfTime,
    /// It was about to execute another text than the run did before.
    Changed(Problem),
}

/// What an attempt comes to, as far as it does not depend on the ends of its steps.
enum Last {
    Returned,
    Cancelled,
    /// So, unless a step errored.
    Not(Word),
}

pub(super) struct Attempt {
    run: Arc<Run>,
    task: TaskId,
    number: u32,
    output: Arc<Output>,
    /// Of an attempt that goes on: what is stored of its output, and what it had asked for before.
    stored: Stored,
    replay: Replay,
    /// Cancels what the task has started; a child of the run's own.
    cancel: CancellationToken,
    /// With the call that waits for it; none does for a stray.
    steps: JoinSet<(Option<u64>, Result<StepDone, LogError>)>,
    /// How each call came out.
    done: BTreeMap<u64, StepDone>,
    /// How the steps ended that an earlier execution of this attempt had asked for, and this one did not.
    strays: Vec<StepDone>,
    /// How many equal calls there were before, by the id that the first of them got.
    asked: HashMap<StepId, u32>,
    /// Of these calls some tests alone are wanted.
    instead: Vec<Instead>,
    /// The command that ran, where it is not the one that was called for.
    commands: HashMap<u64, String>,
    queued: watch::Sender<usize>,
    /// How much of what Python printed was kept, and how much was not.
    kept_bytes: usize,
    lost_bytes: u64,
}

/// Where an attempt begins.
enum Begin {
    Fresh {
        number: u32,
        output: std::io::Result<Output>,
    },
    /// An earlier boss had begun it.
    Again {
        before: Box<common::Attempt>,
        output: std::io::Result<(Output, Stored)>,
    },
}

/// Executes an attempt of a task, the next one or the one that was left unended, and records how it ended.
pub(super) async fn attempt(
    run: Arc<Run>,
    task: TaskId,
    cancel: CancellationToken,
) -> Result<Verdict, LogError> {
    let began = Instant::now();
    let begin = run.begin_attempt(&task).await;
    let (number, before, output) = match begin {
        Begin::Fresh { number, output } => {
            run.log.append(RunFact::TaskStarted { task: task.clone(), attempt: number }).await?;
            (number, None, output.map(|output| (output, Stored::default())))
        }
        Begin::Again { before, output } => (before.number, Some(before), output),
    };
    let began_ms = before.as_ref().map(|before| before.started_at_ms);
    let (steps, ending) = before.map_or((Vec::new(), None), |before| (before.steps, before.ending));
    let ((verdict, problem), tests) = match output {
        Ok((output, stored)) => {
            let output = Arc::new(output);
            let instead = run.log.look(|state| Instead::of(state, &task, number)).await;
            let mut attempt = Attempt {
                run: run.clone(),
                task: task.clone(),
                number,
                output: output.clone(),
                stored,
                replay: Replay::of(steps),
                cancel,
                steps: JoinSet::new(),
                done: BTreeMap::new(),
                strays: Vec::new(),
                asked: HashMap::new(),
                instead,
                commands: HashMap::new(),
                queued: watch::channel(0).0,
                kept_bytes: 0,
                lost_bytes: 0,
            };
            let ended = attempt.execute(ending).await?;
            attempt.mark_what_was_not_kept();
            let id = output.id();
            let stored = tokio::task::spawn_blocking(move || output.end())
                .await
                .unwrap_or_else(|panicked| Err(panicked.to_string()));
            match stored {
                Ok(()) => run.with_tests(&task, id, ended).await,
                Err(why) => (lost_output(why), None),
            }
        }
        Err(why) => (lost_output(why.to_string()), None),
    };
    // No monotonic clock spans two processes.
    let took_ms = match began_ms {
        None => began.elapsed().as_millis() as u64,
        Some(began_ms) => now_ms().saturating_sub(began_ms),
    };
    let (counts, tests) = tests.unzip();
    let ended = RunFact::TaskEnded { task, attempt: number, verdict, took_ms, problem, tests: counts };
    run.log.append_with(ended, tests).await?;
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
    /// `ending`: how it ends, where an earlier boss knew that and was killed while it ended its steps.
    async fn execute(&mut self, ending: Option<Word>) -> Result<Word, LogError> {
        let last = if let Some(word) = ending {
            self.cancel.cancel();
            Last::Not(word)
        } else if self.cancel.is_cancelled() {
            // Cancelled before an earlier boss ended: only the steps are left to be ended.
            Last::Cancelled
        } else {
            let cancel = self.cancel.clone();
            let started = tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                started = self.run.python(&self.task) => Some(started),
            };
            match started {
                Some(Ok(runner)) => self.talk(runner).await?,
                Some(Err(problem)) => Last::Not((Verdict::Not(Reason::RunnerDied), Some(problem))),
                None => Last::Cancelled,
            }
        };
        let unwaited = !self.steps.is_empty();
        self.end_strays();
        while let Some(ended) = self.steps.join_next().await {
            self.take(joined(ended).await)?;
        }
        // A cancel that came while only these were still running is a cancel of the task all the same.
        let cancelled = unwaited && matches!(last, Last::Returned) && self.cancel.is_cancelled();
        Ok(self.verdict(if cancelled { Last::Cancelled } else { last }))
    }

    /// Talks to Python and ends it, in the right order with what it has started.
    async fn talk(&mut self, mut runner: Runner) -> Result<Last, LogError> {
        let (last, at_once) = match self.converse(&mut runner).await? {
            Stop::Returned => (Last::Returned, false),
            Stop::Cancelled => (Last::Cancelled, true),
            Stop::Raised { call, problem } => (Last::Not(self.raised(call, problem)), false),
            Stop::Gone => (Last::Not(gone()), false),
            Stop::OutOfTime => (Last::Not(out_of_time()), true),
            Stop::Changed(problem) => {
                (Last::Not((Verdict::Not(Reason::PipedefChanged), Some(problem))), true)
            }
        };
        if let Last::Not((verdict, problem)) = &last
            && (!self.steps.is_empty() || self.replay.has_unended())
        {
            let fact = RunFact::TaskEnding {
                task: self.task.clone(),
                attempt: self.number,
                verdict: *verdict,
                problem: problem.clone(),
            };
            self.run.log.append(fact).await?;
        }
        // Whatever python has started is not wanted any more, unless it waits for it: `returned` says that it does not.
        if !matches!(last, Last::Returned) {
            self.cancel.cancel();
        }
        let rest = runner.end(at_once).await;
        self.print(&rest.bytes);
        self.lost_bytes += rest.lost_bytes as u64;
        Ok(last)
    }

    /// Ends what an earlier execution had asked for and this one did not: nobody will ever ask for it.
    fn end_strays(&mut self) {
        let unwanted = CancellationToken::new();
        unwanted.cancel();
        for step in self.replay.strays() {
            match step.state.clone() {
                StepState::Ended(end) => self.strays.push(StepDone::of(end)),
                StepState::Asked
                | StepState::Queued
                | StepState::Preparing { .. }
                | StepState::Running { .. } => {
                    let step = self.step_again(step, unwanted.clone());
                    self.steps.spawn(async move { (None, step.follow().await) });
                }
            }
        }
    }

    /// A step that is in the log, to be listened to from where it is stored.
    fn step_again(&self, step: StepRun, cancel: CancellationToken) -> Step {
        let before = Before {
            asked: true,
            logged: step.position,
            queued: matches!(step.state, StepState::Queued),
            stored: self.stored.step(&step.id),
        };
        self.step(step.id, step.worker, step.spec, before, cancel)
    }

    fn step(
        &self,
        id: StepId,
        worker: String,
        spec: StepSpec,
        before: Before,
        cancel: CancellationToken,
    ) -> Step {
        Step {
            run: self.run.clone(),
            task: self.task.clone(),
            attempt: self.number,
            id,
            worker,
            spec,
            output: self.output.clone(),
            before,
            cancel,
            queued: self.queued.clone(),
        }
    }

    /// Talks to Python until it has said its last word, or is not to go on.
    async fn converse(&mut self, runner: &mut Runner) -> Result<Stop, LogError> {
        let mut queued = self.queued.subscribe();
        let mut clock = Clock::new(TASK_TIME);
        let cancel = self.cancel.clone();
        loop {
            let in_queue = *queued.borrow_and_update();
            clock.run_or_stand(!self.steps.is_empty() && in_queue == self.steps.len());
            tokio::select! {
                // A cancel outweighs a last word that comes with it; and Python last, which may never stop printing.
                biased;
                () = cancel.cancelled() => return Ok(Stop::Cancelled),
                Some(ended) = self.steps.join_next() => {
                    if let Some(call) = self.take(joined(ended).await)? {
                        self.replay.ended(call);
                    }
                }
                // The clock is set anew at the head of the loop.
                Ok(()) = queued.changed() => {}
                () = clock.out() => return Ok(Stop::OutOfTime),
                () = self.replay.out_of_patience() => {
                    for call in self.replay.let_go() {
                        self.answer(runner, call).await;
                    }
                }
                heard = runner.heard() => match heard {
                    Heard::Printed(bytes) => self.print(&bytes),
                    Heard::Said(Say::StepAsked { call, worker, spec }) => self.ask(call, worker, spec).await?,
                    Heard::Said(Say::Imported { call, path, sha256 }) => {
                        match self.import(path, sha256).await? {
                            Ok(()) => runner.answer(&Answer::Recorded { call }).await,
                            Err(problem) => return Ok(Stop::Changed(problem)),
                        }
                    }
                    Heard::Said(Say::Returned) => return Ok(Stop::Returned),
                    Heard::Said(Say::Raised { call, problem }) => return Ok(Stop::Raised { call, problem }),
                    Heard::Said(Say::Broken { problem }) => return Ok(Stop::Raised { call: None, problem }),
                    Heard::Said(Say::Discovered { .. } | Say::Ready { .. }) | Heard::Gone => {
                        return Ok(Stop::Gone);
                    }
                },
            }
            for call in self.replay.due() {
                self.answer(runner, call).await;
            }
        }
    }

    async fn answer(&self, runner: &mut Runner, call: u64) {
        match &self.done[&call] {
            StepDone::Ended(end) => {
                let mut end = end.clone();
                end.message = end.message.or_else(|| self.commands.get(&call).cloned());
                runner.answer(&Answer::of(call, &end)).await;
            }
            StepDone::Refused(problem) => {
                runner.answer(&Answer::Refused { call, problem: problem.clone() }).await;
            }
        }
    }

    /// Python called `run(...)`: records it, and starts to follow it. What is known already is done at once.
    async fn ask(&mut self, call: u64, worker: String, spec: serde_json::Value) -> Result<(), LogError> {
        let spec = match read_spec(spec, &self.run.source) {
            Ok(spec) => match self.run.log.look(|state| another_build(state, &worker, &spec)).await {
                None => Ok(spec),
                Some(problem) => Err(problem),
            },
            Err(problem) => Err(problem),
        };
        let mut spec = match spec {
            Ok(spec) => spec,
            Err(problem) => {
                self.done.insert(call, StepDone::never_asked(problem));
                self.replay.ended(call);
                return Ok(());
            }
        };
        let mut before = self.count(&worker, &spec);
        let instead = self.instead.iter().position(|instead| instead.is_for(&worker, &spec, before));
        let instead_of = instead.map(|place| self.instead.swap_remove(place)).map(
            |Instead { command, instead_of, .. }| {
                self.commands.insert(call, command.clone());
                spec.command = Command::Shell(command);
                before = self.count(&worker, &spec);
                instead_of
            },
        );
        let id = step_id(&self.run.key, &self.task, self.number, &worker, &spec, before);
        let step = match self.replay.ask_again(&id, call) {
            Some(StepRun { state: StepState::Ended(end), .. }) => {
                self.done.insert(call, StepDone::of(end));
                return Ok(());
            }
            Some(step) => self.step_again(step, self.cancel.clone()),
            None => {
                let fact = RunFact::StepAsked {
                    task: self.task.clone(),
                    attempt: self.number,
                    step: id.clone(),
                    worker: worker.clone(),
                    spec: Box::new(spec.clone()),
                    instead_of,
                };
                self.run.log.append(fact).await?;
                self.step(id, worker, spec, Before::default(), self.cancel.clone())
            }
        };
        self.steps.spawn(async move { (Some(call), step.follow().await) });
        Ok(())
    }

    /// How many equal calls came before this one.
    fn count(&mut self, worker: &str, spec: &StepSpec) -> u32 {
        let first = step_id(&self.run.key, &self.task, self.number, worker, spec, 0);
        let before = self.asked.entry(first).or_default();
        *before += 1;
        *before - 1
    }

    /// Python is about to execute a text of the pipedef's folder that discovery did not see.
    async fn import(&self, path: String, sha256: String) -> Result<Result<(), Problem>, LogError> {
        let first = self.run.all.store.first_import(self.run.number, path.clone(), sha256.clone()).await?;
        if first == sha256 {
            return Ok(Ok(()));
        }
        let problem = Problem {
            error: format!("{path} is no longer what this run executed before"),
            hint: Some("start a new run, which executes what is there now".to_owned()),
            file: Some(path),
            ..Problem::default()
        };
        Ok(Err(problem))
    }

    /// A step has ended: remembers how, and tells of which call it was.
    fn take(
        &mut self,
        (call, done): (Option<u64>, Result<StepDone, LogError>),
    ) -> Result<Option<u64>, LogError> {
        match call {
            Some(call) => drop(self.done.insert(call, done?)),
            None => self.strays.push(done?),
        }
        Ok(call)
    }

    fn mark_what_was_not_kept(&self) {
        if self.lost_bytes > 0 && !self.stored.pipedef_dropped {
            self.output.mark(Mark::PipedefDropped { bytes: self.lost_bytes }, now_ms());
        }
    }

    fn print(&mut self, bytes: &[u8]) {
        let (kept, lost) = bytes.split_at(bytes.len().min(PIPEDEF_PRINTS - self.kept_bytes));
        self.kept_bytes += kept.len();
        self.lost_bytes += lost.len() as u64;
        // What Python printed before a restart it prints again.
        let again = (self.stored.pipedef_bytes as usize).min(kept.len());
        self.stored.pipedef_bytes -= again as u64;
        let kept = &kept[again..];
        if !kept.is_empty() {
            self.output.pipedef_printed(kept, now_ms());
        }
    }

    /// The ends of the steps that this task has asked for.
    fn ends(&self) -> impl Iterator<Item = &StepEnd> {
        self.done.values().filter_map(StepDone::end)
    }

    fn raised(&self, call: Option<u64>, problem: Problem) -> Word {
        let reason = match call.and_then(|call| self.done.get(&call)) {
            Some(StepDone::Refused(_)) => Reason::SpecRefused,
            Some(StepDone::Ended(end)) => end.verdict.reason().unwrap_or(Reason::Raised),
            None => Reason::Raised,
        };
        (Verdict::Not(reason), Some(problem))
    }

    /// When a task passes: see `agents/architecture.md`. In the order of what outweighs what.
    fn verdict(&self, last: Last) -> Word {
        let strays = self.strays.iter().filter_map(StepDone::end);
        let fault = self.ends().chain(strays).find(|end| end.verdict.outcome() == common::Outcome::Errored);
        if let Some(end) = fault {
            let error = end.message.clone().unwrap_or_else(|| "a step errored".to_owned());
            return (end.verdict, Some(Problem { error, hint: end.hint.clone(), ..Problem::default() }));
        }
        match last {
            Last::Cancelled => (Verdict::Not(Reason::CancelAsked), None),
            Last::Not(word) => word,
            Last::Returned if !self.strays.is_empty() => {
                let error = "after a restart the task did not ask again for every step that it had asked for";
                let hint = "what a task asks for must not depend on chance or time; run it again";
                (Verdict::Not(Reason::ReplayDiverged), Some(Problem::new(error, hint)))
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

fn gone() -> Word {
    let error = "the pipedef's Python ended without saying how the task ended";
    let hint = "a task ends by returning or by an exception, not by sys.exit(), os._exit() or a signal";
    (Verdict::Not(Reason::RunnerDied), Some(Problem::new(error, hint)))
}

fn out_of_time() -> Word {
    let error = format!("the task took longer than {}", common::duration(TASK_TIME.as_millis() as u64));
    let hint = "split it into several tasks: they run at once";
    (Verdict::Not(Reason::TaskTimeout), Some(Problem::new(error, hint)))
}

impl Run {
    /// What the test runners in its steps told, once its output is whole.
    async fn with_tests(
        &self,
        task: &TaskId,
        output: OutputId,
        ended: Word,
    ) -> (Word, Option<(TestCounts, AttemptTests)>) {
        let outputs = self.all.outputs.clone();
        let of_attempt = |state: &RunState| {
            let found = state.task(task).and_then(|task| task.attempts.get(output.attempt as usize - 1));
            found
                .map(|attempt| (attempt_tests::reports(attempt), failed_tests::some_of(attempt)))
                .unwrap_or_default()
        };
        let (reports, some) = self.log.look(of_attempt).await;
        let steps = tokio::task::spawn_blocking(move || attempt_tests::of_steps(&outputs, output, &reports))
            .await
            .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
        let mut steps = match steps {
            Ok(steps) => steps,
            // Whether it ran a test is not known.
            Err(why) if ended.0.passed() => {
                return (lost_output(format!("it cannot be read again: {why}")), None);
            }
            Err(why) => {
                tracing::warn!(run.id = self.number.0, "the tests of {task} are not known: {why}");
                return (ended, None);
            }
        };
        failed_tests::forget_others(&mut steps, &some);
        let ended = if ended.0.passed() {
            self.unless_no_tests(task, output.attempt, &steps, ended).await
        } else {
            ended
        };
        let ended =
            if some.is_empty() { ended } else { failed_tests::judged(self.number, &some, &steps, ended) };
        let to_store =
            |state: &RunState| attempt_tests::to_store(state, task, output.attempt, steps, now_ms());
        let Some((mut counts, tests)) = self.log.look(to_store).await else { return (ended, None) };
        match self.all.store.flaky_with(self.number, &tests).await {
            Ok(flaky) => counts.flaky = flaky,
            // What is wrong with an earlier attempt is told to whoever asks for that.
            Err(why) => {
                tracing::warn!(run.id = self.number.0, "which tests of {task} are flaky is not known: {why}");
            }
        }
        (ended, Some((counts, tests)))
    }

    /// A step that ended well, but whose test runner says itself that it ran no test, has proven nothing.
    async fn unless_no_tests(
        &self,
        task: &TaskId,
        attempt: u32,
        heard: &BTreeMap<StepId, StepTests>,
        passed: Word,
    ) -> Word {
        let none = |state: &RunState| {
            let steps = &state.task(task)?.attempts.iter().find(|known| known.number == attempt)?.steps;
            let none = |step: &&StepRun| {
                let passed = matches!(&step.state, StepState::Ended(end) if end.verdict.passed());
                // That an image was made is all that a build says.
                let may_run_none = step.spec.allow_no_tests || step.spec.build().is_some();
                passed && !may_run_none && heard.get(&step.id).is_some_and(|tests| tests.ran_none)
            };
            steps.iter().find(none).map(|step| step.spec.command.for_show())
        };
        match self.log.look(none).await {
            Some(command) => {
                let error = format!("no test was run by: {command}");
                let hint =
                    "look at what it selects; where it may run none, call run(..., allow_no_tests=True)";
                (Verdict::Not(Reason::NoTests), Some(Problem::new(error, hint)))
            }
            None => passed,
        }
    }

    /// The output is made before the attempt is told of, so that whoever hears of it finds it.
    async fn begin_attempt(&self, task: &TaskId) -> Begin {
        let begun = |state: &RunState| {
            let known = state.task(task)?;
            let left = known.attempts.last().filter(|_| known.state == TaskState::Running);
            Some((state.place(task)?, known.attempts.len() as u32 + 1, left.cloned().map(Box::new)))
        };
        match self.log.look(begun).await {
            Some((_, _, Some(before))) => {
                let reopened = self.reopened.lock().expect("no panic under this lock").remove(task);
                let output =
                    reopened.unwrap_or_else(|| Err(std::io::Error::other("its output was not reopened")));
                Begin::Again { before, output }
            }
            Some((place, number, None)) => {
                let output = OutputId { run: self.number, task: place, attempt: number };
                Begin::Fresh { number, output: self.all.outputs.create(output) }
            }
            None => Begin::Fresh { number: 1, output: Err(std::io::Error::other("an unknown task")) },
        }
    }
}
