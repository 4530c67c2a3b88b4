//! The pages as HTML, exactly.

use common::{Pipeline, RunFact, RunNumber, RunSummary, StepEvent, Verdict};

use super::story::{BEGAN_MS, Story, problem, task};
use crate::update::Msg;
use crate::view::{standing, title};

#[test]
fn a_run_says_how_it_stands() {
    assert_eq!(
        Story::is_red().html_from("<section aria-label=\"verdict\"", "<div aria-hidden"),
        r#"<section aria-label="verdict" class="verdict failed">
<span aria-hidden="true" class="mark">
</span>
<div class="words">
<h1>
<span class="which">Run 7 </span>
<span role="status">failed: command_failed</span>
</h1>
<p class="facts">
<span class="took">1.2s</span>
<span title="21 Sep 2026, 14:00">started just now</span>
</p>
</div>
<div class="actions">
<button title="new attempts of what did not pass, on the pipedef and images of this run" class="primary">Re-run 2 tasks<kbd>r</kbd>
</button>
</div>
<div aria-hidden="true" class="bar">"#
    );
}

#[test]
fn the_first_failure_is_told_with_its_hint() {
    assert_eq!(
        Story::is_red().html_from("<section aria-label=\"the first", "</section>"),
        r#"<section aria-label="the first that did not pass" class="first-bad failed">
<h2>
<span aria-hidden="true" class="mark">
</span>
<a href="/runs/7/TestUnit.models">TestUnit.models</a>
<span class="word">failed: command_failed</span>
<span class="took">1.5s</span>
</h2>
<div class="problem">
<p class="error">exit code 1 from: false</p>
<p class="hint">
<b>hint </b>do this</p>
</div>
<p class="next">
<a href="/runs/7/TestUnit.models" class="button">See its output<kbd>f</kbd>
</a>
</p>
</section>"#
    );
}

#[test]
fn a_task_is_a_mark_a_name_a_word_and_a_time() {
    assert_eq!(
        Story::is_red().html_from("<li class=\"task skipped", "</li>"),
        r#"<li class="task skipped">
<a href="/runs/7/TestWeb.login" id="task-TestWeb.login" title="TestWeb.login: skipped: earlier_stage">
<span aria-hidden="true" class="mark">
</span>
<span class="name">login</span>
<span class="word">skipped</span>
<span class="took">
</span>
</a>
</li>"#
    );
}

#[test]
fn a_task_that_never_began_says_why() {
    let mut story = Story::is_red();
    story.goes_to("/runs/7/TestWeb.login");
    assert!(
        story
            .html()
            .contains("It was skipped, as a stage before it did not pass, so it has printed nothing.")
    );
}

#[test]
fn a_running_task_counts_and_says_what_it_waits_for() {
    let mut story = Story::of_run_7();
    story.starts("TestUnit.models", 1);
    let spec = common::StepSpec::new("shop-test", common::Command::Shell("true".to_owned()));
    let (id, worker) = (super::story::step(1), "http://localhost:9009".to_owned());
    story.says(RunFact::StepAsked {
        task: task("TestUnit.models"),
        attempt: 1,
        step: id,
        worker,
        spec: Box::new(spec),
        instead_of: None,
    });
    let word = |story: &Story| story.html_from("<li class=\"task running", "</li>");
    assert!(word(&story).contains(r#"<span class="word">running</span>"#));
    story.worker_says("TestUnit.models", 1, 1, 1, StepEvent::Queued);
    assert!(word(&story).contains(r#"<span class="word">queued</span>"#));
    story.model.now_ms = BEGAN_MS + 100 + 12_300;
    assert!(word(&story).contains(r#"<span class="took">12.3s</span>"#));
    // A clock that is behind the boss's shows no time below nothing.
    story.model.now_ms = BEGAN_MS - 5_000;
    assert!(word(&story).contains(r#"<span class="took">0.0s</span>"#));
    let preparing = StepEvent::Preparing {
        what: "pulling shop-test".to_owned(),
        done_bytes: Some(1 << 20),
        total_bytes: Some(3 << 20),
    };
    story.worker_says("TestUnit.models", 1, 1, 2, preparing);
    story.goes_to("/runs/7/TestUnit.models");
    assert!(story.html().contains("pulling shop-test, 1.0 MiB of 3.0 MiB"));
}

#[test]
fn output_is_text_with_colours_and_never_markup() {
    let mut story = Story::is_red();
    story.goes_to("/runs/7/TestUnit.models");
    let of = story.pane().of.clone().unwrap();
    let bytes = b"ok\n\x1b[1;31mE <b>\x1b[0m 1 != 2\n\x1b[38;5;226;7mx\x1b[0m\x1b[38;2;255;255;0my".to_vec();
    story.happens(Msg::Output { of, at: 0, bytes });
    assert_eq!(
        story.html_from("<div style=\"transform", "log-probe"),
        r##"<div style="transform:translateY(0px)" class="rows">
<div class="row">
<a tabindex="-1" href="/runs/7/TestUnit.models?attempt=1&amp;line=1" class="number">1</a>
<span class="text">ok</span>
</div>
<div class="row">
<a tabindex="-1" href="/runs/7/TestUnit.models?attempt=1&amp;line=2" class="number">2</a>
<span class="text">
<span class="b f1">E &lt;b&gt;</span> 1 != 2</span>
</div>
<div class="row">
<a tabindex="-1" href="/runs/7/TestUnit.models?attempt=1&amp;line=3" class="number">3</a>
<span class="text">
<span style="background:#ffff00;" class="ink-of-paper">x</span>
<span style="color:light-dark(#787800,#ffff00);">y</span>
</span>
</div>
</div>
</div>
<span id="log-probe" aria-hidden="true">0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000</span>"##
    );
}

#[test]
fn steps_show_what_was_left_out() {
    let mut story = Story::of_run_7();
    story.starts("TestUnit.models", 1);
    story.steps("TestUnit.models", 1, 1, "yes");
    story.worker_says("TestUnit.models", 1, 1, 50, StepEvent::Dropped { bytes: 8 << 20 });
    story.worker_says("TestUnit.models", 1, 1, 51, StepEvent::Gap { bytes: None });
    story.goes_to("/runs/7/TestUnit.models");
    assert_eq!(
        story.html_from("<li class=\"step", "</li>"),
        r#"<li class="step running">
<span aria-hidden="true" class="mark">
</span>
<code title="yes" class="command">yes</code>
<span class="word">running</span>
<span class="took">0.2s</span>
<span class="where">shop-test on http://localhost:9009</span>
<p class="hole">8.0 MiB of its output were left out: it was longer than its cap.</p>
<p class="hole">Some of its output was lost.</p>
</li>"#
    );
}

#[test]
fn what_is_kept_can_be_saved_and_what_is_not_is_told() {
    let mut story = Story::of_run_7();
    story.starts("TestUnit.models", 1);
    story.steps("TestUnit.models", 1, 1, "pytest");
    story.goes_to("/runs/7/TestUnit.models");
    assert!(!story.html().contains("artifact"));
    let file = |path: &str| common::Artifact {
        path: path.to_owned(),
        size_bytes: 2048,
        sha256: "0".repeat(64),
        junit: false,
    };
    let kept = common::Artifacts {
        files: vec![file(common::PYTEST_REPORT), file("report/<b>.html"), file("/tmp/x")],
        left_out: 1,
        problem: Some("left out: 1 larger than 64 MiB (core)".to_owned()),
    };
    story.worker_says("TestUnit.models", 1, 1, 50, StepEvent::Artifacts(kept));
    let note = r#"<p class="hole">artifacts: left out: 1 larger than 64 MiB (core)</p>"#;
    assert!(story.html().contains(note));
    assert_eq!(
        story.html_from("<details", "</details>"),
        r#"<details open="open" class="artifacts">
<summary>2 artifacts</summary>
<ul aria-label="artifacts">
<li>
<a href="/api/runs/7/tasks/TestUnit.models/artifacts/1/1?attempt=1" download="&lt;b&gt;.html">report/&lt;b&gt;.html</a>
<span class="size">2.0 KiB</span>
</li>
<li>
<a href="/api/runs/7/tasks/TestUnit.models/artifacts/1/2?attempt=1" download="x">/tmp/x</a>
<span class="size">2.0 KiB</span>
</li>
</ul>
</details>"#
    );
}

#[test]
fn a_list_of_runs_says_no_more_than_is_true() {
    let mut story = Story::at("/");
    let run = RunSummary {
        run: RunNumber(12),
        state: "ended".to_owned(),
        verdict: Some(Verdict::Passed),
        headline: "passed (3 of 14 tasks)".to_owned(),
        partial: true,
        tasks: 14,
        tasks_passed: 3,
        started_at_ms: BEGAN_MS - 26 * 3_600_000,
        ended_at_ms: Some(BEGAN_MS - 26 * 3_600_000 + 125_000),
        started_by: Some(common::StartedBy::Terminal),
    };
    story.happens(Msg::GotRuns { before: None, answer: Ok(common::Page { runs: vec![run], next: None }) });
    assert_eq!(
        story.html_from("<li class=\"run", "</li>"),
        r#"<li class="run passed qualified">
<a href="/runs/12" id="run-12">
<span aria-hidden="true" class="mark">
</span>
<span class="number">12</span>
<span class="headline">passed (3 of 14 tasks)</span>
<span class="by">in a terminal</span>
<span class="tasks">3 of 14 tasks passed</span>
<span class="took">2m 05s</span>
<span title="20 Sep 2026, 12:00" class="when">yesterday, 12:00</span>
</a>
</li>"#
    );
}

#[test]
fn a_broken_pipedef_is_shown_with_its_line() {
    let mut story = Story::at("/");
    let broken = common::Problem {
        file: Some("/home/me/pipedef.py".to_owned()),
        line: Some(14),
        traceback: Some("  File ...\nSyntaxError\n".to_owned()),
        ..problem("SyntaxError: '(' was never closed")
    };
    story.happens(Msg::GotPipeline(Err(broken)));
    assert_eq!(
        story.html_from("<p class=\"lead\">", "</section>"),
        r#"<p class="lead">
<span aria-hidden="true" class="mark">
</span>The pipedef cannot be run as it is now.</p>
<div class="problem">
<p class="error">SyntaxError: '(' was never closed</p>
<p class="place">
<code>/home/me/pipedef.py, line 14</code>
</p>
<p class="hint">
<b>hint </b>do this</p>
<details open="open">
<summary>traceback</summary>
<pre tabindex="0" class="traceback">  File ...
SyntaxError</pre>
</details>
</div>
<button>Read it again</button>
</section>"#
    );
    let html = story.html();
    assert!(html.contains("<button class=\"primary\">Run"), "it may be mended by now");
    story.happens(Msg::GotRuns { before: None, answer: Ok(common::Page { runs: vec![], next: None }) });
    assert!(story.html().contains("Mend the pipedef first"));
    story.happens(Msg::GotPipeline(Ok(Pipeline::default())));
    assert!(story.html().contains("Nothing has run yet."));
}

#[test]
fn the_tab_tells_the_verdict() {
    let mut story = Story::at("/");
    assert_eq!(title(&story.model), "bettertest");
    story = Story::at("/runs/7");
    assert_eq!(title(&story.model), "run 7 · bettertest");
    story = Story::of_run_7();
    assert_eq!(
        (title(&story.model), standing(&story.model).0),
        ("● run 7 running · bettertest".to_owned(), "running")
    );
    story.fails("TestUnit.models", 1, 1);
    assert_eq!(
        (title(&story.model), standing(&story.model).0),
        ("✗ run 7 running · bettertest".to_owned(), "failed")
    );
    let green = standing_when_passed(1);
    assert_eq!(green.0, "✓ run 7 passed · bettertest");
    let again = standing_when_passed(2);
    assert_eq!(again.0, "✓ run 7 passed on attempt 2 · bettertest");
    assert_ne!(green.1, again.1, "nor does its icon say that it passed plainly");
    let red = Story::is_red();
    assert_eq!(title(&red.model), "✗ run 7 failed: command failed · bettertest");
}

#[test]
fn every_page_says_whose_boss_this_is() {
    let boss = || common::BossView { project: "shop".to_owned(), version: "1".to_owned() };
    for (url, words) in [
        ("/", "shop · bettertest"),
        ("/runs/7", "run 7 · shop · bettertest"),
        ("/doctor", "doctor · shop · bettertest"),
    ] {
        let mut story = Story::at(url);
        assert!(story.effects.contains(&crate::update::Effect::FetchBoss), "{url}");
        assert!(!story.html().contains("class=\"project\""), "nobody has said so yet");
        story.happens(Msg::GotBoss(Ok(boss())));
        assert_eq!(title(&story.model), words);
        assert!(story.html_from("<header", "</header>").contains(">shop</a>"), "{url}");
        // Not to somebody whom the boss does not know any more.
        story.happens(Msg::LoggedOut(problem("nobody is logged in here")));
        assert!(!story.html().contains("shop") && !title(&story.model).contains("shop"), "{url}");
    }
}

#[test]
fn the_tab_of_the_list_tells_of_the_newest_run() {
    let mut story = Story::at("/");
    let run = |run, verdict: Option<Verdict>, headline: &str| RunSummary {
        run: RunNumber(run),
        state: if verdict.is_some() { "ended" } else { "running" }.to_owned(),
        verdict,
        headline: headline.to_owned(),
        partial: false,
        tasks: 2,
        tasks_passed: 1,
        started_at_ms: BEGAN_MS,
        ended_at_ms: verdict.map(|_| BEGAN_MS),
        started_by: None,
    };
    let failed = Verdict::Not(common::Reason::CommandFailed);
    story.happens(Msg::GotRuns {
        before: None,
        answer: Ok(common::Page { runs: vec![run(3, Some(failed), "failed: command_failed")], next: None }),
    });
    assert_eq!((title(&story.model), standing(&story.model).0), ("✗ bettertest".to_owned(), "failed"));
    story.happens(Msg::RunChanged(run(4, None, "running")));
    assert_eq!(
        (title(&story.model), standing(&story.model).0),
        ("● 1 running · bettertest".to_owned(), "running")
    );
    story.happens(Msg::RunChanged(run(4, Some(Verdict::Passed), "passed")));
    let plain = standing(&story.model);
    assert_eq!((title(&story.model), plain.0), ("✓ bettertest".to_owned(), "passed"));
    story.happens(Msg::RunChanged(run(4, Some(Verdict::Passed), "passed (1 of 2 tasks)")));
    assert_ne!(standing(&story.model).1, plain.1, "its icon does not say that it passed plainly");
}

#[test]
fn a_page_that_has_lost_the_boss_says_so_until_it_is_back() {
    let mut story = Story::of_run_7();
    let lost =
        || Msg::FeedLost { feed: crate::update::Feed::Run { run: RunNumber(7), after: 1 }, gave_up: false };
    story.happens(lost());
    assert!(!story.html().contains("banner"), "nobody could read it before it is gone");
    story.happens(lost());
    assert!(story.html_from("class=\"banner\"", "</p>").contains("The connection to the boss is lost"));
    assert_eq!(title(&story.model), "no connection · ● run 7 running · bettertest");
    story.happens(Msg::FeedOpened);
    assert!(!story.html().contains("banner"));
    assert_eq!(title(&story.model), "● run 7 running · bettertest");
}

/// What the tab says, and its icon, when all has passed, one task at this attempt.
fn standing_when_passed(attempt: u32) -> (String, &'static str) {
    let mut story = Story::of_run_7();
    if attempt > 1 {
        story = Story::is_red();
        story.says(RunFact::RerunStarted {
            only: vec![task("TestUnit.models"), task("TestWeb.login")],
            failed_tests: Vec::new(),
        });
    } else {
        story.passes("TestUnit.views", 1, 10);
    }
    story.passes("TestUnit.models", attempt, 11);
    story.passes("TestWeb.login", 1, 12);
    story.says(RunFact::RunEnded { verdict: Verdict::Passed });
    (title(&story.model), standing(&story.model).1)
}

#[test]
fn what_passed_at_a_later_attempt_is_not_plainly_passed() {
    let mut story = Story::is_red();
    story.says(RunFact::RerunStarted {
        only: vec![task("TestUnit.models"), task("TestWeb.login")],
        failed_tests: Vec::new(),
    });
    story.passes("TestUnit.models", 2, 11);
    story.passes("TestWeb.login", 1, 12);
    story.says(RunFact::RunEnded { verdict: Verdict::Passed });
    let html = story.html();
    for part in [
        "class=\"verdict passed qualified\"",
        "<span role=\"status\">passed on attempt 2</span>",
        "passed, 1 at a later attempt",
        "<li class=\"task passed qualified\">",
        "<span class=\"word\">passed on attempt 2</span>",
    ] {
        assert!(html.contains(part), "no {part} in {html}");
    }
    assert_eq!(html.matches("<li class=\"task passed\">").count(), 2);
}
