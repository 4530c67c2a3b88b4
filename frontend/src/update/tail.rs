//! The last lines of the first failure: on screen as soon as it is known, without a click.

use common::{RunFact, Verdict};

use crate::ansi::Ansi;
use crate::model::{OutputOf, Remote, RunPage, Tail, first_bad};
use crate::update::Effect;

/// As many as say why, on most days.
const MOST_LINES: usize = 14;

/// Sees to it that the tail is that of the task which is the first that did not pass, after this event.
pub(super) fn told(page: &mut RunPage, fact: &RunFact) -> Vec<Effect> {
    match fact {
        RunFact::TaskEnded { verdict: Verdict::Not(_), .. } | RunFact::RerunStarted { .. } => {}
        _ => return vec![],
    }
    let Remote::Loaded(state) = &page.state else { return vec![] };
    let of = first_bad(state).map(|task| OutputOf {
        run: page.run,
        task: task.id.clone(),
        attempt: task.attempts.len() as u32,
    });
    if page.tail.as_ref().map(|tail| &tail.of) == of.as_ref() {
        return vec![];
    }
    page.tail = of.clone().map(|of| Tail { of, lines: Vec::new() });
    of.map(Effect::FetchTail).into_iter().collect()
}

pub(super) fn got(page: &mut RunPage, of: &OutputOf, bytes: &[u8], cut: bool) {
    let Some(tail) = page.tail.as_mut().filter(|tail| tail.of == *of) else { return };
    let mut ansi = Ansi::default();
    let mut lines = Vec::new();
    ansi.feed(bytes, |line| lines.push(line));
    ansi.finish();
    lines.push(ansi.unfinished().clone());
    if cut {
        lines.remove(0);
    }
    let empty_at_end = lines.iter().rev().take_while(|line| line.text.trim().is_empty()).count();
    lines.truncate(lines.len() - empty_at_end);
    let last = lines.split_off(lines.len().saturating_sub(MOST_LINES));
    tail.lines = last.into_iter().skip_while(|line| line.text.trim().is_empty()).collect();
}
