//! A worker that dies, at any moment, and one that comes after it: every step ends as its command did, its output
//! says where nobody listened, and nothing is left. Workers are real processes on one port and one data folder,
//! containers are Docker's. Seeds are printed; longer: `cargo test --release --test stories worker_dies -- --ignored`.

use common::{StepEvent, Stream};
use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Digest as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::ci::{Ci, Process, data_of, write_pipedef};

const IMAGE: &str = "bettertest-test:1";

/// A row of numbers that depends on its seed alone; the seed is printed.
pub(crate) struct Dice(u64);

impl Dice {
    #[expect(clippy::print_stderr, reason = "a failing story is told again by its seed")]
    pub(crate) fn fresh(what: &str) -> Dice {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = now.as_nanos() as u64;
        eprintln!("{what}: seed {seed}");
        Dice(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A place for workers, one after another: a port, a data folder, an engine.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) http: reqwest::Client,
    data: String,
    address: String,
    more: Vec<String>,
}

impl Place {
    pub(crate) fn new(more: &[&str]) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let data = data_of(folder.path()).to_str().unwrap().to_owned();
        Place::at(folder, data, more)
    }

    pub(crate) fn at(folder: tempfile::TempDir, data: String, more: &[&str]) -> Place {
        // Free now, and ours from the first worker on.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let more = more.iter().map(|word| (*word).to_owned()).collect();
        Place { folder, http, data, address: free.to_string(), more }
    }

    pub(crate) fn worker(&self) -> Process {
        let args = ["--worker", "--listen", &self.address, "--data-dir", &self.data];
        let more = self.more.iter().map(String::as_str);
        Process::start(&args.into_iter().chain(more).collect::<Vec<_>>())
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(format!("{}/token", self.data)).unwrap().trim().to_owned()
    }

    pub(crate) fn ask(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base())).bearer_auth(self.token())
    }

    /// Posts until it was taken on, through whatever becomes of the worker meanwhile.
    pub(crate) async fn post(&self, spec: &Value) {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let sent = self.ask(Method::POST, "/run").json(spec).send().await;
            match sent {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) if answer.status() != StatusCode::SERVICE_UNAVAILABLE => {
                    panic!("{spec}: {}", answer.text().await.unwrap_or_default())
                }
                Ok(_) | Err(_) => assert!(Instant::now() < until, "{spec} is never taken"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All that was told of a step, once it has ended; through restarts of the worker.
    pub(crate) async fn events(&self, id: &str) -> Vec<StepEvent> {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            if let Ok(answer) = self.ask(Method::GET, &format!("/steps/{id}/events")).send().await
                && answer.status().is_success()
                && let Ok(text) = answer.text().await
            {
                let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
                let events: Vec<StepEvent> = data.map(|json| serde_json::from_str(json).unwrap()).collect();
                if events.last().is_some_and(|last| last.end().is_some()) {
                    return events;
                }
            }
            assert!(Instant::now() < until, "step {id} never ends");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn is_at(&self, id: &str, state: &str) {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let asked = self.ask(Method::GET, &format!("/steps/{id}")).send().await;
            if let Ok(answer) = asked
                && let Ok(view) = answer.json::<Value>().await
                && view["state"] == state
            {
                return;
            }
            assert!(Instant::now() < until, "step {id} is never {state}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn instance(&self) -> String {
        std::fs::read_to_string(format!("{}/instance", self.data)).unwrap().trim().to_owned()
    }

    pub(crate) fn containers(&self) -> Vec<String> {
        let label = format!("label=bettertest.instance={}", self.instance());
        let listed = docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &label]);
        let sandboxes = std::fs::read_dir(format!("{}/worker/native", self.data)).into_iter().flatten();
        let sandboxes = sandboxes.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        // What is thrown is only waiting to be deleted, and what was made ahead is there to stay.
        let sandboxes = sandboxes.filter(|name| !name.starts_with('.'));
        listed.lines().map(str::to_owned).chain(sandboxes).collect()
    }

    /// Ended ones are removed before their end is told, or else by the sweep that follows the start.
    pub(crate) async fn nothing_is_left(&self) {
        let until = Instant::now() + Duration::from_secs(120);
        while !self.containers().is_empty() {
            assert!(Instant::now() < until, "left: {:?}", self.containers());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

pub(crate) fn docker(words: &[&str]) -> String {
    let output = Command::new("docker").args(words).output().unwrap();
    assert!(output.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn kill(mut worker: Process) {
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
}

/// A step whose every line and end is known beforehand.
struct Oracle {
    id: String,
    lines: u64,
    /// Between two lines; 0 for none.
    pause_ms: u64,
    code: u8,
}

impl Oracle {
    fn any(id: String, dice: &mut Dice) -> Oracle {
        let code = [0, 0, 1, 3, 137, dice.below(256) as u8][dice.below(6) as usize];
        Oracle { id, lines: 1 + dice.below(120), pause_ms: [0, 1, 5, 10][dice.below(4) as usize], code }
    }

    fn spec(&self) -> Value {
        let pause = if self.pause_ms == 0 { String::new() } else { format!("usleep {}000;", self.pause_ms) };
        let command = format!(
            "i=0; while [ $i -lt {} ]; do set -- $(echo {} $i | sha256sum); echo $i $1; {pause} i=$((i+1)); done; exit {}",
            self.lines, self.id, self.code
        );
        json!({"image": IMAGE, "command": command, "id": self.id, "timeout_s": 60})
    }

    fn text(&self) -> String {
        let line = |line| format!("{line} {}\n", sha256_hex(&format!("{} {line}\n", self.id)));
        (0..self.lines).map(line).collect()
    }

    /// The end is the command's own; every byte stands where it belongs, or there is a gap in its place.
    fn check(&self, events: &[StepEvent], deaths: usize) {
        let at = format!("{} ({} lines, exit {}): {events:?}", self.id, self.lines, self.code);
        let StepEvent::Exited { exit_code, .. } = events.last().unwrap() else { panic!("{at}") };
        assert_eq!(*exit_code, self.code, "{at}");
        assert_eq!(events.iter().filter(|event| event.end().is_some()).count(), 1, "{at}");
        assert_eq!(
            events.iter().filter(|event| matches!(event, StepEvent::Started { .. })).count(),
            1,
            "{at}"
        );
        let text = self.text();
        let (mut parts, mut gaps) = (vec![String::new()], 0);
        for event in events {
            match event {
                StepEvent::Output { stream: Stream::Stdout, bytes } => {
                    let said = String::from_utf8(bytes.as_slice().to_vec()).unwrap();
                    parts.last_mut().unwrap().push_str(&said);
                }
                StepEvent::Output { .. } | StepEvent::Dropped { .. } => panic!("{at}"),
                StepEvent::Gap { .. } => {
                    // Two with nothing between them are one place where something may be missing.
                    if gaps == 0 || parts.last().is_some_and(|part| !part.is_empty()) {
                        gaps += 1;
                        parts.push(String::new());
                    }
                }
                StepEvent::Queued | StepEvent::Preparing { .. } | StepEvent::Started { .. } => {}
                StepEvent::Exited { .. } | StepEvent::TimedOut { .. } => {}
                StepEvent::Cancelled { .. } | StepEvent::Errored { .. } | StepEvent::Artifacts(_) => {}
            }
        }
        assert!(gaps <= deaths, "{gaps} gaps of {deaths} deaths: {at}");
        let (mut rest, last) = (text.as_str(), parts.len() - 1);
        for (number, part) in parts.iter().enumerate() {
            // Before the first gap nothing is missing, and after the last nothing follows.
            let found = match (number == 0, number == last) {
                (true, true) => (rest == part).then_some(0),
                (true, false) => rest.starts_with(part.as_str()).then_some(0),
                (false, true) => rest.ends_with(part.as_str()).then(|| rest.len() - part.len()),
                (false, false) => rest.find(part.as_str()),
            };
            let from = found.unwrap_or_else(|| panic!("part {number} is not where it belongs: {at}"));
            rest = &rest[from + part.len()..];
        }
    }
}

fn sha256_hex(text: &str) -> String {
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Containers that are not ours, and have to be there afterwards as they were.
struct Foreign(Vec<(String, String)>);

impl Foreign {
    fn new(place: &Place) -> Foreign {
        let labels: [&[&str]; 3] = [
            &[],
            &["--label", "bettertest.instance=somebody-else", "--label", "bettertest.step=q-1"],
            &["--label", "somebody=else", "--label", "bettertest.step=q-1"],
        ];
        let one = |(number, labels): (usize, &&[&str])| {
            let name = format!(
                "foreign-{number}-{}",
                std::path::Path::new(&place.data)
                    .parent()
                    .unwrap()
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .trim_start_matches('.')
            );
            docker(&[&["run", "-d", "--name", &name], *labels, &[IMAGE, "sleep", "3000"]].concat());
            let state = Foreign::state(&name);
            (name, state)
        };
        Foreign(labels.iter().enumerate().map(one).collect())
    }

    fn state(name: &str) -> String {
        docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}} {{.State.Running}}", name])
    }

    fn are_untouched(&self) {
        for (name, state) in &self.0 {
            assert_eq!(Foreign::state(name), *state);
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        for (name, _) in &self.0 {
            drop(Command::new("docker").args(["rm", "-f", name]).output());
        }
    }
}

/// Round after round of steps, and in each the worker is killed once: soon after they were asked for, in the middle,
/// or where the first of them end.
async fn killed_at_any_moment(engine: &str, rounds: u64) {
    let mut dice = Dice::fresh("worker killed");
    let place = Place::new(&["--slots", "3", "--engine", engine]);
    let mut worker = place.worker();
    let foreign = Foreign::new(&place);
    let (mut codes, mut gaps) = (0, 0);
    for round in 0..rounds {
        let steps: Vec<Oracle> =
            (0..5).map(|step| Oracle::any(format!("q{round}-{step}"), &mut dice)).collect();
        let specs: Vec<Value> = steps.iter().map(Oracle::spec).collect();
        let after = Duration::from_millis(
            [dice.below(150), dice.below(600), dice.below(1500)][dice.below(3) as usize],
        );
        let posts = futures_util::future::join_all(specs.iter().map(|spec| place.post(spec)));
        let dies = async {
            tokio::time::sleep(after).await;
            kill(worker);
            place.worker()
        };
        let (_, next) = tokio::join!(posts, dies);
        worker = next;
        let began = Instant::now();
        for step in &steps {
            let events = place.events(&step.id).await;
            // What a native step prints meanwhile is kept for the next worker, to the byte.
            step.check(&events, if engine == "native" { 0 } else { 1 });
            codes += 1;
            gaps += events.iter().filter(|event| matches!(event, StepEvent::Gap { .. })).count();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
    place.nothing_is_left().await;
    foreign.are_untouched();
    drop(worker);
    report(&format!("{rounds} workers killed, {codes} exit codes true, {gaps} gaps"));
}

#[expect(clippy::print_stderr, reason = "the figures of a run by hand")]
fn report(text: &str) {
    eprintln!("{text}");
}

#[tokio::test]
async fn killed_at_any_moment_its_steps_end_as_they_did() {
    killed_at_any_moment("docker", 5).await;
}

#[tokio::test]
async fn killed_at_any_moment_not_a_byte_of_a_native_step_is_lost() {
    if nix::unistd::geteuid().is_root() {
        killed_at_any_moment("native", 10).await;
    }
}

/// What waits for a step ends with the worker that had it made; the next one removes its folders.
#[tokio::test]
async fn of_a_killed_worker_no_sandbox_that_was_made_ahead_is_left() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new(&["--engine", "native"]);
    let worker = place.worker();
    place.post(&json!({"image": IMAGE, "command": "true", "id": "a-1", "network": "none"})).await;
    place.events("a-1").await;
    let sandboxes = std::fs::canonicalize(format!("{}/worker/native", place.data)).unwrap();
    let made = || {
        let names = std::fs::read_dir(&sandboxes).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".made-")).count()
    };
    // Supervisors are in their folders.
    let supervisors = || {
        let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cwd"));
        let folders = processes.filter_map(|cwd| std::fs::read_link(cwd).ok());
        folders.filter(|folder| folder.starts_with(&sandboxes)).count()
    };
    let until = Instant::now() + Duration::from_secs(60);
    let wait_for = async |what: &str, is: &dyn Fn() -> bool| {
        while !is() {
            assert!(Instant::now() < until, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    wait_for("some are made ahead", &|| made() >= 2 && supervisors() >= 2).await;
    kill(worker);
    wait_for("their processes end", &|| supervisors() == 0).await;
    let next = place.worker();
    wait_for("their folders go", &|| made() == 0).await;
    drop(next);
}

#[tokio::test]
#[ignore = "more of the same"]
async fn killed_at_any_moment_many() {
    killed_at_any_moment("docker", 100).await;
    killed_at_any_moment("native", 300).await;
}

/// A kill in the same moment as the exit: whatever was lost, no exit code is made up.
async fn killed_as_they_exit(rounds: u64) {
    let mut dice = Dice::fresh("worker killed at the exit");
    let place = Place::new(&["--slots", "8"]);
    let mut worker = place.worker();
    for round in 0..rounds {
        let steps: Vec<(String, u8)> =
            (0..6).map(|step| (format!("x{round}-{step}"), [0, 1, 137][dice.below(3) as usize])).collect();
        let specs: Vec<Value> = steps
            .iter()
            .map(|(id, code)| json!({"image": IMAGE, "command": format!("usleep {}; exit {code}", 300_000 + dice.below(200_000)), "id": id}))
            .collect();
        futures_util::future::join_all(specs.iter().map(|spec| place.post(spec))).await;
        tokio::time::sleep(Duration::from_millis(200 + dice.below(450))).await;
        kill(worker);
        worker = place.worker();
        for (id, code) in &steps {
            let events = place.events(id).await;
            let Some(StepEvent::Exited { exit_code, .. }) = events.last() else { panic!("{id}: {events:?}") };
            assert_eq!(exit_code, code, "{id}");
        }
    }
    place.nothing_is_left().await;
}

#[tokio::test]
async fn killed_as_they_exit_nothing_is_made_up() {
    killed_as_they_exit(4).await;
}

#[tokio::test]
#[ignore = "more of the same"]
async fn killed_as_they_exit_many() {
    killed_as_they_exit(100).await;
}

/// Pulling needs a registry, or an engine that pretends; this one's containers are gone with their worker.
#[tokio::test]
async fn killed_while_queued_pulling_and_running_on_an_engine_that_goes_with_it() {
    let place = Place::new(&["--engine", "fake", "--slots", "2"]);
    let worker = place.worker();
    place.post(&json!({"image": IMAGE, "command": "echo on; sleep 60", "id": "a-runs"})).await;
    place.post(&json!({"image": "fake-endless", "command": "true", "id": "a-pulls"})).await;
    place.post(&json!({"image": IMAGE, "command": "exit 9", "id": "a-waits"})).await;
    place.is_at("a-runs", "running").await;
    place.is_at("a-pulls", "preparing").await;
    place.is_at("a-waits", "queued").await;
    kill(worker);
    let worker = place.worker();
    // Its container is gone, and nobody knows how it ended.
    let Some(StepEvent::Errored { reason, .. }) = place.events("a-runs").await.pop() else { panic!() };
    assert_eq!(reason, common::Reason::ContainerLost);
    let Some(StepEvent::Exited { exit_code: 9, .. }) = place.events("a-waits").await.pop() else { panic!() };
    // It pulls again, until it is cancelled, and then it is not taken up any more.
    place.is_at("a-pulls", "preparing").await;
    let cancelled = place.ask(Method::DELETE, "/steps/a-pulls").send().await.unwrap();
    assert_eq!(cancelled.status(), StatusCode::OK);
    kill(worker);
    let _worker = place.worker();
    let Some(StepEvent::Cancelled { .. }) = place.events("a-pulls").await.pop() else { panic!() };
}

/// A cancel that was answered holds, though the worker died before it could do anything about it.
#[tokio::test]
async fn killed_after_a_cancel_the_next_one_carries_it_out() {
    let place = Place::new(&[]);
    let worker = place.worker();
    let stubborn = "trap '' TERM; echo on; while :; do sleep 1; done";
    place.post(&json!({"image": IMAGE, "command": stubborn, "id": "a-1"})).await;
    place.is_at("a-1", "running").await;
    let cancelled = place.ask(Method::DELETE, "/steps/a-1").send().await.unwrap();
    assert_eq!(cancelled.status(), StatusCode::OK);
    kill(worker);
    let _worker = place.worker();
    let began = Instant::now();
    let Some(StepEvent::Cancelled { .. }) = place.events("a-1").await.pop() else { panic!() };
    // 10 s of grace, and 3.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    place.nothing_is_left().await;
}

/// Between the record of an end and the removal of its container a worker may die, too.
#[tokio::test]
async fn ended_but_not_removed_is_removed() {
    let place = Place::new(&[]);
    let worker = place.worker();
    place.post(&json!({"image": IMAGE, "command": "exit 4", "id": "a-1"})).await;
    let told = place.events("a-1").await;
    kill(worker);
    let instance = place.instance();
    let (name, label) = (format!("bettertest-{instance}-a-1"), format!("bettertest.instance={instance}"));
    let made = ["run", "-d", "--name", &name, "--label", &label, "--label", "bettertest.step=a-1"];
    docker(&[&made[..], &[IMAGE, "sleep", "300"]].concat());
    let _worker = place.worker();
    place.nothing_is_left().await;
    assert_eq!(place.events("a-1").await, told);
}

/// As after a reboot with a Docker that was wiped: the step is over at once, and nobody makes up how it ended.
#[tokio::test]
async fn a_container_that_went_with_the_machine_is_lost() {
    let place = Place::new(&["--engine", "docker"]);
    let worker = place.worker();
    place.post(&json!({"image": IMAGE, "command": "echo on; sleep 60", "id": "b-1"})).await;
    place.is_at("b-1", "running").await;
    kill(worker);
    docker(&["rm", "-f", &place.containers()[0]]);
    let _worker = place.worker();
    let Some(StepEvent::Errored { reason, exit_code: None, .. }) = place.events("b-1").await.pop() else {
        panic!()
    };
    assert_eq!(reason, common::Reason::ContainerLost);
}

#[tokio::test]
async fn sigterm_hands_over_and_sigint_leaves_nothing() {
    let place = Place::new(&["--slots", "2"]);
    let mut worker = place.worker();
    let mut dice = Dice::fresh("handed over");
    let mut steps: Vec<Oracle> = (0..4).map(|step| Oracle::any(format!("h-{step}"), &mut dice)).collect();
    for step in &mut steps {
        (step.lines, step.pause_ms) = (150, 10);
        place.post(&step.spec()).await;
    }
    place.is_at("h-0", "running").await;
    let began = Instant::now();
    worker.signal(Signal::SIGTERM);
    let status = worker.child.wait().unwrap();
    assert!(status.success() && began.elapsed() < Duration::from_secs(60), "{status} {:?}", began.elapsed());
    assert!(!place.containers().is_empty(), "what ran goes on");
    let mut worker = place.worker();
    for step in &steps {
        step.check(&place.events(&step.id).await, 1);
    }
    place.post(&json!({"image": IMAGE, "command": "echo on; sleep 60", "id": "i-1"})).await;
    place.is_at("i-1", "running").await;
    worker.signal(Signal::SIGINT);
    assert!(worker.child.wait().unwrap().success());
    assert_eq!(place.containers(), Vec::<String>::new());
    let _worker = place.worker();
    let Some(StepEvent::Cancelled { reason, .. }) = place.events("i-1").await.pop() else { panic!() };
    assert_eq!(reason, common::Reason::ShutDown);
}

/// Stopped for a while, a worker hears afterwards what it was told meanwhile, and loses nothing.
#[tokio::test]
async fn stopped_and_continued_it_goes_on_and_obeys() {
    let place = Place::new(&[]);
    let worker = place.worker();
    let step = Oracle { id: "s-1".to_owned(), lines: 100, pause_ms: 10, code: 3 };
    place.post(&step.spec()).await;
    place.post(&json!({"image": IMAGE, "command": "sleep 60", "id": "s-2"})).await;
    place.is_at("s-1", "running").await;
    place.is_at("s-2", "running").await;
    worker.signal(Signal::SIGSTOP);
    let cancel = tokio::spawn(place.ask(Method::DELETE, "/steps/s-2").send());
    tokio::time::sleep(Duration::from_secs(2)).await;
    worker.signal(Signal::SIGCONT);
    assert_eq!(cancel.await.unwrap().unwrap().status(), StatusCode::OK);
    let Some(StepEvent::Cancelled { .. }) = place.events("s-2").await.pop() else { panic!() };
    step.check(&place.events("s-1").await, 0);
    place.nothing_is_left().await;
}

/// With a boss and a run on top: the worker dies in the middle of it, and the verdict is the commands' own.
#[tokio::test]
async fn a_run_does_not_notice_that_its_worker_died() {
    let place = Place::new(&["--slots", "4"]);
    let worker = place.worker();
    let pipedef = r#"
class One(Stage):
    def task_good(self):
        run(WORKER, IMAGE, "echo first; sleep 2; echo last")
    def task_bad(self):
        run(WORKER, IMAGE, "echo first; sleep 2; echo last; exit 7")
    def task_quick(self):
        run(WORKER, IMAGE, "echo quick")
"#;
    write_pipedef(place.folder.path(), pipedef, &place.base());
    let boss = Ci::start_boss(place.folder.path());
    let ci = Ci {
        token: place.token(),
        http: place.http.clone(),
        folder: tempfile::tempdir().unwrap(),
        boss,
        worker,
    };
    let run = ci.start().await;
    let both = |state: &common::RunState, _: &_| {
        let told =
            |task: &common::TaskRun| task.attempts.last().is_some_and(|attempt| !attempt.steps.is_empty());
        state.tasks().all(told)
    };
    ci.follow(run, both).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let Ci { boss, worker, token, http, folder } = ci;
    kill(worker);
    let ci = Ci { boss, worker: place.worker(), token, http, folder };
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(
        told.summary(),
        "failed: command_failed\nOne.good passed\nOne.bad failed: command_failed\nOne.quick passed"
    );
    for task in ["One.good", "One.bad"] {
        assert!(ci.output(run, task).await.ends_with("last\n"), "{}", ci.output(run, task).await);
    }
    place.nothing_is_left().await;
}

/// What killed local runs of the same data folder have left goes when a worker begins; what still runs stays.
#[tokio::test]
async fn what_killed_local_runs_left_is_swept() {
    let place = Place::new(&["--engine", "fake"]);
    let runs = data_of(place.folder.path()).join("local/0123456789abcdef/runs");
    let key = |first: char| format!("{first}{}", &place.address.replace([':', '.'], "0").repeat(4)[..31]);
    let (killed, alive) = (key('a'), key('b'));
    let container = |key: &str| {
        std::fs::create_dir_all(runs.join(key).join("worker")).unwrap();
        let label = format!("bettertest.instance={key}");
        docker(&["run", "-d", "--label", &label, "--label", "bettertest.step=x-1", IMAGE, "sleep", "300"]);
    };
    let left = |key: &str| docker(&["ps", "-aq", "--filter", &format!("label=bettertest.instance={key}")]);
    container(&killed);
    container(&alive);
    let lock = std::fs::File::create(runs.join(&alive).join("lock")).unwrap();
    lock.lock().unwrap();
    let _worker = place.worker();
    let until = Instant::now() + Duration::from_secs(120);
    while runs.join(&killed).exists() {
        assert!(Instant::now() < until, "it stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (of_killed, of_alive) = (left(&killed), left(&alive));
    docker(&["rm", "-f", of_alive.trim()]);
    assert_eq!(of_killed, "");
    assert!(runs.join(&alive).exists());
}

/// Zombies and daemons that left their parent, its group and its session go with their container.
#[tokio::test]
async fn zombies_and_daemons_go_with_their_container() {
    let place = Place::new(&[]);
    let _worker = place.worker();
    let command = "i=0; while [ $i -lt 5000 ]; do true & i=$((i+1)); done; \
                   setsid sh -c 'setsid sleep 9731 & setsid sleep 9732 & exit 0' & \
                   sh -c 'trap \"\" TERM INT HUP; sleep 9733' & echo on; usleep 300000; exit 6";
    place.post(&json!({"image": IMAGE, "command": command, "id": "z-1", "pids": 8000})).await;
    let events = place.events("z-1").await;
    assert_eq!(events.last().unwrap().end().unwrap().exit_code, Some(6), "{events:?}");
    place.nothing_is_left().await;
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let left: Vec<String> = lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains("sleep 973"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

/// `trap '' ...` of everything that can be trapped: the end comes with SIGKILL, after 10 s and not much later.
#[tokio::test]
async fn what_traps_every_signal_is_gone_after_the_grace() {
    let place = Place::new(&[]);
    let _worker = place.worker();
    let command = "trap '' TERM INT HUP QUIT USR1 USR2 PIPE ALRM; echo on; while :; do sleep 1; done";
    for (id, timeout_s) in [("k-1", 3600), ("k-2", 1)] {
        place.post(&json!({"image": IMAGE, "command": command, "id": id, "timeout_s": timeout_s})).await;
    }
    place.is_at("k-1", "running").await;
    let began = Instant::now();
    place.ask(Method::DELETE, "/steps/k-1").send().await.unwrap();
    let (cancelled, late) = tokio::join!(place.events("k-1"), place.events("k-2"));
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert!(matches!(cancelled.last(), Some(StepEvent::Cancelled { .. })), "{cancelled:?}");
    assert!(matches!(late.last(), Some(StepEvent::TimedOut { .. })), "{late:?}");
    place.nothing_is_left().await;
}
