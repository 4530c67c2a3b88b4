//! `show_failure`, `output`, `list_runs` and `test_history`: what there has been, as `bettertest show` shows it. They change nothing.

use common::RunSummary;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::answer::{Answer, one_line};
use super::{Server, ask};
use crate::cli::WhichRun;
use crate::data_dir::DataDir;
use crate::error::SetupError;
use crate::show_command::{OneTest, Past, one_that_failed, task_named, tasks_of};
use crate::slice::Slice;
use crate::terminal::Paint;
use crate::{packet_text, tests_text};

/// Of lines of an output.
const SLICE_BYTES: usize = 16 * 1024;

/// The line that does not fit at all is cut.
const LINE_BYTES: usize = 4 * 1024;

pub(super) async fn show_failure(server: &Server, asked: ask::ShowFailure) -> Result<Answer, SetupError> {
    let past = server.past(asked.path.as_deref())?;
    let run = past.which(which(asked.run)).await?;
    let view = past.view(run).await?;
    let packet = match &asked.task {
        None => past.packet(run).await?,
        Some(name) => {
            let task = task_named(&tasks_of(&view), name)?;
            past.failure(run, &task).await?.ok_or_else(|| {
                SetupError::new(
                    format!("{task} has not failed in run {run}"),
                    "`output` has what it printed; `show_failure` without a task has what failed",
                )
            })?
        }
    };
    let mut said = format!("run {run}: {}", one_line(&packet.headline));
    if packet.failures.is_empty() {
        said.push_str("\nno task of it has failed");
    }
    let printed = (!packet.failures.is_empty()).then(|| packet_text::text(&packet, Paint::Text));
    let structured = Some(serde_json::to_value(&packet).expect("a packet is JSON"));
    Ok(Answer { said, printed, structured })
}

pub(super) async fn output(server: &Server, asked: ask::Output) -> Result<Answer, SetupError> {
    let is_end = asked.tail.is_some() || (asked.grep.is_none() && asked.from.is_none());
    if is_end && (asked.from.is_some() || asked.lines.is_some()) {
        return Err(SetupError::new(
            "the last lines are asked for, and those from one on",
            "leave out `tail`, or `from` and `lines`",
        ));
    }
    let tail = is_end.then(|| ask::within("tail", asked.tail, 1000, 50)).transpose()?;
    let lines = ask::within("lines", asked.lines, 1000, 200)?;
    let past = server.past(asked.path.as_deref())?;
    let run = past.which(which(asked.run)).await?;
    let view = past.view(run).await?;
    let all = tasks_of(&view);
    let task = match &asked.task {
        Some(name) => task_named(&all, name)?,
        None => one_that_failed(&view).ok_or_else(|| {
            let names: Vec<String> = all.iter().take(8).map(ToString::to_string).collect();
            SetupError::new(
                format!("which task's output of run {run}?"),
                format!("name it: {}", names.join(", ")),
            )
        })?,
    };
    let slice = Slice::new(asked.grep.as_deref(), tail)?.from(asked.from.unwrap_or(1));
    let part = Arc::new(Mutex::new(Part::new(is_end, tail.unwrap_or(lines))));
    let take = {
        let part = part.clone();
        move |number: u64, line: &str| {
            part.lock().unwrap_or_else(PoisonError::into_inner).take(number, line);
        }
    };
    let total = past.output(run, &task, asked.attempt, slice, take).await?;
    let part = std::mem::take(&mut *part.lock().unwrap_or_else(PoisonError::into_inner));
    let attempt = asked.attempt.map_or(String::new(), |attempt| format!(", attempt {attempt}"));
    let mut said = vec![format!("{} of run {run}{attempt}: {total} lines", one_line(&task.to_string()))];
    said.push(part.words(asked.grep.is_some()));
    let printed = (!part.lines.is_empty()).then(|| part.text());
    Ok(Answer { said: said.join("\n"), printed, structured: None })
}

pub(super) async fn list_runs(server: &Server, asked: ask::ListRuns) -> Result<Answer, SetupError> {
    let limit = ask::within("limit", asked.limit, 50, 10)?;
    let page = server.past(asked.path.as_deref())?.page(limit).await?;
    let mut said: Vec<String> = page.runs.iter().map(row).collect();
    said.extend(page.next.map(|_| "there are older ones".to_owned()));
    Ok(Answer { said: said.join("\n"), printed: None, structured: None })
}

pub(super) async fn test_history(server: &Server, asked: ask::TestHistory) -> Result<Answer, SetupError> {
    let past = server.past(asked.path.as_deref())?;
    let view = past.view(past.which(which(asked.run)).await?).await?;
    let all = tasks_of(&view);
    let task = asked.task.as_ref().map(|name| task_named(&all, name)).transpose()?;
    let OneTest { test, of, history } = past.one_test(&view, task, &asked.test, None).await?;
    let text = tests_text::one(&test, &of, history.as_ref(), Paint::Text);
    let mut part = Part::new(false, usize::MAX);
    for (number, line) in (1..).zip(text.lines()) {
        part.take(number, line);
    }
    let mut said = format!("one test of run {}, and its history", of.run);
    let left_out = part.wanted - part.lines.len() as u64;
    if left_out > 0 {
        said.push_str(&format!("; {left_out} lines of it are left out"));
    }
    let lines: Vec<&str> = part.lines.iter().map(|(_, line)| line.as_str()).collect();
    Ok(Answer { said, printed: Some(lines.join("\n")), structured: None })
}

fn row(run: &RunSummary) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(run.started_at_ms);
    let took = run.ended_at_ms.map_or(String::new(), |ended| {
        format!(", took {}", common::duration(ended.saturating_sub(run.started_at_ms)))
    });
    format!(
        "run {}: {}; {} of {} tasks passed; began {}{took}",
        run.run,
        one_line(&run.headline),
        run.tasks_passed,
        run.tasks,
        httpdate::fmt_http_date(at)
    )
}

fn which(run: Option<u32>) -> WhichRun {
    run.map_or(WhichRun::Last, WhichRun::Number)
}

impl Server {
    fn past(&self, path: Option<&Path>) -> Result<Past, SetupError> {
        let named = self.how.data_dir.as_deref();
        let data = named.map_or_else(DataDir::default_path, |path| Ok(path.to_owned()))?;
        Past::here(&self.project(path)?, data, named)
    }
}

/// As many of the lines that are wanted as there is room for, without a gap.
#[derive(Debug, Default)]
struct Part {
    lines: VecDeque<(u64, String)>,
    bytes: usize,
    /// So many at most.
    most: usize,
    /// Where there is too much: those that came last, else those that came first.
    keeps_last: bool,
    is_full: bool,
    wanted: u64,
}

impl Part {
    fn new(keeps_last: bool, most: usize) -> Part {
        Part { keeps_last, most, ..Part::default() }
    }

    fn take(&mut self, number: u64, line: &str) {
        self.wanted += 1;
        if self.is_full {
            return;
        }
        let end =
            line.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LINE_BYTES).last();
        let end = end.unwrap_or(0);
        let line = if end < line.len() { format!("{}…", &line[..end]) } else { line.to_owned() };
        let size = room(number, &line);
        if !self.keeps_last && (self.lines.len() >= self.most || self.bytes + size > SLICE_BYTES) {
            self.is_full = true;
            return;
        }
        self.bytes += size;
        self.lines.push_back((number, line));
        while self.bytes > SLICE_BYTES
            && let Some((number, line)) = self.lines.pop_front()
        {
            self.bytes -= room(number, &line);
        }
    }

    fn text(&self) -> String {
        self.lines.iter().map(|(number, line)| format!("{number}:{line}\n")).collect()
    }

    /// Which they are, what is left out, and how to get at that.
    fn words(&self, matching: bool) -> String {
        let what = if matching { "that match" } else { "asked for" };
        let (Some((first, _)), Some((last, _))) = (self.lines.front(), self.lines.back()) else {
            return format!("no lines {what}");
        };
        let left_out = self.wanted - self.lines.len() as u64;
        let mut words = format!("{} of {} lines {what}, {first} to {last}", self.lines.len(), self.wanted);
        if left_out > 0 && self.keeps_last {
            words.push_str(&format!("; {left_out} before them left out: `from` and `lines` get at these"));
        } else if left_out > 0 {
            words.push_str(&format!("; {left_out} left out: go on with `from`: {}", last + 1));
        }
        words
    }
}

fn room(number: u64, line: &str) -> usize {
    number.to_string().len() + line.len() + 2
}
