//! How much of its history a boss keeps: the oldest go first, what runs stays, and a kill leaves no half of a run.

use common::{RunFact, RunNumber, RunSummary, StepEvent, Verdict};
use futures_util::StreamExt as _;
use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ci::{Ci, Process, data_of, pipedef_of, write_pipedef};
use crate::command::Project;
use crate::worker_dies::Dice;

const QUICK: &str = "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n";

fn boss_with(folder: &Path, flags: &[&str]) -> Process {
    let (data, pipedef) = (data_of(folder), pipedef_of(folder));
    let [data, pipedef] = [&data, &pipedef].map(|path| path.to_str().unwrap());
    let args = ["--boss", "--pipedef", pipedef, "--listen", "127.0.0.1:0", "--data-dir", data];
    Process::start(&[&args[..], flags].concat())
}

impl Ci {
    /// The next boss of this folder, with these flags.
    fn next_boss(&mut self, flags: &[&str]) {
        self.boss.signal(Signal::SIGKILL);
        self.boss.child.wait().unwrap();
        self.boss = boss_with(self.folder.path(), flags);
    }

    /// Follows the changes after `after` (or the latest) until these runs were removed; answers with the id of the
    /// last event.
    async fn removed(&self, after: Option<u64>, runs: &[u64]) -> u64 {
        let mut asked = self.ask(Method::GET, "/api/events");
        if let Some(after) = after {
            asked = asked.header("last-event-id", after.to_string());
        }
        let mut bytes = asked.send().await.unwrap().bytes_stream();
        let (mut text, mut told, mut last) = (String::new(), Vec::new(), 0);
        let follow = async {
            while let Some(piece) = bytes.next().await {
                text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
                while let Some((frame, rest)) = text.split_once("\n\n") {
                    let (frame, rest) = (frame.to_owned(), rest.to_owned());
                    text = rest;
                    let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
                    let Some(id) = field("id: ") else { continue };
                    let id: u64 = id.parse().unwrap();
                    assert!(id > last, "{id} after {last}");
                    last = id;
                    if field("event: ") == Some("removed") {
                        let data: serde_json::Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
                        told.push(data["run"].as_u64().unwrap());
                    }
                    if told == runs {
                        return last;
                    }
                }
            }
            panic!("only {told:?} were removed");
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, follow).await.unwrap_or_else(|_| panic!("{runs:?} are not removed"))
    }

    async fn listed(&self) -> Vec<u64> {
        let page = self.get("/api/runs").await;
        page["runs"].as_array().unwrap().iter().map(|run| run["run"].as_u64().unwrap()).collect()
    }
}

fn store_of(folder: &Path) -> Connection {
    Connection::open(data_of(folder).join("boss/runs.sqlite")).unwrap()
}

fn count(store: &Connection, what: &str) -> usize {
    store.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
}

fn outputs_of(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data_of(folder).join("boss/output")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A removal is told when lists do not have the run any more. Its output goes after that.
async fn outputs_become(folder: &Path, runs: &[&str]) {
    let asked = Instant::now();
    while outputs_of(folder) != runs {
        assert!(asked.elapsed() < Duration::from_secs(120), "{:?}, not {runs:?}", outputs_of(folder));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_oldest_go_first_and_are_said_to_be_gone() {
    let mut ci = Ci::with(QUICK).await;
    for _ in 0..4 {
        assert_eq!(ci.run().await.words(), "passed");
    }
    ci.next_boss(&["--keep-runs", "2"]);
    let last = ci.removed(None, &[1, 2]).await;
    assert_eq!(ci.listed().await, [4, 3]);
    for path in ["", "/events", "/tasks/One.a/output", "/tasks/One.a/output/index"] {
        let asked = ci.ask(Method::GET, &format!("/api/runs/1{path}")).send().await.unwrap();
        assert_eq!(asked.status(), StatusCode::GONE, "{path}");
        assert!(asked.text().await.unwrap().contains("run 1 was removed"), "{path}");
    }
    for act in ["cancel", "rerun"] {
        assert_eq!(ci.post(&format!("/api/runs/2/{act}")).await.0, StatusCode::GONE, "{act}");
    }
    let never = ci.ask(Method::GET, "/api/runs/5").send().await.unwrap();
    assert_eq!(never.status(), StatusCode::NOT_FOUND);
    // Who was away is told of what went since, and only of that.
    assert_eq!(ci.run().await.number, 5);
    ci.removed(Some(last), &[3]).await;
    assert_eq!(ci.listed().await, [5, 4]);
    assert_eq!(ci.output(5, "One.a").await, "x\n");

    // However old and large: the last one stays, and no number comes twice.
    ci.next_boss(&["--keep-bytes", "0"]);
    ci.removed(None, &[1, 2, 3, 4]).await;
    assert_eq!(ci.listed().await, [5]);
    outputs_become(ci.folder.path(), &["5"]).await;
    assert_eq!(ci.run().await.number, 6);
    let store = store_of(ci.folder.path());
    let whole: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!((whole.as_str(), count(&store, "pragma_foreign_key_check")), ("ok", 0));
    assert_eq!(count(&store, "event WHERE run < 5") + count(&store, "pipedef_file WHERE run < 5"), 0);
}

#[tokio::test]
async fn bytes_and_age_are_limits_too() {
    let mut ci =
        Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'flood 400000')\n").await;
    for _ in 0..4 {
        ci.run().await;
    }
    ci.next_boss(&["--keep-bytes", "1000000"]);
    ci.removed(None, &[1, 2]).await;
    assert_eq!(ci.listed().await, [4, 3]);
    outputs_become(ci.folder.path(), &["3", "4"]).await;
    ci.boss.signal(Signal::SIGKILL);
    ci.boss.child.wait().unwrap();
    // Without a sum: as an older bettertest wrote it.
    let old = "UPDATE run SET summary = json_set(summary, '$.ended_at_ms', 7), sum = NULL WHERE number = 3";
    assert_eq!(store_of(ci.folder.path()).execute(old, []).unwrap(), 1);
    // As a disk leaves it that has forgotten a removal.
    std::fs::create_dir(data_of(ci.folder.path()).join("boss/output/1")).unwrap();
    ci.boss = boss_with(ci.folder.path(), &[]);
    ci.removed(None, &[1, 2, 3]).await;
    assert_eq!(ci.listed().await, [4]);
    outputs_become(ci.folder.path(), &["4"]).await;
}

/// As a disk does it of which one bit tips over: the last event is another's now. Nobody is told that the run goes on.
#[tokio::test]
async fn a_run_whose_end_is_lost_is_refused() {
    let mut ci = Ci::with(QUICK).await;
    for _ in 0..2 {
        assert_eq!(ci.run().await.words(), "passed");
    }
    ci.boss.signal(Signal::SIGKILL);
    ci.boss.child.wait().unwrap();
    let store = store_of(ci.folder.path());
    store.pragma_update(None, "foreign_keys", false).unwrap();
    let lost = "UPDATE event SET run = 3 WHERE run = 1 AND seq = (SELECT max(seq) FROM event WHERE run = 1)";
    assert_eq!(store.execute(lost, []).unwrap(), 1);
    drop(store);
    ci.boss = boss_with(ci.folder.path(), &[]);
    for path in ["", "/events", "/tasks/One.a/output"] {
        let answer = ci.ask(Method::GET, &format!("/api/runs/1{path}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        let problem: common::Problem = answer.json().await.unwrap();
        assert!(problem.error.contains("run 1 is ended, but of its events, 7 in all"), "{problem:?}");
        assert!(problem.hint.is_some_and(|hint| hint.contains("restore a backup")));
    }
    let (status, _) = ci.post("/api/runs/1/rerun").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    // The others are as they were, and go on.
    assert_eq!(ci.follow(2, |_, _| false).await.words(), "passed");
    assert_eq!(ci.listed().await, [2, 1]);
}

#[tokio::test]
async fn what_runs_is_not_removed() {
    let mut ci =
        Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x; sleep 100')\n").await;
    ci.next_boss(&["--keep-runs", "1"]);
    let long = ci.start().await;
    ci.follow(long, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    ci.rewrite(QUICK);
    for _ in 0..3 {
        ci.run().await;
    }
    ci.removed(None, &[2, 3]).await;
    assert_eq!(ci.listed().await, [4, long]);
    ci.post(&format!("/api/runs/{long}/cancel")).await;
    ci.removed(None, &[2, 3, 4]).await;
    assert_eq!(ci.listed().await, [long]);
    assert_eq!(ci.output(long, "One.a").await, "x\n");
}

const EVENTS: u64 = 2500;

/// Runs that have ended, as far as lists and retention see it, with output beside them.
fn fill(store: &Connection, output: Option<&Path>, runs: u64, events: u64) {
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let begin = store.unchecked_transaction().unwrap();
    for number in 1..=runs {
        let summary = RunSummary {
            run: RunNumber(number),
            state: "ended".to_owned(),
            started_by: None,
            verdict: Some(Verdict::Passed),
            headline: "passed".to_owned(),
            partial: false,
            tasks: 1,
            tasks_passed: 1,
            started_at_ms: now_ms,
            ended_at_ms: Some(now_ms),
        };
        let insert = "INSERT INTO run (number, key, state, summary, changed, pipedef, size_bytes)
             VALUES (?3, ?1, 'ended', ?2, ?3, '/p', 100)";
        let key = format!("{number:032x}");
        store.execute(insert, params![key, serde_json::to_string(&summary).unwrap(), number]).unwrap();
        let mut insert =
            store.prepare_cached("INSERT INTO event (run, seq, event) VALUES (?1, ?2, ?3)").unwrap();
        for seq in 1..=events {
            insert
                .execute(params![number, seq, "{\"an\":\"event, as far as a list is concerned\"}"])
                .unwrap();
        }
        if let Some(output) = output {
            std::fs::create_dir_all(output.join(number.to_string())).unwrap();
            std::fs::write(output.join(number.to_string()).join("0-1.out"), "x").unwrap();
        }
    }
    begin.commit().unwrap();
}

#[tokio::test]
async fn killed_while_it_removes_a_boss_leaves_no_half_of_a_run() {
    const RUNS: usize = 40;
    let mut dice = Dice::fresh("killed while it removes");
    let folder = tempfile::tempdir().unwrap();
    write_pipedef(folder.path(), QUICK, "http://127.0.0.1:1");
    drop(boss_with(folder.path(), &[]));
    let store = store_of(folder.path());
    let output: PathBuf = data_of(folder.path()).join("boss/output");
    fill(&store, Some(&output), RUNS as u64, EVENTS);
    let mut in_between = 0;
    // Each lives a little longer than the one before, so that one of the first to remove anything is killed amidst it.
    for life in 0.. {
        let mut boss = boss_with(folder.path(), &["--keep-runs", "1"]);
        std::thread::sleep(std::time::Duration::from_millis(life * 2 + dice.below(3)));
        boss.signal(Signal::SIGKILL);
        boss.child.wait().unwrap();
        let listed = count(&store, "run WHERE removing = 0");
        in_between += usize::from((2..RUNS).contains(&listed));
        let halves =
            format!("run WHERE removing = 0 AND {EVENTS} != (SELECT count(*) FROM event WHERE run = number)");
        assert_eq!(count(&store, &halves), 0);
        let kept = outputs_of(folder.path());
        let mut numbers = store.prepare("SELECT number FROM run WHERE removing = 0").unwrap();
        for number in numbers.query_map([], |row| row.get::<_, u64>(0)).unwrap() {
            assert!(kept.contains(&number.unwrap().to_string()));
        }
        if listed == 1 && count(&store, "run") == 1 {
            break;
        }
    }
    assert!(in_between > 0, "each was removed in one go");
    assert_eq!(count(&store, "event"), EVENTS as usize);
    assert_eq!(outputs_of(folder.path()), [RUNS.to_string()]);
    assert_eq!(count(&store, "pragma_foreign_key_check"), 0);
}

#[test]
fn a_projects_own_history_is_kept_within_limits() {
    let project = Project::with_fake_engine(QUICK);
    assert!(project.run(&[]).status.success());
    let local = std::fs::read_dir(data_of(project.folder.path()).join("local")).unwrap();
    let local = local.map(|entry| entry.unwrap().path()).next().unwrap();
    let store = Connection::open(local.join("runs.sqlite")).unwrap();
    store.execute_batch("DELETE FROM event; DELETE FROM pipedef_file; DELETE FROM run;").unwrap();
    fill(&store, None, 1010, 1);
    // It is done beside the runs, so one alone may be too quick for it.
    for _ in 0..20 {
        assert!(project.run(&[]).status.success());
        if count(&store, "run") <= 1001 {
            break;
        }
    }
    assert!(count(&store, "run") <= 1001);
    let gone = project.command_of("rerun", &["1"]).output().unwrap();
    crate::command::refused(&gone, "run 1 was removed");
}

/// How long it takes to page through a long history: by hand, as the figures are of the machine.
#[tokio::test]
#[ignore = "measures"]
#[expect(clippy::print_stderr, reason = "the figures are what it is for")]
async fn a_list_of_100_000_runs() {
    let mut ci = Ci::with(QUICK).await;
    ci.boss.signal(Signal::SIGKILL);
    ci.boss.child.wait().unwrap();
    fill(&store_of(ci.folder.path()), None, 100_000, 1);
    ci.boss = boss_with(ci.folder.path(), &[]);
    for (place, path) in
        [("first", "/api/runs"), ("middle", "/api/runs?before=50000"), ("last", "/api/runs?before=51")]
    {
        let mut took = Vec::new();
        for _ in 0..50 {
            let began = std::time::Instant::now();
            assert_eq!(ci.get(path).await["runs"].as_array().unwrap().len(), 50);
            took.push(began.elapsed());
        }
        took.sort();
        eprintln!("{place} page: median {:?}, slowest of 50 {:?}", took[25], took[49]);
    }
}
