//! Sandboxes that are made before there is a step for them: used once, by steps to which they are like any other, and gone
//! with whatever they depend on.

use common::StepEvent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::rig::{IMAGE, Rig, docker};
use super::lost::holders;

fn quiet(command: &str) -> Value {
    json!({"image": IMAGE, "command": command, "network": "none"})
}

/// A worker that has some that wait.
async fn rig() -> Option<Rig> {
    let rig = Rig::native().await?;
    assert_eq!(rig.run(quiet("true")).await.verdict(), "passed");
    rig.waiting("none").await;
    Some(rig)
}

/// Starts a step, and comes back once its command prints. Was its sandbox there before it?
async fn start(rig: &Rig, id: &str, command: &str) -> bool {
    let mut spec = quiet(command);
    spec["id"] = json!(id);
    assert!(rig.post(&spec).await.status().is_success());
    rig.until(id, |event| matches!(event, StepEvent::Output { .. })).await;
    let base = fs::read_to_string(rig.sandboxes().join(id).join("base.json")).unwrap();
    serde_json::from_str::<Value>(&base).unwrap()["is_ahead"].as_bool().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with(".thrown-")).collect()
}

/// The groups of an instance that are left, in any hierarchy.
fn groups(instance: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let folders =
        mounts.map(|line| Path::new(line.split(' ').nth(4).unwrap()).join("bettertest").join(instance));
    let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().map(Result::unwrap);
    let inner = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    inner.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn is_dead(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    stat.map_or(true, |stat| stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X']))
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < give_up, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_gets_one_that_waits_and_nobody_else_does() {
    let Some(rig) = rig().await else { return };
    let waiting = rig.waiting("none").await;
    assert!(start(&rig, "a-1", "hostname; cat /etc/hostname; echo $A; sleep 60").await);
    assert!(names(&rig.sandboxes()).contains(&"a-1".to_owned()));
    let still = rig.waiting("none").await;
    let taken: Vec<_> = waiting.iter().filter(|name| !still.contains(name)).collect();
    assert_eq!(taken.len(), 1, "{waiting:?}, {still:?}");
    assert!(start(&rig, "a-2", "echo on; sleep 60").await);
    rig.cancel("a-1").await;
    let told = rig.events("a-1", 0).await;
    let StepEvent::Started { container, .. } = &told.0[1].1 else { panic!("{told:?}") };
    assert_eq!(told.stdout(), format!("{container}\n{container}\n\n"));
    // Nothing of what the first wrote is seen by another.
    let spec = json!({
        "image": IMAGE, "network": "none", "command": "ls /tmp; touch /tmp/mine; df -k /dev/shm | tail -n 1 | awk '{print $2}'",
        "shm_bytes": 1_048_576
    });
    for _ in 0..3 {
        rig.waiting("none").await;
        assert_eq!(rig.run(spec.clone()).await.stdout(), "1024\n");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_in_one_that_waited() {
    let Some(rig) = rig().await else { return };
    let limited = |command: &str| {
        let mut spec = quiet(command);
        (spec["memory_bytes"], spec["pids"]) = (json!(20_000_000), json!(12));
        spec
    };
    let waiting = rig.waiting("none").await;
    let end = rig.run(limited("tail /dev/zero")).await.end();
    assert_eq!((end.exit_code, end.oom), (Some(137), true));
    let still = rig.waiting("none").await;
    assert!(waiting.iter().any(|name| !still.contains(name)), "none of {waiting:?} was used");
    let bomb = "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done; echo all";
    let told = rig.run(limited(bomb)).await;
    assert!(told.stderr().contains("fork") && !told.stdout().contains("all"), "{told:?}");
    let killed = rig.run(quiet("kill -9 $$")).await.end();
    assert_eq!((killed.exit_code, killed.oom), (Some(137), false));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_died_while_it_waited_is_not_used() {
    let Some(rig) = rig().await else { return };
    // The supervisor of one, and the first process of another: both have the lock open, the older one is the supervisor.
    for which in [0, 1] {
        let waiting = rig.waiting("none").await;
        let locks: Vec<_> = waiting.iter().map(|name| rig.sandboxes().join(name).join("lock")).collect();
        for lock in &locks {
            // The launcher, from which they were forked, lets go of it soon as well.
            until("both have the lock, and nobody else", || holders(lock).len() == 2).await;
            let process = holders(lock)[which];
            kill(process, Signal::SIGKILL).unwrap();
            // Dying takes a while. What dies only after its step was given to it is another case: that one may have begun.
            until("it is dead", || is_dead(process)).await;
        }
        let told = rig.run(quiet("exit 7")).await;
        assert_eq!((told.verdict(), told.end().exit_code), ("command_failed", Some(7)));
        assert_eq!(told.kinds(), ["queued", "started", "exited"]);
        until("what died is removed", || locks.iter().all(|lock| !lock.exists())).await;
        let instance = rig.instance();
        until("its groups go", || {
            let groups = groups(&instance);
            waiting.iter().all(|name| !groups.contains(name))
        })
        .await;
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn none_waits_after_a_worker_and_a_step_that_had_one_goes_on() {
    let Some(rig) = rig().await else { return };
    assert!(start(&rig, "a-1", "echo one; sleep 2; echo two; exit 5").await);
    rig.waiting("none").await;
    let (instance, sandboxes) = (rig.instance(), rig.sandboxes());
    let (data, engine) = rig.hand_over().await;
    assert_eq!(names(&sandboxes), ["a-1"]);
    let mut groups_left = groups(&instance);
    groups_left.sort();
    groups_left.dedup();
    assert_eq!(groups_left.len(), 1, "{groups_left:?}");
    let next = Rig::on(data, engine, |_| {}).await;
    let told = next.events("a-1", 0).await;
    assert_eq!((told.stdout().as_str(), told.end().exit_code, told.gaps()), ("one\ntwo\n", Some(5), 0));
    next.finish().await;
    assert_eq!(groups(&instance), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_other_images_make_way_for_a_new_one() {
    let Some(rig) = rig().await else { return };
    let waiting = rig.waiting("none").await;
    let name = format!("bettertest-ahead-{}", crate::auth::random_hex(8));
    docker(&["create", "--name", &name, IMAGE]);
    docker(&["commit", "--change", "ENV NEW=1", &name, &name]);
    docker(&["rm", &name]);
    let spec = json!({"image": name, "command": "echo $NEW", "network": "none"});
    let told = rig.run(spec).await;
    docker(&["rmi", "-f", &name]);
    assert_eq!(told.stdout(), "1\n");
    let left = names(&rig.sandboxes());
    assert!(waiting.iter().all(|name| !left.contains(name)), "{left:?} of {waiting:?}");
    rig.finish().await;
}
