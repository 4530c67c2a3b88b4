//! JUnit XML, as test runners write it, read into tests. There is no one form of it: who wrote a file is told by how it
//! looks, so that a test has the name that its runner also prints. Pure: where files come from is not known here.

use common::{TestOutcome, TestResult, Tests};
use roxmltree::{Document, Node, ParsingOptions};

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

/// The tests of a report. Why not, as what the file is: `no XML: ...`.
pub(crate) fn read(xml: &[u8]) -> Result<Tests, String> {
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
    cases(root, &mut Vec::new(), writer(root), &mut results)?;
    Ok(Tests::listed(results))
}

fn writer(root: Node) -> Writer {
    let suite = root.children().find(|node| node.has_tag_name("testsuite")).unwrap_or(root);
    let case = root.descendants().find(|node| node.has_tag_name("testcase"));
    match (root.attribute("name"), suite.attribute("name")) {
        (_, Some("pytest")) => Writer::Pytest,
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
    writer: Writer,
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

fn result(case: Node, suites: &[&str], writer: Writer) -> Option<TestResult> {
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

fn name(case: Node, suites: &[&str], writer: Writer) -> Option<String> {
    let name = case.attribute("name").filter(|name| !name.trim().is_empty())?;
    let class = case.attribute("classname").filter(|class| !class.is_empty() && *class != name);
    Some(match (writer, class) {
        (Writer::Pytest, Some(class)) => pytest(class, name, case.attribute("file")),
        (Writer::Nextest, Some(binary)) => format!("{binary} {name}"),
        (Writer::Node, _) => suites.iter().chain([&name]).copied().collect::<Vec<_>>().join(" > "),
        (Writer::Other, Some(class)) => format!("{class}.{name}"),
        (Writer::Vitest | Writer::Jest, _) | (Writer::Pytest | Writer::Nextest | Writer::Other, None) => {
            name.to_owned()
        }
    })
}

/// `tests.test_a.TestX`, `test_b` as `tests/test_a.py::TestX::test_b`. The newer form of a report does not name the file;
/// by pytest's own custom the first part that begins with a capital is a class.
fn pytest(class: &str, name: &str, file: Option<&str>) -> String {
    let parts: Vec<&str> = class.split('.').collect();
    let of_file = match file {
        Some(file) => {
            let folders = file.split('/').count();
            let module = file.trim_end_matches(".py").replace('/', ".");
            if class == module || class.starts_with(&format!("{module}.")) {
                // A folder's name may have a point itself.
                folders.max(module.split('.').count())
            } else {
                parts.len()
            }
        }
        None => parts.iter().take_while(|part| !part.starts_with(char::is_uppercase)).count(),
    };
    let file = match file {
        Some(file) => file.to_owned(),
        None => format!("{}.py", parts[..of_file].join("/")),
    };
    let classes = parts.iter().skip(of_file).copied();
    [file.as_str()].into_iter().chain(classes).chain([name]).collect::<Vec<_>>().join("::")
}

/// Seconds with a point; some writers put commas between thousands.
fn milliseconds(seconds: &str) -> Option<u64> {
    let seconds: f64 = seconds.replace(',', "").trim().parse().ok()?;
    (0.0..1e9).contains(&seconds).then_some((seconds * 1000.0).round() as u64)
}
