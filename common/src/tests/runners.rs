//! What real runners printed, and what is made of it: `runners/NAME.txt` is the output as it was, `NAME.told` what
//! has to be heard in it. Versions: pytest 8.4, Python 3.11, cargo 1.9x, go 1.19, node 20, jest 30, vitest 4.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::{StepTests, Stream, TestListener, Tests, frames};

fn heard(output: &[u8], at_once: usize) -> StepTests {
    let mut listener = TestListener::default();
    output.chunks(at_once).for_each(|bytes| listener.hear(Stream::Stdout, bytes));
    listener.finish()
}

/// As a text that a person can compare.
fn told(heard: &StepTests) -> String {
    let Tests { counts, results, omitted } = &heard.tests;
    let mut text = format!("{}\n", counts.words());
    if heard.ran_none {
        text.push_str("ran none\n");
    }
    assert_eq!(*omitted, 0);
    for result in results {
        writeln!(text, "{} {}", result.outcome.word(), result.name).unwrap();
        for line in result.message.iter().flat_map(|message| message.lines()) {
            writeln!(text, "    {line}").unwrap();
        }
        assert_eq!(result.message.is_some(), result.stack.is_some(), "{}", result.name);
    }
    text
}

#[test]
fn real_runners_are_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/runners");
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|end| end == "txt"));
    names.sort();
    assert!(names.len() >= 18, "{names:?}");
    let mut wrong = Vec::new();
    for path in names {
        let output = fs::read(&path).unwrap();
        let whole = heard(&output, output.len());
        assert_eq!(whole, heard(&output, 7), "{}: however it comes in pieces", path.display());
        let wanted = fs::read_to_string(path.with_extension("told")).unwrap_or_default();
        if told(&whole) != wanted {
            wrong.push(format!("{}:\n{}", path.display(), told(&whole)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The place of each failure in the project's own files, as real runners print it.
#[test]
fn real_runners_say_where() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/runners");
    for (name, wanted) in [
        (
            "pytest.txt",
            &["test_a.py:7 in test_bad", "test_a.py:17 in test_text", "test_a.py:20 in broken"][..],
        ),
        ("unittest.txt", &["/project/py/case.py:8 in test_described", "/project/py/case.py:5 in test_bad"]),
        ("cargo.txt", &["src/lib.rs:8"]),
        ("go.txt", &["sums_test.go:6", "sums_test.go:10"]),
        ("jest.txt", &["a.test.js:2 in Object.toEqual", "a.test.js:3"]),
        ("vitest.txt", &["a.test.mjs:3", "a.test.mjs:4"]),
        ("node-spec.txt", &["/project/js/a.test.js:3", "/project/js/a.test.js:4"]),
        ("node-tap.txt", &["/project/js/a.test.js:3", "/project/js/a.test.js:4"]),
    ] {
        let output = fs::read(folder.join(name)).unwrap();
        let results = heard(&output, output.len()).tests.results;
        let stacks = results.iter().filter_map(|result| result.stack.as_deref());
        let first = stacks.filter_map(|stack| frames(stack).into_iter().next());
        let told = first.map(|frame| match frame.within {
            Some(within) => format!("{}:{} in {within}", frame.path, frame.line),
            None => format!("{}:{}", frame.path, frame.line),
        });
        assert_eq!(told.collect::<Vec<_>>(), wanted, "{name}");
    }
}

#[test]
fn names_without_end_are_counted_and_not_kept() {
    let output: String = (0..30_000).map(|n| format!("test_{n}.py::test_x FAILED [  1%]\n")).collect();
    let heard = heard(output.as_bytes(), 64 * 1024);
    assert_eq!((heard.tests.results.len(), heard.tests.omitted), (20_000, 10_000));
}

#[test]
fn a_long_name_of_pytest_has_little_around_it() {
    let long = format!("test_x[{}]", "long ".repeat(20));
    let output = format!(
        "=== FAILURES ===\n_ {long} _\n    def test_x():\n>       1 / 0\n_ _ _ _ _ _\nE   ZeroDivisionError: none\n\
         === short test summary info ===\nFAILED test_a.py::{long}\n=== 1 failed in 0.1s ===\n"
    );
    assert_eq!(
        heard(output.as_bytes(), 9).tests.results[0].message.as_deref(),
        Some("ZeroDivisionError: none")
    );
}

#[test]
fn what_is_no_test_runner_says_nothing() {
    let output = "linting\nok 1 - is no TAP without a plan\nrunning the tests\n3 problems in 0.1 ms\nOK\n";
    assert_eq!(heard(output.as_bytes(), 5), StepTests::default());
}

proptest::proptest! {
    #[test]
    fn no_output_is_too_odd(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..60)) {
        let output = words.concat();
        frames(&output);
        proptest::prop_assert_eq!(heard(output.as_bytes(), 3), heard(output.as_bytes(), 1000));
    }
}

const WORDS: &[&str] = &[
    "=",
    "===",
    "_",
    "____ ",
    "FAILURES",
    "\n",
    "\n",
    "\n",
    " ",
    "    ",
    "::",
    " PASSED",
    " FAILED",
    "[gw0] [ 1%] ",
    "FAILED ",
    "ERROR: ",
    " - ",
    "E   ",
    "1 passed",
    " in ",
    "0.1s",
    "test ",
    " ... ",
    "ok",
    "FAILED",
    "running 1 test",
    "---- ",
    " stdout ----",
    "test result: ok. ",
    "--- FAIL: ",
    " (0.00s)",
    "=== RUN   ",
    "ok  \t",
    "{\"Action\":",
    "● ",
    "✔ ",
    "✖ ",
    "ℹ tests 1",
    "Tests:  ",
    "1 total",
    "TAP version 13",
    "1..0",
    "not ok 1",
    "  ---",
    "# Subtest: ",
    "\u{1b}[",
    "\u{1b}]",
    "\r",
    "é",
    "a.py:7:",
    "File \"",
    "\tat ",
    ":1 +0x",
    "Summary [ 0.1s] ",
    "PASS [ 0.1s] (1/2) a b",
    "Ran 0 tests in ",
    "OK (skipped=1)",
    "(",
    ")",
    "test_x (m.C.test_x)",
    "======================================================================",
];
