//! A sample of the random pipelines of the model test (`server/src/tests/model.rs`), as real Python on a real boss
//! that is killed in the middle, on a real worker: what comes out has to be what the model's oracle says.

// They know nothing of the model's boss and worker.
#[path = "../../src/tests/model/oracle.rs"]
mod oracle;
#[expect(dead_code, reason = "the model needs more of it")]
#[path = "../../src/tests/model/plan.rs"]
mod plan;
#[path = "../../src/tests/model/python.rs"]
mod python;

use common::{Outcome, Reason, SkipReason, StepEvent, StepState, TaskState, Verdict};
use std::fmt::Write as _;

use crate::ci::{Ci, Told, data_of};
use oracle::{Possible, possible};
use plan::{Cmd, Fate, How, Luck, Plan, Rng, Stmt, Until};
use python::Code;

/// A plan that can be executed for real, and what its tasks can come to.
struct Case {
    plan: Plan,
    possible: Vec<Possible>,
}

/// Python takes no new pool once a task's method has returned, as a thread that is left then might make.
fn makes_pools_late(body: &[Stmt], in_thread: bool) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Run { well, badly, .. } => {
            makes_pools_late(well, in_thread) || makes_pools_late(badly, in_thread)
        }
        Stmt::Threads { bodies, until } => {
            let after = match until {
                Until::Left | Until::Join => false,
                Until::Results { .. } => in_thread,
                Until::First { mine, other } => {
                    in_thread || makes_pools_late(mine, in_thread) || makes_pools_late(other, in_thread)
                }
            };
            after || bodies.iter().any(|body| makes_pools_late(body, true))
        }
        Stmt::Print | Stmt::Raise => false,
    })
}

/// The plans from this seed on whose commands do the same whenever they run, and that have something to lose.
fn cases(seed: u64) -> impl Iterator<Item = Case> {
    let steady = |plan: &Plan| {
        (0..Plan::SPECS as u8).all(|spec| plan.luck(Cmd { worker: 0, spec }) == Luck::Same)
            && plan.cancel_at.is_none()
            && !plan.tasks().any(|task| makes_pools_late(&task.body, false))
    };
    (seed..).map(Plan::new).filter(steady).filter_map(|plan| {
        let all: Option<Vec<Possible>> =
            plan.tasks().map(|task| possible(&plan, &Code::of(&task.body), 1)).collect();
        let possible = all?;
        let steps = possible
            .iter()
            .filter_map(|one| one.all.iter().map(|(_, asked)| asked.len()).max())
            .sum::<usize>();
        (steps > 3).then_some(Case { plan, possible })
    })
}

/// What a command prints, line by line.
fn lines(plan: &Plan, cmd: Cmd) -> Vec<String> {
    (0..=plan.prints(cmd)).map(|n| format!("step {} of {}: {n}", cmd.spec, cmd.worker)).collect()
}

/// A plan as a pipedef.
struct Writer<'a> {
    plan: &'a Plan,
    text: String,
    names: usize,
}

fn pipedef(plan: &Plan, head: &str) -> String {
    let text = format!(
        "import threading\nfrom concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait\n\
         from bettertest import BettertestError\n{head}"
    );
    let mut writer = Writer { plan, text, names: 0 };
    let mut number = 0;
    for (s, stage) in plan.stages.iter().enumerate() {
        writer.line(0, &format!("class S{s}(Stage):"));
        writer.line(1, if stage.always { "always = True" } else { "always = False" });
        for task in &stage.tasks {
            writer.line(1, &format!("def task_t{number}(self):"));
            writer.block(2, &task.body);
            number += 1;
        }
    }
    writer.text
}

impl Writer<'_> {
    fn line(&mut self, depth: usize, line: &str) {
        writeln!(self.text, "{}{line}", "    ".repeat(depth)).expect("a string takes everything");
    }

    fn name(&mut self) -> usize {
        self.names += 1;
        self.names
    }

    fn block(&mut self, depth: usize, body: &[Stmt]) {
        self.line(depth, "pass");
        for stmt in body {
            match stmt {
                Stmt::Run { cmd, how, well, badly } => self.run(depth, *cmd, *how, well, badly),
                Stmt::Threads { bodies, until } => self.threads(depth, bodies, until),
                Stmt::Print => {
                    let name = self.name();
                    self.line(depth, &format!("print('said {name}')"));
                }
                Stmt::Raise => self.line(depth, "raise ValueError('as planned')"),
            }
        }
    }

    fn run(&mut self, depth: usize, cmd: Cmd, how: How, well: &[Stmt], badly: &[Stmt]) {
        let printed: Vec<String> =
            lines(self.plan, cmd).iter().map(|line| format!("print {line}; sleep 0.03; ")).collect();
        let (rest, option) = match self.plan.fate(cmd, 1, 0) {
            Fate::Exit(code) => (format!("exit {code}"), ""),
            Fate::TimedOut => ("sleep 60".to_owned(), ", timeout_s=1"),
            Fate::Errored => ("engine-error".to_owned(), ""),
            Fate::Refused => ("true".to_owned(), ", memory_bytes=1"),
        };
        let call = format!("WORKER, IMAGE, {:?}{option}", printed.concat() + &rest);
        let name = self.name();
        match how {
            How::Check => return self.line(depth, &format!("run({call})")),
            How::Look => {
                self.line(depth, &format!("well{name} = run({call}, check=False).passed"));
            }
            How::Try => {
                self.line(depth, "try:");
                self.line(depth + 1, &format!("well{name} = run({call}).passed"));
                self.line(depth, "except BettertestError:");
                self.line(depth + 1, &format!("well{name} = False"));
            }
        }
        self.line(depth, &format!("if well{name}:"));
        self.block(depth + 1, well);
        self.line(depth, "else:");
        self.block(depth + 1, badly);
    }

    fn threads(&mut self, depth: usize, bodies: &[Vec<Stmt>], until: &Until) {
        let name = self.name();
        let mut list = String::new();
        for (place, body) in bodies.iter().enumerate() {
            self.line(depth, &format!("def body{name}_{place}():"));
            self.block(depth + 1, body);
            write!(list, "body{name}_{place}, ").expect("a string takes everything");
        }
        match until {
            Until::Left | Until::Join => {
                self.line(
                    depth,
                    &format!("all{name} = [threading.Thread(target=body) for body in ({list})]"),
                );
                self.line(depth, &format!("for one in all{name}: one.start()"));
                if matches!(until, Until::Join) {
                    self.line(depth, &format!("for one in all{name}: one.join()"));
                }
            }
            Until::Results { .. } | Until::First { .. } => {
                self.line(depth, &format!("pool{name} = ThreadPoolExecutor(8)"));
                self.line(depth, &format!("all{name} = [pool{name}.submit(body) for body in ({list})]"));
            }
        }
        match until {
            Until::Left | Until::Join => {}
            Until::Results { except } => {
                self.line(depth, "try:");
                self.line(depth + 1, &format!("for one in all{name}: one.result()"));
                let caught = if *except { "Exception" } else { "ZeroDivisionError" };
                self.line(depth, &format!("except {caught}:"));
                self.line(depth + 1, "pass");
            }
            Until::First { mine, other } => {
                self.line(depth, &format!("done{name} = wait(all{name}, return_when=FIRST_COMPLETED).done"));
                self.line(depth, &format!("if all{name}[0] in done{name}:"));
                self.block(depth + 1, mine);
                self.line(depth, "else:");
                self.block(depth + 1, other);
            }
        }
    }
}

/// A fault of the engine has one name in the model, and here the engine's own.
fn same(possible: Verdict, came: Verdict) -> bool {
    let ours = [Reason::ReplayDiverged, Reason::RunnerDied, Reason::BossRestart, Reason::Internal];
    possible == came
        || (possible == Verdict::Not(Reason::EngineUnavailable)
            && came.outcome() == Outcome::Errored
            && came.reason().is_some_and(|reason| !ours.contains(&reason) && reason != Reason::RanNothing))
}

async fn check(ci: &Ci, case: &Case, told: &Told) {
    let seed = case.plan.seed;
    let mut passed = true;
    for (s, stage) in told.state.stages.iter().enumerate() {
        let enters = passed || case.plan.stages[s].always;
        for task in &stage.tasks {
            let number: usize = task.id.task[1..].parse().expect("its number");
            let possible = &case.possible[number];
            let words = format!("seed {seed}: {}", told.summary());
            let TaskState::Ended(verdict) = task.state else {
                assert_eq!(task.state, TaskState::Skipped(SkipReason::EarlierStage), "{words}");
                assert!(!enters, "{words}");
                continue;
            };
            assert!(enters, "{words}");
            let diverged = verdict == Verdict::Not(Reason::ReplayDiverged);
            let verdicts = possible.verdicts();
            let loose = possible.only().is_none();
            assert!(
                verdicts.iter().any(|one| same(*one, verdict)) || (diverged && loose),
                "{} can come to {verdicts:?}: {words}",
                task.id
            );
            passed &= verdict.passed();
            let attempt = task.attempts.last().expect("it has ended");
            let whole = attempt.steps.iter().all(|step| matches!(step.state, StepState::Ended(_)));
            assert!(whole, "a step of {} has not ended: {words}", task.id);
            let output = ci.output(told.number, &task.id.to_string()).await;
            let mut said: Vec<&str> = output.lines().filter(|line| line.starts_with("said")).collect();
            let all_said = said.len();
            said.sort_unstable();
            said.dedup();
            assert_eq!(said.len(), all_said, "{} says more than once: {output} {words}", task.id);
            if let (Some((_, asked)), true) = (possible.only(), verdict.passed()) {
                let mut expected: Vec<String> = (asked.iter())
                    .filter(|(cmd, _)| case.plan.fate(*cmd, 1, 0) != Fate::Refused)
                    .flat_map(|(cmd, _)| lines(&case.plan, *cmd))
                    .collect();
                let mut printed: Vec<&str> = output.lines().filter(|line| line.starts_with("step")).collect();
                expected.sort_unstable();
                printed.sort_unstable();
                assert_eq!(printed, expected, "the output of {}: {words}", task.id);
            }
        }
    }
    let mut started = std::collections::BTreeMap::<_, usize>::new();
    for fact in &told.log {
        if let common::RunFact::Step { step, said: StepEvent::Started { .. }, .. } = fact {
            *started.entry(step.clone()).or_default() += 1;
        }
    }
    assert!(started.values().all(|times| *times == 1), "seed {seed}: {started:?}");
}

/// Runs it and kills the boss so often, a few events further on each time.
async fn execute(ci: &mut Ci, case: &Case, head: &str, kills: usize) -> Told {
    ci.rewrite(&pipedef(&case.plan, head));
    let mut rng = Rng(case.plan.seed);
    let run = ci.start().await;
    let mut after = 0;
    for _ in 0..kills {
        after += 1 + rng.below(10) as u64;
        ci.follow(run, |state, _| state.last_seq.0 >= after).await;
        ci.kill_boss();
    }
    ci.follow(run, |_, _| false).await
}

async fn nothing_runs(ci: &Ci) {
    let left: Vec<_> = ci.steps().await.into_iter().filter(|step| step["state"] != "ended").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_killed_boss_comes_to_what_the_model_says() {
    let mut ci = Ci::with("").await;
    for case in cases(0).take(8) {
        let told = execute(&mut ci, &case, "", 1).await;
        check(&ci, &case, &told).await;
    }
    nothing_runs(&ci).await;
}

#[tokio::test]
async fn a_boss_that_is_killed_again_and_again_comes_to_what_the_model_says() {
    let mut ci = Ci::with("").await;
    for case in cases(1000).take(6) {
        let told = execute(&mut ci, &case, "", 3).await;
        check(&ci, &case, &told).await;
    }
    nothing_runs(&ci).await;
}

/// Each with its own store and its own runs; they share the worker, and are killed at different times.
#[tokio::test]
async fn two_bosses_on_one_worker_come_to_what_the_model_says() {
    let mut one = Ci::with("").await;
    let mut two = Ci::with("").await;
    let shared = one.worker.base.clone();
    let line = format!("{shared:?} = {:?}\n", one.token);
    std::fs::write(data_of(two.folder.path()).join("workers.toml"), line).expect("the folder is writable");
    // A boss reads it when it begins.
    two.kill_boss();
    let head = format!("WORKER = {shared:?}\n");
    for case in cases(2000).take(4) {
        let (first, second) =
            tokio::join!(execute(&mut one, &case, "", 1), execute(&mut two, &case, &head, 2));
        check(&one, &case, &first).await;
        check(&two, &case, &second).await;
    }
    nothing_runs(&one).await;
}

/// Once the first thread has decided, the task is over, and the boss cancels what still runs. A replay that is told
/// of that cancel takes another way, and would be green: the other step can only err, the task only raise.
#[tokio::test]
async fn what_is_cancelled_because_the_task_is_over_is_told_to_no_replay() {
    let mut ci = Ci::with(
        r#"
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from bettertest import BettertestError

def tried(command):
    try:
        run(WORKER, IMAGE, command)
    except BettertestError:
        pass

def quick():
    tried("print quick")
    time.sleep(1)

class S(Stage):
    def task_t(self):
        pool = ThreadPoolExecutor(8)
        stubborn = pool.submit(tried, "trap '' TERM; print stubborn; sleep 600; engine-error")
        doomed = pool.submit(tried, "print doomed; sleep 600; engine-error")
        first = pool.submit(quick)
        if first in wait([first, doomed], return_when=FIRST_COMPLETED).done:
            raise ValueError("the quick one was first, as it always is")
"#,
    )
    .await;
    let run = ci.start().await;
    let cancelled = |fact: &common::RunFact| {
        matches!(fact, common::RunFact::Step { said: StepEvent::Cancelled { .. }, .. })
    };
    ci.follow(run, |_, fact| cancelled(fact)).await;
    ci.kill_boss();
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.summary(), "failed: raised\nS.t failed: raised");
    nothing_runs(&ci).await;
}
