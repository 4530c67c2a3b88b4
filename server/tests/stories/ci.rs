//! A whole bettertest for one test: the real binary as worker and as boss, on free ports of loopback, with data in
//! a folder of their own. A test reads as a story: `let ci = Ci::with(PIPEDEF).await; let run = ci.run().await;`.

use common::{Phase, RunEvent, RunFact, RunState, TaskId, TaskState};
use futures_util::StreamExt as _;
use reqwest::{Method, RequestBuilder, StatusCode};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_bettertest");

/// No story takes longer; a longer one hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// A process of ours that is ended with the test.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// What it says on standard error; shown where the test fails.
    log: tempfile::NamedTempFile,
    /// Where it listens, `http://127.0.0.1:PORT`.
    pub(crate) base: String,
    /// The line that it said when it was ready.
    pub(crate) ready: String,
}

impl Process {
    /// Starts a server and waits until it says where it listens.
    pub(crate) fn start(args: &[&str]) -> Process {
        let log = tempfile::NamedTempFile::new().expect("there is a temp folder");
        let mut child = Command::new(BINARY)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen().expect("just made"))
            .spawn()
            .expect("the binary starts");
        let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut ready = String::new();
        while !ready.contains("http://") {
            ready.clear();
            let count = said.read_line(&mut ready).expect("it speaks");
            assert_ne!(
                count,
                0,
                "{args:?} ended before it was ready: {:?}",
                std::fs::read_to_string(log.path())
            );
        }
        // What it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let from = ready.find("http://").expect("just seen");
        let address: String = ready[from + 7..].chars().take_while(|c| !"/ \n,;)".contains(*c)).collect();
        Process { child, log, base: format!("http://{address}"), ready: ready.trim().to_owned() }
    }

    /// What it has said on standard error.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("it was just written")
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("the process is ours");
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "what a failing test says")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.ready, std::fs::read_to_string(self.log.path()).unwrap_or_default());
        }
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        // A worker removes its containers when it is interrupted; only one that does not end is killed.
        self.signal(nix::sys::signal::Signal::SIGINT);
        for _ in 0..100 {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        if !std::thread::panicking() {
            panic!("{} did not end within 10 s of SIGINT", self.ready);
        }
    }
}

pub(crate) struct Ci {
    pub(crate) boss: Process,
    pub(crate) worker: Process,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
    pub(crate) folder: tempfile::TempDir,
}

impl Ci {
    /// A boss for this pipedef, and a worker with the fake engine; `{WORKER}` in the text is its address.
    pub(crate) async fn with(pipedef: &str) -> Ci {
        Ci::with_engine(pipedef, "fake").await
    }

    pub(crate) async fn with_engine(pipedef: &str, engine: &str) -> Ci {
        let folder = tempfile::tempdir().expect("there is a temp folder");
        let data = data_of(folder.path());
        let data = data.to_str().expect("a temp folder has a plain name");
        let listen = ["--listen", "127.0.0.1:0", "--data-dir", data];
        let worker = [&["--worker", "--engine", engine, "--slots", "4"], &listen[..]].concat();
        let worker = Process::start(&worker);
        write_pipedef(folder.path(), pipedef, &worker.base);
        let boss = Ci::start_boss(folder.path());
        let token = std::fs::read_to_string(Path::new(data).join("token")).expect("the token was made");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS");
        Ci { boss, worker, token: token.trim().to_owned(), http, folder }
    }

    pub(crate) fn start_boss(folder: &Path) -> Process {
        let (data, pipedef) = (data_of(folder), pipedef_of(folder));
        let [data, pipedef] = [&data, &pipedef].map(|path| path.to_str().expect("a plain name"));
        Process::start(&["--boss", "--pipedef", pipedef, "--listen", "127.0.0.1:0", "--data-dir", data])
    }

    pub(crate) fn rewrite(&self, pipedef: &str) {
        write_pipedef(self.folder.path(), pipedef, &self.worker.base);
    }

    pub(crate) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let asked =
            self.http.request(method.clone(), format!("{}{path}", self.boss.base)).bearer_auth(&self.token);
        if method == Method::POST { asked.json(&serde_json::json!({})) } else { asked }
    }

    pub(crate) async fn get(&self, path: &str) -> serde_json::Value {
        let answer = self.ask(Method::GET, path).send().await.expect("the boss answers");
        let text = answer.text().await.expect("with a body");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    pub(crate) async fn post(&self, path: &str) -> (StatusCode, serde_json::Value) {
        let answer = self.ask(Method::POST, path).send().await.expect("the boss answers");
        let status = answer.status();
        (status, answer.json().await.expect("with JSON"))
    }

    pub(crate) async fn start(&self) -> u64 {
        let (status, made) = self.post("/api/runs").await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made["run"].as_u64().expect("a number")
    }

    /// Starts a run and waits for its end.
    pub(crate) async fn run(&self) -> Told {
        let run = self.start().await;
        self.follow(run, |_, _| false).await
    }

    /// Follows a run from its first event until it is at rest, or until `enough` says so.
    pub(crate) async fn follow(&self, run: u64, enough: impl Fn(&RunState, &RunFact) -> bool) -> Told {
        self.follow_for(PATIENCE, run, enough).await
    }

    pub(crate) async fn follow_for(
        &self,
        patience: Duration,
        run: u64,
        enough: impl Fn(&RunState, &RunFact) -> bool,
    ) -> Told {
        let followed = async {
            let asked = self.ask(Method::GET, &format!("/api/runs/{run}/events")).send().await;
            let mut bytes = asked.expect("the boss answers").bytes_stream();
            let mut told = Told { number: run, state: RunState::default(), log: Vec::new() };
            let mut text = String::new();
            while let Some(piece) = bytes.next().await {
                text.push_str(
                    std::str::from_utf8(&piece.expect("an unbroken stream")).expect("events are ASCII here"),
                );
                while let Some((frame, rest)) = text.split_once("\n\n") {
                    let (frame, rest) = (frame.to_owned(), rest.to_owned());
                    text = rest;
                    if frame.starts_with("event: end") {
                        return told;
                    }
                    let Some(data) = frame.lines().find_map(|line| line.strip_prefix("data: ")) else {
                        continue;
                    };
                    let event: RunEvent = serde_json::from_str(data).expect("an event");
                    told.state.apply(&event).expect("a legal event");
                    told.log.push(event.fact);
                    if enough(&told.state, told.log.last().expect("just pushed")) {
                        return told;
                    }
                }
            }
            panic!("the events of run {run} broke off: {}", told.summary());
        };
        tokio::time::timeout(patience, followed).await.unwrap_or_else(|_| panic!("run {run} does not end"))
    }

    pub(crate) async fn output(&self, run: u64, task: &str) -> String {
        let asked = self.ask(Method::GET, &format!("/api/runs/{run}/tasks/{task}/output")).send().await;
        let bytes = asked.expect("the boss answers").bytes().await.expect("with a body");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Ci {
    /// What the worker lists.
    pub(crate) async fn steps(&self) -> Vec<serde_json::Value> {
        let url = format!("{}/steps", self.worker.base);
        let asked = self.http.get(url).bearer_auth(&self.token).send().await;
        asked.expect("the worker answers").json().await.expect("with JSON")
    }
}

/// What was told of a run.
pub(crate) struct Told {
    pub(crate) number: u64,
    pub(crate) state: RunState,
    pub(crate) log: Vec<RunFact>,
}

impl Told {
    /// `passed`, or `failed: command_failed`, ...
    pub(crate) fn words(&self) -> String {
        common::headline(&self.state)
    }

    pub(crate) fn task(&self, task: &str) -> String {
        let id = TaskId::try_from(task.to_owned()).expect("a task's name");
        common::task_words(self.state.task(&id).unwrap_or_else(|| panic!("no task {task}")))
    }

    pub(crate) fn problem(&self, task: &str) -> common::Problem {
        let id = TaskId::try_from(task.to_owned()).expect("a task's name");
        let attempt = self.state.task(&id).and_then(|task| task.attempts.last());
        let end = attempt.and_then(|attempt| attempt.end.as_ref()).expect("an ended attempt");
        end.problem.clone().expect("a problem")
    }

    /// All tasks, one a line.
    pub(crate) fn summary(&self) -> String {
        let line = |task: &common::TaskRun| format!("{} {}", task.id, common::task_words(task));
        let tasks: Vec<String> = self.state.tasks().map(line).collect();
        format!("{}\n{}", self.words(), tasks.join("\n"))
    }

    pub(crate) fn is_running(&self, task: &str) -> bool {
        let id = TaskId::try_from(task.to_owned()).expect("a task's name");
        self.state.phase == Phase::Running
            && self.state.task(&id).is_some_and(|task| task.state == TaskState::Running)
    }
}

pub(crate) fn data_of(folder: &Path) -> PathBuf {
    folder.join("data")
}

pub(crate) fn pipedef_of(folder: &Path) -> PathBuf {
    folder.join("project/.bettertest/pipedef.py")
}

pub(crate) fn write_pipedef(folder: &Path, text: &str, worker: &str) {
    let path = pipedef_of(folder);
    std::fs::create_dir_all(path.parent().expect("it has one")).expect("a temp folder is writable");
    let head = "from bettertest import Stage, run\nWORKER = \"{WORKER}\"\nIMAGE = \"bettertest-test:1\"\n";
    let text = format!("{head}{text}").replace("{WORKER}", worker);
    std::fs::write(path, text).expect("a temp folder is writable");
}
