//! A failure packet as text, for people and for whoever reads a terminal as they do.

use common::{ChangedFiles, Failure, NewLine, Packet};

use crate::terminal::{Paint, plain};

pub(crate) fn text(packet: &Packet, paint: Paint) -> String {
    let headline = format!("run {} {}", packet.run, plain(&packet.headline));
    let mut text = format!("{}\n", paint.sgr("1", &headline));
    for failure in &packet.failures {
        text.push_str(&format!("\n{}", one(failure, paint)));
    }
    if let Some(rest) = rest(packet) {
        text.push_str(&format!("\n{rest}\n"));
    }
    text
}

fn one(failure: &Failure, paint: Paint) -> String {
    let attempt =
        if failure.attempt > 1 { format!(" on attempt {}", failure.attempt) } else { String::new() };
    let reason = failure.verdict.reason().map_or(String::new(), |reason| format!(": {reason}"));
    let head = format!("{}{attempt}{reason}  {}", failure.verdict.outcome(), failure.task);
    let mut lines = vec![paint.sgr("1", &head)];
    lines.extend(failure.error.iter().map(|error| format!("  {}", plain(error))));
    lines.extend(failure.at.iter().map(|at| format!("  at {}", plain(at))));
    lines.extend(failure.hint.iter().map(|hint| format!("  hint: {}", plain(hint))));
    lines.extend(failure.notes.iter().map(|note| format!("  note: {}", plain(note))));
    lines.extend(tests(failure).iter().map(|line| format!("  {line}")));
    lines.extend(failure.first_new_line.iter().flat_map(new_line).map(|line| format!("  {line}")));
    lines.extend(failure.changes.iter().flat_map(changes).map(|line| format!("  {line}")));
    lines.extend(failure.last_lines.iter().map(|line| format!("  │ {}", plain(line))));
    lines.push(format!("  after a change: {}", plain(&failure.again)));
    lines.join("\n") + "\n"
}

/// How its tests ended, and those that failed.
pub(crate) fn tests(failure: &Failure) -> Vec<String> {
    let mut lines: Vec<String> =
        failure.tests.iter().map(|counts| format!("tests: {}", counts.words())).collect();
    for test in &failure.failed_tests {
        let flaky = if test.flaky { "  (flaky: it has passed on this source, too)" } else { "" };
        lines.push(format!("✗ {}{flaky}", plain(&test.name)));
        lines.extend(test.message.iter().map(|line| format!("    {}", plain(line))));
        lines.extend(test.frames.iter().map(|frame| format!("    at {}", plain(frame))));
    }
    let told = failure.failed_tests.len() as u64;
    let more = failure.tests.map_or(0, |counts| counts.failed.saturating_sub(told));
    if more > 0 && told > 0 {
        lines.push(format!("… and {more} more failed"));
    }
    lines
}

/// What is new in an output, and what was there when it was green.
pub(crate) fn new_line(new: &NewLine) -> Vec<String> {
    let mut lines =
        vec![format!("first new since run {}, line {}: {}", new.green_run, new.line, plain(&new.text))];
    lines.extend(new.green.iter().map(|green| format!("there, when it passed: {}", plain(green))));
    lines
}

/// Which files of the source are not as they were when it passed.
pub(crate) fn changes(changes: &ChangedFiles) -> Vec<String> {
    let since = format!("since run {}", changes.green_run);
    if changes.named() + changes.more == 0 {
        return vec![format!("no file has changed {since}, in which it passed")];
    }
    let lists = [("changed", &changes.changed), ("added", &changes.added), ("deleted", &changes.deleted)];
    let mut lines: Vec<String> = (lists.iter())
        .filter(|(_, files)| !files.is_empty())
        .map(|(what, files)| format!("{what} {since}: {}", plain(&files.join(", "))))
        .collect();
    if changes.more > 0 {
        lines.push(format!("… and {} more files", changes.more));
    }
    lines
}

/// What the packet only counts.
pub(crate) fn rest(packet: &Packet) -> Option<String> {
    let mut parts = Vec::new();
    if packet.more_failures > 0 {
        parts.push(format!("{} more did not pass", packet.more_failures));
    }
    if packet.not_run > 0 {
        parts.push(format!("{} did not run to their end", packet.not_run));
    }
    (!parts.is_empty()).then(|| format!("… and {}", parts.join(", ")))
}
