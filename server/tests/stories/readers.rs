//! Readers that stop reading: they slow no run, cost little memory, and are let go.

use common::{RunFact, StepEvent};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::ci::Ci;
use crate::torrent::{MEMORY_KIB, peak_kib};
use crate::wire::is_held;

/// Each of the floods fits below the cap, so that every byte is on its way to every reader.
const FLOODS: &str = r#"
class One(Stage):
    def task_flood(self):
        run(WORKER, IMAGE, "print begun; sleep 2; flood 60000000")
        for i in range(3):
            run(WORKER, IMAGE, f"print {i}; flood 60000000")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_stalled_readers_slow_no_run() {
    stall(25).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "many sockets"]
async fn four_hundred_stalled_readers_slow_no_run() {
    stall(100).await;
}

/// So many readers of each stream there is.
#[expect(clippy::print_stderr, reason = "a figure to look at")]
async fn stall(readers: usize) {
    let ci = Ci::with(FLOODS).await;
    let begin = Instant::now();
    assert_eq!(ci.run().await.words(), "passed");
    let alone = begin.elapsed();

    let begin = Instant::now();
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    let step = ci.steps().await[0]["id"].as_str().expect("an id").to_owned();
    let streams = [
        (&ci.worker.base, format!("/steps/{step}/events")),
        (&ci.worker.base, format!("/steps/{step}/output?follow=1")),
        (&ci.boss.base, format!("/api/runs/{run}/events")),
        (&ci.boss.base, format!("/api/runs/{run}/tasks/One.flood/output?follow=1")),
    ];
    let mut stalled = Vec::new();
    for (base, path) in &streams {
        for _ in 0..readers {
            let address = base.trim_start_matches("http://");
            let mut reader = TcpStream::connect(address).expect("it listens");
            let authorization = format!("authorization: Bearer {}", ci.token);
            write!(reader, "GET {path} HTTP/1.1\r\nhost: {address}\r\n{authorization}\r\n\r\n")
                .expect("sent");
            for _ in 0..2 {
                let mut some = [0; 64];
                assert_ne!(reader.read(&mut some).expect("an answer"), 0, "{path}");
            }
            stalled.push((path, reader));
        }
    }
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "passed");
    let beside = begin.elapsed();
    eprintln!("a run takes {alone:?} alone, {beside:?} beside {} stalled readers", stalled.len());
    assert!(beside < alone * 4 + Duration::from_secs(10), "{beside:?}, but {alone:?} alone");

    let ended = Instant::now();
    for (path, reader) in &stalled {
        let (ours, server) = (reader.local_addr().unwrap().port(), reader.peer_addr().unwrap().port());
        // The kernel offers nothing to wait on for a socket of another process.
        while is_held(server, ours) {
            assert!(ended.elapsed() < Duration::from_secs(60), "a reader of {path} is still held");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    eprintln!("all were let go {:?} after the run's end", ended.elapsed());
    for process in [&ci.boss, &ci.worker] {
        let peak = peak_kib(process);
        eprintln!("{peak} KiB at most: {}", process.ready);
        assert!(peak < MEMORY_KIB, "{} took {peak} KiB", process.ready);
    }
}
