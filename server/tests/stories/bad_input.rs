//! What is wrong is said: what happened to what, and the next thing to do.

use reqwest::{Method, StatusCode};

use crate::ci::{Ci, pipedef_of};

/// (the text after the import lines, a part of the error, the line of the pipedef where there is one)
const BROKEN: &[(&str, &str, Option<u64>)] = &[
    ("class One(Stage:\n    pass\n", "SyntaxError", Some(4)),
    ("import no_such_module_anywhere\n", "no_such_module_anywhere", Some(4)),
    ("import sys\nsys.exit(0)\n", "exit", None),
    ("x = 1\n", "no stage", None),
    ("class One(Stage):\n    pass\n", "no task", None),
    (
        "class One(Stage):\n    def task_a(self): pass\nclass One(Stage):\n    def task_b(self): pass\n",
        "One",
        None,
    ),
    (
        "class One(Stage):\n    def task_a(self): pass\n    def task_a(self): pass\n",
        "One.a, in lines 5 and 6",
        None,
    ),
    ("import os\nos._exit(0)\n", "ended", None),
    ("1 / 0\n", "ZeroDivisionError", Some(4)),
];

#[tokio::test]
async fn a_broken_pipedef_makes_no_run_and_says_where() {
    let ci = Ci::with("").await;
    for (text, part, line) in BROKEN {
        ci.rewrite(text);
        let (status, problem) = ci.post("/api/runs").await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}: {problem}");
        let error = problem["error"].as_str().unwrap();
        assert!(error.contains(part), "{text}: {error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{text}: {problem}");
        if line.is_some() {
            assert_eq!(problem["line"].as_u64(), *line, "{text}: {problem}");
        }
        assert_eq!(ci.get("/api/pipeline").await["error"], problem["error"]);
    }
    assert_eq!(ci.get("/api/runs").await["runs"], serde_json::json!([]));
}

#[tokio::test]
async fn a_pipedef_that_hangs_is_ended() {
    let ci = Ci::with("while True: pass\n").await;
    let (status, problem) = ci.post("/api/runs").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem["error"].as_str().unwrap().contains("within 10 s"), "{problem}");
}

#[tokio::test]
async fn what_is_no_file_is_said_at_once() {
    let ci = Ci::with("").await;
    let pipedef = pipedef_of(ci.folder.path());
    let refused = async |part: &str| {
        let (status, problem) = ci.post("/api/runs").await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(problem["error"].as_str().unwrap().contains(part), "{problem}");
    };
    std::fs::remove_file(&pipedef).unwrap();
    refused("there is no pipedef").await;
    std::fs::create_dir(&pipedef).unwrap();
    refused("is a folder").await;
    std::fs::remove_dir(&pipedef).unwrap();
    nix::unistd::mkfifo(&pipedef, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("is not a regular file").await;
}

#[tokio::test]
async fn requests_that_cannot_be_meant_are_refused_by_name() {
    let ci = Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n").await;
    for path in ["/api/runs/77", "/api/runs/x", "/api/runs/77/events", "/api/nothing"] {
        let answer = ci.ask(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert!(problem["error"].is_string() && problem["hint"].is_string(), "{path}: {problem}");
    }
    let answer = ci.ask(Method::DELETE, "/api/runs").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    let unknown = serde_json::json!({"onyl": []});
    let answer = ci.http.post(format!("{}/api/runs", ci.boss.base)).bearer_auth(&ci.token).json(&unknown);
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.text().await.unwrap().contains("onyl"));
}

/// Serde takes a list for a struct, its values in the order of the fields.
#[tokio::test]
async fn a_body_that_is_a_list_is_refused() {
    let ci = Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n").await;
    let (boss, worker) = (&ci.boss.base, &ci.worker.base);
    for (url, list) in [
        (format!("{boss}/api/runs"), "[]"),
        (format!("{boss}/api/runs"), " [null]"),
        (format!("{boss}/api/runs/1/rerun"), "[null]"),
        (format!("{worker}/run"), r#"["busybox", "print x"]"#),
    ] {
        let asked = ci.http.post(&url).bearer_auth(&ci.token).header("content-type", "application/json");
        let answer = asked.body(list).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{url} {list}");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert!(problem["error"].as_str().unwrap().contains("list"), "{url} {list}: {problem}");
    }
    assert_eq!(ci.get("/api/runs").await["runs"], serde_json::json!([]));
}

/// What is misspelt behind the `?`, and a position that is none, must not be taken for nothing at all.
#[tokio::test]
async fn what_stands_behind_the_question_mark_is_refused_by_name() {
    let ci = Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n").await;
    let run = ci.start().await;
    for (base, path, name) in [
        (&ci.boss.base, "/api/runs?befroe=3".to_owned(), "befroe"),
        (&ci.boss.base, format!("/api/runs/{run}/events?afetr=3"), "afetr"),
        (&ci.boss.base, format!("/api/runs/{run}/tasks/One.a/output?attempt=last"), "attempt"),
        (&ci.worker.base, "/steps/x/events?afetr=3".to_owned(), "afetr"),
        (&ci.worker.base, "/steps/x/output?follow=yes".to_owned(), "follow"),
    ] {
        let answer = ci.http.get(format!("{base}{path}")).bearer_auth(&ci.token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(name), "{path}: {text}");
    }
    for (base, path) in
        [(&ci.boss.base, format!("/api/runs/{run}/events")), (&ci.worker.base, "/steps/x/events".to_owned())]
    {
        let asked =
            ci.http.get(format!("{base}{path}")).bearer_auth(&ci.token).header("last-event-id", "last");
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert!(answer.text().await.unwrap().contains("Last-Event-ID"), "{path}");
    }
}
