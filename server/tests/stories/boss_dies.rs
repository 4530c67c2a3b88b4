//! A boss is killed in the middle of a run, and the next one goes on with it.

use common::{RunFact, RunState, StepEvent, StepState, TaskId};
use nix::sys::signal::Signal;
use reqwest::Method;

use crate::ci::{Ci, Told};

impl Ci {
    /// Kills the boss without a word, and starts the next one.
    pub(crate) fn kill_boss(&mut self) {
        self.boss.signal(Signal::SIGKILL);
        self.boss.child.wait().expect("it is our child");
        self.boss = Ci::start_boss(self.folder.path());
    }

    /// Every step that the worker knows, and whether it has ended.
    async fn steps_at_the_worker(&self) -> Vec<(String, bool)> {
        let asked = self.http.get(format!("{}/steps", self.worker.base)).bearer_auth(&self.token).send();
        let steps: serde_json::Value = asked.await.expect("it answers").json().await.expect("with JSON");
        let steps = steps.as_array().expect("a list");
        let one = |step: &serde_json::Value| {
            (step["id"].as_str().expect("an id").to_owned(), step["state"] == "ended")
        };
        steps.iter().map(one).collect()
    }
}

/// How often a container was started in this run.
fn starts(told: &Told) -> usize {
    let started = |fact: &&RunFact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. });
    told.log.iter().filter(started).count()
}

fn attempts(told: &Told, task: &str) -> usize {
    told.state.task(&TaskId::try_from(task.to_owned()).unwrap()).unwrap().attempts.len()
}

const TWO_STAGES: &str = r#"
import threading
from bettertest import CommandFailed

class One(Stage):
    def task_short(self):
        run(WORKER, IMAGE, "print short")

    def task_long(self):
        print("said by the pipedef")
        first = run(WORKER, IMAGE, "print a; sleep 0.1; eprint b; sleep 0.1; print c; exit 7", check=False)
        print(f"it was {first.exit_code}")
        run(WORKER, IMAGE, "print again")
        run(WORKER, IMAGE, "print again")

    def task_caught(self):
        try:
            run(WORKER, IMAGE, "print bad; exit 1")
        except CommandFailed:
            run(WORKER, IMAGE, "print mended")

class Two(Stage):
    def task_later(self):
        run(WORKER, IMAGE, "print later")
"#;

const LONG: &str = "said by the pipedef\na\nb\nc\nit was 7\nagain\nagain\n";

/// Wherever it is killed, nobody can tell it from the result.
#[tokio::test]
async fn a_run_goes_on_from_every_event() {
    let mut ci = Ci::with(TWO_STAGES).await;
    let whole = ci.run().await;
    let expected = "passed\nOne.short passed\nOne.long passed\nOne.caught passed\nTwo.later passed";
    assert_eq!(whole.summary(), expected);
    assert_eq!(ci.output(whole.number, "One.long").await, LONG);
    let steps = starts(&whole);
    for after in (1..whole.log.len()).step_by(3) {
        let run = ci.start().await;
        ci.follow(run, |state, _| state.last_seq.0 >= after as u64).await;
        ci.kill_boss();
        let told = ci.follow(run, |_, _| false).await;
        assert_eq!(told.summary(), expected, "killed after event {after}");
        assert_eq!(starts(&told), steps, "killed after event {after}");
        assert_eq!(attempts(&told, "One.long"), 1, "killed after event {after}");
        assert_eq!(ci.output(run, "One.long").await, LONG, "killed after event {after}");
        assert_eq!(ci.output(run, "One.caught").await, "bad\nmended\n", "killed after event {after}");
    }
    let known = ci.steps_at_the_worker().await;
    assert!(known.iter().all(|(_, ended)| *ended), "{known:?}");
}

#[tokio::test]
async fn output_is_stored_once_however_often_the_boss_dies() {
    // Whole lines, so that it does not matter which step's come first.
    let acts: Vec<String> = (0..40).map(|n| format!("flood 99000; eprint err {n}; sleep 0.05")).collect();
    let command = acts.join("; ");
    let text = "
import threading
class One(Stage):
    def task_a(self):
        other = threading.Thread(target=lambda: run(WORKER, IMAGE, 'flood 49500; sleep 1; print the other'))
        other.start()
        run(WORKER, IMAGE, COMMAND)
        other.join()
";
    let mut ci = Ci::with(&format!("COMMAND = {command:?}\n{text}")).await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    for _ in 0..4 {
        let size = ci.output(run, "One.a").await.len();
        // As soon as there is more than before.
        while ci.output(run, "One.a").await.len() == size {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        ci.kill_boss();
    }
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.words(), "passed");
    let whole = ci.run().await;
    let lines = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let [resumed, whole] = [run, whole.number].map(|run| ci.output(run, "One.a"));
    let (resumed, whole) = (resumed.await, whole.await);
    assert_eq!(resumed.len(), whole.len());
    assert!(lines(resumed) == lines(whole), "the bytes differ");
}

#[tokio::test]
async fn a_cancel_is_not_forgotten() {
    let mut ci = Ci::with(
        "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, \"print x; trap '' TERM; sleep 2\")\n\
         class Two(Stage):\n    always = True\n    def task_b(self): run(WORKER, IMAGE, 'print y')\n",
    )
    .await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    ci.ask(Method::POST, &format!("/api/runs/{run}/cancel")).send().await.unwrap();
    ci.kill_boss();
    let told = ci.follow(run, |_, _| false).await;
    let expected = "cancelled: cancel_asked\nOne.a cancelled: cancel_asked\nTwo.b skipped: cancelled";
    assert_eq!(told.summary(), expected);
    assert!(ci.steps_at_the_worker().await.iter().all(|(_, ended)| *ended));
}

/// A pipedef that does something else each time it is executed: `COUNT` files say how often that was.
fn changing(body: &str) -> String {
    format!(
        "import os\nHERE = os.path.dirname(os.path.abspath(__file__))\n\
         class One(Stage):\n    def task_a(self):\n        n = len(os.listdir(HERE))\n        \
         open(f'{{HERE}}/executed-{{n}}', 'w').close()\n        again = n > 1\n{body}"
    )
}

#[tokio::test]
async fn a_task_that_asks_for_something_else_is_never_green() {
    let mut ci = Ci::with(&changing(
        "        run(WORKER, IMAGE, 'print first' if again else 'print second; sleep 30')\n",
    ))
    .await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    ci.kill_boss();
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.summary(), "errored: replay_diverged\nOne.a errored: replay_diverged");
    assert!(told.problem("One.a").error.contains("did not ask again"));
    assert!(ci.steps_at_the_worker().await.iter().all(|(_, ended)| *ended));
}

#[tokio::test]
async fn a_task_that_raises_after_a_restart_has_failed() {
    let mut ci = Ci::with(&changing(
        "        if again: raise ValueError('not this time')\n        run(WORKER, IMAGE, 'print x; sleep 30')\n",
    ))
    .await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    ci.kill_boss();
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.summary(), "failed: raised\nOne.a failed: raised");
    let all_ended = |state: &RunState| {
        let steps = state.tasks().flat_map(|task| &task.attempts).flat_map(|attempt| &attempt.steps);
        steps.map(|step| matches!(step.state, StepState::Ended(_))).collect::<Vec<_>>()
    };
    assert_eq!(all_ended(&told.state), [true]);
    assert!(ci.steps_at_the_worker().await.iter().all(|(_, ended)| *ended));
}

#[tokio::test]
async fn told_to_stop_it_waits_for_its_runs() {
    let mut ci =
        Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x; sleep 1')\n").await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    ci.boss.signal(Signal::SIGTERM);
    // Readers hear the end, and then the boss ends.
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.words(), "passed");
    assert!(ci.boss.child.wait().unwrap().success());
    ci.boss = Ci::start_boss(ci.folder.path());
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "passed");
}

#[tokio::test]
async fn a_second_signal_leaves_the_runs_to_the_next_boss() {
    let mut ci = Ci::with(TWO_STAGES).await;
    for first in [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGTERM] {
        let run = ci.start().await;
        ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
        ci.boss.signal(first);
        let refused = async || ci.post("/api/runs").await.0 == reqwest::StatusCode::SERVICE_UNAVAILABLE;
        while !refused().await {}
        ci.boss.signal(Signal::SIGTERM);
        ci.boss.child.wait().unwrap();
        ci.boss = Ci::start_boss(ci.folder.path());
        let told = ci.follow(run, |_, _| false).await;
        assert_eq!(told.words(), "passed");
        assert_eq!(ci.output(run, "One.long").await, LONG);
    }
}

/// A module that only a task imports is not among the texts that a run stores, so it must not change under it.
#[tokio::test]
async fn a_module_that_changed_under_a_run_is_told() {
    let text = "class One(Stage):\n    def task_a(self):\n        import late\n        run(WORKER, IMAGE, late.COMMAND)\n";
    let mut ci = Ci::with(text).await;
    let late = crate::ci::pipedef_of(ci.folder.path()).with_file_name("late.py");
    for (changed, expected) in [(false, "passed"), (true, "errored: pipedef_changed")] {
        std::fs::write(&late, "COMMAND = 'print x; sleep 1'\n").unwrap();
        let run = ci.start().await;
        ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
        if changed {
            std::fs::write(&late, "COMMAND = 'print y'\n").unwrap();
        }
        ci.kill_boss();
        let told = ci.follow(run, |_, _| false).await;
        assert_eq!(told.words(), expected);
        if changed {
            assert!(told.problem("One.a").error.contains("late.py"), "{:?}", told.problem("One.a"));
        }
    }
    assert!(ci.steps_at_the_worker().await.iter().all(|(_, ended)| *ended));
}

/// What a pipedef's Python had started ends with the boss, however that ends.
#[tokio::test]
async fn nothing_outlives_a_killed_boss() {
    let mut ci = Ci::with(
        "import subprocess, os\nclass One(Stage):\n    def task_a(self):\n        \
         child = subprocess.Popen(['sleep', '3600'])\n        \
         open(os.path.dirname(os.path.abspath(__file__)) + '/pids', 'a').write(f'{os.getppid()}\\n{os.getpid()}\\n{child.pid}\\n')\n        \
         run(WORKER, IMAGE, 'print x; sleep 2')\n",
    )
    .await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    let pids =
        std::fs::read_to_string(crate::ci::pipedef_of(ci.folder.path()).with_file_name("pids")).unwrap();
    ci.kill_boss();
    let alive = |pid: &&str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie waits for whoever inherited it.
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let began = std::time::Instant::now();
    while pids.lines().any(|pid| alive(&pid)) {
        assert!(began.elapsed().as_secs() < 5, "{pids:?} are alive");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "passed");
}

/// A worker that stays away ends its steps; when it is back, what it still runs is ended, and nothing is flipped.
#[tokio::test]
async fn a_worker_that_stays_away_is_lost_for_good() {
    let ci =
        Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x; sleep 90')\n").await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    ci.worker.signal(Signal::SIGSTOP);
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.words(), "errored: worker_lost");
    ci.worker.signal(Signal::SIGCONT);
    let began = std::time::Instant::now();
    while !ci.steps_at_the_worker().await.iter().all(|(_, ended)| *ended) {
        assert!(began.elapsed().as_secs() < 60, "the step goes on");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(ci.follow(run, |_, _| false).await.words(), "errored: worker_lost");
}

/// The cancel of what a failed task has left running is no answer to the task: it may not catch it and pass.
#[tokio::test]
async fn a_last_word_stands() {
    let mut ci = Ci::with(
        "import threading\nfrom bettertest import StepCancelled\n\
         def slow():\n    try:\n        run(WORKER, IMAGE, \"print x; trap '' TERM; sleep 2\")\n    \
         except StepCancelled:\n        pass\n\
         class One(Stage):\n    def task_a(self):\n        threading.Thread(target=slow).start()\n        \
         run(WORKER, IMAGE, 'sleep 0.2; exit 3')\n",
    )
    .await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::TaskEnding { .. })).await;
    ci.kill_boss();
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.summary(), "failed: command_failed\nOne.a failed: command_failed");
    assert!(told.problem("One.a").error.contains("exit code 3"));
    assert_eq!(starts(&told), 2);
}

/// A task that looks at which of two steps ends first goes the same way again.
#[tokio::test]
async fn ends_are_told_again_in_their_order() {
    let mut ci = Ci::with(
        "import threading, queue\nclass One(Stage):\n    def task_a(self):\n        first = queue.Queue()\n        \
         def go(name, command):\n            run(WORKER, IMAGE, command)\n            first.put(name)\n        \
         threading.Thread(target=go, args=('slow', 'sleep 0.5; print slow')).start()\n        \
         threading.Thread(target=go, args=('fast', 'print fast')).start()\n        \
         run(WORKER, IMAGE, f'print {first.get()} first')\n        first.get()\n        \
         run(WORKER, IMAGE, 'print last; sleep 1')\n",
    )
    .await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    let four =
        |state: &RunState| state.tasks().flat_map(|task| &task.attempts).any(|one| one.steps.len() == 4);
    ci.follow(run, |state, _| four(state)).await;
    ci.kill_boss();
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.words(), "passed");
    assert_eq!(starts(&told), 4);
}
