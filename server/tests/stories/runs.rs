//! How runs go, and how they end.

use common::{RunFact, RunState, StepEvent, StepState};
use reqwest::{Method, StatusCode};

use crate::ci::Ci;

#[tokio::test]
async fn a_run_passes_and_tells_what_was_printed() {
    let ci = Ci::with(
        r#"
class TestUnit(Stage):
    @staticmethod
    def task_models():
        run(WORKER, IMAGE, "print hello; print world")

    def task_views(self):
        print("from the pipedef")
        first = run(WORKER, IMAGE, "print one; exit 7", check=False)
        run(WORKER, IMAGE, f"print exit code {first.exit_code}")
"#,
    )
    .await;
    let run = ci.run().await;
    assert_eq!(run.summary(), "passed\nTestUnit.models passed\nTestUnit.views passed");
    assert_eq!(ci.output(run.number, "TestUnit.models").await, "hello\nworld\n");
    assert_eq!(ci.output(run.number, "TestUnit.views").await, "from the pipedef\none\nexit code 7\n");
}

#[tokio::test]
async fn a_failure_ends_the_run_after_its_stage() {
    let ci = Ci::with(
        r#"
class One(Stage):
    def task_bad(self):
        run(WORKER, IMAGE, "print about to fail; exit 3")

    def task_good(self):
        run(WORKER, IMAGE, "print fine")

class Two(Stage):
    def task_later(self):
        run(WORKER, IMAGE, "print never")

class Cleanup(Stage):
    always = True

    def task_tidy(self):
        run(WORKER, IMAGE, "print tidied")
"#,
    )
    .await;
    let run = ci.run().await;
    let expected = "failed: command_failed\nOne.bad failed: command_failed\nOne.good passed\n\
                    Two.later skipped: earlier_stage\nCleanup.tidy passed";
    assert_eq!(run.summary(), expected);
    let problem = run.problem("One.bad");
    assert!(problem.error.contains("exit code 3"), "{problem:?}");
    assert_eq!(problem.line, Some(7), "{problem:?}");
}

#[tokio::test]
async fn a_test_runner_that_ran_nothing_proves_nothing() {
    let ci = Ci::with(
        r#"
NONE = "print Ran 0 tests in 0.000s; print OK"

class Tests(Stage):
    def task_none(self):
        run(WORKER, IMAGE, NONE)

    def task_none_of_two(self):
        run(WORKER, IMAGE, "print Ran 3 tests in 0.000s; print OK")
        run(WORKER, IMAGE, NONE)

    def task_allowed(self):
        run(WORKER, IMAGE, NONE, allow_no_tests=True)

    def task_red_anyway(self):
        run(WORKER, IMAGE, NONE + "; exit 5")

    def task_some(self):
        run(WORKER, IMAGE, "print Ran 3 tests in 0.000s; print OK")

    def task_no_runner(self):
        run(WORKER, IMAGE, "print 0 problems")
"#,
    )
    .await;
    let run = ci.run().await;
    let expected = "failed: no_tests\nTests.none failed: no_tests\nTests.none_of_two failed: no_tests\n\
                    Tests.allowed passed\nTests.red_anyway failed: command_failed\nTests.some passed\n\
                    Tests.no_runner passed";
    assert_eq!(run.summary(), expected);
    let problem = run.problem("Tests.none");
    assert!(problem.error.contains("no test was run by: print Ran 0"), "{problem:?}");
    assert!(problem.hint.as_ref().is_some_and(|hint| hint.contains("allow_no_tests=True")), "{problem:?}");
}

/// Each way in which a task can end without having passed, and what it is called.
#[tokio::test]
async fn nothing_but_a_pass_is_green() {
    let ci = Ci::with(
        r#"
import os, sys, threading
from bettertest import CommandFailed

class Ends(Stage):
    def task_nothing(self):
        pass

    def task_exits(self):
        run(WORKER, IMAGE, "print x")
        sys.exit(0)

    def task_vanishes(self):
        run(WORKER, IMAGE, "print x")
        os._exit(0)

    def task_raises(self):
        run(WORKER, IMAGE, "print x")
        raise ValueError("no such luck")

    def task_caught(self):
        try:
            run(WORKER, IMAGE, "exit 1")
        except CommandFailed:
            run(WORKER, IMAGE, "print recovered")

    def task_engine_fault_even_caught(self):
        try:
            run(WORKER, IMAGE, "lose")
        except Exception:
            run(WORKER, IMAGE, "print recovered")

    def task_times_out(self):
        run(WORKER, IMAGE, "sleep 60", timeout_s=1)

    def task_bad_spec(self):
        run(WORKER, IMAGE, "print x", timeout_s=0)

    def task_unreachable(self):
        run("http://127.0.0.1:1", IMAGE, "print x")

    def task_no_token(self):
        run("http://192.0.2.1:9009", IMAGE, "print x")

    def task_threads(self):
        threads = [threading.Thread(target=run, args=(WORKER, IMAGE, f"print {n}")) for n in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()

    def task_thread_fails_unseen(self):
        thread = threading.Thread(target=run, args=(WORKER, IMAGE, "exit 9"))
        thread.start()
        thread.join()
"#,
    )
    .await;
    let run = ci.run().await;
    let expected = [
        ("nothing", "errored: ran_nothing"),
        ("exits", "errored: runner_died"),
        ("vanishes", "errored: runner_died"),
        ("raises", "failed: raised"),
        ("caught", "passed"),
        ("engine_fault_even_caught", "errored: container_lost"),
        ("times_out", "timed_out: step_timeout"),
        ("bad_spec", "failed: spec_refused"),
        ("unreachable", "errored: worker_unreachable"),
        ("no_token", "errored: token_refused"),
        ("threads", "passed"),
    ];
    for (task, words) in expected {
        assert_eq!(run.task(&format!("Ends.{task}")), words, "{task}");
    }
    assert_eq!(run.words(), "errored: ran_nothing");
    assert!(run.problem("Ends.raises").traceback.is_some_and(|text| text.contains("no such luck")));
    assert!(run.problem("Ends.no_token").hint.is_some_and(|hint| hint.contains("workers.toml")));
}

#[tokio::test]
async fn exit_codes_arrive_unchanged() {
    let ci = Ci::with(
        r#"
class Codes(Stage):
    def task_all(self):
        for code in range(256):
            print(run(WORKER, IMAGE, f"exit {code}", check=False).exit_code)
"#,
    )
    .await;
    let run = ci.run().await;
    assert_eq!(run.words(), "passed");
    let expected: String = (0..256).map(|code| format!("{code}\n")).collect();
    assert_eq!(ci.output(run.number, "Codes.all").await, expected);
}

const SLEEPERS: &str = r#"
class One(Stage):
    def task_long(self):
        run(WORKER, IMAGE, "print begun; sleep 100")

    def task_short(self):
        run(WORKER, IMAGE, "print fine")

class Two(Stage):
    always = True

    def task_never(self):
        run(WORKER, IMAGE, "print x")
"#;

fn started(fact: &RunFact) -> bool {
    matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })
}

/// The short one has passed, and the container of the long one runs.
fn one_is_left(state: &RunState) -> bool {
    let steps = state.tasks().flat_map(|task| &task.attempts).flat_map(|attempt| &attempt.steps);
    let running = steps.filter(|step| matches!(step.state, StepState::Running { .. })).count();
    state.counts().get("passed") == Some(&1) && running == 1
}

#[tokio::test]
async fn a_cancel_ends_everything_once() {
    let ci = Ci::with(SLEEPERS).await;
    let run = ci.start().await;
    let begun = ci.follow(run, |state, _| one_is_left(state)).await;
    assert!(begun.is_running("One.long"));
    let cancel = format!("/api/runs/{run}/cancel");
    let (first, second) = tokio::join!(ci.post(&cancel), ci.post(&cancel));
    assert_eq!((first.0, second.0), (StatusCode::OK, StatusCode::OK));
    let told = ci.follow(run, |_, _| false).await;
    let expected = "cancelled: cancel_asked\nOne.long cancelled: cancel_asked\nOne.short passed\n\
                    Two.never skipped: cancelled";
    assert_eq!(told.summary(), expected);
    // An ended run stays as it is.
    assert_eq!(ci.post(&cancel).await.0, StatusCode::OK);
    assert_eq!(ci.follow(run, |_, _| false).await.log, told.log);
    let steps = ci.http.get(format!("{}/steps", ci.worker.base)).bearer_auth(&ci.token).send().await.unwrap();
    assert!(!steps.text().await.unwrap().contains("\"running\""));
}

#[tokio::test]
async fn what_did_not_pass_runs_again_and_says_so() {
    let ci = Ci::with(
        r#"
import os
flag = os.path.join(os.path.dirname(__file__), "flag")

class One(Stage):
    def task_flaky(self):
        run(WORKER, IMAGE, "print tried; exit " + ("0" if os.path.exists(flag) else "1"))

    def task_good(self):
        run(WORKER, IMAGE, "print fine")

class Two(Stage):
    def task_later(self):
        run(WORKER, IMAGE, "print later")
"#,
    )
    .await;
    let run = ci.run().await;
    assert_eq!(run.words(), "failed: command_failed");
    std::fs::write(ci.folder.path().join("project/.bettertest/flag"), "").unwrap();
    let (status, view) = ci.post(&format!("/api/runs/{}/rerun", run.number)).await;
    assert_eq!(status, StatusCode::OK, "{view}");
    let again = ci.follow(run.number, |_, _| false).await;
    let expected = "passed on attempt 2\nOne.flaky passed on attempt 2\nOne.good passed\nTwo.later passed";
    assert_eq!(again.summary(), expected);
    let (status, refused) = ci.post(&format!("/api/runs/{}/rerun", run.number)).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    let first = ci.ask(Method::GET, &format!("/api/runs/{}/tasks/One.flaky/output?attempt=1", run.number));
    assert_eq!(first.send().await.unwrap().text().await.unwrap(), "tried\n");
}

#[tokio::test]
async fn a_part_of_a_pipeline_says_that_it_is_one() {
    let ci = Ci::with(SLEEPERS).await;
    let only = serde_json::json!({"only": ["One.short"]});
    let made = ci.http.post(format!("{}/api/runs", ci.boss.base)).bearer_auth(&ci.token).json(&only).send();
    let made: serde_json::Value = made.await.unwrap().json().await.unwrap();
    let told = ci.follow(made["run"].as_u64().unwrap(), |_, _| false).await;
    let expected = "passed (1 of 3 tasks)\nOne.long skipped: not_selected\nOne.short passed\n\
                    Two.never skipped: not_selected";
    assert_eq!(told.summary(), expected);
    let none = serde_json::json!({"only": ["One.missing"]});
    let refused =
        ci.http.post(format!("{}/api/runs", ci.boss.base)).bearer_auth(&ci.token).json(&none).send();
    let refused = refused.await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text().await.unwrap().contains("there is no task One.missing"));
}

#[tokio::test]
async fn a_run_executes_the_text_that_it_began_with() {
    let ci = Ci::with(
        r#"
class One(Stage):
    def task_first(self):
        run(WORKER, IMAGE, "print begun; sleep 1")

class Two(Stage):
    def task_second(self):
        run(WORKER, IMAGE, "print the old text")
"#,
    )
    .await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| started(fact)).await;
    ci.rewrite("this is no Python\n");
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.words(), "passed");
    assert_eq!(ci.output(run, "Two.second").await, "the old text\n");
}
