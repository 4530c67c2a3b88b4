//! A project of Node: its script `test`. Where that is a runner that can take one part of several, there is a task for
//! each part; where it also does other things, such as a linter, the script that is the runner alone is taken.

use serde_json::Value;

use super::tree::Tree;
use super::{Plan, Task, counted};

/// So many files make a part worth its start.
const FILES_A_PART: usize = 4;
const PARTS: usize = 4;

/// What npm writes into a new package.json.
const NO_TEST: &str = "no test specified";

pub(super) fn plan(tree: &Tree) -> Option<Plan> {
    let package: Value = serde_json::from_str(&tree.text("package.json")?).ok()?;
    let script = |name: &str| package["scripts"][name].as_str();
    let test = script("test").filter(|test| !test.contains(NO_TEST))?;
    // What installing runs of the project itself makes files of its files, which an edit has to make anew. Hooks of git
    // are of no use in an image.
    let scripts =
        ["preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare"];
    let own = scripts.iter().filter_map(|name| script(name)).any(|script| !is_git_hooks(script));
    let has_scripts = own || tree.has("binding.gyp");
    let manager = Manager::of(tree);
    let files = tree.files().filter(|(path, _)| is_test(path)).count();
    let found = runner(test, "test", &script, 0);
    let runner_name = match &found {
        Some(found) => found.runner.to_owned(),
        None => "its script test".to_owned(),
    };
    let tasks = match found {
        Some(found) => tasks(&found, &manager, files),
        None => vec![Task::new("test", manager.run("test"))],
    };
    let files = counted(files, "file of tests", "files of tests");
    Some(Plan {
        saw: format!("Node: package.json, {files}, {runner_name}"),
        from: "node:lts-slim",
        steps: manager.steps(has_scripts),
        rebuild_on: if has_scripts { Vec::new() } else { manager.rebuild_on() },
        needs: "node and what package.json names",
        tasks,
    })
}

fn is_git_hooks(script: &str) -> bool {
    let words: Vec<&str> = script.split_whitespace().collect();
    matches!(words.as_slice(), ["husky"] | ["husky", "install"] | ["husky", "||", "true"])
}

fn is_test(path: &str) -> bool {
    let Some((stem, ext)) = path.rsplit_once('.') else { return false };
    let is_code = ["js", "mjs", "cjs", "ts", "mts", "cts", "jsx", "tsx"].contains(&ext);
    let name = stem.rsplit('/').next().unwrap_or(stem);
    let is_named =
        name.ends_with(".test") || name.ends_with(".spec") || name == "test" || name.starts_with("test-");
    let lies_there = path.split('/').any(|part| part == "__tests__")
        || path.starts_with("test/")
        || path.starts_with("tests/");
    is_code && (is_named || lies_there)
}

/// A runner, and the script in which it stands alone.
struct Found {
    runner: &'static str,
    script: String,
    /// The words behind the runner's own.
    options: String,
    /// Nothing else is done there, so that the runner can be called without its script.
    is_alone: bool,
}

const RUNNERS: [&str; 9] = ["jest", "vitest", "node --test", "mocha", "tape", "ava", "tap", "jasmine", "uvu"];

/// Follows `npm run X` to the script that is a runner.
fn runner<'a>(
    text: &str,
    name: &str,
    script: &impl Fn(&str) -> Option<&'a str>,
    depth: usize,
) -> Option<Found> {
    if depth > 5 {
        return None;
    }
    let commands: Vec<&str> = text.split("&&").map(str::trim).collect();
    for command in &commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let next = match words.as_slice() {
            ["npm" | "yarn" | "pnpm", "run" | "run-script", next, ..] | ["yarn" | "pnpm", next] => {
                Some(*next)
            }
            _ => None,
        };
        if let Some(found) = next.and_then(|next| runner(script(next)?, next, script, depth + 1)) {
            return Some(found);
        }
        if let Some(runner) = RUNNERS.into_iter().find(|runner| starts_with(command, runner)) {
            let hooks = [format!("pre{name}"), format!("post{name}")];
            let is_alone = commands.len() == 1 && hooks.iter().all(|hook| script(hook).is_none());
            let options = command[runner.len()..].trim().to_owned();
            return Some(Found { runner, script: name.to_owned(), options, is_alone });
        }
        // A tool that measures what the runner does.
        if let Some(rest) = ["nyc ", "c8 "].iter().find_map(|tool| command.strip_prefix(tool))
            && let Some(runner) = RUNNERS.into_iter().find(|runner| starts_with(rest.trim(), runner))
        {
            return Some(Found { runner, script: name.to_owned(), options: String::new(), is_alone: false });
        }
    }
    None
}

fn starts_with(command: &str, runner: &str) -> bool {
    command.strip_prefix(runner).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn tasks(found: &Found, manager: &Manager, files: usize) -> Vec<Task> {
    let flag = match found.runner {
        "jest" => Some(("npx jest --shard=", "npx jest -t ")),
        "vitest" => Some(("npx vitest run --shard=", "npx vitest run -t ")),
        "node --test" => Some(("node --test --test-shard=", "node --test --test-name-pattern=")),
        _ => None,
    };
    let parts = (files / FILES_A_PART).min(PARTS);
    let options = found.options.strip_prefix("run").unwrap_or(&found.options).trim();
    match flag {
        Some((flag, only)) if found.is_alone && parts > 1 && !options.contains("watch") => (1..=parts)
            .map(|part| {
                let command = format!("{flag}{part}/{parts} {options}");
                Task::new(&format!("part_{part}_of_{parts}"), command.trim_end())
                    .or_only(format!("{only}{{tests:regex}} {options}").trim_end())
            })
            .collect(),
        Some(_) | None => vec![Task::new(&found.script, manager.run(&found.script))],
    }
}

/// Who installs what the project needs.
enum Manager {
    Npm { lock: Option<&'static str> },
    Yarn,
    Pnpm,
}

impl Manager {
    fn of(tree: &Tree) -> Manager {
        if tree.has("pnpm-lock.yaml") {
            Manager::Pnpm
        } else if tree.has("yarn.lock") {
            Manager::Yarn
        } else {
            Manager::Npm { lock: tree.first(&["npm-shrinkwrap.json", "package-lock.json"]) }
        }
    }

    fn run(&self, script: &str) -> String {
        let name = match self {
            Manager::Npm { .. } => "npm",
            Manager::Yarn => "yarn",
            Manager::Pnpm => "pnpm",
        };
        if script == "test" { format!("{name} test") } else { format!("{name} run {script}") }
    }

    fn rebuild_on(&self) -> Vec<String> {
        let own: &[&str] = match self {
            Manager::Npm { .. } => &["package-lock*.json", "npm-shrinkwrap*.json", ".npmrc*"],
            Manager::Yarn => &["yarn.lock", ".yarnrc*", ".npmrc*"],
            Manager::Pnpm => &["pnpm-*.yaml", ".pnpmfile*", ".npmrc*"],
        };
        ["**/package.json"].iter().chain(own).map(|pattern| (*pattern).to_owned()).collect()
    }

    /// `has_scripts`: installing runs code of the project itself.
    fn steps(&self, has_scripts: bool) -> Vec<String> {
        let (brought, files, install) = match self {
            Manager::Npm { lock: Some(lock) } => (None, format!("package.json {lock}"), "npm ci"),
            Manager::Npm { lock: None } => (None, "package.json".to_owned(), "npm install"),
            Manager::Yarn => (
                Some("RUN npm install --global --force yarn"),
                "package.json yarn.lock".to_owned(),
                "yarn install --frozen-lockfile",
            ),
            Manager::Pnpm => (
                Some("RUN npm install --global --force pnpm"),
                "package.json pnpm-lock.yaml".to_owned(),
                "pnpm install --frozen-lockfile",
            ),
        };
        let mut steps: Vec<String> = brought.into_iter().map(str::to_owned).collect();
        if has_scripts {
            steps.push("COPY . .".to_owned());
            steps.push(format!("RUN {install}"));
        } else {
            steps.push(format!("COPY {files} ./"));
            steps.push(format!("RUN {install}"));
            steps.push("COPY . .".to_owned());
        }
        steps
    }
}
