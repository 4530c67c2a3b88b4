//! Images whose build named the files that make a new one (`rebuild_on`), with the real Docker: that an edit needs no new
//! image, and that no step ever sees a file, or what was made of one, that its source does not have.

use common::{EntryMode, TreeId};
use serde_json::{Value, json};

use super::builds::{Name, files, is_unchanged, made, remove_made};
use super::rig::{IMAGE, Rig, Told, docker};
use super::sources::Files;

/// As a tool does it that goes by times: of a file which is not newer than what was made of it nothing is made.
const MAKE: &str = "[ made -nt text ] || cp text made; cat made";

fn dockerfile() -> String {
    format!("FROM {IMAGE}\nCOPY . /app\nRUN cd /app && {MAKE}\n")
}

/// A project; each file as old as the year 2001, but where `text` says otherwise.
fn project(deps: &str, text: &str, more: &[(&'static str, &str)]) -> Files {
    let mut project = files(&[("Dockerfile", &dockerfile()), ("deps.txt", deps), ("text", text)]);
    project.0.extend(files(more).0);
    project.0.iter_mut().for_each(|(_, mtime_ns, ..)| *mtime_ns = 1_000_000_000_000_000_000);
    project
}

fn build(name: &Name, tree: &TreeId, rebuild_on: &[&str]) -> Value {
    let build = json!({"tree": tree, "dockerfile": "Dockerfile", "context": ".", "rebuild_on": rebuild_on});
    json!({"image": name.0, "command": {"build": build}})
}

fn step(image: &str, tree: &TreeId, command: &str) -> Value {
    json!({"image": image, "command": format!("cd /app && {command}"), "source": {"tree": tree, "at": "/app"}})
}

fn refused(told: &Told, why: &str) {
    let end = told.end();
    assert_eq!(told.verdict(), "spec_refused", "{}", told.stdout());
    assert!(end.message.as_deref().unwrap().contains(why) && end.hint.is_some(), "{end:?}");
}

async fn an_edit_is_tested_on_the_image_of_before_it(rig: Rig) {
    let name = Name::new();
    let deps = ["deps*.txt"];
    let first = project("one", "old", &[("gone", "still there")]).send(&rig).await;
    let built = rig.run(build(&name, &first, &deps)).await;
    assert_eq!(built.verdict(), "passed", "{}", built.stdout());
    let run = async |tree: &TreeId, command: &str| rig.run(step(&name.0, tree, command)).await.stdout();
    assert_eq!(run(&first, MAKE).await, "old");

    // Edited, and restored from where it was older than all that was made of the former.
    let edited = project("one", "new", &[("gone", "still there"), ("added", "too")]).send(&rig).await;
    let again = rig.run(build(&name, &edited, &deps)).await;
    assert!(is_unchanged(&again) && made(&again) == made(&built), "{}", again.stdout());
    let told = run(
        &edited,
        &format!("{MAKE}; [ added -nt Dockerfile ] && cat added; [ Dockerfile -ot made ] && echo kept"),
    )
    .await;
    assert_eq!(told, "newtookept\n");
    // And back.
    assert!(is_unchanged(&rig.run(build(&name, &first, &deps)).await));
    assert_eq!(run(&first, MAKE).await, "old");
    let bare = rig.run(json!({"image": name.0, "command": "cat /app/text"})).await;
    refused(&bare, "may be older than this run");

    // A file that has gone, or leads elsewhere: no step sees the former, whether the image is built anew or not.
    let without = project("one", "new", &[]).send(&rig).await;
    refused(&rig.run(step(&name.0, &without, "true")).await, "\"gone\"");
    let anew = rig.run(build(&name, &without, &deps)).await;
    assert!(!is_unchanged(&anew) && made(&anew) != made(&built));
    assert_eq!(run(&without, "ls gone || true; cat made").await, "new");
    let mut linked = project("one", "new", &[]);
    linked.0.push((EntryMode::Link, 1, "gone", b"text".to_vec()));
    let linked = linked.send(&rig).await;
    assert!(!is_unchanged(&rig.run(build(&name, &linked, &deps)).await));
    // What was built before is there still, and has nothing that this source has not.
    let back = rig.run(build(&name, &edited, &deps)).await;
    assert!(is_unchanged(&back) && made(&back) == made(&anew), "{}", back.stdout());
    assert_eq!(run(&edited, MAKE).await, "new");

    let other = project("two", "new", &[("gone", "still there")]).send(&rig).await;
    assert!(!is_unchanged(&rig.run(build(&name, &other, &deps)).await));
    let ignoring = project("one", "old", &[("gone", ""), (".dockerignore", "gone\n")]).send(&rig).await;
    assert!(!is_unchanged(&rig.run(build(&name, &ignoring, &deps)).await));
    assert_eq!(run(&ignoring, "cat gone").await, "");
    remove_made(&rig);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_tested_on_the_image_of_before_it_in_docker() {
    an_edit_is_tested_on_the_image_of_before_it(Rig::docker().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_tested_on_the_image_of_before_it_in_a_sandbox() {
    let Some(rig) = Rig::native().await else { return };
    an_edit_is_tested_on_the_image_of_before_it(rig).await;
}

/// Docker makes one image where no file that differs is copied. It is no reason to refuse either of both.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_image_has_is_no_matter() {
    let (rig, name) = (Rig::docker().await, Name::new());
    let dockerfile = format!("FROM {IMAGE}\nCOPY deps.txt /app/\n");
    let mut made_of = Vec::new();
    for more in ["x", "y"] {
        let tree = files(&[("Dockerfile", &dockerfile), ("deps.txt", ""), (more, more)]).send(&rig).await;
        made_of.push((made(&rig.run(build(&name, &tree, &["deps.txt"])).await), tree));
    }
    assert_eq!(made_of[0].0, made_of[1].0);
    for (image, tree) in &made_of {
        assert!(is_unchanged(&rig.run(build(&name, tree, &["deps.txt"])).await));
        assert_eq!(rig.run(step(image, tree, "ls ? | wc -l")).await.stdout().trim(), "1");
    }
    remove_made(&rig);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_that_name_nothing_are_told_of() {
    let (rig, name) = (Rig::docker().await, Name::new());
    let tree = project("", "", &[("sub/deps.txt", ""), (".dockerignore", "sub\n")]).send(&rig).await;
    for (patterns, why) in [
        (&["deps.txt", "dpes.txt"][..], "\"dpes.txt\", which no file of the context has"),
        (&["deps.txt", "sub"], "\"sub\", which no file"),
        (&["*.toml", "**/x"], "[\"*.toml\", \"**/x\"], which no file"),
        (&["deps.txt", "[b-a]"], "\"[b-a]\" in rebuild_on is no pattern"),
        (&["*", "!*"], "which no file"),
    ] {
        let told = rig.run(build(&name, &tree, patterns)).await;
        assert!(told.verdict() == "command_failed" && told.stdout().contains(why), "{}", told.stdout());
    }
    for (patterns, why) in [(&[][..], "is empty"), (&[" "], "no pattern"), (&["a\nb"], "no pattern")] {
        let answer = rig.post(&build(&name, &tree, patterns)).await;
        assert_eq!(answer.status().as_u16(), 422);
        assert!(answer.text().await.unwrap().contains(why));
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_built_upon_files_that_may_be_older() {
    let (rig, name, above) = (Rig::docker().await, Name::new(), Name::new());
    let tree = project("", "", &[]).send(&rig).await;
    assert_eq!(rig.run(build(&name, &tree, &["deps.txt"])).await.verdict(), "passed");
    let upon = files(&[("Dockerfile", &format!("FROM {}\nRUN true", name.0))]).send(&rig).await;
    let plain = json!({"image": above.0, "command": {"build": {"tree": upon, "dockerfile": "Dockerfile", "context": "."}}});
    refused(&rig.run(plain).await, "was built with rebuild_on");

    // Nor does a step run on one that somebody built upon it by hand, or that another data directory has built.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), format!("FROM {}\nENV theirs=1\n", name.0)).unwrap();
    docker(&["build", "--quiet", "--tag", &above.0, folder.path().to_str().unwrap()]);
    refused(&rig.run(step(&above.0, &tree, "true")).await, "only who has built it");
    let other = Rig::docker().await;
    let there = project("", "", &[]).send(&other).await;
    refused(&other.run(step(&name.0, &there, "true")).await, "only who has built it");
    drop(above);
    remove_made(&rig);
    rig.finish().await;
    other.finish().await;
}

/// A step that was to run where its worker was killed is held against the source by the next one as well.
#[tokio::test(flavor = "multi_thread")]
async fn another_worker_of_the_data_directory_knows_it_too() {
    let (rig, name) = (Rig::docker().await, Name::new());
    let first = project("", "old", &[]).send(&rig).await;
    let built = made(&rig.run(build(&name, &first, &["deps.txt"])).await);
    let edited = project("", "new", &[]).send(&rig).await;
    let (data, engine) = rig.hand_over().await;
    let rig = Rig::on(data, engine, |_| {}).await;
    let mut pinned = step(&name.0, &edited, MAKE);
    pinned["image_digest"] = json!(built);
    assert_eq!(rig.run(pinned.clone()).await.stdout(), "new");
    // What was written down of it is damaged.
    let record = rig.data.path().join("cache/builds/baked").join(built.strip_prefix("sha256:").unwrap());
    let bytes = std::fs::read(&record).unwrap();
    std::fs::write(&record, &bytes[..bytes.len() / 2]).unwrap();
    let (data, engine) = rig.hand_over().await;
    let rig = Rig::on(data, engine, |_| {}).await;
    refused(&rig.run(pinned).await, "only who has built it");
    assert!(!is_unchanged(&rig.run(build(&name, &edited, &["deps.txt"])).await));
    remove_made(&rig);
    rig.finish().await;
}
