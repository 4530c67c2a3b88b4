//! The log: marks in their places, bounded memory, and the window that is drawn.

use common::{Mark, OutputMark, Stream};

use super::story::step;
use crate::log::{FOLD_BYTES, Log, MOST_BYTES, MarkKind, ROW_PX, Row, Viewport, cut};

fn log_of(text: &str) -> Log {
    let mut log = Log::default();
    assert!(log.feed(0, text.as_bytes()));
    log
}

fn mark(offset: u64, mark: Mark) -> OutputMark {
    OutputMark { offset, at_ms: 0, mark }
}

fn output(offset: u64, n: u32, stream: Stream) -> OutputMark {
    mark(offset, Mark::Output { step: step(n), stream, position: 1, skip_bytes: 0 })
}

fn dropped(offset: u64, bytes: u64) -> OutputMark {
    mark(offset, Mark::Dropped { step: step(1), bytes, position: 1 })
}

/// Each row in a few characters.
fn rows(log: &Log) -> Vec<String> {
    let rows = (0..log.rows()).map(|i| match log.row(i).expect("there are as many as it says") {
        Row::Line { number, line, folded: false } => format!("{number} {}", line.text),
        Row::Line { number, folded: true, .. } => format!("{number} folded"),
        Row::Mark(mark) => match &mark.kind {
            MarkKind::Step(id) => format!("-- {id}"),
            MarkKind::Dropped(bytes) => format!("-- dropped {bytes}"),
            MarkKind::Gap(bytes) => format!("-- gap {bytes:?}"),
        },
    });
    rows.collect()
}

fn seen(top_px: f64) -> Viewport {
    Viewport { top_px, height_px: 400.0, columns: 80, at_end: false }
}

#[test]
fn marks_stand_where_they_belong() {
    let mut log = log_of("a\nb\nc\nunfinished");
    log.set_marks(&[
        output(0, 1, Stream::Stdout),
        output(2, 1, Stream::Stderr),
        dropped(2, 5),
        dropped(2, 7),
        output(4, 2, Stream::Stdout),
        mark(4, Mark::Gap { step: step(2), bytes: None, position: 2 }),
        // In the middle of a line: after it.
        dropped(9, 1),
    ]);
    assert_eq!(
        rows(&log),
        [
            "-- step-1",
            "1 a",
            "-- dropped 12",
            "2 b",
            "-- step-2",
            "-- gap None",
            "3 c",
            "4 unfinished",
            "-- dropped 1"
        ]
    );
    assert_eq!(log.row_of_step(&step(2)), Some(4));
    assert!(log.feed(16, b" no more\nlast"));
    assert_eq!(rows(&log)[7..], ["4 unfinished no more", "-- dropped 1", "5 last"]);
}

#[test]
fn a_single_step_needs_no_heading() {
    let mut log = log_of("a\n");
    log.set_marks(&[output(0, 1, Stream::Stdout), output(1, 1, Stream::Stderr)]);
    assert_eq!(rows(&log), ["1 a"]);
}

#[test]
fn lines_of_thousands_of_colours_are_folded_too() {
    let colourful = "\x1b[31ma\x1b[32mb".repeat(2000);
    let mut log = log_of(&format!("{colourful}\nplain\n"));
    assert_eq!(rows(&log), ["1 folded", "2 plain"]);
    let Some(Row::Line { line, .. }) = log.row(0) else { panic!("a line") };
    assert!((300..500).contains(&cut(line).len()), "{}", cut(line).len());
    log.unfold(1);
    assert_eq!(rows(&log)[0], format!("1 {}", "ab".repeat(2000)));
}

#[test]
fn long_lines_are_folded_until_somebody_looks() {
    let mut log = log_of(&format!("short\n{}\n", "x".repeat(FOLD_BYTES + 1)));
    assert_eq!(rows(&log), ["1 short", "2 folded"]);
    log.unfold(2);
    assert!(rows(&log)[1].len() > FOLD_BYTES);
}

#[test]
fn memory_is_bounded_and_numbers_stay_true() {
    let mut log = Log::default();
    let chunk = format!("{}\n", "y".repeat(99)).repeat(10_000);
    for _ in 0..100 {
        let at = log.position();
        assert!(log.feed(at, chunk.as_bytes()));
    }
    assert_eq!(log.lines(), 1_000_000);
    assert!(log.forgotten > 0 && log.text().len() < MOST_BYTES);
    assert_eq!(log.rows(), 1_000_000 - log.forgotten);
    let last = log.row(log.rows() - 1);
    assert!(matches!(last, Some(Row::Line { number: 1_000_000, .. })), "{last:?}");
    // Empty lines cost, too.
    let mut empty = Log::default();
    empty.feed(0, &vec![b'\n'; 3_000_000]);
    assert!(empty.rows() <= 800_000 && empty.lines() == 3_000_000);
}

#[test]
fn a_window_is_a_small_part_at_its_place() {
    let log = log_of(&"line\n".repeat(100_000));
    let window = log.window(&seen(1_000_000.0), false);
    assert_eq!(window.total_px, 100_000 * ROW_PX);
    assert!(window.rows.contains(&50_000) && window.rows.contains(&50_020) && window.rows.len() < 120);
    assert_eq!(window.top_px, window.rows.start as u32 * ROW_PX);
    let end = log.window(&seen(0.0), true);
    assert_eq!(end.rows.end, 100_000);
    // Beyond the end is the end.
    assert_eq!(log.window(&seen(1e12), false), end);
    assert_eq!(Log::default().window(&Viewport::default(), true).rows, 0..0);
}

#[test]
fn wrapped_lines_are_as_high_as_they_are_long() {
    let mut log = log_of(&format!("{}\nshort\n{}", "x".repeat(250), "y".repeat(81)));
    log.wrap(Some(80));
    assert_eq!(log.window(&seen(0.0), false).total_px, (4 + 1 + 2) * ROW_PX);
    assert_eq!(log.px_of_row(1), 4 * ROW_PX);
    log.feed(log.position(), "y".repeat(80).as_bytes());
    log.feed(log.position(), b"\nnext");
    assert_eq!(log.window(&seen(0.0), false).total_px, (4 + 1 + 3 + 1) * ROW_PX);
    log.wrap(Some(500));
    assert_eq!(log.window(&seen(0.0), false).total_px, 4 * ROW_PX);
    log.wrap(None);
    assert_eq!(log.px_of_row(1), ROW_PX);
}
