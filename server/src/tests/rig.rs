//! A whole worker for tests, over real HTTP on a port of its own, and the verbs to speak with it.

use common::{Artifacts, Bytes, StepEnd, StepEvent, StepView, Stream};
use futures_util::StreamExt as _;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::auth::Token;
use crate::data_dir::{DataDir, Held};
use crate::signals::Stop;
use crate::worker::{EngineChoice, Fake, NativeChoice, Patience, Setup, Worker};

/// Made by setup/test-image.sh: busybox and nothing else.
pub(super) const IMAGE: &str = "bettertest-test:1";

pub(super) struct Rig {
    address: SocketAddr,
    token: String,
    client: Client,
    worker: Worker,
    pub(super) data: TempDir,
    engine: EngineChoice,
}

/// The lock of a worker before this one goes with the last copy of its descriptor; a child that another test is just
/// starting has one, until it executes its program.
async fn held(data: &DataDir) -> Held {
    let give_up = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match data.hold("worker") {
            Ok(held) => return held,
            Err(error) if std::time::Instant::now() > give_up => panic!("{error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// What a step's stream told: each event with its position.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told(pub(super) Vec<(u64, StepEvent)>);

impl Rig {
    pub(super) async fn fake() -> Rig {
        Rig::with(EngineChoice::Fake(Fake::default()), |_| {}).await
    }

    pub(super) async fn docker() -> Rig {
        has_image();
        Rig::with(EngineChoice::Docker { host: None }, |_| {}).await
    }

    /// For root alone; its images are unpacked once for all tests of this process.
    pub(super) async fn native() -> Option<Rig> {
        static CACHE: std::sync::OnceLock<TempDir> = std::sync::OnceLock::new();
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        has_image();
        let cache = CACHE.get_or_init(|| TempDir::new().unwrap()).path().join("images");
        Some(Rig::with(EngineChoice::Native(native_choice(cache)), |_| {}).await)
    }

    /// One whose next step finds a sandbox that was made before it.
    pub(super) async fn native_ahead() -> Option<Rig> {
        let rig = Rig::native().await?;
        assert_eq!(rig.sh("true").await.verdict(), "passed");
        rig.waiting("egress").await;
        Some(rig)
    }

    pub(super) async fn with(engine: EngineChoice, change: impl FnOnce(&mut Setup)) -> Rig {
        Rig::on(TempDir::new().unwrap(), engine, change).await
    }

    /// A worker on a data directory that another one may have used before.
    pub(super) async fn on(data: TempDir, engine: EngineChoice, change: impl FnOnce(&mut Setup)) -> Rig {
        let dir = DataDir::open(data.path()).unwrap();
        let token = Token::of(&dir).unwrap();
        let text = token.as_str().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut setup = Setup::new(listener, held(&dir).await, &dir, dir.instance(), token);
        setup.slots = 4;
        setup.engine = engine.clone();
        setup.patience = Patience {
            term: Duration::from_millis(1500),
            kill: Duration::from_millis(1500),
            lease: Duration::from_millis(700),
            ..Patience::default()
        };
        change(&mut setup);
        let worker = Worker::begin(setup).await.unwrap();
        Rig { address: worker.address(), token: text, client: Client::new(), worker, data, engine }
    }

    pub(super) fn fake_engine(&self) -> &Fake {
        match &self.engine {
            EngineChoice::Fake(fake) => fake,
            EngineChoice::Docker { .. } | EngineChoice::Auto(_) | EngineChoice::Native(_) => {
                panic!("this rig has real containers")
            }
        }
    }

    pub(super) fn engine(&self) -> EngineChoice {
        self.engine.clone()
    }

    /// Its commands are executed, not played.
    pub(super) fn is_real(&self) -> bool {
        !matches!(self.engine, EngineChoice::Fake(_))
    }

    /// What came while no worker listened is not lost with it.
    pub(super) fn keeps_output(&self) -> bool {
        matches!(self.engine, EngineChoice::Native(_))
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn bare(&self) -> &Client {
        &self.client
    }

    pub(super) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path)).bearer_auth(&self.token)
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn instance(&self) -> String {
        DataDir::open(self.data.path()).unwrap().instance().to_owned()
    }

    pub(super) async fn post(&self, spec: &Value) -> Response {
        self.client
            .post(self.url("/run"))
            .bearer_auth(&self.token)
            .body(spec.to_string())
            .send()
            .await
            .unwrap()
    }

    /// Runs a step and reads it to its end.
    pub(super) async fn run(&self, spec: Value) -> Told {
        let response = self.post(&spec).await;
        let status = response.status();
        assert_eq!(status, StatusCode::OK, "{}", response.text().await.unwrap());
        told(response).await
    }

    /// The files of a step that were kept: what is told of them has to be so.
    pub(super) async fn artifacts(&self, id: &str) -> (Vec<(String, Vec<u8>)>, Artifacts) {
        let told = self.events(id, 0).await;
        let artifacts = told.artifacts();
        let mut files = Vec::new();
        for (number, file) in artifacts.files.iter().enumerate() {
            let answer = self.get(&format!("/steps/{id}/artifacts/{number}")).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{file:?}");
            let bytes = answer.bytes().await.unwrap().to_vec();
            let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((bytes.len() as u64, &sha256), (file.size_bytes, &file.sha256), "{file:?}");
            files.push((file.path.clone(), bytes));
        }
        (files, artifacts)
    }

    pub(super) async fn sh(&self, command: &str) -> Told {
        self.run(json!({"image": IMAGE, "command": command})).await
    }

    /// Starts a step and leaves it alone.
    pub(super) async fn start(&self, id: &str, command: &str) {
        let response = self.post(&json!({"image": IMAGE, "command": command, "id": id})).await;
        assert_eq!(response.status(), StatusCode::OK);
    }

    pub(super) async fn events(&self, id: &str, after: u64) -> Told {
        let path = format!("/steps/{id}/events");
        told(self.get(&path).header("last-event-id", after.to_string()).send().await.unwrap()).await
    }

    /// Follows a step until an event is of this kind.
    pub(super) async fn until(&self, id: &str, is: impl Fn(&StepEvent) -> bool) {
        let response = self.get(&format!("/steps/{id}/events")).send().await.unwrap();
        let mut seen = Vec::new();
        read(response, |_, event| {
            seen.push(event.clone());
            is(&event)
        })
        .await;
        assert!(seen.last().is_some_and(&is), "it never came: {seen:?}");
    }

    pub(super) async fn cancel(&self, id: &str) -> StepView {
        let url = self.url(&format!("/steps/{id}"));
        let response = self.client.delete(url).bearer_auth(&self.token).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    /// The folders of sandboxes that wait for a step with this network; there is at least one.
    pub(super) async fn waiting(&self, network: &str) -> Vec<String> {
        let give_up = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let asked =
                self.client.get(self.url("/health")).header("accept", "application/json").send().await;
            let health: Value = asked.unwrap().json().await.unwrap();
            let kept = health["kept_ready"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
            let kept = kept.filter(|name| name.starts_with("sandbox ") && name.ends_with(network));
            let names: Vec<String> = kept.map(|name| name.split(' ').nth(1).unwrap().to_owned()).collect();
            if !names.is_empty() {
                return names;
            }
            assert!(std::time::Instant::now() < give_up, "no sandbox is made ahead: {health}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Where the sandboxes of this worker lie.
    pub(super) fn sandboxes(&self) -> std::path::PathBuf {
        self.data.path().canonicalize().unwrap().join("worker/native")
    }

    /// The containers of this worker.
    pub(super) fn containers(&self) -> Vec<String> {
        containers(&self.engine, &self.data)
    }

    /// Cancels all that runs and stops. Nothing may be left.
    pub(super) async fn finish(self) {
        self.worker.stop(Stop::Interrupt).await;
        assert_eq!(containers(&self.engine, &self.data), Vec::<String>::new());
        if let Ok(sandboxes) = std::fs::read_dir(self.data.path().join("worker/native")) {
            let names = sandboxes.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
            assert_eq!(names.filter(|name| name.starts_with(".made-")).count(), 0);
        }
    }

    /// Stops as SIGTERM does, and gives what the next worker needs.
    pub(super) async fn hand_over(self) -> (TempDir, EngineChoice) {
        self.worker.stop(Stop::Terminate).await;
        (self.data, self.engine)
    }
}

fn containers(engine: &EngineChoice, data: &TempDir) -> Vec<String> {
    match engine {
        EngineChoice::Fake(fake) => fake.containers(),
        EngineChoice::Docker { .. } => in_docker(data),
        EngineChoice::Native(_) => sandboxes(data),
        EngineChoice::Auto(_) => [in_docker(data), sandboxes(data)].concat(),
    }
}

fn in_docker(data: &TempDir) -> Vec<String> {
    let instance = DataDir::open(data.path()).unwrap().instance().to_owned();
    let label = format!("label=bettertest.instance={instance}");
    docker(&["ps", "-aq", "--filter", &label]).lines().map(str::to_owned).collect()
}

fn sandboxes(data: &TempDir) -> Vec<String> {
    let steps = std::fs::read_dir(data.path().join("worker").join("native")).unwrap();
    let names = steps.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    // What begins with a dot waits for a step, or to be deleted.
    names.filter(|name| !name.starts_with('.')).collect()
}

pub(super) fn native_choice(cache: std::path::PathBuf) -> NativeChoice {
    NativeChoice { docker_host: None, program: program(), cache, cache_bytes: 1 << 30 }
}

/// The binary that belongs to these tests: cargo builds it for the stories.
fn program() -> std::path::PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(|deps| deps.parent()).unwrap().join("bettertest");
    assert!(program.exists(), "{} is not built\nhint: cargo build --workspace", program.display());
    program
}

fn has_image() {
    let there = std::process::Command::new("docker").args(["image", "inspect", IMAGE]).output();
    assert!(
        there.as_ref().is_ok_and(|there| there.status.success()),
        "docker or the image {IMAGE} is missing\nhint: setup/docker.sh && setup/test-image.sh\n{there:?}"
    );
}

pub(super) fn docker(words: &[&str]) -> String {
    let output = std::process::Command::new("docker").args(words).output().unwrap();
    assert!(output.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(super) async fn told(response: Response) -> Told {
    let mut events = Vec::new();
    read(response, |position, event| {
        events.push((position, event));
        false
    })
    .await;
    Told(events)
}

/// Reads server-sent events until one is enough, or until their end.
async fn read(response: Response, mut enough: impl FnMut(u64, StepEvent) -> bool) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut chunks = response.bytes_stream();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.next().await {
        text.extend_from_slice(&chunk.unwrap());
        let mut frames = text.windows(2).enumerate().filter(|(_, end)| end == b"\n\n").map(|(at, _)| at);
        let Some(last) = frames.next_back() else { continue };
        let rest = text.split_off(last + 2);
        for frame in String::from_utf8(std::mem::replace(&mut text, rest)).unwrap().split_terminator("\n\n") {
            let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
            if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                let event = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
                if enough(id.parse().unwrap(), event) {
                    return;
                }
            }
        }
    }
    assert_eq!(text, b"", "half an event at the end");
}

impl Told {
    pub(super) fn bytes(&self, of: Stream) -> Vec<u8> {
        let mut all = Vec::new();
        for (_, event) in &self.0 {
            if let StepEvent::Output { stream, bytes } = event
                && *stream == of
            {
                all.extend_from_slice(bytes.as_slice());
            }
        }
        all
    }

    pub(super) fn stdout(&self) -> String {
        String::from_utf8(self.bytes(Stream::Stdout)).unwrap()
    }

    pub(super) fn stderr(&self) -> String {
        String::from_utf8(self.bytes(Stream::Stderr)).unwrap()
    }

    pub(super) fn dropped(&self) -> u64 {
        let dropped = |event: &StepEvent| match event {
            StepEvent::Dropped { bytes } => *bytes,
            _ => 0,
        };
        self.0.iter().map(|(_, event)| dropped(event)).sum()
    }

    pub(super) fn gaps(&self) -> usize {
        self.0.iter().filter(|(_, event)| matches!(event, StepEvent::Gap { .. })).count()
    }

    /// What was said right before the end.
    pub(super) fn artifacts(&self) -> Artifacts {
        match &self.0[self.0.len() - 2].1 {
            StepEvent::Artifacts(artifacts) => {
                artifacts.check().unwrap();
                artifacts.clone()
            }
            other => panic!("no artifacts before the end but {other:?}"),
        }
    }

    /// The end, after making sure that there is one, as the last.
    pub(super) fn end(&self) -> StepEnd {
        let ends = self.0.iter().filter(|(_, event)| event.end().is_some()).count();
        assert_eq!(ends, 1, "{:?}", self.kinds());
        let last = self.0.last().unwrap().1.end();
        last.unwrap_or_else(|| panic!("the end is not the last: {:?}", self.kinds()))
    }

    /// `passed`, or the reason why not.
    pub(super) fn verdict(&self) -> &'static str {
        self.end().verdict.reason().map_or("passed", |reason| reason.word())
    }

    pub(super) fn kinds(&self) -> Vec<String> {
        let kind =
            |event: &StepEvent| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned();
        self.0.iter().map(|(_, event)| kind(event)).collect()
    }

    pub(super) fn all_base64(&self) -> usize {
        let base64 = |event: &StepEvent| matches!(event, StepEvent::Output { bytes: Bytes::Base64(_), .. });
        self.0.iter().filter(|(_, event)| base64(event)).count()
    }
}
