//! `bettertest doctor`: what it finds where something is missing, with a real Docker, and with Dockers and Pythons that
//! are not there, say no or say nothing. What listens at the usual ports of this machine is nobody's to choose here.

use common::{Check, CheckState, Checkup};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::ci::{BINARY, Ci, Process};
use crate::command::{err, out};

fn doctor(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("doctor").args(args).arg("--data-dir").arg(data).stdin(Stdio::null());
    command
}

/// What it finds, as JSON; its exit code always says the same.
fn examined(mut command: Command) -> Checkup {
    let ended = command.arg("--json").output().unwrap();
    let checkup: Checkup = serde_json::from_str(&out(&ended))
        .unwrap_or_else(|error| panic!("{error}: {}{}", out(&ended), err(&ended)));
    assert_eq!(ended.status.code(), Some(if checkup.ok { 0 } else { 2 }), "{checkup:#?}");
    assert_eq!(checkup.ok, checkup.checks.iter().all(|check| check.state != CheckState::Wrong));
    for check in &checkup.checks {
        assert_eq!(check.state == CheckState::Well, check.hint.is_none(), "{check:?}");
    }
    checkup
}

fn of<'a>(checkup: &'a Checkup, name: &str) -> &'a Check {
    checkup
        .checks
        .iter()
        .find(|check| check.check == name)
        .unwrap_or_else(|| panic!("no {name}: {checkup:#?}"))
}

fn is_wrong(checkup: &Checkup, name: &str, found: &str, hint: &str) {
    let check = of(checkup, name);
    assert_eq!(check.state, CheckState::Wrong, "{check:?}");
    assert!(check.found.contains(found), "{check:?}");
    assert!(check.hint.as_ref().is_some_and(|said| said.contains(hint)), "{check:?}");
    assert!(!checkup.ok);
}

#[test]
fn a_real_docker_and_python_are_found_in_the_same_words_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let checkup = examined(doctor(&data, &[]));
    let asked = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output().unwrap();
    let docker = of(&checkup, "docker");
    assert!(docker.found.starts_with(out(&asked).trim()), "{docker:?}");
    assert!(docker.found.contains("at unix:///var/run/docker.sock"), "{docker:?}");
    assert!(of(&checkup, "runc").found.starts_with(|c: char| c.is_ascii_digit()), "{checkup:#?}");
    assert_eq!(of(&checkup, "python").state, CheckState::Well);
    assert_eq!(of(&checkup, "clock").found, "the same as that of docker");
    assert_eq!(of(&checkup, "cgroups").state, CheckState::Well, "{checkup:#?}");
    assert!(of(&checkup, "token").found.contains("none yet"), "{checkup:#?}");
    assert!(!data.exists(), "a look makes nothing");

    let text = out(&doctor(&data, &[]).output().unwrap());
    for check in &checkup.checks {
        // Of a disk, both say how much there is just now.
        if check.check != "disk" {
            assert!(text.contains(&check.found), "{check:?} in {text}");
            assert!(check.hint.as_ref().is_none_or(|hint| text.contains(&format!("hint: {hint}"))), "{text}");
        }
    }
    assert!(text.ends_with(&format!("{}\n", checkup.headline)), "{text}");
    assert!(!text.contains('\x1b'), "no colours where nobody sees them: {text:?}");
    let coloured = out(&doctor(&data, &["--color", "always"]).output().unwrap());
    assert!(coloured.contains("\x1b[32m✓\x1b[0m python"), "{coloured:?}");
}

#[test]
fn dockers_that_are_absent_or_hang_or_are_too_old_are_told_apart_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let absent = examined(doctor(&data, &["--docker-host", "unix:///nowhere/docker.sock"]));
    is_wrong(
        &absent,
        "docker",
        "docker does not answer at unix:///nowhere/docker.sock",
        "systemctl start docker",
    );

    let socket = folder.path().join("mute.sock");
    // It takes connections, and never a word.
    let _mute = UnixListener::bind(&socket).unwrap();
    let began = Instant::now();
    let hangs = examined(doctor(&data, &["--docker-host", &format!("unix://{}", socket.display())]));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    is_wrong(&hangs, "docker", "no answer within 4 s", "");
    assert_eq!(of(&hangs, "python").state, CheckState::Well, "one that hangs holds up nobody else");

    let old = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("http://{}", old.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut client, _) = old.accept().unwrap();
        let mut asked = [0; 1024];
        let _of_no_interest = client.read(&mut asked).unwrap();
        let body = r#"{"Version":"18.09.1","ApiVersion":"1.39"}"#;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
        write!(client, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
    });
    is_wrong(&examined(doctor(&data, &["--docker-host", &host])), "docker", "speaks API 1.39 only", "19.03");
}

#[test]
fn a_docker_that_this_user_may_not_use_names_the_group() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let socket = folder.path().join("closed.sock");
    let _closed = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    let host = format!("unix://{}", socket.display());
    // Root may use every socket, so root becomes somebody who may not; and the binary may lie where only root can go.
    let binary = folder.path().join("bettertest");
    std::fs::copy(BINARY, &binary).unwrap();
    let mut command = Command::new(&binary);
    command.args(["doctor", "--docker-host", &host, "--data-dir"]).arg(folder.path().join("data"));
    command.stdin(Stdio::null());
    if nix::unistd::Uid::effective().is_root() {
        command.uid(65534).gid(65534).current_dir("/");
    }
    let checkup = examined(command);
    is_wrong(&checkup, "docker", "may not use docker at", "sudo usermod -aG docker ");
}

#[test]
fn pythons_that_are_missing_or_old_or_hang_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let with = |script: Option<&str>| {
        let path = folder.path().join("python3");
        if let Some(script) = script {
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = doctor(&data, &[]);
        command.env("PATH", folder.path());
        examined(command)
    };
    is_wrong(&with(None), "python", "no python3 on this machine's PATH", "sudo apt-get install python3");
    is_wrong(
        &with(Some("echo 3.8.10 /usr/bin/python3")),
        "python",
        "3.8.10 (/usr/bin/python3) is older",
        "newer",
    );
    is_wrong(&with(Some("echo broken >&2; exit 1")), "python", "python3 does not run: broken", "");
    is_wrong(&with(Some("exec /bin/sleep 60")), "python", "does not answer within 4 s", "");
}

#[test]
fn a_token_that_others_can_read_is_wrong_and_its_hint_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    let checkup = examined(doctor(folder.path(), &[]));
    is_wrong(&checkup, "token", "has mode 0644", "chmod 600 ");
    let hint = of(&checkup, "token").hint.clone().unwrap();
    assert!(Command::new("/bin/sh").args(["-c", &hint]).status().unwrap().success());
    assert_eq!(of(&examined(doctor(folder.path(), &[])), "token").state, CheckState::Well);
    std::fs::write(&token, "\n").unwrap();
    is_wrong(&examined(doctor(folder.path(), &[])), "token", "is empty", "rm ");
}

#[test]
fn each_worker_elsewhere_is_asked_and_a_bad_line_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    std::fs::create_dir(&ours).unwrap();
    let worker = Process::start(&[
        "--worker",
        "--engine",
        "fake",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        theirs.to_str().unwrap(),
    ]);
    let token = std::fs::read_to_string(theirs.join("token")).unwrap();
    let with = |lines: &str| {
        std::fs::write(ours.join("workers.toml"), lines).unwrap();
        examined(doctor(&ours, &["--docker-host", "unix:///nowhere/docker.sock"]))
    };
    let of_ours = |checkup: &Checkup| {
        checkup.checks.iter().find(|check| check.found.contains(&worker.base)).cloned().unwrap()
    };
    let good = with(&format!("\"{}\" = \"{}\"\n", worker.base, token.trim()));
    let found = of_ours(&good);
    assert_eq!((found.state, found.check.as_str()), (CheckState::Well, "worker"), "{found:?}");
    assert!(found.found.contains("(fake, "), "{found:?}");
    // Steps can run there, so a missing Docker is no more than a warning.
    assert_eq!(of(&good, "docker").state, CheckState::Warning, "{good:#?}");
    assert_eq!(of(&good, "clock").state, CheckState::Well);

    let stranger = of_ours(&with(&format!("\"{}\" = \"other\"\n", worker.base)));
    assert_eq!(stranger.state, CheckState::Wrong);
    assert!(stranger.found.contains("does not take the token"), "{stranger:?}");

    // Discard: nothing listens there.
    let gone = with("\"http://127.0.0.1:9\" = \"other\"\n");
    assert!(
        gone.checks.iter().any(|check| check.found == "nothing answers at http://127.0.0.1:9"),
        "{gone:#?}"
    );
    is_wrong(&gone, "docker", "does not answer", "");

    is_wrong(&with("# fine\nhttp://big = x\n"), "workers", "line 2 of ", "\"http://host:9009\" = \"token\"");
}

#[tokio::test]
async fn the_boss_answers_the_same_as_json() {
    let ci = Ci::with("").await;
    let data = crate::ci::data_of(ci.folder.path());
    let served: Checkup = serde_json::from_value(ci.get("/api/doctor").await).unwrap();
    let printed = tokio::task::spawn_blocking(move || examined(doctor(&data, &[]))).await.unwrap();
    // How much is free changes while one looks.
    let steady = |checkup: Checkup| {
        checkup.checks.into_iter().filter(|check| check.check != "disk").collect::<Vec<_>>()
    };
    let boss = of(&served, "boss");
    assert!(ci.boss.base.ends_with(boss.found.strip_prefix("ours answers at ").unwrap()), "{boss:?}");
    assert_eq!(steady(served), steady(printed));
}
