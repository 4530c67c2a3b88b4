//! What everybody can use: every page in a real browser, light and dark, narrow and wide, judged by an engine that
//! knows the rules of accessibility.

use serde_json::json;

use crate::browser::Browser;
use crate::ci::Ci;

const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/axe/axe_playwright_python/axe.min.js");

/// Answers a line for every rule that something on the page breaks.
const JUDGE: &str = r#"
const done = arguments[arguments.length - 1];
axe.run(document, { resultTypes: ["violations"] }).then(
  (found) => done(found.violations.map((v) => `${v.id}: ${v.help}\n` +
    v.nodes.map((n) => `  ${n.target}: ${n.failureSummary}`).join("\n"))),
  (error) => done([`axe itself failed: ${error}`]));
"#;

const PIPEDEF: &str = r#"
from pathlib import Path

class Unit(Stage):
    def task_tests(self):
        if (Path(__file__).parent / "broken").exists():
            run(WORKER, IMAGE, "print tests/test_shop.py::test_price PASSED; print tests/test_shop.py::test_cart FAILED; "
                "print tests/test_shop.py::test_later SKIPPED; print === FAILURES ===; print ___ test_cart ___; "
                "print def test_cart():; print E assert 1 == 2; print tests/test_shop.py:12: AssertionError; "
                "print === short test summary info ===; print FAILED tests/test_shop.py::test_cart - assert 1 == 2; "
                "print === 1 failed, 1 passed, 1 skipped in 0.12s ===; exit 1")
        run(WORKER, IMAGE, "print tests/test_shop.py::test_price PASSED; print tests/test_shop.py::test_cart PASSED; "
            "print === 2 passed, 1 skipped in 0.12s ===")

    def task_good(self):
        run(WORKER, IMAGE, "print fine")

    def task_with_steps(self):
        run(WORKER, IMAGE, "print one")
        run(WORKER, IMAGE, "print two; print test_x.py::test_two FAILED; print 1 failed in 0.1s; "
            "print FAILED test_two; exit 3")

    def task_raises(self):
        run(WORKER, IMAGE, "print fine")
        raise ValueError("no such thing")

class Later(Stage):
    def task_never(self):
        run(WORKER, IMAGE, "print x")
"#;

impl Browser {
    async fn is_fine(&self, place: &str) {
        let script = std::fs::read_to_string(AXE).expect("the engine is there: run setup/axe.sh");
        self.client.execute(&script, vec![]).await.expect("the engine loads");
        for scheme in ["light", "dark"] {
            let scheme_of = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
            self.tells_chromium("Emulation.setEmulatedMedia", scheme_of).await;
            for width in [1400, 360] {
                self.is_wide(width).await;
                let found = self.client.execute_async(JUDGE, vec![]).await.expect("the engine answers");
                let found: Vec<String> = serde_json::from_value(found).expect("lines");
                assert!(found.is_empty(), "{place}, {scheme}, {width} px:\n{}", found.join("\n"));
            }
        }
        for width in [360, 1000, 1920] {
            self.is_wide(width).await;
            let over = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
            let over = self.number(over).await;
            assert!(over <= 0.0, "{place} is {over} px wider than a window of {width} px");
        }
        self.is_wide(1400).await;
    }

    async fn is_wide(&self, px: u32) {
        let window = json!({ "width": px, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.tells_chromium("Emulation.setDeviceMetricsOverride", window).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_can_use_every_page() {
    let ci = Ci::with(PIPEDEF).await;
    let browser = Browser::at(&ci).await;
    let goes_to = async |path: &str| browser.client.goto(&format!("{}{path}", ci.boss.base)).await.unwrap();
    browser.reads("main", "Nothing has run yet.").await;
    browser.is_fine("the first page, without a run").await;

    let broken = ci.folder.path().join("project/.bettertest/broken");
    std::fs::write(&broken, "").unwrap();
    let run = ci.run().await;
    std::fs::remove_file(&broken).unwrap();
    let (status, _) = ci.post(&format!("/api/runs/{}/rerun", run.number)).await;
    assert_eq!(status, 200);
    let run = ci.follow(run.number, |_, _| false).await;
    goes_to("/").await;
    browser.sees(".run.failed").await;
    browser.is_fine("the list of runs").await;
    goes_to(&format!("/runs/{}", run.number)).await;
    browser.sees(".failures .failure .told").await;
    browser.reads(".failures", "test_x.py::test_two").await;
    browser.is_fine("a run").await;
    let open = "document.querySelectorAll('.failures details').forEach((failure) => (failure.open = true))";
    browser.client.execute(open, vec![]).await.unwrap();
    browser.is_fine("a run, with all that failed unfolded").await;
    goes_to(&format!("/runs/{}/Unit.with_steps", run.number)).await;
    browser.reads(".log", "FAILED test_two").await;
    browser.is_fine("a task").await;
    // What failed and passed on one source is flaky in both attempts, and unfolds to what was wrong with it.
    goes_to(&format!("/runs/{}/Unit.tests?attempt=1", run.number)).await;
    browser.click(".test.failed button").await;
    browser.reads(".test.failed", "assert 1 == 2").await;
    browser.reads(".test.failed .past", "failed 1 of 2 times (50 %)").await;
    browser.sees(".tests .test-counts .warning").await;
    browser.is_fine("the tests of a task").await;
    browser.click(".past .times li:last-child a").await;
    browser.reads(".output", "passed on attempt 2, 1 flaky test").await;
    browser.sees(".test.passed .flaky").await;
    browser.is_fine("the tests of a task that passed").await;
    browser.click(".top button").await;
    browser.sees(".help").await;
    browser.is_fine("the keys").await;
    goes_to(&format!("/runs/{}/Unit.raises", run.number)).await;
    browser.reads(".output", "no such thing").await;
    browser.is_fine("a task that raised").await;
    goes_to("/doctor").await;
    browser.sees(".check").await;
    browser.is_fine("what is missing on the machine").await;
    goes_to("/runs/99").await;
    browser.reads("main", "cannot be shown").await;
    browser.is_fine("no such run").await;
    goes_to("/nowhere").await;
    browser.reads("main", "nothing here").await;
    browser.is_fine("nowhere").await;

    ci.rewrite("class One(Stage\n    pass\n");
    goes_to("/").await;
    browser.reads("section.pipeline", "SyntaxError").await;
    browser.is_fine("a broken pipedef").await;

    browser.client.delete_all_cookies().await.unwrap();
    goes_to("/").await;
    browser.reads("main", "not logged in").await;
    browser.is_fine("nobody logged in").await;
    browser.close().await;
}
