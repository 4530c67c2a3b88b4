//! What failed in a run that has ended, and why: asked of the boss once that is certain.

use common::{Packet, Problem, RunFact, TaskId, Verdict};

use crate::model::{Remote, RunPage};
use crate::update::Effect;

/// After this event: a run that has not passed is asked about, one that goes on is not.
pub(super) fn told(page: &mut RunPage, fact: &RunFact) -> Vec<Effect> {
    match fact {
        RunFact::RunEnded { verdict: Verdict::Not(_) } => {
            page.packet = Some(Remote::Loading);
            vec![Effect::FetchPacket(page.run)]
        }
        RunFact::RerunStarted { .. } | RunFact::RunEnded { verdict: Verdict::Passed } => {
            page.packet = None;
            vec![]
        }
        RunFact::RunStarted { .. }
        | RunFact::TaskStarted { .. }
        | RunFact::StepAsked { .. }
        | RunFact::Step { .. }
        | RunFact::TaskEnding { .. }
        | RunFact::TaskEnded { .. }
        | RunFact::TaskSkipped { .. }
        | RunFact::CancelAsked => vec![],
    }
}

pub(super) fn got(page: &mut RunPage, answer: Result<Packet, Problem>) {
    let is_ours = answer.as_ref().map_or(true, |packet| packet.run == page.run);
    // One that comes late is of what has begun again since.
    if is_ours && page.packet.is_some() {
        page.packet = Some(answer.into());
    }
}

pub(super) fn copy(page: &mut RunPage, task: TaskId) -> Vec<Effect> {
    let Some(Remote::Loaded(packet)) = &page.packet else { return vec![Effect::Still] };
    let Some(failure) = packet.failures.iter().find(|failure| failure.task == task) else {
        return vec![Effect::Still];
    };
    let again = failure.again.clone();
    (page.copying, page.copied) = (Some(task), None);
    vec![Effect::Copy(again)]
}

pub(super) fn copied(page: &mut RunPage) -> Vec<Effect> {
    page.copied = page.copying.take();
    vec![]
}
