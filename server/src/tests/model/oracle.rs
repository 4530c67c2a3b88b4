//! What an execution that nobody kills can come to: every order in which the threads of a task and the ends of its
//! steps can follow each other is tried. It knows no boss, no log and no crash.

use common::{Outcome, Verdict};
use std::collections::{BTreeSet, HashSet};

use super::plan::{Cmd, Fate, Luck, Plan};
use super::python::{Code, Python, Said, Told, Word, verdict};

/// More states than that make a plan too dear.
const MOST_STATES: usize = 6000;

/// The calls of an attempt: each command, and how many equal ones there were before.
pub(super) type Asked = BTreeSet<(Cmd, u8)>;

#[derive(Default)]
pub(super) struct Possible {
    pub(super) all: HashSet<(Verdict, Asked)>,
}

impl Possible {
    pub(super) fn verdicts(&self) -> HashSet<Verdict> {
        self.all.iter().map(|(verdict, _)| *verdict).collect()
    }

    /// The one that there is, whatever the order.
    pub(super) fn only(&self) -> Option<&(Verdict, Asked)> {
        self.all.iter().next().filter(|_| self.all.len() == 1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    python: Python,
    calls: Vec<Call>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Call {
    cmd: Cmd,
    equal_before: u8,
    /// Known once its container has started.
    fate: Option<Fate>,
    answered: bool,
}

/// Everything that an attempt of a task can come to; none where there is too much of it.
pub(super) fn possible(plan: &Plan, code: &Code, attempt: u32) -> Option<Possible> {
    let mut found = Possible::default();
    let first = State { python: Python::new(), calls: Vec::new() };
    let mut seen = HashSet::from([first.clone()]);
    let mut open = vec![first];
    while let Some(state) = open.pop() {
        let mut next = Vec::new();
        let threads: Vec<usize> = state.python.ready(code).collect();
        for thread in threads {
            let mut after = state.clone();
            match after.python.go(code, thread) {
                Said::Asked { cmd, .. } => after.ask(plan, attempt, cmd),
                Said::Printed | Said::Nothing => {}
                Said::Last(word) => {
                    after.end(word, &mut found);
                    continue;
                }
            }
            next.push(after);
        }
        for (at, call) in state.calls.iter().enumerate().filter(|(_, call)| !call.answered) {
            let mut after = state.clone();
            match call.fate {
                Some(fate) => {
                    after.calls[at].answered = true;
                    after.python.answer(at as u8 + 1, Told::By(fate));
                }
                None => {
                    let started =
                        state.calls.iter().filter(|other| other.cmd == call.cmd && other.fate.is_some());
                    after.calls[at].fate = Some(plan.fate(call.cmd, attempt, started.count() as u8));
                }
            }
            next.push(after);
        }
        for state in next {
            if !seen.contains(&state) {
                if seen.len() >= MOST_STATES {
                    return None;
                }
                seen.insert(state.clone());
                open.push(state);
            }
        }
    }
    Some(found)
}

impl State {
    fn ask(&mut self, plan: &Plan, attempt: u32, cmd: Cmd) {
        let equal_before = self.calls.iter().filter(|call| call.cmd == cmd).count() as u8;
        let fate = match plan.luck(cmd) {
            Luck::Same | Luck::ByCall => Some(plan.fate(cmd, attempt, equal_before)),
            Luck::ByStart => None,
        };
        self.calls.push(Call { cmd, equal_before, fate, answered: false });
    }

    /// After the last word, a step that still runs may have errored just before it was cancelled.
    fn end(&self, word: Word, found: &mut Possible) {
        let asked: Asked = self.calls.iter().map(|call| (call.cmd, call.equal_before)).collect();
        let told = |call: &Call| match (call.answered, call.fate) {
            (true, Some(fate)) => Told::By(fate),
            _ => Told::Cancelled,
        };
        let plainly = verdict(word, self.calls.iter().map(told));
        found.all.insert((plainly, asked.clone()));
        if self.calls.iter().any(|call| !call.answered && call.fate == Some(Fate::Errored)) {
            let errored = verdict(word, std::iter::once(Told::By(Fate::Errored)));
            assert_eq!(errored.outcome(), Outcome::Errored);
            found.all.insert((errored, asked));
        }
    }
}
