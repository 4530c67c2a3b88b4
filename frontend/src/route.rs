//! What the page shows, as an address, and back. The only place that knows how the addresses look.

use common::{RunNumber, TaskId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Runs,
    /// What is missing on the boss's machine.
    Doctor,
    Run(RunNumber),
    /// Without an attempt: the latest.
    Task {
        run: RunNumber,
        task: TaskId,
        attempt: Option<u32>,
        part: Part,
    },
    /// An address that nothing lives at.
    Nowhere(String),
}

/// Which part of a task is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// A line of its output.
    Line(usize),
    /// One of its tests, by name.
    Test(String),
}

impl Route {
    pub(crate) fn latest(run: RunNumber, task: TaskId) -> Route {
        Route::Task { run, task, attempt: None, part: Part::Whole }
    }

    /// From a path and a query, both as the browser has them: percent-encoded, the query with or without its `?`.
    pub(crate) fn read(path: &str, query: &str) -> Route {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let found = match parts[..] {
            [] | ["runs"] => Some(Route::Runs),
            ["doctor"] => Some(Route::Doctor),
            ["runs", run] => number(run).map(Route::Run),
            ["runs", run, task] => read_task(run, task, query),
            _ => None,
        };
        found.unwrap_or_else(|| Route::Nowhere(path.to_owned()))
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Route::Runs => "/".to_owned(),
            Route::Doctor => "/doctor".to_owned(),
            Route::Run(run) => format!("/runs/{run}"),
            Route::Task { run, task, attempt, part } => {
                let attempt = attempt.map(|n| format!("attempt={n}"));
                let part = match part {
                    Part::Whole => None,
                    Part::Line(line) => Some(format!("line={line}")),
                    Part::Test(name) => Some(format!("test={}", encode(name))),
                };
                let query: Vec<String> = attempt.into_iter().chain(part).collect();
                let mark = if query.is_empty() { "" } else { "?" };
                format!("/runs/{run}/{}{mark}{}", encode(&task.to_string()), query.join("&"))
            }
            Route::Nowhere(path) => path.clone(),
        }
    }

    pub(crate) fn run(&self) -> Option<RunNumber> {
        match self {
            Route::Run(run) | Route::Task { run, .. } => Some(*run),
            Route::Runs | Route::Doctor | Route::Nowhere(_) => None,
        }
    }
}

fn number(part: &str) -> Option<RunNumber> {
    part.parse().ok().map(RunNumber)
}

fn read_task(run: &str, task: &str, query: &str) -> Option<Route> {
    let attempt = read_number(query, "attempt=")?;
    let test = last(query, "test=").map(decode);
    let part = match (read_number(query, "line=")?, test) {
        (Some(line), _) => Part::Line(line),
        (None, Some(name)) => Part::Test(name?),
        (None, None) => Part::Whole,
    };
    Some(Route::Task { run: number(run)?, task: TaskId::try_from(decode(task)?).ok()?, attempt, part })
}

/// A number in a query, if it is there. None where something else stands in its place.
fn read_number<N: std::str::FromStr>(query: &str, name: &str) -> Option<Option<N>> {
    match last(query, name) {
        Some(digits) => digits.parse().ok().map(Some),
        None => Some(None),
    }
}

fn last<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.trim_start_matches('?').split('&').filter_map(|pair| pair.strip_prefix(name)).next_back()
}

/// One part of a path. Python lets the names of stages and tasks have letters of any script.
pub(crate) fn encode(part: &str) -> String {
    let mut url = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push(byte as char),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}
