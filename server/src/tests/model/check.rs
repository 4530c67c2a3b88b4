//! Looks at a world in which all is at rest, and says what is not as it has to be. Shares with the boss nothing but
//! the log's own words.

use common::{Outcome, Phase, Reason, RunFact, RunState, SkipReason, StepState, TaskState, Verdict};
use std::collections::HashSet;

use super::oracle::Asked;
use super::plan::Fate;
use super::python::Told;
use super::world::{Case, REFUSED, Said, World};

/// How the attempts of a world came out, for figures.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Attempts that a crash interrupted, and of those the ones whose course depends on the order of things.
    pub(super) attempts: usize,
    pub(super) loose: usize,
    pub(super) diverged: usize,
}

pub(super) fn check(case: &Case, world: &World, tally: &mut Tally) -> Result<(), String> {
    if let Some(broken) = &world.broken {
        return Err(broken.clone());
    }
    let mut seen = HashSet::new();
    for boss in 0..world.lives.len() {
        let state = rebuilt(world, boss)?;
        if !matches!(state.phase, Phase::Ended(_)) {
            return Err(format!("boss {boss}: the run did not end"));
        }
        stages(case, &state)?;
        for (task, run) in state.tasks().enumerate() {
            for attempt in &run.attempts {
                for step in &attempt.steps {
                    if !seen.insert(step.id.clone()) {
                        return Err(format!("step {} is in two runs", step.id));
                    }
                    step_is_true(case, world, boss, task, attempt.number, step)?;
                }
                let killed = world.interrupted.contains(&(boss, task, attempt.number));
                outcome(case, killed, task, attempt, state.cancel_asked, tally)
                    .map_err(|why| format!("boss {boss}: {} attempt {}: {why}", run.id, attempt.number))?;
            }
        }
    }
    for step in world.workers.iter().flatten() {
        if step.starts > 1 {
            return Err(format!("{:?} had {} containers", step.call, step.starts));
        }
        if step.ended().is_none() {
            return Err(format!("{:?} is left behind: {:?}", step.call, step.spool.last()));
        }
        if !seen.contains(&case.name(step.id)) {
            return Err(format!("no log has {:?}", step.call));
        }
    }
    Ok(())
}

fn rebuilt(world: &World, boss: usize) -> Result<RunState, String> {
    let mut state = RunState::default();
    for event in &world.lives[boss].log {
        state.apply(event).map_err(|wrong| wrong.to_string())?;
        // A re-run changes what a task's latest attempt is; each of them was looked at by `apply` when it ended.
        if let RunFact::RunEnded { verdict } = event.fact
            && verdict != state.verdict_now()
        {
            return Err(format!("the run ended {verdict:?}"));
        }
    }
    Ok(state)
}

/// Stages one after another, and none after one that did not pass.
fn stages(case: &Case, state: &RunState) -> Result<(), String> {
    let mut passed = true;
    for (s, stage) in state.stages.iter().enumerate() {
        for task in &stage.tasks {
            let fine = match task.state {
                TaskState::Ended(_) => passed || case.plan.stages[s].always || !task.attempts.is_empty(),
                TaskState::Skipped(SkipReason::EarlierStage) => !passed && !case.plan.stages[s].always,
                TaskState::Skipped(SkipReason::Cancelled) => state.cancel_asked,
                TaskState::Skipped(SkipReason::NotSelected | SkipReason::Abandoned)
                | TaskState::Pending
                | TaskState::Running => false,
            };
            if !fine {
                return Err(format!("{} is {:?}", task.id, task.state));
            }
        }
        passed &= stage.tasks.iter().all(|task| task.state == TaskState::Ended(Verdict::Passed));
    }
    Ok(())
}

/// The log says of a step what its worker says, and its output is stored once, in order and whole.
fn step_is_true(
    case: &Case,
    world: &World,
    boss: usize,
    task: usize,
    attempt: u32,
    step: &common::StepRun,
) -> Result<(), String> {
    let StepState::Ended(end) = &step.state else { return Err(format!("step {} never ended", step.id)) };
    let id = case.id_of(&step.id);
    let Some(container) = world.workers.iter().flatten().find(|known| known.id == id) else {
        let unheard = matches!(end.verdict, Verdict::Not(Reason::CancelAsked | REFUSED));
        return if unheard { Ok(()) } else { Err(format!("no worker knows {}", step.id)) };
    };
    let same = match container.ended() {
        Some(Told::By(Fate::Exit(code))) => end.exit_code == Some(code),
        Some(Told::By(Fate::TimedOut)) => end.verdict.outcome() == Outcome::TimedOut,
        Some(Told::By(Fate::Errored)) => end.verdict.outcome() == Outcome::Errored,
        Some(Told::Cancelled) => end.verdict == Verdict::Not(Reason::CancelAsked),
        Some(Told::By(Fate::Refused)) | None => false,
    };
    if !same {
        return Err(format!("the log has {:?} of {:?}", end.verdict, container.spool));
    }
    let printed = container.spool.iter().enumerate().filter(|(_, said)| **said == Said::Output);
    let output = world.lives[boss].outputs.get(&(task, attempt));
    let pieces = output.map(|output| output.pieces.as_slice()).unwrap_or_default();
    let stored = pieces.iter().filter(|piece| piece.0 == id).map(|piece| piece.1);
    if !printed.map(|(at, _)| at + 1).eq(stored) {
        return Err(format!("of {:?} is stored {pieces:?} (step {id})", container.spool));
    }
    let given = output.map_or(0, |output| output.stored(id));
    if given != pieces.iter().filter(|piece| piece.0 == id).count() {
        return Err(format!("the index gives {given} pieces to step {id}, not what there is: {pieces:?}"));
    }
    Ok(())
}

/// An outcome that some execution without a crash gives; for what does not depend on the order of things, the one.
fn outcome(
    case: &Case,
    killed: bool,
    task: usize,
    attempt: &common::Attempt,
    cancel_asked: bool,
    tally: &mut Tally,
) -> Result<(), String> {
    let Some(end) = &attempt.end else { return Err("it has not ended".to_owned()) };
    let possible = &case.possible[task][attempt.number as usize - 1];
    let mut asked = Asked::new();
    for step in &attempt.steps {
        let spec = step.spec.command.for_show();
        let cmd = super::plan::Cmd {
            worker: super::world::WORKERS.iter().position(|known| *known == step.worker).unwrap() as u8,
            spec: spec.rsplit(' ').next().unwrap().parse().unwrap(),
        };
        let equal = asked.iter().filter(|(known, _)| *known == cmd).count() as u8;
        asked.insert((cmd, equal));
    }
    let diverged = end.verdict == Verdict::Not(Reason::ReplayDiverged);
    if killed {
        tally.attempts += 1;
        tally.loose += usize::from(possible.only().is_none());
        tally.diverged += usize::from(diverged);
    }
    let cancelled = cancel_asked && end.verdict == Verdict::Not(Reason::CancelAsked);
    if let Some((only, whole)) = possible.only() {
        // A cancel may cut it short, and may come too late to.
        let fine = end.verdict == *only && asked == *whole;
        let errored = cancel_asked && end.verdict.outcome() == Outcome::Errored && !diverged;
        return if fine || cancelled || errored {
            Ok(())
        } else {
            Err(format!("it can only come to {only:?} {whole:?}, not {:?} {asked:?}", end.verdict))
        };
    }
    if diverged && killed && !only_raises(possible) {
        return Ok(());
    }
    let errored = cancel_asked && end.verdict.outcome() == Outcome::Errored && !diverged;
    let fine = match end.verdict {
        Verdict::Passed => possible.all.contains(&(end.verdict, asked.clone())),
        Verdict::Not(_) => possible.verdicts().contains(&end.verdict),
    };
    if fine || cancelled || errored {
        Ok(())
    } else {
        Err(format!("it can come to {:?}, not {:?} {asked:?}", possible.verdicts(), end.verdict))
    }
}

/// Whatever the order, it raises one and the same: then a replay does too.
fn only_raises(possible: &super::oracle::Possible) -> bool {
    let verdicts = possible.verdicts();
    verdicts.len() == 1 && verdicts.iter().all(|verdict| verdict.outcome() == Outcome::Failed)
}
