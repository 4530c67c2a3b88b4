//! Several at once: runs, bosses, stores and cancels that meet, none of which disturbs another.

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::json;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ci::{BINARY, Ci, Process, data_of, pipedef_of};
use crate::command::{out, refused};

const MIXED: &str = r#"
class One(Stage):
    def task_good(self):
        for n in range(4):
            run(WORKER, IMAGE, "sleep 0.1; print fine")

    def task_bad(self):
        run(WORKER, IMAGE, "sleep 0.2; exit 4")
"#;

fn local(ci: &Ci, task: &str) -> Child {
    let mut command = Command::new(BINARY);
    command.args(["run", "--task", task, "--data-dir"]).arg(data_of(ci.folder.path()));
    command.current_dir(ci.folder.path().join("project")).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[tokio::test]
async fn local_runs_and_two_bosses_on_one_worker_do_not_disturb_each_other() {
    let ci = Ci::with(MIXED).await;
    // Another boss, with data and a token of its own, that knows the worker's.
    let other = tempfile::tempdir().unwrap();
    let data = other.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("workers.toml"), format!("\"{}\" = \"{}\"\n", ci.worker.base, ci.token))
        .unwrap();
    let pipedef = pipedef_of(ci.folder.path());
    let [data_text, pipedef] = [&data, &pipedef].map(|path| path.to_str().unwrap());
    let second =
        Process::start(&["--boss", "--pipedef", pipedef, "--listen", "127.0.0.1:0", "--data-dir", data_text]);
    let token = std::fs::read_to_string(data.join("token")).unwrap();

    let locals = [local(&ci, "good"), local(&ci, "bad"), local(&ci, "good")];
    let start = |base: &str, token: &str| {
        ci.http.post(format!("{base}/api/runs")).bearer_auth(token.trim()).json(&json!({})).send()
    };
    for _ in 0..2 {
        let (here, there) = tokio::join!(start(&ci.boss.base, &ci.token), start(&second.base, &token));
        assert_eq!(
            (here.unwrap().status(), there.unwrap().status()),
            (StatusCode::CREATED, StatusCode::CREATED)
        );
    }
    let expected = "failed: command_failed\nOne.good passed\nOne.bad failed: command_failed";
    for run in 1..=2 {
        assert_eq!(ci.follow(run, |_, _| false).await.summary(), expected);
        assert_eq!(ci.output(run, "One.good").await, "fine\n".repeat(4));
    }
    for (child, (code, words)) in locals.into_iter().zip([(0, "passed"), (1, "failed"), (0, "passed")]) {
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{}", out(&ended));
        assert!(out(&ended).contains(words), "{}", out(&ended));
        assert!(out(&ended).contains("(1 of 2 tasks)"), "{}", out(&ended));
    }
    let theirs = |run: u64| {
        let url = format!("{}/api/runs/{run}", second.base);
        ci.http.get(url).bearer_auth(token.trim()).send()
    };
    for run in 1..=2 {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let view: serde_json::Value = theirs(run).await.unwrap().json().await.unwrap();
            if view["state"] == "ended" {
                assert_eq!(view["headline"], "failed: command_failed", "{view}");
                break;
            }
            assert!(Instant::now() < deadline, "{view}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let left = std::fs::read_dir(data_of(ci.folder.path()).join("local")).unwrap();
    let runs = left.flatten().map(|project| std::fs::read_dir(project.path().join("runs")).unwrap().count());
    assert_eq!(runs.sum::<usize>(), 0, "local runs have left their folders");
}

#[test]
fn of_twenty_bosses_one_wins_and_the_others_name_it() {
    let folder = tempfile::tempdir().unwrap();
    crate::ci::write_pipedef(folder.path(), MIXED, "http://127.0.0.1:9");
    let began = Instant::now();
    let mut bosses: Vec<Child> = (0..20)
        .map(|_| {
            let mut command = Command::new(BINARY);
            command.args(["--boss", "--listen", "127.0.0.1:0", "--pipedef"]).arg(pipedef_of(folder.path()));
            command.arg("--data-dir").arg(data_of(folder.path())).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let deadline = began + Duration::from_secs(120);
    let alive = |bosses: &mut Vec<Child>| -> Vec<u32> {
        let running =
            bosses.iter_mut().filter_map(|boss| boss.try_wait().unwrap().is_none().then(|| boss.id()));
        running.collect()
    };
    while alive(&mut bosses).len() > 1 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let winner = alive(&mut bosses);
    let [winner] = winner[..] else { panic!("{winner:?} are all there") };
    for boss in &mut bosses {
        let mut said = String::new();
        if boss.id() == winner {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(winner as i32), Signal::SIGINT).unwrap();
            boss.wait().unwrap();
            continue;
        }
        boss.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(boss.wait().unwrap().code(), Some(2), "{said}");
        let holder = said.contains(&format!("in use by process {winner}")) || said.contains("(unknown)");
        assert!(holder && said.contains("\nhint: "), "{said}");
    }
}

/// Starts a boss that has to refuse; returns what it said.
fn refusing_boss(folder: &Path) -> std::process::Output {
    let mut command = Command::new(BINARY);
    command.args(["--boss", "--listen", "127.0.0.1:0", "--pipedef"]).arg(pipedef_of(folder));
    command.arg("--data-dir").arg(data_of(folder)).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it started: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn a_store_that_is_not_ours_to_use_is_refused_and_left_alone() {
    let mut ci = Ci::with(MIXED).await;
    ci.run().await;
    ci.boss.signal(Signal::SIGINT);
    ci.boss.child.wait().unwrap();
    let store = data_of(ci.folder.path()).join("boss/runs.sqlite");
    let sound = std::fs::read(&store).unwrap();
    // The version stands in the header, at byte 60; the pages of the schema and of the tables after it.
    let mut newer = sound.clone();
    newer[60..64].copy_from_slice(&999u32.to_be_bytes());
    let mut corrupt = sound.clone();
    corrupt[4096..].fill(0xa5);
    let cases: [(&str, &[u8], &str); 4] = [
        ("emptied", b"", "runs.sqlite is empty"),
        ("newer", &newer, "newer"),
        ("a corrupt page", &corrupt, "malformed"),
        ("no database", b"this is no database, however long one looks at it", "runs.sqlite"),
    ];
    for (name, bytes, part) in cases {
        std::fs::write(&store, bytes).unwrap();
        let began = Instant::now();
        refused(&refusing_boss(ci.folder.path()), part);
        assert!(began.elapsed() < Duration::from_secs(60), "{name}: {:?}", began.elapsed());
        assert!(std::fs::read(&store).unwrap() == bytes, "{name}: the file was touched");
    }
    std::fs::remove_file(&store).unwrap();
    std::fs::create_dir(&store).unwrap();
    refused(&refusing_boss(ci.folder.path()), "runs.sqlite");
    assert!(store.is_dir());
    // And the sound one goes on.
    std::fs::remove_dir(&store).unwrap();
    std::fs::write(&store, sound).unwrap();
    ci.boss = Ci::start_boss(ci.folder.path());
    assert_eq!(ci.get("/api/runs").await["runs"][0]["headline"], "failed: command_failed");
}

/// Cancels before, at and after every transition, twice each: one outcome, and it stays.
#[tokio::test]
async fn a_cancel_at_any_moment_has_one_outcome() {
    let ci = Ci::with(
        r#"
class One(Stage):
    def task_a(self):
        run(WORKER, IMAGE, "print x; sleep 0.05")
        run(WORKER, IMAGE, "print y")

    def task_b(self):
        run(WORKER, IMAGE, "sleep 0.1")

class Two(Stage):
    def task_c(self):
        run(WORKER, IMAGE, "print z")
"#,
    )
    .await;
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for turn in 0..24u64 {
        let run = ci.start().await;
        // From before the first process to after the end, in uneven steps.
        tokio::time::sleep(Duration::from_millis(turn * turn * 2 + turn * 7)).await;
        let cancel = format!("/api/runs/{run}/cancel");
        let (first, second) = tokio::join!(ci.post(&cancel), ci.post(&cancel));
        assert_eq!((first.0, second.0), (StatusCode::OK, StatusCode::OK));
        let told = ci.follow(run, |_, _| false).await;
        let ends = told.log.iter().filter(|fact| matches!(fact, common::RunFact::RunEnded { .. })).count();
        assert_eq!(ends, 1, "{}", told.summary());
        let words = told.words();
        assert!(["passed", "cancelled: cancel_asked"].contains(&words.as_str()), "{}", told.summary());
        // Later ones change nothing, and answer with the final state.
        let (status, view) = ci.post(&cancel).await;
        assert_eq!((status, view["headline"].as_str()), (StatusCode::OK, Some(words.as_str())));
        assert_eq!(ci.follow(run, |_, _| false).await.log, told.log);
        *seen.entry(words).or_default() += 1;
    }
    assert!(seen.contains_key("cancelled: cancel_asked"), "{seen:?}");
    let steps = ci.http.get(format!("{}/steps", ci.worker.base)).bearer_auth(&ci.token).send().await.unwrap();
    let steps = steps.text().await.unwrap();
    assert!(!steps.contains("\"running\"") && !steps.contains("\"queued\""), "{steps}");
}

/// Far more tasks than turns: those that wait cost next to nothing, and the page's lists stay quick.
#[tokio::test]
async fn thousands_of_tasks_wait_in_bounded_memory() {
    let ci = Ci::with(
        r#"
class Many(Stage):
    pass

for n in range(5000):
    setattr(Many, f"task_{n}", lambda self: run(WORKER, IMAGE, "sleep 100"))
"#,
    )
    .await;
    let run = ci.start().await;
    ci.follow(run, |state, _| state.counts().get("running").is_some_and(|count| *count >= 8)).await;
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(ci.get("/api/runs").await["runs"][0]["tasks"], 5000);
    }
    assert!(began.elapsed() < Duration::from_secs(60), "ten lists took {:?}", began.elapsed());
    let view = ci.get(&format!("/api/runs/{run}")).await;
    assert_eq!(view["stages"][0]["tasks"].as_array().unwrap().len(), 5000);
    assert_eq!(ci.post(&format!("/api/runs/{run}/cancel")).await.0, StatusCode::OK);
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.words(), "cancelled: cancel_asked");
    assert_eq!(told.state.counts().values().sum::<usize>(), 5000);
    let status = std::fs::read_to_string(format!("/proc/{}/status", ci.boss.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 256 * 1024, "the boss had {peak} KiB");
}
