//! A newer bettertest on the data of an older one: brought up to date once, with a copy beside it, and whole whenever
//! that is cut short. Seeds are printed.

use common::{
    Command, Pipeline, Reason, RunEvent, RunFact, RunKey, RunNumber, RunState, RunSummary, Seq, Stage,
    StepSpec, Task, TaskId, Verdict, step_id,
};
use nix::sys::signal::Signal;
use rusqlite::{Connection, params};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::ci::{BINARY, Ci, data_of, pipedef_of, write_pipedef};
use crate::worker_dies::Dice;

/// What a bettertest of schema 1 wrote; each run with these facts behind its start.
struct Old {
    connection: Connection,
}

impl Old {
    fn at(path: &Path) -> Old {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        connection.pragma_update(None, "synchronous", "off").unwrap();
        connection.execute_batch(include_str!("../../src/boss/store/0001_runs.sql")).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        Old { connection }
    }

    fn run(&self, number: u64, pipeline: Pipeline, pipedef: &Path, text: &str, facts: Vec<RunFact>) {
        let (run, key) = (RunNumber(number), RunKey::from_random(number.into()));
        let begin = RunFact::RunStarted {
            run,
            key: key.clone(),
            pipeline,
            only: None,
            started_by: None,
            source: None,
        };
        let mut state = RunState::default();
        let mut events = Vec::new();
        for (seq, fact) in std::iter::once(begin).chain(facts).enumerate() {
            let event = RunEvent { seq: Seq(seq as u64 + 1), at_ms: now_ms(), fact };
            state.apply(&event).unwrap();
            events.push(serde_json::to_string(&event).unwrap());
        }
        let summary = RunSummary::of(&state);
        let (word, json) = (summary.state.clone(), serde_json::to_string(&summary).unwrap());
        let pipedef = pipedef.to_str().unwrap();
        let insert =
            "INSERT INTO run (number, key, state, summary, changed, pipedef) VALUES (?1, ?2, ?3, ?4, ?1, ?5)";
        self.connection.execute(insert, params![number, key.as_str(), word, json, pipedef]).unwrap();
        for (seq, event) in events.iter().enumerate() {
            let insert = "INSERT INTO event VALUES (?1, ?2, ?3)";
            self.connection.execute(insert, params![number, seq + 1, event]).unwrap();
        }
        let insert = "INSERT INTO pipedef_file VALUES (?1, ?2, ?3)";
        self.connection.execute(insert, params![number, pipedef, text]).unwrap();
    }
}

/// What is old is removed.
fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Whole, and of which schema, with how many runs.
fn look(path: &Path) -> (String, usize, usize) {
    let connection = Connection::open(path).unwrap();
    let whole = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let schema = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    (whole, schema, connection.query_row("SELECT count(*) FROM run", [], |row| row.get(0)).unwrap())
}

const RUNS: u64 = 3000;
/// The schema that this version makes.
const NEWEST: usize = 6;

#[tokio::test]
async fn killed_while_it_is_brought_up_to_date_a_store_is_old_or_new() {
    let mut dice = Dice::fresh("killed in mid-migration");
    let folder = tempfile::tempdir().unwrap();
    write_pipedef(folder.path(), "class One(Stage):\n    def task_a(self): pass\n", "http://127.0.0.1:1");
    let [data, pipedef] = [data_of(folder.path()), pipedef_of(folder.path())];
    let old = folder.path().join("old.sqlite");
    {
        let old = Old::at(&old);
        let begin = old.connection.unchecked_transaction().unwrap();
        let nothing = RunFact::RunEnded { verdict: Verdict::Not(Reason::RanNothing) };
        for number in 1..=RUNS {
            old.run(number, Pipeline::default(), &pipedef, &"#".repeat(8000), vec![nothing.clone()]);
        }
        begin.commit().unwrap();
    }
    let (mut before, mut after) = (0, 0);
    for _ in 0..16 {
        drop(std::fs::remove_dir_all(&data));
        let store = data.join("boss/runs.sqlite");
        std::fs::create_dir_all(store.parent().unwrap()).unwrap();
        std::fs::copy(&old, &store).unwrap();
        let listen = ["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
        let mut boss = std::process::Command::new(BINARY)
            .args([&["--boss", "--pipedef", pipedef.to_str().unwrap()], &listen[..]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(dice.below(250)));
        boss.kill().unwrap();
        boss.wait().unwrap();
        let (whole, schema, runs) = look(&store);
        assert_eq!((whole.as_str(), runs), ("ok", RUNS as usize));
        match schema {
            1 => before += 1,
            NEWEST => {
                after += 1;
                assert_eq!(look(&data.join("boss/runs.sqlite.1")), ("ok".to_owned(), 1, RUNS as usize));
            }
            other => panic!("schema {other}"),
        }
        let mut boss = Ci::start_boss(folder.path());
        assert_eq!(look(&store), ("ok".to_owned(), NEWEST, RUNS as usize));
        boss.signal(Signal::SIGKILL);
        boss.child.wait().unwrap();
    }
    assert!(before + after == 16, "{before} before, {after} after");
}

/// A run that an older boss was killed in goes on under the newer one.
#[tokio::test]
async fn a_run_of_an_older_boss_goes_on() {
    let text = "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n    \
                def task_b(self): run(WORKER, IMAGE, 'print y')\n";
    let mut ci = Ci::with(text).await;
    ci.boss.signal(Signal::SIGKILL);
    ci.boss.child.wait().unwrap();
    let [data, pipedef] = [data_of(ci.folder.path()), pipedef_of(ci.folder.path())];
    let store = data.join("boss/runs.sqlite");
    std::fs::remove_dir_all(data.join("boss")).unwrap();
    let tasks = ["a", "b"].map(|name| Task { name: name.to_owned(), line: None }).to_vec();
    let pipeline = Pipeline { stages: vec![Stage { name: "One".to_owned(), always: false, tasks }] };
    let (task, worker) = (TaskId::new("One", "a"), ci.worker.base.clone());
    let spec = StepSpec::new("bettertest-test:1", Command::Shell("print x".to_owned()));
    let step = step_id(&RunKey::from_random(1), &task, 1, &worker, &spec, 0);
    let facts = vec![
        RunFact::TaskStarted { task: task.clone(), attempt: 1 },
        RunFact::StepAsked { task, attempt: 1, step, worker, spec: Box::new(spec), instead_of: None },
    ];
    Old::at(&store).run(1, pipeline, &pipedef, &std::fs::read_to_string(&pipedef).unwrap(), facts);
    ci.boss = Ci::start_boss(ci.folder.path());
    let told = ci.follow(1, |_, _| false).await;
    assert_eq!(told.summary(), "passed\nOne.a passed\nOne.b passed");
    assert_eq!(ci.output(1, "One.a").await, "x\n");
}
