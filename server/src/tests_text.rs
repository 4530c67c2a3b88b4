//! Tests as text: those of an attempt, and one of them with its history.

use common::{TestHistory, TestOutcome, TestRun, TestView, TestsView, duration};

use crate::terminal::{Paint, plain, shown_tail};

/// So many that are not bad are listed; nobody reads more of these.
const LISTED: usize = 200;

/// Of what was wrong with one among many.
const MESSAGE_LINES: usize = 8;

/// Of what was wrong with the one that is asked for.
const STACK_LINES: usize = 200;

pub(crate) fn list(view: &TestsView, paint: Paint) -> String {
    let words = view.counts.words();
    let attempt = if view.attempt > 1 { format!(" on attempt {}", view.attempt) } else { String::new() };
    let mut text = format!(
        "{}\n",
        paint.sgr("1", &format!("run {}  {}{attempt}: {words}", view.run, plain(&view.task.to_string())))
    );
    let bad = view.tests.iter().filter(|test| test.test.outcome.is_bad()).count();
    for (place, test) in view.tests.iter().take(bad + LISTED).enumerate() {
        text.push_str(&line(test, paint));
        if place < bad {
            let message = test.test.message.as_deref().unwrap_or_default();
            for line in shown_tail(message.as_bytes(), usize::MAX).iter().take(MESSAGE_LINES) {
                text.push_str(&format!("    {line}\n"));
            }
        }
    }
    let named = view.tests.len() as u64;
    let unlisted = named.saturating_sub((bad + LISTED) as u64);
    if unlisted > 0 {
        text.push_str(&format!("… and {unlisted} more; --json has all\n"));
    }
    if view.omitted > 0 {
        text.push_str(&format!("… and {} more, of which no name was kept\n", view.omitted));
    }
    let nameless = view.counts.total().saturating_sub(named + view.omitted);
    if nameless > 0 {
        text.push_str(&format!("… and {nameless} that were counted without a name\n"));
    }
    for note in &view.notes {
        text.push_str(&format!("note: {}\n", plain(note)));
    }
    text
}

pub(crate) fn one(test: &TestView, of: &TestsView, history: Option<&TestHistory>, paint: Paint) -> String {
    let mut text = line(test, paint);
    text.push_str(&format!("  {}, run {}, attempt {}\n", plain(&of.task.to_string()), of.run, of.attempt));
    if test.flaky {
        text.push_str("  flaky: on this source it has passed, and it has failed\n");
    }
    for line in shown_tail(test.test.message.as_deref().unwrap_or_default().as_bytes(), STACK_LINES) {
        text.push_str(&format!("  {line}\n"));
    }
    for line in shown_tail(test.test.stack.as_deref().unwrap_or_default().as_bytes(), STACK_LINES) {
        text.push_str(&format!("  │ {line}\n"));
    }
    match history {
        Some(history) => text + &past(history, paint),
        None => text + "no history: tests are recorded when an attempt has ended\n",
    }
}

fn past(history: &TestHistory, paint: Paint) -> String {
    let ran = history.counts.passed + history.counts.failed;
    let mut parts = Vec::new();
    if let Some(percent) = history.failed_percent {
        parts.push(format!("failed {} of {ran} times ({percent} %)", history.counts.failed));
    }
    if history.flaky {
        parts.push("flaky".to_owned());
    }
    if let Some(first) = &history.first_failed {
        parts.push(format!("first failed in run {}", first.run));
    }
    match &history.last_passed {
        Some(last) => parts.push(format!("last passed in run {}", last.run)),
        None => parts.push("never passed".to_owned()),
    }
    let mut text = format!("{}\n", paint.sgr("1", &format!("history: {}", parts.join(", "))));
    for run in &history.runs {
        text.push_str(&past_line(run, paint));
    }
    text
}

fn past_line(run: &TestRun, paint: Paint) -> String {
    let attempt = if run.attempt > 1 { format!(" attempt {}", run.attempt) } else { String::new() };
    let of = format!("run {}{attempt}", run.run);
    // The name of a commit is git's, of a tree ours: only where there is no commit it is of use to anybody.
    let source = run.commit.as_ref().or(run.tree.as_ref()).map_or("", |id| id.get(..10).unwrap_or(id));
    let some = if run.only_some { "  (some tests alone)" } else { "" };
    let line = format!("  {of:<18} {}  {}{some}", standing(run.outcome, run.took_ms, paint), plain(source));
    format!("{}\n", line.trim_end())
}

fn line(test: &TestView, paint: Paint) -> String {
    let flaky = if test.flaky { "  (flaky)" } else { "" };
    format!("{}  {}{flaky}\n", standing(test.test.outcome, test.test.took_ms, paint), plain(&test.test.name))
}

fn standing(outcome: TestOutcome, took_ms: Option<u64>, paint: Paint) -> String {
    let (mark, colour) = match outcome {
        TestOutcome::Failed => ("✗", "31"),
        TestOutcome::Errored => ("!", "35"),
        TestOutcome::Skipped => ("-", "2"),
        TestOutcome::Passed => ("✓", "32"),
    };
    let took = took_ms.map_or(String::new(), |ms| if ms < 1000 { format!("{ms}ms") } else { duration(ms) });
    format!("{} {took:>7}", paint.sgr(colour, &format!("{mark} {:<7}", outcome.word())))
}
