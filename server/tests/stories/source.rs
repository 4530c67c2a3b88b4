//! The source under test, from the disk to a worker: what a step sees, and what travels. The worker is one of these
//! tests' own, which runs nothing: what a step prints is the tree that it would have seen.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path as At, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, post, put};
use common::{BlobId, Manifest, MissingBlobs, TreeId};
use serde_json::{Value, json};
use sha2::Digest as _;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Semaphore;

use crate::ci::{Ci, Process, data_of, pipedef_of, write_pipedef};

/// A worker with a token of its own, which keeps what it is sent.
#[derive(Clone)]
struct Taker {
    base: String,
    kept: Arc<Mutex<Kept>>,
    /// A step of the command `wait` ends when there is one of these.
    turns: Arc<Semaphore>,
}

#[derive(Default)]
struct Kept {
    blobs: BTreeMap<BlobId, Bytes>,
    trees: BTreeMap<TreeId, Bytes>,
    /// In the order in which they came.
    asked: Vec<String>,
    /// By id: how many steps there were.
    steps: HashMap<String, usize>,
}

const TOKEN: &str = "a-token-of-its-own";

impl Taker {
    async fn start() -> Taker {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let taker = Taker { base, kept: Arc::default(), turns: Arc::new(Semaphore::new(0)) };
        let routes = Router::new()
            .route("/sources/missing", post(missing))
            .route("/blobs", put(blobs))
            .route("/trees/{id}", put(tree))
            .route("/run", post(run))
            .route("/steps/{id}", delete(|| async { "{}" }))
            .layer(DefaultBodyLimit::disable())
            .with_state(taker.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        taker
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// What it was asked since this was last called.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.kept().asked)
    }
}

fn is_ours(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|value| value == format!("Bearer {TOKEN}").as_str())
}

async fn missing(State(taker): State<Taker>, headers: HeaderMap, body: Bytes) -> Response {
    if !is_ours(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let tree = TreeId::of(&body);
    let mut kept = taker.kept();
    let mut missing: Vec<BlobId> =
        Manifest::parse(&body).unwrap().entries().map(|entry| entry.blob).collect();
    missing.retain(|id| !kept.blobs.contains_key(id));
    missing.sort();
    missing.dedup();
    let is_ready = kept.trees.contains_key(&tree);
    kept.asked.push(format!("missing: {}", missing.len()));
    axum::Json(MissingBlobs { tree, is_ready, missing }).into_response()
}

async fn blobs(State(taker): State<Taker>, headers: HeaderMap, body: Bytes) -> Response {
    if !is_ours(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut kept = taker.kept();
    let (mut rest, mut stored) = (body, 0);
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let head = String::from_utf8(rest.split_to(end + 1).to_vec()).unwrap();
        let (id, length) = head.trim_end().split_once(' ').unwrap();
        let bytes = rest.split_to(length.parse().unwrap());
        let sha1 = sha1::Sha1::new_with_prefix(format!("blob {length}\0")).chain_update(&bytes).finalize();
        let id: BlobId = id.parse().unwrap();
        if id != BlobId::Sha1(sha1.into()) {
            let refused =
                json!({ "error": format!("the blob {id} has other bytes"), "hint": "send it again" });
            return (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(refused)).into_response();
        }
        kept.asked.push(format!("blob: {}", String::from_utf8_lossy(&bytes).trim()));
        kept.blobs.insert(id, bytes);
        stored += 1;
    }
    axum::Json(json!({ "stored": stored })).into_response()
}

async fn tree(State(taker): State<Taker>, At(id): At<String>, headers: HeaderMap, body: Bytes) -> Response {
    if !is_ours(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let tree = TreeId::of(&body);
    assert_eq!(tree.as_str(), id);
    let mut kept = taker.kept();
    assert!(Manifest::parse(&body).unwrap().entries().all(|entry| kept.blobs.contains_key(&entry.blob)));
    kept.asked.push("tree".to_owned());
    kept.trees.insert(tree, body);
    axum::Json(json!({})).into_response()
}

/// Prints the tree, a line for each file.
async fn run(State(taker): State<Taker>, headers: HeaderMap, body: Bytes) -> Response {
    if !is_ours(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let spec: Value = serde_json::from_slice(&body).unwrap();
    let mut text = String::new();
    if let Some(source) = spec.get("source") {
        let tree = TreeId::try_from(source["tree"].as_str().unwrap().to_owned()).unwrap();
        let kept = taker.kept();
        let Some(manifest) = kept.trees.get(&tree) else {
            let refused = json!({ "error": "no such tree", "hint": "bring it", "reason": "unknown_tree" });
            return (StatusCode::CONFLICT, axum::Json(refused)).into_response();
        };
        for entry in Manifest::parse(manifest).unwrap().entries() {
            let path = format!("{}/{}", source["at"].as_str().unwrap(), String::from_utf8_lossy(entry.path));
            if !path.contains("/.bettertest/") {
                let bytes = String::from_utf8_lossy(&kept.blobs[&entry.blob]).into_owned();
                text.push_str(&format!("{path}: {}\n", bytes.trim()));
            }
        }
    }
    *taker.kept().steps.entry(spec["id"].to_string()).or_default() += 1;
    if spec["command"] == "wait" {
        taker.turns.acquire().await.unwrap().forget();
    }
    let exit = if spec["command"] == "fail" { 1 } else { 0 };
    let said = [
        json!({ "event": "queued" }),
        json!({ "event": "started", "container": "c", "image_digest": "sha256:0", "engine": "none" }),
        json!({ "event": "output", "stream": "stdout", "text": text }),
        json!({ "event": "exited", "exit_code": exit, "oom": false, "took_ms": 1, "signal": null, "cpu_ms": null,
            "peak_memory_bytes": null }),
    ];
    let frame = |(place, said): (usize, &Value)| format!("id: {}\ndata: {said}\n\n", place + 1);
    let text: String = said.iter().enumerate().map(frame).collect();
    ([("content-type", "text/event-stream")], Body::from(text)).into_response()
}

/// A boss for this pipedef, in a project without git until it is made one.
async fn ci_with(pipedef: &str) -> (Ci, Taker) {
    let taker = Taker::start().await;
    let ci = Ci::with(&pipedef.replace("{TAKER}", &taker.base)).await;
    let toml = data_of(ci.folder.path()).join("workers.toml");
    std::fs::write(toml, format!("\"{}\" = \"{TOKEN}\"\n", taker.base)).unwrap();
    // The file is read when a boss starts.
    let Ci { boss, .. } = ci;
    drop(boss);
    let boss = Ci::start_boss(ci.folder.path());
    (Ci { boss, ..ci }, taker)
}

fn write(ci: &Ci, name: &str, text: &str) {
    let path = project(ci).join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn project(ci: &Ci) -> std::path::PathBuf {
    ci.folder.path().join("project")
}

fn git(folder: &Path, words: &[&str]) {
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
    assert!(git.args(words).status().unwrap().success(), "{words:?}");
}

const ONE: &str = r#"
class One(Stage):
    def task_a(self): run("{TAKER}", IMAGE, "true", source_at="/app")
"#;

#[tokio::test]
async fn a_step_sees_the_files_as_they_are_and_only_what_is_new_travels() {
    let (ci, taker) = ci_with(ONE).await;
    git(&project(&ci), &["init", "-q", "-b", "main"]);
    write(&ci, ".gitignore", "*.log\n");
    write(&ci, "src/kept", "kept");
    write(&ci, "src/edited", "before");
    write(&ci, "src/deleted", "deleted");
    git(&project(&ci), &["add", "-A"]);
    git(&project(&ci), &["commit", "-q", "-m", "all"]);
    let first = ci.run().await;
    assert_eq!(first.words(), "passed");
    let clean = first.state.source.clone().unwrap();
    assert_eq!((clean.branch.as_deref(), clean.is_dirty, clean.files), (Some("main"), false, 5));
    assert_eq!(
        ci.output(first.number, "One.a").await,
        "/app/.gitignore: *.log\n/app/src/deleted: deleted\n/app/src/edited: before\n/app/src/kept: kept\n"
    );
    assert_eq!(taker.asked().iter().filter(|asked| asked.starts_with("blob: ")).count(), 5);

    write(&ci, "src/edited", "after");
    std::fs::remove_file(project(&ci).join("src/deleted")).unwrap();
    write(&ci, "src/untracked", "untracked");
    write(&ci, "src/ignored.log", "ignored");
    let second = ci.run().await;
    assert_eq!(
        ci.output(second.number, "One.a").await,
        "/app/.gitignore: *.log\n/app/src/edited: after\n/app/src/kept: kept\n/app/src/untracked: untracked\n"
    );
    let mut asked = taker.asked();
    asked.sort();
    assert_eq!(asked, ["blob: after", "blob: untracked", "missing: 2", "tree"]);
    let dirty = second.state.source.clone().unwrap();
    assert_eq!((dirty.commit == clean.commit, dirty.is_dirty, dirty.tree == clean.tree), (true, true, false));
    assert_eq!(ci.get(&format!("/api/runs/{}", second.number)).await["source"]["files"], 5);
}

#[tokio::test]
async fn what_is_edited_during_a_run_is_seen_by_the_next_one_alone() {
    let (ci, taker) = ci_with(
        r#"
class One(Stage):
    def task_waits(self): run("{TAKER}", IMAGE, "wait")

class Two(Stage):
    def task_sees(self): run("{TAKER}", IMAGE, "fail", source_at="/app")
"#,
    )
    .await;
    git(&project(&ci), &["init", "-q"]);
    write(&ci, "tracked", "before");
    git(&project(&ci), &["add", "-A"]);
    git(&project(&ci), &["commit", "-q", "-m", "all"]);
    write(&ci, "untracked", "before");
    let run = ci.start().await;
    write(&ci, "tracked", "after");
    write(&ci, "untracked", "after");
    taker.turns.add_permits(1);
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "failed: command_failed");
    let before = "/app/tracked: before\n/app/untracked: before\n";
    assert_eq!(ci.output(run, "Two.sees").await, before);

    // Also by another boss, on a worker that has lost everything.
    let Ci { boss, .. } = ci;
    drop(boss);
    let ci = Ci { boss: Ci::start_boss(ci.folder.path()), ..ci };
    *taker.kept() = Kept::default();
    assert_eq!(ci.post(&format!("/api/runs/{run}/rerun")).await.0, 200);
    let again = ci.follow(run, |_, _| false).await;
    assert_eq!(again.task("Two.sees"), "failed on attempt 2: command_failed");
    assert_eq!(ci.output(run, "Two.sees").await, before);

    taker.turns.add_permits(1);
    let next = ci.run().await;
    assert_eq!(ci.output(next.number, "Two.sees").await, "/app/tracked: after\n/app/untracked: after\n");
}

#[tokio::test]
async fn a_tree_that_the_worker_has_lost_in_the_middle_is_brought_again_once() {
    let (ci, taker) = ci_with(
        r#"
class One(Stage):
    def task_a(self):
        run("{TAKER}", IMAGE, "first", source_at="/app")
        run("{TAKER}", IMAGE, "wait")
        run("{TAKER}", IMAGE, "second", source_at="/app")
"#,
    )
    .await;
    write(&ci, "file", "file");
    let run = ci.start().await;
    let waits = |_: &common::RunState, fact: &common::RunFact| matches!(fact, common::RunFact::StepAsked { spec, .. } if spec.command.for_show() == "wait");
    ci.follow(run, waits).await;
    taker.kept().trees.clear();
    taker.turns.add_permits(1);
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "passed");
    assert_eq!(ci.output(run, "One.a").await, "/app/file: file\n/app/file: file\n");
    assert_eq!(taker.asked().iter().filter(|asked| *asked == "tree").count(), 2);
}

#[tokio::test]
async fn many_steps_at_once_bring_the_source_once_and_without_git_its_gitignore_is_obeyed() {
    let (ci, taker) = ci_with(
        r#"
class Many(Stage):
    pass

for number in range(12):
    def one(self, number=number): run("{TAKER}", IMAGE, f"echo {number}", source_at="/app")
    setattr(Many, f"task_n{number}", one)
"#,
    )
    .await;
    write(&ci, ".gitignore", "build/\n");
    write(&ci, "build/made", "ignored");
    write(&ci, "file", "file");
    let run = ci.run().await;
    assert_eq!(run.words(), "passed", "{}", run.summary());
    assert_eq!(ci.output(run.number, "Many.n7").await, "/app/.gitignore: build/\n/app/file: file\n");
    assert_eq!(taker.asked().iter().filter(|asked| *asked == "tree").count(), 1);
    assert_eq!(run.state.source.unwrap().commit, None);
}

#[tokio::test]
async fn where_there_is_no_source_it_is_said() {
    let taker = Taker::start().await;
    let folder = tempfile::tempdir().unwrap();
    let worker_less = ONE.replace("{TAKER}", &taker.base);
    write_pipedef(folder.path(), &worker_less, &taker.base);
    let alone = folder.path().join("project/pipedef.py");
    std::fs::rename(pipedef_of(folder.path()), &alone).unwrap();
    let data = data_of(folder.path());
    let boss = Process::start(&[
        "--boss",
        "--pipedef",
        alone.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    let token = std::fs::read_to_string(data.join("token")).unwrap().trim().to_owned();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let worker = Process::start(&[
        "--worker",
        "--engine",
        "fake",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    let ci = Ci { boss, worker, token, http, folder };
    let run = ci.run().await;
    assert_eq!(run.words(), "failed: spec_refused");
    let problem = run.problem("One.a");
    assert!(
        problem.error.contains("it lies neither in a git work tree nor in a folder .bettertest/"),
        "{problem:?}"
    );
    assert_eq!(run.state.source, None);
    assert!(taker.asked().is_empty());
}

#[tokio::test]
async fn without_source_at_nothing_is_looked_at_and_nothing_travels() {
    let (ci, taker) =
        ci_with("class One(Stage):\n    def task_a(self): run('{TAKER}', IMAGE, 'true')\n").await;
    let run = ci.run().await;
    assert_eq!((run.words().as_str(), run.state.source), ("passed", None));
    assert!(taker.asked().is_empty());
}
