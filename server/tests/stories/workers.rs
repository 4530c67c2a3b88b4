//! How the workers are, as the boss tells it to whoever asks.

use serde_json::json;

use crate::ci::{Ci, Process, data_of};

#[tokio::test]
async fn each_worker_says_how_it_is_and_of_one_that_does_not_it_is_said_why() {
    let ci = Ci::with(
        r#"
AWAY = "http://127.0.0.1:1"
STRANGER = "http://192.0.2.7:9009"

class One(Stage):
    def task_a(self): run(WORKER, IMAGE, "print x")
"#,
    )
    .await;
    assert_eq!(ci.get("/api/workers").await, json!({ "workers": [] }), "the pipedef was not read yet");
    ci.get("/api/pipeline").await;
    let told = ci.get("/api/workers").await;
    let workers = told["workers"].as_array().unwrap();
    assert_eq!(
        workers[0],
        json!({ "worker": ci.worker.base, "ok": true, "why": null, "hint": null,
            "version": env!("CARGO_PKG_VERSION"), "engine": "fake", "slots": 4 })
    );
    let why = |i: usize| (workers[i]["worker"].as_str().unwrap(), workers[i]["why"].as_str().unwrap());
    assert_eq!(why(1), ("http://127.0.0.1:1", "nothing listens there"));
    assert_eq!(why(2).1, "there is no token for the worker http://192.0.2.7:9009");
    assert!(workers[1..].iter().all(|worker| worker["ok"] == false && worker["hint"].is_string()), "{told}");
    assert_eq!(workers.len(), 3, "{told}");
}

#[tokio::test]
async fn a_run_says_who_started_it() {
    let ci = Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n").await;
    let run = ci.run().await.number;
    assert_eq!(ci.get(&format!("/api/runs/{run}")).await["started_by"], "api");
    assert_eq!(ci.get("/api/runs").await["runs"][0]["started_by"], "api");
}

/// Whoever enrols a worker restarts no boss; and what is wrong with the list is told, and takes no worker away.
#[tokio::test]
async fn a_worker_is_known_as_soon_as_workers_toml_names_it() {
    let elsewhere = tempfile::tempdir().unwrap();
    let data = elsewhere.path().to_str().unwrap();
    let other =
        Process::start(&["--worker", "--engine", "fake", "--listen", "127.0.0.1:0", "--data-dir", data]);
    let token = std::fs::read_to_string(elsewhere.path().join("token")).unwrap();
    let pipedef = r#"
class One(Stage):
    def task_a(self):
        run("OTHER", IMAGE, "print one")
        while not Path(__file__).with_name("go").exists(): time.sleep(0.05)
        run("OTHER", IMAGE, "print two")
"#;
    let ci = Ci::with(&format!(
        "import time\nfrom pathlib import Path\n{}",
        pipedef.replace("OTHER", &other.base)
    ))
    .await;
    let toml = data_of(ci.folder.path()).join("workers.toml");
    let beside = |name: &str| ci.folder.path().join("project/.bettertest").join(name);
    assert_eq!(ci.run().await.words(), "errored: token_refused");

    std::fs::write(&toml, format!("\"{}\" = \"{}\"\n", other.base, token.trim())).unwrap();
    let run = ci.start().await;
    ci.follow(run, |state, _| {
        state.tasks().any(|task| {
            task.attempts.last().is_some_and(|attempt| {
                attempt.steps.iter().any(|step| matches!(step.state, common::StepState::Ended(_)))
            })
        })
    })
    .await;
    // What has begun goes on with the worker that it has.
    std::fs::remove_file(&toml).unwrap();
    std::fs::write(beside("go"), "").unwrap();
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "passed");
    assert_eq!(ci.run().await.words(), "errored: token_refused");

    let line = format!("\"{}\" = \"{}\"\n", other.base, token.trim());
    std::fs::write(&toml, &line).unwrap();
    assert_eq!(ci.run().await.words(), "passed");
    std::fs::write(&toml, "this is no line").unwrap();
    assert_eq!(ci.run().await.words(), "passed", "what it said before still counts");
    let told = ci.get("/api/workers").await;
    let error = told["unread"]["error"].as_str().unwrap();
    assert!(error.starts_with("line 1 of ") && error.ends_with("what it said before still counts"), "{told}");
    assert!(told["unread"]["hint"].as_str().unwrap().contains("mend or remove it"), "{told}");
    assert!(ci.boss.said().contains("line 1 of "), "{}", ci.boss.said());
    std::fs::write(&toml, &line).unwrap();
    assert_eq!(ci.get("/api/workers").await.get("unread"), None);
}
