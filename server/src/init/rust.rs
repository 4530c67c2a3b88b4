//! A project of Rust: a task for each crate of a workspace, in groups where there are many, or of one crate for its
//! own tests and for its files of tests. What is added later is in one of them: the last takes all other crates, and
//! files of tests go by their first letters.

use std::collections::BTreeMap;

use super::tree::{Part, Tree, groups, quoted};
use super::{Plan, TASKS, Task, counted};

/// Each has to link the crate anew, so that many are no gain.
const FILE_TASKS: usize = 4;

pub(super) fn plan(tree: &Tree) -> Option<Plan> {
    let manifest = tree.toml("Cargo.toml")?;
    let crates = crates(tree);
    let (tasks, saw) = if crates.len() > 1 {
        (of_workspace(&crates), format!("Rust: Cargo.toml, {} crates", crates.len()))
    } else {
        let files = files_of_tests(tree);
        let count = counted(files.len(), "file of tests", "files of tests");
        let has_lib = tree.has("src/lib.rs") || manifest.contains_key("lib");
        // One that names its tests itself may have them anywhere.
        let is_plain = has_lib && !manifest.contains_key("workspace") && !manifest.contains_key("test");
        let tasks = if is_plain { of_crate(&files) } else { vec![task("all", "cargo test")] };
        (tasks, format!("Rust: Cargo.toml, 1 crate, {count}"))
    };
    // Built as each task will ask for it: the features of what a crate needs depend on what else is asked for.
    let mut builds: Vec<String> = Vec::new();
    for task in &tasks {
        let build = task.command.split(" && ").next().unwrap_or(&task.command);
        builds.push(format!("{build} --no-run"));
    }
    let mut steps = vec!["COPY . .".to_owned()];
    steps.push(format!("RUN {}", builds.join(" \\\n    && ")));
    let rebuild_on =
        ["**/Cargo.toml", "**/Cargo.lock", "rust-toolchain*", ".cargo/*"].map(str::to_owned).to_vec();
    Some(Plan { saw, from: "rust:slim", steps, rebuild_on, needs: "cargo", tasks })
}

/// Tests of the documentation, which a second command runs, cannot be asked for alone.
fn task(name: &str, command: &str) -> Task {
    let first = command.split(" && ").next().unwrap_or(command);
    Task::new(name, command).or_only(format!("{first} -- --exact {{tests}}"))
}

/// The crates below this folder that have a name, with how much code they have. Those which the workspace leaves
/// out have none of their own in it; `cargo` knows, and says so for `-p`.
fn crates(tree: &Tree) -> BTreeMap<String, u64> {
    let manifests = tree.files().filter(|(path, _)| *path == "Cargo.toml" || path.ends_with("/Cargo.toml"));
    let mut found = BTreeMap::new();
    let members = members(tree);
    for (path, _) in manifests {
        let folder = path.trim_end_matches("Cargo.toml").trim_end_matches('/');
        if !members.iter().any(|member| is_like(folder, member)) {
            continue;
        }
        let name = tree.toml(path).and_then(|manifest| {
            Some(manifest.get("package")?.as_table()?.get("name")?.as_str()?.to_owned())
        });
        if let Some(name) = name {
            let below = |file: &str| folder.is_empty() || file.starts_with(&format!("{folder}/"));
            let code = tree.files().filter(|(file, _)| below(file) && file.ends_with(".rs"));
            found.insert(name, code.map(|(_, bytes)| bytes).sum());
        }
    }
    found
}

/// Folders, as the workspace names them; the root's own crate is one.
fn members(tree: &Tree) -> Vec<String> {
    let mut members = vec![String::new()];
    let manifest = tree.toml("Cargo.toml").unwrap_or_default();
    let workspace = manifest.get("workspace").and_then(|workspace| workspace.as_table());
    let listed = workspace.and_then(|workspace| workspace.get("members")?.as_array());
    let named = listed.into_iter().flatten().filter_map(|member| member.as_str());
    members.extend(named.map(|member| member.trim_matches('/').to_owned()));
    members
}

/// With `*` for any one folder, as in `crates/*`.
fn is_like(folder: &str, member: &str) -> bool {
    let (folder, member) = (folder.split('/'), member.split('/'));
    folder.clone().count() == member.clone().count()
        && folder.zip(member).all(|(name, like)| match like.split_once('*') {
            Some((before, after)) => name.starts_with(before) && name.ends_with(after),
            None => name == like,
        })
}

fn of_workspace(crates: &BTreeMap<String, u64>) -> Vec<Task> {
    let parts = crates.iter().map(|(name, bytes)| Part { path: name.clone(), bytes: *bytes }).collect();
    let mut groups = groups(parts, TASKS);
    groups.pop();
    let flags = |flag: &str, names: &mut dyn Iterator<Item = &String>| {
        names.map(|name| format!(" {flag} {}", quoted(name))).collect::<String>()
    };
    let mut tasks: Vec<Task> = groups
        .iter()
        .map(|group| task(&group.join("_"), &format!("cargo test{}", flags("-p", &mut group.iter()))))
        .collect();
    let others = flags("--exclude", &mut groups.iter().flatten());
    tasks.push(task("rest", &format!("cargo test --workspace{others}")));
    tasks
}

/// The names that cargo gives to them.
fn files_of_tests(tree: &Tree) -> Vec<Part> {
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for (path, bytes) in tree.files() {
        let Some(name) = path.strip_prefix("tests/") else { continue };
        let name = name.strip_suffix("/main.rs").or_else(|| name.strip_suffix(".rs"));
        if let Some(name) = name.filter(|name| !name.contains('/')) {
            *found.entry(name).or_default() += bytes;
        }
    }
    found.into_iter().map(|(name, bytes)| Part { path: name.to_owned(), bytes }).collect()
}

fn of_crate(files: &[Part]) -> Vec<Task> {
    if files.is_empty() {
        return vec![task("all", "cargo test")];
    }
    let mut tasks = vec![task("unit", "cargo test --lib --bins && cargo test --doc")];
    for (name, glob) in ranges(files) {
        tasks.push(task(&name, &format!("cargo test --test {}", quoted(&glob))));
    }
    tasks
}

/// Names and globs, by first letters. The last takes whatever the others do not.
fn ranges(files: &[Part]) -> Vec<(String, String)> {
    let mut by_letter: BTreeMap<char, u64> = BTreeMap::new();
    for file in files {
        let first = file.path.chars().next().unwrap_or_default();
        *by_letter.entry(first).or_default() += file.bytes + 512;
    }
    let share = by_letter.values().sum::<u64>().div_ceil(FILE_TASKS as u64);
    let last = by_letter.keys().next_back().copied();
    let (mut ranges, mut bytes, mut from) = (Vec::new(), 0, 'a');
    for (letter, more) in &by_letter {
        bytes += more;
        if bytes >= share && letter.is_ascii_lowercase() && Some(*letter) != last {
            let name = if from == *letter { from.to_string() } else { format!("{from}_to_{letter}") };
            ranges.push((format!("integration_{name}"), format!("[{from}-{letter}]*")));
            (bytes, from) = (0, char::from(*letter as u8 + 1));
        }
    }
    // The letter before the first that is left.
    match char::from(from as u8 - 1) {
        until if ranges.is_empty() || until < 'a' => ranges.push(("integration".to_owned(), "*".to_owned())),
        until => ranges.push(("integration_rest".to_owned(), format!("[!a-{until}]*"))),
    }
    ranges
}
