//! Reports as runners wrote them (pytest 9, node 20, jest 30 with jest-junit, vitest 4), and some as others document theirs.
//! A test's name has to be the one that the same runner prints, as `common/src/tests/runners` has it.

use common::{Stream, TestCounts, TestListener, TestOutcome, TestResult, Tests};
use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::boss::junit::read;

fn told(xml: &str) -> String {
    let Tests { counts, results, omitted } = read(xml.as_bytes(), false).unwrap();
    assert_eq!(omitted, 0);
    let mut text = format!("{}\n", counts.words());
    for result in results {
        writeln!(text, "{} {}", result.outcome.word(), result.name).unwrap();
        for line in result.message.iter().flat_map(|message| message.lines()) {
            writeln!(text, "    {line}").unwrap();
        }
        assert_eq!(result.stack.is_some(), result.outcome.is_bad(), "{}", result.name);
        assert!(result.took_ms.is_some(), "{}", result.name);
    }
    text
}

#[test]
fn of_pytest_with_its_files() {
    insta::assert_snapshot!(told(include_str!("junit/pytest-xunit1.xml")), @r#"
    4 failed, 2 skipped, 4 passed
    failed tests/test_a.py::test_bad
        AssertionError: assert {'a': 1} == {'a': 2}
          
          Differing items:
          {'a': 1} != {'a': 2}
          Use -v to get more diff
    errored tests/test_a.py::test_setup
        failed on setup with "ValueError: no such thing"
    errored tests/test_a.py::test_teardown
        failed on teardown with "ValueError: at the end"
    failed tests/test_a.py::TestThings::test_text[x PASSED []
        AssertionError: assert 'x PASSED [' == 'b'
          
          - b
          + x PASSED [
    passed tests/test_a.py::test_good
    skipped tests/test_a.py::test_skipped
    skipped tests/test_a.py::test_known
    passed tests/test_a.py::TestThings::test_text[b]
    passed tests/test_a.py::TestThings::TestInner::test_deep
    passed tests/test_a.py::Old::test_sub
    "#);
}

/// What it writes unless it is asked for the older form.
#[test]
fn of_pytest_without_its_files() {
    assert_eq!(told(include_str!("junit/pytest-xunit2.xml")), told(include_str!("junit/pytest-xunit1.xml")));
}

/// What the same run of pytest (`-v`, with `--doctest-modules`) printed and wrote: classes without a capital and files with
/// one, inherited tests, parameters that hold anything, a file that cannot be read.
#[test]
fn a_test_has_one_name_whoever_tells_of_it() {
    let mut listener = TestListener::default();
    listener.hear(Stream::Stdout, include_bytes!("junit/pytest-odd.txt"));
    let printed = listener.finish().tests;
    let xml = include_str!("junit/pytest-odd.xml");
    let names = |tests: &Tests| {
        let told = tests.results.iter().map(|test| (test.name.clone(), test.outcome));
        told.collect::<BTreeMap<String, TestOutcome>>()
    };
    let written = read(xml.as_bytes(), true).unwrap();
    let (mut heard, listed) = (names(&printed), names(&written));
    assert_eq!((listed.len(), written.counts.total()), (24, 24));
    // A test of unittest whose subtest failed is one that passed, as pytest prints it.
    let sub = "sub.dir/lower/test_odd.py::testsmall::test_u";
    assert_eq!((heard[sub], listed[sub]), (TestOutcome::Passed, TestOutcome::Failed));
    heard.insert(sub.to_owned(), TestOutcome::Failed);
    assert_eq!(heard, listed);
    // However the settings call the suite.
    let renamed = xml.replace("name=\"pytest\"", "name=\"mine\"").replace("name=\"pytest tests\"", "");
    assert_eq!(read(renamed.as_bytes(), true).unwrap(), written);
}

#[test]
fn of_node() {
    insta::assert_snapshot!(told(include_str!("junit/node.xml")), @r#"
    2 failed, 2 skipped, 2 passed
    failed bad
        Expected values to be strictly equal:2 !== 3
    failed sums > takes away
        it does not
    passed good
    passed sums > adds
    skipped later
    skipped some day
    "#);
}

#[test]
fn of_jest_and_vitest() {
    insta::assert_snapshot!(told(include_str!("junit/jest.xml")), @r#"
    2 failed, 1 skipped, 2 passed
    failed bad
        Error: expect(received).toEqual(expected) // deep equality
        
        - Expected  - 1
        + Received  + 1
        
          Object {
        -   "a": 2,
        +   "a": 1,
          }
    failed sums takes away
        Error: it does not
    passed good
    passed sums adds
    skipped later
    "#);
    insta::assert_snapshot!(told(include_str!("junit/vitest.xml")), @r#"
    2 failed, 1 skipped, 2 passed
    failed bad
        expected { a: 1 } to deeply equal { a: 2 }
    failed sums > takes away
        it does not
    passed good
    passed sums > adds
    skipped later
    "#);
}

#[test]
fn of_nextest_go_and_java() {
    let nextest = r#"<testsuites name="nextest-run" tests="1"><testsuite name="store::bin/store">
        <testcase name="tests::bad" classname="store::bin/store" time="0.005">
        <failure type="test failure with exit code 101">thread 'tests::bad' panicked at src/lib.rs:3:5:
it is bad</failure></testcase></testsuite></testsuites>"#;
    insta::assert_snapshot!(told(nextest), @r#"
    1 failed
    failed store::bin/store tests::bad
        thread 'tests::bad' panicked at src/lib.rs:3:5:
        it is bad
    "#);
    let go = r#"<testsuites><testsuite name="example.org/sums">
        <testcase classname="example.org/sums" name="TestMany/one" time="0.010"/></testsuite></testsuites>"#;
    insta::assert_snapshot!(told(go), @r#"
    1 passed
    passed example.org/sums.TestMany/one
    "#);
    let java = r#"<testsuite name="org.x.SumsTest"><testcase classname="org.x.SumsTest" name="adds" time="1,000.5">
        <error message="no such thing" type="E"><![CDATA[E: no such thing
  at org.x.SumsTest.adds(SumsTest.java:7)]]></error></testcase></testsuite>"#;
    insta::assert_snapshot!(told(java), @r#"
    1 failed
    errored org.x.SumsTest.adds
        no such thing
    "#);
}

#[test]
fn what_is_no_report_is_refused_by_what_it_is() {
    let deep = format!("<testsuites>{}{}</testsuites>", "<testsuite>".repeat(65), "</testsuite>".repeat(65));
    let bomb =
        r#"<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]><testsuites name="&b;"/>"#;
    let refused: Vec<String> = [
        "",
        "tests passed: 5",
        "<html/>",
        "<testsuites><testcase name='cut off'",
        &deep,
        bomb,
        "<testsuites name='\u{1}'/>",
    ]
    .iter()
    .map(|xml| read(xml.as_bytes(), false).unwrap_err())
    .chain([read(b"<testsuites>\xff</testsuites>", false).unwrap_err()])
    .collect();
    insta::assert_snapshot!(refused.join("\n"), @r#"
    no XML that can be read: the document does not have a root node
    no XML that can be read: unknown token at 1:1
    no JUnit report: it begins with <html>
    no XML that can be read: the root node was opened but never closed
    suites nested more than 64 deep
    no XML that can be read: XML with DTD detected
    no XML that can be read: a non-XML character '\u{1}' found at 1:19
    no UTF-8: invalid utf-8 sequence of 1 bytes from index 12
    "#);
}

fn test(name: &str, outcome: TestOutcome) -> TestResult {
    TestResult { name: name.to_owned(), outcome, took_ms: None, message: None, stack: None }
}

/// A list of all tests is believed rather than what was heard of some, but never hides one that only was heard.
#[test]
fn a_report_and_what_was_heard() {
    let report = Tests::listed([test("a", TestOutcome::Passed), test("b", TestOutcome::Failed)]);
    let heard = |counts, results| Tests { counts, results, omitted: 0 };
    let two = TestCounts { passed: 2, ..TestCounts::default() };
    let known = heard(two, vec![test("b", TestOutcome::Passed)]);
    assert_eq!(report.clone().rather_than(known), report);

    // A second runner wrote its report where the first one had.
    let four = TestCounts { passed: 2, failed: 2, ..TestCounts::default() };
    let more = heard(four, vec![test("c", TestOutcome::Failed), test("b", TestOutcome::Failed)]);
    let both = report.rather_than(more);
    assert_eq!(both.counts, four);
    let names: Vec<_> = both.results.iter().map(|result| result.name.as_str()).collect();
    assert_eq!(names, ["b", "c", "a"]);
}
