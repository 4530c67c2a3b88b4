//! Random pipelines, from a seed: stages of tasks, each task a small program of `run(...)` calls, threads and
//! branches, and what each command will do. Shared by the model and by the stories that execute the same on real
//! parts; so it knows neither.

/// A small generator of numbers (splitmix64): the same seed gives the same plan for ever.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// One command on one worker. Calls with the same one are equal calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Cmd {
    pub(crate) worker: u8,
    pub(crate) spec: u8,
}

/// What a command comes to by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fate {
    Exit(u8),
    TimedOut,
    /// The engine breaks down.
    Errored,
    /// The worker does not take such a spec.
    Refused,
}

/// Whether equal commands come to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Luck {
    Same,
    /// The second of equal calls may end in another way than the first.
    ByCall,
    /// It depends on how many containers of it were started before.
    ByStart,
}

#[derive(Debug, Clone)]
pub(crate) enum Stmt {
    /// A call, and what follows where it went well and where it did not.
    Run {
        cmd: Cmd,
        how: How,
        well: Vec<Stmt>,
        badly: Vec<Stmt>,
    },
    /// Threads, each with a body, and how far they are waited for.
    Threads {
        bodies: Vec<Vec<Stmt>>,
        until: Until,
    },
    Print,
    Raise,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// `run(...)`, which raises.
    Check,
    /// `run(..., check=False)`, and a branch on the exit code.
    Look,
    /// `try: run(...)`, `except BettertestError`.
    Try,
}

#[derive(Debug, Clone)]
pub(crate) enum Until {
    /// `threading.Thread`, not joined: the library does.
    Left,
    /// `threading.Thread`, each joined.
    Join,
    /// Futures, `.result()` of each in order; where `except` is given, what they raise is caught.
    Results { except: bool },
    /// Futures, until the first is done; the rest depends on whether the first of the list is among the done.
    First { mine: Vec<Stmt>, other: Vec<Stmt> },
}

pub(crate) struct Task {
    pub(crate) body: Vec<Stmt>,
}

pub(crate) struct Stage {
    pub(crate) always: bool,
    pub(crate) tasks: Vec<Task>,
}

pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) stages: Vec<Stage>,
    pub(crate) slots: usize,
    pub(crate) bosses: usize,
    /// Somebody cancels the run about then.
    pub(crate) cancel_at: Option<u32>,
    /// What did not pass is run again, once.
    pub(crate) rerun: bool,
    luck: [Luck; Plan::SPECS],
    fates: [Fate; Plan::SPECS],
}

impl Plan {
    pub(crate) const SPECS: usize = 5;

    pub(crate) fn new(seed: u64) -> Plan {
        let mut rng = Rng(seed);
        let rng = &mut rng;
        let luck = std::array::from_fn(|_| match rng.below(10) {
            0..7 => Luck::Same,
            7 | 8 => Luck::ByCall,
            _ => Luck::ByStart,
        });
        let fates = std::array::from_fn(|_| fate(rng));
        let mut tasks_left = 1 + rng.below(4);
        let mut stages = Vec::new();
        while tasks_left > 0 && stages.len() < 3 {
            let count = 1 + rng.below(tasks_left);
            tasks_left -= count;
            let always = rng.chance(20);
            let task = |_| {
                let mut calls = 1 + rng.below(6);
                Task { body: block(rng, 0, &mut calls) }
            };
            stages.push(Stage { always, tasks: (0..count).map(task).collect() });
        }
        Plan {
            seed,
            stages,
            slots: 1 + rng.below(3),
            bosses: if rng.chance(12) { 2 } else { 1 },
            cancel_at: rng.chance(12).then(|| rng.below(40) as u32),
            rerun: rng.chance(15),
            luck,
            fates,
        }
    }

    /// One task that was thought of, not found: what it does, and what its commands come to.
    pub(crate) fn by_hand(body: Vec<Stmt>, fates: [Fate; Plan::SPECS]) -> Plan {
        Plan {
            seed: 0,
            stages: vec![Stage { always: false, tasks: vec![Task { body }] }],
            slots: 3,
            bosses: 1,
            cancel_at: None,
            rerun: false,
            luck: [Luck::Same; Plan::SPECS],
            fates,
        }
    }

    pub(crate) fn luck(&self, cmd: Cmd) -> Luck {
        self.luck[usize::from(cmd.spec)]
    }

    /// What the `n`th of equal commands comes to, in this attempt.
    pub(crate) fn fate(&self, cmd: Cmd, attempt: u32, n: u8) -> Fate {
        let first = self.fates[usize::from(cmd.spec)];
        match (self.luck(cmd), first) {
            (Luck::Same, _) | (_, Fate::Refused) => first,
            (Luck::ByCall | Luck::ByStart, _) => {
                let at = [cmd.worker, cmd.spec, attempt as u8, n].map(u64::from);
                let bits = at.iter().fold(self.seed, |bits, part| mix(bits ^ part));
                match bits % 8 {
                    0..4 => Fate::Exit(0),
                    4..7 => Fate::Exit(1),
                    _ => first,
                }
            }
        }
    }

    /// How many times it prints.
    pub(crate) fn prints(&self, cmd: Cmd) -> u8 {
        (mix(self.seed ^ u64::from(cmd.spec)) % 3) as u8
    }

    /// Every task, in the order of the pipeline.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.stages.iter().flat_map(|stage| &stage.tasks)
    }
}

fn fate(rng: &mut Rng) -> Fate {
    match rng.below(100) {
        0..72 => Fate::Exit(0),
        72..90 => Fate::Exit(1 + rng.below(3) as u8),
        90..94 => Fate::TimedOut,
        94..98 => Fate::Errored,
        _ => Fate::Refused,
    }
}

fn cmd(rng: &mut Rng) -> Cmd {
    Cmd { worker: u8::from(rng.chance(25)), spec: rng.below(Plan::SPECS) as u8 }
}

/// Some statements with no more than `calls` calls of `run` in them.
fn block(rng: &mut Rng, depth: usize, calls: &mut usize) -> Vec<Stmt> {
    let mut block = Vec::new();
    for _ in 0..1 + rng.below(3) {
        if *calls == 0 {
            break;
        }
        match rng.below(100) {
            0..40 => block.push(call(rng, depth, calls)),
            40..78 if depth < 2 && *calls > 1 => block.push(threads(rng, depth, calls)),
            40..88 => {
                // A loop that repeats one command.
                let cmd = cmd(rng);
                let how = if rng.chance(60) { How::Check } else { How::Try };
                for _ in 0..(1 + rng.below(2)).min(*calls) {
                    *calls -= 1;
                    block.push(Stmt::Run { cmd, how, well: Vec::new(), badly: Vec::new() });
                }
            }
            88..97 => block.push(Stmt::Print),
            _ => block.push(Stmt::Raise),
        }
    }
    block
}

fn call(rng: &mut Rng, depth: usize, calls: &mut usize) -> Stmt {
    *calls -= 1;
    let cmd = cmd(rng);
    let how = match rng.below(10) {
        0..4 => How::Check,
        4..7 => How::Look,
        _ => How::Try,
    };
    let mut branch = |percent| if rng.chance(percent) { block(rng, depth + 1, calls) } else { Vec::new() };
    let well = if how == How::Check { Vec::new() } else { branch(35) };
    let badly = if how == How::Check { Vec::new() } else { branch(60) };
    Stmt::Run { cmd, how, well, badly }
}

fn threads(rng: &mut Rng, depth: usize, calls: &mut usize) -> Stmt {
    let mut bodies = Vec::new();
    for _ in 0..2 + rng.below(2) {
        if *calls > 0 {
            let one = call(rng, depth + 1, calls);
            bodies.push(vec![one]);
            if rng.chance(35) {
                bodies.last_mut().expect("just pushed").extend(block(rng, depth + 1, calls));
            }
        }
    }
    let until = match rng.below(10) {
        0..2 => Until::Join,
        2..4 => Until::Left,
        4..7 => Until::Results { except: rng.chance(40) },
        _ => {
            let mut side = || if rng.chance(25) { vec![Stmt::Raise] } else { block(rng, depth + 1, calls) };
            Until::First { mine: side(), other: side() }
        }
    };
    Stmt::Threads { bodies, until }
}
