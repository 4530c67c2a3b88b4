//! Re-runs: what begins anew, what is refused, and how the run reads afterwards.

use crate::*;

/// A run of `One.a`, `One.b`, `Two.c` and, always, `Tidy.d`, to which things happen.
struct Story(RunState);

impl Story {
    fn begins(only: Option<&[&str]>) -> Story {
        let stage = |name: &str, always, tasks: &[&str]| Stage {
            name: name.to_owned(),
            always,
            tasks: tasks.iter().map(|name| Task { name: (*name).to_owned(), line: None }).collect(),
        };
        let stages =
            vec![stage("One", false, &["a", "b"]), stage("Two", false, &["c"]), stage("Tidy", true, &["d"])];
        let mut story = Story(RunState::default());
        story.tell(RunFact::RunStarted {
            run: RunNumber(7),
            key: RunKey::from_random(1),
            pipeline: Pipeline { stages },
            only: only.map(ids),
            started_by: None,
            source: None,
        });
        story
    }

    fn tell(&mut self, fact: RunFact) {
        let event = RunEvent { seq: Seq(self.0.last_seq.0 + 1), at_ms: 5, fact };
        self.0.apply(&event).unwrap();
    }

    fn refused(&mut self, fact: RunFact) -> String {
        let event = RunEvent { seq: Seq(self.0.last_seq.0 + 1), at_ms: 5, fact };
        let before = self.0.clone();
        let refused = self.0.apply(&event).unwrap_err();
        assert_eq!(self.0, before);
        refused.why
    }

    fn step_ends(&mut self, task: &str, attempt: u32, step: &str) {
        self.said(&id(task), attempt, &StepId::try_from(step.to_owned()).unwrap(), 0);
    }

    fn said(&mut self, task: &TaskId, attempt: u32, step: &StepId, exit_code: u8) {
        let said = [
            StepEvent::Started {
                container: String::new(),
                image_digest: Some(String::new()),
                engine: String::new(),
                engine_why: None,
            },
            StepEvent::Exited {
                exit_code,
                oom: false,
                took_ms: 1,
                signal: None,
                cpu_ms: None,
                peak_memory_bytes: None,
                image_digest: None,
                message: None,
            },
        ];
        for (position, said) in (1..).zip(said) {
            let (task, step) = (task.clone(), step.clone());
            self.tell(RunFact::Step { task, attempt, step, position, said });
        }
    }

    /// The next attempt of a task ends so.
    fn attempt(&mut self, task: &str, verdict: Verdict) -> &mut Story {
        let task = id(task);
        let attempt = self.0.task(&task).unwrap().attempts.len() as u32 + 1;
        let step = StepId::try_from(format!("{}-{attempt}", task)).unwrap();
        self.tell(RunFact::TaskStarted { task: task.clone(), attempt });
        self.tell(RunFact::StepAsked {
            task: task.clone(),
            attempt,
            step: step.clone(),
            worker: "http://w".to_owned(),
            spec: Box::new(StepSpec::new("image", Command::Shell("true".to_owned()))),
            instead_of: None,
        });
        self.said(&task, attempt, &step, if verdict.passed() { 0 } else { 1 });
        self.tell(RunFact::TaskEnded { task, attempt, verdict, took_ms: 1, problem: None, tests: None });
        self
    }

    fn skip(&mut self, task: &str, why: SkipReason) -> &mut Story {
        self.tell(RunFact::TaskSkipped { task: id(task), why });
        self
    }

    fn ends(&mut self) -> String {
        let verdict = self.0.verdict_now();
        self.tell(RunFact::RunEnded { verdict });
        headline(&self.0)
    }

    fn again(&mut self, only: Option<&[&str]>) -> String {
        let only = only.map(ids);
        match self.0.to_run_again(only.as_deref()) {
            Ok(tasks) => {
                let names: Vec<String> = tasks.iter().map(TaskId::to_string).collect();
                self.tell(RunFact::RerunStarted { only: tasks, failed_tests: Vec::new() });
                names.join(" ")
            }
            Err(problem) => problem.error,
        }
    }

    fn words(&self, task: &str) -> String {
        task_words(self.0.task(&id(task)).unwrap())
    }
}

fn id(task: &str) -> TaskId {
    TaskId::try_from(task.to_owned()).unwrap()
}

fn ids(tasks: &[&str]) -> Vec<TaskId> {
    tasks.iter().map(|task| id(task)).collect()
}

const FAILED: Verdict = Verdict::Not(Reason::CommandFailed);

fn failed_in_its_first_stage() -> Story {
    let mut run = Story::begins(None);
    run.attempt("One.a", FAILED).attempt("One.b", FAILED).skip("Two.c", SkipReason::EarlierStage);
    run.attempt("Tidy.d", Verdict::Passed);
    assert_eq!(run.ends(), "failed: command_failed");
    run
}

#[test]
fn what_did_not_pass_and_what_was_kept_back_by_it_begin_again() {
    let mut run = failed_in_its_first_stage();
    assert_eq!(run.again(None), "One.a One.b Two.c");
    assert_eq!(run.again(None), "run 7 is still running");
    run.attempt("One.a", Verdict::Passed).attempt("One.b", FAILED);
    assert_eq!(run.words("One.b"), "failed on attempt 2: command_failed");
    run.skip("Two.c", SkipReason::EarlierStage);
    assert_eq!(run.ends(), "failed: command_failed");
    assert_eq!(run.again(None), "One.b Two.c");
    run.attempt("One.b", Verdict::Passed).attempt("Two.c", Verdict::Passed);
    assert_eq!(run.ends(), "passed on attempt 3");
    assert_eq!(run.words("One.a"), "passed on attempt 2");
    assert_eq!(run.words("Two.c"), "passed");
    assert_eq!(passed_again(&run.0), 2);
    assert_eq!(run.again(None), "every task of run 7 passed");
    assert_eq!(run.again(Some(&["One.a"])), "every task of run 7 passed");
}

/// A later stage that a failure kept from running is a part of the run: without it there is no green.
#[test]
fn one_task_alone_takes_along_what_it_kept_back() {
    let mut run = failed_in_its_first_stage();
    assert_eq!(run.again(Some(&["One.a"])), "One.a Two.c");
    run.attempt("One.a", Verdict::Passed).skip("Two.c", SkipReason::EarlierStage);
    assert_eq!(run.ends(), "failed: command_failed");
    assert_eq!(run.again(Some(&["One.b"])), "One.b Two.c");
    run.attempt("One.b", Verdict::Passed);
    run.skip("Two.c", SkipReason::EarlierStage);
    assert_eq!(run.0.verdict_now(), Verdict::Not(Reason::RanNothing), "nothing keeps Two.c back any more");
}

#[test]
fn what_cannot_run_again_is_refused_by_name() {
    let mut run = failed_in_its_first_stage();
    for (only, error) in [
        ("Tidy.d", "Tidy.d has passed in run 7"),
        ("Two.c", "Two.c cannot run before One.a has passed"),
        ("One.ghost", "there is no task One.ghost in run 7"),
    ] {
        assert_eq!(run.again(Some(&[only])), error);
    }
    assert_eq!(run.again(Some(&[])), "no task was selected");
    assert_eq!(run.again(Some(&["Two.c", "One.b", "One.a"])), "One.a One.b Two.c");
}

#[test]
fn a_part_stays_a_part() {
    let mut run = Story::begins(Some(&["One.b"]));
    for other in ["One.a", "Two.c", "Tidy.d"] {
        run.skip(other, SkipReason::NotSelected);
    }
    run.attempt("One.b", FAILED);
    assert_eq!(run.ends(), "failed: command_failed (1 of 4 tasks)");
    assert_eq!(
        run.again(Some(&["One.a"])),
        "One.a is no part of run 7, which runs only what was selected for it"
    );
    assert_eq!(run.again(None), "One.b");
    run.attempt("One.b", Verdict::Passed);
    assert_eq!(run.ends(), "passed on attempt 2 (1 of 4 tasks)");
}

#[test]
fn what_a_cancel_left_out_passes_after_a_re_run() {
    let mut run = Story::begins(None);
    run.attempt("One.a", Verdict::Passed);
    run.tell(RunFact::CancelAsked);
    for other in ["One.b", "Two.c", "Tidy.d"] {
        run.skip(other, SkipReason::Cancelled);
    }
    assert_eq!(run.ends(), "cancelled: cancel_asked");
    assert_eq!(run.again(None), "One.b Two.c Tidy.d");
    assert!(!run.0.cancel_asked);
    for other in ["One.b", "Two.c", "Tidy.d"] {
        run.attempt(other, Verdict::Passed);
    }
    assert_eq!(run.ends(), "passed after a re-run");
}

/// Its failed tests alone: what comes of it is never a green one, and only what was wanted can be asked for.
#[test]
fn an_attempt_of_some_tests_cannot_pass() {
    let mut run = failed_in_its_first_stage();
    let first = StepId::try_from("One.a-1".to_owned()).unwrap();
    let only = |step: &StepId| OnlyTests {
        step: step.clone(),
        runner: Runner::Pytest,
        tests: vec!["a.py::t".to_owned()],
        of: 12,
    };
    let again = |task: &str, step: &StepId| RunFact::RerunStarted {
        only: ids(&["One.a", "Two.c"]),
        failed_tests: vec![TaskAgain { task: id(task), steps: vec![only(step)], whole: None }],
    };
    let asked = |attempt, n: u32, instead_of: Option<&StepId>| RunFact::StepAsked {
        task: id("One.a"),
        attempt,
        step: StepId::try_from(format!("again-{attempt}-{n}")).unwrap(),
        worker: "http://w".to_owned(),
        spec: Box::new(StepSpec::new("image", Command::Shell("true".to_owned()))),
        instead_of: instead_of.cloned(),
    };
    let stranger = StepId::try_from("nobody".to_owned()).unwrap();
    assert_eq!(run.refused(again("One.a", &stranger)), "One.a has asked for no step nobody");
    assert_eq!(run.refused(again("One.b", &first)), "One.b is no part of this re-run");
    run.tell(again("One.a", &first));
    run.tell(RunFact::TaskStarted { task: id("One.a"), attempt: 2 });
    assert_eq!(run.refused(asked(2, 1, Some(&stranger))), "nobody wanted only some tests of step nobody");
    run.tell(asked(2, 1, Some(&first)));
    assert!(run.refused(asked(2, 2, Some(&first))).contains("run already"));
    run.step_ends("One.a", 2, "again-2-1");
    let ended = |attempt, verdict| RunFact::TaskEnded {
        task: id("One.a"),
        attempt,
        verdict,
        took_ms: 1,
        problem: None,
        tests: None,
    };
    assert_eq!(
        run.refused(ended(2, Verdict::Passed)),
        "One.a cannot have passed: step again-2-1 ran only some tests"
    );
    let some = run.0.task(&id("One.a")).unwrap().attempts[1].some_tests().unwrap();
    assert_eq!((some.tests, some.of, some.words()), (1, 12, "1 of 12 tests".to_owned()));
    run.tell(ended(2, Verdict::Not(Reason::OnlySomeTests)));
    run.skip("Two.c", SkipReason::EarlierStage);
    assert_eq!(run.ends(), "failed: only_some_tests");

    // The attempt after that is one of all tests, until somebody asks anew.
    assert_eq!(run.again(Some(&["One.a"])), "One.a Two.c");
    run.tell(RunFact::TaskStarted { task: id("One.a"), attempt: 3 });
    assert!(run.refused(asked(3, 1, Some(&first))).starts_with("nobody wanted"));
    run.tell(asked(3, 1, None));
    run.step_ends("One.a", 3, "again-3-1");
    run.tell(ended(3, Verdict::Passed));
    assert_eq!(run.words("One.a"), "passed on attempt 3");
}
