//! `bettertest show --tests` and `--test NAME`: the tests of a task, and one of them with its history.

use common::{RunView, TaskId, TaskView, TestHistory, TestView, TestsView};

use super::Past;
use crate::cli::ShowArgs;
use crate::error::SetupError;
use crate::terminal::plain;
use crate::{say, tests_text};

/// Where several names have what was asked for, so many are told.
const NAMES_TOLD: usize = 5;

/// One test as it was in an attempt, and how it came out in others.
pub(crate) struct OneTest {
    pub(crate) test: TestView,
    pub(crate) of: TestsView,
    pub(crate) history: Option<TestHistory>,
}

impl Past {
    pub(super) async fn list_tests(
        &self,
        run: &RunView,
        task: &TaskId,
        args: &ShowArgs,
    ) -> Result<u8, SetupError> {
        let attempt = attempt_of(run, task, args.attempt)?;
        let view = self.tests(run.summary.run, task, attempt).await?;
        if args.json {
            say::json(&serde_json::to_string(&view).expect("tests are strings and numbers"));
        } else {
            say::out(&tests_text::list(&view, args.color.paint()));
        }
        Ok(0)
    }

    pub(super) async fn show_test(
        &self,
        run: &RunView,
        task: Option<TaskId>,
        name: &str,
        args: &ShowArgs,
    ) -> Result<u8, SetupError> {
        let OneTest { of, test, history } = self.one_test(run, task, name, args.attempt).await?;
        if args.json {
            let json = serde_json::json!({
                "run": of.run, "task": of.task, "attempt": of.attempt, "test": test, "history": history,
            });
            say::json(&json.to_string());
        } else {
            say::out(&tests_text::one(&test, &of, history.as_ref(), args.color.paint()));
        }
        Ok(0)
    }

    /// Without a task it is looked for in all of the run.
    pub(crate) async fn one_test(
        &self,
        run: &RunView,
        task: Option<TaskId>,
        name: &str,
        attempt: Option<u32>,
    ) -> Result<OneTest, SetupError> {
        let number = run.summary.run;
        let (views, where_to_look) = match &task {
            Some(task) => {
                let attempt = attempt_of(run, task, attempt)?;
                (vec![self.tests(number, task, attempt).await?], task.to_string())
            }
            None => {
                let mut views = Vec::new();
                for task in tasks(run).filter(|task| !task.attempts.is_empty()) {
                    views.push(self.tests(number, &task.task, task.attempts.len() as u32).await?);
                }
                (views, "TASK".to_owned())
            }
        };
        let (of, test) = find(&views, name).map_err(|names| {
            if names.is_empty() {
                let error = format!("no test of run {number} has {} in its name", plain(name));
                return SetupError::new(
                    error,
                    format!("all of a task: {} {number} {where_to_look} --tests", self.words()),
                );
            }
            let told: Vec<&str> = names.iter().take(NAMES_TOLD).map(String::as_str).collect();
            let more = if names.len() > told.len() { ", ..." } else { "" };
            SetupError::new(
                format!("{} tests of run {number} have {} in their names", names.len(), plain(name)),
                format!("name one, and its task: {}{more}", plain(&told.join(", "))),
            )
        })?;
        let history = self.test_history(&of.task, &test.test.name).await?;
        Ok(OneTest { test: test.clone(), of: of.clone(), history })
    }
}

fn tasks(run: &RunView) -> impl Iterator<Item = &TaskView> {
    run.stages.iter().flat_map(|stage| &stage.tasks)
}

fn attempt_of(run: &RunView, task: &TaskId, wanted: Option<u32>) -> Result<u32, SetupError> {
    let latest = tasks(run).find(|known| known.task == *task).map_or(0, |task| task.attempts.len() as u32);
    let attempt = wanted.unwrap_or(latest);
    if attempt == 0 || attempt > latest {
        return Err(SetupError::new(
            format!("{task} has not begun an attempt {} in run {}", attempt.max(1), run.summary.run),
            format!("it has begun {latest}"),
        ));
    }
    Ok(attempt)
}

/// The one of this name, or the only one that has it as a part of its name; else all that have it.
fn find<'a>(views: &'a [TestsView], name: &str) -> Result<(&'a TestsView, &'a TestView), Vec<String>> {
    let all = || views.iter().flat_map(|view| view.tests.iter().map(move |test| (view, test)));
    let exact: Vec<_> = all().filter(|(_, test)| test.test.name == name).collect();
    let found = if exact.is_empty() {
        all().filter(|(_, test)| test.test.name.contains(name)).collect()
    } else {
        exact
    };
    match found[..] {
        [one] => Ok(one),
        // Within a task the first is the worst of those that share a name.
        [one, ..]
            if found
                .iter()
                .all(|(view, test)| (&view.task, &test.test.name) == (&one.0.task, &one.1.test.name)) =>
        {
            Ok(one)
        }
        _ => {
            let names = found.iter().map(|(view, test)| format!("{} in {}", test.test.name, view.task));
            Err(names.collect())
        }
    }
}
