//! A supervisor that is killed: its sandbox ends with it, the step is lost and says so, and is never begun again.

use common::StepEvent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;

use super::super::rig::Rig;

/// Those that have this file open.
pub(super) fn holders(file: &Path) -> Vec<Pid> {
    let has = |pid: &str| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == file))
    };
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    let pids = names.filter_map(|name| name.to_str().filter(|pid| has(pid))?.parse().ok());
    pids.map(Pid::from_raw).collect()
}

/// Starts a step, and comes back once its command prints.
async fn run_one(rig: &Rig) {
    rig.start("a-1", "echo on; sleep 77777").await;
    rig.until("a-1", |event| matches!(event, StepEvent::Output { .. })).await;
}

fn supervisor(rig: &Rig) -> Pid {
    let lock = rig.data.path().canonicalize().unwrap().join("worker/native/a-1/lock");
    let [supervisor] = holders(&lock)[..] else { panic!("{:?} have {}", holders(&lock), lock.display()) };
    supervisor
}

/// The command of this file, wherever it runs.
fn is_running() -> bool {
    let commands = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
    commands.into_iter().any(|path| fs::read(path).is_ok_and(|line| line == b"sleep\x0077777\0"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_supervisor_is_killed_is_lost_and_never_begun_again() {
    let Some(rig) = Rig::native().await else { return };
    run_one(&rig).await;
    kill(supervisor(&rig), Signal::SIGKILL).unwrap();
    let told = rig.events("a-1", 0).await;
    assert_eq!((told.verdict(), told.stdout().as_str()), ("container_lost", "on\n"));
    assert!(!is_running());
    // Once more, while no worker is there.
    let next = Rig::native().await.unwrap();
    run_one(&next).await;
    let supervisor = supervisor(&next);
    let (data, engine) = next.hand_over().await;
    kill(supervisor, Signal::SIGKILL).unwrap();
    let last = Rig::on(data, engine, |_| {}).await;
    let told = last.events("a-1", 0).await;
    assert_eq!((told.verdict(), told.stdout().as_str()), ("container_lost", "on\n"));
    assert_eq!(told.kinds().iter().filter(|kind| *kind == "started").count(), 1);
    assert!(!is_running());
    last.finish().await;
    rig.finish().await;
}
