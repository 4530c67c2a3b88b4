//! By what names runners are asked for some tests. That they then run these, `stories/failed_tests.rs` sees.

use std::path::Path;

use crate::*;

fn asked(template: &str, runner: Runner, tests: &[&str]) -> Result<String, String> {
    let tests: Vec<String> = tests.iter().map(|name| (*name).to_owned()).collect();
    command_for(template, runner, &tests)
}

#[test]
fn names_are_words_of_a_shell() {
    let pytest = |tests: &[&str]| asked("pytest -v {tests} --color no", Runner::Pytest, tests).unwrap();
    assert_eq!(
        pytest(&["tests/test_a.py::TestX::test_b"]),
        "pytest -v tests/test_a.py::TestX::test_b --color no"
    );
    assert_eq!(
        pytest(&["a.py::t[it's $HOME]", "a.py::t[\\xe9 \"x\"]"]),
        r#"pytest -v 'a.py::t[\xe9 "x"]' 'a.py::t[it'\''s $HOME]' --color no"#
    );
    let cargo = |tests: &[&str]| asked("cargo test -- --exact {tests}", Runner::Cargo, tests);
    assert_eq!(cargo(&["b::two", "a::one", "b::two"]).unwrap(), "cargo test -- --exact a::one b::two");
    assert_eq!(cargo(&["shop::it store::reads"]).unwrap(), "cargo test -- --exact store::reads");
    assert!(cargo(&["src/lib.rs - one (line 3)"]).unwrap_err().contains("documentation"));
    let unittest = asked(
        "{tests}",
        Runner::Unittest,
        &["m.C.test_x (i=1)", "m.C.setUpClass", "unittest.loader._FailedTest.test_m"],
    );
    assert_eq!(unittest.unwrap(), "m.C m.C.test_x test_m");
}

#[test]
fn names_are_one_expression() {
    let go = asked(
        "go test -run {tests:regex} ./...",
        Runner::Go,
        &["example.com/shop.TestA", "example.com/shop.TestA/sub_case", "example.com/shop.Test/b.TestC"],
    );
    // The package of the last has a point, too: what might be meant is taken as well.
    assert_eq!(go.unwrap(), "go test -run '^(Test|TestA)$' ./...".replace("Test|TestA", "Test|TestA|TestC"));
    assert!(asked("{tests:regex}", Runner::Go, &["example.com/shop"]).is_err(), "a package is no test");
    let node = asked("node --test --test-name-pattern={tests:regex}", Runner::Javascript, &["a > one (x)"]);
    assert_eq!(
        node.unwrap(),
        r"node --test --test-name-pattern='(^| )(a( > | )one \(x\))$|^(a|a > one \(x\)|one \(x\))$'"
    );
}

#[test]
fn what_cannot_be_asked_for_is_not_asked_for() {
    let pytest = |tests: &[&str]| asked("pytest {tests}", Runner::Pytest, tests);
    for name in ["-x", "", "a\nb", &"x".repeat(500)] {
        assert!(pytest(&[name]).unwrap_err().starts_with("a test has no name"), "{name}");
    }
    let many: Vec<String> = (0..201).map(|n| format!("a.py::t{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(pytest(&many), Err("more than 200 tests failed".to_owned()));
    assert!(pytest(&many[..200]).is_ok());
    let long: Vec<String> = (0..100).map(|n| format!("{}{n}", "x".repeat(400))).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    assert!(pytest(&long).unwrap_err().contains("more than 32768 bytes"));
    let wrong = asked("pytest -k {tests:regex}", Runner::Pytest, &["a.py::t"]).unwrap_err();
    assert_eq!(wrong, "its runner takes names by {tests}, which its only_tests does not have");
}

/// What real runners printed, each heard as what it is.
#[test]
fn a_runner_is_known_by_what_it_prints() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/runners");
    for (name, runner) in [
        ("pytest.txt", Some(Runner::Pytest)),
        ("unittest.txt", Some(Runner::Unittest)),
        ("cargo.txt", Some(Runner::Cargo)),
        ("go.txt", Some(Runner::Go)),
        ("jest.txt", Some(Runner::Javascript)),
        ("vitest.txt", Some(Runner::Javascript)),
        ("node-spec.txt", Some(Runner::Javascript)),
        ("node-tap.txt", Some(Runner::Tap)),
    ] {
        let mut listener = TestListener::default();
        listener.hear(Stream::Stdout, &std::fs::read(folder.join(name)).unwrap());
        assert_eq!(listener.finish().runner, runner, "{name}");
    }
    let mut both = TestListener::default();
    both.hear(
        Stream::Stdout,
        b"running 1 test\ntest a::b ... ok\ntest result: ok. 1 passed\na.py::b PASSED\n",
    );
    assert_eq!(both.finish().runner, None);
}
