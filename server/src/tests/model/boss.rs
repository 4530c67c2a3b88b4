//! A boss of the model: drives a run, executes its attempts, follows their steps, and goes on after a crash by
//! replay. What it does is written after `server/src/boss/runs*`, one act at a time, so that a crash fits between.

mod acts;

use common::{
    Outcome, Phase as RunPhase, Reason, RunFact, RunState, SkipReason, StepEnd, StepState, TaskState, Verdict,
};
use std::collections::VecDeque;

use super::plan::{Cmd, Fate};
use super::python::{Python, Said as Spoken, Told, Word, verdict};
use super::rules::{Fault, Order, Unasked};
use super::world::{Call, Case, Life, REFUSED, WORKERS};

#[derive(Clone, Default)]
pub(super) struct Boss {
    pub(super) state: RunState,
    pub(super) attempts: Vec<Attempt>,
}

/// How an attempt's Python came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Said(Word),
    Cancelled,
    /// It waits for what it will never be told.
    Stuck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Talking,
    /// The last word is known; nothing has been done about it.
    Over(Last),
    /// What still runs is being cancelled.
    Ending(Last),
}

#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) task: usize,
    pub(super) number: u32,
    python: Python,
    wire: VecDeque<Spoken>,
    /// By the number of the call, from 1.
    calls: Vec<Asked>,
    following: Vec<Following>,
    /// What the log holds of this attempt since before the crash.
    recorded: Vec<Recorded>,
    history: Vec<Past>,
    /// How much of `history` has happened again.
    again: usize,
    in_order: bool,
    phase: Phase,
    ends: usize,
    /// Output that is half written.
    writing: VecDeque<(usize, usize)>,
}

#[derive(Clone)]
struct Asked {
    id: usize,
    cmd: Cmd,
    told: Option<Told>,
    /// How many ends this process has recorded before its own.
    ended_after: usize,
    answered: bool,
    /// Its end is known from before the crash, and is not to be told.
    held: bool,
}

#[derive(Clone)]
struct Recorded {
    id: usize,
    call: Call,
    told: Option<Told>,
    position: usize,
    asked_again: bool,
}

#[derive(Debug, Clone, Copy)]
enum Past {
    Asked(usize),
    Ended(usize),
}

/// A step that is being followed to its end.
#[derive(Clone)]
struct Following {
    id: usize,
    call: Call,
    position: usize,
    /// Up to here the log has its events already.
    logged: usize,
    /// So much of its output is stored already.
    stored: usize,
    posted: bool,
    /// Asked for by this process, so that no other can have posted it.
    fresh: bool,
    refused: bool,
    cancel: bool,
    done: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Doing {
    Thread(usize),
    Hear,
    Tell(usize),
    /// It has waited long enough for calls that the log has and the replay does not make.
    Bound,
    SeeCancel,
    Over,
    Finish,
    Post(usize),
    Delete(usize),
    CancelUnposted(usize),
    Read(usize),
    Write,
}

impl Boss {
    /// What the run as a whole comes to next, if it does not wait.
    pub(super) fn next_fact(&self, case: &Case) -> Option<RunFact> {
        let state = &self.state;
        if let RunPhase::Ended(verdict) = state.phase {
            let again = state.tasks().any(|task| task.attempts.len() > 1);
            let wanted = case.plan.rerun && !again && !verdict.passed();
            let only = state.not_passed();
            return (wanted && !only.is_empty())
                .then_some(RunFact::RerunStarted { only, failed_tests: Vec::new() });
        }
        let fine = |state: TaskState| state == TaskState::Ended(Verdict::Passed);
        let mut before_passed = true;
        for stage in &state.stages {
            if let Some(task) = stage.tasks.iter().find(|task| task.state == TaskState::Pending) {
                let skip = |why| RunFact::TaskSkipped { task: task.id.clone(), why };
                return Some(if state.cancel_asked {
                    skip(SkipReason::Cancelled)
                } else if !stage.always && !before_passed {
                    skip(SkipReason::EarlierStage)
                } else {
                    RunFact::TaskStarted { task: task.id.clone(), attempt: task.attempts.len() as u32 + 1 }
                });
            }
            if stage.tasks.iter().any(|task| task.state == TaskState::Running) {
                return None;
            }
            before_passed &= stage.tasks.iter().all(|task| fine(task.state));
        }
        Some(RunFact::RunEnded { verdict: state.verdict_now() })
    }

    pub(super) fn resume(case: &Case, boss: usize, life: &mut Life, state: RunState) -> Boss {
        let running = state.tasks().filter(|task| task.state == TaskState::Running);
        let mut attempts: Vec<Attempt> = running
            .map(|task| {
                let number = task.attempts.len() as u32;
                Attempt::new(case.task_of(&task.id), number)
            })
            .collect();
        for attempt in &mut attempts {
            attempt.recall(case, boss, life, &state);
        }
        Boss { state, attempts }
    }
}

impl Attempt {
    fn new(task: usize, number: u32) -> Attempt {
        Attempt {
            task,
            number,
            python: Python::new(),
            wire: VecDeque::new(),
            calls: Vec::new(),
            following: Vec::new(),
            recorded: Vec::new(),
            history: Vec::new(),
            again: 0,
            in_order: false,
            phase: Phase::Talking,
            ends: 0,
            writing: VecDeque::new(),
        }
    }

    /// What there is of it in the log.
    fn recall(&mut self, case: &Case, boss: usize, life: &mut Life, state: &RunState) {
        let task = &case.tasks[self.task];
        let found = state.task(task).and_then(|task| task.attempts.last()).expect("it is running");
        for step in &found.steps {
            let id = case.id_of(&step.id);
            let spec = step.spec.command.for_show();
            let cmd = Cmd {
                worker: WORKERS.iter().position(|known| *known == step.worker).expect("one of ours") as u8,
                spec: spec.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("one of ours"),
            };
            let equal = self.recorded.iter().filter(|known| known.call.cmd == cmd).count() as u8;
            let attempt = self.number;
            self.recorded.push(Recorded {
                id,
                call: Call { boss, task: self.task, attempt, cmd, equal_before: equal },
                told: match &step.state {
                    StepState::Ended(end) => Some(told_of(case, end)),
                    StepState::Asked
                    | StepState::Queued
                    | StepState::Preparing { .. }
                    | StepState::Running { .. } => None,
                },
                position: step.position as usize,
                asked_again: false,
            });
        }
        // Where the ids are wrong, that is for the checker to see, not for this to stumble over.
        let its_own = |known: &common::TaskId, attempt: u32| known == task && attempt == self.number;
        for event in &life.log {
            match &event.fact {
                RunFact::StepAsked { task, attempt, step, .. } if its_own(task, *attempt) => {
                    self.history.push(Past::Asked(case.id_of(step)));
                }
                RunFact::Step { task, attempt, step, said, .. }
                    if its_own(task, *attempt) && said.end().is_some() =>
                {
                    self.history.push(Past::Ended(case.id_of(step)));
                }
                RunFact::StepAsked { .. }
                | RunFact::Step { .. }
                | RunFact::RunStarted { .. }
                | RunFact::TaskStarted { .. }
                | RunFact::TaskEnding { .. }
                | RunFact::TaskEnded { .. }
                | RunFact::TaskSkipped { .. }
                | RunFact::CancelAsked
                | RunFact::RerunStarted { .. }
                | RunFact::RunEnded { .. } => {}
            }
        }
        self.in_order = case.rules.order == Order::OfTheLog;
        if state.cancel_asked {
            self.end(case, life, Last::Cancelled);
        } else if let Some((.., word)) =
            life.words.iter().find(|(task, attempt, _)| (*task, *attempt) == (self.task, self.number))
        {
            self.end(case, life, Last::Said(*word));
        }
    }

    /// Nothing of it is wanted any more: what runs, also what only the log knows, is to be cancelled.
    fn end(&mut self, case: &Case, life: &Life, last: Last) {
        self.phase = Phase::Ending(last);
        for step in &mut self.following {
            step.cancel = true;
        }
        if case.has(Fault::ForgetUnasked) && last == Last::Said(Word::Returned) {
            return;
        }
        let left: Vec<usize> = (0..self.recorded.len())
            .filter(|at| !self.recorded[*at].asked_again && self.recorded[*at].told.is_none())
            .collect();
        for at in left {
            let attached = self.attach(case, life, at);
            self.following.push(Following { cancel: true, ..attached });
        }
    }

    /// A step that the log has without its end: by its id there is no more than one container, whoever asks.
    fn attach(&self, case: &Case, life: &Life, at: usize) -> Following {
        let Recorded { id, call, position, .. } = self.recorded[at];
        let from_log = case.has(Fault::PositionFromLog);
        let stored = life.outputs.get(&(self.task, self.number)).map_or(0, |output| output.stored(id));
        Following {
            id,
            call,
            position: if from_log { position } else { 0 },
            logged: position,
            stored: if from_log { 0 } else { stored },
            posted: false,
            fresh: false,
            refused: false,
            cancel: false,
            done: false,
        }
    }

    fn has_unended(&self) -> bool {
        self.following.iter().any(|step| !step.done)
            || self.recorded.iter().any(|step| !step.asked_again && step.told.is_none())
    }

    /// May this answer be given now?
    fn may_tell(&self, case: &Case, call: &Asked) -> bool {
        let waits = |call: &&Asked| !call.answered && !call.held && call.told.is_some();
        if !waits(&call) {
            return false;
        }
        let first = self.calls.iter().filter(waits).all(|other| call.ended_after <= other.ended_after);
        if !first && case.rules.order == Order::OfTheLog {
            return false;
        }
        match self.history.get(self.again) {
            Some(Past::Ended(id)) if self.in_order => *id == call.id,
            Some(Past::Asked(_)) if self.in_order => false,
            Some(Past::Asked(_) | Past::Ended(_)) | None => true,
        }
    }

    /// What of the log has happened again by now.
    fn advance(&mut self) {
        while let Some(past) = self.history.get(self.again) {
            let happened = match past {
                Past::Asked(id) => self.calls.iter().any(|call| call.id == *id),
                Past::Ended(id) => {
                    self.calls.iter().any(|call| call.id == *id && (call.answered || call.held))
                }
            };
            if !happened {
                return;
            }
            self.again += 1;
        }
    }

    fn verdict(&self, case: &Case, state: &RunState, last: Last) -> Verdict {
        let task = state.task(&case.tasks[self.task]).expect("a task of this plan");
        let ends = || {
            let steps = &task.attempts.last().expect("it is running").steps;
            steps.iter().filter_map(|step| match &step.state {
                StepState::Ended(end) => Some(told_of(case, end)),
                StepState::Asked
                | StepState::Queued
                | StepState::Preparing { .. }
                | StepState::Running { .. } => None,
            })
        };
        let errored = ends().any(|told| told == Told::By(Fate::Errored));
        let unasked = self.recorded.iter().any(|step| !step.asked_again);
        let diverged = Verdict::Not(Reason::ReplayDiverged);
        match last {
            Last::Cancelled | Last::Stuck if errored => Verdict::Not(Reason::EngineUnavailable),
            Last::Cancelled => Verdict::Not(Reason::CancelAsked),
            Last::Stuck => diverged,
            Last::Said(word) => {
                let always = case.rules.unasked == Unasked::AlwaysDiverged;
                let forgets = case.has(Fault::ForgetUnasked);
                let strict = unasked && !forgets && (always || word == Word::Returned);
                if strict && !errored { diverged } else { verdict(word, ends()) }
            }
        }
    }
}

/// How the log tells of an end.
fn told_of(case: &Case, end: &StepEnd) -> Told {
    match (end.verdict, end.exit_code) {
        (Verdict::Passed, _) => Told::By(Fate::Exit(0)),
        (Verdict::Not(Reason::CommandFailed), Some(code)) => Told::By(Fate::Exit(code)),
        (Verdict::Not(REFUSED), _) if !case.has(Fault::RefusalAsCancel) => Told::By(Fate::Refused),
        (Verdict::Not(reason), _) => match reason.outcome() {
            Outcome::TimedOut => Told::By(Fate::TimedOut),
            Outcome::Errored => Told::By(Fate::Errored),
            Outcome::Cancelled => Told::Cancelled,
            Outcome::Passed | Outcome::Failed => unreachable!("{reason:?} is no end of a step"),
        },
    }
}
