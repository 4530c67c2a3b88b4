//! The tests of a task, heard while it runs, asked for when it has ended, and what one does with the list.

use common::{
    Reason, RunFact, RunNumber, TestCounts, TestHistory, TestOutcome, TestResult, TestRun, TestView,
    TestsView, Verdict,
};

use super::story::{Story, problem, task};
use crate::keys::{Focus, Key};
use crate::model::OutputOf;
use crate::test_list::TestFilter;
use crate::update::{Effect, Msg};

fn models() -> OutputOf {
    OutputOf { run: RunNumber(7), task: task("TestUnit.models"), attempt: 1 }
}

fn prints(story: &mut Story, at: u64, text: &str) {
    story.happens(Msg::Output { of: models(), at, bytes: text.as_bytes().to_vec() });
}

fn test(name: &str, outcome: TestOutcome, flaky: bool) -> TestView {
    let words = |what: &str| outcome.is_bad().then(|| format!("{what} of <{name}>"));
    let (message, stack) = (words("message"), words("stack"));
    TestView { test: TestResult { name: name.to_owned(), outcome, took_ms: Some(12), message, stack }, flaky }
}

fn view(tests: Vec<TestView>) -> TestsView {
    let mut counts = TestCounts::default();
    tests.iter().for_each(|test| counts.count(test.test.outcome, 1));
    TestsView {
        run: RunNumber(7),
        task: task("TestUnit.models"),
        attempt: 1,
        counts,
        tests,
        omitted: 0,
        notes: Vec::new(),
    }
}

fn ended(story: &mut Story, tests: TestsView) {
    story.happens(Msg::GotTests(models(), Ok(tests)));
}

/// The tests of a task that has failed.
fn red() -> Story {
    let mut story = Story::of_run_7();
    story.fails("TestUnit.models", 1, 1);
    story.goes_to("/runs/7/TestUnit.models");
    assert!(story.effects.contains(&Effect::FetchTests(models())));
    let tests = vec![
        test("a::one", TestOutcome::Failed, true),
        test("a::two", TestOutcome::Skipped, false),
        test("a::three", TestOutcome::Passed, false),
    ];
    ended(&mut story, view(tests));
    story
}

#[test]
fn while_a_task_runs_its_tests_appear_and_then_the_boss_is_asked() {
    let mut story = Story::of_run_7();
    story.starts("TestUnit.models", 1);
    story.goes_to("/runs/7/TestUnit.models");
    assert!(!story.effects.contains(&Effect::FetchTests(models())), "it has not ended");
    prints(&mut story, 0, "t.py::test_a PASSED\nt.py::test_b FAI");
    assert!(!story.html().contains("test_a</span>"), "not for every piece of output");
    story.model.now_ms += 1_000;
    story.happens(Msg::Tick);
    assert_eq!(story.pane().tests.counts(), TestCounts { passed: 1, ..TestCounts::default() });
    // A stream that broke off brings some of it again.
    prints(&mut story, 20, "t.py::test_b FAILED\nt.py::test_c SKIPPED\n");
    story.model.now_ms += 1_000;
    story.happens(Msg::Tick);
    let heard = TestCounts { passed: 1, failed: 1, skipped: 1, flaky: 0 };
    assert_eq!(story.pane().tests.counts(), heard);
    let html = story.html_from("class=\"tests\"", "</section>");
    assert!(html.contains("so far") && html.contains("t.py::test_b"), "{html}");

    story.steps("TestUnit.models", 1, 1, "pytest");
    story.exits("TestUnit.models", 1, 1, 0);
    let asked = story.ends("TestUnit.models", 1, Verdict::Passed, None).to_vec();
    assert!(asked.contains(&Effect::FetchTests(models())), "{asked:?}");
    assert_eq!(story.pane().tests.counts(), heard, "until it has answered");
    // What comes of an attempt that is no longer shown is nothing to this one.
    story.happens(Msg::GotTests(OutputOf { attempt: 2, ..models() }, Ok(view(vec![]))));
    assert_eq!(story.pane().tests.counts(), heard);
    ended(&mut story, view(vec![test("t.py::test_a", TestOutcome::Passed, false)]));
    let html = story.html_from("class=\"tests\"", "</section>");
    assert!(
        !html.contains("so far") && !html.contains("test_a"),
        "folded, as there is nothing to mend: {html}"
    );
    story.happens(Msg::Pressed(Key { name: "t".to_owned(), focus: Focus::Page }));
    assert!(story.html_from("class=\"tests\"", "</section>").contains("test_a"));
}

#[test]
fn the_worst_stands_first_and_unfolds_to_what_was_wrong_and_how_it_was_before() {
    let mut story = red();
    let html = story.html_from("class=\"test-list\"", "</ul>");
    let place = |part: &str| html.find(part).unwrap_or_else(|| panic!("no {part} in {html}"));
    assert!(place("a::one") < place("a::two") && place("a::two") < place("a::three"));
    assert!(html.contains("class=\"flaky\"") && !html.contains("message of"), "{html}");
    let of = models();
    let asked = story.happens(Msg::ToggleTest(0)).to_vec();
    assert_eq!(asked, [Effect::FetchTestHistory { of: of.clone(), name: "a::one".to_owned() }]);
    let html = story.html_from("class=\"test-list\"", "</ul>");
    for part in ["message of &lt;a::one&gt;", "stack of &lt;a::one&gt;", "Looking at its history"] {
        assert!(html.contains(part), "no {part} in {html}");
    }
    let run = |number: u64, outcome: TestOutcome| TestRun {
        run: RunNumber(number),
        attempt: 1,
        outcome,
        took_ms: Some(number),
        at_ms: 0,
        only_some: false,
        commit: Some("0123456789abcdef".to_owned()),
        tree: None,
    };
    let (failed, passed) = (run(7, TestOutcome::Failed), run(5, TestOutcome::Passed));
    let history = TestHistory {
        task: task("TestUnit.models"),
        name: "a::one".to_owned(),
        flaky: true,
        first_failed: Some(failed.clone()),
        last_passed: Some(passed.clone()),
        counts: TestCounts { passed: 1, failed: 1, skipped: 0, flaky: 1 },
        failed_percent: Some(50),
        runs: vec![failed, passed],
    };
    story.happens(Msg::GotTestHistory {
        of: of.clone(),
        name: "a::one".to_owned(),
        answer: Ok(Box::new(history)),
    });
    let html = story.html_from("class=\"past\"", "</ol>");
    for part in [
        "failed 1 of 2 times (50 %)",
        "first failed in ",
        "href=\"/runs/5/TestUnit.models?attempt=1&amp;test=a%3A%3Aone\"",
        "run 5: passed, 5 ms, 0123456789",
    ] {
        assert!(html.contains(part), "no {part} in {html}");
    }
    assert!(html.find("run 5: passed") < html.find("run 7: failed"), "the latest last");
    // Folded, and known when it is unfolded again.
    assert_eq!(story.happens(Msg::ToggleTest(0)), []);
    assert_eq!(story.happens(Msg::ToggleTest(0)), []);
    assert!(story.html().contains("failed 1 of 2 times"));
    assert!(matches!(story.happens(Msg::ToggleTest(1)), [Effect::FetchTestHistory { .. }]));
    story.happens(Msg::GotTestHistory {
        of,
        name: "a::two".to_owned(),
        answer: Err(problem("none is recorded")),
    });
    assert!(story.html().contains("none is recorded"));

    story.happens(Msg::FilterTests(TestFilter::Failed));
    let html = story.html_from("class=\"test-list\"", "</ul>");
    assert!(html.contains("a::one") && !html.contains("a::two"), "{html}");
    story.happens(Msg::FoldTests);
    assert!(!story.html().contains("test-list"));
}

#[test]
fn of_very_many_tests_some_are_drawn_and_more_when_somebody_asks() {
    let mut story = red();
    let tests = (0..5_000).map(|n| test(&format!("many::t{n}"), TestOutcome::Failed, false)).collect();
    ended(&mut story, view(tests));
    let drawn = |story: &Story| story.html().matches("many::t").count();
    assert_eq!(drawn(&story), 100);
    assert!(story.html().contains("4,900 more"));
    story.happens(Msg::LaterTests);
    assert_eq!(drawn(&story), 600);
    // And never more at once.
    story.happens(Msg::LaterTests);
    let html = story.html();
    assert_eq!(drawn(&story), 600);
    assert!(
        html.contains("500 before these") && html.contains("3,900 more") && !html.contains("many::t499<")
    );
    story.happens(Msg::EarlierTests);
    assert!(story.html().contains("many::t499<") && !story.html().contains("before these"));
    // However much a test prints, little of it is kept, and what comes is listened to for so long only.
    let mut story = Story::of_run_7();
    story.starts("TestUnit.models", 1);
    story.goes_to("/runs/7/TestUnit.models");
    let mut at = 0;
    for round in 0..17 {
        let text: String =
            (0..25_000).map(|n| format!("t{round}.py::test_{n:08} FAILED {:8}\n", "")).collect();
        let text = format!("{text}{}\n", "x".repeat((1 << 20) - 1 - text.len()));
        prints(&mut story, at, &text);
        at += text.len() as u64;
        story.model.now_ms += 1_000;
        story.happens(Msg::Tick);
    }
    let heard = story.pane().tests.heard().unwrap();
    assert!(heard.is_deaf && heard.tests.len() == 100, "{} {}", heard.is_deaf, heard.tests.len());
    assert_eq!(heard.counts.failed, 20_000);
}

#[test]
fn a_test_is_searched_by_its_name_and_the_list_is_walked_by_keys() {
    let mut story = red();
    let tests = (0..700).map(|n| {
        test(&format!("Many::t{n}"), if n < 2 { TestOutcome::Failed } else { TestOutcome::Passed }, n == 1)
    });
    ended(&mut story, view(tests.collect()));
    let pressed = |story: &mut Story, name: &str, focus: Focus| -> Vec<Effect> {
        story.happens(Msg::Pressed(Key { name: name.to_owned(), focus })).to_vec()
    };
    let focus = |place: usize| vec![Effect::Focus(format!("test-{place}"))];
    assert_eq!(pressed(&mut story, "t", Focus::Page), focus(0));
    assert_eq!(pressed(&mut story, "j", Focus::Tests), focus(1));
    assert_eq!(pressed(&mut story, "ArrowUp", Focus::Tests), focus(0));
    assert_eq!(pressed(&mut story, "k", Focus::Tests), focus(0));
    assert!(
        matches!(&pressed(&mut story, "j", Focus::Page)[..], [_, Effect::Focus(id)] if id.starts_with("task-"))
    );

    // The keys go on where no test is drawn yet.
    let drawn = |story: &Story| story.html().matches("Many::t").count();
    for _ in 0..100 {
        pressed(&mut story, "j", Focus::Tests);
    }
    assert_eq!((story.effects.clone(), drawn(&story)), (focus(100), 600));
    story.happens(Msg::MoveAmongTests(5_000));
    assert_eq!((story.effects.clone(), drawn(&story)), (focus(699), 200));

    story.happens(Msg::SearchTests("MANY::t69".to_owned()));
    assert_eq!(drawn(&story), 11);
    assert_eq!(pressed(&mut story, "Enter", Focus::FindTest), focus(69));
    assert_eq!(pressed(&mut story, "j", Focus::Tests), focus(690));
    // What is looked for stays while the outcome is another.
    assert_eq!(pressed(&mut story, "n", Focus::Tests), []);
    assert!(story.html().contains("No failed test has “MANY::t69” in its name."));
    pressed(&mut story, "Escape", Focus::FindTest);
    assert_eq!(drawn(&story), 2);
    assert_eq!(pressed(&mut story, "n", Focus::Tests), focus(1));
    assert_eq!(story.pane().tests.filter, TestFilter::Flaky);
    pressed(&mut story, "n", Focus::Tests);
    assert_eq!(story.pane().tests.filter, TestFilter::All);
    pressed(&mut story, "t", Focus::Tests);
    assert!(!story.html().contains("test-list"));
}

/// A link to a test, from what failed or from its history: also into a task whose tests are not there yet.
#[test]
fn the_address_of_a_test_leads_to_it() {
    let mut story = Story::of_run_7();
    story.fails("TestUnit.models", 1, 1);
    story.goes_to("/runs/7/TestUnit.models?attempt=1&test=Many%3A%3At650");
    assert!(story.effects.contains(&Effect::FetchTests(models())));
    let tests = (0..700).map(|n| test(&format!("Many::t{n}"), TestOutcome::Passed, false)).collect();
    ended(&mut story, view(tests));
    let name = "Many::t650".to_owned();
    let found = [Effect::Focus("test-650".to_owned()), Effect::FetchTestHistory { of: models(), name }];
    assert_eq!(story.effects, found);
    assert!(story.html_from("id=\"test-650\"", "</li>").contains("Looking at its history"));
    // To another of the same task, whatever is looked for; as far as it is told of where its name is long.
    story.happens(Msg::SearchTests("nothing".to_owned()));
    story.goes_to("/runs/7/TestUnit.models?attempt=1&test=Many%3A%3At3%E2%80%A6");
    assert!(story.effects.contains(&Effect::Focus("test-3".to_owned())), "{:?}", story.effects);
    story.goes_to("/runs/7/TestUnit.models?attempt=1&test=gone");
    assert!(!story.effects.iter().any(|effect| matches!(effect, Effect::Focus(_))), "{:?}", story.effects);
}

#[test]
fn what_a_stack_says_is_not_said_before_it_once_more() {
    let mut story = red();
    let mut panicked = test("a::one", TestOutcome::Failed, false);
    panicked.test.message = Some("left is not right".to_owned());
    panicked.test.stack = Some("thread main panicked at src/a.rs:7:5:\nleft is not right".to_owned());
    ended(&mut story, view(vec![panicked]));
    story.happens(Msg::ToggleTest(0));
    let html = story.html_from("class=\"test-list\"", "</ul>");
    assert_eq!(html.matches("left is not right").count(), 1, "{html}");
}

#[test]
fn a_run_counts_the_tests_of_its_tasks_and_is_not_plainly_green_with_a_flaky_one() {
    let mut story = Story::of_run_7();
    let ends = |story: &mut Story, id: &str, n: u32, tests: TestCounts| {
        story.starts(id, 1);
        story.steps(id, 1, n, "true");
        story.exits(id, 1, n, 0);
        let end = RunFact::TaskEnded {
            task: task(id),
            attempt: 1,
            verdict: Verdict::Passed,
            took_ms: 1_500,
            problem: None,
            tests: Some(tests),
        };
        story.says(end);
    };
    ends(&mut story, "TestUnit.models", 1, TestCounts { passed: 240, ..TestCounts::default() });
    ends(&mut story, "TestUnit.views", 2, TestCounts { passed: 9, flaky: 1, ..TestCounts::default() });
    story.passes("TestWeb.login", 1, 3);
    story.says(RunFact::RunEnded { verdict: Verdict::Passed });
    let html = story.html();
    for part in [
        "240 passed</span>",
        "9 passed, 1 flaky</span>",
        "tests: 249 passed, 1 flaky",
        "passed, 1 flaky test",
    ] {
        assert!(html.contains(part), "no {part} in {html}");
    }
    assert!(html.contains("class=\"verdict passed qualified\""), "{html}");
    assert_eq!(html.matches("class=\"task passed qualified\"").count(), 1);
}

/// In the list of tasks, where there is room for one thing: how many failed, or else how it ended.
#[test]
fn a_task_that_was_cancelled_while_tests_failed_says_that_it_was_cancelled() {
    for (reason, word) in [(Reason::CommandFailed, "1 failed, 2 passed"), (Reason::CancelAsked, "cancelled")]
    {
        let mut story = Story::of_run_7();
        story.starts("TestUnit.models", 1);
        story.says(RunFact::TaskEnded {
            task: task("TestUnit.models"),
            attempt: 1,
            verdict: Verdict::Not(reason),
            took_ms: 1_500,
            problem: None,
            tests: Some(TestCounts { failed: 1, passed: 2, ..TestCounts::default() }),
        });
        let row = story.html_from("id=\"task-TestUnit.models\"", "</a>");
        assert!(row.contains(&format!("<span class=\"word\">{word}</span>")), "{row}");
    }
}
