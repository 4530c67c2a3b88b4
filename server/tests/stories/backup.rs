//! `bettertest backup` under load, and what is restored of it: the same history, and no other's steps.

use common::{RunFact, StepEvent};
use nix::sys::signal::Signal;
use reqwest::Method;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use crate::ci::{BINARY, Ci, Told, data_of, pipedef_of};
use crate::command::{err, out, refused};

const PIPEDEF: &str = r#"
class One(Stage):
    def task_loud(self):
        for n in range(4):
            run(WORKER, IMAGE, f"flood 30000; print {n}")

    def task_red(self):
        run(WORKER, IMAGE, "print why; exit 3")
"#;

const LONG: &str = r#"
class One(Stage):
    def task_long(self):
        run(WORKER, IMAGE, "print begun; sleep 3; print over")
"#;

fn command(name: &str, file: &Path, data: &Path) -> Output {
    Command::new(BINARY).arg(name).arg(file).arg("--data-dir").arg(data).output().unwrap()
}

/// All that can be asked of a run that has ended: its facts, and what there is of its outputs.
async fn everything(ci: &Ci, run: u64) -> (Vec<RunFact>, BTreeMap<String, String>) {
    let Told { state, mut log, .. } = ci.follow(run, |_, _| false).await;
    // It is another history, so its runs have other keys.
    if let Some(RunFact::RunStarted { key, .. }) = log.first_mut() {
        *key = common::RunKey::from_random(0);
    }
    let mut outputs = BTreeMap::new();
    for task in state.tasks() {
        for part in ["output", "output/index"] {
            let path = format!("/api/runs/{run}/tasks/{}/{part}", task.id);
            let answer = ci.ask(Method::GET, &path).send().await.unwrap();
            if answer.status().is_success() {
                outputs.insert(path, answer.text().await.unwrap());
            }
        }
    }
    (log, outputs)
}

#[tokio::test]
async fn a_backup_under_load_is_restored_whole_and_disturbs_nobody() {
    let mut ci = Ci::with(PIPEDEF).await;
    for _ in 0..3 {
        ci.run().await;
    }
    ci.rewrite(LONG);
    let long = ci.start().await;
    ci.follow(long, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    ci.rewrite(PIPEDEF);
    let mut started = Vec::new();
    for _ in 0..6 {
        started.push(ci.start().await);
    }
    let (file, data) = (ci.folder.path().join("backup.tar"), data_of(ci.folder.path()));
    let written = tokio::task::spawn_blocking({
        let (file, data) = (file.clone(), data.clone());
        move || command("backup", &file, &data)
    });
    let written = written.await.unwrap();
    assert!(written.status.success(), "{}", err(&written));
    assert!(out(&written).contains("10 runs, "), "{}", out(&written));
    refused(&command("backup", &file, &data), "is there already");
    refused(&command("restore", &file, &data), "is in use by process");
    for run in started {
        assert_eq!(ci.follow(run, |_, _| false).await.words(), "failed: command_failed");
    }
    // Beside the boss that it was taken of, which goes on.
    let elsewhere = tempfile::tempdir().unwrap();
    let to = data_of(elsewhere.path());
    let restored = command("restore", &file, &to);
    assert!(restored.status.success(), "{}", err(&restored));
    assert!(out(&restored).contains("10 runs, "), "{}", out(&restored));
    refused(&command("restore", &file, &to), "has a history already");
    let store = Connection::open(to.join("boss/runs.sqlite")).unwrap();
    let whole: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let line = format!("\"{}\" = \"{}\"\n", ci.worker.base, ci.token);
    std::fs::write(to.join("workers.toml"), line).unwrap();
    std::fs::create_dir_all(pipedef_of(elsewhere.path()).parent().unwrap()).unwrap();
    std::fs::copy(pipedef_of(ci.folder.path()), pipedef_of(elsewhere.path())).unwrap();
    let boss = Ci::start_boss(elsewhere.path());
    let token = std::fs::read_to_string(to.join("token")).unwrap().trim().to_owned();
    let other = std::mem::replace(&mut ci.boss, boss);
    let other_token = std::mem::replace(&mut ci.token, token);
    let mut here = Vec::new();
    let ended = "SELECT number FROM run WHERE state = 'ended' ORDER BY number";
    let mut numbers = store.prepare(ended).unwrap();
    for number in numbers.query_map([], |row| row.get::<_, u64>(0)).unwrap() {
        let number = number.unwrap();
        here.push((number, everything(&ci, number).await));
    }
    assert_eq!(here.len(), 10, "every run has ended here");
    // A re-run here finds no step of a re-run there.
    let known = ci.ask_worker(&other_token).await;
    ci.post("/api/runs/1/rerun").await;
    let again = ci.follow(1, |_, _| false).await;
    assert!(again.task("One.red").starts_with("failed on attempt 2"), "{}", again.summary());
    assert_eq!(ci.ask_worker(&other_token).await, known + 1);

    drop(std::mem::replace(&mut ci.boss, other));
    ci.token = other_token.clone();
    // Nobody has touched what ran there.
    let undisturbed = ci.follow(long, |_, _| false).await;
    assert_eq!(undisturbed.words(), "passed");
    assert_eq!(ci.output(long, "One.long").await, "begun\nover\n");
    ci.post("/api/runs/1/rerun").await;
    ci.follow(1, |_, _| false).await;
    assert_eq!(ci.ask_worker(&other_token).await, known + 2);
    let mut compared = 0;
    for (number, (log, outputs)) in here.iter().filter(|(number, _)| *number > 1) {
        let there = everything(&ci, *number).await;
        if log.last() == there.0.last() {
            assert!((log, outputs) == (&there.0, &there.1), "run {number}");
            compared += 1;
        } else {
            let Some(RunFact::RunEnded { verdict }) = log.last() else { panic!("run {number} goes on") };
            assert_eq!(verdict.outcome(), common::Outcome::Errored, "run {number}");
            for (path, here) in outputs {
                assert!(there.1[path].starts_with(here.as_str()), "{path}");
            }
        }
    }
    assert!(compared >= 2, "those that had ended before are equal");
}

impl Ci {
    /// How many steps the worker knows.
    async fn ask_worker(&self, token: &str) -> usize {
        let asked = self.http.get(format!("{}/steps", self.worker.base)).bearer_auth(token).send();
        let steps: serde_json::Value = asked.await.unwrap().json().await.unwrap();
        steps.as_array().unwrap().len()
    }
}

#[tokio::test]
async fn what_cannot_be_backed_up_or_restored_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("backup.tar"), folder.path().join("data"));
    refused(&command("backup", &file, &data), "no boss has run");
    refused(&command("restore", &file, &data), "cannot be restored");
    std::fs::write(&file, "a letter to my aunt").unwrap();
    refused(&command("restore", &file, &data), "cannot be restored");
    assert!(!data.join("boss/runs.sqlite").exists());
    let mut ci = Ci::with(PIPEDEF).await;
    ci.run().await;
    // Also of a boss that does not run.
    ci.boss.signal(Signal::SIGKILL);
    ci.boss.child.wait().unwrap();
    std::fs::remove_file(&file).unwrap();
    let written = command("backup", &file, &data_of(ci.folder.path()));
    assert!(written.status.success(), "{}", err(&written));
    let mut bytes = std::fs::read(&file).unwrap();
    let page = bytes.windows(15).rposition(|window| window == b"SQLite format 3").unwrap() + 4096;
    bytes[page..page + 4096].fill(0x5a);
    std::fs::write(&file, bytes).unwrap();
    refused(&command("restore", &file, &data), "its store is damaged");
    assert!(!data.join("boss/runs.sqlite").exists());
    ci.boss = Ci::start_boss(ci.folder.path());
}

#[tokio::test]
async fn a_boss_does_not_begin_on_a_damaged_store() {
    let mut ci = Ci::with(PIPEDEF).await;
    ci.run().await;
    let path = data_of(ci.folder.path()).join("boss/runs.sqlite");
    let (data, pipedef) = (data_of(ci.folder.path()), pipedef_of(ci.folder.path()));
    ci.boss.signal(Signal::SIGTERM);
    ci.boss.child.wait().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let log = path.with_extension("sqlite-wal");
    assert!(
        std::fs::metadata(&log).map_or(0, |log| log.len()) == 0,
        "it was told to stop, and has tidied up"
    );
    let mut bytes = whole.clone();
    bytes[4096..].fill(0xee);
    std::fs::write(&path, &bytes).unwrap();
    // As one leaves it that was killed.
    std::fs::write(&log, "x").unwrap();
    let start = || {
        let mut boss = Command::new(BINARY);
        boss.args(["--boss", "--listen", "127.0.0.1:0", "--pipedef"]).arg(&pipedef);
        boss.arg("--data-dir").arg(&data).output().unwrap()
    };
    let said = start();
    refused(&said, "is damaged");
    assert!(err(&said).contains("bettertest restore"), "{}", err(&said));
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "it is as it was");
    std::fs::write(&path, whole).unwrap();
    ci.boss = Ci::start_boss(ci.folder.path());
    assert_eq!(ci.follow(1, |_, _| false).await.words(), "failed: command_failed");
}
