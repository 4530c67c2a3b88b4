//! `bettertest run` as a person or an agent types it: what it prints, its exit code, and what it leaves behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::ci::{BINARY, Process, data_of, pipedef_of, write_pipedef};

/// A project folder, and with `fake` a worker that its pipedef names.
pub(crate) struct Project {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) worker: Option<Process>,
}

impl Project {
    pub(crate) fn with_fake_engine(pipedef: &str) -> Project {
        let folder = tempfile::tempdir().unwrap();
        let data = data_of(folder.path());
        let data = data.to_str().unwrap();
        let worker =
            Process::start(&["--worker", "--engine", "fake", "--listen", "127.0.0.1:0", "--data-dir", data]);
        write_pipedef(folder.path(), pipedef, &worker.base);
        Project { folder, worker: Some(worker) }
    }

    /// Nothing listens at its address, so that `bettertest run` brings a worker with docker.
    pub(crate) fn with_docker(pipedef: &str) -> Project {
        let folder = tempfile::tempdir().unwrap();
        write_pipedef(folder.path(), pipedef, "http://localhost:9");
        Project { folder, worker: None }
    }

    fn command(&self, args: &[&str]) -> Command {
        self.command_of("run", args)
    }

    /// `bettertest NAME ARGS` as it is typed in the project's folder.
    pub(crate) fn command_of(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg(name).args(args).arg("--data-dir").arg(data_of(self.folder.path()));
        command.current_dir(self.folder.path().join("project")).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The two lines of a refusal, and nothing else.
pub(crate) fn refused(output: &Output, part: &str) {
    let text = err(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("error: ") && text.contains("\nhint: ") && text.contains(part), "{text}");
    assert_eq!(out(output), "");
}

const MIXED: &str = r#"
class One(Stage):
    def task_good(self):
        run(WORKER, IMAGE, "print fine")

    def task_bad(self):
        run(WORKER, IMAGE, "print this is why; exit 4")
"#;

#[test]
fn a_failing_run_is_1_and_shows_why() {
    let project = Project::with_fake_engine(MIXED);
    let ended = project.run(&[]);
    let text = out(&ended);
    assert_eq!(ended.status.code(), Some(1), "{text}{}", err(&ended));
    for part in [
        "✗ failed: command_failed",
        "│ this is why",
        "exit code 4",
        "pipedef.py:10",
        "✓ passed",
        "1 failed, 1 passed",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains('\x1b'), "no colours where nobody sees them: {text:?}");
    assert_eq!(err(&ended), "");
}

#[test]
fn a_part_is_0_and_says_that_it_is_one() {
    let project = Project::with_fake_engine(MIXED);
    for selection in [["--task", "good"], ["--task", "One.good"], ["--task", "task_good"]] {
        let ended = project.run(&selection);
        assert_eq!(ended.status.code(), Some(0), "{}{}", out(&ended), err(&ended));
        assert!(out(&ended).contains("passed (1 of 2 tasks)"), "{}", out(&ended));
    }
    refused(&project.run(&["--task", "ghost"]), "there are: One.good, One.bad");
    refused(&project.run(&["--stage", "Ghost"]), "there are: One");
}

/// `--stage` and `--task` narrow each other down.
#[test]
fn a_stage_and_a_task_select_what_both_select() {
    let project = Project::with_fake_engine(
        "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n    def task_b(self): run(WORKER, IMAGE, 'exit 1')\n\
         class Two(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n    def task_c(self): run(WORKER, IMAGE, 'exit 1')\n",
    );
    for selection in
        [&["--stage", "One", "--task", "a"][..], &["--task", "Two.a", "--stage", "Two", "--stage", "One"]]
    {
        let ended = project.run(selection);
        assert_eq!(ended.status.code(), Some(0), "{}{}", out(&ended), err(&ended));
        assert!(out(&ended).contains("passed (1 of 4 tasks)"), "{}", out(&ended));
    }
    refused(&project.run(&["--task", "a"]), "several tasks are called a");
    refused(&project.run(&["--stage", "One", "--task", "c"]), "no stage that --stage names has a task c");
    refused(
        &project.run(&["--stage", "One", "--task", "Two.a"]),
        "both --stage and --task select; there is Two.a",
    );
}

#[test]
fn json_is_the_log_itself() {
    let project = Project::with_fake_engine(MIXED);
    let ended = project.run(&["--json"]);
    assert_eq!(ended.status.code(), Some(1));
    let mut state = common::RunState::default();
    let mut tails = 0;
    let mut verdict = serde_json::Value::Null;
    for line in out(&ended).lines() {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        if json["event"] == "output_tail" {
            assert_eq!(
                (&json["task"], &json["lines"]),
                (&"One.bad".into(), &serde_json::json!(["this is why"]))
            );
            tails += 1;
        } else if json["event"] == "verdict" {
            verdict = json;
        } else {
            state.apply(&serde_json::from_value(json).unwrap()).unwrap();
        }
    }
    assert_eq!(tails, 1);
    assert_eq!(common::headline(&state), "failed: command_failed");
    let said = |name: &str| verdict[name].as_str().unwrap();
    assert_eq!(
        [said("outcome"), said("reason"), said("headline")],
        ["failed", "command_failed", "failed: command_failed"]
    );
}

#[test]
fn what_is_wrong_before_a_run_is_2_in_two_lines() {
    let project = Project::with_fake_engine(MIXED);
    let folder = project.folder.path();
    let other = folder.join("empty");
    std::fs::create_dir(&other).unwrap();
    refused(&project.run(&[other.to_str().unwrap()]), "there is no .bettertest/pipedef.py");
    refused(&project.run(&["missing.py"]), "there is no pipedef missing.py");
    refused(&project.run(&["--flag"]), "--flag");
    refused(&project.run(&["--worker", "http://127.0.0.1:1"]), "no worker answers");
    refused(&project.run(&["--worker", "nonsense"]), "not the address of a worker");
    std::fs::write(folder.join("file"), "").unwrap();
    let bad_data =
        Command::new(BINARY).args(["run", "--data-dir", "file/x"]).current_dir(folder).output().unwrap();
    refused(&bad_data, "there is no .bettertest/pipedef.py");
    let pipedef = pipedef_of(folder);
    let mut bad_data = Command::new(BINARY);
    bad_data.arg("run").arg(&pipedef).args(["--data-dir", "file/x"]).current_dir(folder);
    refused(&bad_data.output().unwrap(), "cannot use file/x");

    std::fs::write(&pipedef, "class One(Stage\n").unwrap();
    let broken = project.run(&[]);
    assert_eq!(broken.status.code(), Some(2));
    assert!(err(&broken).contains("pipedef.py:1"), "{}", err(&broken));

    // The worker of another data directory has another token.
    let data = folder.join("other-data");
    write_pipedef(folder, MIXED, &project.worker.as_ref().unwrap().base);
    let strange =
        Command::new(BINARY).arg("run").arg(&pipedef).arg("--data-dir").arg(&data).output().unwrap();
    refused(&strange, "does not take our token");
}

#[test]
fn a_server_that_cannot_start_is_2_in_two_lines() {
    let project = Project::with_fake_engine(MIXED);
    let data = data_of(project.folder.path());
    let data = data.to_str().unwrap();
    let taken = project.worker.as_ref().unwrap().base.strip_prefix("http://").unwrap().to_owned();
    let start = |args: &[&str]| Command::new(BINARY).args(args).stdin(Stdio::null()).output().unwrap();
    refused(&start(&["--worker", "--engine", "fake", "--data-dir", data]), "is in use by process");
    let other = project.folder.path().join("other");
    let other = other.to_str().unwrap();
    refused(
        &start(&["--worker", "--engine", "fake", "--listen", &taken, "--data-dir", other]),
        "cannot listen on",
    );
    refused(
        &start(&["--boss", "--pipedef", "x.py", "--listen", &taken, "--data-dir", other]),
        "cannot listen on",
    );
    refused(&start(&["--boss"]), "--pipedef");
    refused(&start(&["open", "--data-dir", other]), "no boss");
    let nowhere = format!("{other}/nowhere");
    refused(&start(&["open", "--data-dir", &nowhere]), "no boss");
    assert!(!std::path::Path::new(&nowhere).exists(), "asking for a link made a data directory");
}

/// Containers whose step is of a run of this project, and sandboxes.
pub(crate) fn ours(project: &Project) -> Vec<String> {
    let mut list = Command::new("docker");
    let listed =
        list.args(["ps", "-a", "--format", "{{.Names}} {{.Command}}", "--no-trunc"]).output().unwrap();
    let marker = project.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
    let listed = out(&listed);
    let in_docker: Vec<String> =
        listed.lines().filter(|line| line.contains(&marker)).map(str::to_owned).collect();
    let local = data_of(project.folder.path()).join("local");
    let runs: Vec<_> = below(&[local]).iter().map(|project| project.join("runs")).collect();
    let workers: Vec<_> = below(&runs).iter().map(|run| run.join("worker/native")).collect();
    let sandboxes = below(&workers).into_iter();
    let sandboxes = sandboxes.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    let sandboxes = sandboxes.filter(|name| !name.starts_with('.')).collect();
    [in_docker, sandboxes].concat()
}

fn below(folders: &[PathBuf]) -> Vec<PathBuf> {
    let entries = folders.iter().flat_map(std::fs::read_dir).flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// As root both, else the one there is.
fn engines() -> &'static [&'static str] {
    if nix::unistd::geteuid().is_root() { &["docker", "native"] } else { &["docker"] }
}

#[test]
fn with_real_containers_the_exit_code_says_how_it_went() {
    let cases = [
        ("run(WORKER, IMAGE, 'echo MARK; exit 0')", 0),
        ("run(WORKER, IMAGE, 'echo MARK; exit 5')", 1),
        ("run(WORKER, 'bettertest-no-such-image:7', 'echo MARK')", 3),
        ("run(WORKER, IMAGE, 'echo MARK; sleep 60', timeout_s=1)", 1),
    ];
    for (call, code) in cases {
        let project = Project::with_docker("");
        let marker = project.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let call = call.replace("MARK", &marker);
        let text = format!("class One(Stage):\n    def task_a(self):\n        {call}\n");
        write_pipedef(project.folder.path(), &text, "http://localhost:9");
        let ended = project.run(&[]);
        assert_eq!(ended.status.code(), Some(code), "{call}: {}{}", out(&ended), err(&ended));
        if code == 3 {
            assert!(out(&ended).contains("docker build -t bettertest-no-such-image:7"), "{}", out(&ended));
        }
        assert_eq!(ours(&project), Vec::<String>::new());
        assert!(is_swept(project.folder.path()));
    }
}

#[test]
fn an_interrupt_cancels_and_leaves_nothing_behind() {
    engines().iter().for_each(|engine| is_interrupted(engine));
}

fn is_interrupted(engine: &str) {
    let project = Project::with_docker("");
    let marker = project.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
    let text = format!(
        "class One(Stage):\n    def task_a(self):\n        run(WORKER, IMAGE, 'echo {marker}; trap \"\" TERM; sleep 300')\n"
    );
    write_pipedef(project.folder.path(), &text, "http://localhost:9");
    let mut child = project.command(&["--json", "--engine", engine]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = child.stdout.take().unwrap();
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !text.contains("\"started\"") {
        let count = said.read(&mut piece).unwrap();
        assert_ne!(count, 0, "it ended early: {text}");
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    assert_eq!(ours(&project).len(), 1);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    said.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains(r#""event":"run_ended","outcome":"cancelled""#), "{text}");
    assert_eq!(ours(&project), Vec::<String>::new());
    assert!(is_swept(project.folder.path()));
}

/// Of an ended local run nothing is left but its history.
pub(crate) fn is_swept(folder: &Path) -> bool {
    let local = std::fs::read_dir(data_of(folder).join("local")).unwrap().next().unwrap().unwrap();
    std::fs::read_dir(local.path().join("runs")).unwrap().next().is_none()
}

/// What a killed `bettertest run` has left is gone after the next one, and its run has an end.
#[test]
fn the_next_run_tidies_up_after_one_that_was_killed() {
    engines().iter().for_each(|engine| is_tidied_up(engine));
}

fn is_tidied_up(engine: &str) {
    let project = Project::with_docker("");
    let marker = project.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
    let write = |command: &str| {
        let text =
            format!("class One(Stage):\n    def task_a(self):\n        run(WORKER, IMAGE, '{command}')\n");
        write_pipedef(project.folder.path(), &text, "http://localhost:9");
    };
    write(&format!("echo {marker}; sleep 300"));
    let mut child = project.command(&["--json", "--engine", engine]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("\"started\"")), "it ended early");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ours(&project).len(), 1);
    write(&format!("echo {marker}"));
    let ended = project.run(&[]);
    assert_eq!(ended.status.code(), Some(0), "{}{}", out(&ended), err(&ended));
    assert_eq!(ours(&project), Vec::<String>::new());
    assert!(is_swept(project.folder.path()));
    assert!(err(&ended).contains("run 1 was left unfinished"), "{}", err(&ended));
}
