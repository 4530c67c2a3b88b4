//! A worker that says odd things: whatever it says, the run ends, and it does not end green.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ci::{Ci, Told};

/// What is answered to the first request for a step, and to each later one, by status line and body.
struct Script {
    first: &'static str,
    later: (&'static str, &'static str),
}

/// Serves the script on a port of loopback for as long as the test lives; counts the requests.
fn serve(script: Script) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            answer(stream, &script, &counted);
        }
    });
    (address, count)
}

fn answer(mut stream: TcpStream, script: &Script, count: &AtomicUsize) {
    let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = head.next() else { return };
    let (status, body) = if request.starts_with("DELETE") {
        ("200 OK", "{}")
    } else if count.fetch_add(1, Ordering::SeqCst) == 0 {
        ("200 OK", script.first)
    } else {
        script.later
    };
    // A client that has gone is no concern of a worker's.
    drop(write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}"
    ));
}

const STARTED: &str = "id: 19\ndata: {\"event\":\"queued\"}\n\nid: 99\ndata: {\"event\":\"started\",\"container\":\"c\",\"image_digest\":\"sha256:0\",\"engine\":\"odd\"}\n\n";

/// A run with one step on the odd worker, whose every error is caught, and a good one on a real worker.
async fn run_with(script: Script) -> (Told, usize) {
    let (odd, count) = serve(script);
    let ci = Ci::with(&format!(
        r#"
from bettertest import BettertestError

class One(Stage):
    def task_odd(self):
        try:
            run("{odd}", IMAGE, "true")
        except BettertestError:
            pass
        run(WORKER, IMAGE, "print fine")
"#
    ))
    .await;
    (ci.run().await, count.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_step_that_it_no_longer_takes_is_not_the_pipedefs_mistake() {
    let later =
        ("422 Unprocessable Entity", "{\"error\":\"no event of the step ends at 99\",\"hint\":\"h\"}");
    let (run, _) = run_with(Script { first: STARTED, later }).await;
    assert_eq!(run.task("One.odd"), "errored: worker_lost");
}

#[tokio::test]
async fn an_end_without_a_beginning_is_not_believed() {
    let ended = "id: 19\ndata: {\"event\":\"queued\"}\n\nid: 99\ndata: {\"event\":\"exited\",\"exit_code\":0,\"oom\":false,\"took_ms\":1,\"signal\":null,\"cpu_ms\":null,\"peak_memory_bytes\":null}\n\n";
    let (run, _) = run_with(Script { first: ended, later: ("500 Oh", "") }).await;
    assert_eq!(run.task("One.odd"), "errored: worker_broken");
}

#[tokio::test]
async fn what_is_no_event_is_not_believed() {
    for body in [
        "id: 19\ndata: {\"event\":\"green\"}\n\n",
        "data: {\"event\":\"queued\"}\n\n",
        "id: 18446744073709551615\ndata: {\"event\":\"queued\"}\n\n",
    ] {
        let (run, _) = run_with(Script { first: body, later: ("500 Oh", "") }).await;
        assert_eq!(run.task("One.odd"), "errored: worker_broken", "{body}");
    }
}

/// A stream that opens and says nothing is asked again with pauses, and given up after a minute.
#[tokio::test]
async fn an_empty_stream_is_no_life() {
    let (run, requests) = run_with(Script { first: STARTED, later: ("200 OK", "") }).await;
    assert_eq!(run.task("One.odd"), "errored: worker_lost");
    assert!(requests < 100, "{requests} requests in a minute");
}

/// A worker that keeps these files, and after that ends well. Whatever is asked of it later, it sends `other bytes`.
async fn run_keeping(files: &str) -> Told {
    let told = format!(
        "{STARTED}id: 200\ndata: {{\"event\":\"artifacts\",\"files\":[{files}],\"left_out\":0,\"problem\":null}}\n\n\
         id: 300\ndata: {{\"event\":\"exited\",\"exit_code\":0,\"oom\":false,\"took_ms\":1,\"signal\":null,\"cpu_ms\":null,\"peak_memory_bytes\":null}}\n\n"
    );
    run_with(Script { first: told.leak(), later: ("200 OK", "other bytes") }).await.0
}

/// Of `other bytes`.
const THEIRS: &str = "a3ead5eedad5df82318c51685dbc1c147a36d1ff8584fc82de6b08d0bf63a795";

#[tokio::test]
async fn files_that_are_not_what_was_told_are_not_kept_and_change_no_verdict() {
    let file = |path: &str, size: u64, sha256: &str| {
        serde_json::json!({"path": path, "size_bytes": size, "sha256": sha256}).to_string()
    };
    let other = "0".repeat(64);
    let files = [file("good", 11, THEIRS), file("longer", 12, THEIRS), file("bad", 11, &other)].join(",");
    let run = run_keeping(&files).await;
    assert_eq!(run.task("One.odd"), "passed");
    let task = run.state.tasks().find(|task| task.id.to_string() == "One.odd").unwrap();
    let kept = task.attempts[0].steps[0].artifacts.as_ref().unwrap();
    let paths: Vec<&str> = kept.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!((paths, kept.left_out), (vec!["good"], 2));
    let problem = kept.problem.as_ref().unwrap();
    assert!(
        problem.contains("longer: other bytes came") && problem.contains("bad: other bytes came"),
        "{problem}"
    );
    for path in ["../up", "a//b", "/", "a\nb"] {
        let run = run_keeping(&file(path, 11, THEIRS)).await;
        assert_eq!(run.task("One.odd"), "errored: worker_broken", "{path:?}");
    }
}

#[tokio::test]
async fn a_forged_discovery_harms_nobody() {
    let ci = Ci::with(
        r#"
import json, os
twice = {"name": "One", "always": False, "tasks": [{"name": "a"}, {"name": "a"}]}
said = {"say": "discovered", "pipeline": {"stages": [twice]}, "files": {}, "python": "python3", "addresses": []}
os.write(3, (json.dumps(said) + "\n").encode())
"#,
    )
    .await;
    let (status, problem) = ci.post("/api/runs").await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["error"].as_str().unwrap().contains("two tasks One.a"), "{problem}");
    assert_eq!(ci.get("/api/runs").await["runs"], serde_json::json!([]));
}
