//! A worker whose disk is short, full, or takes no writes: it says so, every step ends in a definite state that is
//! stored, and it goes on by itself. The disk is a small ext4 of its own, which needs root. Seeds are printed;
//! longer: `cargo test --release --test stories disk -- --ignored`.

use common::{Problem, Reason, StepEvent};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::ci::{Ci, data_of, write_pipedef};
use crate::worker_dies::{Dice, Place, kill};

const IMAGE: &str = "bettertest-test:1";
const SIZE_BYTES: u64 = 160 << 20;

/// A small ext4, mounted for as long as the test lives. Dropped after the worker that uses it.
pub(crate) struct SmallDisk {
    pub(crate) folder: PathBuf,
    image: tempfile::NamedTempFile,
}

impl SmallDisk {
    pub(crate) fn new(at: &Path) -> SmallDisk {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(SIZE_BYTES).unwrap();
        let (folder, file) = (at.join("disk"), image.path().to_str().unwrap());
        std::fs::create_dir(&folder).unwrap();
        run(&["mkfs.ext4", "-q", "-m", "0", file]);
        run(&["mount", "-o", "loop", file, folder.to_str().unwrap()]);
        SmallDisk { folder, image }
    }

    fn free_bytes(&self) -> u64 {
        let disk = nix::sys::statvfs::statvfs(&self.folder).unwrap();
        disk.blocks_available() * disk.fragment_size()
    }

    /// Until no more than this is free. At 0, to the last byte.
    pub(crate) fn fill(&self, leave_bytes: u64) {
        let filler = File::options().create(true).append(true).open(self.folder.join("filler")).unwrap();
        let mut piece = 64 << 20;
        while piece >= 4096 {
            let (has, free) = (filler.metadata().unwrap().len(), self.free_bytes());
            let fits = free.saturating_sub(leave_bytes) >= piece || leave_bytes == 0;
            if !fits || !allocate(&filler, has, piece) {
                piece /= 2;
            }
        }
    }

    /// Mounts it anew, with its errors mended, as after a restart of the machine. A copy of it: a container that
    /// begins at this moment may hold the old mount for a little longer.
    fn repair(&mut self) {
        run(&["umount", self.folder.to_str().unwrap()]);
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(self.image.path(), copy.path()).unwrap();
        let file = copy.path().to_str().unwrap();
        let checked = Command::new("e2fsck").args(["-fy", file]).output().unwrap();
        assert!(checked.status.code().is_some_and(|code| code < 4), "{checked:?}");
        run(&["mount", "-o", "loop", file, self.folder.to_str().unwrap()]);
        self.image = copy;
    }

    pub(crate) fn empty(&self) {
        drop(std::fs::remove_file(self.folder.join("filler")));
    }
}

fn allocate(file: &File, from: u64, len: u64) -> bool {
    let none = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(file, none, from as i64, len as i64).is_ok()
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.folder).output());
    }
}

fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A worker's place on a small disk.
fn place_on_disk(more: &[&str]) -> (Place, SmallDisk) {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(folder.path());
    let data = disk.folder.join("data").to_str().unwrap().to_owned();
    (Place::at(folder, data, &[&["--engine", "fake"], more].concat()), disk)
}

async fn refused(place: &Place, id: &str) -> Problem {
    let spec = json!({"image": IMAGE, "command": "true", "id": id});
    let answer = place.ask(Method::POST, "/run").json(&spec).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    answer.json().await.unwrap()
}

async fn health(place: &Place) -> (StatusCode, String) {
    let answer = place.http.get(format!("{}/health", place.base())).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

async fn passes(place: &Place, id: &str) {
    place.post(&json!({"image": IMAGE, "command": "flood 100000; exit 0", "id": id})).await;
    let events = place.events(id).await;
    assert!(events.last().unwrap().end().unwrap().verdict.passed(), "{events:?}");
    assert_eq!(accounted(&events), (100_000, 100_000), "{events:?}");
}

/// The bytes of output that are there, and those that are there or counted as missing.
fn accounted(events: &[StepEvent]) -> (u64, u64) {
    let (mut there, mut missing) = (0, 0);
    for event in events {
        match event {
            StepEvent::Output { bytes, .. } => there += bytes.as_slice().len() as u64,
            StepEvent::Dropped { bytes } => missing += bytes,
            StepEvent::Gap { bytes } => missing += bytes.expect("what a disk did not take can be counted"),
            StepEvent::Queued | StepEvent::Preparing { .. } | StepEvent::Started { .. } => {}
            StepEvent::Exited { .. } | StepEvent::TimedOut { .. } => {}
            StepEvent::Cancelled { .. } | StepEvent::Errored { .. } | StepEvent::Artifacts(_) => {}
        }
    }
    (there, there + missing)
}

#[tokio::test]
async fn short_of_room_it_takes_no_steps_says_why_and_recovers() {
    let (place, disk) = place_on_disk(&[]);
    let _worker = place.worker();
    place.post(&json!({"image": IMAGE, "command": "echo on; sleep 2; exit 5", "id": "a-1"})).await;
    place.is_at("a-1", "running").await;
    disk.fill(SIZE_BYTES / 20);
    let problem = refused(&place, "a-2").await;
    assert_eq!(problem.reason, Some(Reason::DiskFull));
    assert!(problem.error.contains("MiB are free"), "{problem:?}");
    let (status, why) = health(&place).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(why.contains("disk_full") && why.contains("hint: "), "{why}");
    // What runs goes on, and may be attached to.
    place.post(&json!({"image": IMAGE, "command": "echo on; sleep 2; exit 5", "id": "a-1"})).await;
    assert_eq!(place.events("a-1").await.last().unwrap().end().unwrap().exit_code, Some(5));
    disk.empty();
    passes(&place, "a-2").await;
    assert_eq!(health(&place).await, (StatusCode::OK, "ok\n".to_owned()));
}

/// Filled to the last byte while steps print: each ends as its command did, or `errored: disk_full`; every byte is
/// there or counted; and as soon as there is room all is well again, without a restart.
async fn full_at_any_moment(rounds: u64) {
    let mut dice = Dice::fresh("disk full");
    let (place, disk) = place_on_disk(&["--slots", "6", "--spool-bytes", "60000000"]);
    let mut worker = place.worker();
    for round in 0..rounds {
        let mut steps = Vec::new();
        for step in 0..6 {
            let (id, code) = (format!("f{round}-{step}"), [0, 1, 9][dice.below(3) as usize]);
            let (first, then) = (dice.below(3_000_000), dice.below(3_000_000));
            let command = format!(
                "flood {first}; sleep {:.2}; flood {then}; sleep 0.{}; exit {code}",
                dice.below(60) as f64 / 100.0,
                dice.below(5)
            );
            let cap = if step % 2 == 0 { 32 << 20 } else { 1 << 20 };
            let mut spec = json!({"image": IMAGE, "command": command, "id": id, "output_cap_bytes": cap});
            if step == 5 {
                spec["command"] = json!("echo on; sleep 60; exit 0");
                spec["timeout_s"] = json!(1);
            }
            place.post(&spec).await;
            steps.push((id, code, if step == 5 { 3 } else { first + then }));
        }
        tokio::time::sleep(Duration::from_millis(dice.below(800))).await;
        disk.fill(0);
        let dies = dice.below(3) == 0;
        if dies {
            // The next one has to start on a full disk, and finds the containers gone.
            kill(worker);
            worker = place.worker();
            assert_eq!(health(&place).await.0, StatusCode::SERVICE_UNAVAILABLE);
            disk.empty();
        }
        for (id, code, total) in steps {
            let events = place.events(&id).await;
            let at = format!("{id} (dies: {dies}): {:?}", events.last());
            match events.last().unwrap() {
                StepEvent::Exited { exit_code, .. } => {
                    assert_eq!(*exit_code, code, "{at}");
                    assert_eq!(accounted(&events).1, total, "{at}");
                }
                StepEvent::TimedOut { .. } => assert!(id.ends_with("-5"), "{at}"),
                StepEvent::Errored { reason: Reason::DiskFull, .. } => {}
                StepEvent::Errored { reason: Reason::ContainerLost, .. } if dies => {}
                other => panic!("{at}: {other:?}"),
            }
        }
        disk.empty();
        let freed = Instant::now();
        passes(&place, &format!("g{round}-1")).await;
        assert!(freed.elapsed() < Duration::from_secs(120), "{:?}", freed.elapsed());
        assert_eq!(health(&place).await.0, StatusCode::OK);
    }
    drop(worker);
}

#[tokio::test]
async fn full_at_any_moment_every_step_ends_and_the_next_works() {
    full_at_any_moment(4).await;
}

#[tokio::test]
#[ignore = "more of the same"]
async fn full_at_any_moment_many() {
    full_at_any_moment(100).await;
}

/// As after a wrong chown: not even root writes into a folder that is immutable.
#[tokio::test]
async fn a_folder_that_takes_no_writes_is_said_and_used_again_when_it_does() {
    let (place, disk) = place_on_disk(&[]);
    let _worker = place.worker();
    passes(&place, "a-1").await;
    let steps = disk.folder.join("data/worker/steps");
    run(&["chattr", "+i", steps.to_str().unwrap()]);
    let problem = refused(&place, "a-2").await;
    assert_eq!(problem.reason, Some(Reason::DiskFull));
    assert!(problem.error.contains("Operation not permitted"), "{problem:?}");
    let (status, why) = health(&place).await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && why.contains("cannot be written"), "{why}");
    run(&["chattr", "-i", steps.to_str().unwrap()]);
    passes(&place, "a-2").await;
    assert_eq!(health(&place).await.0, StatusCode::OK);
}

/// There may be room, and no way to make another file in it.
#[tokio::test]
async fn without_inodes_it_takes_no_steps_and_recovers() {
    let (place, disk) = place_on_disk(&[]);
    let _worker = place.worker();
    passes(&place, "a-1").await;
    let filler = disk.folder.join("filler.d");
    std::fs::create_dir(&filler).unwrap();
    let mut made = 0u32;
    while File::create(filler.join(made.to_string())).is_ok() {
        made += 1;
    }
    let problem = refused(&place, "a-2").await;
    assert_eq!(problem.reason, Some(Reason::DiskFull));
    assert!(problem.error.contains("No space left"), "{problem:?}");
    assert_eq!(health(&place).await.0, StatusCode::SERVICE_UNAVAILABLE);
    std::fs::remove_dir_all(&filler).unwrap();
    passes(&place, "a-2").await;
    assert_eq!(health(&place).await.0, StatusCode::OK);
}

/// A disk that turns read-only, as Linux does to one with errors, keeps what it had; the worker says what is wrong.
#[tokio::test]
async fn a_disk_that_turns_read_only_loses_nothing_that_was_told() {
    let (place, mut disk) = place_on_disk(&[]);
    let mut worker = place.worker();
    passes(&place, "a-1").await;
    place.post(&json!({"image": IMAGE, "command": "echo on; sleep 1; exit 4", "id": "a-2"})).await;
    place.is_at("a-2", "running").await;
    let source =
        Command::new("findmnt").args(["-no", "SOURCE", disk.folder.to_str().unwrap()]).output().unwrap();
    let source = String::from_utf8(source.stdout).unwrap().trim().to_owned();
    let device = Path::new(&source).file_name().unwrap().to_str().unwrap().to_owned();
    run(&["mount", "-o", "remount,errors=remount-ro", disk.folder.to_str().unwrap()]);
    std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "story").unwrap();
    let problem = refused(&place, "a-3").await;
    assert!(problem.error.to_lowercase().contains("read-only"), "{problem:?}");
    assert!(health(&place).await.1.to_lowercase().contains("read-only"));
    // Its exit cannot be written down, so it is no pass.
    place.is_at("a-2", "ended").await;
    let view: serde_json::Value =
        place.ask(Method::GET, "/steps/a-2").send().await.unwrap().json().await.unwrap();
    assert_eq!((&view["outcome"], &view["reason"]), (&json!("errored"), &json!("disk_full")));
    kill(worker);
    disk.repair();
    worker = place.worker();
    assert_eq!(accounted(&place.events("a-1").await), (100_000, 100_000));
    let last = place.events("a-2").await.pop().unwrap();
    // The line of its exit may have got there all the same, but no other than its own.
    assert!(matches!(last, StepEvent::Errored { .. } | StepEvent::Exited { exit_code: 4, .. }), "{last:?}");
    passes(&place, "a-3").await;
    drop(worker);
}

/// With a boss on top: a run waits a little for room, and says what was missing if it does not come.
#[tokio::test]
async fn a_run_waits_for_room_and_is_errored_disk_full_without() {
    let (place, disk) = place_on_disk(&[]);
    let worker = place.worker();
    write_pipedef(
        place.folder.path(),
        "\nclass One(Stage):\n    def task_a(self):\n        run(WORKER, IMAGE, \"echo on\")\n",
        &place.base(),
    );
    let workers = format!("\"{}\" = \"{}\"\n", place.base(), place.token());
    let boss_data = data_of(place.folder.path());
    std::fs::create_dir(&boss_data).unwrap();
    std::fs::write(boss_data.join("workers.toml"), workers).unwrap();
    let boss = Ci::start_boss(place.folder.path());
    let token = std::fs::read_to_string(boss_data.join("token")).unwrap();
    let (http, folder) = (place.http.clone(), tempfile::tempdir().unwrap());
    let ci = Ci { token: token.trim().to_owned(), http, folder, boss, worker };
    disk.fill(SIZE_BYTES / 20);
    let run = ci.start().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    disk.empty();
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "passed");
    disk.fill(SIZE_BYTES / 20);
    let told = ci.run().await;
    assert_eq!(told.task("One.a"), "errored: disk_full");
}
