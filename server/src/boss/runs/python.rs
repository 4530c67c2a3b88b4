//! How a run's tasks come by their Python: forked from the process that has executed the pipedef, or else, where the
//! pipedef does what would not be the same in a fork, or that process is gone, started for each.

use common::{Problem, TaskId};
use std::sync::Arc;

use super::Run;
use crate::boss::pipedef::{Forks, Host, Order, Runner};

impl Run {
    /// A process that executes this task.
    pub(super) async fn python(&self, task: &TaskId) -> Result<Runner, Problem> {
        if let Some(host) = self.host.get_or_init(|| self.find_host()).await {
            match host.start(&task.stage, &task.task).await {
                Ok(runner) => return Ok(runner),
                Err(error) if host.give_up(&error) => {
                    self.say_not_forked(&format!("none can be forked any more: {error}"));
                }
                Err(error) => tracing::debug!(run.id = self.number.0, "{task} was not forked: {error}"),
            }
        }
        let order = Order::Task {
            pipedef: self.code.pipedef.clone(),
            files: self.code.files.clone(),
            stage: task.stage.clone(),
            task: task.task.clone(),
        };
        self.all.python.start(&self.code.python, order).await
    }

    async fn find_host(&self) -> Option<Arc<Host>> {
        let forks = match &self.code.forks {
            // Of a run that goes on, or runs again: what had discovered it is gone.
            Forks::NotKnown => self.all.python.forks(&self.code).await,
            known @ (Forks::From(_) | Forks::Never(_)) => Ok(known.clone()),
        };
        let why = match forks {
            Ok(Forks::From(host)) => return Some(host),
            Ok(Forks::Never(why)) => format!("the pipedef {why} outside of its tasks"),
            Ok(Forks::NotKnown) => unreachable!("it was just asked"),
            // Where that is so, each task says it.
            Err(problem) => problem.error,
        };
        self.say_not_forked(&why);
        None
    }

    /// Once in a run: nothing else tells why its tasks take longer to start.
    fn say_not_forked(&self, why: &str) {
        let number = self.number;
        tracing::warn!(
            run.id = number.0,
            "run {number}: each task starts a Python of its own, which takes longer: {why}"
        );
    }

    /// After the last task. What the pipedef has registered to be done at the end is done now.
    pub(super) async fn end_host(&self) {
        if let Some(Some(host)) = self.host.get() {
            host.end().await;
        }
    }
}
