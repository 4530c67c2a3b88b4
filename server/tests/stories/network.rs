//! Connections that are cut, stall, or vanish without a word: what was printed arrives once and whole, what came
//! out stays true, and neither end waits for ever.

use common::{RunState, StepRun, StepState};
use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::ci::{Ci, data_of, pipedef_of};
use crate::wire::{Chance, Fate, Wire, drop_all_packets, held_at, is_held};

/// In which both ends of a connection notice that it is dead.
const NOTICED: Duration = Duration::from_secs(25);

/// Python that makes a fake container's command of numbered lines, each with its hash.
const NUMBERED: &str = r#"
import hashlib, time
def numbered(task, begin, end):
    told = lambda i: f"print {task} {i} {hashlib.sha256(f'{task} {i}'.encode()).hexdigest()}"
    return "; ".join(told(i) for i in range(begin, end))
"#;

fn numbered(task: &str, begin: usize, end: usize) -> String {
    let hash =
        |text: String| Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    (begin..end).map(|i| format!("{task} {i} {}\n", hash(format!("{task} {i}")))).collect()
}

/// A seed that is another one each time; a failing test says which.
fn a_seed() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

/// Waits until it is so, and says how long that took; None where it does not become so in time.
async fn within(time: Duration, is_so: impl Fn() -> bool) -> Option<Duration> {
    let begin = Instant::now();
    // The kernel offers nothing to wait on for a socket of another process.
    while !is_so() {
        if begin.elapsed() > time {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Some(begin.elapsed())
}

/// The worker has told of a step of every task.
fn has_begun(state: &RunState) -> bool {
    let told = |step: &StepRun| !matches!(step.state, StepState::Asked);
    state.tasks().all(|task| task.attempts.iter().any(|attempt| attempt.steps.iter().any(told)))
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_cuts_change_nothing() {
    cut_with(a_seed(), 300).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn three_thousand_cuts_change_nothing() {
    for _ in 0..10 {
        cut_with(a_seed(), 300).await;
    }
}

/// One run of four tasks whose connections are reset so many times, after any number of bytes.
async fn cut_with(seed: u64, cuts: usize) {
    let ci = Ci::with("").await;
    let chance = Chance::of(seed);
    let wire = Wire::to(&ci.worker.base, move |number| match (number, chance.below(8)) {
        (number, _) if number >= cuts => Fate::Fine,
        // A request for a step has about a hundred thousand bytes here, an answer to one for its events has a few
        // hundred thousand; its first two hundred are headers.
        (_, up) => {
            let up = if up == 0 { chance.below(1 << chance.below(17)) } else { usize::MAX };
            Fate::Cut { up, down: 1 + chance.below(32 << chance.below(10)) }
        }
    })
    .await;
    ci.rewrite(&format!(
        r#"{NUMBERED}
WIRE = "{}"
class One(Stage):
    def task_good(self):
        run(WIRE, IMAGE, numbered("good", 0, 1000))

    def task_bad(self):
        run(WIRE, IMAGE, numbered("bad", 0, 1000) + "; exit 3")

    def task_two(self):
        assert run(WIRE, IMAGE, numbered("two", 0, 500) + "; exit 7", check=False).exit_code == 7
        run(WIRE, IMAGE, numbered("two", 500, 1000))

    def task_late(self):
        run(WIRE, IMAGE, numbered("late", 0, 500) + "; sleep 1; " + numbered("late", 500, 1000), timeout_s=60)
"#,
        wire.base()
    ));
    let run = ci.run().await;
    let expected = "failed: command_failed\nOne.good passed\nOne.bad failed: command_failed\n\
                    One.two passed\nOne.late passed";
    assert_eq!(run.summary(), expected, "seed {seed}");
    for task in ["good", "bad", "two", "late"] {
        let output = ci.output(run.number, &format!("One.{task}")).await;
        assert!(output == numbered(task, 0, 1000), "{task} is not what was printed, seed {seed}: {output}");
    }
    assert_eq!(ci.steps().await.len(), 5, "one container each, seed {seed}");
    // Fewer where all was told before.
    assert!(wire.cuts() >= 100, "{} cuts in {} connections, seed {seed}", wire.cuts(), wire.connections());
    let port = wire.address.port();
    let left = within(Duration::from_secs(60), || held_at(port) == 0).await;
    assert!(left.is_some(), "{} connections are still held, seed {seed}", held_at(port));
}

/// Without a single packet to tell them: in the middle of a stream, before the first header, and to the library.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_is_noticed_by_both_ends() {
    let ci = Ci::with("").await;
    let first = |fate: Fate| move |number: usize| if number == 0 { fate } else { Fate::Fine };
    let vanishes = Wire::to(&ci.worker.base, first(Fate::Vanish(3000))).await;
    let is_silent = Wire::to(&ci.worker.base, first(Fate::Vanish(0))).await;
    let stalls_down = Wire::to(&ci.worker.base, first(Fate::StallDown(3000))).await;
    let stalls_up = Wire::to(&ci.worker.base, first(Fate::StallUp(50))).await;
    let wires = [&vanishes, &is_silent, &stalls_down, &stalls_up];
    let tasks: String = (wires.iter().enumerate())
        .map(|(i, wire)| {
            let step = format!("numbered('t{i}', 0, 100) + '; sleep 26; ' + numbered('t{i}', 100, 200)");
            format!("    def task_t{i}(self): run('{}', IMAGE, {step})\n", wire.base())
        })
        .collect();
    ci.rewrite(&format!("{NUMBERED}\nclass One(Stage):\n{tasks}"));
    let noticed = async {
        let all = within(Duration::from_secs(60), || {
            !vanishes.vanished().is_empty() && !is_silent.vanished().is_empty()
        });
        assert!(all.await.is_some(), "no connection was made to vanish");
        for (wire, name) in [(&vanishes, "mid-stream"), (&is_silent, "before any answer")] {
            let gone = wire.vanished()[0];
            let by_boss = || !is_held(gone.client_port, wire.address.port());
            let worker = ci.worker.base.rsplit(':').next().unwrap().parse().unwrap();
            let by_worker = || !is_held(gone.wire_port, worker) || !is_held(worker, gone.wire_port);
            let time = Duration::from_secs(60);
            assert!(within(time, by_boss).await.is_some(), "the boss does not notice, {name}");
            assert!(within(time, by_worker).await.is_some(), "the worker does not notice, {name}");
            let took = gone.at.elapsed();
            assert!(took < NOTICED + Duration::from_secs(5), "noticed after {took:?}, {name}");
        }
    };
    let (run, ()) = tokio::join!(ci.run(), noticed);
    assert_eq!(run.words(), "passed", "{}", run.summary());
    for (i, wire) in wires.iter().enumerate() {
        let output = ci.output(run.number, &format!("One.t{i}")).await;
        assert!(output == numbered(&format!("t{i}"), 0, 200), "t{i} is not what was printed: {output}");
        assert!(wire.connections() >= 2, "t{i} went over one connection");
    }
}

/// A page in a laptop that was closed, and a client of the worker's: whatever they followed, their connections are
/// let go, streams that have nothing to say included.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_vanished_is_let_go() {
    let ci =
        Ci::with("class One(Stage):\n    def task_long(self): run(WORKER, IMAGE, 'print a; sleep 100')\n")
            .await;
    let run = ci.start().await;
    ci.follow(run, |state, _| has_begun(state)).await;
    let step = ci.steps().await[0]["id"].as_str().unwrap().to_owned();
    let asked = [
        (&ci.boss.base, "/api/events".to_owned()),
        (&ci.boss.base, format!("/api/runs/{run}/events")),
        (&ci.boss.base, format!("/api/runs/{run}/tasks/One.long/output?follow=1")),
        (&ci.worker.base, format!("/steps/{step}/events")),
        (&ci.worker.base, format!("/steps/{step}/output?follow=1")),
    ];
    let readers: Vec<_> = (asked.iter())
        .map(|(base, path)| {
            let mut reader = open(base, path, &ci.token);
            let mut some = [0; 16];
            reader.read_exact(&mut some).expect("an answer");
            assert!(some.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&some));
            drop_all_packets(&reader);
            (path, reader)
        })
        .collect();
    let vanished = Instant::now();
    for (path, reader) in &readers {
        let (ours, server) = (reader.local_addr().unwrap().port(), reader.peer_addr().unwrap().port());
        let gone = within(Duration::from_secs(60), || !is_held(server, ours)).await;
        assert!(gone.is_some(), "{path} is still held");
        let took = vanished.elapsed();
        assert!(took < NOTICED + Duration::from_secs(5), "{path} was held for {took:?}");
    }
    let (status, _) = ci.post(&format!("/api/runs/{run}/cancel")).await;
    assert_eq!(status, 200);
}

fn open(base: &str, path: &str, token: &str) -> TcpStream {
    let address = base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n")
        .expect("sent");
    stream
}

/// A body that is announced and never sent holds nothing for ever.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_is_let_go() {
    let ci = Ci::with("").await;
    let asked = [(&ci.boss.base, "/api/runs"), (&ci.worker.base, "/run")];
    let waiting: Vec<_> = (asked.iter())
        .map(|(base, path)| {
            let address = base.trim_start_matches("http://");
            let mut stream = TcpStream::connect(address).unwrap();
            let head =
                format!("POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}", ci.token);
            write!(stream, "{head}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{")
                .unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream
        })
        .collect();
    for ((_, path), mut stream) in asked.iter().zip(waiting) {
        let (mut answer, mut some) = (Vec::new(), [0; 1024]);
        while let Ok(count) =
            stream.read(&mut some).map_err(|error| panic!("{path} is still waited for: {error}"))
            && count > 0
        {
            answer.extend_from_slice(&some[..count]);
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
    assert_eq!(ci.get("/api/runs").await["runs"], serde_json::json!([]));
}

/// Shorter than a minute: apart from the time that it takes, nobody sees that the worker could not be reached. One
/// step is running when that begins, another is asked for while it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_cut_is_only_a_delay() {
    let ci = Ci::with("").await;
    let wire = Wire::to(&ci.worker.base, |_| Fate::Fine).await;
    ci.rewrite(&format!(
        r#"{NUMBERED}
WIRE = "{}"
class One(Stage):
    def task_running(self):
        run(WIRE, IMAGE, numbered("running", 0, 100) + "; sleep 3; " + numbered("running", 100, 200))

    def task_next(self):
        run(WIRE, IMAGE, numbered("next", 0, 100))
        time.sleep(3)
        run(WIRE, IMAGE, numbered("next", 100, 200))
"#,
        wire.base()
    ));
    let run = ci.start().await;
    ci.follow(run, |state, _| has_begun(state)).await;
    let cut = async {
        for seconds in [1, 15, 2] {
            wire.down_for(Duration::from_secs(seconds)).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let (told, ()) = tokio::join!(ci.follow(run, |_, _| false), cut);
    assert_eq!(told.words(), "passed", "{}", told.summary());
    for task in ["running", "next"] {
        let output = ci.output(run, &format!("One.{task}")).await;
        assert!(output == numbered(task, 0, 200), "{task} is not what was printed: {output}");
    }
}

/// The library, where there is no boss.
#[tokio::test(flavor = "multi_thread")]
async fn the_library_notices_a_dead_connection_too() {
    let ci = Ci::with("").await;
    let wire = Wire::to(&ci.worker.base, |n| if n == 0 { Fate::Vanish(3000) } else { Fate::Fine }).await;
    let step = "numbered('t', 0, 100) + '; sleep 1; ' + numbered('t', 100, 200)";
    ci.rewrite(&format!(
        "{NUMBERED}\nclass One(Stage):\n    def task_t(self): run('{}', IMAGE, {step})\n",
        wire.base()
    ));
    let library = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut python = Command::new("python3");
    python
        .args(["-m", "bettertest", "--data-dir"])
        .arg(data_of(ci.folder.path()))
        .arg(pipedef_of(ci.folder.path()));
    let begin = Instant::now();
    let done = tokio::task::spawn_blocking(move || python.env("PYTHONPATH", library).output().unwrap())
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    for line in numbered("t", 0, 200).lines() {
        assert_eq!(said.matches(line).count(), 1, "{line} in {said}");
    }
    assert_eq!(wire.vanished().len(), 1, "no connection was made to vanish");
    assert!(begin.elapsed() < NOTICED + Duration::from_secs(10), "{:?}", begin.elapsed());
}

/// A boss that was stopped for longer than it would wait for a worker asks before it gives the worker up.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes more than a minute"]
async fn a_boss_that_slept_does_not_blame_the_worker() {
    let ci =
        Ci::with("class One(Stage):\n    def task_long(self): run(WORKER, IMAGE, 'print a; sleep 75')\n")
            .await;
    let run = ci.start().await;
    ci.follow(run, |state, _| has_begun(state)).await;
    ci.boss.signal(Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(65)).await;
    ci.boss.signal(Signal::SIGCONT);
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "passed");
}
