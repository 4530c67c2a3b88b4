//! Images from Dockerfiles, with the real Docker: what a build sees, when there is none, who follows one, and that nothing
//! is touched or left that is not ours. What the hand-written rules of `.dockerignore` say, `docker build` has to say too.

use common::{EntryMode, StepEvent, TreeId};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::rig::{IMAGE, Rig, Told, docker};
use super::sources::Files;
use crate::worker::EngineChoice;

/// A name for images that no other test has. What has it, is removed with it.
pub(super) struct Name(pub(super) String);

impl Name {
    pub(super) fn new() -> Name {
        Name(format!("bt-build-{}", crate::auth::random_hex(8)))
    }

    fn id(&self) -> String {
        docker(&["image", "inspect", "--format", "{{.Id}}", &self.0]).trim().to_owned()
    }

    fn is_there(&self) -> bool {
        Command::new("docker").args(["image", "inspect", &self.0]).output().unwrap().status.success()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        drop(Command::new("docker").args(["image", "rm", "--force", &self.0]).output());
    }
}

/// All images that this worker has made.
pub(super) fn remove_made(rig: &Rig) {
    let made =
        docker(&["image", "ls", "--all", "--quiet", "--no-trunc", "--filter", "label=bettertest.build"]);
    for id in made.lines().collect::<BTreeSet<_>>() {
        let format = r#"{{index .Config.Labels "bettertest.build"}}"#;
        let told =
            Command::new("docker").args(["image", "inspect", "--format", format, id]).output().unwrap();
        if String::from_utf8_lossy(&told.stdout).starts_with(&rig.instance()) {
            drop(Command::new("docker").args(["image", "rm", "--force", id]).output());
        }
    }
}

pub(super) fn files(files: &[(&'static str, &str)]) -> Files {
    let file = |(path, text): &(&'static str, &str)| (EntryMode::File, 1, *path, text.as_bytes().to_vec());
    Files(files.iter().map(file).collect())
}

fn spec(name: &Name, tree: &TreeId, more: Value) -> Value {
    let mut spec = json!({"image": name.0, "command": {"build": {"tree": tree, "dockerfile": "Dockerfile", "context": "."}}});
    for (field, value) in more.as_object().unwrap() {
        match field.as_str() {
            "dockerfile" | "context" => spec["command"]["build"][field] = value.clone(),
            _ => spec[field] = value.clone(),
        }
    }
    spec
}

pub(super) fn made(told: &Told) -> String {
    match &told.0.last().unwrap().1 {
        StepEvent::Exited { exit_code: 0, image_digest: Some(image), .. } => image.clone(),
        other => panic!("{other:?}: {}", told.stdout()),
    }
}

pub(super) fn is_unchanged(told: &Told) -> bool {
    told.stdout().starts_with("unchanged: ")
}

/// Containers, of anybody, whose command has this word.
fn containers_with(word: &str) -> Vec<String> {
    let all = docker(&["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Command}}"]);
    all.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_made_once_of_the_same_and_steps_run_on_it() {
    let (rig, name) = (Rig::docker().await, Name::new());
    let dockerfile = format!("FROM {IMAGE}\nCOPY . /app\nRUN echo made of $(cat /app/a/b)\n");
    let first =
        files(&[("Dockerfile", &dockerfile), ("a/b", "one"), ("ignored", "x"), (".dockerignore", "ign*")]);
    let tree = first.send(&rig).await;
    let told = rig.run(spec(&name, &tree, json!({}))).await;
    assert_eq!(told.verdict(), "passed", "{}", told.stdout());
    assert_eq!(
        (told.kinds()[..2].to_vec(), made(&told)),
        (vec!["queued".into(), "started".into()], name.id())
    );
    assert!(told.stdout().contains("made of one\n"), "{}", told.stdout());
    let step = json!({"image": name.0, "command": "ls -R /app; cat /app/a/b", "image_digest": made(&told)});
    let listed = rig.run(step).await.stdout();
    assert!(listed.ends_with("one") && !listed.contains("ignored"), "{listed}");

    // Touched, and changed where the build does not see it.
    let mut touched =
        files(&[("Dockerfile", &dockerfile), ("a/b", "one"), ("ignored", "y"), (".dockerignore", "ign*")]);
    touched.0[1].1 = 77;
    let again = rig.run(spec(&name, &touched.send(&rig).await, json!({}))).await;
    assert!(is_unchanged(&again) && made(&again) == made(&told), "{}", again.stdout());
    assert_eq!(again.kinds(), ["queued", "started", "output", "exited"]);

    let changed = files(&[("Dockerfile", &dockerfile), ("a/b", "two"), (".dockerignore", "ign*")]);
    let second = rig.run(spec(&name, &changed.send(&rig).await, json!({}))).await;
    assert!(second.stdout().contains("made of two\n") && made(&second) == name.id(), "{}", second.stdout());
    // Back again: the name goes with it, and what is there need not be built.
    let back = rig.run(spec(&name, &tree, json!({}))).await;
    assert!(is_unchanged(&back) && made(&back) == made(&told) && name.id() == made(&told));
    remove_made(&rig);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_base_is_another_build() {
    let (rig, name, base) = (Rig::docker().await, Name::new(), Name::new());
    docker(&["tag", IMAGE, &base.0]);
    let source = files(&[("Dockerfile", &format!("ARG OF={}\nFROM $OF\nRUN cat /mark || true", base.0))]);
    let tree = source.send(&rig).await;
    let first = rig.run(spec(&name, &tree, json!({}))).await;
    let other = files(&[("Dockerfile", &format!("FROM {IMAGE}\nRUN echo moved > /mark"))]);
    let moved = Name::new();
    assert_eq!(rig.run(spec(&moved, &other.send(&rig).await, json!({}))).await.verdict(), "passed");
    docker(&["tag", &moved.0, &base.0]);
    let second = rig.run(spec(&name, &tree, json!({}))).await;
    assert!(second.stdout().contains("moved\n") && made(&second) != made(&first), "{}", second.stdout());
    remove_made(&rig);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_of_the_same_at_once_are_one_and_a_cancel_is_of_one() {
    let (rig, names) = (Rig::docker().await, [Name::new(), Name::new(), Name::new()]);
    let mark = format!("mark-{}", crate::auth::random_hex(8));
    let run = format!("echo {mark}; head -c 16 /dev/urandom | od -An -tx1; sleep 4; echo over");
    let tree = files(&[("Dockerfile", &format!("FROM {IMAGE}\nRUN {run}"))]).send(&rig).await;
    for (name, id) in names.iter().zip(["one", "two", "three"]) {
        assert!(rig.post(&spec(name, &tree, json!({"id": id}))).await.status().is_success());
    }
    rig.until("two", |event| matches!(event, StepEvent::Output { .. })).await;
    rig.cancel("two").await;
    assert_eq!(rig.events("two", 0).await.verdict(), "cancel_asked");
    let (one, three) = (rig.events("one", 0).await, rig.events("three", 0).await);
    assert!(one.stdout().contains("over\n") && one.stdout() == three.stdout(), "{}", three.stdout());
    assert_eq!((made(&one), made(&three)), (names[0].id(), names[2].id()));
    assert!(made(&one) == made(&three) && !names[1].is_there());
    remove_made(&rig);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_build_that_is_stopped() {
    let (rig, name) = (Rig::docker().await, Name::new());
    let mark = format!("mark-{}", crate::auth::random_hex(8));
    let dockerfile = format!("FROM {IMAGE}\nRUN echo on {mark}; sleep 300");
    let tree = files(&[("Dockerfile", &dockerfile)]).send(&rig).await;
    let is_on = |event: &StepEvent| {
        let StepEvent::Output { bytes, .. } = event else { return false };
        String::from_utf8_lossy(bytes.as_slice()).lines().any(|line| line.starts_with("on "))
    };
    for (id, stop) in [("cancelled", "cancel_asked"), ("late", "step_timeout")] {
        let more = if id == "late" { json!({"id": id, "timeout_s": 4}) } else { json!({"id": id}) };
        assert!(rig.post(&spec(&name, &tree, more)).await.status().is_success());
        if id == "cancelled" {
            rig.until(id, is_on).await;
            assert_eq!(containers_with(&mark).len(), 1);
            rig.cancel(id).await;
        }
        assert_eq!(rig.events(id, 0).await.verdict(), stop);
        assert_eq!(containers_with(&mark), Vec::<String>::new(), "{id}");
    }
    assert!(!name.is_there());

    // With the next worker it begins again, and says that something may be missing.
    assert!(rig.post(&spec(&name, &tree, json!({"id": "left"}))).await.status().is_success());
    rig.until("left", is_on).await;
    let (data, engine) = rig.hand_over().await;
    let rig = Rig::on(data, engine, |_| {}).await;
    rig.until("left", |event| matches!(event, StepEvent::Gap { .. })).await;
    rig.cancel("left").await;
    let told = rig.events("left", 0).await;
    assert_eq!((told.verdict(), told.gaps()), ("cancel_asked", 1));
    assert_eq!(told.kinds().iter().filter(|kind| *kind == "started").count(), 1);
    assert_eq!(containers_with(&mark), Vec::<String>::new());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_says_where() {
    let (rig, name) = (Rig::docker().await, Name::new());
    let base = format!("FROM {IMAGE}");
    let fails = async |text: &str| {
        let tree = files(&[("Dockerfile", text), ("x", "x")]).send(&rig).await;
        let told = rig.run(spec(&name, &tree, json!({}))).await;
        assert_eq!(told.verdict(), "command_failed", "{text}: {:?}", told.end());
        let end = told.end();
        (end.exit_code.unwrap(), end.message.unwrap_or_default(), told.stdout())
    };
    let (code, at, output) =
        fails(&format!("# first\n{base}\n\nRUN true\nRUN echo no && \\\n   exit 7\n")).await;
    assert_eq!((code, at.as_str()), (7, "Dockerfile:5: RUN echo no && exit 7"));
    assert!(output.contains("\nno\n") && output.contains("returned a non-zero code: 7"), "{output}");
    let (code, at, output) = fails(&format!("{base}\nCOPY missing /\n")).await;
    assert_eq!((code, at.as_str()), (1, "Dockerfile:2: COPY missing /"));
    assert!(output.contains("missing"), "{output}");
    for odd in [&format!("{base}\nFOO x\n"), "", &format!("{base}\nRUN --mount=type=cache,target=/x true\n")]
    {
        let (code, _, output) = fails(odd).await;
        assert!(code == 1 && !output.is_empty(), "{odd}: {output}");
    }
    assert!(!name.is_there());
    let tree = files(&[("Dockerfile", "FROM bt-no-such-image-anywhere")]).send(&rig).await;
    assert_eq!(rig.run(spec(&name, &tree, json!({}))).await.verdict(), "image_not_found");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_leads_out_of_the_source() {
    let (rig, name) = (Rig::docker().await, Name::new());
    let mut source = files(&[
        ("docker/Dockerfile.test", &format!("FROM {IMAGE}\nCOPY . /c\nRUN cd /c && find . | sort\n")),
        ("sub/seen", "x"),
    ]);
    source.0.push((EntryMode::Link, 1, "linked", b"docker/Dockerfile.test".to_vec()));
    source.0.push((EntryMode::Link, 1, "out", b"/etc/passwd".to_vec()));
    source.0.push((EntryMode::Link, 1, "up", b"../../../../../../../../etc".to_vec()));
    let tree = source.send(&rig).await;
    // From the root of the source, wherever the context is; and it is no part of that.
    for dockerfile in ["docker/Dockerfile.test", "linked"] {
        let told = rig.run(spec(&name, &tree, json!({"dockerfile": dockerfile, "context": "sub/"}))).await;
        let is_right = is_unchanged(&told) || told.stdout().contains("\n.\n./seen\n");
        assert!(is_right && !told.stdout().contains("./.docker"), "{}", told.stdout());
        assert_eq!(is_unchanged(&told), dockerfile == "linked");
    }
    for (dockerfile, context) in
        [("out", "."), ("linked", "up"), ("up/passwd", "."), ("linked", "seen"), ("sub", ".")]
    {
        let told = rig.run(spec(&name, &tree, json!({"dockerfile": dockerfile, "context": context}))).await;
        assert_eq!(told.verdict(), "command_failed");
        assert!(told.stdout().starts_with("the source has no f"), "{}", told.stdout());
    }
    for (field, path) in
        [("dockerfile", "../x"), ("dockerfile", "/etc/passwd"), ("context", "a/../.."), ("context", "")]
    {
        let response = rig.post(&spec(&name, &tree, json!({field: path}))).await;
        assert_eq!(response.status(), 422);
        assert!(response.text().await.unwrap().contains(field));
    }
    for (field, value) in [("workdir", json!("/x")), ("network", json!("none")), ("image", json!("sha256:1"))]
    {
        assert_eq!(rig.post(&spec(&name, &tree, json!({field: value}))).await.status(), 422, "{field}");
    }
    remove_made(&rig);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_somebody_elses_stays_theirs() {
    let (rig, name, built_upon) = (Rig::docker().await, Name::new(), Name::new());
    docker(&["tag", IMAGE, &name.0]);
    let tree = files(&[("Dockerfile", &format!("FROM {IMAGE}\nRUN echo ours"))]).send(&rig).await;
    let theirs = name.id();
    let told = rig.run(spec(&name, &tree, json!({}))).await;
    let end = told.end();
    assert_eq!((told.verdict(), name.id()), ("spec_refused", theirs));
    assert!(end.message.unwrap().contains(&name.0) && end.hint.unwrap().contains("docker image rm"));

    // Ours, until somebody builds upon it by hand and takes the name along with its labels.
    docker(&["image", "rm", &name.0]);
    let ours = made(&rig.run(spec(&name, &tree, json!({}))).await);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Dockerfile"), format!("FROM {}\nENV theirs=1\n", name.0)).unwrap();
    let place = folder.path().to_str().unwrap();
    docker(&["build", "--quiet", "--tag", &name.0, "--tag", &built_upon.0, place]);
    assert_ne!(name.id(), ours);
    let theirs = name.id();
    let told = rig.run(spec(&name, &tree, json!({}))).await;
    assert_eq!((told.verdict(), name.id()), ("spec_refused", theirs));
    docker(&["image", "rm", &name.0, &built_upon.0]);
    remove_made(&rig);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerignore_means_what_docker_build_takes_it_for() {
    let rig = Rig::docker().await;
    let paths = [
        "a.txt",
        "b.md",
        "README.md",
        "src/main.rs",
        "src/deep/er/x.txt",
        "src/deep/keep.me",
        "docs/b.md",
        "docs/c/d.md",
        "tmp1/x",
        "tmp/x",
        "x/tmp/y",
        "lit[a]",
        "n1",
        "n2",
        "n3",
        "e.f.g",
        "sp ace",
        "é",
        "c^",
        ".hid/x",
    ];
    let ignores = [
        "*.txt\n# *.md\n**/*.md\n!README.md\n",
        "*\n!src\nsrc/deep\n!src/deep/keep.me\n",
        " /tmp/ \n./docs/c/..\nn[1-2]\n!n2\nsp ace\n",
        "**/tmp\n?.txt\nlit\\[a\\]\n*/deep/**\n!src/deep/er/x.txt\ne.f*\n",
        "**\n!a.txt\n!docs/**\n.dockerignore\nDockerfile\n",
        "\u{feff}src/*/er\n!src/deep/er/x.txt\nn[^1]\n?\nc^\n.*\n",
    ];
    let dockerfile = format!("FROM {IMAGE}\nCOPY . /c\nRUN cd /c && find . -type f | sort | sed 's/^/= /'\n");
    let listed = |output: &str| -> Vec<String> {
        output.lines().filter(|line| line.starts_with("= ")).map(str::to_owned).collect()
    };
    let compare = ignores.map(async |ignore| {
        let name = Name::new();
        let mut source = files(&paths.map(|path| (path, "x")));
        source.0.extend(files(&[("Dockerfile", &dockerfile), (".dockerignore", ignore)]).0);
        let folder = tempfile::tempdir().unwrap();
        for (_, _, path, bytes) in &source.0 {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let tree = source.send(&rig).await;
        let ours = rig.run(spec(&name, &tree, json!({}))).await;
        let theirs = tokio::task::spawn_blocking(move || {
            docker(&["build", "--no-cache", "--force-rm", folder.path().to_str().unwrap()])
        });
        let theirs = theirs.await.unwrap();
        let id = theirs.lines().find_map(|line| line.strip_prefix("Successfully built ")).unwrap();
        docker(&["image", "rm", id]);
        assert_eq!(listed(&ours.stdout()), listed(&theirs), "{ignore}");
        assert_ne!(listed(&theirs), Vec::<String>::new(), "{ignore}");
    });
    join_all(compare).await;
    remove_made(&rig);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_those_go_that_were_not_used_for_longest() {
    let rig = Rig::with(EngineChoice::Docker { host: None }, |setup| setup.build_cache_bytes = 0).await;
    let names = [Name::new(), Name::new(), Name::new(), Name::new()];
    let mut made_ids = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let dockerfile = format!("FROM {IMAGE}\nRUN head -c 5000 /dev/zero > /{at}-{}", name.0);
        let tree = files(&[("Dockerfile", &dockerfile)]).send(&rig).await;
        made_ids.push(made(&rig.run(spec(name, &tree, json!({}))).await));
    }
    // The first has another name, the second a container, the third nothing but ours; the fourth was just used.
    let theirs = Name::new();
    docker(&["tag", &names[0].0, &theirs.0]);
    let container = docker(&["create", &names[1].0, "true"]);
    let images = rig.data.path().join("cache/builds/images");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(8000);
    for id in &made_ids[..3] {
        let file = fs::File::open(images.join(id.strip_prefix("sha256:").unwrap())).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    let (data, engine) = rig.hand_over().await;
    let rig = Rig::on(data, engine, |setup| setup.build_cache_bytes = 0).await;
    // A worker looks when it begins.
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while names[2].is_there() && std::time::Instant::now() < give_up {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let there: Vec<bool> = names.iter().map(Name::is_there).collect();
    assert_eq!(there, [true, true, false, true]);
    docker(&["rm", container.trim()]);
    drop(theirs);
    remove_made(&rig);
    rig.finish().await;
}

/// Two clones of a project, each with a data directory of its own, share the names of their images on one Docker.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_goes_to_whoever_builds_it_last() {
    let (one, two, name) = (Rig::docker().await, Rig::docker().await, Name::new());
    let tree =
        |text: &str| files(&[("Dockerfile", &format!("FROM {IMAGE}\nRUN echo {text} > /mark")), ("x", text)]);
    let (first, second) = (tree("first").send(&one).await, tree("second").send(&two).await);
    let cat = |image: &str| json!({"image": name.0, "command": "cat /mark", "image_digest": image});
    let of_one = made(&one.run(spec(&name, &first, json!({}))).await);
    let of_two = made(&two.run(spec(&name, &second, json!({}))).await);
    assert!(of_one != of_two && name.id() == of_two);
    // A run that is under way has its image by its id.
    assert_eq!(one.run(cat(&of_one)).await.stdout(), "first\n");
    // Both know what they have made, and which of it has the name is a matter of who asked last.
    for _ in 0..2 {
        let again = one.run(spec(&name, &first, json!({}))).await;
        assert!(is_unchanged(&again) && made(&again) == of_one && name.id() == of_one, "{}", again.stdout());
        let again = two.run(spec(&name, &second, json!({}))).await;
        assert!(is_unchanged(&again) && made(&again) == of_two && name.id() == of_two, "{}", again.stdout());
    }
    // The first lets go of its image; neither the other one nor the name goes with it.
    let record = one.data.path().join("cache/builds/images").join(of_one.strip_prefix("sha256:").unwrap());
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(8000);
    fs::File::open(record).unwrap().set_modified(long_ago).unwrap();
    let (data, engine) = one.hand_over().await;
    let one = Rig::on(data, engine, |setup| setup.build_cache_bytes = 0).await;
    let is_there = |image: &str| {
        Command::new("docker").args(["image", "inspect", image]).output().unwrap().status.success()
    };
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while is_there(&of_one) && std::time::Instant::now() < give_up {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!is_there(&of_one) && name.id() == of_two);
    assert_eq!(two.run(cat(&of_two)).await.stdout(), "second\n");
    assert_eq!(made(&two.run(spec(&name, &second, json!({}))).await), of_two);
    assert!(!is_unchanged(&one.run(spec(&name, &first, json!({}))).await));
    remove_made(&one);
    remove_made(&two);
    one.finish().await;
    two.finish().await;
}
