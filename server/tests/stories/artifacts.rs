//! Files that are kept of a task, from a container to a folder of the one who asks: over the API, on the command line,
//! in a backup; and gone with their run.

use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;

use crate::ci::Ci;
use crate::command::{Project, err, out, refused};

const PIPEDEF: &str = r#"
class One(Stage):
    def task_report(self):
        run(WORKER, IMAGE, "printf <script>alert(1)</script> > report/index.html; printf one > x.xml; exit 1",
            artifacts=["report/**", "*.xml"], workdir="/app", check=False)
        run(WORKER, IMAGE, "printf two > x.xml; printf tmp > /tmp/x.xml; exit 1", artifacts=["*.xml", "/tmp/*"], workdir="/app")

    def task_plain(self):
        run(WORKER, IMAGE, "true")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_task_leaves_is_there_byte_by_byte_and_no_page_of_ours() {
    let ci = Ci::with(PIPEDEF).await;
    let run = ci.run().await;
    let tasks = format!("/api/runs/{}/tasks", run.number);
    let listed = ci.get(&format!("{tasks}/One.report/artifacts")).await;
    let paths = |step: usize| -> Vec<&str> {
        let files = listed["steps"][step]["files"].as_array().unwrap();
        files.iter().map(|file| file["path"].as_str().unwrap()).collect()
    };
    assert_eq!(listed["attempt"], 1);
    assert_eq!((paths(0), paths(1)), (vec!["report/index.html", "x.xml"], vec!["x.xml", "/tmp/x.xml"]));
    let answer =
        ci.ask(Method::GET, &format!("{tasks}/One.report/artifacts/1/0?attempt=1")).send().await.unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/octet-stream");
    assert_eq!(
        header("content-disposition"),
        "attachment; filename=\"index.html\"; filename*=UTF-8''index.html"
    );
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("content-security-policy"), "sandbox; default-src 'none'");
    assert_eq!(header("cross-origin-resource-policy"), "same-origin");
    assert_eq!(answer.text().await.unwrap(), "<script>alert(1)</script>");
    let second = ci.ask(Method::GET, &format!("{tasks}/One.report/artifacts/2/0")).send().await.unwrap();
    assert_eq!(second.text().await.unwrap(), "two");
    for (path, status) in
        [("One.report/artifacts/2/9", 404), ("One.report/artifacts/3/0", 404), ("One.no/artifacts", 404)]
    {
        let answer = ci.ask(Method::GET, &format!("{tasks}/{path}")).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    assert_eq!(ci.get(&format!("{tasks}/One.plain/artifacts")).await, json!({"attempt": 1, "steps": []}));
    let without_token = ci.http.get(format!("{}{tasks}/One.report/artifacts/1/0", ci.boss.base)).send();
    assert_eq!(without_token.await.unwrap().status(), 401);
}

#[test]
fn the_command_line_lists_them_and_writes_them_over_nothing() {
    let project = Project::with_fake_engine(PIPEDEF);
    assert_eq!(project.run(&[]).status.code(), Some(1));
    let show = |args: &[&str]| project.command_of("show", args).output().unwrap();
    let listed = show(&["last", "report", "--artifacts"]);
    assert_eq!(listed.status.code(), Some(0), "{}", err(&listed));
    assert_eq!(
        out(&listed),
        "step 1\n          25  report/index.html\n           3  x.xml\n\
         step 2\n           3  x.xml\n           3  /tmp/x.xml\n"
    );
    let said: Value =
        serde_json::from_str(&out(&show(&["last", "report", "--artifacts", "--json"]))).unwrap();
    assert_eq!(said["steps"][1]["files"][1]["path"], "/tmp/x.xml");
    let into = project.folder.path().join("kept");
    let into = into.to_str().unwrap();
    let written = show(&["last", "report", "--artifacts", "--into", into]);
    assert_eq!(written.status.code(), Some(0), "{}", err(&written));
    let read = |path: &str| std::fs::read_to_string(PathBuf::from(into).join(path)).unwrap();
    assert_eq!(read("step-1/report/index.html"), "<script>alert(1)</script>");
    assert_eq!((read("step-1/x.xml").as_str(), read("step-2/x.xml").as_str()), ("one", "two"));
    assert_eq!(read("step-2/tmp/x.xml"), "tmp");
    let again = show(&["last", "report", "--artifacts", "--into", into, "--path", "/tmp/x.xml"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(err(&again).contains("nothing is written over"), "{}", err(&again));
    refused(&show(&["last", "plain", "--artifacts"]), "no file is kept");
    refused(&show(&["last", "report", "--artifacts", "--path", "y"]), "no file y is kept");
}

/// Real containers, of both engines in turn, from the pipedef to the file.
#[tokio::test(flavor = "multi_thread")]
async fn real_containers_leave_what_they_wrote() {
    let engines: &[&str] = if nix::unistd::geteuid().is_root() { &["docker", "native"] } else { &["docker"] };
    for engine in engines {
        let pipedef = r#"
IMAGE = "bettertest-test:1"
class One(Stage):
    def task_report(self):
        run(WORKER, IMAGE, "mkdir -p r/s; printf '\\001\\377' > r/s/x.bin; ln -s /etc/passwd r/p; exit 3", artifacts=["r/**"], workdir="/tmp")
"#;
        let ci = Ci::with_engine(pipedef, engine).await;
        let run = ci.run().await;
        let of = format!("/api/runs/{}/tasks/One.report/artifacts", run.number);
        let listed = ci.get(&of).await;
        let files = listed["steps"][0]["files"].as_array().unwrap();
        assert_eq!((files.len(), &files[0]["path"]), (1, &json!("r/s/x.bin")), "{engine}: {listed}");
        let bytes = ci.ask(Method::GET, &format!("{of}/1/0")).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(&bytes[..], b"\x01\xff", "{engine}");
    }
}

const REPORTED: &str = r#"
class One(Stage):
    def task_reported(self):
        run(WORKER, IMAGE, """print 2 passed, 0 failed; printf '<testsuites><testsuite name="s"><testcase classname="a.B" name="one" time="0.5"/>\
<testcase classname="a.B" name="two"><failure message="not right">at line 7</failure></testcase></testsuite></testsuites>' > r/x.xml; exit 1""",
            junit="r/*.xml")

    def task_empty(self):
        run(WORKER, IMAGE, """printf '<testsuite name="s"></testsuite>' > r.xml""", junit=["r.xml"])

    def task_broken(self):
        run(WORKER, IMAGE, "printf '<html' > r.xml", junit=["r.xml", "more.xml"])
        run(WORKER, IMAGE, "exit 1", junit="none.xml")
"#;

/// A report is believed, and one of no test proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_report_says_of_tests_is_what_is_shown() {
    let ci = Ci::with(REPORTED).await;
    let run = ci.run().await;
    let tests = ci.get(&format!("/api/runs/{}/tasks/One.reported/tests", run.number)).await;
    let told: Vec<(&str, &str)> = (tests["tests"].as_array().unwrap().iter())
        .map(|test| (test["name"].as_str().unwrap(), test["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!((told.len(), told[0].1, told[1].1), (2, "failed", "passed"), "{tests}");
    assert!(told[0].0.ends_with("two") && told[1].0.ends_with("one"), "{told:?}");
    assert_eq!(run.task("One.empty"), "failed: no_tests");
    // What could not be read is told wherever tests are, and decides nothing.
    assert_eq!(run.task("One.broken"), "failed: command_failed");
    let tests = ci.get(&format!("/api/runs/{}/tasks/One.broken/tests", run.number)).await;
    let notes = json!([
        "artifacts: the report r.xml is not read: no XML that can be read: the document does not have a root node",
        "artifacts of step 2: no JUnit report was found: none.xml"
    ]);
    assert_eq!(tests["notes"], notes);
    let packet = ci.get(&format!("/api/runs/{}/packet", run.number)).await;
    let failure =
        packet["failures"].as_array().unwrap().iter().find(|failure| failure["task"] == "One.broken");
    assert_eq!(failure.unwrap()["notes"], notes, "{packet}");
}

#[test]
fn the_command_line_says_which_report_it_could_not_read() {
    let project = Project::with_fake_engine(REPORTED);
    let ran = out(&project.run(&["--task", "One.broken"]));
    let note = "artifacts of step 2: no JUnit report was found: none.xml";
    assert_eq!(
        ran.matches("the report r.xml is not read: no XML").count(),
        2,
        "as it happens, and at the end: {ran}"
    );
    assert!(ran.contains(&format!("  note: {note}\n")), "{ran}");
    for args in [&["last", "broken", "--tests"][..], &["last"]] {
        let shown = out(&project.command_of("show", args).output().unwrap());
        assert!(shown.contains(&format!("note: {note}\n")), "{shown}");
    }
}
