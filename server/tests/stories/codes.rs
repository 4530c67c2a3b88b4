//! The true result: how a command ended is shown as it was, all the way from a real container, and only 0 passes.

use common::{StepState, TaskId};

use crate::ci::Ci;

/// (the task, its command as Python, the exit code that is due)
const ENDS: &[(&str, &str, u8)] = &[
    ("zero", "'exit 0'", 0),
    ("one", "'exit 1'", 1),
    ("two", "'exit 2'", 2),
    ("skipped", "'exit 77'", 77),
    ("docker_fault", "'exit 125'", 125),
    ("c126", "'exit 126'", 126),
    ("c127", "'exit 127'", 127),
    ("c128", "'exit 128'", 128),
    ("like_killed", "'exit 137'", 137),
    ("like_terminated", "'exit 143'", 143),
    ("most", "'exit 255'", 255),
    // Signals by the command itself.
    ("killed", "'kill -KILL $$'", 137),
    ("terminated", "'kill -TERM $$'", 143),
    ("crashed", "'kill -SEGV $$'", 139),
    // What cannot be executed.
    ("not_found", "['no-such-command']", 127),
    ("not_found_by_sh", "'no-such-command'", 127),
    ("a_folder", "['/bin']", 126),
];

#[tokio::test]
async fn every_end_of_a_real_container_arrives_unchanged() {
    let task = |(name, command, _): &(&str, &str, u8)| {
        format!("    def task_{name}(self): run(WORKER, IMAGE, {command})\n")
    };
    let tasks: String = ENDS.iter().map(task).collect();
    let ci = Ci::with_engine(&format!("class Ends(Stage):\n{tasks}"), "docker").await;
    let told = ci.run().await;
    for (name, command, code) in ENDS {
        let id = TaskId::new("Ends", name);
        let task = told.state.task(&id).unwrap();
        let step = &task.attempts[0].steps[0];
        let StepState::Ended(end) = &step.state else { panic!("{command}: {:?}", step.state) };
        assert_eq!(end.exit_code, Some(*code), "{command}: {end:?}");
        assert!(!end.oom, "{command} was not out of memory: {end:?}");
        let due = if *code == 0 { "passed" } else { "failed: command_failed" };
        assert_eq!(told.task(&id.to_string()), due, "{command}");
        if *code != 0 {
            let problem = told.problem(&id.to_string());
            assert!(problem.error.contains(&format!("exit code {code}")), "{command}: {problem:?}");
        }
    }
    assert_eq!(told.words(), "failed: command_failed");
}
