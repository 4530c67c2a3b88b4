//! JUnit XML, as test runners write it, read into tests. There is no one form of it: who wrote a file is told by how it
//! looks, so that a test has the name that its runner also prints. Pure: where files come from is not known here.

use common::{TestOutcome, TestResult, Tests};
use roxmltree::{Document, Node, ParsingOptions};
use std::collections::BTreeMap;

/// A report is read as a whole; ten thousand tests make about 2 MiB.
pub(crate) const LONGEST_BYTES: usize = 16 * 1024 * 1024;

const MOST_NODES: u32 = 1_000_000;

/// Suites in suites; each is a call of ours.
const DEEPEST: usize = 64;

/// What wrote a report, as far as that decides how a test is called in it.
#[derive(Clone, Copy)]
enum Writer {
    Pytest,
    Nextest,
    /// Its class is the file, which its lists do not name.
    Vitest,
    /// Its class is the whole name once more.
    Jest,
    /// `node --test`: suites are nested, and all are of one class.
    Node,
    Other,
}

/// The tests of a report; it may be known that pytest wrote it. Why not, as what the file is: `no XML: ...`.
pub(crate) fn read(xml: &[u8], is_pytest: bool) -> Result<Tests, String> {
    if xml.len() > LONGEST_BYTES {
        return Err(format!("longer than {} MiB", LONGEST_BYTES >> 20));
    }
    let text = std::str::from_utf8(xml).map_err(|error| format!("no UTF-8: {error}"))?;
    let options = ParsingOptions { nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text.trim_start(), options)
        .map_err(|error| format!("no XML that can be read: {error}"))?;
    let root = document.root_element();
    if !matches!(root.tag_name().name(), "testsuites" | "testsuite") {
        return Err(format!("no JUnit report: it begins with <{}>", root.tag_name().name()));
    }
    let mut results = Vec::new();
    let writer = if is_pytest { Writer::Pytest } else { writer(root) };
    let files = match writer {
        Writer::Pytest => TestFiles::of(root),
        Writer::Nextest | Writer::Vitest | Writer::Jest | Writer::Node | Writer::Other => {
            TestFiles::default()
        }
    };
    cases(root, &mut Vec::new(), (writer, &files), &mut results)?;
    Ok(Tests::listed(results))
}

fn writer(root: Node) -> Writer {
    let suite = root.children().find(|node| node.has_tag_name("testsuite")).unwrap_or(root);
    let case = root.descendants().find(|node| node.has_tag_name("testcase"));
    match (root.attribute("name"), suite.attribute("name")) {
        (_, Some("pytest")) | (Some("pytest tests"), _) => Writer::Pytest,
        (Some("nextest-run"), _) => Writer::Nextest,
        (Some("vitest tests"), _) => Writer::Vitest,
        (Some("jest tests"), _) => Writer::Jest,
        (None, _) if case.is_some_and(|case| case.attribute("classname") == Some("test")) => Writer::Node,
        (_, _) => Writer::Other,
    }
}

fn cases<'a>(
    node: Node<'a, '_>,
    suites: &mut Vec<&'a str>,
    writer: (Writer, &TestFiles),
    results: &mut Vec<TestResult>,
) -> Result<(), String> {
    for child in node.children() {
        match child.tag_name().name() {
            "testcase" => results.extend(result(child, suites, writer)),
            "testsuite" if suites.len() == DEEPEST => {
                return Err(format!("suites nested more than {DEEPEST} deep"));
            }
            "testsuite" => {
                suites.push(child.attribute("name").unwrap_or_default());
                cases(child, suites, writer, results)?;
                suites.pop();
            }
            _ => {}
        }
    }
    Ok(())
}

fn result(case: Node, suites: &[&str], writer: (Writer, &TestFiles)) -> Option<TestResult> {
    let said = |tag: &str| case.children().find(|node| node.has_tag_name(tag));
    let (outcome, fault) = match (said("error"), said("failure"), said("skipped")) {
        (Some(fault), _, _) => (TestOutcome::Errored, Some(fault)),
        (None, Some(fault), _) => (TestOutcome::Failed, Some(fault)),
        (None, None, Some(_)) => (TestOutcome::Skipped, None),
        (None, None, None) => (TestOutcome::Passed, None),
    };
    let stack =
        fault.map(|fault| fault.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect());
    let stack = stack.map(|text: String| text.trim().to_owned()).filter(|text| !text.is_empty());
    let message = fault.and_then(|fault| fault.attribute("message")).filter(|text| !text.trim().is_empty());
    let message = message.map(str::to_owned).or_else(|| stack.as_deref().map(head));
    Some(TestResult {
        name: name(case, suites, writer)?,
        outcome,
        took_ms: case.attribute("time").and_then(milliseconds),
        message,
        stack,
    })
}

/// What stands before the first frame.
fn head(stack: &str) -> String {
    let is_frame = |line: &&str| ["at ", "❯ "].iter().any(|mark| line.trim_start().starts_with(mark));
    stack.lines().take_while(|line| !is_frame(line)).collect::<Vec<_>>().join("\n")
}

fn name(case: Node, suites: &[&str], (writer, files): (Writer, &TestFiles)) -> Option<String> {
    let name = case.attribute("name").filter(|name| !name.trim().is_empty())?;
    let class = case.attribute("classname").filter(|class| !class.is_empty());
    let other = class.filter(|class| *class != name);
    Some(match (writer, other) {
        (Writer::Pytest, _) => files.pytest(class.unwrap_or_default(), name, case.attribute("file")),
        (Writer::Nextest, Some(binary)) => format!("{binary} {name}"),
        (Writer::Node, _) => suites.iter().chain([&name]).copied().collect::<Vec<_>>().join(" > "),
        (Writer::Other, Some(class)) => format!("{class}.{name}"),
        (Writer::Vitest | Writer::Jest, _) | (Writer::Nextest | Writer::Other, None) => name.to_owned(),
    })
}

/// The files of a report by pytest, by what they are called in the classes of their tests: `tests.test_a`.
#[derive(Default)]
struct TestFiles<'a>(BTreeMap<String, &'a str>);

impl<'a> TestFiles<'a> {
    fn of(root: Node<'a, '_>) -> TestFiles<'a> {
        let mut files = BTreeMap::new();
        for case in root.descendants().filter(|node| node.has_tag_name("testcase")) {
            if let (Some(class), Some(file)) = (case.attribute("classname"), case.attribute("file")) {
                let module = module(file);
                if below(class, &module).is_some() {
                    files.insert(module, file);
                }
            }
        }
        TestFiles(files)
    }

    /// `tests.test_a.TestX`, `test_b` as `tests/test_a.py::TestX::test_b`. The file that stands with a test is where its
    /// function is, which for an inherited one is another; then it is that of other tests of its module, or, as in the newer
    /// form of a report, by pytest's own custom the first part that begins with a capital is a class.
    fn pytest(&self, class: &str, name: &str, file: Option<&str>) -> String {
        let own = file.map(|file| (module(file), file));
        if let Some((module, file)) = &own
            && (module == name && class.is_empty() || *module == format!("{class}.{name}"))
        {
            // One that could not be read: it has no tests.
            return (*file).to_owned();
        }
        let own = own.iter().find_map(|(module, file)| Some((*file, below(class, module)?)));
        let known = || {
            let ends = class.match_indices('.').map(|(at, _)| at).chain([class.len()]);
            let known =
                |end: usize| Some((*self.0.get(&class[..end])?, class[end..].trim_start_matches('.')));
            ends.collect::<Vec<_>>().into_iter().rev().find_map(known)
        };
        let (file, classes) = match own.or_else(known) {
            Some((file, classes)) => (file.to_owned(), classes.to_owned()),
            None => {
                let parts: Vec<&str> = class.split('.').collect();
                let of_file = parts.iter().take_while(|part| !part.starts_with(char::is_uppercase)).count();
                (format!("{}.py", parts[..of_file].join("/")), parts[of_file..].join("."))
            }
        };
        let classes = classes.split('.').filter(|class| !class.is_empty());
        [file.as_str()].into_iter().chain(classes).chain([name]).collect::<Vec<_>>().join("::")
    }
}

fn module(file: &str) -> String {
    file.strip_suffix(".py").unwrap_or(file).replace('/', ".")
}

/// What is left of a class below a module, if it is one of it.
fn below<'a>(class: &'a str, module: &str) -> Option<&'a str> {
    let rest = class.strip_prefix(module)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
}

/// Seconds with a point; some writers put commas between thousands.
fn milliseconds(seconds: &str) -> Option<u64> {
    let seconds: f64 = seconds.replace(',', "").trim().parse().ok()?;
    (0.0..1e9).contains(&seconds).then_some((seconds * 1000.0).round() as u64)
}
