//! `RunState::apply` under events that no boss would send, in orders that no run would take.

use proptest::prelude::*;

use crate::*;

const STEPS: u128 = 3;

fn pipeline() -> Pipeline {
    let task = |name: &str| Task { name: name.to_owned(), line: None };
    let stage =
        |name: &str, always| Stage { name: name.to_owned(), always, tasks: vec![task("a"), task("b")] };
    Pipeline { stages: vec![stage("One", false), stage("Two", true)] }
}

fn any_task() -> impl Strategy<Value = TaskId> {
    (prop_oneof![Just("One"), Just("Two"), Just("Ghost")], prop_oneof![Just("a"), Just("b")])
        .prop_map(|(stage, task)| TaskId::new(stage, task))
}

fn any_step() -> impl Strategy<Value = StepId> {
    (0..STEPS).prop_map(|n| StepId::try_from(format!("step-{n}")).unwrap())
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        3 => Just(Verdict::Passed),
        1 => Just(Verdict::Not(Reason::CommandFailed)),
        1 => Just(Verdict::Not(Reason::WorkerLost)),
        1 => Just(Verdict::Not(Reason::CancelAsked)),
    ]
}

fn any_said() -> impl Strategy<Value = StepEvent> {
    let exited = |exit_code| StepEvent::Exited {
        exit_code,
        oom: false,
        took_ms: 1,
        signal: None,
        cpu_ms: None,
        peak_memory_bytes: None,
        image_digest: None,
        message: None,
    };
    let started = StepEvent::Started {
        container: "c".to_owned(),
        image_digest: Some("sha256:0".to_owned()),
        engine: "fake".to_owned(),
        engine_why: None,
    };
    let errored = StepEvent::Errored {
        reason: Reason::ContainerLost,
        message: "gone".to_owned(),
        hint: None,
        took_ms: 1,
        exit_code: None,
    };
    prop_oneof![
        1 => Just(StepEvent::Queued),
        1 => Just(StepEvent::Preparing { what: "pulling".to_owned(), done_bytes: None, total_bytes: None }),
        3 => Just(started),
        1 => Just(StepEvent::Output { stream: Stream::Stdout, bytes: Bytes::Text("x".to_owned()) }),
        1 => Just(StepEvent::Dropped { bytes: u64::MAX }),
        1 => Just(StepEvent::Gap { bytes: None }),
        1 => Just(StepEvent::Artifacts(Artifacts::default())),
        3 => Just(exited(0)),
        1 => Just(exited(1)),
        1 => Just(StepEvent::TimedOut { took_ms: 1, exit_code: Some(0) }),
        1 => Just(StepEvent::Cancelled { reason: Reason::CancelAsked, took_ms: 1, exit_code: None }),
        1 => Just(errored),
    ]
}

fn any_fact() -> impl Strategy<Value = RunFact> {
    let attempt = 1..3u32;
    let spec = || StepSpec::new("image", Command::Shell("true".to_owned()));
    prop_oneof![
        1 => prop::option::of(prop::collection::vec(any_task(), 1..3)).prop_map(|only| RunFact::RunStarted {
            run: RunNumber(1),
            key: RunKey::from_random(1),
            pipeline: pipeline(),
            only,
            started_by: None,
            source: None,
        }),
        6 => (any_task(), attempt.clone()).prop_map(|(task, attempt)| RunFact::TaskStarted { task, attempt }),
        6 => (any_task(), attempt.clone(), any_step()).prop_map(move |(task, attempt, step)| {
            let worker = "http://w".to_owned();
            RunFact::StepAsked { task, attempt, step, worker, spec: Box::new(spec()), instead_of: None }
        }),
        12 => (any_task(), attempt.clone(), any_step(), 0..40u64, any_said()).prop_map(
            |(task, attempt, step, position, said)| RunFact::Step { task, attempt, step, position, said }
        ),
        6 => (any_task(), attempt, any_verdict()).prop_map(|(task, attempt, verdict)| RunFact::TaskEnded {
            task,
            attempt,
            verdict,
            took_ms: 1,
            problem: None,
            tests: None
        }),
        2 => (any_task(), 1..3u32, any_verdict()).prop_map(|(task, attempt, verdict)| RunFact::TaskEnding {
            task,
            attempt,
            verdict,
            problem: None
        }),
        2 => any_task().prop_map(|task| RunFact::TaskSkipped { task, why: SkipReason::EarlierStage }),
        1 => Just(RunFact::CancelAsked),
        1 => prop::collection::vec(any_task(), 0..3).prop_map(|only| {
            let failed_tests = Vec::new();
            RunFact::RerunStarted { only, failed_tests }
        }),
        4 => any_verdict().prop_map(|verdict| RunFact::RunEnded { verdict }),
    ]
}

/// The facts that a run which began properly takes, numbered as a log numbers them.
fn legal(facts: Vec<RunFact>) -> (RunState, Vec<RunEvent>) {
    let begin = RunFact::RunStarted {
        run: RunNumber(1),
        key: RunKey::from_random(1),
        pipeline: pipeline(),
        only: None,
        started_by: None,
        source: None,
    };
    let mut run = RunState::default();
    let mut log = Vec::new();
    for fact in std::iter::once(begin).chain(facts) {
        let event = RunEvent { seq: Seq(log.len() as u64 + 1), at_ms: 5, fact };
        let before = run.clone();
        match run.apply(&event) {
            Ok(()) => log.push(event),
            Err(_) => assert_eq!(run, before, "a refused event left a trace: {event:?}"),
        }
    }
    (run, log)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_ended_attempt_never_changes_and_has_one_outcome(facts in prop::collection::vec(any_fact(), 0..120)) {
        let (_, log) = legal(facts);
        let mut run = RunState::default();
        let mut ended: Vec<(TaskId, Attempt)> = Vec::new();
        for event in &log {
            run.apply(event).unwrap();
            for (task, attempt) in &ended {
                let now = &run.task(task).unwrap().attempts[attempt.number as usize - 1];
                prop_assert_eq!(now, attempt);
            }
            if let RunFact::TaskEnded { task, attempt, .. } = &event.fact {
                let now = run.task(task).unwrap().attempts[*attempt as usize - 1].clone();
                prop_assert!(now.end.is_some());
                ended.push((task.clone(), now));
            }
        }
    }

    #[test]
    fn green_needs_a_step_that_ended_well(facts in prop::collection::vec(any_fact(), 0..120)) {
        let (run, _) = legal(facts);
        for task in run.tasks().filter(|task| task.state == TaskState::Ended(Verdict::Passed)) {
            let last = task.attempts.last().unwrap();
            prop_assert!(!last.steps.is_empty());
            for step in &last.steps {
                let StepState::Ended(end) = &step.state else { panic!("{step:?} has not ended") };
                prop_assert_ne!(end.verdict.outcome(), Outcome::Errored);
            }
        }
        if run.phase == Phase::Ended(Verdict::Passed) {
            prop_assert!(run.tasks().any(|task| task.state == TaskState::Ended(Verdict::Passed)));
            // Nothing is left out of a green run but what nobody asked for.
            let left_out = |task: &TaskRun| {
                !matches!(
                    task.state,
                    TaskState::Ended(Verdict::Passed) | TaskState::Skipped(SkipReason::NotSelected)
                )
            };
            prop_assert!(!run.tasks().any(left_out));
        }
    }

    #[test]
    fn a_prefix_and_then_the_rest_is_the_whole(
        facts in prop::collection::vec(any_fact(), 0..80),
        cut in any::<prop::sample::Index>(),
    ) {
        let (whole, log) = legal(facts);
        let (first, rest) = log.split_at(cut.index(log.len()));
        let mut run = RunState::default();
        for event in first {
            run.apply(event).unwrap();
        }
        let text = serde_json::to_string(rest).unwrap();
        for event in serde_json::from_str::<Vec<RunEvent>>(&text).unwrap() {
            run.apply(&event).unwrap();
        }
        prop_assert_eq!(run, whole);
    }

    #[test]
    fn nothing_panics_whatever_comes_first(facts in prop::collection::vec(any_fact(), 0..20)) {
        let mut run = RunState::default();
        for (n, fact) in facts.into_iter().enumerate() {
            let _refused_or_not = run.apply(&RunEvent { seq: Seq(n as u64), at_ms: 0, fact });
            headline(&run);
            RunView::of(&run);
        }
    }
}
