//! The page by keys alone, in a real browser, where it is the focus that decides what a key means.

use fantoccini::key::Key;

use crate::browser::Browser;
use crate::ci::Ci;

const PIPEDEF: &str = r#"
class Unit(Stage):
    def task_good(self): run(WORKER, IMAGE, "print fine")
    def task_bad(self): run(WORKER, IMAGE, "print one; print the needle; print three; exit 3")
    def task_slow(self): run(WORKER, IMAGE, "print slow", timeout_s=9)
    def task_worse(self): run(WORKER, "fake-missing", "true")
"#;

const ENTER: char = '\u{e007}';

impl Browser {
    /// Keys that go to whatever has the focus.
    pub(crate) async fn presses(&self, keys: &str) {
        let focused = self.client.active_element().await.expect("a page has a body");
        focused.send_keys(keys).await.unwrap_or_else(|error| panic!("{keys:?} cannot be pressed: {error}"));
    }

    async fn has_focus(&self, id: &str) {
        self.sees(&format!("[id='{id}']:focus")).await;
    }

    async fn is_at(&self, path: &str) {
        let url = self.client.current_url().await.unwrap();
        assert_eq!(url.path(), path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_reached_by_keys() {
    let escape = String::from(char::from(Key::Escape));
    let ci = Ci::with(PIPEDEF).await;
    ci.run().await;
    assert_eq!(ci.run().await.words(), "errored: image_not_found");
    let browser = Browser::at(&ci).await;
    browser.sees(".runs .run").await;

    // From the list to a run, in it to a task, and into its output.
    browser.presses("j").await;
    browser.has_focus("run-2").await;
    browser.presses(&ENTER.to_string()).await;
    browser.reads(".failures .failure h3", "Unit.worse").await;
    browser.presses("j").await;
    browser.has_focus("task-Unit.worse").await;
    browser.presses("jk").await;
    browser.has_focus("task-Unit.worse").await;
    browser.presses("j").await;
    browser.has_focus("task-Unit.bad").await;
    browser.presses(&ENTER.to_string()).await;
    browser.reads(".log", "the needle").await;
    browser.is_at("/runs/2/Unit.bad").await;
    browser.presses("/").await;
    browser.has_focus("find").await;
    browser.presses(&format!("needle{ENTER}")).await;
    browser.reads(".log .in-front mark", "needle").await;

    // What is read of keys is not done meanwhile, and what is typed into a field is text.
    browser.presses(&escape).await;
    browser.client.execute("document.activeElement.blur()", vec![]).await.unwrap();
    browser.presses("?").await;
    browser.has_focus("keys").await;
    browser.reads(".help", "re-run what did not pass").await;
    browser.presses("rR").await;
    browser.presses(&escape).await;
    assert_eq!(browser.number("return document.querySelectorAll('.help').length").await, 0.0);
    let attempts = ci.get("/api/runs/2").await["stages"][0]["tasks"][1]["attempts"].as_array().unwrap().len();
    assert_eq!(attempts, 1, "a key that was only asked about has started something");

    // Back, to where one came from; and to the worst by one key.
    browser.presses(&escape).await;
    browser.has_focus("task-Unit.bad").await;
    browser.is_at("/runs/2").await;
    browser.presses("f").await;
    browser.reads(".output > header", "Unit.worse").await;
    browser.presses(&escape).await;
    browser.presses("/").await;
    browser.has_focus("search").await;
    browser.presses("slow").await;
    browser.sees(".tasks .task:only-child").await;
    browser.presses(&escape).await;
    browser.sees(".tasks .task.errored").await;
    browser.client.execute("document.activeElement.blur()", vec![]).await.unwrap();
    browser.presses(&escape).await;
    browser.sees(".runs .run").await;
    browser.is_at("/").await;
    browser.close().await;
}
