//! New attempts of what did not pass: by `bettertest rerun`, and through the boss.

use common::{RunFact, StepEvent};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::process::Stdio;

use crate::ci::{Ci, pipedef_of, write_pipedef};
use crate::command::{Project, err, is_swept, ours, out, refused};

/// `flaky` passes once there is a file `mended`; `later` comes after it.
const FLAKY: &str = r#"
import os
mended = os.path.join(os.path.dirname(os.path.dirname(__file__)), "mended")

class One(Stage):
    def task_flaky(self):
        run(WORKER, IMAGE, "print tried; exit " + ("0" if os.path.exists(mended) else "1"))

    def task_good(self):
        run(WORKER, IMAGE, "print fine")

class Two(Stage):
    def task_later(self):
        run(WORKER, IMAGE, "print later")
"#;

fn mend(folder: &Path) {
    std::fs::write(folder.join("project/mended"), "").unwrap();
}

#[test]
fn a_rerun_in_the_terminal_takes_what_did_not_pass() {
    let project = Project::with_fake_engine(FLAKY);
    let rerun = |args: &[&str]| project.command_of("rerun", args).output().unwrap();
    refused(&rerun(&[]), "nothing has run yet");
    assert!(!project.folder.path().join("data/local").exists(), "a look makes no history");
    assert_eq!(project.run(&[]).status.code(), Some(1));
    refused(&rerun(&["7"]), "this project has no run 7");
    refused(&rerun(&["x"]), "a run is named by its number");
    refused(&rerun(&["--task", "good"]), "One.good has passed in run 1");
    refused(&rerun(&["--task", "later"]), "Two.later cannot run before One.flaky has passed");
    refused(&rerun(&["--task", "ghost"]), "there is no task ghost");
    refused(&rerun(&["last", "missing"]), "there is no pipedef missing");

    let again = rerun(&["1"]);
    let text = out(&again);
    assert_eq!(again.status.code(), Some(1), "{text}{}", err(&again));
    for part in [
        "run 1, again  2 of 3 tasks in 2 stages",
        "✗ failed on attempt 2: command_failed",
        "│ tried",
        "- skipped: earlier_stage",
        "✗ run 1 failed: command_failed",
        "what did not pass, again as it was: bettertest rerun",
        "after a change: build the image, then a new run",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("One.good"), "{text}");

    // It executes what the run has stored, whatever lies on disk by now.
    mend(project.folder.path());
    std::fs::remove_file(pipedef_of(project.folder.path())).unwrap();
    let again = rerun(&[]);
    let text = out(&again);
    assert_eq!(again.status.code(), Some(0), "{text}{}", err(&again));
    for part in [
        "✓ passed on attempt 3",
        "✓ passed  ",
        "✓ run 1 passed on attempt 3",
        "3 passed (1 at a later attempt)",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    refused(&rerun(&[]), "every task of run 1 passed");
    assert!(is_swept(project.folder.path()));
}

#[test]
fn a_part_of_what_did_not_pass_runs_again_and_json_says_so() {
    let project = Project::with_fake_engine(
        r#"
import os
mended = os.path.join(os.path.dirname(os.path.dirname(__file__)), "mended")
CODE = "0" if os.path.exists(mended) else "1"

class One(Stage):
    def task_a(self):
        run(WORKER, IMAGE, "exit " + CODE)

class Two(Stage):
    always = True

    def task_b(self):
        run(WORKER, IMAGE, "exit " + CODE)
"#,
    );
    assert_eq!(project.run(&[]).status.code(), Some(1));
    mend(project.folder.path());
    let lines = |args: &[&str]| -> (Option<i32>, Vec<Value>) {
        let ended = project.command_of("rerun", args).output().unwrap();
        let lines = out(&ended).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (ended.status.code(), lines)
    };
    let (code, said) = lines(&["--json", "--stage", "Two"]);
    assert_eq!(code, Some(1), "One.a has still failed: {said:?}");
    assert_eq!(said[0]["event"], "rerun_started");
    assert_eq!(said[0]["only"], json!(["Two.b"]));
    refused(
        &project.command_of("rerun", &["--stage", "Two"]).output().unwrap(),
        "nothing of stage Two is left to run again in run 1",
    );
    let (code, said) = lines(&["--json"]);
    assert_eq!(code, Some(0), "{said:?}");
    assert_eq!(said[0]["only"], json!(["One.a"]));
    let ended = said.iter().find(|line| line["event"] == "task_ended").unwrap();
    assert_eq!((&ended["task"], &ended["attempt"]), (&json!("One.a"), &json!(2)));
    let verdict = said.last().unwrap();
    assert_eq!(
        (&verdict["event"], &verdict["outcome"], &verdict["headline"]),
        (&json!("verdict"), &json!("passed"), &json!("passed on attempt 2"))
    );
}

/// Starts a run whose step then sleeps, and waits for that.
fn sleeping(project: &Project) -> (std::process::Child, impl BufRead) {
    let mut child = project.command_of("run", &["--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"started\"") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended early");
    }
    (child, said)
}

#[test]
fn while_it_runs_elsewhere_it_does_not_run_again() {
    let text =
        FLAKY.replace("exit \" + (\"0\"", "\" + (\"exit 0\"").replace("else \"1\"", "else \"sleep 60\"");
    let project = Project::with_fake_engine(&text);
    let rerun = || project.command_of("rerun", &[]).output().unwrap();
    let (mut child, mut said) = sleeping(&project);
    refused(&rerun(), "run 1 is still running, in another process");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    mend(project.folder.path());
    let again = rerun();
    assert_eq!(again.status.code(), Some(0), "{}{}", out(&again), err(&again));
    assert!(out(&again).contains("run 1 passed on attempt 2"), "{}", out(&again));

    // And one that was killed is ended first.
    std::fs::remove_file(project.folder.path().join("project/mended")).unwrap();
    let (mut child, _said) = sleeping(&project);
    child.kill().unwrap();
    child.wait().unwrap();
    mend(project.folder.path());
    let again = rerun();
    assert_eq!(again.status.code(), Some(0), "{}{}", out(&again), err(&again));
    assert!(out(&again).contains("run 2 passed on attempt 2"), "{}", out(&again));
}

/// Nothing listens at its address: the re-run brings a worker of its own, which its log alone could not tell, as
/// the second stage has not asked for anything yet.
#[test]
fn a_rerun_brings_its_own_worker() {
    let project = Project::with_docker("");
    let marker = project.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
    let text = format!(
        r#"
import os
mended = os.path.join(os.path.dirname(os.path.dirname(__file__)), "mended")
OTHER = "http://localhost:8"

class One(Stage):
    def task_a(self):
        if not os.path.exists(mended):
            raise ValueError("not yet")
        run(WORKER, IMAGE, "echo {marker}")

class Two(Stage):
    def task_b(self):
        run(OTHER, IMAGE, "echo {marker}")
"#
    );
    write_pipedef(project.folder.path(), &text, "http://localhost:9");
    assert_eq!(project.run(&[]).status.code(), Some(1));
    mend(project.folder.path());
    let again = project.command_of("rerun", &[]).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}{}", out(&again), err(&again));
    assert_eq!(ours(&project), Vec::<String>::new());
    assert!(is_swept(project.folder.path()));
}

async fn post(ci: &Ci, path: &str, body: Value) -> (StatusCode, Value) {
    let asked = ci.http.post(format!("{}{path}", ci.boss.base)).bearer_auth(&ci.token).json(&body);
    let answer = asked.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// Every way of not passing, each mended afterwards.
#[tokio::test]
async fn whatever_did_not_pass_runs_again_and_keeps_its_first_attempt() {
    let ci = Ci::with(
        r#"
import os
mended = os.path.exists(os.path.join(os.path.dirname(os.path.dirname(__file__)), "mended"))
TRY = "print second" if mended else "print first; "

class One(Stage):
    def task_fails(self):
        run(WORKER, IMAGE, TRY + ("" if mended else "exit 1"))

    def task_times_out(self):
        run(WORKER, IMAGE, TRY + ("" if mended else "sleep 60"), timeout_s=1)

    def task_errors(self):
        run(WORKER, IMAGE, TRY + ("" if mended else "lose"))

    def task_good(self):
        run(WORKER, IMAGE, "print once")

class Two(Stage):
    def task_later(self):
        run(WORKER, IMAGE, "print later")

class Tidy(Stage):
    always = True

    def task_up(self):
        run(WORKER, IMAGE, "print tidied")
"#,
    )
    .await;
    let run = ci.run().await;
    assert_eq!(run.words(), "errored: container_lost");
    mend(ci.folder.path());
    let rerun = format!("/api/runs/{}/rerun", run.number);

    // One task alone: the others stay as they are, and so does the run's verdict.
    let (status, _) = post(&ci, &rerun, json!({"only": ["One.fails"]})).await;
    assert_eq!(status, StatusCode::OK);
    let told = ci.follow(run.number, |_, _| false).await;
    let expected = "errored: container_lost\nOne.fails passed on attempt 2\nOne.times_out timed_out: step_timeout\n\
                    One.errors errored: container_lost\nOne.good passed\nTwo.later skipped: earlier_stage\nTidy.up passed";
    assert_eq!(told.summary(), expected);
    for (only, part) in [
        ("One.fails", "One.fails has passed in run 1"),
        ("Tidy.up", "Tidy.up has passed in run 1"),
        ("Two.later", "Two.later cannot run before"),
        ("One.ghost", "there is no task One.ghost"),
    ] {
        let (status, problem) = post(&ci, &rerun, json!({"only": [only]})).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(problem["error"].as_str().unwrap().contains(part), "{problem}");
        assert!(problem["hint"].is_string(), "{problem}");
    }

    // The rest. A stage that always runs and has passed does not run again.
    assert_eq!(post(&ci, &rerun, json!({})).await.0, StatusCode::OK);
    let told = ci.follow(run.number, |_, _| false).await;
    let expected = "passed on attempt 2\nOne.fails passed on attempt 2\nOne.times_out passed on attempt 2\n\
                    One.errors passed on attempt 2\nOne.good passed\nTwo.later passed\nTidy.up passed";
    assert_eq!(told.summary(), expected);
    for task in ["fails", "times_out", "errors"] {
        for (attempt, text) in [("?attempt=1", "first\n"), ("?attempt=2", "second\n"), ("", "second\n")] {
            let path = format!("/api/runs/1/tasks/One.{task}/output{attempt}");
            let output = ci.ask(Method::GET, &path).send().await.unwrap();
            assert_eq!(output.text().await.unwrap(), text, "{path}");
        }
    }
    let missing = ci.ask(Method::GET, "/api/runs/1/tasks/One.good/output?attempt=2").send().await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);

    // Nowhere does it read as plainly passed.
    let list = ci.get("/api/runs").await;
    assert_eq!(list["runs"][0]["headline"], "passed on attempt 2");
    let view = ci.get("/api/runs/1").await;
    assert_eq!(view["headline"], "passed on attempt 2");
    let attempts = &view["stages"][0]["tasks"][0]["attempts"];
    assert_eq!((&attempts[0]["outcome"], &attempts[1]["outcome"]), (&json!("failed"), &json!("passed")));
    assert_eq!(post(&ci, &rerun, json!({})).await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_cancelled_part_runs_again_but_not_while_it_runs() {
    let ci = Ci::with(
        r#"
import os
mended = os.path.exists(os.path.join(os.path.dirname(os.path.dirname(__file__)), "mended"))

class One(Stage):
    def task_long(self):
        run(WORKER, IMAGE, "print begun" + ("" if mended else "; sleep 100"))

    def task_other(self):
        run(WORKER, IMAGE, "exit 1")

class Two(Stage):
    always = True

    def task_next(self):
        run(WORKER, IMAGE, "print x")
"#,
    )
    .await;
    let (status, made) = post(&ci, "/api/runs", json!({"only": ["One.long", "Two.next"]})).await;
    assert_eq!((status, &made["run"]), (StatusCode::CREATED, &json!(1)));
    let started = |fact: &RunFact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. });
    ci.follow(1, |_, fact| started(fact)).await;
    let (status, problem) = post(&ci, "/api/runs/1/rerun", json!({})).await;
    assert_eq!((status, problem["error"].as_str()), (StatusCode::CONFLICT, Some("run 1 is still running")));
    assert_eq!(post(&ci, "/api/runs/1/cancel", json!({})).await.0, StatusCode::OK);
    let told = ci.follow(1, |_, _| false).await;
    let expected = "cancelled: cancel_asked (2 of 3 tasks)\nOne.long cancelled: cancel_asked\n\
                    One.other skipped: not_selected\nTwo.next skipped: cancelled";
    assert_eq!(told.summary(), expected);
    mend(ci.folder.path());
    assert_eq!(post(&ci, "/api/runs/1/rerun", json!({})).await.0, StatusCode::OK);
    let told = ci.follow(1, |_, _| false).await;
    let expected = "passed on attempt 2 (2 of 3 tasks)\nOne.long passed on attempt 2\n\
                    One.other skipped: not_selected\nTwo.next passed";
    assert_eq!(told.summary(), expected);
    assert_eq!(ci.get("/api/runs").await["runs"][0]["headline"], "passed on attempt 2 (2 of 3 tasks)");
}
