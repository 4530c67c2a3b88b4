//! Images from the repo: a first stage builds, the next ones run on what it made, also after a crash and in a re-run.

use common::{RunFact, StepEvent, StepRun, TaskId};
use std::process::Command;

use crate::ci::{Ci, Told};

const BUILD_AND_USE: &str = r#"
from bettertest import build
IMAGE = "built-by-a-story"

class Image(Stage):
    def task_build(self):
        result = build(WORKER, IMAGE, "docker/Dockerfile")
        print(f"the image {result.outcome}")

class Use(Stage):
    def task_one(self): run(WORKER, IMAGE, "print one")
    def task_two(self): run(WORKER, IMAGE, "sleep 0.2; print two; " + open("MARK").read())
"#;

fn write(ci: &Ci, path: &str, text: &str) {
    let path = ci.folder.path().join("project").join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn last_step(told: &Told, task: &str) -> StepRun {
    let task = told.state.task(&TaskId::try_from(task.to_owned()).unwrap()).unwrap();
    task.attempts.last().unwrap().steps.last().unwrap().clone()
}

/// What each task's last step ran on, or made.
fn images(told: &Told) -> Vec<String> {
    ["Image.build", "Use.one", "Use.two"].map(|task| last_step(told, task).image_digest.unwrap()).to_vec()
}

async fn ci(engine: &str, dockerfile: &str, mark: &str) -> Ci {
    let ci = Ci::with_engine("", engine).await;
    let mark_at = ci.folder.path().join("mark");
    ci.rewrite(&BUILD_AND_USE.replace("\"MARK\"", &format!("{:?}", mark_at.to_str().unwrap())));
    std::fs::write(mark_at, mark).unwrap();
    write(&ci, "docker/Dockerfile", dockerfile);
    ci
}

/// Wherever the boss is killed, the name means what was built: `fake` has another image by that name otherwise.
#[tokio::test]
async fn a_built_name_is_what_was_built_through_crashes_and_re_runs() {
    let mut ci = ci("fake", "FROM x\nRUN print step one\nRUN sleep 0.3; print step two\n", "exit 3").await;
    let run = ci.start().await;
    let printing = |_: &common::RunState, fact: &RunFact| {
        matches!(fact, RunFact::Step { said: StepEvent::Started { image_digest: None, .. }, .. })
    };
    ci.follow(run, printing).await;
    ci.kill_boss();
    ci.follow(run, |state, _| state.task(&TaskId::new("Use", "one")).unwrap().state.word() == "running")
        .await;
    ci.kill_boss();
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(
        told.summary(),
        "failed: command_failed\nImage.build passed\nUse.one passed\nUse.two failed: command_failed"
    );
    assert_eq!(ci.output(run, "Image.build").await, "step one\nstep two\nthe image passed\n");
    let made = images(&told);
    assert!(made.iter().all(|image| *image == made[0]), "{made:?}");

    // Meanwhile another run has the name mean something else.
    write(&ci, "docker/Dockerfile", "FROM y\nRUN print another\n");
    let other = ci.run().await;
    assert_ne!(images(&other)[0], made[0]);
    std::fs::write(ci.folder.path().join("mark"), "exit 0").unwrap();
    ci.kill_boss();
    let (status, _) = ci.post(&format!("/api/runs/{run}/rerun")).await;
    assert!(status.is_success());
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!((told.words().as_str(), images(&told)), ("passed on attempt 2", made));
}

/// Where nothing ever ran there is no image yet, and nobody is to type first what makes one.
#[tokio::test]
async fn the_first_run_may_be_a_part() {
    let ci = ci("fake", "FROM x\nRUN print one\n", "exit 0").await;
    let only = serde_json::json!({"only": ["Use.one"]});
    let made = ci.http.post(format!("{}/api/runs", ci.boss.base)).bearer_auth(&ci.token).json(&only).send();
    let made: serde_json::Value = made.await.unwrap().json().await.unwrap();
    let told = ci.follow(made["run"].as_u64().unwrap(), |_, _| false).await;
    assert_eq!(
        told.summary(),
        "passed (2 of 3 tasks)\nImage.build passed\nUse.one passed\nUse.two skipped: not_selected"
    );
}

/// A part of it, too, is tested on the files as they are now.
#[tokio::test]
async fn what_builds_an_image_belongs_to_every_part_that_comes_after_it() {
    let ci = ci("fake", "FROM x\nRUN print one\n", "exit 0").await;
    let before = ci.run().await;
    write(&ci, "docker/Dockerfile", "FROM x\nRUN print edited\n");
    let only = serde_json::json!({"only": ["Use.one"]});
    let made = ci.http.post(format!("{}/api/runs", ci.boss.base)).bearer_auth(&ci.token).json(&only).send();
    let made: serde_json::Value = made.await.unwrap().json().await.unwrap();
    let told = ci.follow(made["run"].as_u64().unwrap(), |_, _| false).await;
    assert_eq!(
        told.summary(),
        "passed (2 of 3 tasks)\nImage.build passed\nUse.one passed\nUse.two skipped: not_selected"
    );
    let built = last_step(&told, "Image.build").image_digest;
    assert_ne!(built, last_step(&before, "Image.build").image_digest);
    assert_eq!(last_step(&told, "Use.one").image_digest, built);
}

#[tokio::test]
async fn a_build_that_fails_is_failed_and_says_where() {
    let ci = ci("fake", "FROM x\nRUN print no; exit 9\n", "").await;
    let run = ci.run().await;
    assert_eq!(
        run.summary(),
        "failed: command_failed\nImage.build failed: command_failed\nUse.one skipped: earlier_stage\nUse.two skipped: earlier_stage"
    );
    let problem = run.problem("Image.build");
    assert!(
        problem.error.contains("exit code 9 from: docker/Dockerfile:2: RUN print no; exit 9"),
        "{problem:?}"
    );
    let packet = ci.get(&format!("/api/runs/{}/packet", run.number)).await.to_string();
    assert!(packet.contains("docker/Dockerfile:2: RUN print no; exit 9"), "{packet}");
}

#[tokio::test]
async fn what_a_name_means_does_not_depend_on_who_comes_last() {
    let ci = Ci::with(
        "from bettertest import build as make\nclass One(Stage):\n    def task_a(self):\n        \
         make(WORKER, IMAGE)\n        make(WORKER, IMAGE)\n        make(WORKER, IMAGE, 'other/Dockerfile')\n",
    )
    .await;
    write(&ci, "Dockerfile", "FROM x\nRUN print a\n");
    write(&ci, "other/Dockerfile", "FROM x\nRUN print b\n");
    let run = ci.run().await;
    assert_eq!(run.words(), "failed: spec_refused");
    assert!(
        run.problem("One.a").error.contains("builds \"bettertest-test:1\" of Dockerfile"),
        "{:?}",
        run.problem("One.a")
    );
}

#[tokio::test]
async fn docker_builds_and_runs_what_it_built() {
    let name = format!("bt-story-{}", std::process::id());
    let dockerfile = "FROM bettertest-test:1\nCOPY project.txt /\nRUN echo with $(cat /project.txt)\n";
    let ci = ci("docker", dockerfile, "cat /project.txt").await;
    let text = std::fs::read_to_string(crate::ci::pipedef_of(ci.folder.path())).unwrap();
    let text = text.replace("built-by-a-story", &name).replace("print ", "echo ");
    std::fs::write(crate::ci::pipedef_of(ci.folder.path()), text).unwrap();
    write(&ci, "project.txt", "files");
    let run = ci.run().await;
    assert_eq!(run.words(), "passed", "{}", run.summary());
    assert!(ci.output(run.number, "Image.build").await.contains("\nwith files\n"));
    assert_eq!(ci.output(run.number, "Use.two").await, "two\nfiles");
    let again = ci.run().await;
    assert!(ci.output(again.number, "Image.build").await.starts_with("unchanged: "));
    assert_eq!((again.words().as_str(), images(&again)), ("passed", images(&run)));
    drop(Command::new("docker").args(["image", "rm", "--force", &name]).output());
}

/// Nothing else tells how far it is, and it may take minutes.
#[test]
fn a_terminal_shows_what_a_build_prints() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("project");
    std::fs::create_dir_all(project.join(".bettertest")).unwrap();
    let name = format!("bt-story-shown-{}", std::process::id());
    let pipedef = format!(
        "from bettertest import Stage, build\nWORKER = 'http://localhost:9009'\nclass Image(Stage):\n    \
         def task_build(self):\n        build(WORKER, {name:?})\n"
    );
    std::fs::write(project.join(".bettertest/pipedef.py"), pipedef).unwrap();
    let dockerfile = format!("FROM bettertest-test:1\nRUN echo well on its way {name}; sleep 2\n");
    std::fs::write(project.join("Dockerfile"), dockerfile).unwrap();
    let data = crate::ci::data_of(folder.path());
    let typed = format!("stty cols 100 rows 30; {} run --data-dir {}", crate::ci::BINARY, data.display());
    let ended =
        Command::new("script").args(["-qec", &typed, "/dev/null"]).current_dir(&project).output().unwrap();
    let seen = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{seen}");
    // Before it has ended, beside the time that it takes.
    let line = seen.lines().find(|line| line.contains("Image.build") && line.contains("well on its way"));
    assert!(line.is_some_and(|line| line.contains('▸')), "{seen}");
    drop(Command::new("docker").args(["image", "rm", "--force", &name]).output());
}
