//! What failed in a run, and why: asked for when that is certain, and told.

use common::{
    ChangedFiles, FailedTest, Failure, NewLine, Packet, Reason, RunFact, RunNumber, TestCounts, Verdict,
};

use super::story::{Story, problem, task};
use crate::update::{Effect, Msg};

fn packet() -> Packet {
    let failure = Failure {
        task: task("TestUnit.models"),
        attempt: 1,
        verdict: Verdict::Not(Reason::CommandFailed),
        error: Some("exit code 1 from: pytest".to_owned()),
        hint: None,
        at: None,
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
    story.says(RunFact::RerunStarted { only: vec![task("TestUnit.models")] });
    // One that was under way tells of what was before.
    story.happens(Msg::GotPacket(Ok(packet())));
    assert!(!story.html().contains("What failed, and why"));
}

#[test]
fn the_tests_their_places_and_what_has_changed() {
    let mut story = Story::is_red();
    story.happens(Msg::GotPacket(Ok(packet())));
    assert_eq!(
        story.html_from("<details", "</details>"),
        r#"<details open="open" class="failure failed">
<summary>
<span aria-hidden="true" class="mark">
</span>
<span class="name">TestUnit.models</span>
<span class="short">3 failed, 3 passed</span>
</summary>
<div class="told">
<ul class="failed-tests">
<li>
<span>
<code class="test">test_a.py::test_b</code>
<span class="flaky">flaky: on these files it has passed, too</span>
</span>
<span title="assert 1 == 2
more" class="why">assert 1 == 2</span>
<code class="frame">src/a.py:7 in add</code>
</li>
<li>and 2 more</li>
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
<a href="/runs/7/TestUnit.models">its output</a>
<span>after a change:</span>
<code>bettertest run --task TestUnit.models</code>
<button aria-label="copy the command that runs TestUnit.models again" class="quiet">copy</button>
</p>
</div>
</details>"#
    );
    assert!(story.html().contains(r#"<p class="rest">2 more did not pass, 1 did not run to their end</p>"#));
    story.happens(Msg::GotPacket(Err(problem("the boss does not answer"))));
    assert!(story.html().contains("What failed is not known in full"));
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
