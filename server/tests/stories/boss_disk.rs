//! A boss whose disk is full: every run gets a definite end that is stored, nothing that is stored is wrong, and it
//! goes on by itself. The disk is a small ext4 of its own, which needs root. Seeds are printed.

use rusqlite::Connection;
use std::time::{Duration, Instant};

use crate::ci::{Ci, Process, data_of, write_pipedef};
use crate::disk::SmallDisk;
use crate::worker_dies::Dice;

const PIPEDEF: &str = r#"
class One(Stage):
    def task_quiet(self):
        for n in range(4):
            run(WORKER, IMAGE, f"sleep 0.2; print {n}")

    def task_loud(self):
        run(WORKER, IMAGE, "flood 400000; sleep 0.5; flood 400000")

    def task_red(self):
        run(WORKER, IMAGE, "sleep 0.4; exit 3")

class Two(Stage):
    always = True

    def task_later(self):
        run(WORKER, IMAGE, "print later")
"#;

/// The boss's data lies on the small disk, the worker's does not.
async fn ci_on(disk: &SmallDisk, folder: tempfile::TempDir) -> Ci {
    let at_worker = folder.path().join("worker");
    let listen = ["--listen", "127.0.0.1:0", "--data-dir", at_worker.to_str().unwrap()];
    let worker = Process::start(&[&["--worker", "--engine", "fake", "--slots", "4"], &listen[..]].concat());
    write_pipedef(folder.path(), PIPEDEF, &worker.base);
    let data = disk.folder.join("data");
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&data, data_of(folder.path())).unwrap();
    let token = std::fs::read_to_string(at_worker.join("token")).unwrap();
    std::fs::write(data.join("workers.toml"), format!("\"{}\" = \"{}\"\n", worker.base, token.trim()))
        .unwrap();
    let boss = Ci::start_boss(folder.path());
    let token = std::fs::read_to_string(data.join("token")).unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    Ci { boss, worker, token: token.trim().to_owned(), http, folder }
}

#[tokio::test]
async fn full_at_any_moment_every_run_ends_truly_and_the_next_passes() {
    let mut dice = Dice::fresh("boss's disk full");
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(folder.path());
    let mut ci = ci_on(&disk, folder).await;
    let red = "failed: command_failed";
    for round in 0..5 {
        let run = ci.start().await;
        tokio::time::sleep(Duration::from_millis(dice.below(900))).await;
        if round % 2 == 0 {
            // Also without what is set aside for this.
            drop(std::fs::remove_file(disk.folder.join("data/boss/runs.sqlite.reserve")));
        }
        disk.fill(0);
        tokio::time::sleep(Duration::from_millis(dice.below(1500))).await;
        if dice.below(3) == 0 {
            ci.kill_boss();
        }
        disk.empty();
        let freed = Instant::now();
        let told = ci.follow(run, |_, _| false).await;
        assert!(freed.elapsed() < Duration::from_secs(120), "{:?}", freed.elapsed());
        let lost = "errored: output_lost";
        for (task, expected) in [("One.quiet", "passed"), ("One.loud", "passed"), ("One.red", red)] {
            let words = told.task(task);
            assert!(words == expected || words == lost, "{task}: {words}");
        }
        assert!([red, lost].contains(&told.words().as_str()), "{}", told.summary());
        for (task, length) in [("One.quiet", 8), ("One.loud", 800_000)] {
            if told.task(task) == "passed" {
                assert_eq!(ci.output(run, task).await.len(), length, "{task}");
            }
        }
        let store = Connection::open(disk.folder.join("data/boss/runs.sqlite")).unwrap();
        let whole: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
    }
    assert_eq!(ci.run().await.task("One.loud"), "passed");
    assert!(disk.folder.join("data/boss/runs.sqlite.reserve").exists());
    // Its processes end before the disk that they use.
    drop(ci);
}
