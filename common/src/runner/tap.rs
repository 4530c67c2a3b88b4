//! TAP, version 12 to 14, as many runners can print it; `node --test` counts in remarks at its end.

use super::found::{Block, Found};
use crate::{TestCounts, TestOutcome};

#[derive(Debug, Clone, Default)]
pub(super) struct Tap {
    found: Found,
    counts: TestCounts,
    /// A version or a plan was there: what else begins with `ok` is no test.
    has_begun: bool,
    has_plan: bool,
    /// As node counts, where it does: without the suites, which are lines like those of tests.
    node: Option<TestCounts>,
    /// In the details of this test.
    detailed: Option<String>,
    block: Block,
    /// Node's subtests that are open, with how deep each stands, and whether one lies in it.
    within: Vec<(usize, String, bool)>,
}

impl Tap {
    pub(super) fn line(&mut self, line: &str) {
        let text = line.trim_start();
        if let Some(name) = self.detailed.take() {
            match text {
                "---" => {}
                "..." => return self.end_details(&name),
                _ if !line.starts_with(' ') => self.end_details(&name),
                _ => self.block.line(line),
            }
            if line.starts_with(' ') {
                self.detailed = Some(name);
                return;
            }
        }
        if let Some(name) = text.strip_prefix("# Subtest: ") {
            let depth = line.len() - text.len();
            self.within.retain(|(outer, ..)| *outer < depth);
            self.within.iter_mut().for_each(|(_, _, has_more)| *has_more = true);
            if self.within.len() < 50 {
                self.within.push((depth, name.trim_end().to_owned(), false));
            }
        } else if line.starts_with("TAP version ") {
            self.has_begun = true;
        } else if let Some(plan) = line.strip_prefix("1..") {
            let is_plan = plan.split(' ').next().is_some_and(|plan| plan.parse::<u64>().is_ok());
            self.has_begun |= is_plan;
            self.has_plan |= is_plan;
        } else if let Some(remark) = line.strip_prefix("# ").filter(|_| self.has_begun) {
            self.remark(remark);
        } else if self.has_begun {
            self.test(line, text);
        }
    }

    fn remark(&mut self, remark: &str) {
        let Some((word, number)) = remark.split_once(' ') else { return };
        let Ok(number) = number.parse() else { return };
        let outcome = match word {
            "pass" => TestOutcome::Passed,
            "fail" | "cancelled" => TestOutcome::Failed,
            "skipped" | "todo" => TestOutcome::Skipped,
            _ => return,
        };
        self.node.get_or_insert_default().count(outcome, number);
    }

    fn test(&mut self, line: &str, text: &str) {
        let (rest, is_ok) = match (text.strip_prefix("ok "), text.strip_prefix("not ok ")) {
            (Some(rest), _) => (rest, true),
            (None, Some(rest)) => (rest, false),
            (None, None) => return,
        };
        let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
        if number.parse::<u64>().is_err() {
            return;
        }
        let (name, directive) = name.split_once(" # ").unwrap_or((name, ""));
        let name = name.trim_start_matches("- ").trim();
        let name = if name.is_empty() { format!("test {number}") } else { name.to_owned() };
        let directive = directive.to_ascii_uppercase();
        let outcome = if directive.starts_with("SKIP") || directive.starts_with("TODO") {
            TestOutcome::Skipped
        } else if is_ok {
            TestOutcome::Passed
        } else {
            TestOutcome::Failed
        };
        let depth = line.len() - text.len();
        self.within.retain(|(outer, ..)| *outer <= depth);
        if let Some((_, _, is_suite)) =
            self.within.pop_if(|(outer, open, _)| *outer == depth && *open == name)
            && is_suite
        {
            return;
        }
        let names: Vec<_> = self.within.iter().map(|(_, outer, _)| outer.as_str()).chain([&*name]).collect();
        let name = names.join(" > ");
        self.found.test(&name, outcome, None);
        // What is nested counts by what it is nested in.
        if depth == 0 {
            self.counts.count(outcome, 1);
        }
        self.detailed = (outcome == TestOutcome::Failed).then_some(name);
    }

    fn end_details(&mut self, name: &str) {
        let block = std::mem::take(&mut self.block);
        let field = |line: &str| {
            let (key, value) = line.trim().split_once(": ")?;
            let value = value.trim_matches(['\'', '"']);
            (matches!(key, "error" | "message") && !value.starts_with(['|', '>'])).then(|| value.to_owned())
        };
        let folded =
            |line: &str| matches!(line.trim(), "error: |-" | "error: |" | "message: |-" | "error: >-");
        let message = block.find(field).or_else(|| {
            let mut lines = block.text().lines().skip_while(|line| !folded(line));
            let deep = |line: &str| line.len() - line.trim_start().len();
            let depth = deep(lines.next()?);
            let text: Vec<_> = lines.take_while(|line| deep(line) > depth).map(str::trim).collect();
            Some(text.join("\n"))
        });
        self.found.failure(name, message.as_deref(), Some(block.text()));
    }

    pub(super) fn finish(mut self) -> Found {
        if let Some(name) = self.detailed.take() {
            self.end_details(&name);
        }
        if self.has_plan {
            self.found.close(self.node.unwrap_or(self.counts));
        }
        self.found
    }
}
