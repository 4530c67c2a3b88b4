//! What failed, in a few kilobytes: at the end of a run, from `bettertest show`, and of a boss; and the runs that are
//! made of it: to the first failure, and of what failed.

use reqwest::Method;
use serde_json::{Value, json};

use crate::ci::{Ci, data_of, write_pipedef};
use crate::command::{Project, err, out, refused};

const GREEN: &str = r#"
class One(Stage):
    def task_good(self):
        run(WORKER, IMAGE, "print fine")

    def task_models(self):
        run(WORKER, IMAGE, "print collected 3; print test_a passed in 12ms; print test_b passed")
"#;

const RED: &str = r#"
class One(Stage):
    def task_good(self):
        run(WORKER, IMAGE, "print fine")

    def task_models(self):
        run(WORKER, IMAGE, "print collected 4; print test_a passed in 1.5s; print test_b broke; exit 1")
"#;

fn rewrite(project: &Project, pipedef: &str) {
    let worker = project.worker.as_ref().expect("it has the fake engine");
    write_pipedef(project.folder.path(), pipedef, &worker.base);
}

fn show(project: &Project, args: &[&str]) -> std::process::Output {
    project.command_of("show", args).output().unwrap()
}

/// The events of a run, and its exit code.
fn told(project: &Project, args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let ended = project.run(&[&["--json"], args].concat());
    let lines = out(&ended).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (ended.status.code(), lines)
}

#[test]
fn a_failure_says_what_is_new_since_it_passed_and_what_to_do() {
    let project = Project::with_fake_engine(GREEN);
    refused(&show(&project, &[]), "nothing has run yet");
    assert!(!data_of(project.folder.path()).join("local").exists(), "a look makes no history");
    assert_eq!(project.run(&[]).status.code(), Some(0));
    rewrite(&project, RED);
    let ended = project.run(&[]);
    assert_eq!(ended.status.code(), Some(1), "{}", err(&ended));
    let shown = show(&project, &[]);
    assert_eq!(shown.status.code(), Some(0), "{}", err(&shown));
    let data = data_of(project.folder.path());
    let again = format!("after a change: bettertest run --data-dir {} --task One.models", data.display());
    for text in [out(&ended), out(&shown)] {
        for part in [
            "first new since run 1, line 3: test_b broke",
            "there, when it passed: test_b passed",
            "│ test_b broke",
            "failed: command_failed  One.models",
            &again,
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
    assert!(out(&show(&project, &["1"])).starts_with("run 1 passed\n"));
    refused(&show(&project, &["2", "good"]), "One.good has not failed in run 2");
    refused(&show(&project, &["7"]), "a boss numbers its own runs: --url");
    refused(&show(&project, &["2", "ghost"]), "there is no task ghost");

    // For programs: the last line of a run has it, and it is the same whenever it is asked for.
    let (code, said) = told(&project, &[]);
    assert_eq!(code, Some(1));
    let packet = &said.last().unwrap()["packet"];
    assert_eq!(packet["failures"][0]["first_new_line"]["text"], "test_b broke");
    let shown: Value = serde_json::from_str(&out(&show(&project, &["3", "--json"]))).unwrap();
    assert_eq!(shown, *packet);
    let (code, said) = told(&project, &["--task", "good"]);
    assert_eq!((code, &said.last().unwrap()["packet"]), (Some(0), &Value::Null));
}

#[test]
fn the_tests_that_failed_are_named() {
    let pipedef = r#"
class One(Stage):
    def task_models(self):
        run(WORKER, IMAGE, "print running 3 tests; print test store::reads ... ok; print test store::writes ... FAILED; "
            "print test store::slow ... ignored; print failures:; print ---- store::writes stdout ----; "
            "print thread main panicked at src/store.rs:7:5:; print left is not right; print failures:; "
            "print test result: FAILED. 1 passed. 1 failed. 1 ignored; exit 101")

    def task_whole(self):
        run(WORKER, IMAGE, "print test_x.py::test_a PASSED; print test_x.py::test_b FAILED; print 1 failed, 1 passed in 0.1s; exit 1")
"#;
    let project = Project::with_fake_engine(pipedef);
    let (code, said) = told(&project, &[]);
    assert_eq!(code, Some(1));
    let failures = &said.last().unwrap()["packet"]["failures"];
    assert_eq!(
        failures[0]["failed_tests"],
        json!([{"name": "store::writes", "message": ["left is not right"]}])
    );
    assert_eq!(failures[1]["failed_tests"], json!([{"name": "test_x.py::test_b"}]));
    assert_eq!(failures[1]["tests"], json!({"passed": 1, "failed": 1, "skipped": 0}));
    let shown = out(&show(&project, &[]));
    for part in
        ["✗ store::writes", "    left is not right", "tests: 1 failed, 1 passed", "✗ test_x.py::test_b"]
    {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let recap = out(&project.run(&[]));
    assert!(recap.contains("✗ store::writes"), "{recap}");
}

const TOLD: &str = "\
=== FAILURES ===
_____ test_add _____

    def test_add():
>       assert add(1) == 2

tests/test_calc.py:7: 
_ _ _ _ _ _ _ _ _ _ _ _ _
/app/src/calc.py:3: in add
    check(n)
/usr/lib/python3/check.py:9: in check
    raise ValueError(\"no\")
E   ValueError: no
=== short test summary info ===
FAILED tests/test_calc.py::test_add - ValueError: no
=== 1 failed in 0.12s ===
";

#[test]
fn where_it_failed_in_the_source_and_what_changed_there() {
    let project = Project::with_fake_engine(
        "class One(Stage):\n    def task_all(self): run(WORKER, IMAGE, 'print fine', source_at='/app')\n",
    );
    let put = |path: &str, text: &str| {
        let path = project.folder.path().join("project").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for path in ["src/calc.py", "src/old.py", "src/same.py", "tests/test_calc.py"] {
        put(path, "before");
    }
    assert_eq!(project.run(&[]).status.code(), Some(0));
    put("src/calc.py", "after");
    put("src/same.py", "before");
    put("told.txt", TOLD);
    std::fs::remove_file(project.folder.path().join("project/src/old.py")).unwrap();
    rewrite(
        &project,
        "class One(Stage):\n    def task_all(self):\n        run(WORKER, IMAGE, 'print noise')\n        print('more')\n        \
         run(WORKER, IMAGE, 'cat /app/told.txt; exit 1', source_at='/app')\n",
    );
    let (code, said) = told(&project, &[]);
    assert_eq!(code, Some(1));
    let failure = &said.last().unwrap()["packet"]["failures"][0];
    assert_eq!(
        failure["failed_tests"][0]["frames"],
        json!(["src/calc.py:3 in add", "tests/test_calc.py:7 in test_add"])
    );
    assert_eq!(
        failure["changes"],
        json!({"green_run": 1, "green_attempt": 1, "changed": [".bettertest/pipedef.py", "src/calc.py"],
               "added": ["told.txt"], "deleted": ["src/old.py"]})
    );
    // Of the step that failed, and of nothing before it.
    assert_eq!(failure["last_lines"][0], "=== FAILURES ===");
    let shown = out(&show(&project, &[]));
    for part in ["    at src/calc.py:3 in add", "changed since run 1: .bettertest/pipedef.py, src/calc.py"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let again = out(&project.run(&[]));
    assert!(
        again.contains("    at src/calc.py:3 in add") && again.contains("deleted since run 1"),
        "{again}"
    );
}

#[test]
fn of_an_output_what_is_asked_for() {
    let project = Project::with_fake_engine(RED);
    assert_eq!(project.run(&[]).status.code(), Some(1));
    let lines = |args: &[&str]| out(&show(&project, args));
    assert_eq!(lines(&["last", "--tail", "1"]), "test_b broke\n", "one failed, and need not be named");
    assert_eq!(lines(&["1", "models", "--grep", "^test_"]), "2:test_a passed in 1.5s\n3:test_b broke\n");
    assert_eq!(lines(&["1", "good", "--output"]), "fine\n");
    refused(&show(&project, &["1", "good", "--grep", "("]), "no regular expression");
    refused(&show(&project, &["1", "good", "--output", "--attempt", "2"]), "has not begun an attempt 2");
}

#[test]
fn however_much_fails_it_is_a_few_kilobytes() {
    let mut text = "class One(Stage):\n".to_owned();
    for task in 0..30 {
        let prints = (0..20).map(|line| format!("print {} {task} {line}", "\\u2603\\\\".repeat(30)));
        let command = prints.collect::<Vec<_>>().join("; ");
        text.push_str(&format!("    def task_t{task}(self): run(WORKER, IMAGE, \"{command}; exit 1\")\n"));
    }
    text.push_str("    def task_worse(self): run(WORKER, IMAGE, \"print gone; lose\")\n");
    text.push_str("class Two(Stage):\n    def task_later(self): run(WORKER, IMAGE, \"true\")\n");
    let project = Project::with_fake_engine(&text);
    let (code, said) = told(&project, &[]);
    assert_eq!(code, Some(3));
    let packet = &said.last().unwrap()["packet"];
    let size = packet.to_string().len();
    assert!((3000..=6144).contains(&size), "{size} bytes");
    let failures = packet["failures"].as_array().unwrap();
    assert_eq!(failures[0]["task"], "One.worse", "the worst first");
    assert_eq!(failures[1]["task"], "One.t0");
    assert_eq!(failures[0]["last_lines"], json!(["gone"]));
    assert_eq!(failures.len() as u64 + packet["more_failures"].as_u64().unwrap(), 31);
    assert_eq!(packet["not_run"], 1);
}

#[tokio::test]
async fn a_boss_says_the_same() {
    let ci = Ci::with(RED).await;
    ci.run().await;
    let packet = ci.get("/api/runs/1/packet").await;
    assert_eq!(packet["failures"][0]["last_lines"][2], "test_b broke");
    assert_eq!(packet["failures"][0]["again"], "bettertest run --task One.models");
    assert_eq!(ci.get("/api/runs/1/packet?task=One.models").await["failures"], packet["failures"]);
    let refused = ci.ask(Method::GET, "/api/runs/1/packet?task=One.good").send().await.unwrap();
    assert_eq!(refused.status(), 404);
    let show = |args: &[&str]| {
        let mut command = std::process::Command::new(crate::ci::BINARY);
        let data = data_of(ci.folder.path());
        command.args(["show", "--url", &ci.boss.base, "--data-dir"]).arg(data).args(args);
        command.output().unwrap()
    };
    let shown: Value = serde_json::from_str(&out(&show(&["--json"]))).unwrap();
    assert_eq!(shown, packet);
    assert_eq!(out(&show(&["1", "models", "--tail", "1"])), "test_b broke\n");
    crate::command::refused(&show(&["9"]), "there is no run 9");
    // Runs here have the same numbers: what to type next says whose is meant.
    let next = format!("all of a task: bettertest show --url {} 1 TASK --tests", ci.boss.base);
    crate::command::refused(&show(&["1", "--test", "nothing"]), &next);
    crate::command::refused(&show(&["1", "good"]), "One.good has not failed");
}

#[test]
fn fail_fast_ends_with_the_first_failure() {
    let project = Project::with_fake_engine(
        r#"
class One(Stage):
    def task_slow(self):
        run(WORKER, IMAGE, "sleep 250")

    def task_bad(self):
        run(WORKER, IMAGE, "print boom; exit 1")

class Two(Stage):
    def task_later(self):
        run(WORKER, IMAGE, "true")
"#,
    );
    let (code, said) = told(&project, &["--fail-fast"]);
    assert_eq!(code, Some(1), "failed, and not cancelled");
    let first = said.iter().find(|line| line["event"] == "task_ended").unwrap();
    assert_eq!(first["task"], "One.bad");
    // Its Python may just have been about to begin.
    let slow = said.iter().rfind(|line| line["task"] == "One.slow").unwrap();
    assert!(slow["outcome"] == "cancelled" || slow["why"] == "cancelled", "{slow}");
    let verdict = said.last().unwrap();
    assert_eq!((&verdict["outcome"], &verdict["reason"]), (&json!("failed"), &json!("command_failed")));
    assert_eq!(verdict["packet"]["failures"].as_array().unwrap().len(), 1);
    assert_eq!(verdict["packet"]["not_run"], 2);
    let ended = project.run(&["--fail-fast"]);
    let text = out(&ended);
    assert_eq!(ended.status.code(), Some(1), "{text}{}", err(&ended));
    for part in ["stopping at the first failure", "skipped: cancelled", "… and 2 did not run to their end"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn only_failed_is_a_new_run_of_what_did_not_pass() {
    let all = |bad: &str, worse: &str| {
        format!(
            "class One(Stage):\n    def task_good(self): run(WORKER, IMAGE, 'true')\n    \
             def task_bad(self): run(WORKER, IMAGE, '{bad}')\n    \
             def task_worse(self): run(WORKER, IMAGE, '{worse}')\n\
             class Two(Stage):\n    def task_later(self): run(WORKER, IMAGE, 'true')\n"
        )
    };
    let project = Project::with_fake_engine(&all("exit 1", "exit 1"));
    refused(&project.run(&["--only-failed"]), "has run here yet");
    refused(&project.run(&["--only-failed", "--task", "bad"]), "cannot be used with");
    assert_eq!(project.run(&[]).status.code(), Some(1));

    // On what is there now, and what was kept back by it comes along.
    rewrite(&project, &all("true", "exit 1"));
    let (code, said) = told(&project, &["--only-failed"]);
    assert_eq!(code, Some(1));
    assert_eq!(said[0]["only"], json!(["One.bad", "One.worse", "Two.later"]));
    assert_eq!(said[0]["run"], 2);
    // What a partial run left out is still due where it has failed before.
    assert_eq!(project.run(&["--task", "good"]).status.code(), Some(0));
    rewrite(&project, &all("true", "true"));
    let ended = project.run(&["--only-failed"]);
    assert_eq!(ended.status.code(), Some(0), "{}{}", out(&ended), err(&ended));
    assert!(out(&ended).contains("run 4 passed (2 of 4 tasks)"), "{}", out(&ended));
    // A run of nothing proves nothing.
    refused(&project.run(&["--only-failed"]), "nothing is left to run");

    rewrite(&project, &all("exit 1", "exit 1"));
    assert_eq!(project.run(&[]).status.code(), Some(1));
    rewrite(&project, &all("true", "true").replace("task_bad", "task_other"));
    let ended = project.run(&["--only-failed"]);
    assert_eq!(ended.status.code(), Some(0), "{}{}", out(&ended), err(&ended));
    assert_eq!(err(&ended), "note: no longer in the pipedef, and so not run: One.bad\n");
    assert!(out(&ended).contains("passed (2 of 4 tasks)"), "{}", out(&ended));
}
