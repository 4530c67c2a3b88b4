//! How the workers are, as the boss tells it to whoever asks.

use serde_json::json;

use crate::ci::Ci;

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
