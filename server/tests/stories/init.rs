//! From a project that has never heard of bettertest to its verdict: `bettertest init && bettertest run`, and what comes
//! of edits then: whatever time a file has, it is tested as it is. On the images that `make base-images` makes where no
//! registry is reached.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use crate::ci::{BINARY, data_of};
use crate::command::{err, out, refused};

/// A project, its image, and the data directory of who runs it.
struct Sample {
    folder: tempfile::TempDir,
    name: &'static str,
    built: RefCell<Vec<String>>,
}

impl Sample {
    /// `name` has to be no other's: the image is called after it.
    fn of(name: &'static str, files: &[(&str, &str)]) -> Sample {
        let sample = Sample { folder: tempfile::tempdir().unwrap(), name, built: RefCell::default() };
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

    /// As `cp -p`, `git worktree` and archives leave it: older than all that was ever made of the project.
    fn put_old(&self, path: &str, text: &str) {
        self.put(path, text);
        let file = std::fs::File::options().write(true).open(self.path().join(path)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    }

    fn init(&self) -> String {
        let ended = typed(BINARY, &["init"], &self.path());
        assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
        let told = out(&ended);
        assert!(told.contains("\nnext   bettertest run "), "{told}");
        told
    }

    /// Answers with the exit code and what was printed.
    fn run(&self, more: &[&str]) -> (Option<i32>, String) {
        let data = data_of(self.folder.path());
        let args = [&["run", "--data-dir", data.to_str().unwrap()], more].concat();
        let ended = typed(BINARY, &args, &self.path());
        self.built.borrow_mut().extend(self.id());
        (ended.status.code(), out(&ended) + &err(&ended))
    }

    /// Of the image, where there is one.
    fn id(&self) -> Option<String> {
        let args = ["image", "inspect", "--format", "{{.Id}}", &self.image()];
        let found = typed("docker", &args, Path::new("/"));
        found.status.success().then(|| out(&found).trim().to_owned())
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        // One that was built first has lost its name.
        for image in self.built.borrow().iter() {
            typed("docker", &["image", "rm", "--force", image], Path::new("/"));
        }
    }
}

fn typed(program: &str, args: &[&str], folder: &Path) -> Output {
    Command::new(program).args(args).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

/// Green as it is, red once `broken` stands in `file`, or nothing does.
fn green_then_red(sample: &Sample, tasks: &str, file: &str, broken: &str, why: &str) {
    let sound = std::fs::read_to_string(sample.path().join(file)).unwrap();
    let told = sample.init();
    assert!(told.contains(tasks), "{told}");
    let (code, text) = sample.run(&[]);
    assert!(code == Some(0) && text.contains("passed"), "{code:?} {text}");
    let built = sample.id().unwrap();
    let red = |more: &[&str]| {
        let (code, text) = sample.run(more);
        assert!(code == Some(1) && text.contains(why), "{code:?} {text}");
        assert!(text.contains(" --only-failed\n") && !text.contains("build the image"), "{text}");
    };
    // No new image: the files as they are lie over those that it has.
    sample.put(file, broken);
    red(&[]);
    // Nor does what was compiled of the sound one stand for a broken one that is older than it.
    sample.put_old(file, broken);
    red(&[]);
    red(&["--only-failed"]);
    for put in [Sample::put_old, Sample::put] {
        put(sample, file, &sound);
        let (code, text) = sample.run(&["--only-failed"]);
        assert!(code == Some(0) || text.contains("nothing"), "{code:?} {text}");
        let (code, text) = sample.run(&[]);
        assert!(code == Some(0), "{code:?} {text}");
    }
    assert_eq!(sample.id().unwrap(), built);
    // In the image it is still.
    std::fs::remove_file(sample.path().join(file)).unwrap();
    let (code, text) = sample.run(&[]);
    assert!(code == Some(1), "{code:?} {text}");
}

#[test]
fn a_project_of_python() {
    let sample = Sample::of(
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
    green_then_red(&sample, "2 tasks that run at once", "src/prices.py", broken, "test_two");
    // What was written is the project's from now on.
    let told = sample.init();
    assert_eq!(told.matches("left as it is").count(), 2, "{told}");
}

#[test]
fn a_project_of_rust() {
    let sample = Sample::of(
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
    green_then_red(&sample, "2 tasks that run at once", "src/lib.rs", broken, "two");
}

#[test]
fn a_project_of_node() {
    let sample = Sample::of(
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
    green_then_red(&sample, "2 tasks that run at once", "prices.js", broken, "test/7.test.js");
}

#[test]
fn a_folder_without_tests_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    refused(&typed(BINARY, &["init"], folder.path()), "has no tests that bettertest knows how to run");
    refused(&typed(BINARY, &["init", "nowhere"], folder.path()), "there is no folder nowhere");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
