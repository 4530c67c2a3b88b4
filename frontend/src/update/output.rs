//! The output of the task that is shown: which attempt's, how it arrives, how one moves in it.

use common::{RunFact, StepEvent, TaskId};

use crate::find::Find;
use crate::log::ROW_PX;
use crate::model::{Model, Output, OutputOf, Page, Remote, RunPage, TaskPane};
use crate::update::{Effect, Msg, backoff_ms, task_element, tests};

pub(super) fn update(model: &mut Model, msg: Msg) -> Vec<Effect> {
    let (wrap, in_sight) = (model.wrap, model.in_sight);
    let Page::Run(page) = &mut model.page else { return vec![Effect::Still] };
    // A cleanly ended stream is the end of the output only if the attempt has ended, too.
    let attempt_ended = shown_attempt_ended(page);
    let Some(pane) = &mut page.task else { return vec![Effect::Still] };
    if let Some(of) = whose(&msg)
        && pane.of.as_ref() != Some(of)
    {
        return vec![Effect::Still];
    }
    match msg {
        Msg::Output { of, at, bytes } => {
            // What came before, on a stream that broke off, was heard then.
            let known = pane.log.position().saturating_sub(at) as usize;
            if !pane.log.feed(at, &bytes) {
                return vec![Effect::OpenOutput { of, from: pane.log.position() }];
            }
            pane.tests.hear(bytes.get(known..).unwrap_or_default());
            pane.output = Output::Streaming;
            pane.copied = false;
            grown(pane)
        }
        // A refusal may only mean that nothing has been written yet.
        Msg::OutputEnded(of) | Msg::OutputLost(of) | Msg::OutputRefused(of, _) if !attempt_ended => {
            lost(pane, of)
        }
        Msg::OutputEnded(of) => {
            pane.log.finish();
            pane.output = Output::Whole;
            let mut effects = vec![Effect::FetchMarks(of)];
            effects.extend(grown(pane));
            effects
        }
        Msg::OutputLost(of) => lost(pane, of),
        Msg::OutputDue(of) => match pane.output {
            Output::Lost { .. } if in_sight => vec![Effect::OpenOutput { of, from: pane.log.position() }],
            Output::Lost { .. } | Output::Streaming | Output::Whole | Output::Failed(_) => {
                vec![Effect::Still]
            }
        },
        Msg::OutputRefused(_, problem) => {
            pane.output = Output::Failed(problem);
            vec![]
        }
        Msg::GotMarks(_, index) => {
            pane.log.set_marks(&index);
            following(pane)
        }
        Msg::LogMoved => vec![Effect::Still, Effect::MeasureLog],
        Msg::LogMeasured(seen) => {
            let before = (pane.log.window(&pane.seen, pane.follow), pane.follow);
            // Who came for one line does not want to be taken away from it by those that follow.
            let came_for_a_line = pane.goal.is_some() || pane.line.is_some() && seen.top_px == 0.0;
            // A window of another size shows other lines, though nobody moved.
            let resized = (seen.height_px, seen.columns) != (pane.seen.height_px, pane.seen.columns);
            // Only a movement upwards lets go: when lines come faster than they are drawn, the end runs away.
            pane.follow = seen.at_end && !came_for_a_line
                || pane.follow && (resized || seen.top_px >= pane.seen.top_px);
            pane.seen = seen;
            let columns = (wrap && seen.columns > 0).then_some(seen.columns);
            pane.log.wrap(columns);
            let still = before == (pane.log.window(&pane.seen, pane.follow), pane.follow);
            let mut effects = to_goal(pane);
            if resized && !pane.seen.at_end {
                effects.extend(following(pane));
            }
            if still && effects.is_empty() { vec![Effect::Still] } else { effects }
        }
        Msg::ToEnd => {
            pane.follow = true;
            pane.goal = None;
            vec![Effect::ScrollLogToEnd]
        }
        Msg::Find(wanted) => {
            pane.find = Find::new(wanted);
            look(pane);
            next_hit(pane, 0)
        }
        Msg::FindNext(by) => next_hit(pane, by),
        Msg::ToStep(step) => match pane.log.row_of_step(&step) {
            Some(row) => {
                pane.follow = false;
                vec![Effect::ScrollLogTo(pane.log.px_of_row(row))]
            }
            None => vec![Effect::Still],
        },
        Msg::Unfold(number) => {
            pane.log.unfold(number);
            vec![]
        }
        Msg::CopyLog => vec![Effect::Copy(pane.log.text())],
        Msg::Copied => {
            pane.copied = true;
            vec![]
        }
        _ => vec![Effect::Still],
    }
}

fn whose(msg: &Msg) -> Option<&OutputOf> {
    match msg {
        Msg::Output { of, .. }
        | Msg::OutputEnded(of)
        | Msg::OutputLost(of)
        | Msg::OutputRefused(of, _)
        | Msg::OutputDue(of)
        | Msg::GotMarks(of, _) => Some(of),
        _ => None,
    }
}

/// Tries again in a while, from where it is.
fn lost(pane: &mut TaskPane, of: OutputOf) -> Vec<Effect> {
    let tries = match pane.output {
        Output::Lost { tries } => tries + 1,
        Output::Streaming | Output::Whole | Output::Failed(_) => 0,
    };
    pane.output = Output::Lost { tries };
    vec![Effect::Later { ms: backoff_ms(tries), msg: Box::new(Msg::OutputDue(of)) }]
}

/// There are more lines, or the last one is whole.
fn grown(pane: &mut TaskPane) -> Vec<Effect> {
    look(pane);
    let mut effects = following(pane);
    effects.extend(to_goal(pane));
    effects
}

fn look(pane: &mut TaskPane) {
    let to = if pane.output == Output::Whole { pane.log.lines() } else { pane.log.finished() };
    pane.find.look(&pane.log, to);
}

fn next_hit(pane: &mut TaskPane, by: isize) -> Vec<Effect> {
    if let Some(line) = pane.find.step(by, pane.log.first_seen(&pane.seen)) {
        pane.follow = false;
        pane.goal = Some(line);
    }
    to_goal(pane)
}

/// Brings the line that is wanted into sight, once it is there and the browser has said how much can be seen.
pub(super) fn to_goal(pane: &mut TaskPane) -> Vec<Effect> {
    // It will not come any more.
    let never = |goal: &usize| {
        *goal <= pane.log.forgotten || pane.output == Output::Whole && *goal > pane.log.lines()
    };
    pane.goal = pane.goal.filter(|goal| !never(goal));
    let row = pane.goal.and_then(|goal| pane.log.row_of_line(goal));
    let Some(row) = row.filter(|_| pane.seen.height_px > 0.0) else { return vec![] };
    pane.goal = None;
    let (px, seen) = (f64::from(pane.log.px_of_row(row)), &pane.seen);
    if px >= seen.top_px && px + f64::from(ROW_PX) <= seen.top_px + seen.height_px {
        return vec![];
    }
    // With some of what stands before it.
    vec![Effect::ScrollLogTo((px - seen.height_px / 3.0).max(0.0) as u32)]
}

fn following(pane: &TaskPane) -> Vec<Effect> {
    if pane.follow { vec![Effect::ScrollLogToEnd] } else { vec![] }
}

/// Sees to it that the output on screen is that of the attempt that is wanted.
pub(super) fn sync(page: &mut RunPage) -> Vec<Effect> {
    let run = page.run;
    let Remote::Loaded(state) = &page.state else { return vec![] };
    let Some(pane) = &mut page.task else { return vec![] };
    let attempts = state.task(&pane.task).map_or(0, |task| task.attempts.len() as u32);
    let attempt = pane.attempt.unwrap_or(attempts);
    let wanted =
        (1..=attempts).contains(&attempt).then(|| OutputOf { run, task: pane.task.clone(), attempt });
    if wanted == pane.of {
        return vec![];
    }
    *pane = TaskPane {
        of: wanted.clone(),
        seen: pane.seen,
        follow: pane.line.is_none(),
        line: pane.line,
        goal: pane.line,
        test: pane.test.take(),
        find: Find::new(std::mem::take(&mut pane.find.wanted)),
        ..TaskPane::new(pane.task.clone(), pane.attempt)
    };
    match wanted {
        Some(of) => {
            let attempt = state.task(&of.task).and_then(|task| task.attempts.get(of.attempt as usize - 1));
            let has_ended = attempt.is_some_and(|attempt| attempt.end.is_some());
            let asked = tests::begin(pane, &of, has_ended);
            let mut effects = vec![Effect::OpenOutput { of: of.clone(), from: 0 }, Effect::FetchMarks(of)];
            effects.extend(asked);
            effects.extend([Effect::MeasureLog, Effect::Reveal(task_element(&pane.task))]);
            effects
        }
        None => vec![Effect::CloseOutput],
    }
}

/// What an event of the run means for the output on screen.
pub(super) fn told(page: &mut RunPage, fact: &RunFact) -> Vec<Effect> {
    let shown = |task: &TaskId, attempt: u32| {
        let of = page.task.as_ref().and_then(|pane| pane.of.as_ref());
        of.filter(|of| of.task == *task && of.attempt == attempt).cloned()
    };
    match fact {
        RunFact::RunStarted { .. } | RunFact::TaskStarted { .. } | RunFact::RerunStarted { .. } => sync(page),
        RunFact::Step { task, attempt, said, .. } => {
            let marked =
                matches!(said, StepEvent::Dropped { .. } | StepEvent::Gap { .. }) || said.end().is_some();
            shown(task, *attempt).filter(|_| marked).map(Effect::FetchMarks).into_iter().collect()
        }
        RunFact::TaskEnded { task, attempt, .. } => tests::ended(page, task, *attempt),
        RunFact::StepAsked { .. }
        | RunFact::TaskEnding { .. }
        | RunFact::TaskSkipped { .. }
        | RunFact::CancelAsked
        | RunFact::RunEnded { .. } => vec![],
    }
}

/// The tab went out of sight or came back.
pub(super) fn seen(page: &mut RunPage, seen: bool) -> Vec<Effect> {
    let Some(pane) = &mut page.task else { return vec![] };
    match (&pane.of, &pane.output) {
        (Some(of), Output::Streaming | Output::Lost { .. }) => match seen {
            true => vec![Effect::OpenOutput { of: of.clone(), from: pane.log.position() }],
            false => vec![Effect::CloseOutput],
        },
        (_, Output::Whole | Output::Failed(_)) | (None, _) => vec![],
    }
}

pub(super) fn rewrap(model: &mut Model) -> Vec<Effect> {
    let wrap = model.wrap;
    let Page::Run(page) = &mut model.page else { return vec![] };
    let Some(pane) = &mut page.task else { return vec![] };
    pane.log.wrap((wrap && pane.seen.columns > 0).then_some(pane.seen.columns));
    let mut effects = following(pane);
    effects.push(Effect::MeasureLog);
    effects
}

fn shown_attempt_ended(page: &RunPage) -> bool {
    let Remote::Loaded(state) = &page.state else { return false };
    let Some(of) = page.task.as_ref().and_then(|pane| pane.of.as_ref()) else { return false };
    let attempt = state.task(&of.task).and_then(|task| task.attempts.get(of.attempt as usize - 1));
    attempt.is_some_and(|attempt| attempt.end.is_some())
}
