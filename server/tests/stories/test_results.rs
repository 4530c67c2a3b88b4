//! Test by test: what runners printed is known afterwards, by name, in the terminal and from a boss, also from one that was
//! started again; and a test that passes and fails on one source is never plainly green.

use reqwest::Method;
use serde_json::{Value, json};

use crate::ci::{Ci, data_of};
use crate::command::{Project, err, out, refused};

/// One test is broken for as long as there is a file of that name.
const PIPEDEF: &str = r#"
from pathlib import Path
BROKEN = Path(__file__).parent.parent.parent / "broken"

class One(Stage):
    def task_models(self):
        if BROKEN.exists():
            run(WORKER, IMAGE, "print running 3 tests; print test store::reads ... ok; print test store::writes ... FAILED; "
                "print test store::slow ... ignored; print failures:; print ---- store::writes stdout ----; "
                "print thread main panicked at src/store.rs:7:5:; print left is not right; print failures:; "
                "printf 'test result: FAILED. 1 passed\\73 1 failed\\73 1 ignored\\n'; exit 101")
        run(WORKER, IMAGE, "print running 3 tests; print test store::reads ... ok; print test store::writes ... ok; "
            "print test store::slow ... ignored; printf 'test result: ok. 2 passed\\73 0 failed\\73 1 ignored\\n'")

    def task_plain(self):
        run(WORKER, IMAGE, "print no test at all")
"#;

fn ended(said: &str, task: &str) -> Value {
    let mut lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.rfind(|line| line["event"] == "task_ended" && line["task"] == task).unwrap()
}

#[test]
fn tests_are_known_by_name_and_a_flaky_one_is_never_plainly_green() {
    let project = Project::with_fake_engine(PIPEDEF);
    let broken = project.folder.path().join("broken");
    let show = |args: &[&str]| project.command_of("show", args).output().unwrap();
    std::fs::write(&broken, "").unwrap();
    let red = out(&project.run(&[]));
    assert!(red.contains("One.models  1 failed, 1 skipped, 1 passed\n"), "{red}");
    assert!(red.contains("; tests: 1 failed, 1 skipped, 1 passed"), "{red}");
    let listed = out(&show(&["1", "--tests"]));
    assert!(listed.starts_with("run 1  One.models: 1 failed, 1 skipped, 1 passed\n✗ failed "), "{listed}");
    for part in ["store::writes\n    left is not right\n", "- skipped", "  store::slow\n", "✓ passed"] {
        assert!(listed.contains(part), "no {part:?} in {listed}");
    }
    assert_eq!(out(&show(&["1", "plain", "--tests"])), "run 1  One.plain: no tests\n");
    refused(&show(&["1", "--test", "nothing"]), "no test of run 1 has nothing in its name");
    refused(&show(&["1", "--test", "store"]), "3 tests of run 1 have store in their names");
    refused(&show(&["1", "models", "--tests", "--attempt", "2"]), "has not begun an attempt 2");

    // The same source once more, and it passes.
    std::fs::remove_file(&broken).unwrap();
    let again = project.command_of("rerun", &["--json"]).output().unwrap();
    let (code, again) = (again.status.code(), out(&again));
    assert_eq!(code, Some(0), "{again}");
    let models = ended(&again, "One.models");
    assert_eq!(models["tests"], json!({"passed": 2, "failed": 0, "skipped": 1, "flaky": 1}));
    let verdict: Value = serde_json::from_str(again.lines().last().unwrap()).unwrap();
    assert_eq!(verdict["headline"], "passed on attempt 2, 1 flaky test");
    let one = out(&show(&["1", "--test", "writes"]));
    for part in [
        "✓ passed",
        "store::writes  (flaky)\n  One.models, run 1, attempt 2\n  flaky: on this source it has passed, and it has failed\n",
        "history: failed 1 of 2 times (50 %), flaky, first failed in run 1, last passed in run 1\n",
        "  run 1 attempt 2    ✓ passed",
        "  run 1              ✗ failed",
    ] {
        assert!(one.contains(part), "no {part:?} in {one}");
    }
    let first: Value =
        serde_json::from_str(&out(&show(&["1", "models", "--tests", "--attempt", "1", "--json"]))).unwrap();
    let writes = json!({
        "name": "store::writes", "outcome": "failed", "flaky": true, "message": "left is not right",
        "stack": "thread main panicked at src/store.rs:7:5:\nleft is not right",
    });
    assert_eq!(first["tests"][0], writes);
    assert_eq!(first["counts"], json!({"passed": 1, "failed": 1, "skipped": 1}), "as it was when it ended");

    // Another run without a source may be on another image: nothing is known of it.
    let green = project.run(&[]);
    assert_eq!(green.status.code(), Some(0), "{}", err(&green));
    assert!(out(&green).contains("run 2 passed  2 passed in"), "{}", out(&green));
    let history: Value = serde_json::from_str(&out(&show(&["--test", "store::writes", "--json"]))).unwrap();
    assert_eq!(history["test"], json!({"name": "store::writes", "outcome": "passed"}));
    assert_eq!(
        (&history["history"]["flaky"], &history["history"]["counts"]["failed"]),
        (&json!(true), &json!(1))
    );
}

#[tokio::test]
async fn a_boss_that_was_started_again_says_the_same() {
    let mut ci = Ci::with(PIPEDEF).await;
    std::fs::write(ci.folder.path().join("broken"), "").unwrap();
    ci.run().await;
    std::fs::remove_file(ci.folder.path().join("broken")).unwrap();
    ci.run().await;
    let asked = [
        "/api/runs/1/tasks/One.models/tests",
        "/api/runs/2/tasks/One.models/tests?attempt=1",
        "/api/runs/1/tasks/One.plain/tests",
        "/api/tests?task=One.models&name=store%3A%3Awrites",
    ];
    let mut before = Vec::new();
    for path in asked {
        before.push(ci.get(path).await);
    }
    let named = |tests: &Value| -> Vec<String> {
        let named = tests["tests"].as_array().unwrap().iter();
        named.map(|test| format!("{} {}", test["name"], test["outcome"]).replace('"', "")).collect()
    };
    assert_eq!(named(&before[0]), ["store::writes failed", "store::slow skipped", "store::reads passed"]);
    assert_eq!(before[2]["tests"], json!([]));
    let of: Vec<_> = before[3]["runs"].as_array().unwrap().iter().map(|run| run["run"].clone()).collect();
    assert_eq!(of, [2, 1]);
    assert_eq!((&before[3]["first_failed"]["run"], &before[3]["last_passed"]["run"]), (&json!(1), &json!(2)));
    assert_eq!(ci.get("/api/runs/1").await["stages"][0]["tasks"][0]["attempts"][0]["tests"]["failed"], 1);
    for path in [
        "/api/runs/1/tasks/One.models/tests?attempt=2",
        "/api/tests?task=One.models&name=x",
        "/api/tests?task=x&name=x",
    ] {
        assert_eq!(ci.ask(Method::GET, path).send().await.unwrap().status(), 404, "{path}");
    }
    assert_eq!(ci.ask(Method::GET, "/api/tests?task=One.models").send().await.unwrap().status(), 422);
    let show = |args: &[&str]| {
        let mut command = std::process::Command::new(crate::ci::BINARY);
        command
            .args(["show", "--url", &ci.boss.base, "--data-dir"])
            .arg(data_of(ci.folder.path()))
            .args(args);
        command.output().unwrap()
    };
    assert!(out(&show(&["1", "--test", "writes"])).contains("failed 1 of 2 times"));

    ci.boss.child.kill().unwrap();
    ci.boss.child.wait().unwrap();
    ci.boss = Ci::start_boss(ci.folder.path());
    for (path, before) in asked.iter().zip(&before) {
        assert_eq!(ci.get(path).await, *before, "{path}");
    }
}
