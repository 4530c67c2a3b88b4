//! The tests of a task on the page, in a real browser: while a real runner runs them in a real container, when there are
//! thousands of them, and what is told of one that is flaky.

use common::{RunFact, StepEvent};
use fantoccini::Locator;
use fantoccini::key::Key;

use crate::browser::Browser;
use crate::ci::Ci;
use crate::worker_dies::docker;

/// An image with a real test runner: Python's own.
const PYTHON: &str = "python:3-slim";

/// Tests that wait until somebody opens the gate.
const GATED: &str = r#"
TESTS = """
import unittest
def gate():
    with open("/tmp/gate") as opened: opened.read()
class Shop(unittest.TestCase):
    def test_a_price(self): pass
    def test_b_cart(self):
        gate()
        self.assertEqual(1, 2)
    def test_c_order(self): gate()
"""
class One(Stage):
    def task_live(self):
        run(WORKER, "PYTHON", f"mkfifo gate; cat >shop.py <<'END'{TESTS}END\nexec python -m unittest -v shop", workdir="/tmp")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn tests_are_told_as_they_end_and_then_as_they_are_stored() {
    let ci = Ci::with_engine(&GATED.replace("PYTHON", PYTHON), "docker").await;
    let browser = Browser::at(&ci).await;
    let run = ci.start().await;
    let is_up = |fact: &RunFact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. });
    let told = ci.follow(run, |_, fact| is_up(fact)).await;
    let Some(RunFact::Step { said: StepEvent::Started { container, .. }, .. }) = told.log.last() else {
        panic!("it never started: {}", told.summary());
    };
    let open_the_gate = || docker(&["exec", container, "sh", "-c", ": >/tmp/gate"]);

    browser.client.goto(&format!("{}/runs/{run}/One.live", ci.boss.base)).await.unwrap();
    browser.reads(".tests .test-counts", "1\npassed").await;
    browser.reads(".tests .head", "so far").await;
    open_the_gate();
    browser.reads(".tests .test-counts", "1\nfailed").await;
    // It is there to be seen while the next one runs, and before what passed.
    browser.reads(".tests .test:first-child.failed", "test_b_cart").await;
    browser.reads(".tests .test:last-child.passed", "test_a_price").await;
    browser.sees("section.verdict.running").await;
    open_the_gate();
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "failed: command_failed");
    browser.sees("section.verdict.failed").await;
    browser.reads(".tests .test-counts", "2\npassed").await;
    browser.click(".tests button.row").await;
    browser.reads(".tests .test.failed .told", "AssertionError: 1 != 2").await;
    assert_eq!(browser.number("return document.querySelectorAll('.tests .head .extent').length").await, 0.0);
    browser.close().await;
}

/// Every tenth of the last hundred fails.
const MANY: &str = r#"
TESTS = """
import unittest
class Many(unittest.TestCase): pass
def test(n): return lambda self: self.assertFalse(n >= 4900 and n % 10 == 0, f"{n} is not right")
for n in range(5000): setattr(Many, f"test_{n:04}", test(n))
"""
class One(Stage):
    def task_many(self):
        run(WORKER, "PYTHON", f"cat >many.py <<'END'{TESTS}END\nexec python -m unittest -v many", workdir="/tmp")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn of_five_thousand_tests_a_person_finds_the_one_that_matters() {
    let ci = Ci::with_engine(&MANY.replace("PYTHON", PYTHON), "docker").await;
    let run = ci.run().await;
    assert_eq!(run.words(), "failed: command_failed", "{}", run.summary());
    let browser = Browser::at(&ci).await;
    browser.sees("ul.runs").await;
    browser.client.goto(&format!("{}/runs/{}/One.many", ci.boss.base, run.number)).await.unwrap();
    browser.reads(".tests .test-counts", "10\nfailed").await;
    browser.reads(".tests .test-counts", "4,990\npassed").await;
    let rows = async || browser.number("return document.querySelectorAll('.tests .test').length").await;
    let nodes = async || browser.number("return document.querySelectorAll('*').length").await;
    browser.reads(".tests .test:nth-child(1).failed", "test_4900").await;
    browser.reads(".tests .test:nth-child(10).failed", "test_4990").await;
    browser.reads(".tests .test:nth-child(11).passed", "test_0000").await;
    assert_eq!((rows().await, nodes().await < 2_000.0), (100.0, true));

    // However often somebody wants more.
    let lists = async |name: &str| {
        let script =
            format!("return document.querySelector('.test-list').textContent.includes('{name}') ? 1 : 0");
        browser.number(&script).await == 1.0
    };
    for first in [90, 590, 1090, 1590, 2090] {
        browser.click(".tests .more.after button").await;
        // And they go on where they were.
        browser.reads(".test-list button:focus", &format!("test_{first:04}")).await;
    }
    assert!(lists("test_2000").await && lists("test_2589").await && !lists("test_1900").await);
    let (rows_now, nodes_now) = (rows().await, nodes().await);
    assert!(rows_now <= 600.0 && nodes_now < 8_000.0, "{rows_now} tests, {nodes_now} nodes");
    browser.click(".tests .more.before button").await;
    browser.reads(".test-list button:focus", "test_1989").await;

    // By name, by outcome, and by keys alone.
    browser.client.find(Locator::Css("#find-test")).await.unwrap().send_keys("_0423").await.unwrap();
    browser.reads(".test-list", "test_0423").await;
    assert_eq!(rows().await, 1.0);
    browser.presses(&String::from(char::from(Key::Escape))).await;
    browser.reads(".test-list", "test_4900").await;
    browser.presses("_04").await;
    browser.presses(&String::from(char::from(Key::Down))).await;
    browser.presses("n").await;
    browser.reads(".tests .choices [aria-pressed=true]", "failed").await;
    browser.reads(".test-list", "No failed test has “_04” in its name.").await;
    browser.presses(&String::from(char::from(Key::Escape))).await;
    browser.reads(".test-list", "test_4900").await;
    assert_eq!(rows().await, 10.0);
    browser.presses("tjj").await;
    browser.presses(&String::from(char::from(Key::Enter))).await;
    browser.reads(".tests .test:nth-child(3) .told", "4920 is not right").await;
    browser.close().await;
}

const FLAKY: &str = r#"
from pathlib import Path
class One(Stage):
    def task_unit(self):
        broken = (Path(__file__).parent.parent.parent / "broken").exists()
        run(WORKER, IMAGE, "print running 2 tests; print test shop::price ... ok; print test shop::cart ... FAILED; print failures:; "
            "print ---- shop::cart stdout ----; print thread main panicked at src/shop.rs:7:5:; print the cart is empty; print failures:; "
            "printf 'test result: FAILED. 1 passed\\73 1 failed\\73 0 ignored\\n'; exit 101" if broken else
            "print running 2 tests; print test shop::price ... ok; print test shop::cart ... ok; "
            "printf 'test result: ok. 2 passed\\73 0 failed\\73 0 ignored\\n'")
"#;

/// What failed and passed on one source is marked wherever it is shown, and its past is a click away.
#[tokio::test(flavor = "multi_thread")]
async fn a_flaky_test_is_never_plainly_green_and_its_history_leads_to_every_time() {
    let ci = Ci::with(FLAKY).await;
    let broken = ci.folder.path().join("broken");
    assert_eq!(ci.run().await.words(), "passed");
    std::fs::write(&broken, "").unwrap();
    let run = ci.run().await.number;
    std::fs::remove_file(&broken).unwrap();
    let (status, answer) = ci.post(&format!("/api/runs/{run}/rerun")).await;
    assert_eq!(status, 200, "{answer}");
    ci.follow(run, |_, _| false).await;

    let browser = Browser::at(&ci).await;
    browser.reads(".runs .run.qualified .headline", "passed on attempt 2, 1 flaky test").await;
    let plain = "return document.querySelectorAll('.passed:is(.run, .task, .verdict, .output):not(.qualified)').length";
    assert_eq!(browser.number(plain).await, 1.0, "only the first run is plainly green");
    browser.click(".runs .run.qualified a").await;
    browser.reads("section.verdict.qualified h1", "passed on attempt 2, 1 flaky test").await;
    browser.reads("section.verdict .facts", "1 flaky").await;
    browser.click(".task.passed.qualified a").await;
    browser.reads(".output.qualified > header", "passed on attempt 2, 1 flaky test").await;
    assert_eq!(browser.number(plain).await, 0.0);
    browser.reads(".test.passed .flaky", "flaky").await;
    assert!(browser.client.title().await.unwrap().contains("flaky"));

    // The failure is where it was, and where it is now it says when.
    browser.click(".tests .choices button:last-child").await;
    assert_eq!(browser.number("return document.querySelectorAll('.tests .test').length").await, 1.0);
    browser.click(".tests .test button.row").await;
    browser.reads(".past .facts", "failed 1 of 3 times (33 %)").await;
    browser.reads(".past .facts", &format!("first failed in run {run}")).await;
    assert_eq!(browser.number("return document.querySelectorAll('.past .times li').length").await, 3.0);
    browser.click(".past .times li.failed a").await;
    browser.reads(".output", "the cart is empty").await;
    let url = browser.client.current_url().await.unwrap();
    assert!(url.as_str().ends_with(&format!("/runs/{run}/One.unit?attempt=1&test=shop%3A%3Acart")), "{url}");
    // That very test, unfolded, and again with its history.
    browser.reads(".test.failed .told", "the cart is empty").await;
    browser.reads(".test.failed .past .facts", "failed 1 of 3 times").await;
    browser.sees(".test.failed .flaky").await;
    browser.close().await;
}
