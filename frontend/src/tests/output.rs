//! Stories of a task's output: which one, how it arrives, follows, heals and ends.

use common::{Reason, RunFact, RunNumber, Verdict};

use super::story::{Story, problem, task};
use crate::log::Viewport;
use crate::model::{Output, OutputOf};
use crate::update::{Effect, Msg};

fn of(attempt: u32) -> OutputOf {
    OutputOf { run: RunNumber(7), task: task("TestUnit.models"), attempt }
}

fn bytes(at: u64, text: &str) -> Msg {
    Msg::Output { of: of(1), at, bytes: text.as_bytes().to_vec() }
}

fn open(attempt: u32, from: u64) -> Effect {
    Effect::OpenOutput { of: of(attempt), from }
}

/// `models` is running its first attempt, and its output is on screen.
fn watching() -> Story {
    let mut story = Story::of_run_7();
    story.starts("TestUnit.models", 1);
    story.steps("TestUnit.models", 1, 1, "pytest");
    story.goes_to("/runs/7/TestUnit.models");
    story
}

fn lines(story: &Story) -> usize {
    story.pane().log.lines()
}

fn scrolled(top_px: f64, at_end: bool) -> Msg {
    Msg::LogMeasured(Viewport { top_px, height_px: 400.0, columns: 80, at_end })
}

#[test]
fn opening_a_task_streams_its_latest_attempt() {
    let story = watching();
    assert!(story.effects.contains(&open(1, 0)) && story.effects.contains(&Effect::FetchMarks(of(1))));
    assert!(
        !story.effects.iter().any(|effect| matches!(effect, Effect::OpenFeed(_))),
        "the run's events go on"
    );
}

#[test]
fn a_task_that_has_not_started_shows_its_output_when_it_does() {
    let mut story = Story::of_run_7();
    story.goes_to("/runs/7/TestUnit.models");
    assert!(story.html().contains("It has not started yet."));
    assert!(story.starts("TestUnit.models", 1).contains(&open(1, 0)));
}

#[test]
fn chunks_that_come_twice_count_once_and_a_hole_is_asked_for_again() {
    let mut story = watching();
    story.happens(bytes(0, "one\ntw"));
    story.happens(bytes(4, "two\n"));
    assert_eq!((lines(&story), story.pane().log.position()), (2, 8));
    assert_eq!(story.happens(bytes(100, "later")), [open(1, 8)]);
    assert_eq!(story.happens(Msg::Output { of: of(2), at: 8, bytes: vec![b'x'] }), [Effect::Still]);
    assert_eq!(story.pane().log.text(), "one\ntwo\n");
}

#[test]
fn a_lost_stream_goes_on_where_it_was() {
    let mut story = watching();
    story.happens(bytes(0, "one\n"));
    assert!(matches!(story.happens(Msg::OutputLost(of(1))), [Effect::Later { ms: 500, .. }]));
    assert_eq!(story.happens(Msg::OutputDue(of(1))), [open(1, 4)]);
    assert!(matches!(story.happens(Msg::OutputLost(of(1))), [Effect::Later { ms: 1000, .. }]));
    assert!(story.html().contains("1 line, reconnecting…"));
    story.happens(bytes(4, "two\n"));
    assert_eq!(story.pane().output, Output::Streaming);
}

#[test]
fn a_stream_that_ends_before_its_attempt_does_is_not_whole() {
    let mut story = watching();
    story.happens(bytes(0, "one\n"));
    story.happens(Msg::OutputEnded(of(1)));
    assert!(matches!(story.pane().output, Output::Lost { .. }));
    story.exits("TestUnit.models", 1, 1, 0);
    story.ends("TestUnit.models", 1, Verdict::Passed, None);
    assert_eq!(story.happens(Msg::OutputDue(of(1))), [open(1, 4)]);
    assert!(story.happens(Msg::OutputEnded(of(1))).contains(&Effect::FetchMarks(of(1))));
    assert_eq!(story.pane().output, Output::Whole);
    assert!(story.html().contains(">1 line<"));
}

#[test]
fn scrolling_up_lets_go_of_the_end_and_coming_back_takes_hold_again() {
    let mut story = watching();
    story.happens(bytes(0, &"line\n".repeat(1000)));
    assert!(story.effects.contains(&Effect::ScrollLogToEnd));
    story.happens(scrolled(19_600.0, true));
    // Lines came faster than they were drawn: the end is out of sight, but nobody has moved.
    story.happens(scrolled(19_600.0, false));
    assert!(story.pane().follow);
    story.happens(scrolled(15_000.0, false));
    assert!(!story.pane().follow && story.html().contains("Jump to end"));
    assert_eq!(story.happens(bytes(5000, "more\n")), []);
    assert_eq!(story.happens(Msg::ToEnd), [Effect::ScrollLogToEnd]);
    assert!(story.pane().follow);
    story.happens(scrolled(100.0, false));
    story.happens(scrolled(19_620.0, true));
    assert!(story.pane().follow);
}

#[test]
fn small_movements_draw_nothing_new() {
    let mut story = watching();
    story.happens(bytes(0, &"line\n".repeat(1000)));
    story.happens(scrolled(10_000.0, false));
    story.happens(scrolled(9_000.0, false));
    assert_eq!(story.happens(scrolled(9_005.0, false)), [Effect::Still]);
    assert_eq!(story.happens(scrolled(5_000.0, false)), []);
}

#[test]
fn a_re_run_shows_the_new_attempt_unless_an_older_one_was_asked_for() {
    let mut story = Story::is_red();
    story.goes_to("/runs/7/TestUnit.models");
    story.says(RunFact::RerunStarted { only: vec![task("TestUnit.models")], failed_tests: Vec::new() });
    assert!(story.starts("TestUnit.models", 2).contains(&open(2, 0)));
    assert!(story.goes_to("/runs/7/TestUnit.models?attempt=1").contains(&open(1, 0)));
    story.steps("TestUnit.models", 2, 3, "false");
    assert_eq!(story.pane().of, Some(of(1)));
    story.goes_to("/runs/7/TestUnit.models?attempt=9");
    assert!(story.html().contains("There is no attempt 9 of this task."));
}

#[test]
fn out_of_sight_the_output_waits_and_then_goes_on() {
    let mut story = watching();
    story.happens(bytes(0, "one\n"));
    assert_eq!(story.happens(Msg::Seen(false)), [Effect::CloseOutput]);
    assert_eq!(story.happens(Msg::Seen(true)), [open(1, 4)]);
}

#[test]
fn a_refused_output_says_why() {
    let mut story = watching();
    // As long as it runs, there may be one yet.
    let refused = Msg::OutputRefused(of(1), problem("the output of this attempt was removed"));
    assert!(matches!(story.happens(refused.clone()), [Effect::Later { .. }]));
    story.exits("TestUnit.models", 1, 1, 0);
    story.ends("TestUnit.models", 1, Verdict::Passed, None);
    story.happens(refused);
    assert!(story.html().contains("the output of this attempt was removed"));
    assert_eq!(story.happens(Msg::OutputDue(of(1))), [Effect::Still]);
}

#[test]
fn going_back_to_the_run_closes_the_output_and_stays_at_the_task() {
    let mut story = watching();
    let effects = story.goes_to("/runs/7");
    assert!(effects.contains(&Effect::CloseOutput));
    assert!(effects.contains(&Effect::Focus("task-TestUnit.models".to_owned())));
}

#[test]
fn an_errored_attempt_tells_its_problem_once() {
    let mut story = watching();
    let said = common::StepEvent::Errored {
        reason: Reason::ContainerLost,
        message: "the container vanished".to_owned(),
        hint: None,
        took_ms: 5,
        exit_code: None,
    };
    story.worker_says("TestUnit.models", 1, 1, 9, said);
    let verdict = Verdict::Not(Reason::ContainerLost);
    story.ends("TestUnit.models", 1, verdict, Some(problem("the container vanished")));
    assert_eq!(story.html().matches("the container vanished").count(), 1);
}

#[test]
fn a_line_that_the_address_names_is_brought_into_sight_once_it_is_there() {
    let mut story = watching();
    story.goes_to("/runs/7/TestUnit.models?attempt=1&line=60");
    assert!(story.pane().of.is_some() && !story.effects.contains(&open(1, 0)), "it is on screen already");
    story.happens(scrolled(0.0, true));
    let mut text = "x\n".repeat(59);
    assert!(
        !scrolls(story.happens(bytes(0, &text))),
        "it is not there yet, and the end is not what is wanted"
    );
    text.push_str("the one\nand more\n");
    assert_eq!(story.happens(bytes(0, &text)), [Effect::ScrollLogTo(1046)]);
    story.happens(scrolled(1047.0, false));
    assert!(story.html().contains("<div class=\"row named\">"));
    assert!(!scrolls(story.happens(bytes(0, &format!("{text}more\n")))), "and there it stays");
}

#[test]
fn what_is_looked_for_is_found_also_in_lines_that_come_later() {
    let mut story = watching();
    story.happens(scrolled(0.0, true));
    story.happens(bytes(0, "a needle\nhay\na NEEDLE, a needle\nan unfinished nee"));
    story.happens(Msg::Find("Needle".to_owned()));
    assert_eq!((story.pane().find.place(), story.pane().follow), ((Some(1), 2), false));
    assert!(story.html().contains("1 of 2 lines"));
    assert!(story.html().contains("<mark>NEEDLE</mark>, a <mark>needle</mark>"));
    story.happens(bytes(0, "a needle\nhay\na NEEDLE, a needle\nan unfinished needle\n"));
    assert_eq!(story.pane().find.place(), (Some(1), 3));
    let mut walked = Vec::new();
    for by in [1, 1, 1, -1] {
        story.happens(Msg::FindNext(by));
        walked.push(story.pane().find.line());
    }
    assert_eq!(walked, [Some(3), Some(4), Some(1), Some(4)]);
    story.happens(Msg::Find("needles".to_owned()));
    assert!(story.html().contains("not found"));
    story.happens(Msg::Find(String::new()));
    assert!(!story.html().contains("<mark>"));
}

#[test]
fn a_window_of_another_size_is_no_reason_to_let_go() {
    let mut story = watching();
    story.happens(bytes(0, &"x\n".repeat(100)));
    story.happens(scrolled(1600.0, true));
    let larger = Viewport { top_px: 1400.0, height_px: 500.0, columns: 80, at_end: false };
    assert!(scrolls(story.happens(Msg::LogMeasured(larger))) && story.pane().follow);
    story.happens(Msg::LogMeasured(Viewport { top_px: 1300.0, ..larger }));
    assert!(!story.pane().follow, "but going up is");
}

fn scrolls(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::ScrollLogTo(_) | Effect::ScrollLogToEnd))
}
