//! Stories of a run's events: live, at rest, lost, healed, cancelled, re-run.

use common::{Reason, RunEvent, RunFact, RunNumber, Seq, Verdict};

use super::story::{BEGAN_MS, Story, problem, started, task};
use crate::model::{Asked, Live, OutputOf, Remote};
use crate::update::{Effect, Feed, Msg, ticking};

const RUN: RunNumber = RunNumber(7);

fn from(after: u64) -> Effect {
    Effect::OpenFeed(Feed::Run { run: RUN, after })
}

fn lost(gave_up: bool) -> Msg {
    Msg::FeedLost { feed: Feed::Run { run: RUN, after: 0 }, gave_up }
}

fn seq(story: &Story) -> u64 {
    match &story.run_page().state {
        Remote::Loaded(state) => state.last_seq.0,
        Remote::Loading | Remote::Failed(_) => 0,
    }
}

#[test]
fn events_make_the_page() {
    let mut story = Story::at("/runs/7");
    assert!(story.effects.contains(&from(0)));
    assert_eq!(ticking(&story.model), None);
    story.says(started());
    assert_eq!(ticking(&story.model), Some(100));
    assert!(Story::is_red().html().contains("failed: command_failed"));
    assert_eq!(ticking(&Story::is_red().model), None);
}

#[test]
fn what_is_known_already_or_is_of_another_run_changes_nothing() {
    let mut story = Story::of_run_7();
    let again = Box::new(RunEvent { seq: Seq(1), at_ms: BEGAN_MS, fact: started() });
    assert_eq!(story.happens(Msg::Event { run: RUN, event: again.clone() }), [Effect::Still]);
    assert_eq!(story.happens(Msg::Event { run: RunNumber(8), event: again }), [Effect::Still]);
    assert_eq!(seq(&story), 1);
}

#[test]
fn a_log_that_makes_no_sense_is_not_shown_as_if_it_did() {
    let mut story = Story::of_run_7();
    let event = Box::new(RunEvent { seq: Seq(9), at_ms: BEGAN_MS, fact: RunFact::CancelAsked });
    assert_eq!(story.happens(Msg::Event { run: RUN, event }), [Effect::CloseFeed, Effect::CloseOutput]);
    assert!(story.html().contains("makes no sense"));
}

#[test]
fn the_browser_heals_what_it_can_by_itself() {
    let mut story = Story::of_run_7();
    story.happens(Msg::FeedOpened);
    assert_eq!(story.happens(lost(false)), []);
    assert!(story.html().contains("reconnecting…"));
    story.happens(Msg::FeedOpened);
    assert!(!story.html().contains("reconnecting…"));
}

#[test]
fn where_the_browser_gives_up_the_page_asks_why_and_goes_on_from_its_last_event() {
    let mut story = Story::of_run_7();
    story.starts("TestUnit.models", 1);
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(story.happens(lost(true)), [Effect::Probe(RUN)]);
        match story.happens(Msg::Probed(Ok(()))) {
            [Effect::Later { ms, msg }] if **msg == Msg::FeedDue => waits.push(*ms),
            other => panic!("{other:?}"),
        }
        assert_eq!(story.happens(Msg::FeedDue), [from(2)]);
    }
    assert_eq!(waits, [500, 1000, 2000, 4000, 5000, 5000]);
    story.happens(Msg::FeedOpened);
    assert_eq!(story.model.live, Live::Open);
    assert_eq!(story.happens(Msg::FeedDue), [Effect::Still]);
}

#[test]
fn a_run_that_is_not_there_is_said_to_be_so() {
    let mut story = Story::at("/runs/7");
    story.happens(lost(true));
    let effects = story.happens(Msg::Probed(Err(problem("there is no run 7"))));
    assert_eq!(effects, [Effect::CloseFeed, Effect::CloseOutput]);
    let html = story.html();
    assert!(html.contains("there is no run 7") && !html.contains("reconnecting…"));
}

#[test]
fn at_rest_the_page_listens_for_a_re_run() {
    let mut story = Story::is_red();
    assert_eq!(story.happens(Msg::FeedEnded), [Effect::OpenFeed(Feed::Runs)]);
    let Remote::Loaded(state) = &story.run_page().state else { panic!() };
    let mut summary = common::RunSummary::of(state);
    let last = state.last_seq.0;
    assert_eq!(story.happens(Msg::RunChanged(summary.clone())), [Effect::Still]);
    summary.verdict = None;
    assert_eq!(story.happens(Msg::RunChanged(summary)), [from(last)]);
    story.says(RunFact::RerunStarted {
        only: vec![task("TestUnit.models"), task("TestWeb.login")],
        failed_tests: Vec::new(),
    });
    assert_eq!(ticking(&story.model), Some(100));
}

#[test]
fn no_stream_for_a_run_at_rest_is_no_fault() {
    let mut story = Story::is_red();
    assert_eq!(story.happens(lost(true)), [Effect::OpenFeed(Feed::Runs)]);
}

#[test]
fn out_of_sight_only_a_running_run_is_followed() {
    let mut story = Story::of_run_7();
    assert_eq!(story.happens(Msg::Seen(false)), []);
    story.fails("TestUnit.models", 1, 1);
    story.passes("TestUnit.views", 1, 2);
    story.says(RunFact::TaskSkipped { task: task("TestWeb.login"), why: common::SkipReason::EarlierStage });
    story.says(RunFact::RunEnded { verdict: Verdict::Not(Reason::CommandFailed) });
    assert_eq!(story.happens(Msg::FeedEnded), [Effect::CloseFeed]);
    let last = seq(&story);
    assert_eq!(story.happens(Msg::Seen(true)), [from(last)]);
}

#[test]
fn cancelling_is_asked_for_once_and_shown_at_once() {
    let mut story = Story::of_run_7();
    assert_eq!(story.happens(Msg::WantCancel), [Effect::Cancel(RUN)]);
    assert!(story.html().contains("Cancelling…"));
    assert_eq!(story.happens(Msg::WantCancel), [Effect::Still]);
    story.happens(Msg::Answered(Ok(())));
    story.says(RunFact::CancelAsked);
    assert!(story.html().contains("Cancelling…"));
    assert_eq!(story.happens(Msg::WantCancel), [Effect::Still]);
}

#[test]
fn what_was_refused_says_so_and_can_be_asked_again() {
    let mut story = Story::of_run_7();
    story.happens(Msg::WantCancel);
    story.happens(Msg::Answered(Err(problem("the boss does not answer"))));
    assert!(story.html().contains("the boss does not answer"));
    assert_eq!(story.happens(Msg::WantCancel), [Effect::Cancel(RUN)]);
}

#[test]
fn a_re_run_goes_on_in_the_same_log() {
    let mut story = Story::is_red();
    assert_eq!(story.happens(Msg::WantRerun { only: None }), [Effect::Rerun { run: RUN, only: None }]);
    assert_eq!(story.run_page().asked, Some(Asked::Rerun));
    let last = seq(&story);
    assert_eq!(story.happens(Msg::Answered(Ok(()))), [from(last)]);
    story.says(RunFact::RerunStarted {
        only: vec![task("TestUnit.models"), task("TestWeb.login")],
        failed_tests: Vec::new(),
    });
    story.passes("TestUnit.models", 2, 3);
    story.passes("TestWeb.login", 1, 4);
    story.says(RunFact::RunEnded { verdict: Verdict::Passed });
    let html = story.html();
    assert!(html.contains("passed on attempt 2"), "{html}");
    assert_eq!(story.happens(Msg::WantRerun { only: None }), [Effect::Still]);
}

#[test]
fn the_end_of_the_first_failure_is_fetched_and_shown() {
    let mut story = Story::of_run_7();
    let of = OutputOf { run: RUN, task: task("TestUnit.models"), attempt: 1 };
    assert_eq!(story.fails("TestUnit.models", 1, 1), [Effect::FetchTail(of.clone())]);
    // A second failure is not the first one.
    assert_eq!(story.fails("TestUnit.views", 1, 2), []);
    let bytes = b"rest of a line\n\x1b[31massert 1 == 2\x1b[0m\n\n".to_vec();
    story.happens(Msg::GotTail { of, bytes, cut: true });
    let html = story.html();
    assert!(
        html.contains("<span class=\"f1\">assert 1 == 2</span>") && !html.contains("rest of a line"),
        "{html}"
    );
}

#[test]
fn one_task_that_did_not_pass_runs_again_alone() {
    let mut story = Story::is_red();
    story.goes_to("/runs/7/TestUnit.models");
    assert!(story.html().contains("Re-run this task"));
    let only = Some(task("TestUnit.models"));
    let wanted = Msg::WantRerun { only: only.clone() };
    assert_eq!(story.happens(wanted.clone()), [Effect::Rerun { run: RUN, only }]);
    assert_eq!(story.happens(wanted), [Effect::Still], "once is enough");
    story.happens(Msg::Answered(Ok(())));
    // What has passed, and what cannot run before another has, is not offered.
    for other in ["TestUnit.views", "TestWeb.login"] {
        story.goes_to(&format!("/runs/7/{other}"));
        assert!(!story.html().contains("Re-run this task"), "{other}");
        assert_eq!(story.happens(Msg::WantRerun { only: Some(task(other)) }), [Effect::Still]);
    }
}

#[test]
fn failed_tests_run_alone_where_their_runner_can_be_asked_for_them() {
    let mut story = Story::is_red();
    assert!(!story.html().contains("Re-run failed tests"));
    assert_eq!(story.happens(Msg::WantFailedTests), [Effect::Still]);

    let mut story = Story::of_run_7();
    story.passes("TestUnit.views", 1, 2);
    story.starts("TestUnit.models", 1);
    story.steps("TestUnit.models", 1, 1, "pytest");
    story.exits("TestUnit.models", 1, 1, 1);
    let tests = Some(common::TestCounts { passed: 5, failed: 1, ..Default::default() });
    let ended = |attempt, reason| RunFact::TaskEnded {
        task: task("TestUnit.models"),
        attempt,
        verdict: Verdict::Not(reason),
        took_ms: 1,
        problem: None,
        tests,
    };
    story.says(ended(1, Reason::CommandFailed));
    story.says(RunFact::TaskSkipped { task: task("TestWeb.login"), why: common::SkipReason::EarlierStage });
    story.says(RunFact::RunEnded { verdict: Verdict::Not(Reason::CommandFailed) });
    assert!(story.html().contains("Re-run failed tests"));
    assert_eq!(story.happens(Msg::WantFailedTests), [Effect::RerunFailedTests(RUN)]);
    assert_eq!(story.happens(Msg::WantFailedTests), [Effect::Still], "one thing at a time");
    story.says(RunFact::RerunStarted { only: vec![task("TestUnit.models")], failed_tests: Vec::new() });
    story.starts("TestUnit.models", 2);
    story.says(ended(2, Reason::OnlySomeTests));
    story.says(RunFact::RunEnded { verdict: Verdict::Not(Reason::OnlySomeTests) });
    assert!(!story.html().contains("Re-run failed tests"), "now all of it has to say");
}
