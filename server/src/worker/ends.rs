//! The events that end a step, made from what is known of it.

use common::{Reason, StepEvent};
use std::io;

use super::engine::{Exit, Fault};
use super::spool::Decision;

/// Messages come from elsewhere and may be of any length; the last line of a spool has to be short.
const MESSAGE_CHARS: usize = 4000;

pub(super) fn exited(exit: Exit, took_ms: u64) -> StepEvent {
    let Exit { code: exit_code, oom, signal, cpu_ms, peak_memory_bytes } = exit;
    let (image_digest, message) = (None, None);
    StepEvent::Exited { exit_code, oom, took_ms, signal, cpu_ms, peak_memory_bytes, image_digest, message }
}

/// A build that came to its end: with the image, or with what failed and where.
pub(super) fn built(made: Result<String, (u8, Option<String>)>, took_ms: u64) -> StepEvent {
    let (exit_code, image_digest, message) = match made {
        Ok(image) => (0, Some(image), None),
        Err((code, at)) => (code, None, at.map(|at| at.chars().take(MESSAGE_CHARS).collect())),
    };
    StepEvent::Exited {
        exit_code,
        oom: false,
        took_ms,
        signal: None,
        cpu_ms: None,
        peak_memory_bytes: None,
        image_digest,
        message,
    }
}

pub(super) fn decision_event(decision: Decision, took_ms: u64, exit_code: Option<u8>) -> StepEvent {
    match decision {
        Decision::TimedOut => StepEvent::TimedOut { took_ms, exit_code },
        Decision::Cancelled(reason) => StepEvent::Cancelled { reason, took_ms, exit_code },
    }
}

pub(super) fn errored(fault: Fault, took_ms: u64, exit_code: Option<u8>) -> StepEvent {
    let short = |text: String| text.chars().take(MESSAGE_CHARS).collect();
    let Fault { reason, message, hint } = fault;
    StepEvent::Errored { reason, message: short(message), hint: hint.map(short), took_ms, exit_code }
}

pub(super) fn disk_fault(error: &io::Error) -> Fault {
    Fault::new(
        Reason::DiskFull,
        format!("the worker cannot write the record of this step: {error}"),
        "make room on the disk of the worker's --data-dir",
    )
}

/// For the log.
pub(super) fn words(event: &StepEvent) -> String {
    event.end().map_or_else(String::new, |end| match end.verdict.reason() {
        None => "passed".to_owned(),
        Some(reason) => format!("{}: {reason}", reason.outcome()),
    })
}
