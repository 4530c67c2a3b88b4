//! A run as the sum of its events. `RunState::apply` is the one state machine: the boss uses it to refuse a
//! wrong event and to rebuild a run after a restart, the page and the terminal use it to draw.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::{
    Artifacts, OnlyTests, Pipeline, Problem, Reason, RunKey, RunNumber, Seq, SkipReason, SomeTests, StepEnd,
    StepEvent, StepId, StepSpec, TaskAgain, TaskId, TestCounts, Verdict,
};

/// One fact in a run's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunEvent {
    pub seq: Seq,
    /// Wall-clock milliseconds since 1970; for show. Order is `seq`, durations are measured by whom they concern.
    pub at_ms: u64,
    #[serde(flatten)]
    pub fact: RunFact,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunFact {
    RunStarted {
        run: RunNumber,
        key: RunKey,
        pipeline: Pipeline,
        /// The tasks of a partial run; null for all.
        only: Option<Vec<TaskId>>,
        /// Not told of runs from before this was recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        started_by: Option<StartedBy>,
        /// Of a run whose pipedef speaks of `source_at`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<RunSource>,
    },
    TaskStarted {
        task: TaskId,
        attempt: u32,
    },
    /// The pipedef called `run(...)`; said before the worker hears of it.
    StepAsked {
        task: TaskId,
        attempt: u32,
        step: StepId,
        worker: String,
        spec: Box<StepSpec>,
        /// It runs only some tests of what this step of an earlier attempt was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instead_of: Option<StepId>,
    },
    /// What the worker said of a step. Its `output` is not in the log but in the attempt's output file.
    Step {
        task: TaskId,
        attempt: u32,
        step: StepId,
        /// Where the worker's spool continues after this.
        position: u64,
        said: StepEvent,
    },
    /// This is how the attempt ends, unless a step that is still to be ended errored. Said before the first of
    /// those is cancelled: a boss that comes after must not take that cancel for an answer to the task.
    TaskEnding {
        task: TaskId,
        attempt: u32,
        #[serde(flatten)]
        verdict: Verdict,
        problem: Option<Problem>,
    },
    TaskEnded {
        task: TaskId,
        attempt: u32,
        #[serde(flatten)]
        verdict: Verdict,
        took_ms: u64,
        /// What to tell a person, where the verdict alone does not say it all.
        problem: Option<Problem>,
        /// Where a test runner spoke. The tests themselves are stored beside the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tests: Option<TestCounts>,
    },
    TaskSkipped {
        task: TaskId,
        why: SkipReason,
    },
    CancelAsked,
    /// New attempts of these tasks begin.
    RerunStarted {
        only: Vec<TaskId>,
        /// Where only the tests are wanted that had failed: what that comes to, for each task that has run before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        failed_tests: Vec<TaskAgain>,
    },
    RunEnded {
        #[serde(flatten)]
        verdict: Verdict,
    },
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunState {
    pub number: RunNumber,
    /// None until `run_started`.
    pub key: Option<RunKey>,
    pub phase: Phase,
    pub only: Option<Vec<TaskId>>,
    pub started_by: Option<StartedBy>,
    pub source: Option<RunSource>,
    /// How often a part of it was run again.
    pub reruns: u32,
    pub cancel_asked: bool,
    pub stages: Vec<StageRun>,
    pub started_at_ms: u64,
    pub ended_at_ms: Option<u64>,
    pub last_seq: Seq,
    /// Where in `stages` a task stands, so that a run of thousands of tasks stays quick.
    places: BTreeMap<TaskId, (usize, usize)>,
}

/// Which files a run is of: a snapshot of the work tree, taken when the run began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunSource {
    /// Null where there is no git, or no commit yet.
    pub commit: Option<String>,
    /// Null also where none is checked out.
    pub branch: Option<String>,
    /// Other files than that commit's.
    pub is_dirty: bool,
    /// Equal files give an equal one, whenever they were written.
    pub tree: String,
    /// How many files, and how many bytes these are.
    pub files: u64,
    pub bytes: u64,
}

/// Where somebody asked for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StartedBy {
    /// A browser, on the page.
    Page,
    /// Whoever has the token: a script, an agent.
    Api,
    /// `bettertest run`.
    Terminal,
}

impl StartedBy {
    pub fn word(self) -> &'static str {
        match self {
            StartedBy::Page => "page",
            StartedBy::Api => "api",
            StartedBy::Terminal => "terminal",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// No event yet.
    #[default]
    Unborn,
    Running,
    Ended(Verdict),
}

#[derive(Debug, Clone, PartialEq)]
pub struct StageRun {
    pub name: String,
    pub always: bool,
    pub tasks: Vec<TaskRun>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TaskRun {
    pub id: TaskId,
    pub line: Option<u32>,
    pub state: TaskState,
    /// Only the last can be unended. Earlier ones never change again.
    pub attempts: Vec<Attempt>,
    /// What of its tests the next attempt is for, where it is not for all of them without a word.
    pub again: Option<TaskAgain>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    Pending,
    Running,
    Ended(Verdict),
    Skipped(SkipReason),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Counted from 1.
    pub number: u32,
    pub started_at_ms: u64,
    pub again: Option<TaskAgain>,
    /// In the order in which they were asked for.
    pub steps: Vec<StepRun>,
    /// It will end so, once its steps have: nothing more is asked for.
    pub ending: Option<(Verdict, Option<Problem>)>,
    pub end: Option<AttemptEnd>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AttemptEnd {
    pub verdict: Verdict,
    pub took_ms: u64,
    pub problem: Option<Problem>,
    pub tests: Option<TestCounts>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StepRun {
    pub id: StepId,
    pub worker: String,
    pub spec: StepSpec,
    /// It runs only some tests of what this step of an earlier attempt was asked for.
    pub instead_of: Option<StepId>,
    pub state: StepState,
    /// When it was asked for, and when its end was known, in the order of the log.
    pub asked: Seq,
    pub ended: Option<Seq>,
    /// Where the worker's spool continues after the last event in the log.
    pub position: u64,
    /// What `started` named; of a build what it has made.
    pub image_digest: Option<String>,
    pub dropped_bytes: u64,
    /// Output of this step was lost somewhere.
    pub gap: bool,
    /// Once its worker has said which files are kept.
    pub artifacts: Option<Box<Artifacts>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StepState {
    /// The worker has not answered yet.
    Asked,
    Queued,
    Preparing {
        what: String,
        done_bytes: Option<u64>,
        total_bytes: Option<u64>,
    },
    Running {
        since_ms: u64,
    },
    Ended(StepEnd),
}

/// An event that cannot follow what the log already says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IllegalTransition {
    pub seq: Seq,
    pub why: String,
}

impl fmt::Display for IllegalTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} cannot follow: {}", self.seq.0, self.why)
    }
}

impl std::error::Error for IllegalTransition {}

impl RunState {
    /// Takes one event into account, or refuses it and stays as it was.
    pub fn apply(&mut self, event: &RunEvent) -> Result<(), IllegalTransition> {
        let illegal = |why: String| IllegalTransition { seq: event.seq, why };
        if event.seq.0 != self.last_seq.0 + 1 {
            return Err(illegal(format!("the last one was {}", self.last_seq.0)));
        }
        self.take(event.at_ms, &event.fact).map_err(illegal)?;
        self.last_seq = event.seq;
        Ok(())
    }

    /// Every check stands before the first change, so that a refused fact leaves no trace.
    fn take(&mut self, at_ms: u64, fact: &RunFact) -> Result<(), String> {
        match (fact, self.phase) {
            (RunFact::RunStarted { run, key, pipeline, only, started_by, source }, Phase::Unborn) => {
                self.begin(at_ms, *run, key, pipeline, only.as_deref())?;
                self.started_by = *started_by;
                self.source.clone_from(source);
                return Ok(());
            }
            (RunFact::RunStarted { .. }, _) => return Err("the run has already started".to_owned()),
            (_, Phase::Unborn) => return Err("the run has not started".to_owned()),
            (RunFact::RerunStarted { only, failed_tests }, Phase::Ended(_)) => {
                return self.begin_again(only, failed_tests);
            }
            (RunFact::RerunStarted { .. }, _) => return Err("the run is still running".to_owned()),
            (_, Phase::Ended(_)) => return Err("the run has ended".to_owned()),
            (_, Phase::Running) => {}
        }
        match fact {
            RunFact::TaskStarted { task, attempt } => {
                let cancel_asked = self.cancel_asked;
                let found = self.find(task)?;
                let next = found.attempts.len() as u32 + 1;
                if found.state != TaskState::Pending {
                    return Err(format!("{task} is not pending"));
                }
                if cancel_asked {
                    return Err(format!("{task} cannot start: the run is being cancelled"));
                }
                if *attempt != next {
                    return Err(format!("the next attempt of {task} is {next}, not {attempt}"));
                }
                found.state = TaskState::Running;
                found.attempts.push(Attempt {
                    number: next,
                    started_at_ms: at_ms,
                    again: found.again.take(),
                    steps: Vec::new(),
                    ending: None,
                    end: None,
                });
                Ok(())
            }
            RunFact::StepAsked { task, attempt, step, worker, spec, instead_of } => {
                let asked = Seq(self.last_seq.0 + 1);
                let running = self.running(task, *attempt)?;
                if running.ending.is_some() {
                    return Err(format!("{task} is ending"));
                }
                if running.steps.iter().any(|known| known.id == *step) {
                    return Err(format!("step {step} was asked for before"));
                }
                if let Some(other) = instead_of {
                    running.may_be_instead_of(other)?;
                }
                running.steps.push(StepRun {
                    id: step.clone(),
                    worker: worker.clone(),
                    spec: (**spec).clone(),
                    instead_of: instead_of.clone(),
                    state: StepState::Asked,
                    asked,
                    ended: None,
                    position: 0,
                    image_digest: None,
                    dropped_bytes: 0,
                    gap: false,
                    artifacts: None,
                });
                Ok(())
            }
            RunFact::Step { task, attempt, step, position, said } => {
                let now = Seq(self.last_seq.0 + 1);
                let running = self.running(task, *attempt)?;
                let found = running.steps.iter_mut().find(|known| known.id == *step);
                let found = found.ok_or_else(|| format!("nobody asked for step {step}"))?;
                found.take(at_ms, *position, said)?;
                found.ended = said.end().map(|_| now);
                Ok(())
            }
            RunFact::TaskEnding { task, attempt, verdict, problem } => {
                let running = self.running(task, *attempt)?;
                if running.ending.is_some() {
                    return Err(format!("{task} is ending already"));
                }
                if verdict.passed() {
                    return Err(format!("{task} cannot pass before its steps have ended"));
                }
                running.ending = Some((*verdict, problem.clone()));
                Ok(())
            }
            RunFact::TaskEnded { task, attempt, verdict, took_ms, problem, tests } => {
                let running = self.running(task, *attempt)?;
                if verdict.passed() {
                    running.may_pass().map_err(|why| format!("{task} cannot have passed: {why}"))?;
                }
                running.end = Some(AttemptEnd {
                    verdict: *verdict,
                    took_ms: *took_ms,
                    problem: problem.clone(),
                    tests: *tests,
                });
                self.find(task)?.state = TaskState::Ended(*verdict);
                Ok(())
            }
            RunFact::TaskSkipped { task, why } => {
                let selected = self.only.as_ref().is_none_or(|only| only.contains(task));
                if *why == SkipReason::NotSelected && selected {
                    return Err(format!("{task} is a part of this run"));
                }
                let found = self.find(task)?;
                if found.state != TaskState::Pending {
                    return Err(format!("{task} is not pending"));
                }
                found.state = TaskState::Skipped(*why);
                Ok(())
            }
            RunFact::CancelAsked => {
                if self.cancel_asked {
                    return Err("the run is being cancelled already".to_owned());
                }
                self.cancel_asked = true;
                Ok(())
            }
            RunFact::RunEnded { verdict } => {
                if let Some(open) =
                    self.tasks().find(|task| matches!(task.state, TaskState::Pending | TaskState::Running))
                {
                    return Err(format!("{} has not ended", open.id));
                }
                let due = self.verdict_now();
                if *verdict != due {
                    return Err(format!("its tasks make it {due:?}, not {verdict:?}"));
                }
                self.phase = Phase::Ended(*verdict);
                self.ended_at_ms = Some(at_ms);
                Ok(())
            }
            RunFact::RunStarted { .. } | RunFact::RerunStarted { .. } => Err("out of place".to_owned()),
        }
    }

    fn begin(
        &mut self,
        at_ms: u64,
        run: RunNumber,
        key: &RunKey,
        pipeline: &Pipeline,
        only: Option<&[TaskId]>,
    ) -> Result<(), String> {
        let mut places = BTreeMap::new();
        for (s, stage) in pipeline.stages.iter().enumerate() {
            for (t, task) in stage.tasks.iter().enumerate() {
                let id = TaskId::new(&stage.name, &task.name);
                if places.insert(id.clone(), (s, t)).is_some() {
                    return Err(format!("there are two tasks {id}"));
                }
            }
        }
        if let Some(stranger) = only.unwrap_or_default().iter().find(|id| !places.contains_key(*id)) {
            return Err(format!("there is no task {stranger}"));
        }
        let stages = pipeline.stages.iter().map(|stage| StageRun {
            name: stage.name.clone(),
            always: stage.always,
            tasks: (stage.tasks.iter())
                .map(|task| TaskRun {
                    id: TaskId::new(&stage.name, &task.name),
                    line: task.line,
                    state: TaskState::Pending,
                    attempts: Vec::new(),
                    again: None,
                })
                .collect(),
        });
        *self = RunState {
            number: run,
            key: Some(key.clone()),
            phase: Phase::Running,
            only: only.map(<[TaskId]>::to_vec),
            stages: stages.collect(),
            started_at_ms: at_ms,
            places,
            ..RunState::default()
        };
        Ok(())
    }

    fn begin_again(&mut self, only: &[TaskId], failed_tests: &[TaskAgain]) -> Result<(), String> {
        let mut places = Vec::new();
        for id in only {
            let place = *self.places.get(id).ok_or_else(|| format!("there is no task {id}"))?;
            if self.task_at(place).state == TaskState::Ended(Verdict::Passed) {
                return Err(format!("{id} has passed"));
            }
            places.push(place);
        }
        if places.is_empty() {
            return Err("a re-run of no task".to_owned());
        }
        for again in failed_tests {
            let task = self.task(&again.task).filter(|task| only.contains(&task.id));
            let task = task.ok_or_else(|| format!("{} is no part of this re-run", again.task))?;
            let asked = |step: &StepId| {
                task.attempts.iter().flat_map(|attempt| &attempt.steps).any(|known| known.id == *step)
            };
            if let Some(stranger) = again.steps.iter().find(|only| !asked(&only.step)) {
                return Err(format!("{} has asked for no step {}", again.task, stranger.step));
            }
        }
        for (s, t) in places {
            let task = &mut self.stages[s].tasks[t];
            task.state = TaskState::Pending;
            task.again = failed_tests.iter().find(|again| again.task == task.id).cloned();
        }
        self.phase = Phase::Running;
        self.reruns += 1;
        self.cancel_asked = false;
        self.ended_at_ms = None;
        Ok(())
    }

    fn task_at(&self, (s, t): (usize, usize)) -> &TaskRun {
        &self.stages[s].tasks[t]
    }

    fn find(&mut self, id: &TaskId) -> Result<&mut TaskRun, String> {
        let (s, t) = *self.places.get(id).ok_or_else(|| format!("there is no task {id}"))?;
        Ok(&mut self.stages[s].tasks[t])
    }

    fn running(&mut self, id: &TaskId, attempt: u32) -> Result<&mut Attempt, String> {
        let found = self.find(id)?;
        let running = found.state == TaskState::Running;
        match found.attempts.last_mut() {
            Some(last) if running && last.number == attempt => Ok(last),
            Some(_) | None => Err(format!("attempt {attempt} of {id} is not running")),
        }
    }

    /// Every task, in the order of the pipeline.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskRun> {
        self.stages.iter().flat_map(|stage| &stage.tasks)
    }

    /// Where a task stands among `tasks`.
    pub fn place(&self, id: &TaskId) -> Option<usize> {
        let (stage, task) = *self.places.get(id)?;
        Some(self.stages[..stage].iter().map(|stage| stage.tasks.len()).sum::<usize>() + task)
    }

    pub fn task(&self, id: &TaskId) -> Option<&TaskRun> {
        self.places.get(id).map(|place| self.task_at(*place))
    }

    pub fn is_partial(&self) -> bool {
        self.only.is_some()
    }

    /// The worst of the latest attempts. Tasks that a cancel kept from starting make the run cancelled at
    /// least, those that a crash kept from it make it errored. A run in which nothing ran is never green, nor is
    /// one of which a part is left out that nothing keeps from running any more.
    pub fn verdict_now(&self) -> Verdict {
        let mut worst = Verdict::Passed;
        let mut attempted = false;
        let mut kept_back = false;
        for task in self.tasks() {
            match task.state {
                TaskState::Ended(verdict) => {
                    attempted = true;
                    worst = worst.worse(verdict);
                }
                TaskState::Skipped(SkipReason::Cancelled) => {
                    worst = worst.worse(Verdict::Not(Reason::CancelAsked));
                }
                TaskState::Skipped(SkipReason::Abandoned) => {
                    worst = worst.worse(Verdict::Not(Reason::RunnerDied));
                }
                TaskState::Skipped(SkipReason::EarlierStage) => kept_back = true,
                TaskState::Skipped(SkipReason::NotSelected) | TaskState::Pending | TaskState::Running => {}
            }
        }
        let all_of_it = attempted && !kept_back;
        if all_of_it || !worst.passed() { worst } else { Verdict::Not(Reason::RanNothing) }
    }

    /// The highest attempt that any of its tasks has come to; 0 where none has started.
    pub fn latest_attempt(&self) -> u32 {
        self.tasks().map(|task| task.attempts.len()).max().unwrap_or(0) as u32
    }

    /// What a re-run takes: every task whose latest attempt did not pass, and what was skipped because of it.
    pub fn not_passed(&self) -> Vec<TaskId> {
        let wanted = |task: &&TaskRun| match task.state {
            TaskState::Ended(verdict) => !verdict.passed(),
            TaskState::Skipped(SkipReason::EarlierStage | SkipReason::Cancelled | SkipReason::Abandoned) => {
                true
            }
            TaskState::Skipped(SkipReason::NotSelected) | TaskState::Pending | TaskState::Running => false,
        };
        self.tasks().filter(wanted).map(|task| task.id.clone()).collect()
    }

    /// Whether a task failed by tests that may be run alone.
    pub fn has_tests_to_run_alone(&self) -> bool {
        let failed = |task: &&TaskRun| task.state != TaskState::Ended(Verdict::Passed);
        let mut latest = self.tasks().filter(failed).filter_map(|task| task.attempts.last());
        latest.any(Attempt::has_tests_to_run_alone)
    }

    /// How many tasks the run has in each state, by the state's word; for headings and lists.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for task in self.tasks() {
            *counts.entry(task.state.word()).or_default() += 1;
        }
        counts
    }

    /// The workers that steps of this run went to.
    pub fn workers(&self) -> BTreeSet<&str> {
        let attempts = self.tasks().flat_map(|task| &task.attempts);
        attempts.flat_map(|attempt| &attempt.steps).map(|step| step.worker.as_str()).collect()
    }
}

impl TaskRun {
    /// The tests of its latest attempt, once that has ended.
    pub fn tests(&self) -> Option<TestCounts> {
        self.attempts.last()?.end.as_ref()?.tests
    }
}

impl TaskState {
    /// `pending`, `running`, `skipped`, or the outcome's word. Also the CSS class.
    pub fn word(self) -> &'static str {
        match self {
            TaskState::Pending => "pending",
            TaskState::Running => "running",
            TaskState::Ended(verdict) => verdict.outcome().word(),
            TaskState::Skipped(_) => "skipped",
        }
    }
}

impl Attempt {
    /// Which tests alone this step ran, where it ran only some.
    pub fn only_tests(&self, step: &StepRun) -> Option<&OnlyTests> {
        let instead_of = step.instead_of.as_ref()?;
        self.again.as_ref()?.steps.iter().find(|only| only.step == *instead_of)
    }

    /// Whether it failed by tests that may be run alone.
    pub fn has_tests_to_run_alone(&self) -> bool {
        let failed = |step: &&StepRun| matches!(&step.state, StepState::Ended(end) if !end.verdict.passed());
        let by_tests = self.end.as_ref().is_some_and(|end| {
            end.verdict == Verdict::Not(Reason::CommandFailed)
                && end.tests.is_some_and(|tests| tests.failed > 0)
        });
        by_tests && self.steps.iter().filter(failed).all(|step| step.spec.only_tests.is_some())
    }

    /// How many tests it ran alone, where it ran only some.
    pub fn some_tests(&self) -> Option<SomeTests> {
        SomeTests::of(self.steps.iter().filter_map(|step| self.only_tests(step)))
    }

    fn may_be_instead_of(&self, other: &StepId) -> Result<(), String> {
        if !self.again.iter().flat_map(|again| &again.steps).any(|only| only.step == *other) {
            return Err(format!("nobody wanted only some tests of step {other}"));
        }
        if self.steps.iter().any(|step| step.instead_of.as_ref() == Some(other)) {
            return Err(format!("some tests of step {other} run already"));
        }
        Ok(())
    }

    /// `passed` needs at least one step, and that the worker has recorded a true end of each.
    fn may_pass(&self) -> Result<(), String> {
        if self.ending.is_some() {
            return Err("it was ending otherwise".to_owned());
        }
        if self.steps.is_empty() {
            return Err("it ran nothing".to_owned());
        }
        for step in &self.steps {
            if step.instead_of.is_some() {
                return Err(format!("step {} ran only some tests", step.id));
            }
            match &step.state {
                StepState::Ended(end) if end.verdict.outcome() == crate::Outcome::Errored => {
                    return Err(format!("step {} errored", step.id));
                }
                StepState::Ended(_) => {}
                StepState::Asked
                | StepState::Queued
                | StepState::Preparing { .. }
                | StepState::Running { .. } => return Err(format!("step {} has not ended", step.id)),
            }
        }
        Ok(())
    }
}

impl StepRun {
    fn take(&mut self, at_ms: u64, position: u64, said: &StepEvent) -> Result<(), String> {
        let id = &self.id;
        if matches!(self.state, StepState::Ended(_)) {
            return Err(format!("step {id} has ended"));
        }
        if position <= self.position {
            return Err(format!("step {id} is past position {position} already"));
        }
        let running = matches!(self.state, StepState::Running { .. });
        match said {
            StepEvent::Queued if self.state == StepState::Asked => self.state = StepState::Queued,
            StepEvent::Queued => return Err(format!("step {id} was queued before")),
            StepEvent::Preparing { .. } | StepEvent::Started { .. } if running => {
                return Err(format!("step {id} is running already"));
            }
            StepEvent::Preparing { what, done_bytes, total_bytes } => {
                self.state = StepState::Preparing {
                    what: what.clone(),
                    done_bytes: *done_bytes,
                    total_bytes: *total_bytes,
                };
            }
            StepEvent::Started { image_digest: None, .. } if self.spec.build().is_none() => {
                return Err(format!("step {id} runs in an image, and it is not said in which"));
            }
            StepEvent::Started { image_digest, .. } => {
                self.image_digest = image_digest.clone();
                self.state = StepState::Running { since_ms: at_ms };
            }
            StepEvent::Output { .. } => return Err("output does not belong in the log".to_owned()),
            StepEvent::Dropped { .. }
            | StepEvent::Gap { .. }
            | StepEvent::Artifacts(_)
            | StepEvent::Exited { .. }
                if !running =>
            {
                return Err(format!("step {id} is not running"));
            }
            StepEvent::Dropped { bytes } => self.dropped_bytes = self.dropped_bytes.saturating_add(*bytes),
            StepEvent::Gap { .. } => self.gap = true,
            StepEvent::Artifacts(artifacts) => {
                if self.artifacts.is_some() {
                    return Err(format!("step {id} has told of its artifacts before"));
                }
                artifacts.check()?;
                self.artifacts = Some(Box::new(artifacts.clone()));
            }
            StepEvent::Exited { exit_code, image_digest, .. }
                if image_digest.is_some() != (self.spec.build().is_some() && *exit_code == 0) =>
            {
                return Err(format!(
                    "step {id} has made an image without saying which, or none and says one"
                ));
            }
            StepEvent::Exited { image_digest, .. } => {
                if image_digest.is_some() {
                    self.image_digest = image_digest.clone();
                }
                self.state = StepState::Ended(said.end().expect("the last four are ends"));
            }
            StepEvent::TimedOut { .. } | StepEvent::Cancelled { .. } | StepEvent::Errored { .. } => {
                self.state = StepState::Ended(said.end().expect("the last four are ends"));
            }
        }
        self.position = position;
        Ok(())
    }
}
