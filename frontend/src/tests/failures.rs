//! What failed in a run, and why: asked for when that is certain, and told.

use common::{
    ChangedFiles, FailedTest, Failure, NewLine, Packet, Reason, RunFact, RunNumber, TestCounts, Verdict,
};

use super::story::{Story, problem, task};
use crate::model::Filter;
use crate::update::{Effect, Msg};

fn packet() -> Packet {
    let failure = Failure {
        task: task("TestUnit.models"),
        attempt: 1,
        verdict: Verdict::Not(Reason::CommandFailed),
        error: Some("exit code 1 from: pytest".to_owned()),
        hint: None,
        at: None,
        notes: vec!["artifacts: no JUnit report was found: r.xml".to_owned()],
        tests: Some(TestCounts { passed: 3, failed: 3, ..TestCounts::default() }),
        failed_tests: vec![FailedTest {
            name: "test_a.py::test_b".to_owned(),
            message: vec!["assert 1 == 2".to_owned(), "more".to_owned()],
            flaky: true,
            frames: vec!["src/a.py:7 in add".to_owned()],
        }],
        first_new_line: Some(NewLine {
            line: 3,
            text: "test_b broke".to_owned(),
            green: Some("test_b passed".to_owned()),
            green_run: RunNumber(5),
            green_attempt: 1,
        }),
        changes: Some(ChangedFiles {
            green_run: RunNumber(5),
            green_attempt: 1,
            changed: vec!["src/a.py".to_owned()],
            more: 2,
            ..ChangedFiles::default()
        }),
        last_lines: vec!["1 failed".to_owned()],
        again: "bettertest run --task TestUnit.models".to_owned(),
    };
    Packet {
        run: RunNumber(7),
        verdict: Some(Verdict::Not(Reason::CommandFailed)),
        headline: "failed: command_failed".to_owned(),
        failures: vec![failure],
        more_failures: 2,
        not_run: 1,
    }
}

#[test]
fn it_is_asked_for_once_the_run_has_ended_and_forgotten_when_it_goes_on() {
    let mut story = Story::is_red();
    assert!(story.effects.contains(&Effect::FetchPacket(RunNumber(7))), "{:?}", story.effects);
    story.happens(Msg::GotPacket(Ok(packet())));
    assert!(story.html().contains("What failed, and why"));
    story.says(RunFact::RerunStarted { only: vec![task("TestUnit.models")], failed_tests: Vec::new() });
    // One that was under way tells of what was before.
    story.happens(Msg::GotPacket(Ok(packet())));
    assert!(!story.html().contains("What failed, and why"));
}

#[test]
fn the_tests_their_places_and_what_has_changed() {
    let mut story = Story::is_red();
    story.happens(Msg::GotPacket(Ok(packet())));
    assert_eq!(
        story.html_from("<section class=\"failure failed\"", "</section>"),
        r#"<section class="failure failed">
<h3>
<span aria-hidden="true" class="mark">
</span>
<a href="/runs/7/TestUnit.models">TestUnit.models</a>
<span class="word">failed: command_failed</span>
<span class="took">1.5s</span>
</h3>
<details open="open">
<summary>3 failed, 3 passed</summary>
<div class="told">
<p class="hole">artifacts: no JUnit report was found: r.xml</p>
<ul class="failed-tests">
<li>
<span>
<a href="/runs/7/TestUnit.models?attempt=1&amp;test=test_a.py%3A%3Atest_b">
<code class="test">test_a.py::test_b</code>
</a>
<span class="flaky">flaky: on these files it has passed, too</span>
</span>
<span title="assert 1 == 2
more" class="why">assert 1 == 2</span>
<code class="frame">src/a.py:7 in add</code>
</li>
<li>
<a href="/runs/7/TestUnit.models">and 2 more</a>
</li>
</ul>
<dl class="new">
<dt>first new line since run 5, line 3</dt>
<dd>
<code>test_b broke</code>
</dd>
<dt>there, when it passed</dt>
<dd>
<code>test_b passed</code>
</dd>
</dl>
<div class="changes">
<p>3 files not as in run 5, in which it passed</p>
<ul>
<li>
<span class="what">changed</span>
<code>src/a.py</code>
</li>
<li>and 2 more</li>
</ul>
</div>
<p class="again">
<a href="/runs/7/TestUnit.models" class="button">See its output<kbd>f</kbd>
</a>
<span>after a change:</span>
<code>bettertest run --task TestUnit.models</code>
<button aria-label="copy the command that runs TestUnit.models again" class="quiet">copy</button>
</p>
</div>
</details>
</section>"#
    );
    let html = story.html();
    assert!(html.contains("<span>2 more did not pass, 1 did not run to their end</span>"), "{html}");
    story.happens(Msg::SetFilter(Filter::NotPassed));
    story.happens(Msg::GotPacket(Err(problem("the boss does not answer"))));
    assert!(story.html().contains("What failed is not known in full"));
}

/// One thing, in one order: what stands first is also what the key leads to, and nothing tells it twice.
#[test]
fn what_failed_is_told_once_and_the_worst_first() {
    let mut story = Story::of_run_7();
    story.fails("TestUnit.models", 1, 1);
    story.starts("TestUnit.views", 1);
    story.ends("TestUnit.views", 1, Verdict::Not(Reason::WorkerLost), Some(problem("the worker is gone")));
    assert!(story.html().contains("class=\"first-bad failed\""), "at once, and not only at the end");
    let why = common::SkipReason::EarlierStage;
    story.says(RunFact::TaskSkipped { task: task("TestWeb.login"), why });
    story.says(RunFact::RunEnded { verdict: Verdict::Not(Reason::WorkerLost) });
    assert!(story.html().contains("class=\"first-bad failed\""), "until more is known");
    let mut told = packet();
    let worst = Failure {
        task: task("TestUnit.views"),
        verdict: Verdict::Not(Reason::WorkerLost),
        error: Some("the worker is gone".to_owned()),
        tests: None,
        failed_tests: vec![],
        ..told.failures[0].clone()
    };
    told.failures.insert(0, worst);
    story.happens(Msg::GotPacket(Ok(told)));
    let html = story.html();
    assert!(!html.contains("first-bad"), "{html}");
    let places = |html: &str, part: &str| -> (usize, usize) {
        (html.find(part).unwrap_or_else(|| panic!("no {part} in {html}")), html.matches(part).count())
    };
    let (views, models) = (places(&html, "failure errored"), places(&html, "failure failed"));
    assert!(views < models && (views.1, models.1) == (1, 1), "{html}");
    let (views, models) = (places(&html, "task errored"), places(&html, "task failed"));
    assert!(views.0 < models.0, "the list of tasks has the same order");
    story.happens(Msg::GoToFirstBad);
    assert_eq!(story.model.route.url(), "/runs/7/TestUnit.views");
}

#[test]
fn its_command_is_copied() {
    let mut story = Story::is_red();
    story.happens(Msg::GotPacket(Ok(packet())));
    let effects = story.happens(Msg::CopyAgain(task("TestUnit.models"))).to_vec();
    assert_eq!(effects, [Effect::Copy("bettertest run --task TestUnit.models".to_owned())]);
    assert!(!story.html().contains(">copied<"));
    story.happens(Msg::Copied);
    assert!(story.html().contains(">copied<"));
}

#[test]
fn an_error_that_stands_in_a_line_is_not_told_below_it_once_more() {
    let mut story = Story::is_red();
    let mut told = packet();
    told.failures[0].failed_tests.clear();
    told.failures[0].tests = None;
    told.failures[0].error = Some("exit code 1 from: false".to_owned());
    story.happens(Msg::GotPacket(Ok(told)));
    let html = story.html_from("<section class=\"failure failed\"", "</section>");
    assert_eq!(html.matches("exit code 1 from: false").count(), 1, "{html}");
    assert!(html.contains("<b>hint </b>do this") && html.contains(">1 failed</pre>"), "{html}");
}
