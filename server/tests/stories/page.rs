//! The page in a real browser: what a person does there, and sees.

use fantoccini::Locator;
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::ci::{Ci, Process, data_of, pipedef_of};
use crate::wire::{Fate, Wire};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_starts_a_run_and_watches_it_fail() {
    let ci = Ci::with(
        r#"
class Unit(Stage):
    def task_good(self):
        run(WORKER, IMAGE, "print fine")

    def task_slow(self):
        run(WORKER, IMAGE, "print begun; sleep 2; print about to fail; exit 3")

class Later(Stage):
    def task_never(self):
        run(WORKER, IMAGE, "print x")
"#,
    )
    .await;
    let browser = Browser::at(&ci).await;
    browser.reads("main", "Nothing has run yet.").await;
    assert!(!browser.client.current_url().await.unwrap().as_str().contains("code="));
    browser.click("button.primary").await;
    browser.sees(".task.running").await;
    browser.sees(".task.passed").await;
    // Its output is there while it runs.
    browser.click(".task.running a").await;
    browser.reads(".log", "begun").await;
    browser.sees("section.verdict.failed").await;
    browser.reads(".log", "about to fail").await;
    browser.reads("section.verdict", "command_failed").await;
    browser.sees(".task.skipped").await;
    assert!(browser.client.title().await.unwrap().contains("failed"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_by_its_button() {
    let ci =
        Ci::with("class One(Stage):\n    def task_long(self): run(WORKER, IMAGE, 'print begun; sleep 60')\n")
            .await;
    let browser = Browser::at(&ci).await;
    browser.click("button.primary").await;
    browser.sees(".task.running").await;
    browser.reads(".actions", "Cancel").await;
    browser.click(".actions button").await;
    browser.sees("section.verdict.cancelled").await;
    browser.sees(".task.cancelled").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_looks_at_the_machine_once_somebody_asks() {
    let ci = Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n").await;
    let browser = Browser::at(&ci).await;
    browser.reads("main", "Nothing has run yet.").await;
    browser.click(".health a").await;
    assert!(browser.client.current_url().await.unwrap().path().ends_with("/doctor"));
    let token = ci.folder.path().join("data/token");
    browser.reads(".checks", &format!("{} (mode 0600)", token.display())).await;
    // What it says is how it is now, not how it was.
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    browser.click(".doctor-head button").await;
    browser.reads(".check.failed", "wrong").await;
    browser.reads(".check.failed .mend", &format!("chmod 600 {}", token.display())).await;
    browser.reads("h1", "found something wrong").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pipedef_is_shown_with_its_line() {
    let ci = Ci::with("class One(Stage\n    pass\n").await;
    let browser = Browser::at(&ci).await;
    browser.reads("section.pipeline", "SyntaxError").await;
    browser.reads("section.pipeline", "pipedef.py, line 4").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_text_whatever_it_says() {
    let hostile = r#"<script>document.title='owned'</script><img src=x onerror="document.title='owned'"></pre><svg onload=alert(1)>"#;
    let ci = Ci::with(&format!(
        "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, ['print', r'''{hostile}'''])\n"
    ))
    .await;
    let run = ci.run().await;
    assert_eq!(run.words(), "passed");
    let browser = Browser::at(&ci).await;
    browser.sees("ul.runs").await;
    let url = format!("{}/runs/{}/One.a", ci.boss.base, run.number);
    browser.client.goto(&url).await.unwrap();
    browser.reads(".log", "<script>document.title='owned'</script><img src=x").await;
    assert_eq!(
        browser.number("return document.querySelectorAll('.log img, .log script, .log svg').length").await,
        0.0
    );
    assert!(!browser.client.title().await.unwrap().contains("owned"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_lines_are_a_window_of_few() {
    let ci = Ci::with(
        "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'flood 9900000; print the last line')\n",
    )
    .await;
    let run = ci.run().await;
    let browser = Browser::at(&ci).await;
    browser.sees("ul.runs").await;
    browser.client.goto(&format!("{}/runs/{}/One.a", ci.boss.base, run.number)).await.unwrap();
    browser.reads(".log", "the last line").await;
    let rows = browser.number("return document.querySelectorAll('.log .row').length").await;
    assert!(rows > 5.0 && rows < 400.0, "{rows} rows are in the document");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_heals_when_the_boss_is_back() {
    let mut ci =
        Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x; sleep 3')\n").await;
    let browser = Browser::at(&ci).await;
    browser.click("button.primary").await;
    browser.sees(".task.running").await;
    ci.boss.signal(Signal::SIGKILL);
    ci.boss.child.wait().unwrap();
    browser.reads(".live", "econnecting").await;
    browser.reads(".banner", "The connection to the boss is lost").await;
    assert!(browser.client.title().await.unwrap().starts_with("no connection"));
    restart(&mut ci, &[]);
    browser.sees("section.verdict.passed").await;
    assert_eq!(browser.number("return document.querySelectorAll('.banner').length").await, 0.0);
    browser.close().await;
}

const FLAKY: &str = r#"
import os
mended = os.path.exists(os.path.join(os.path.dirname(os.path.dirname(__file__)), "mended"))

class Unit(Stage):
    def task_flaky(self):
        run(WORKER, IMAGE, "print second" if mended else "print first; exit 1")

    def task_broken(self):
        run(WORKER, IMAGE, "print fine" if mended else "exit 2")

    def task_good(self):
        run(WORKER, IMAGE, "print fine")

class Later(Stage):
    def task_last(self):
        run(WORKER, IMAGE, "print last")
"#;

/// Where a line stands in the window of the log: 0 is its upper edge, 1 its lower one.
async fn height_of(browser: &Browser, css: &str) -> f64 {
    let script = format!(
        "const log = document.querySelector('.log').getBoundingClientRect(),
               line = document.querySelector('{css}').getBoundingClientRect();
         return (line.top - log.top) / log.height"
    );
    browser.number(&script).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_found_and_its_address_leads_back_to_it() {
    let ci = Ci::with(
        "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'flood 90000; print the needle; flood 90000')\n",
    )
    .await;
    let run = ci.run().await;
    let browser = Browser::at(&ci).await;
    browser.sees("ul.runs").await;
    browser.client.goto(&format!("{}/runs/{}/One.a", ci.boss.base, run.number)).await.unwrap();
    browser.reads(".tools", "1,820 lines").await;
    browser.client.find(Locator::Css("#find")).await.unwrap().send_keys("NEEDLE").await.unwrap();
    browser.reads(".find", "1 of 1 line").await;
    browser.reads(".log .in-front mark", "needle").await;
    browser.click(".log .in-front .number").await;
    browser.reads(".log .named", "the needle").await;
    let url = browser.client.current_url().await.unwrap();
    assert!(url.as_str().contains("/One.a?attempt=1&line=9"), "{url}");
    browser.client.goto(&ci.boss.base).await.unwrap();
    browser.sees("ul.runs").await;
    browser.client.goto(url.as_str()).await.unwrap();
    browser.reads(".log .named", "the needle").await;
    let height = height_of(&browser, ".log .named").await;
    assert!((0.0..1.0).contains(&height), "it is out of sight: {height}");
    browser.close().await;
}

/// Wherever a run that needed a second attempt, or that was of a part, is shown, it is not shown as plainly passed.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_and_a_part_say_so_wherever_they_are_shown() {
    let ci = Ci::with(FLAKY).await;
    let browser = Browser::at(&ci).await;
    browser.click("button.primary").await;
    browser.sees("section.verdict.failed").await;
    std::fs::write(ci.folder.path().join("project/mended"), "").unwrap();

    // One task alone, from where its output is; the earlier attempt stays a click away.
    browser.client.goto(&format!("{}/runs/1/Unit.flaky", ci.boss.base)).await.unwrap();
    browser.reads(".log", "first").await;
    browser.click(".output .again").await;
    browser.reads(".output > header", "passed on attempt 2").await;
    browser.reads(".log", "second").await;
    browser.reads("section.verdict", "failed").await;
    browser.click(".attempts a").await;
    browser.reads(".log", "first").await;

    // Then the rest.
    browser.reads(".verdict .actions", "Re-run 2 tasks").await;
    browser.click(".verdict .actions button").await;
    browser.sees("section.verdict.passed.qualified").await;
    browser.reads("section.verdict h1", "passed on attempt 2").await;
    browser.reads(".counts", "passed, 2 at a later attempt").await;
    assert_eq!(browser.client.title().await.unwrap(), "✓ run 1 passed on attempt 2 · project · bettertest");
    browser.client.goto(&format!("{}/runs/1", ci.boss.base)).await.unwrap();
    browser.sees(".task.passed.qualified").await;
    assert_eq!(browser.number("return document.querySelectorAll('.task.qualified').length").await, 2.0);

    // A stage alone, and a task alone.
    browser.client.goto(&ci.boss.base).await.unwrap();
    browser.reads(".runs .run.qualified", "passed on attempt 2").await;
    browser.reads(".runs .run", "by the page").await;
    browser.reads(".worker.passed", "fake, 4 slots").await;
    browser.click(".pipeline .stage h2 button").await;
    browser.reads("section.verdict h1", "passed (3 of 4 tasks)").await;
    browser.client.goto(&ci.boss.base).await.unwrap();
    browser.click(".pipeline .names button").await;
    browser.reads("section.verdict h1", "passed (1 of 4 tasks)").await;
    assert_eq!(browser.client.title().await.unwrap(), "✓ run 3 passed (1 of 4 tasks) · project · bettertest");
    browser.client.goto(&ci.boss.base).await.unwrap();
    for words in ["passed (1 of 4 tasks)", "passed (3 of 4 tasks)", "passed on attempt 2"] {
        browser.reads(".runs", words).await;
    }
    assert_eq!(
        browser.number("return document.querySelectorAll('.runs .run:not(.qualified)').length").await,
        0.0
    );
    browser.close().await;
}

/// A laptop that changes its network: no packet tells the page that its connections are dead.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_notices_dead_connections() {
    let mut ci = Ci::with(
        "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print begun; sleep 24; print the end')\n",
    )
    .await;
    let wire = Wire::to(&ci.boss.base, |_| Fate::Fine).await;
    restart(&mut ci, &["--public-url", &wire.base()]);
    let browser = Browser::over(&ci, &wire.base()).await;
    browser.click("button.primary").await;
    browser.click(".task.running a").await;
    browser.reads(".log", "begun").await;
    wire.vanish();
    let connections = wire.connections();
    assert_eq!(ci.follow(1, |_, _| false).await.words(), "passed");
    browser.sees("section.verdict.passed").await;
    browser.reads(".log", "the end").await;
    assert!(wire.connections() > connections && !wire.vanished().is_empty());
    browser.close().await;
}

/// A million lines that were redrawn, and a line of a hundred megabytes: the page answers while it takes them in.
#[tokio::test(flavor = "multi_thread")]
async fn hellish_output_leaves_the_page_usable() {
    let pipedef = r#"
class One(Stage):
    def task_returns(self):
        run(WORKER, IMAGE, "yes \"$(printf 'a\\rb\\rc')\" | head -n 1000000; echo the last line")

    def task_line(self):
        run(WORKER, IMAGE, "head -c 100000000 /dev/zero | tr '\\000' x; echo; echo the last line")
"#;
    let ci = Ci::with_engine(pipedef, "docker").await;
    let run = ci.run().await;
    assert_eq!(run.words(), "passed", "{}", run.summary());
    let browser = Browser::at(&ci).await;
    browser.sees("ul.runs").await;
    for task in ["returns", "line"] {
        let opened = Instant::now();
        browser.client.goto(&format!("{}/runs/{}/One.{task}", ci.boss.base, run.number)).await.unwrap();
        let script = "const e = document.querySelector('.log'); return e ? e.innerText : ''";
        let mut slowest = Duration::ZERO;
        loop {
            let asked = Instant::now();
            let text = browser.client.execute(script, vec![]).await.expect("a script runs");
            slowest = slowest.max(asked.elapsed());
            if text.as_str().unwrap_or_default().contains("the last line") {
                break;
            }
            assert!(opened.elapsed() < Duration::from_secs(60), "{task} does not show its last line: {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        figure(&format!("{task}: all there after {:?}, slowest answer {slowest:?}", opened.elapsed()));
        assert!(slowest < Duration::from_secs(5), "{task}: the page did not answer for {slowest:?}");
    }
    browser.reads(".log", "left out here").await;
    browser.click(".log .fold").await;
    browser.reads(".log", "more in Raw").await;
    browser.close().await;
}

#[expect(clippy::print_stderr, reason = "a figure to look at")]
fn figure(figure: &str) {
    eprintln!("{figure}");
}

/// The same boss once more, at the same address.
fn restart(ci: &mut Ci, flags: &[&str]) {
    let base = ci.boss.base.clone();
    let listen = base.strip_prefix("http://").unwrap();
    if ci.boss.child.try_wait().unwrap().is_none() {
        ci.boss.signal(Signal::SIGKILL);
        ci.boss.child.wait().unwrap();
    }
    let [data, pipedef] = [data_of(ci.folder.path()), pipedef_of(ci.folder.path())];
    let [data, pipedef] = [&data, &pipedef].map(|path| path.to_str().unwrap());
    let usual = ["--boss", "--pipedef", pipedef, "--listen", listen, "--data-dir", data];
    ci.boss = Process::start(&[&usual, flags].concat());
    // What it says is its public address.
    ci.boss.base = base;
}
