//! A task's Python as a machine: threads that take turns, call `run`, wait for each other, and raise. It says what
//! `bettertest/_child.py` and `_threads.py` would say, and knows nothing of who listens.

use common::{Reason, Verdict};

use super::plan::{Cmd, Fate, How, Stmt, Until};

/// One step of a thread. Everything is unrolled, so no instruction is executed twice.
#[derive(Debug, Clone)]
pub(super) enum Instr {
    /// Goes on with the next instruction, or where it went badly at `badly`.
    Call {
        cmd: Cmd,
        how: How,
        badly: usize,
    },
    Fork {
        group: usize,
        bodies: Vec<usize>,
    },
    Wait {
        group: usize,
        until: WaitFor,
    },
    Jump(usize),
    Print,
    Raise,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitFor {
    All,
    Results { except: bool },
    First { other: usize },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Code {
    pub(super) instrs: Vec<Instr>,
    /// Which groups of threads are futures, whose errors are kept for `.result()`.
    futures: Vec<bool>,
}

impl Code {
    pub(super) fn of(body: &[Stmt]) -> Code {
        let mut code = Code::default();
        code.block(body);
        code.instrs.push(Instr::End);
        code
    }

    fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Run { cmd, how, well, badly } => {
                    let at = self.instrs.len();
                    self.instrs.push(Instr::Call { cmd: *cmd, how: *how, badly: 0 });
                    let to = self.branches(well, badly);
                    self.instrs[at] = Instr::Call { cmd: *cmd, how: *how, badly: to };
                }
                Stmt::Threads { bodies, until } => self.threads(bodies, until),
                Stmt::Print => self.instrs.push(Instr::Print),
                Stmt::Raise => self.instrs.push(Instr::Raise),
            }
        }
    }

    /// Two branches that meet again. Where the second begins.
    fn branches(&mut self, first: &[Stmt], second: &[Stmt]) -> usize {
        self.block(first);
        let over = self.instrs.len();
        self.instrs.push(Instr::Jump(0));
        self.block(second);
        self.instrs[over] = Instr::Jump(self.instrs.len());
        over + 1
    }

    fn threads(&mut self, bodies: &[Vec<Stmt>], until: &Until) {
        let group = self.futures.len();
        self.futures.push(matches!(until, Until::Results { .. } | Until::First { .. }));
        let over = self.instrs.len();
        self.instrs.push(Instr::Jump(0));
        let mut starts = Vec::new();
        for body in bodies {
            starts.push(self.instrs.len());
            self.block(body);
            self.instrs.push(Instr::End);
        }
        self.instrs[over] = Instr::Jump(self.instrs.len());
        self.instrs.push(Instr::Fork { group, bodies: starts });
        match until {
            Until::Left => {}
            Until::Join => self.instrs.push(Instr::Wait { group, until: WaitFor::All }),
            Until::Results { except } => {
                self.instrs.push(Instr::Wait { group, until: WaitFor::Results { except: *except } });
            }
            Until::First { mine, other } => {
                let at = self.instrs.len();
                self.instrs.push(Instr::Wait { group, until: WaitFor::First { other: 0 } });
                let to = self.branches(mine, other);
                self.instrs[at] = Instr::Wait { group, until: WaitFor::First { other: to } };
            }
        }
    }
}

/// What a call of `run` was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Told {
    By(Fate),
    Cancelled,
}

impl Told {
    pub(super) fn reason(self) -> Option<Reason> {
        match self {
            Told::By(Fate::Exit(0)) => None,
            Told::By(Fate::Exit(_)) => Some(Reason::CommandFailed),
            Told::By(Fate::TimedOut) => Some(Reason::StepTimeout),
            Told::By(Fate::Errored) => Some(Reason::EngineUnavailable),
            Told::By(Fate::Refused) => Some(Reason::SpecRefused),
            Told::Cancelled => Some(Reason::CancelAsked),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Raised {
    pub(super) reason: Reason,
    /// When `run` raised it; none where it is not from `run`.
    order: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Doing {
    Going,
    Asking {
        call: u8,
        told: Option<Told>,
    },
    /// For the group's thread at this place, where that matters.
    Waiting {
        place: u8,
    },
    /// The main thread, whose method has returned: for all others.
    Joining,
    Done,
    Died {
        with: Raised,
        retrieved: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Thread {
    at: usize,
    group: Option<usize>,
    doing: Doing,
}

/// A last word, or a call, or a line printed; or nothing, because the thread waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Asked { call: u8, cmd: Cmd },
    Printed,
    Last(Word),
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Word {
    Returned,
    Raised(Reason),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Python {
    threads: Vec<Thread>,
    calls: u8,
    raised: u8,
    /// The first error that a thread did not catch.
    uncaught: Option<Raised>,
    over: bool,
}

impl Python {
    pub(super) fn new() -> Python {
        let main = Thread { at: 0, group: None, doing: Doing::Going };
        Python { threads: vec![main], calls: 0, raised: 0, uncaught: None, over: false }
    }

    pub(super) fn answer(&mut self, call: u8, told: Told) {
        for thread in &mut self.threads {
            if matches!(thread.doing, Doing::Asking { call: asked, .. } if asked == call) {
                thread.doing = Doing::Asking { call, told: Some(told) };
            }
        }
    }

    /// The threads that can do something now.
    pub(super) fn ready<'a>(&'a self, code: &'a Code) -> impl Iterator<Item = usize> + 'a {
        let alive = if self.over { 0 } else { self.threads.len() };
        (0..alive).filter(|thread| self.is_ready(code, *thread))
    }

    fn is_ready(&self, code: &Code, thread: usize) -> bool {
        let Thread { at, doing, .. } = &self.threads[thread];
        match doing {
            Doing::Going | Doing::Asking { told: Some(_), .. } => true,
            Doing::Asking { told: None, .. } | Doing::Done | Doing::Died { .. } => false,
            Doing::Joining => self.threads[1..].iter().all(Thread::is_over),
            Doing::Waiting { place } => match &code.instrs[*at] {
                Instr::Wait { group, until: WaitFor::All } => self.members(*group).all(|(_, t)| t.is_over()),
                Instr::Wait { group, until: WaitFor::First { .. } } => {
                    self.members(*group).any(|(_, t)| t.is_over())
                }
                Instr::Wait { group, until: WaitFor::Results { .. } } => {
                    self.members(*group).nth(usize::from(*place)).is_none_or(|(_, t)| t.is_over())
                }
                other => unreachable!("waits in {other:?}"),
            },
        }
    }

    fn members(&self, group: usize) -> impl Iterator<Item = (usize, &Thread)> {
        self.threads.iter().enumerate().filter(move |(_, thread)| thread.group == Some(group))
    }

    /// Lets a ready thread go on until it says something or waits.
    pub(super) fn go(&mut self, code: &Code, thread: usize) -> Said {
        match self.threads[thread].doing {
            Doing::Asking { told: Some(told), .. } => {
                let Instr::Call { how, badly, .. } = code.instrs[self.threads[thread].at] else {
                    unreachable!("only calls ask")
                };
                match (told.reason(), how) {
                    (None, _) => self.to(thread, self.threads[thread].at + 1),
                    (Some(Reason::CommandFailed), How::Look) => self.to(thread, badly),
                    (Some(reason), how) => {
                        self.raised += 1;
                        if how == How::Try {
                            self.to(thread, badly);
                        } else {
                            let raised = Raised { reason, order: Some(self.raised) };
                            return self.die(code, thread, raised);
                        }
                    }
                }
            }
            Doing::Joining => return self.last_word(code),
            Doing::Going | Doing::Waiting { .. } => {}
            Doing::Asking { told: None, .. } | Doing::Done | Doing::Died { .. } => {
                unreachable!("thread {thread} is not ready")
            }
        }
        loop {
            let at = self.threads[thread].at;
            match &code.instrs[at] {
                Instr::Call { cmd, .. } => {
                    self.calls += 1;
                    let call = self.calls;
                    self.threads[thread].doing = Doing::Asking { call, told: None };
                    return Said::Asked { call, cmd: *cmd };
                }
                Instr::Fork { group, bodies } => {
                    let begin = |at: &usize| Thread { at: *at, group: Some(*group), doing: Doing::Going };
                    self.threads.extend(bodies.iter().map(begin));
                    self.to(thread, at + 1);
                }
                Instr::Wait { group, until } => {
                    if let Some(raised) = self.wait(code, thread, *group, *until) {
                        return self.die(code, thread, raised);
                    }
                    if matches!(self.threads[thread].doing, Doing::Waiting { .. }) {
                        return Said::Nothing;
                    }
                }
                Instr::Jump(to) => self.to(thread, *to),
                Instr::Print => {
                    self.to(thread, at + 1);
                    return Said::Printed;
                }
                Instr::Raise => {
                    return self.die(code, thread, Raised { reason: Reason::Raised, order: None });
                }
                Instr::End if thread == 0 => {
                    self.threads[0].doing = Doing::Joining;
                    return if self.is_ready(code, 0) { self.last_word(code) } else { Said::Nothing };
                }
                Instr::End => {
                    self.threads[thread].doing = Doing::Done;
                    return Said::Nothing;
                }
            }
        }
    }

    /// Waits on, or goes on; or tells what a future raises.
    fn wait(&mut self, code: &Code, thread: usize, group: usize, until: WaitFor) -> Option<Raised> {
        let at = self.threads[thread].at;
        let Doing::Waiting { mut place } = self.threads[thread].doing else {
            self.threads[thread].doing = Doing::Waiting { place: 0 };
            return if self.is_ready(code, thread) { self.wait(code, thread, group, until) } else { None };
        };
        match until {
            WaitFor::All => self.to(thread, at + 1),
            WaitFor::First { other } => {
                let mine = self.members(group).next().is_none_or(|(_, first)| first.is_over());
                self.to(thread, if mine { at + 1 } else { other });
            }
            WaitFor::Results { except } => loop {
                let Some((member, found)) = self.members(group).nth(usize::from(place)) else {
                    self.to(thread, at + 1);
                    return None;
                };
                match found.doing {
                    Doing::Done => place += 1,
                    Doing::Died { with, .. } => {
                        self.threads[member].doing = Doing::Died { with, retrieved: true };
                        self.to(thread, at + 1);
                        return (!except).then_some(with);
                    }
                    Doing::Going | Doing::Asking { .. } | Doing::Waiting { .. } | Doing::Joining => {
                        self.threads[thread].doing = Doing::Waiting { place };
                        return None;
                    }
                }
            },
        }
        None
    }

    fn to(&mut self, thread: usize, at: usize) {
        self.threads[thread].at = at;
        self.threads[thread].doing = Doing::Going;
    }

    fn die(&mut self, code: &Code, thread: usize, with: Raised) -> Said {
        self.threads[thread].doing = Doing::Died { with, retrieved: false };
        match self.threads[thread].group {
            None => {
                self.over = true;
                return Said::Last(Word::Raised(with.reason));
            }
            Some(group) if !code.futures[group] => self.uncaught = self.uncaught.or(Some(with)),
            Some(_) => {}
        }
        Said::Nothing
    }

    /// The method has returned and all threads have ended.
    fn last_word(&mut self, code: &Code) -> Said {
        self.over = true;
        let left = self.threads.iter().filter_map(|thread| match (thread.doing, thread.group) {
            (Doing::Died { with, retrieved: false }, Some(group)) if code.futures[group] => {
                with.order.map(|order| (order, with))
            }
            _ => None,
        });
        let left = left.min_by_key(|(order, _)| *order).map(|(_, with)| with);
        Said::Last(match self.uncaught.or(left) {
            Some(with) => Word::Raised(with.reason),
            None => Word::Returned,
        })
    }
}

impl Thread {
    fn is_over(&self) -> bool {
        matches!(self.doing, Doing::Done | Doing::Died { .. })
    }
}

/// When a task passes, from its last word and from how its steps ended.
pub(super) fn verdict(word: Word, ends: impl Iterator<Item = Told>) -> Verdict {
    let mut ran = false;
    for told in ends {
        if told == Told::By(Fate::Errored) {
            return Verdict::Not(Reason::EngineUnavailable);
        }
        ran |= told != Told::By(Fate::Refused);
    }
    match word {
        Word::Raised(reason) => Verdict::Not(reason),
        Word::Returned if !ran => Verdict::Not(Reason::RanNothing),
        Word::Returned => Verdict::Passed,
    }
}
