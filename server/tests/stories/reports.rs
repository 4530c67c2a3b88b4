//! A pytest that nobody asked for a report writes one, and its tests are known to the last: on real containers of both
//! engines, on an image in which there is no place for temporary files, as a user who may make none.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::ci::Ci;
use crate::command::{err, out};

const IMAGE: &str = "reports-story-test";

const DOCKERFILE: &str = "\
FROM python:3-slim
RUN pip install -q pytest pytest-xdist
COPY test_odd.py test_dies.py /app/tests/
RUN rm -rf /tmp
WORKDIR /app
";

const ODD: &str = r#"
import time
import pytest

@pytest.mark.parametrize("x", ["a::b", "x[y] PASSED [", "ü", "a - b", ""])
def test_p(x):
    assert x

class TestX:
    class TestY:
        def test_deep(self):
            time.sleep(0.05)

@pytest.mark.skip
def test_skipped():
    pass

@pytest.fixture
def breaks_after():
    yield
    raise ValueError("at the end")

def test_teardown(breaks_after):
    pass
"#;

const DIES: &str = "import os\n\ndef test_fine():\n    pass\n\ndef test_dies():\n    os._exit(7)\n";

const PIPEDEF: &str = r#"
IMAGE = "reports-story-test"
class One(Stage):
    def task_quiet(self):
        run(WORKER, IMAGE, "pytest -q -p no:cacheprovider tests/test_odd.py", user="nobody")

    def task_loud(self):
        run(WORKER, IMAGE, "pytest -v -p no:cacheprovider tests/test_odd.py", user="nobody", junit=[])

    def task_many(self):
        run(WORKER, IMAGE, ["python3", "-m", "pytest", "-q", "-n2", "tests/test_odd.py"])

    def task_dies(self):
        run(WORKER, IMAGE, "pytest -v tests/test_dies.py")
"#;

/// Gone with the one that made it.
struct Image;

impl Image {
    fn make() -> Image {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("Dockerfile", DOCKERFILE), ("test_odd.py", ODD), ("test_dies.py", DIES)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        docker(&["build", "-q", "--force-rm", "-t", IMAGE, "."], folder.path());
        Image
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        docker(&["image", "rm", "--force", IMAGE], Path::new("/"));
    }
}

fn docker(args: &[&str], folder: &Path) {
    let ended = Command::new("docker").args(args).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    assert!(ended.status.success(), "{args:?}: {}{}", out(&ended), err(&ended));
}

fn outcomes(tests: &Value) -> BTreeMap<String, String> {
    let words = |test: &Value| ["name", "outcome"].map(|field| test[field].as_str().unwrap().to_owned());
    tests["tests"].as_array().unwrap().iter().map(words).map(|[name, outcome]| (name, outcome)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_of_pytest_are_known_to_the_last_without_a_word_in_the_pipedef() {
    let _image = Image::make();
    let engines: &[&str] = if nix::unistd::geteuid().is_root() { &["docker", "native"] } else { &["docker"] };
    for engine in engines {
        let ci = Ci::with_engine(PIPEDEF, engine).await;
        let run = ci.run().await;
        let of = |task: &str, what: &str| format!("/api/runs/{}/tasks/One.{task}/{what}", run.number);
        let quiet = ci.get(&of("quiet", "tests")).await;
        assert_eq!(quiet["counts"], json!({"passed": 5, "failed": 2, "skipped": 1}), "{engine}: {quiet}");
        let deep = "tests/test_odd.py::TestX::TestY::test_deep";
        let took = quiet["tests"].as_array().unwrap().iter().find(|test| test["name"] == deep).unwrap();
        assert!((50..5000).contains(&took["took_ms"].as_u64().unwrap()), "{took}");
        assert!(quiet.get("notes").is_none(), "{quiet}");
        // As they are called in what pytest prints, whoever writes the report.
        let loud = ci.get(&of("loud", "tests")).await;
        assert_eq!(outcomes(&loud), outcomes(&quiet), "{engine}");
        let many = ci.get(&of("many", "tests")).await;
        assert_eq!(outcomes(&many), outcomes(&quiet), "{engine}");
        assert_eq!(many["counts"], quiet["counts"], "{engine}");

        // What ran is what is shown; what failed is told in its author's words.
        let task = run.state.tasks().find(|task| task.id.to_string() == "One.quiet").unwrap();
        let plain = "pytest -q -p no:cacheprovider tests/test_odd.py";
        let ran = format!("{plain} --junitxml=/tmp/.bettertest/pytest.xml -o junit_family=xunit1");
        assert_eq!(task.attempts[0].steps[0].spec.command.for_show(), ran);
        let failed = format!("CommandFailed: exit code 1 from: {plain}");
        assert_eq!(run.problem("One.quiet").error, failed);

        // One that dies leaves none: then what it printed is what there is, and nobody is told of anything missing.
        assert_eq!(run.task("One.dies"), "failed: command_failed");
        let dies = ci.get(&of("dies", "tests")).await;
        let fine = BTreeMap::from([("tests/test_dies.py::test_fine".to_owned(), "passed".to_owned())]);
        assert_eq!((outcomes(&dies), dies.get("notes")), (fine, None), "{engine}: {dies}");
        assert_eq!(ci.get(&of("dies", "artifacts")).await["steps"][0]["problem"], Value::Null);
    }
}
