//! `bettertest rerun --failed-tests`: the tests that had failed run alone, as an attempt that is never a green one.

use common::{RunFact, StepState, TaskId};
use reqwest::Method;
use serde_json::{Value, json};
use std::process::{Command, Stdio};

use crate::ci::Ci;
use crate::command::{Project, err, out, refused};

/// Each fails among the others. `models` passes alone, `views` does not, `gone` is not found any more.
const PIPEDEF: &str = r#"
RED = ("print running 3 tests; print test store::reads ... ok; print test store::writes ... FAILED; "
    "print test store::moves ... FAILED; printf 'test result: FAILED. 1 passed\\73 2 failed\\73 0 ignored\\n'; exit 101")

class One(Stage):
    def task_models(self):
        run(WORKER, IMAGE, "print prepared")
        run(WORKER, IMAGE, RED, only_tests="print asked for {tests}; print running 2 tests; "
            "print test store::moves ... ok; print test store::writes ... ok; "
            "printf 'test result: ok. 2 passed\\73 0 failed\\73 0 ignored\\n'")
        run(WORKER, IMAGE, "print never reached")

    def task_views(self):
        run(WORKER, IMAGE, RED, only_tests="print asked for {tests}; print running 2 tests; "
            "print test store::moves ... ok; print test store::writes ... FAILED; "
            "printf 'test result: FAILED. 1 passed\\73 1 failed\\73 0 ignored\\n'; exit 101")

    def task_gone(self):
        run(WORKER, IMAGE, RED, only_tests="print asked for {tests}; print running 0 tests; "
            "printf 'test result: ok. 0 passed\\73 0 failed\\73 0 ignored\\73 0 measured\\73 3 filtered out\\n'")

    def task_bare(self):
        run(WORKER, IMAGE, RED)
"#;

fn lines(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ended<'a>(said: &'a [Value], task: &str) -> &'a Value {
    said.iter().rfind(|line| line["event"] == "task_ended" && line["task"] == task).unwrap()
}

#[test]
fn the_tests_that_failed_run_alone_and_never_make_it_green() {
    let project = Project::with_fake_engine(PIPEDEF);
    let rerun = |args: &[&str]| {
        let ended = project.command_of("rerun", &[&["--json"], args].concat()).output().unwrap();
        assert!(!out(&ended).is_empty(), "{}", err(&ended));
        (ended.status.code(), lines(&out(&ended)))
    };
    let output = |task: &str| out(&project.command_of("show", &["last", task, "--output"]).output().unwrap());
    assert_eq!(project.run(&[]).status.code(), Some(1));

    let (code, said) = rerun(&["--failed-tests"]);
    assert_eq!(code, Some(1));
    let planned = |said: &[Value], task: &str| {
        let all = said[0]["failed_tests"].as_array().unwrap().iter();
        all.clone().find(|one| one["task"] == task).cloned().unwrap()
    };
    let models = planned(&said, "One.models");
    assert_eq!(models["steps"][0]["tests"], json!(["store::moves", "store::writes"]));
    assert_eq!((&models["steps"][0]["of"], &models["steps"][0]["runner"]), (&json!(3), &json!("cargo")));
    let bare = planned(&said, "One.bare");
    assert!(bare["whole"].as_str().unwrap().starts_with("it has no only_tests: print running 3"), "{bare}");

    let models = ended(&said, "One.models");
    assert_eq!((&models["outcome"], &models["reason"]), (&json!("failed"), &json!("only_some_tests")));
    let problem = "the 2 tests that had failed passed this time, on the same files: they are flaky, or depend on the \
                   tests around";
    assert_eq!(models["problem"]["error"], problem);
    assert_eq!(
        models["problem"]["hint"],
        "the other one did not run again; bettertest rerun 1 judges the whole task"
    );
    assert_eq!(models["tests"], json!({"passed": 2, "failed": 0, "skipped": 0, "flaky": 2}));
    // All other calls are made as they are written.
    let printed = output("models");
    assert!(printed.starts_with("prepared\nasked for store::moves store::writes\n"), "{printed}");
    assert!(printed.ends_with("never reached\n"), "{printed}");

    let views = ended(&said, "One.views");
    assert_eq!(views["reason"], "command_failed");
    let error = views["problem"]["error"].as_str().unwrap();
    assert!(error.contains("asked for store::moves store::writes"), "the command that ran: {error}");
    let gone = ended(&said, "One.gone");
    assert_eq!(gone["reason"], "no_tests");
    assert_eq!(
        gone["problem"]["hint"],
        "of the 2 tests that had failed 0 ran; bettertest rerun 1 judges the whole task"
    );
    assert_eq!(ended(&said, "One.bare")["reason"], "command_failed");

    // Of what failed then only that; of what passed all, which fails as before.
    let (_, said) = rerun(&["--failed-tests"]);
    assert_eq!(planned(&said, "One.views")["steps"][0]["tests"], json!(["store::writes"]));
    assert_eq!(planned(&said, "One.views")["steps"][0]["of"], 3, "of all that there are");
    assert_eq!(planned(&said, "One.models")["whole"], "what had failed has passed since");
    assert_eq!(ended(&said, "One.models")["reason"], "command_failed");
    assert!(output("models").contains("running 3 tests"));

    // Alone it passes: among the others it has failed from the beginning.
    let one = out(&project.command_of("show", &["1", "models", "--test", "writes"]).output().unwrap());
    for part in [
        "history: failed 2 of 3 times (66 %), flaky, first failed in run 1, never passed\n",
        "  run 1 attempt 2    ✓ passed",
        "  (some tests alone)\n",
        "  run 1              ✗ failed",
    ] {
        assert!(one.contains(part), "no {part:?} in {one}");
    }
}

#[test]
fn the_terminal_says_which_tests_and_why_all_of_a_task() {
    let project = Project::with_fake_engine(PIPEDEF);
    let red = out(&project.run(&[]));
    assert!(red.contains("/data; --failed-tests: only the tests that failed\n"), "{red}");
    let text = out(&project.command_of("rerun", &["--failed-tests"]).output().unwrap());
    for part in [
        "run 1, again  4 of 4 tasks in 1 stage",
        "One.models: 2 of 3 tests",
        "One.bare: all of it: it has no only_tests: print running 3 tests",
        "2 of 3 tests: 2 passed, 2 flaky\n",
        "failed on attempt 2: only_some_tests",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn a_template_without_a_place_for_names_is_refused() {
    let project = Project::with_fake_engine(
        r#"
class One(Stage):
    def task_a(self):
        run(WORKER, IMAGE, "print a", only_tests="print a")

    def task_b(self):
        run(WORKER, IMAGE, ["print", "a"], only_tests="print {tests}")
"#,
    );
    let text = out(&project.run(&[]));
    for part in [
        "failed: spec_refused",
        "only_tests: has to have {tests} in it",
        "only_tests: goes with a command that is a string",
        "hint: change that call of run(...)",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// Wherever a boss is killed, the next one asks for the same tests, and comes to the same.
#[tokio::test]
async fn it_goes_on_after_a_boss_that_was_killed() {
    let mut ci = Ci::with(
        r#"
class One(Stage):
    def task_models(self):
        run(WORKER, IMAGE, "print running 2 tests; print test a::b ... FAILED; print test a::c ... ok; "
            "printf 'test result: FAILED. 1 passed\\73 1 failed\\73 0 ignored\\n'; exit 101",
            only_tests="print asked for {tests}; sleep 0.2; print running 1 test; print test a::b ... ok; "
            "printf 'test result: ok. 1 passed\\73 0 failed\\73 0 ignored\\n'")
        run(WORKER, IMAGE, "sleep 0.1; print after")
"#,
    )
    .await;
    let mut events = 10;
    let mut after = 0;
    while after < events {
        let red = ci.run().await;
        let run = red.number;
        let path = format!("/api/runs/{run}/rerun");
        let asked = ci.ask(Method::POST, &path).json(&json!({"failed_tests": true})).send().await.unwrap();
        assert!(asked.status().is_success(), "{}", asked.text().await.unwrap());
        let begins = red.state.last_seq.0;
        if after > 0 {
            ci.follow(run, |state, _| state.last_seq.0 >= begins + after).await;
            ci.kill_boss();
        }
        let told = ci.follow(run, |_, _| false).await;
        assert_eq!(
            told.summary(),
            "failed: only_some_tests\nOne.models failed on attempt 2: only_some_tests"
        );
        let task = told.state.task(&TaskId::new("One", "models")).unwrap();
        assert_eq!(task.attempts[1].some_tests().unwrap().words(), "1 of 2 tests", "killed after {after}");
        assert!(task.attempts[1].steps.iter().all(|step| matches!(step.state, StepState::Ended(_))));
        let starts = |fact: &&RunFact| matches!(fact, RunFact::StepAsked { attempt: 2, .. });
        assert_eq!(told.log.iter().filter(starts).count(), 2, "killed after {after}");
        let printed = ci.output(run, "One.models").await;
        assert!(printed.starts_with("asked for a::b\n") && printed.ends_with("after\n"), "{printed}");
        events = told.state.last_seq.0 - begins;
        let view = ci.get(&format!("/api/runs/{run}")).await;
        let attempt = &view["stages"][0]["tasks"][0]["attempts"][1];
        assert_eq!(attempt["some_tests"], json!({"tests": 1, "of": 2}));
        after += 2;
    }
    let bad = ci.ask(Method::POST, "/api/runs/1/rerun").json(&json!({"failed": true})).send().await.unwrap();
    assert_eq!(bad.status(), 422);
}

/// An image that is made of what `make base-images` makes, and goes with the test.
struct Image(&'static str);

impl Image {
    fn with_pytest(name: &'static str) -> Image {
        let folder = tempfile::tempdir().unwrap();
        let text = "FROM python:3-slim\nRUN pip install --no-cache-dir --root-user-action=ignore pytest\n";
        std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
        let mut build = Command::new("docker");
        build.args(["build", "-q", "--force-rm", "-t", name, "."]).current_dir(folder.path());
        let built = build.stdin(Stdio::null()).output().unwrap();
        assert!(built.status.success(), "{}{}", out(&built), err(&built));
        Image(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        drop(Command::new("docker").args(["image", "rm", "--force", self.0]).output());
    }
}

/// In each one test fails where another ran before it, and one fails always; their names are no plain words.
const REAL: &str = r#"
class One(Stage):
    def task_pytest(self):
        run(WORKER, "failed-tests-story", "python -m pytest -v", only_tests="python -m pytest -v {tests}",
            source_at="/app", workdir="/app", env={"PYTHONDONTWRITEBYTECODE": "1"})

    def task_cargo(self):
        run(WORKER, "rust:slim", "cargo test --offline -- --test-threads 1",
            only_tests="cargo test --offline -- --test-threads 1 --exact {tests}", source_at="/app", workdir="/app")

    def task_node(self):
        run(WORKER, "node:lts-slim", "node --test js", only_tests="node --test --test-name-pattern={tests:regex} js",
            source_at="/app", workdir="/app")
"#;

const PYTHON: &str = r#"
import pytest

SEEN = []

class TestPrices:
    def test_first(self):
        SEEN.append(1)

    def test_alone(self):
        assert not SEEN

@pytest.mark.parametrize("price", ["it's $HOME - [1]", "2"])
def test_always(price):
    assert price == "2"
"#;

const RUST: &str = r#"
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    static SEEN: AtomicBool = AtomicBool::new(false);
    #[test]
    fn a_first() {
        SEEN.store(true, Ordering::SeqCst);
    }
    #[test]
    fn alone() {
        assert!(!SEEN.load(Ordering::SeqCst));
    }
    #[test]
    fn always() {
        panic!("broken");
    }
    #[test]
    fn alone_with_a_longer_name() {}
}
"#;

const NODE: &str = r#"
const assert = require('node:assert')
const { test, describe, it } = require('node:test')
let seen = false
test('first', () => { seen = true })
describe('prices', () => {
  it('alone', () => { assert.ok(!seen) })
})
test('nested', async (t) => {
  await t.test('fine', () => {})
  await t.test("it's [always]", () => { assert.ok(false) })
})
test('alone again', () => {})
"#;

#[test]
fn real_runners_run_what_they_are_asked_for() {
    let _image = Image::with_pytest("failed-tests-story");
    let project = Project::with_docker(REAL);
    let put = |path: &str, text: &str| {
        let path = project.folder.path().join("project").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("test_prices.py", PYTHON);
    put("Cargo.toml", "[package]\nname = \"prices\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
    put("src/lib.rs", RUST);
    put("js/prices.test.js", NODE);
    let red = lines(&out(&project.run(&["--json"])));
    for (task, counts) in [
        ("One.pytest", json!({"passed": 2, "failed": 2, "skipped": 0})),
        ("One.cargo", json!({"passed": 2, "failed": 2, "skipped": 0})),
    ] {
        assert_eq!(ended(&red, task)["tests"], counts, "{red:?}");
    }
    let again = project.command_of("rerun", &["--failed-tests", "--json"]).output().unwrap();
    let again = lines(&out(&again));
    let planned = |task: &str| {
        let all = again[0]["failed_tests"].as_array().unwrap();
        all.iter().find(|one| one["task"] == task).unwrap()["steps"][0]["tests"].clone()
    };
    assert_eq!(
        planned("One.pytest"),
        json!(["test_prices.py::TestPrices::test_alone", "test_prices.py::test_always[it's $HOME - [1]]"])
    );
    assert_eq!(planned("One.cargo"), json!(["tests::alone", "tests::always"]));
    assert_eq!(planned("One.node"), json!(["nested > it's [always]", "prices > alone"]));
    for task in ["One.pytest", "One.cargo", "One.node"] {
        let one = ended(&again, task);
        assert_eq!((&one["attempt"], &one["reason"]), (&json!(2), &json!("command_failed")), "{again:?}");
        let tests = project.command_of("show", &["1", task, "--tests", "--json"]).output().unwrap();
        let tests: Value = serde_json::from_str(&out(&tests)).unwrap();
        let named = |wanted: &str| -> Vec<&str> {
            let tests = tests["tests"].as_array().unwrap().iter();
            tests
                .filter(|test| test["outcome"] == wanted)
                .map(|test| test["name"].as_str().unwrap())
                .collect()
        };
        assert!(named("failed").len() == 1 && named("failed")[0].contains("always"), "{tests}");
        assert!(named("passed").iter().any(|name| name.contains("alone")), "{tests}");
        assert!(named("skipped").is_empty(), "what was not asked for is no part of it: {tests}");
    }
    refused(
        &project.command_of("rerun", &["7", "--failed-tests"]).output().unwrap(),
        "this project has no run 7",
    );
}
