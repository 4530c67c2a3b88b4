//! One contract, held by every engine: the same list of checks against the fake one, the native one and a real Docker.

use common::{EntryMode, StepEvent, Stream, TreeId};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::time::{Duration, Instant};

use super::rig::{IMAGE, Rig, docker};
use super::sources::{self, Files};

macro_rules! contract {
    ($($check:ident)*) => {
        mod on_fake {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $check() {
                let rig = super::Rig::fake().await;
                super::$check(&rig).await;
                rig.finish().await;
            })*
        }
        mod on_native {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $check() {
                let Some(rig) = super::Rig::native().await else { return };
                super::$check(&rig).await;
                rig.finish().await;
            })*
        }
        mod on_native_ahead {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $check() {
                let Some(rig) = super::Rig::native_ahead().await else { return };
                super::$check(&rig).await;
                rig.finish().await;
            })*
        }
        mod on_docker {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $check() {
                let rig = super::Rig::docker().await;
                super::$check(&rig).await;
                rig.finish().await;
            })*
        }
    };
}

contract! {
    tells_a_step_in_order
    exit_codes_arrive_unchanged
    keeps_the_streams_apart
    output_is_byte_exact
    a_cancelled_step_ends_cancelled
    what_ignores_sigterm_is_killed
    a_late_exit_0_is_still_timed_out
    time_limits_hold_while_printing
    a_missing_image_is_not_a_failure
    a_pinned_image_is_that_image_or_nothing
    an_unknown_command_is_127
    a_handed_over_step_goes_on
    what_ended_unseen_ended_when_it_did
    five_posts_are_one_container
    a_source_is_there_for_its_step_alone
    a_source_is_as_it_was_sent
    a_source_lies_over_what_the_image_has
    artifacts_are_kept_whatever_the_exit
    artifacts_are_regular_files_within_bounds
    artifacts_are_taken_from_where_the_source_lies
    artifacts_outlive_a_cancel_and_a_worker
}

async fn tells_a_step_in_order(rig: &Rig) {
    let told = rig.sh("echo hello; exit 0").await;
    assert_eq!(told.kinds(), ["queued", "started", "output", "exited"]);
    assert_eq!(told.stdout(), "hello\n");
    assert_eq!(told.verdict(), "passed");
    let StepEvent::Started { container, image_digest, .. } = &told.0[1].1 else { panic!("{told:?}") };
    assert!(!container.is_empty() && image_digest.as_ref().unwrap().starts_with("sha256:"), "{told:?}");
    let empty = rig.sh("true").await;
    assert_eq!(empty.kinds(), ["queued", "started", "exited"]);
}

async fn exit_codes_arrive_unchanged(rig: &Rig) {
    let codes: Vec<u8> =
        if rig.is_real() { vec![0, 1, 2, 125, 126, 137, 143, 255] } else { (0..=255).collect() };
    for code in codes {
        let end = rig.sh(&format!("exit {code}")).await.end();
        assert_eq!((end.exit_code, end.oom), (Some(code), false));
        assert_eq!(end.verdict.passed(), code == 0);
    }
}

async fn keeps_the_streams_apart(rig: &Rig) {
    let told = rig.sh("echo out; sleep 0.1; echo err >&2; sleep 0.1; echo out again").await;
    assert_eq!((told.stdout().as_str(), told.stderr().as_str()), ("out\nout again\n", "err\n"));
    assert_eq!(told.kinds(), ["queued", "started", "output", "output", "output", "exited"]);
}

async fn output_is_byte_exact(rig: &Rig) {
    let every: Vec<u8> = (0..=255).collect();
    let escaped: String = every.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let told = rig.sh(&format!("printf '{escaped}'")).await;
    assert_eq!(told.bytes(Stream::Stdout), every);
    // The two bytes of an é, apart: together again, as text.
    let told = rig.sh("printf 'caf\\303'; sleep 0.01; printf '\\251\\n'").await;
    assert_eq!(told.bytes(Stream::Stdout), "café\n".as_bytes());
    // Nothing ever completes this one.
    let told = rig.sh("printf 'caf\\303'; sleep 0.3; echo x >&2; exit 0").await;
    assert_eq!(told.bytes(Stream::Stdout), b"caf\xC3");
    assert_eq!(told.all_base64(), 1);
}

async fn a_cancelled_step_ends_cancelled(rig: &Rig) {
    rig.start("a-running", "echo on; sleep 60").await;
    rig.until("a-running", |event| matches!(event, StepEvent::Output { .. })).await;
    let asked = Instant::now();
    rig.cancel("a-running").await;
    let told = rig.events("a-running", 0).await;
    assert_eq!(told.verdict(), "cancel_asked");
    assert_eq!(told.end().exit_code, Some(143));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(rig.containers(), Vec::<String>::new());
    assert_eq!(rig.cancel("a-running").await.state, "ended");
    assert_eq!(rig.events("a-running", 0).await, told);
}

async fn what_ignores_sigterm_is_killed(rig: &Rig) {
    rig.start("a-deaf", "trap '' TERM; echo on; sleep 60").await;
    rig.until("a-deaf", |event| matches!(event, StepEvent::Output { .. })).await;
    rig.cancel("a-deaf").await;
    let told = rig.events("a-deaf", 0).await;
    assert_eq!((told.verdict(), told.end().exit_code), ("cancel_asked", Some(137)));
}

async fn a_late_exit_0_is_still_timed_out(rig: &Rig) {
    let command = "trap '' TERM; sleep 2; exit 0";
    let told = rig.run(json!({"image": IMAGE, "command": command, "timeout_s": 1})).await;
    assert_eq!((told.verdict(), told.end().exit_code), ("step_timeout", Some(0)));
}

async fn time_limits_hold_while_printing(rig: &Rig) {
    let command = if rig.is_real() { "yes" } else { "flood 100000000000" };
    let spec = json!({"image": IMAGE, "command": command, "timeout_s": 1, "output_cap_bytes": 100000});
    let told = rig.run(spec).await;
    assert_eq!(told.verdict(), "step_timeout");
    assert!((1000..8000).contains(&told.end().took_ms), "{:?}", told.end());
    assert!(told.dropped() > 0);
}

async fn a_missing_image_is_not_a_failure(rig: &Rig) {
    let image = if rig.is_real() { "bettertest-no-such-image" } else { "fake-missing" };
    let end = rig.run(json!({"image": image, "command": "true"})).await.end();
    assert_eq!(end.verdict.reason().unwrap().word(), "image_not_found");
    assert_eq!(end.hint.unwrap(), format!("build it on this worker: docker build -t {image} ."));
    assert!(end.message.unwrap().contains(image));
}

async fn a_pinned_image_is_that_image_or_nothing(rig: &Rig) {
    let told = rig.sh("true").await;
    let StepEvent::Started { image_digest, .. } = &told.0[1].1 else { panic!("{told:?}") };
    let pinned = |digest: &str| json!({"image": IMAGE, "command": "true", "image_digest": digest});
    assert_eq!(rig.run(pinned(image_digest.as_ref().unwrap())).await.verdict(), "passed");
    let other = format!("sha256:{}", "1".repeat(64));
    assert_eq!(rig.run(pinned(&other)).await.verdict(), "image_changed");
}

async fn an_unknown_command_is_127(rig: &Rig) {
    let told = rig.run(json!({"image": IMAGE, "command": ["no-such-program"]})).await;
    assert_eq!((told.verdict(), told.end().exit_code), ("command_failed", Some(127)));
}

/// A step survives its worker: the next one goes on with it, and says where it was not listening.
async fn a_handed_over_step_goes_on(rig: &Rig) {
    let (data, engine) = {
        let first = Rig::with(rig.engine(), |_| {}).await;
        first.start("a-long", "echo one; sleep 3; echo two; exit 5").await;
        first.until("a-long", |event| matches!(event, StepEvent::Output { .. })).await;
        first.hand_over().await
    };
    let next = Rig::on(data, engine, |_| {}).await;
    let told = next.events("a-long", 0).await;
    assert_eq!((told.stdout().as_str(), told.end().exit_code), ("one\ntwo\n", Some(5)));
    assert_eq!(told.gaps(), if rig.keeps_output() { 0 } else { 1 });
    next.finish().await;
}

/// Its time limit does not run on after its end, however long no worker was there.
async fn what_ended_unseen_ended_when_it_did(rig: &Rig) {
    let first = Rig::with(rig.engine(), |_| {}).await;
    let spec = json!({"image": IMAGE, "command": "echo on; sleep 1; exit 6", "timeout_s": 3, "id": "a-1"});
    assert!(first.post(&spec).await.status().is_success());
    first.until("a-1", |event| matches!(event, StepEvent::Output { .. })).await;
    let (data, engine) = first.hand_over().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let next = Rig::on(data, engine, |_| {}).await;
    let told = next.events("a-1", 0).await;
    assert_eq!((told.verdict(), told.end().exit_code), ("command_failed", Some(6)));
    assert!((900..2900).contains(&told.end().took_ms), "{:?}", told.end());
    next.finish().await;
}

async fn five_posts_are_one_container(rig: &Rig) {
    let spec = json!({"image": IMAGE, "command": "echo once; sleep 0.5; exit 3", "id": "a-1"});
    let all = futures_util::future::join_all((0..5).map(|_| rig.run(spec.clone()))).await;
    assert!(all.iter().all(|told| *told == all[0]), "{all:?}");
    assert_eq!((all[0].stdout().as_str(), all[0].end().exit_code), ("once\n", Some(3)));
}

fn on(tree: &TreeId, at: &str, command: &str) -> Value {
    json!({"image": IMAGE, "command": command, "source": {"tree": tree, "at": at}})
}

/// The next step, and one without, know nothing of what a step does to its source.
async fn a_source_is_there_for_its_step_alone(rig: &Rig) {
    let tree = sources::files().send(rig).await;
    let read = "cat /app/README; echo end";
    assert_eq!(rig.run(on(&tree, "/app", read)).await.stdout(), "read me\nend\n");
    assert_eq!(rig.sh(read).await.stdout(), "end\n");
    assert_eq!(rig.run(on(&tree, "/other/place", "cat /other/place/README")).await.stdout(), "read me\n");
    if rig.is_real() {
        let spoil = "cd /app; echo more >> README; chmod 600 bin/run; rm -r a; mkdir a; : > a/new; mv a.b c; ls; cat README";
        let told = rig.run(on(&tree, "/app", spoil)).await;
        assert_eq!((told.verdict(), told.stderr().as_str()), ("passed", ""));
        assert_eq!(told.stdout(), "README\na\nbin\nc\nread me\nmore\n");
    }
    assert_eq!(rig.run(on(&tree, "/app", read)).await.stdout(), "read me\nend\n");
}

async fn a_source_is_as_it_was_sent(rig: &Rig) {
    if !rig.is_real() {
        return;
    }
    let tree = sources::files().send(rig).await;
    let look = "cd /app; stat -c '%n %A %u:%g %y' README a a.b a/__init__.py bin/README a/link; readlink a/link; cat a/.wh.x";
    let told = rig.run(on(&tree, "/app", look)).await;
    let seen: Vec<String> = told.stdout().lines().map(str::to_owned).collect();
    assert!(seen[1].starts_with("a drwxrwxrwx 0:0 "), "{seen:?}");
    assert_eq!(
        [&seen[..1], &seen[2..]].concat(),
        [
            "README -rw-r--r-- 0:0 2023-11-14 22:13:20.123456789 +0000",
            "a.b -rw-r--r-- 0:0 2020-09-13 12:26:40.000000001 +0000",
            "a/__init__.py -rw-r--r-- 0:0 2020-09-13 12:26:40.000000002 +0000",
            "bin/README -rwxr-xr-x 0:0 1970-01-01 00:00:00.000000007 +0000",
            "a/link lrwxrwxrwx 0:0 1970-01-01 00:00:00.000000005 +0000",
            "../../../etc/passwd",
            "no whiteout",
        ],
        "{}",
        told.stderr()
    );
}

/// In a folder of the image: what has the same name is replaced, whatever it was, and the rest stays.
async fn a_source_lies_over_what_the_image_has(rig: &Rig) {
    if !rig.is_real() {
        return;
    }
    let file = |mode, path, bytes: &str| (mode, 1_700_000_000_000_000_000, path, bytes.as_bytes().to_vec());
    let tree = Files(vec![
        file(EntryMode::Executable, "nl", "#!/bin/sh\necho mine\n"),
        file(EntryMode::File, "tac/within", "a folder now\n"),
        file(EntryMode::Link, "own", "busybox"),
    ]);
    let tree = tree.send(rig).await;
    let told =
        rig.run(on(&tree, "/bin", "/bin/nl; cat /bin/tac/within; readlink /bin/own; ls /bin/awk; pwd")).await;
    assert_eq!(told.stdout(), "mine\na folder now\nbusybox\n/bin/awk\n/\n", "{}", told.stderr());
    let mut spec = on(&tree, "/root", "pwd; cat within; : > beside; ls /root");
    spec["workdir"] = json!("/root/tac");
    assert_eq!(rig.run(spec).await.stdout(), "/root/tac\na folder now\nnl\nown\ntac\n");
    // Any user can read it, and write beside its files, though not into the folder that is the image's.
    let mut spec =
        on(&tree, "/root/app", "cd /root/app; cat tac/within; : > tac/beside; ls tac; : > own.log; ls");
    spec["user"] = json!("nobody");
    assert_eq!(rig.run(spec).await.stdout(), "a folder now\nbeside\nwithin\nnl\nown\nown.log\ntac\n");
    let told = rig.run(on(&tree, "/etc/passwd", "true")).await;
    assert_eq!(told.verdict(), "start_failed", "{told:?}");
    assert_eq!(rig.containers(), Vec::<String>::new());
}

async fn artifacts_are_kept_whatever_the_exit(rig: &Rig) {
    let command = "mkdir -p report/in; printf '\\000\\377\\n' > report/in/a.bin; printf 'x' > r.xml; printf 'y' > /tmp/t; \
                   printf 'z' > other; echo on; exit 3";
    let asked = ["report/**", "*.xml", "/tmp/t", "**/a.*", "none*", "nor/this"];
    let spec =
        json!({"image": IMAGE, "command": command, "workdir": "/work", "id": "k-1", "artifacts": asked});
    let told = rig.run(spec.clone()).await;
    assert_eq!(told.kinds().split_off(told.0.len() - 3), ["output", "artifacts", "exited"]);
    assert_eq!(told.end().exit_code, Some(3));
    let (mut files, artifacts) = rig.artifacts("k-1").await;
    files.sort();
    let file = |path: &str, bytes: &[u8]| (path.to_owned(), bytes.to_vec());
    assert_eq!(files, [file("/tmp/t", b"y"), file("r.xml", b"x"), file("report/in/a.bin", b"\0\xff\n")]);
    assert_eq!((artifacts.left_out, &artifacts.problem), (0, &None));
    // Other files wanted are another step; and what matches nothing is told as that.
    let mut other = spec;
    other["artifacts"] = json!(["*.none"]);
    assert_eq!(rig.post(&other).await.status(), 409);
    other["id"] = json!("k-2");
    assert_eq!(rig.run(other).await.artifacts(), common::Artifacts::default());
    a_report_is_of_this_run(rig).await;
    a_report_that_nobody_asked_for_can_be_written(rig).await;
    assert_eq!(rig.get("/steps/k-2/artifacts/0").send().await.unwrap().status(), 404);
}

/// What was there before is none of it, whatever it is called.
async fn a_report_is_of_this_run(rig: &Rig) {
    let command = "printf '<testsuite/>' > /new.xml; printf '<testsuite/>' > /old.xml; touch -d 2020-01-01 /old.xml; true";
    let spec = json!({"image": IMAGE, "command": command, "junit": ["/*.xml"], "artifacts": ["/new*"]});
    let artifacts = rig.run(spec).await.artifacts();
    let reports: Vec<(&str, bool)> =
        artifacts.files.iter().map(|file| (file.path.as_str(), file.junit)).collect();
    assert_eq!(reports, [("new.xml", true), ("old.xml", !rig.is_real())], "{artifacts:?}");
    let none = rig.run(json!({"image": IMAGE, "command": "true", "junit": ["r.xml"]})).await.artifacts();
    assert_eq!(none.problem.unwrap(), "no JUnit report was found: r.xml");
}

/// By whoever the command runs as, in a folder that the image does not have. That there is none is no news.
async fn a_report_that_nobody_asked_for_can_be_written(rig: &Rig) {
    let path = common::PYTEST_REPORT;
    let step = |command: &str| json!({"image": IMAGE, "command": command, "user": "nobody", "junit": [path]});
    let told = rig.run(step(&format!("printf '<testsuite/>' > {path}"))).await;
    let artifacts = told.artifacts();
    let files: Vec<(&str, bool)> =
        artifacts.files.iter().map(|file| (file.path.as_str(), file.junit)).collect();
    assert_eq!((files, artifacts.problem), (vec![(path, true)], None), "{told:?}");
    assert_eq!(rig.run(step("true")).await.artifacts(), common::Artifacts::default());
    if rig.is_real() {
        let mut linked = step("rm -r /tmp; ln -s /var /tmp");
        linked["user"] = json!("root");
        let told = rig.run(linked).await;
        assert_eq!((told.verdict(), told.artifacts()), ("passed", common::Artifacts::default()));
    }
}

async fn artifacts_are_regular_files_within_bounds(rig: &Rig) {
    if !rig.is_real() {
        return;
    }
    let command = "mkdir -p /work/d; cd /work; ln -s /etc/passwd p.xml; ln -s /etc etc; ln -s d linked; mkfifo f.xml; \
                   printf x > d/x.xml; printf abc > one.xml; ln one.xml two.xml; mknod n.xml c 1 5; \
                   dd if=/dev/zero of=big.xml bs=1M seek=64 count=1 2>/dev/null; dd if=/dev/zero of=hole.xml bs=1 seek=4095 count=1 2>/dev/null";
    let asked = ["*.xml", "etc/passwd", "etc/*", "linked/**", "p.xml", "/etc/pass*", "/proc/version"];
    let spec =
        json!({"image": IMAGE, "command": command, "workdir": "/work", "id": "k-1", "artifacts": asked});
    assert_eq!(rig.run(spec).await.verdict(), "passed");
    let (files, artifacts) = rig.artifacts("k-1").await;
    let mut names: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["/etc/passwd", "hole.xml", "one.xml", "two.xml"], "{artifacts:?}");
    for (path, bytes) in &files {
        assert!(!path.ends_with("o.xml") || bytes == b"abc", "{path}: {bytes:?}");
        assert!(path != "hole.xml" || *bytes == [0; 4096], "{bytes:?}");
    }
    let problem = artifacts.problem.unwrap();
    assert_eq!(artifacts.left_out, 1, "{problem}");
    assert!(artifacts.files.iter().all(|file| !file.junit));
    for words in ["larger than 64 MiB (big.xml)", "/work/p.xml is a link", "/work/linked is a link"] {
        assert!(problem.contains(words), "{words}: {problem}");
    }
}

/// With what the step made of it; also where the working directory is a link.
async fn artifacts_are_taken_from_where_the_source_lies(rig: &Rig) {
    if !rig.is_real() {
        return;
    }
    let tree = sources::files().send(rig).await;
    let mut spec =
        on(&tree, "/app", "rm -r bin; printf new > a/new; printf more >> README; printf x > /tmp/x");
    spec["workdir"] = json!("/app");
    spec["id"] = json!("k-1");
    spec["artifacts"] = json!(["**", "/tmp/*"]);
    assert_eq!(rig.run(spec).await.verdict(), "passed");
    let (mut files, artifacts) = rig.artifacts("k-1").await;
    files.sort();
    let file = |path: &str, bytes: &str| (path.to_owned(), bytes.as_bytes().to_vec());
    let there = [
        file("/tmp/x", "x"),
        file("README", "read me\nmore"),
        file("a.b", ""),
        file("a/.wh.x", "no whiteout\n"),
        file("a/__init__.py", ""),
        file("a/new", "new"),
    ];
    assert_eq!(files, there, "{artifacts:?}");
    assert_eq!((artifacts.left_out, artifacts.problem), (0, None));
}

async fn artifacts_outlive_a_cancel_and_a_worker(rig: &Rig) {
    let command = "printf x > /tmp/x; echo on; sleep 2; printf y > /tmp/y; exit 5";
    let spec = |id: &str| json!({"image": IMAGE, "command": command, "id": id, "artifacts": ["/tmp/?"]});
    assert!(rig.post(&spec("k-1")).await.status().is_success());
    rig.until("k-1", |event| matches!(event, StepEvent::Output { .. })).await;
    rig.cancel("k-1").await;
    assert_eq!(rig.events("k-1", 0).await.verdict(), "cancel_asked");
    let file = |path: &str, bytes: &[u8]| (path.to_owned(), bytes.to_vec());
    assert_eq!(rig.artifacts("k-1").await.0, [file("tmp/x", b"x")]);
    let first = Rig::with(rig.engine(), |_| {}).await;
    assert!(first.post(&spec("k-2")).await.status().is_success());
    first.until("k-2", |event| matches!(event, StepEvent::Output { .. })).await;
    let (data, engine) = first.hand_over().await;
    let next = Rig::on(data, engine, |_| {}).await;
    assert_eq!(next.events("k-2", 0).await.end().exit_code, Some(5));
    assert_eq!(next.artifacts("k-2").await.0, [file("tmp/x", b"x"), file("tmp/y", b"y")]);
    next.finish().await;
}

/// What the container of a step may do, as Docker itself tells it.
#[tokio::test(flavor = "multi_thread")]
async fn containers_are_hardened() {
    let rig = Rig::docker().await;
    let spec = json!({
        "image": IMAGE, "command": "echo on; sleep 60", "id": "h-1",
        "cpus": 0.5, "memory_bytes": 100_000_000, "network": "none", "pids": 50, "shm_bytes": 1_000_000,
        "env": {"A": "b c"}, "workdir": "/tmp", "user": "nobody"
    });
    assert!(rig.post(&spec).await.status().is_success());
    rig.until("h-1", |event| matches!(event, StepEvent::Output { .. })).await;
    let found: serde_json::Value = serde_json::from_str(&docker(&["inspect", &rig.containers()[0]])).unwrap();
    let (host, config) = (&found[0]["HostConfig"], &found[0]["Config"]);
    assert_eq!(
        json!({
            "privileged": host["Privileged"], "security": host["SecurityOpt"], "drop": host["CapDrop"],
            "add": host["CapAdd"], "pids": host["PidsLimit"], "memory": host["Memory"],
            "swap": host["MemorySwap"], "cpus": host["NanoCpus"], "shm": host["ShmSize"],
            "network": host["NetworkMode"], "init": host["Init"], "log": host["LogConfig"]["Type"],
            "binds": host["Binds"], "mounts": found[0]["Mounts"], "ports": host["PortBindings"],
            "pid": host["PidMode"], "ipc": host["IpcMode"], "devices": host["Devices"],
            "auto_remove": host["AutoRemove"], "restart": host["RestartPolicy"]["Name"],
            "masked": host["MaskedPaths"].as_array().is_some_and(|paths| paths.len() >= 9),
            "user": config["User"], "dir": config["WorkingDir"], "stdin": config["OpenStdin"],
            "entrypoint": config["Entrypoint"], "cmd": config["Cmd"], "env": config["Env"][0],
        }),
        json!({
            "privileged": false, "security": ["no-new-privileges:true"], "drop": ["ALL"],
            "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"], "pids": 50,
            "memory": 100_000_000, "swap": 100_000_000, "cpus": 500_000_000, "shm": 1_000_000,
            "network": "none", "init": true, "log": "none",
            "binds": null, "mounts": [], "ports": null,
            "pid": "", "ipc": "private", "devices": null,
            "auto_remove": false, "restart": "no", "masked": true,
            "user": "nobody", "dir": "/tmp", "stdin": false,
            "entrypoint": ["/bin/sh", "-c", "echo on; sleep 60"], "cmd": [], "env": "A=b c",
        })
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_inside_sees_its_limits() {
    let rig = Rig::docker().await;
    let told = rig.sh("grep -E 'NoNewPrivs|CapEff|Seccomp:' /proc/self/status; cat; echo end").await;
    assert_eq!(told.stdout(), "CapEff:\t00000000000000eb\nNoNewPrivs:\t1\nSeccomp:\t2\nend\n");
    let oom = rig.run(json!({"image": IMAGE, "command": "tail /dev/zero", "memory_bytes": 20_000_000})).await;
    assert_eq!((oom.verdict(), oom.end().exit_code, oom.end().oom), ("command_failed", Some(137), true));
    let killed = rig.sh("kill -9 $$").await.end();
    assert_eq!((killed.exit_code, killed.oom), (Some(137), false));
    let nobody = rig.run(json!({"image": IMAGE, "command": "true", "user": "no-such-user"})).await;
    assert_eq!(nobody.verdict(), "start_failed");
    let no_program = rig.run(json!({"image": IMAGE, "command": ["/etc/passwd"]})).await;
    assert_eq!((no_program.verdict(), no_program.end().exit_code), ("command_failed", Some(126)));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn megabytes_of_noise_arrive_unchanged() {
    let rig = Rig::docker().await;
    let told = rig.sh("head -c 5000000 /dev/urandom > /tmp/r; cat /tmp/r; sha256sum < /tmp/r >&2").await;
    let stdout = told.bytes(Stream::Stdout);
    let digest: String = Sha256::digest(&stdout).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((stdout.len(), told.stderr()), (5_000_000, format!("{digest}  -\n")));
    assert_eq!((told.gaps(), told.dropped()), (0, 0));
    rig.finish().await;
}

/// A worker that died between making and starting its container has run nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_never_started_is_made_anew() {
    let rig = Rig::docker().await;
    let instance = rig.instance();
    let (name, label) = (format!("bettertest-{instance}-a-1"), format!("bettertest.instance={instance}"));
    docker(&["create", "--name", &name, "--label", &label, "--label", "bettertest.step=a-1", IMAGE, "false"]);
    let told = rig.run(json!({"image": IMAGE, "command": "exit 8", "id": "a-1"})).await;
    assert_eq!(told.end().exit_code, Some(8));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_containers_are_left_alone() {
    let rig = Rig::docker().await;
    let name = format!("foreign-{}", rig.instance());
    let other = ["run", "-d", "--name", &name, "--label", "bettertest.instance=somebody-else"];
    docker(&[&other[..], &["--label", "bettertest.step=x", IMAGE, "sleep", "60"]].concat());
    let past = format!("past-{}", rig.instance());
    let stale = ["create", "--name", &past, "--label", "bettertest.instance=somebody-else"];
    docker(&[&stale[..], &["--label", "bettertest.deadline=1000000000", IMAGE, "sleep", "60"]].concat());
    // A worker that starts sweeps.
    let (data, engine) = rig.hand_over().await;
    let rig = Rig::on(data, engine, |_| {}).await;
    assert_eq!(rig.sh("true").await.verdict(), "passed");
    let names = docker(&["ps", "-a", "--format", "{{.Names}}"]);
    assert!(names.contains(&name), "{names}");
    assert!(!names.contains(&past), "{names}");
    docker(&["rm", "-f", &name]);
    rig.finish().await;
}
