//! Small projects of each kind, and what is written for them: golden files in `snapshots/`.

use std::path::{Path, PathBuf};

use super::{TASKS, init};
use crate::cli::InitArgs;
use crate::error::SetupError;

/// A folder `shop` with these files.
struct Sample(tempfile::TempDir);

impl Sample {
    fn of(files: &[(&str, &str)]) -> Sample {
        let sample = Sample(tempfile::tempdir().unwrap());
        std::fs::create_dir(sample.folder()).unwrap();
        for (path, text) in files {
            sample.put(path, text);
        }
        sample
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("shop")
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.folder().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.folder().join(path)).unwrap()
    }

    fn init(&self) -> Result<String, SetupError> {
        self.init_with(false)
    }

    /// Its folder is another one each time.
    fn init_with(&self, agents: bool) -> Result<String, SetupError> {
        let told = init(&InitArgs { path: self.folder(), agents })?;
        Ok(told.replace(self.0.path().to_str().unwrap(), "/src"))
    }

    /// All that was told and written.
    fn golden(&self) -> String {
        let told = self.init().unwrap();
        let (image, pipedef) = (self.text("Dockerfile"), self.text(".bettertest/pipedef.py"));
        format!("{told}\n-- Dockerfile\n{image}\n-- .bettertest/pipedef.py\n{pipedef}")
    }
}

#[test]
fn python() {
    let sample = Sample::of(&[
        (
            "pyproject.toml",
            "[build-system]\nrequires = ['setuptools-scm']\n[tool.pytest.ini_options]\naddopts = '--cov'\n",
        ),
        (
            "tox.ini",
            "[tox]\n[testenv]\ndeps =\n    pytest\n    hypothesis>=6 # why\n    py38: old\n    -r other.txt\ncommands = pytest\n",
        ),
        ("src/shop/__init__.py", ""),
        ("tests/test_prices.py", "def test_one(): pass"),
        ("tests/test_stock.py", "def test_one(): pass\n\n\n"),
        ("tests/api/test_orders.py", "def test_one(): pass"),
        ("tests/it's here/test_odd.py", "def test_one(): pass"),
        ("tests/conftest.py", ""),
    ]);
    insta::assert_snapshot!(sample.golden());
}

#[test]
fn python_with_requirements_and_an_extra() {
    let sample = Sample::of(&[
        ("setup.cfg", "[options.extras_require]\ndocs = sphinx\ntest =\n  pytest\n[flake8]\n"),
        ("setup.py", ""),
        ("requirements.txt", "click\n"),
        ("test_shop.py", "def test_one(): pass"),
    ]);
    insta::assert_snapshot!(sample.golden());
}

#[test]
fn rust_crate() {
    let sample = Sample::of(&[
        ("Cargo.toml", "[package]\nname = 'shop'\n"),
        ("src/lib.rs", ""),
        ("tests/api.rs", "#[test] fn one() {}"),
        ("tests/prices.rs", "#[test] fn one() {}"),
        ("tests/stock/main.rs", "#[test] fn one() {}"),
        ("tests/stock/part.rs", ""),
    ]);
    insta::assert_snapshot!(sample.golden());
}

#[test]
fn rust_workspace() {
    let sample = Sample::of(&[
        ("Cargo.toml", "[workspace]\nmembers = ['crates/*', 'cli']\n"),
        ("crates/prices/Cargo.toml", "[package]\nname = 'prices'\n"),
        ("crates/prices/src/lib.rs", "// as long as this"),
        ("crates/stock/Cargo.toml", "[package]\nname = 'stock'\n"),
        ("cli/Cargo.toml", "[package]\nname = 'shop-cli'\n"),
        ("examples/else/Cargo.toml", "[package]\nname = 'else'\n"),
    ]);
    insta::assert_snapshot!(sample.golden());
}

#[test]
fn node_that_can_be_split() {
    let package =
        r#"{"scripts": {"test": "npm run lint && npm run unit", "lint": "eslint .", "unit": "jest --ci"}}"#;
    let sample = Sample::of(&[("package.json", package), ("package-lock.json", "{}")]);
    for number in 0..9 {
        sample.put(&format!("src/{number}.test.js"), "");
    }
    sample.put("node_modules/other/src/1.test.js", "");
    insta::assert_snapshot!(sample.golden());
}

#[test]
fn node_that_cannot() {
    let package = r#"{"scripts": {"test": "nyc mocha && eslint .", "posttest": "x", "prepare": "tsc"}}"#;
    let sample = Sample::of(&[("package.json", package), ("yarn.lock", ""), ("test/all.js", "")]);
    insta::assert_snapshot!(sample.golden());
}

#[test]
fn go() {
    let sample = Sample::of(&[
        ("go.mod", "module example.org/shop\n\ngo 1.22\n"),
        ("shop_test.go", "package shop"),
        ("prices/deep/prices_test.go", "package prices"),
        ("stock/stock_test.go", "package stock"),
        ("stock/testdata/x_test.go", "package x"),
    ]);
    insta::assert_snapshot!(sample.golden());
}

#[test]
fn make() {
    let sample =
        Sample::of(&[("Makefile", "CC := gcc\nall: shop\n\ntests: x\ncheck test: shop\n\t./shop --test\n")]);
    insta::assert_snapshot!(sample.golden());
}

/// Nor is anything written through a link.
#[test]
fn what_is_there_stays() {
    let sample = Sample::of(&[
        ("pyproject.toml", ""),
        ("test_a.py", ""),
        ("Makefile", "test:\n\ttrue\n"),
        ("Dockerfile", "FROM mine\n"),
        ("AGENTS.md", "Be kind."),
    ]);
    std::fs::create_dir(sample.folder().join(".bettertest")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", sample.folder().join(".bettertest/pipedef.py")).unwrap();
    insta::assert_snapshot!(sample.init_with(true).unwrap(), @"
    saw    Python: pyproject.toml, 1 file of tests
    saw    Make: Makefile with the target test  left out: give it tasks of its own
    there  .bettertest/pipedef.py  left as it is
    there  Dockerfile              left as it is; its image needs pytest
    wrote  AGENTS.md               how an agent runs the tests
    next   cd /src/shop && bettertest run  builds the image, then tests
    ");
    assert_eq!(sample.text("Dockerfile"), "FROM mine\n");
    assert!(!sample.folder().join("elsewhere").exists() && !sample.folder().join(".dockerignore").exists());
    let agents = sample.text("AGENTS.md");
    assert!(
        agents.starts_with("Be kind.\n\n<!-- bettertest: begin -->\n# bettertest, for an agent"),
        "{agents}"
    );
    let again = sample.init_with(true).unwrap();
    assert!(again.contains("there  AGENTS.md"), "{again}");
    assert_eq!(sample.text("AGENTS.md"), agents);
}

#[test]
fn nothing_known_is_refused_and_nothing_written() {
    let sample = Sample::of(&[("README.md", "hello"), ("Cargo.toml", "not [ toml"), ("package.json", "[]")]);
    let refused = sample.init().unwrap_err();
    assert!(refused.error.contains("has no tests that bettertest knows how to run"), "{refused}");
    assert_eq!(std::fs::read_dir(sample.folder()).unwrap().count(), 3);
    let told = sample.init_with(true).unwrap();
    assert_eq!(told.lines().count(), 1, "agents alone can be told: {told}");
    let refused =
        init(&InitArgs { path: Path::new("/nowhere at all").to_owned(), agents: false }).unwrap_err();
    assert!(refused.error.contains("/nowhere at all"), "{refused}");
}

#[test]
fn many_files_make_few_tasks_and_none_is_left_out() {
    let sample = Sample::of(&[("pyproject.toml", "")]);
    let names: Vec<String> = (0..50).map(|number| format!("tests/test_{number}.py")).collect();
    for name in &names {
        sample.put(name, "def test_one(): pass\n");
    }
    sample.init().unwrap();
    let pipedef = sample.text(".bettertest/pipedef.py");
    assert_eq!(pipedef.matches("def task_").count(), 1 + TASKS);
    let (_, rest) = pipedef.split_once("def task_rest").unwrap();
    for name in names {
        let named =
            pipedef.matches(&format!(" {name}")).count() + pipedef.matches(&format!("={name}")).count();
        // Either a task names it and the rest leaves it out, or neither does.
        assert_eq!(named, if rest.contains(&name) { 2 } else { 0 }, "{name} in {pipedef}");
    }
}

/// What later lies between the names that there were is run as well.
#[test]
fn letters_of_test_files_leave_no_gap() {
    let sample = Sample::of(&[("Cargo.toml", "[package]\nname = 'shop'\n"), ("src/lib.rs", "")]);
    for name in ["alpha", "beta", "kappa", "omega", "tau"] {
        sample.put(&format!("tests/{name}.rs"), "#[test] fn one() {}\n");
    }
    sample.init().unwrap();
    let pipedef = sample.text(".bettertest/pipedef.py");
    let commands = pipedef.lines().filter(|line| !line.contains("only_tests="));
    let globs: Vec<&str> = commands.filter_map(|line| Some(line.split_once("--test '")?.1)).collect();
    assert!(globs.len() > 1, "{globs:?}");
    for letter in 'A'..='z' {
        let takes = |glob: &&&str| match glob.as_bytes() {
            [b'[', b'!', first, b'-', last, ..] => !(*first..=*last).contains(&(letter as u8)),
            [b'[', first, b'-', last, ..] => (*first..=*last).contains(&(letter as u8)),
            other => panic!("{other:?}"),
        };
        assert_eq!(globs.iter().filter(takes).count(), 1, "{letter} in {globs:?}");
    }
}

/// An editable install is made of what is named; one that runs code of the project may be made of anything.
#[test]
fn an_image_is_made_anew_for_what_it_is_made_of() {
    let rebuild_on = |files: &[(&str, &str)]| {
        let sample = Sample::of(files);
        sample.init().unwrap();
        let pipedef = sample.text(".bettertest/pipedef.py");
        let call = pipedef.split_once("        build(").unwrap().1.split_once("\n\n").unwrap().0.to_owned();
        call.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    let python = |pyproject: &str, setup: &str| {
        rebuild_on(&[
            ("pyproject.toml", pyproject),
            ("setup.py", setup),
            ("shop/fast.pyx", ""),
            ("native/Cargo.toml", ""),
            ("test_shop.py", ""),
        ])
    };
    let made = "**/*.pyx **/Cargo.toml *requirements* pyproject*.toml setup.*";
    assert_eq!(python("[project]\nname = 'shop'\nversion = '1'\n", ""), made);
    assert!(python("[project]\nname = 'shop'\ndynamic = ['version']\n", "").contains("**/__init__.py"));
    for (pyproject, setup) in [
        ("[project]\nname = 'shop'\n[tool.hatch.build.targets.wheel.hooks.custom]\n", ""),
        ("[build-system]\nbackend-path = ['.']\n", ""),
        ("", "setup(cmdclass={'build': Ours})"),
    ] {
        assert_eq!(python(pyproject, setup), "", "{pyproject} {setup}");
    }
    let node = |scripts: &str, more: &str| {
        let package = format!(r#"{{"scripts": {{"test": "node --test"{scripts}}}}}"#);
        rebuild_on(&[("package.json", package.as_str()), ("yarn.lock", ""), (more, ""), ("a.test.js", "")])
    };
    let named = "**/package.json yarn.lock .yarnrc* .npmrc*";
    assert_eq!(node("", "x"), named);
    assert_eq!(node(r#", "prepare": "husky install""#, "x"), named);
    assert_eq!(node(r#", "prepare": "husky install && tsc""#, "x"), "");
    assert_eq!(node("", "binding.gyp"), "");
    // What only names the files that there are is not of a project that is installed.
    assert_eq!(
        rebuild_on(&[("requirements.txt", ""), ("tests/requirements.txt", ""), ("test_a.py", "")]),
        "*requirements* tests/*requirements*"
    );
}
