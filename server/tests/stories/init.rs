//! From a project that has never heard of bettertest to its verdict: `bettertest init`, what it says to type next, and
//! that. On the images that `make base-images` makes where no registry is reached.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::ci::{BINARY, data_of};
use crate::command::{err, out, refused};

/// A project, its image, and the data directory of who runs it.
struct Sample {
    folder: tempfile::TempDir,
    name: &'static str,
    built: Vec<String>,
}

impl Sample {
    /// `name` has to be no other's: the image is called after it.
    fn of(name: &'static str, files: &[(&str, &str)]) -> Sample {
        let sample = Sample { folder: tempfile::tempdir().unwrap(), name, built: Vec::new() };
        for (path, text) in files {
            sample.put(path, text);
        }
        sample
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn image(&self) -> String {
        format!("{}-test", self.name)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn init(&self) -> String {
        let ended = typed(BINARY, &["init"], &self.path());
        assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
        let told = out(&ended);
        let next = format!("next   docker build -t {} . && bettertest run\n", self.image());
        assert!(told.ends_with(&next), "{told}");
        told
    }

    /// What `init` said to type; answers with the exit code and what was printed.
    fn build_and_run(&mut self) -> (Option<i32>, String) {
        let image = self.image();
        let built = typed("docker", &["build", "-q", "--force-rm", "-t", &image, "."], &self.path());
        assert!(built.status.success(), "{}{}", out(&built), err(&built));
        self.built.push(out(&built).trim().to_owned());
        self.run()
    }

    fn run(&self) -> (Option<i32>, String) {
        let data = data_of(self.folder.path());
        let ended = typed(BINARY, &["run", "--data-dir", data.to_str().unwrap()], &self.path());
        (ended.status.code(), out(&ended) + &err(&ended))
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        // One that was built first has lost its name.
        for image in &self.built {
            typed("docker", &["image", "rm", "--force", image], Path::new("/"));
        }
    }
}

fn typed(program: &str, args: &[&str], folder: &Path) -> Output {
    Command::new(program).args(args).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

/// Green as it is, red once `broken` stands in `file`.
fn green_then_red(sample: &mut Sample, tasks: &str, file: &str, broken: &str, why: &str) {
    let told = sample.init();
    assert!(told.contains(tasks), "{told}");
    let (code, text) = sample.build_and_run();
    assert!(code == Some(0) && text.contains("passed"), "{code:?} {text}");
    sample.put(file, broken);
    // No new image: the files as they are lie over those that it has.
    let (code, text) = sample.run();
    assert!(code == Some(1) && text.contains(why), "{code:?} {text}");
    assert!(text.contains(" --only-failed\n") && !text.contains("build the image"), "{text}");
}

#[test]
fn a_project_of_python() {
    let mut sample = Sample::of(
        "init-story-python",
        &[
            ("pyproject.toml", "[project]\nname = 'prices'\nversion = '1'\n"),
            ("src/prices.py", "def double(price):\n    return 2 * price\n"),
            (
                "tests/test_double.py",
                "from prices import double\n\ndef test_two():\n    assert double(1) == 2\n",
            ),
            ("tests/test_none.py", "import prices\n\ndef test_none():\n    assert prices.double(0) == 0\n"),
        ],
    );
    let broken = "def double(price):\n    return 3 * price\n";
    green_then_red(&mut sample, "2 tasks that run at once", "src/prices.py", broken, "test_two");
    // What was written is the project's from now on.
    let told = sample.init();
    assert_eq!(told.matches("left as it is").count(), 2, "{told}");
}

#[test]
fn a_project_of_rust() {
    let mut sample = Sample::of(
        "init-story-rust",
        &[
            ("Cargo.toml", "[package]\nname = \"prices\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
            (
                "src/lib.rs",
                "pub fn double(price: u32) -> u32 {\n    2 * price\n}\n#[test]\nfn none() {\n    assert_eq!(double(0), 0);\n}\n",
            ),
            ("tests/double.rs", "#[test]\nfn two() {\n    assert_eq!(prices::double(1), 2);\n}\n"),
        ],
    );
    let broken = "pub fn double(price: u32) -> u32 {\n    3 * price\n}\n#[test]\nfn none() {\n    assert_eq!(double(0), 0);\n}\n";
    green_then_red(&mut sample, "2 tasks that run at once", "src/lib.rs", broken, "two");
}

#[test]
fn a_project_of_node() {
    let mut sample = Sample::of(
        "init-story-node",
        &[
            ("package.json", r#"{"name": "prices", "version": "1.0.0", "scripts": {"test": "node --test"}}"#),
            ("prices.js", "exports.double = (price) => 2 * price\n"),
        ],
    );
    for number in 1..=8 {
        let test = format!(
            "const assert = require('assert')\nrequire('node:test')('times {number}', () => {{\n  assert.equal(require('../prices').double({number}), 2 * {number})\n}})\n"
        );
        sample.put(&format!("test/{number}.test.js"), &test);
    }
    let broken = "exports.double = (price) => (price === 7 ? 1 : 2 * price)\n";
    green_then_red(&mut sample, "2 tasks that run at once", "prices.js", broken, "test/7.test.js");
}

#[test]
fn a_folder_without_tests_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    refused(&typed(BINARY, &["init"], folder.path()), "has no tests that bettertest knows how to run");
    refused(&typed(BINARY, &["init", "nowhere"], folder.path()), "there is no folder nowhere");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
