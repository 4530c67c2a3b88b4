//! Tasks are forked from the process that has executed the pipedef, and nobody can tell, except by the clock.

use reqwest::StatusCode;
use std::collections::HashSet;
use std::path::PathBuf;

use crate::bad_pipedefs::nothing_is_left;
use crate::ci::{Ci, pipedef_of};

/// What the run's log is asked for by stories: who executed the pipedef, and who executed tasks, one a line.
const HEAD: &str = r#"
import os, pathlib, sys
HERE = pathlib.Path(__file__).parent
def note(file, *words):
    with open(HERE / file, "a") as noted: noted.write(" ".join(map(str, words)) + "\n")
note("executed", os.getpid())
"#;

/// What tells that tasks are not forked.
const SAID: &str = "each task starts a Python of its own";

impl Ci {
    fn note(&self, file: &str) -> PathBuf {
        pipedef_of(self.folder.path()).with_file_name(file)
    }

    /// Lines that the pipedef has noted.
    fn noted(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.note(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn nothing_is_left(&self) {
        nothing_is_left(self.folder.path(), &[self.boss.child.id(), self.worker.child.id()]);
    }
}

#[tokio::test]
async fn two_hundred_at_once_from_one_that_has_executed_the_pipedef() {
    let tasks = "count = [0]
print('printed outside')
class Many(Stage): pass
def task():
    count[0] += 1
    note('tasks', os.getpid(), os.getppid())
    run(WORKER, IMAGE, 'print fine')
    assert count == [1]
for n in range(200): setattr(Many, f'task_{n}', staticmethod(task))
";
    let ci = Ci::with(&format!("{HEAD}{tasks}")).await;
    let told = ci.run().await;
    assert_eq!(told.words(), "passed", "{}", told.summary());
    let host = ci.noted("executed");
    assert_eq!(host.len(), 1, "{host:?}");
    let tasks = ci.noted("tasks");
    let parents: HashSet<&str> = tasks.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(parents, HashSet::from([host[0].as_str()]));
    let processes: HashSet<&String> = tasks.iter().collect();
    assert_eq!(processes.len(), 200);
    for task in ["Many.0", "Many.199"] {
        assert_eq!(ci.output(told.number, task).await, "printed outside\nfine\n");
    }
    assert!(!ci.boss.said().contains(SAID));
    ci.nothing_is_left();
}

#[tokio::test]
async fn a_run_again_executes_the_pipedef_once_more() {
    let tasks = "class Flaky(Stage): pass
def task():
    if (HERE / 'mended').exists(): run(WORKER, IMAGE, 'print fine')
    else: run(WORKER, IMAGE, 'exit 1')
for n in range(3): setattr(Flaky, f'task_{n}', staticmethod(task))
";
    let ci = Ci::with(&format!("{HEAD}{tasks}")).await;
    let told = ci.run().await;
    assert_eq!(told.words(), "failed: command_failed");
    std::fs::write(ci.note("mended"), "").unwrap();
    ci.rewrite("1 / 0");
    let (status, answer) = ci.post(&format!("/api/runs/{}/rerun", told.number)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let told = ci.follow(told.number, |_, _| false).await;
    assert_eq!(told.words(), "passed on attempt 2");
    assert_eq!(ci.noted("executed").len(), 2);
    ci.nothing_is_left();
}

#[tokio::test]
async fn what_would_not_be_the_same_is_not_forked_and_that_is_said_once() {
    let tasks = "import threading, time
threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
class One(Stage):
    def task_a(self): run(WORKER, IMAGE, f'print {threading.active_count()}')
    def task_b(self): run(WORKER, IMAGE, f'print {threading.active_count()}')
class Two(Stage):
    def task_c(self): run(WORKER, IMAGE, f'print {threading.active_count()}')
";
    let ci = Ci::with(&format!("{HEAD}{tasks}")).await;
    let told = ci.run().await;
    assert_eq!(told.words(), "passed", "{}", told.summary());
    // The main one, the pipedef's, and that which hears the boss.
    for task in ["One.a", "One.b", "Two.c"] {
        assert_eq!(ci.output(told.number, task).await, "3\n");
    }
    assert_eq!(ci.noted("executed").len(), 4, "to discover, and for each task");
    let said = ci.boss.said();
    assert_eq!(said.matches(SAID).count(), 1, "{said}");
    assert!(said.contains("the pipedef starts a thread outside of its tasks"), "{said}");
    ci.nothing_is_left();
}

#[tokio::test]
async fn what_one_does_to_the_host_harms_no_other() {
    let tasks = "import signal, subprocess, time
def wait_for(file):
    while not (HERE / file).exists(): time.sleep(0.01)
class One(Stage):
    def task_kills_the_host(self):
        run(WORKER, IMAGE, 'print x')
        wait_for('others')
        if LEAVES_A_CHILD: subprocess.Popen(['sleep', '1000'])
        host = os.getppid()
        os.kill(host, signal.SIGKILL)
        while os.getppid() == host: time.sleep(0.01)
        note('killed')
    def task_goes_on(self):
        note('others')
        wait_for('killed')
        run(WORKER, IMAGE, 'print fine')
    def task_fails(self):
        wait_for('killed')
        run(WORKER, IMAGE, 'exit 3')
    def task_dies(self):
        run(WORKER, IMAGE, 'print x')
        wait_for('killed')
        os._exit(0)
class Two(Stage):
    always = True
    def task_later(self):
        note('later', os.getppid())
        run(WORKER, IMAGE, 'print fine')
    def task_later_too(self): run(WORKER, IMAGE, 'print fine')
";
    // Before Linux 6.9 what is left in a group whose process has ended is out of reach without a host.
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = kernel.split(['.', '-']).map_while(|number| number.parse().ok()).collect();
    let leaves_a_child = if numbers >= vec![6, 9] { "True" } else { "False" };
    let ci = Ci::with(&format!("{HEAD}LEAVES_A_CHILD = {leaves_a_child}\n{tasks}")).await;
    let told = ci.run().await;
    let summary = told.summary();
    let tasks: Vec<&str> = summary.lines().skip(1).collect();
    let expected = [
        "One.kills_the_host passed",
        "One.goes_on passed",
        "One.fails failed: command_failed",
        "One.dies errored: runner_died",
        "Two.later passed",
        "Two.later_too passed",
    ];
    assert_eq!(tasks, expected);
    assert_eq!(ci.noted("later"), [ci.boss.child.id().to_string()]);
    let said = ci.boss.said();
    assert_eq!(said.matches(SAID).count(), 1, "{said}");
    ci.nothing_is_left();
}
