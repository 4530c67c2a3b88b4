//! The world of the model: what a crash of a boss leaves (logs, stored output, workers, requests under way), and one
//! actor after another, picked by seed.

use common::{
    Command, Pipeline, Reason, RunEvent, RunFact, RunKey, RunNumber, RunState, Seq, StepId, StepSpec, TaskId,
    step_id,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::boss::{Boss, Doing};
use super::oracle::{Possible, possible};
use super::plan::{Cmd, Fate, Luck, Plan, Rng};
use super::python::{Code, Told, Word};
use super::rules::{Fault, Pace, Rules};

/// A plan, ready to be executed.
pub(super) struct Case {
    pub(super) plan: Plan,
    pub(super) codes: Vec<Code>,
    pub(super) tasks: Vec<TaskId>,
    /// By task and attempt.
    pub(super) possible: Vec<[Possible; 2]>,
    pipeline: Pipeline,
    specs: Vec<StepSpec>,
    pub(super) rules: Rules,
    ids: RefCell<Ids>,
}

#[derive(Default)]
struct Ids {
    known: HashMap<(Call, u32), usize>,
    names: Vec<StepId>,
    by_name: HashMap<StepId, usize>,
}

/// One call of `run`: whose, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Call {
    pub(super) boss: usize,
    pub(super) task: usize,
    pub(super) attempt: u32,
    pub(super) cmd: Cmd,
    pub(super) equal_before: u8,
}

pub(super) const WORKERS: [&str; 2] = ["http://one:9009", "http://two:9009"];

impl Case {
    /// None where the plan can come to more than is worth trying.
    pub(super) fn new(plan: Plan, rules: Rules) -> Option<Case> {
        let codes: Vec<Code> = plan.tasks().map(|task| Code::of(&task.body)).collect();
        let possible: Option<Vec<[Possible; 2]>> = (codes.iter())
            .map(|code| {
                let again = if plan.rerun { possible(&plan, code, 2)? } else { Possible::default() };
                Some([possible(&plan, code, 1)?, again])
            })
            .collect();
        let mut stages = Vec::new();
        let mut names = 0..;
        for (s, stage) in plan.stages.iter().enumerate() {
            let named = |place| common::Task { name: format!("t{place}"), line: None };
            let tasks = (&mut names).take(stage.tasks.len()).map(named).collect();
            stages.push(common::Stage { name: format!("S{s}"), always: stage.always, tasks });
        }
        let pipeline = Pipeline { stages };
        let specs = (0..Plan::SPECS).map(|s| StepSpec::new("image", Command::Shell(format!("command {s}"))));
        Some(Case {
            tasks: pipeline.tasks().collect(),
            codes,
            possible: possible?,
            pipeline,
            specs: specs.collect(),
            rules,
            ids: RefCell::default(),
            plan,
        })
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.rules.fault == Some(fault)
    }

    fn key(&self, boss: usize) -> RunKey {
        RunKey::from_random(if self.has(Fault::IdsWithoutRun) { 7 } else { 7 + boss as u128 })
    }

    pub(super) fn spec(&self, cmd: Cmd) -> &StepSpec {
        &self.specs[usize::from(cmd.spec)]
    }

    /// The id of a call, as a small number. `salt` is 0, unless the rules are broken.
    pub(super) fn id(&self, call: Call, salt: u32) -> usize {
        let mut ids = self.ids.borrow_mut();
        if let Some(id) = ids.known.get(&(call, salt)) {
            return *id;
        }
        let worker =
            if self.has(Fault::IdsWithoutWorker) { "" } else { WORKERS[usize::from(call.cmd.worker)] };
        let equal_before = u32::from(call.equal_before) + salt;
        let task = &self.tasks[call.task];
        let name =
            step_id(&self.key(call.boss), task, call.attempt, worker, self.spec(call.cmd), equal_before);
        let next = ids.names.len();
        let id = *ids.by_name.entry(name.clone()).or_insert(next);
        if id == next {
            ids.names.push(name);
        }
        ids.known.insert((call, salt), id);
        id
    }

    pub(super) fn name(&self, id: usize) -> StepId {
        self.ids.borrow().names[id].clone()
    }

    pub(super) fn id_of(&self, name: &StepId) -> usize {
        self.ids.borrow().by_name[name]
    }

    pub(super) fn task_of(&self, id: &TaskId) -> usize {
        self.tasks.iter().position(|known| known == id).expect("a task of this plan")
    }
}

/// What one boss keeps on its disk, and the process, while it lives.
#[derive(Clone, Default)]
pub(super) struct Life {
    pub(super) log: Vec<Rc<RunEvent>>,
    /// The last words that were stored before their attempt's end.
    pub(super) words: Vec<(usize, u32, Word)>,
    /// By task and attempt.
    pub(super) outputs: BTreeMap<(usize, u32), Output>,
    pub(super) boss: Option<Boss>,
    pub(super) restarts: u32,
}

/// An attempt's output file and its index: marks tell whose the bytes are from an offset on.
#[derive(Clone, Default)]
pub(super) struct Output {
    pub(super) marks: Vec<(usize, usize)>,
    /// Truly: of which step, and at which position of its spool. No boss can see that in the bytes.
    pub(super) pieces: Vec<(usize, usize)>,
}

impl Output {
    /// How many pieces the index gives to each step.
    pub(super) fn stored(&self, id: usize) -> usize {
        let ends = self.marks.iter().skip(1).map(|mark| mark.0).chain([self.pieces.len()]);
        self.marks
            .iter()
            .zip(ends)
            .filter(|((_, whose), _)| *whose == id)
            .map(|((at, _), end)| end - at)
            .sum()
    }
}

#[derive(Clone)]
pub(super) struct Container {
    pub(super) id: usize,
    pub(super) call: Call,
    pub(super) spool: Vec<Said>,
    pub(super) starts: u8,
    fate: Fate,
    prints_left: u8,
    stop: bool,
}

/// What a worker says of a step. Its position is the number of what has been said with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Queued,
    Started,
    Output,
    Ended(Told),
}

impl Container {
    pub(super) fn ended(&self) -> Option<Told> {
        match self.spool.last() {
            Some(Said::Ended(told)) => Some(*told),
            Some(Said::Queued | Said::Started | Said::Output) | None => None,
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.starts > 0 && self.ended().is_none()
    }
}

/// A request on its way to a worker. It may arrive long after the boss that sent it is dead, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Post { id: usize, call: Call },
    Delete { id: usize, worker: u8 },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    /// Something of the run as a whole: a task starts or is skipped, the run ends.
    Drive(usize),
    Attempt(usize, usize, Doing),
    Arrive(usize),
    Start(u8, usize),
    GoOn(u8, usize),
    Restart(usize),
    Cancel(usize),
}

impl Act {
    /// A step of Python, or of the boss towards it.
    fn is_pythons(&self) -> bool {
        matches!(self, Act::Attempt(_, _, Doing::Thread(_) | Doing::Hear | Doing::Over))
    }
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) lives: Vec<Life>,
    pub(super) workers: [Vec<Container>; 2],
    pub(super) requests: Vec<Request>,
    pub(super) rng: Rng,
    pub(super) acts: u32,
    /// The attempts that a kill interrupted: boss, task, number.
    pub(super) interrupted: Vec<(usize, usize, u32)>,
    /// Something that outlives a boss has changed in the last act.
    pub(super) lasting: bool,
    pub(super) broken: Option<String>,
    pub(super) trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(case: &Case, seed: u64) -> World {
        let mut world = World {
            lives: vec![Life::default(); case.plan.bosses],
            workers: [Vec::new(), Vec::new()],
            requests: Vec::new(),
            rng: Rng(seed),
            acts: 0,
            interrupted: Vec::new(),
            lasting: false,
            broken: None,
            trace: None,
        };
        for boss in 0..case.plan.bosses {
            world.lives[boss].boss = Some(Boss::default());
            let (pipeline, key) = (case.pipeline.clone(), case.key(boss));
            world.append(
                boss,
                RunFact::RunStarted {
                    run: RunNumber(1),
                    key,
                    pipeline,
                    only: None,
                    started_by: None,
                    source: None,
                },
            );
        }
        world
    }

    /// Store first: checked by the real state machine, then in the log.
    pub(super) fn append(&mut self, boss: usize, fact: RunFact) {
        let life = &mut self.lives[boss];
        let state = &mut life.boss.as_mut().expect("only a living boss appends").state;
        let event = RunEvent { seq: Seq(state.last_seq.0 + 1), at_ms: 0, fact };
        if let Some(trace) = &mut self.trace {
            trace.push(format!("    boss {boss} stores {}", serde_json::to_string(&event).unwrap()));
        }
        match state.apply(&event) {
            Ok(()) => life.log.push(Rc::new(event)),
            Err(wrong) => self.broken = Some(format!("boss {boss}: {wrong}: {:?}", event.fact)),
        }
        self.lasting = true;
    }

    /// The boss's process is gone, and with it all that is not stored. Each of its requests has left, or has not.
    pub(super) fn kill(&mut self, boss: usize) {
        if let Some(killed) = self.lives[boss].boss.take() {
            let were = killed.attempts.iter().map(|attempt| (boss, attempt.task, attempt.number));
            self.interrupted.extend(were);
            let rng = &mut self.rng;
            self.requests.retain(|request| match request {
                Request::Post { call, .. } => call.boss != boss || rng.chance(60),
                Request::Delete { .. } => rng.chance(60),
            });
            if let Some(trace) = &mut self.trace {
                trace.push(format!("*** boss {boss} is killed after act {}", self.acts));
            }
        }
    }

    /// One act of somebody. False when there is nothing left to do.
    pub(super) fn act(&mut self, case: &Case, open: &mut Vec<Act>) -> bool {
        open.clear();
        self.possible_acts(case, open);
        if open.is_empty() || self.broken.is_some() {
            return false;
        }
        if case.rules.pace == Pace::PythonIsQuick && open.iter().any(Act::is_pythons) {
            open.retain(Act::is_pythons);
        }
        let act = open[self.rng.below(open.len())];
        self.acts += 1;
        self.lasting = false;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:3} {act:?}", self.acts));
        }
        match act {
            Act::Drive(boss) => self.drive(case, boss),
            Act::Attempt(boss, attempt, doing) => self.attempt(case, boss, attempt, doing),
            Act::Arrive(request) => self.arrive(case, request),
            Act::Start(worker, at) => self.start(case, usize::from(worker), at),
            Act::GoOn(worker, at) => self.go_on(usize::from(worker), at),
            Act::Restart(boss) => self.resume(case, boss),
            Act::Cancel(boss) => self.append(boss, RunFact::CancelAsked),
        }
        true
    }

    fn possible_acts(&self, case: &Case, open: &mut Vec<Act>) {
        for (at, life) in self.lives.iter().enumerate() {
            let Some(boss) = &life.boss else {
                open.push(Act::Restart(at));
                continue;
            };
            if boss.next_fact(case).is_some() {
                open.push(Act::Drive(at));
            }
            let due = case.plan.cancel_at.is_some_and(|when| self.acts >= when);
            if due && boss.state.phase == common::Phase::Running && !boss.state.cancel_asked {
                open.push(Act::Cancel(at));
            }
            self.acts_of_attempts(case, at, boss, open);
        }
        for place in 0..self.requests.len() {
            open.push(Act::Arrive(place));
        }
        for (w, steps) in self.workers.iter().enumerate() {
            let running = steps.iter().filter(|step| step.runs()).count();
            for (place, step) in steps.iter().enumerate() {
                if step.ended().is_some() {
                    continue;
                }
                if step.runs() || step.stop {
                    open.push(Act::GoOn(w as u8, place));
                } else if running < case.plan.slots {
                    open.push(Act::Start(w as u8, place));
                }
            }
        }
    }

    fn arrive(&mut self, case: &Case, place: usize) {
        self.lasting = true;
        match self.requests.swap_remove(place) {
            Request::Post { id, call } => {
                let steps = &mut self.workers[usize::from(call.cmd.worker)];
                if let Some(known) = steps.iter_mut().find(|step| step.id == id) {
                    known.starts += u8::from(case.has(Fault::StartAgain));
                } else if case.plan.fate(call.cmd, call.attempt, call.equal_before) == Fate::Refused {
                    self.refused(call, id);
                } else {
                    steps.push(Container {
                        id,
                        call,
                        spool: vec![Said::Queued],
                        starts: 0,
                        fate: case.plan.fate(call.cmd, call.attempt, call.equal_before),
                        prints_left: case.plan.prints(call.cmd),
                        stop: false,
                    });
                }
            }
            Request::Delete { id, worker } => {
                let steps = &mut self.workers[usize::from(worker)];
                if let Some(step) = steps.iter_mut().find(|step| step.id == id) {
                    step.stop = true;
                }
            }
        }
    }

    fn start(&mut self, case: &Case, worker: usize, place: usize) {
        self.lasting = true;
        let call = self.workers[worker][place].call;
        let same = |step: &&Container| {
            step.starts > 0 && Call { equal_before: 0, ..step.call } == Call { equal_before: 0, ..call }
        };
        let before = self.workers[worker].iter().filter(same).count() as u8;
        let step = &mut self.workers[worker][place];
        if case.plan.luck(call.cmd) == Luck::ByStart {
            step.fate = case.plan.fate(call.cmd, call.attempt, before);
        }
        step.starts += 1;
        step.spool.push(Said::Started);
    }

    fn go_on(&mut self, worker: usize, place: usize) {
        self.lasting = true;
        let step = &mut self.workers[worker][place];
        let said = match step.prints_left {
            _ if step.stop => Said::Ended(Told::Cancelled),
            0 => Said::Ended(Told::By(step.fate)),
            _ => {
                step.prints_left -= 1;
                Said::Output
            }
        };
        step.spool.push(said);
    }

    /// A boss starts again: its run as the log has it, and its unended attempts anew.
    fn resume(&mut self, case: &Case, boss: usize) {
        let life = &mut self.lives[boss];
        life.restarts += 1;
        let mut state = RunState::default();
        for event in &life.log {
            if let Err(wrong) = state.apply(event) {
                self.broken = Some(format!("the log of boss {boss} cannot be read again: {wrong}"));
                return;
            }
        }
        let started_again = Boss::resume(case, boss, life, state);
        life.boss = Some(started_again);
        if case.has(Fault::SecondTaskStarted) {
            let attempts = &self.lives[boss].boss.as_ref().expect("just started").attempts;
            let again: Vec<(usize, u32)> = attempts.iter().map(|a| (a.task, a.number)).collect();
            for (task, attempt) in again {
                self.append(boss, RunFact::TaskStarted { task: case.tasks[task].clone(), attempt });
            }
        }
    }
}

/// What stands in the log for a refusal: there it is an end too.
pub(super) const REFUSED: Reason = Reason::TaskOver;
