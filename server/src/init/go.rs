//! A project of Go: a task for each top folder of packages, and one for all others.

use std::collections::BTreeMap;

use super::tree::{Part, Tree, groups, quoted};
use super::{Plan, TASKS, Task, counted};

pub(super) fn plan(tree: &Tree) -> Option<Plan> {
    let text = tree.text("go.mod")?;
    let module = text.lines().find_map(|line| line.trim().strip_prefix("module "))?.trim().trim_matches('"');
    let mut tops: BTreeMap<&str, u64> = BTreeMap::new();
    let mut files = 0;
    for (path, bytes) in tree.files().filter(|(path, _)| path.ends_with("_test.go") && !is_ignored(path)) {
        let top = path.split_once('/').map_or(".", |(top, _)| top);
        *tops.entry(top).or_default() += bytes;
        files += 1;
    }
    if files == 0 {
        return None;
    }
    let sums = if tree.has("go.sum") { "go.mod go.sum" } else { "go.mod" };
    Some(Plan {
        saw: format!("Go: go.mod, {}", counted(files, "file of tests", "files of tests")),
        from: "golang:1",
        steps: vec![
            format!("COPY {sums} ./"),
            "RUN go mod download".to_owned(),
            "COPY . .".to_owned(),
            "RUN go build ./...".to_owned(),
        ],
        rebuild_on: ["**/go.mod", "**/go.sum", "go.work*"].map(str::to_owned).to_vec(),
        needs: "go",
        tasks: tasks(module, &tops),
    })
}

/// As Go itself does.
fn is_ignored(path: &str) -> bool {
    path.split('/').any(|part| part == "testdata" || part.starts_with('_'))
}

fn task(name: &str, command: &str) -> Task {
    Task::new(name, command).or_only(command.replace("go test -v ", "go test -v -run {tests:regex} "))
}

fn tasks(module: &str, tops: &BTreeMap<&str, u64>) -> Vec<Task> {
    let parts = tops.iter().map(|(top, bytes)| Part { path: (*top).to_owned(), bytes: *bytes }).collect();
    let mut groups = groups(parts, TASKS);
    // The package of the root cannot be left out by its folder's name: it is part of the rest.
    let rest = groups.iter().position(|group| group.iter().any(|top| top == ".")).unwrap_or(groups.len() - 1);
    groups.remove(rest);
    if groups.is_empty() {
        return vec![task("all", "go test -v ./...")];
    }
    let named: Vec<String> = groups.iter().flatten().map(|top| top.replace('.', "\\.")).collect();
    let mut tasks: Vec<Task> = groups
        .iter()
        .map(|group| {
            let packages: Vec<String> = group.iter().map(|top| quoted(&format!("./{top}/..."))).collect();
            task(&group.join("_"), &format!("go test -v {}", packages.join(" ")))
        })
        .collect();
    let others = format!("^{}/({})(/|$)", module.replace('.', "\\."), named.join("|"));
    // Where the packages cannot be listed, it is no success to have tested none.
    let rest = format!(
        "all=$(go list ./...) && go test -v $(printf '%s\\n' \"$all\" | grep -vE {})",
        quoted(&others)
    );
    tasks.push(task("rest", &rest));
    tasks
}
