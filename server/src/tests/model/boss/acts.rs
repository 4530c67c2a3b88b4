//! What a boss can do next, and each such act: the smallest that a crash can come before or after.

use common::{Reason, RunFact, StepEvent};

use super::super::plan::{Cmd, Fate};
use super::super::python::{Said as Spoken, Told, Word};
use super::super::rules::{CancelledEnds, Fault};
use super::super::world::{Act, Call, Case, REFUSED, Request, Said, WORKERS, World};
use super::{Asked, Attempt, Boss, Doing, Following, Last, Phase};

impl World {
    pub(in super::super) fn acts_of_attempts(
        &self,
        case: &Case,
        at: usize,
        boss: &Boss,
        open: &mut Vec<Act>,
    ) {
        for (place, attempt) in boss.attempts.iter().enumerate() {
            let mut may = |doing| open.push(Act::Attempt(at, place, doing));
            let lags = case.has(Fault::OutputLags);
            match attempt.phase {
                Phase::Talking => {
                    let mut quiet = attempt.wire.is_empty();
                    for thread in attempt.python.ready(&case.codes[attempt.task]) {
                        quiet = false;
                        may(Doing::Thread(thread));
                    }
                    if !attempt.wire.is_empty() {
                        may(Doing::Hear);
                    }
                    for (call, _) in
                        attempt.calls.iter().enumerate().filter(|(_, c)| attempt.may_tell(case, c))
                    {
                        quiet = false;
                        may(Doing::Tell(call));
                    }
                    if boss.state.cancel_asked {
                        may(Doing::SeeCancel);
                    }
                    let due = attempt.in_order && attempt.again < attempt.history.len();
                    let held = attempt.calls.iter().any(|call| call.held);
                    let nothing_runs = attempt.following.iter().all(|step| step.done);
                    if quiet && (due || (held && nothing_runs)) {
                        may(Doing::Bound);
                    }
                }
                Phase::Over(_) => may(Doing::Over),
                Phase::Ending(_) => {
                    if attempt.following.iter().all(|step| step.done) && attempt.writing.is_empty() {
                        may(Doing::Finish);
                    }
                }
            }
            if !attempt.writing.is_empty() {
                may(Doing::Write);
                if !lags {
                    continue;
                }
            }
            for (f, step) in attempt.following.iter().enumerate().filter(|(_, step)| !step.done) {
                let worker = step.call.cmd.worker;
                let known = self.workers[usize::from(worker)].iter().find(|known| known.id == step.id);
                let rash =
                    case.has(Fault::CancelUnseen) || (case.has(Fault::UnknownIsGone) && known.is_none());
                if step.cancel && !step.posted && (step.fresh || rash) {
                    may(Doing::CancelUnposted(f));
                } else if !step.posted {
                    may(Doing::Post(f));
                }
                let delete = Request::Delete { id: step.id, worker };
                if step.cancel && step.posted && !self.requests.contains(&delete) && known.is_some() {
                    may(Doing::Delete(f));
                }
                let more = known.is_some_and(|known| known.spool.len() > step.position);
                if step.posted && (more || step.refused) {
                    may(Doing::Read(f));
                }
            }
        }
    }

    pub(in super::super) fn drive(&mut self, case: &Case, boss: usize) {
        let state = self.lives[boss].boss.as_ref().expect("alive");
        let fact = state.next_fact(case).expect("it was due");
        let mut begun = None;
        if let RunFact::TaskStarted { task, attempt } = &fact {
            begun = Some(Attempt::new(case.task_of(task), *attempt));
        }
        self.append(boss, fact);
        let boss = self.lives[boss].boss.as_mut().expect("alive");
        boss.attempts.extend(begun);
    }

    /// The worker does not take the spec: whoever waits for its answer hears it.
    pub(in super::super) fn refused(&mut self, call: Call, id: usize) {
        let Some(boss) = &mut self.lives[call.boss].boss else { return };
        for step in boss.attempts.iter_mut().flat_map(|attempt| &mut attempt.following) {
            step.refused |= step.id == id;
        }
    }

    pub(in super::super) fn attempt(&mut self, case: &Case, boss: usize, place: usize, doing: Doing) {
        let mut alive = self.lives[boss].boss.take().expect("alive");
        let mut attempt = alive.attempts.swap_remove(place);
        self.lives[boss].boss = Some(alive);
        let over = self.one_act(case, boss, &mut attempt, doing);
        if !over {
            self.lives[boss].boss.as_mut().expect("alive").attempts.push(attempt);
        }
    }

    /// True at its end.
    fn one_act(&mut self, case: &Case, boss: usize, attempt: &mut Attempt, doing: Doing) -> bool {
        match doing {
            Doing::Thread(thread) => {
                let said = attempt.python.go(&case.codes[attempt.task], thread);
                if said != Spoken::Nothing {
                    attempt.wire.push_back(said);
                }
            }
            Doing::Hear => match attempt.wire.pop_front().expect("it was there") {
                Spoken::Asked { cmd, .. } => self.asked(case, boss, attempt, cmd),
                Spoken::Last(word) => attempt.phase = Phase::Over(Last::Said(word)),
                Spoken::Printed | Spoken::Nothing => {}
            },
            Doing::Tell(call) => {
                let asked = &mut attempt.calls[call];
                asked.answered = true;
                attempt.python.answer(call as u8 + 1, asked.told.expect("it has ended"));
                attempt.advance();
            }
            Doing::Bound if attempt.in_order && attempt.again < attempt.history.len() => {
                attempt.in_order = false;
            }
            Doing::Bound => attempt.phase = Phase::Over(Last::Stuck),
            Doing::SeeCancel => attempt.phase = Phase::Over(Last::Cancelled),
            Doing::Over => {
                let Phase::Over(last) = attempt.phase else { unreachable!("it is over") };
                if let (Last::Said(word @ Word::Raised(_)), true) = (last, attempt.has_unended())
                    && case.rules.cancelled == CancelledEnds::WordStored
                {
                    self.lives[boss].words.push((attempt.task, attempt.number, word));
                    self.lasting = true;
                }
                attempt.end(case, &self.lives[boss], last);
            }
            Doing::Finish => {
                let Phase::Ending(last) = attempt.phase else { unreachable!("it is ending") };
                let state = &self.lives[boss].boss.as_ref().expect("alive").state;
                let verdict = attempt.verdict(case, state, last);
                let (task, number) = (case.tasks[attempt.task].clone(), attempt.number);
                self.append(
                    boss,
                    RunFact::TaskEnded {
                        task,
                        attempt: number,
                        verdict,
                        took_ms: 0,
                        problem: None,
                        tests: None,
                    },
                );
                return true;
            }
            Doing::Post(f) => {
                let step = &mut attempt.following[f];
                step.posted = true;
                self.requests.push(Request::Post { id: step.id, call: step.call });
            }
            Doing::Delete(f) => {
                let step = &attempt.following[f];
                self.requests.push(Request::Delete { id: step.id, worker: step.call.cmd.worker });
            }
            Doing::CancelUnposted(f) => {
                let position = attempt.following[f].logged + 1;
                self.ended(case, boss, attempt, f, position, Told::Cancelled);
            }
            Doing::Read(f) => self.read(case, boss, attempt, f),
            Doing::Write => {
                let piece = attempt.writing.pop_front().expect("it was there");
                let output = self.lives[boss].outputs.entry((attempt.task, attempt.number)).or_default();
                if case.has(Fault::BytesBeforeMark) {
                    output.marks.push((output.pieces.len() - 1, piece.0));
                } else {
                    if output.marks.last().is_none_or(|mark| mark.1 != piece.0) {
                        output.marks.push((output.pieces.len(), piece.0));
                    }
                    output.pieces.push(piece);
                }
                self.lasting = true;
            }
        }
        false
    }

    /// Python called `run`.
    fn asked(&mut self, case: &Case, boss: usize, attempt: &mut Attempt, cmd: Cmd) {
        let state = &self.lives[boss].boss.as_ref().expect("alive").state;
        let mut equal_before = attempt.calls.iter().filter(|call| call.cmd == cmd).count() as u8;
        if case.has(Fault::CountAcrossAttempts) {
            let task = state.task(&case.tasks[attempt.task]).expect("a task of this plan");
            let steps = task.attempts.iter().flat_map(|attempt| &attempt.steps);
            let same = |step: &&common::StepRun| {
                step.worker == WORKERS[usize::from(cmd.worker)] && step.spec == *case.spec(cmd)
            };
            equal_before = steps.filter(same).count() as u8;
        }
        let call = Call { boss, task: attempt.task, attempt: attempt.number, cmd, equal_before };
        let salt = if case.has(Fault::FreshIds) { 1000 * self.lives[boss].restarts } else { 0 };
        let id = case.id(call, salt);
        let mut asked = Asked { id, cmd, told: None, ended_after: 0, answered: false, held: false };
        if let Some(at) = attempt.recorded.iter().position(|known| known.id == id) {
            attempt.recorded[at].asked_again = true;
            asked.told = attempt.recorded[at].told;
            asked.held = asked.told == Some(Told::Cancelled) && case.rules.cancelled == CancelledEnds::Held;
            if asked.told.is_none() && case.has(Fault::AnswerUnended) {
                asked.told = Some(Told::By(Fate::Exit(0)));
            } else if asked.told.is_none() {
                let attached = attempt.attach(case, &self.lives[boss], at);
                attempt.following.push(attached);
            }
        } else {
            let (task, number) = (case.tasks[attempt.task].clone(), attempt.number);
            let worker = WORKERS[usize::from(cmd.worker)].to_owned();
            let (step, spec) = (case.name(id), case.spec(cmd).clone());
            self.append(
                boss,
                RunFact::StepAsked {
                    task,
                    attempt: number,
                    step,
                    worker,
                    spec: Box::new(spec),
                    instead_of: None,
                },
            );
            attempt.following.push(Following {
                id,
                call,
                position: 0,
                logged: 0,
                stored: 0,
                posted: false,
                fresh: true,
                refused: false,
                cancel: false,
                done: false,
            });
        }
        attempt.calls.push(asked);
        attempt.advance();
    }

    /// The worker told more of a step.
    fn read(&mut self, case: &Case, boss: usize, attempt: &mut Attempt, f: usize) {
        let step = &mut attempt.following[f];
        if step.refused {
            let position = step.logged + 1;
            return self.ended(case, boss, attempt, f, position, Told::By(Fate::Refused));
        }
        let spool = &self.workers[usize::from(step.call.cmd.worker)];
        let spool = &spool.iter().find(|known| known.id == step.id).expect("it was there").spool;
        let said = spool[step.position];
        step.position += 1;
        let position = step.position;
        match said {
            Said::Output if step.stored > 0 => step.stored -= 1,
            Said::Output => {
                let piece = (step.id, position);
                attempt.writing.push_back(piece);
                let lags = case.has(Fault::OutputLags);
                let first = case.has(Fault::BytesBeforeMark);
                let output = self.lives[boss].outputs.entry((attempt.task, attempt.number)).or_default();
                // The mark comes first, then the bytes: bytes without a mark would be somebody else's.
                if first {
                    output.pieces.push(piece);
                    if output.marks.last().is_some_and(|mark| mark.1 == piece.0) {
                        attempt.writing.pop_back();
                    }
                } else if !lags && output.marks.last().is_none_or(|mark| mark.1 != piece.0) {
                    output.marks.push((output.pieces.len(), piece.0));
                }
                self.lasting = true;
            }
            Said::Queued | Said::Started | Said::Ended(_) if position <= step.logged => {}
            Said::Queued => {
                let id = step.id;
                self.heard(case, boss, attempt, id, position, StepEvent::Queued);
            }
            Said::Started => {
                let (container, image_digest, engine) =
                    ("c".to_owned(), Some("i".to_owned()), "e".to_owned());
                let id = step.id;
                let said = StepEvent::Started { container, image_digest, engine, engine_why: None };
                self.heard(case, boss, attempt, id, position, said);
            }
            Said::Ended(told) => self.ended(case, boss, attempt, f, position, told),
        }
    }

    fn ended(
        &mut self,
        case: &Case,
        boss: usize,
        attempt: &mut Attempt,
        f: usize,
        position: usize,
        told: Told,
    ) {
        let id = attempt.following[f].id;
        attempt.following[f].done = true;
        attempt.ends += 1;
        for call in attempt.calls.iter_mut().filter(|call| call.id == id) {
            call.told = Some(told);
            call.ended_after = attempt.ends;
        }
        self.heard(case, boss, attempt, id, position, event_of(told));
    }

    fn heard(
        &mut self,
        case: &Case,
        boss: usize,
        attempt: &Attempt,
        id: usize,
        position: usize,
        said: StepEvent,
    ) {
        let (task, number, step) = (case.tasks[attempt.task].clone(), attempt.number, case.name(id));
        self.append(boss, RunFact::Step { task, attempt: number, step, position: position as u64, said });
    }
}

fn event_of(told: Told) -> StepEvent {
    match told {
        Told::By(Fate::Exit(exit_code)) => StepEvent::Exited {
            exit_code,
            oom: false,
            took_ms: 0,
            signal: None,
            cpu_ms: None,
            peak_memory_bytes: None,
            image_digest: None,
            message: None,
        },
        Told::By(Fate::TimedOut) => StepEvent::TimedOut { took_ms: 0, exit_code: None },
        Told::By(Fate::Errored) => StepEvent::Errored {
            reason: Reason::EngineUnavailable,
            message: String::new(),
            hint: None,
            took_ms: 0,
            exit_code: None,
        },
        Told::By(Fate::Refused) => StepEvent::Cancelled { reason: REFUSED, took_ms: 0, exit_code: None },
        Told::Cancelled => StepEvent::Cancelled { reason: Reason::CancelAsked, took_ms: 0, exit_code: None },
    }
}
