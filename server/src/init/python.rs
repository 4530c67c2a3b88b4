//! A project of Python: its tests are run by pytest, which runs those of unittest too. A task for each file or folder
//! of tests, in groups where there are many, and one for all that is not named.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Part, Tree, groups, quoted};
use super::{Plan, TASKS, Task, counted};

const MARKS: [&str; 5] = ["pyproject.toml", "setup.cfg", "setup.py", "tox.ini", "requirements.txt"];

/// Files with what the tests need; the first that is there is taken, as it needs the least.
const FOR_TESTS: [&str; 12] = [
    "requirements/tests.txt",
    "requirements/test.txt",
    "requirements-test.txt",
    "requirements-tests.txt",
    "requirements_test.txt",
    "test-requirements.txt",
    "test_requirements.txt",
    "tests/requirements.txt",
    "requirements/dev.txt",
    "requirements-dev.txt",
    "requirements_dev.txt",
    "dev-requirements.txt",
];

/// What people call the extra, or the group, with what the tests need.
const EXTRAS: [&str; 5] = ["test", "tests", "testing", "dev", "develop"];

/// Options in the settings of pytest that fail without the plugin that has them.
const PLUGINS: [(&str, &str); 5] = [
    ("--cov", "pytest-cov"),
    ("asyncio_mode", "pytest-asyncio"),
    ("--timeout", "pytest-timeout"),
    ("--numprocesses", "pytest-xdist"),
    ("--benchmark", "pytest-benchmark"),
];

/// What makes a version from git, which is not in the image.
const FROM_GIT: [&str; 4] = ["setuptools_scm", "setuptools-scm", "hatch-vcs", "hatch_vcs"];

/// Where a version may stand that an installed project has for good.
const VERSIONS: [&str; 3] = ["**/__init__.py", "**/*version*", "**/__about__.py"];

/// Endings of what is compiled when a project is installed, and files that say how.
const COMPILED: [&str; 15] =
    ["c", "cc", "cpp", "cxx", "cu", "f", "f90", "go", "h", "hpp", "proto", "pxd", "pxi", "pyx", "rs"];
const COMPILERS: [&str; 4] = ["CMakeLists.txt", "meson.build", "Cargo.toml", "Cargo.lock"];

/// With these, installing runs code of the project, which may make files of any of its files.
const HOOKS: [&str; 5] = [".hooks", "backend-path", "build.py", "[tool.pdm.build]", "[tool.poetry.build]"];
const SETUP_HOOKS: [&str; 4] = ["cmdclass", "cffi_modules", "subprocess", "os.system"];

pub(super) fn plan(tree: &Tree) -> Option<Plan> {
    let mark = tree.first(&MARKS)?;
    let tests: Vec<(&str, u64)> = tree.files().filter(|(path, _)| is_test(path)).collect();
    if tests.is_empty() {
        return None;
    }
    let (tasks, count) = tasks(&tests);
    let needs = needs(tree);
    let mut saw = format!("Python: {mark}, {}", counted(count, "file of tests", "files of tests"));
    for file in &needs.files {
        if *file != mark {
            saw.push_str(&format!(", {file}"));
        }
    }
    let (steps, rebuild_on) = (steps(tree, &needs), rebuild_on(tree, &needs));
    Some(Plan { saw, from: "python:3-slim", steps, rebuild_on, needs: "pytest", tasks })
}

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.ends_with(".py") && (name.starts_with("test_") || name.ends_with("_test.py"))
}

/// Where all tests lie in one folder its files and folders are what is split, else the top folders.
fn tasks(tests: &[(&str, u64)]) -> (Vec<Task>, usize) {
    let home = common_folder(tests);
    let mut parts: BTreeMap<String, u64> = BTreeMap::new();
    for (path, bytes) in tests {
        let below = path[home.len()..].split('/').next().unwrap_or_default();
        *parts.entry(format!("{home}{below}")).or_default() += bytes;
    }
    let parts = parts.into_iter().map(|(path, bytes)| Part { path, bytes }).collect();
    let mut groups = groups(parts, TASKS);
    groups.pop();
    let run = "python -m pytest -v";
    let task = |name: &str, command: &str| Task::new(name, command).or_only(format!("{run} {{tests}}"));
    if groups.is_empty() {
        return (vec![task("all", run)], tests.len());
    }
    let words = |paths: &[String]| paths.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(" ");
    let mut tasks: Vec<Task> =
        groups.iter().map(|group| task(&name(group), &format!("{run} {}", words(group)))).collect();
    let left_out: Vec<String> = groups.iter().flatten().map(|path| format!("--ignore={path}")).collect();
    tasks.push(task("rest", &format!("{run} {}", words(&left_out))));
    (tasks, tests.len())
}

/// With its `/`; empty where it is the project's own.
fn common_folder<'a>(tests: &[(&'a str, u64)]) -> &'a str {
    let mut home = tests[0].0.rfind('/').map_or("", |end| &tests[0].0[..=end]);
    while !tests.iter().all(|(path, _)| path.starts_with(home)) {
        home = home[..home.len() - 1].rfind('/').map_or("", |end| &home[..=end]);
    }
    home
}

fn name(group: &[String]) -> String {
    let stem = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".py");
        name.trim_start_matches("test_").trim_end_matches("_test").to_owned()
    };
    match group {
        [one] => stem(one),
        [first, others @ ..] => format!("{}_and_{}_more", stem(first), others.len()),
        [] => String::new(),
    }
}

#[derive(Default)]
struct Needs {
    /// Files that pip takes with -r.
    files: Vec<&'static str>,
    /// Words for pip.
    packages: Vec<String>,
    group: Option<String>,
    /// The extra that the project itself is installed with.
    extra: Option<String>,
}

fn needs(tree: &Tree) -> Needs {
    let mut needs = Needs::default();
    let pyproject = tree.toml("pyproject.toml").unwrap_or_default();
    let table = |path: &[&str]| path.iter().try_fold(&pyproject, |table, name| table.get(*name)?.as_table());
    let named = |table: Option<&toml::Table>| {
        EXTRAS
            .into_iter()
            .find(|name| table.is_some_and(|table| table.contains_key(*name)))
            .map(str::to_owned)
    };
    if tree.has("requirements.txt") {
        needs.files.push("requirements.txt");
    }
    needs.extra = named(table(&["project", "optional-dependencies"]));
    needs.extra = needs.extra.or_else(|| extra_of_setup_cfg(&tree.text("setup.cfg")?));
    needs.group = named(table(&["dependency-groups"]));
    if needs.group.is_none() && needs.extra.is_none() {
        needs.files.extend(tree.first(&FOR_TESTS));
    }
    let poetry = ["test", "tests", "dev"]
        .into_iter()
        .find_map(|group| table(&["tool", "poetry", "group", group, "dependencies"]))
        .or_else(|| table(&["tool", "poetry", "dev-dependencies"]));
    needs.packages = vec!["pytest".to_owned()];
    needs
        .packages
        .extend(poetry.into_iter().flat_map(|table| table.keys()).filter(|name| *name != "pytest").cloned());
    if needs.files.iter().all(|file| *file == "requirements.txt")
        && needs.group.is_none()
        && needs.extra.is_none()
    {
        needs.packages.extend(of_tox(&tree.text("tox.ini").unwrap_or_default()));
    }
    let settings: String = ["pyproject.toml", "setup.cfg", "pytest.ini", "tox.ini"]
        .iter()
        .filter_map(|file| pytest_settings(&tree.text(file)?))
        .collect();
    for (option, plugin) in PLUGINS {
        if settings.contains(option) {
            needs.packages.push(plugin.to_owned());
        }
    }
    let mut seen = std::collections::HashSet::new();
    needs.packages.retain(|package| seen.insert(package.clone()));
    needs
}

/// The parts of a file of settings that are pytest's.
fn pytest_settings(text: &str) -> Option<String> {
    let mut settings = String::new();
    let mut is_ours = false;
    for line in text.lines() {
        if line.starts_with('[') {
            is_ours = line.contains("pytest");
        } else if is_ours {
            settings.push_str(line);
            settings.push('\n');
        }
    }
    (!settings.is_empty()).then_some(settings)
}

fn extra_of_setup_cfg(text: &str) -> Option<String> {
    let (_, extras) = text.split_once("[options.extras_require]")?;
    let lines = extras.lines().take_while(|line| !line.starts_with('['));
    let names: Vec<&str> = lines.filter_map(|line| Some(line.split_once('=')?.0.trim_end())).collect();
    EXTRAS.into_iter().find(|name| names.contains(name)).map(str::to_owned)
}

/// The packages that tox gives to all tests: no lines that are for some environments only, no files, no options.
fn of_tox(text: &str) -> Vec<String> {
    let Some((_, section)) = text.split_once("[testenv]") else { return Vec::new() };
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let mut is_deps = false;
    let mut found = Vec::new();
    for line in lines {
        let value = if let Some(rest) = line.strip_prefix("deps") {
            is_deps = true;
            rest.trim_start().trim_start_matches('=')
        } else if line.starts_with([' ', '\t']) && is_deps {
            line
        } else {
            is_deps = false;
            continue;
        };
        let value = value.split(" #").next().unwrap_or_default().trim();
        if value.starts_with(|c: char| c.is_ascii_alphanumeric()) && !value.contains([':', '{']) {
            found.push(value.to_owned());
        }
    }
    found
}

fn steps(tree: &Tree, needs: &Needs) -> Vec<String> {
    let mut steps = Vec::new();
    let mut install = String::from("RUN pip install --no-cache-dir");
    for package in &needs.packages {
        install.push_str(&format!(" {}", quoted(package)));
    }
    for file in &needs.files {
        install.push_str(&format!(" -r {file}"));
    }
    if let Some(group) = &needs.group {
        install.push_str(&format!(" --group {group}"));
    }
    // What the tests need changes less often than the code, and is kept while it does not.
    let mut first: Vec<&str> = needs.files.iter().filter(|file| !file.contains('/')).copied().collect();
    first.extend(needs.group.as_ref().map(|_| "pyproject.toml"));
    if !first.is_empty() {
        steps.push(format!("COPY {} ./", first.join(" ")));
    }
    // One such file names its neighbours.
    if let Some((folder, _)) = needs.files.iter().find_map(|file| file.split_once('/')) {
        steps.push(format!("COPY {folder} {folder}"));
    }
    steps.push(install);
    steps.push("COPY . .".to_owned());
    if is_installed(tree) {
        let made = ["pyproject.toml", "setup.py", "setup.cfg"].iter().filter_map(|file| tree.text(file));
        let is_from_git = made.into_iter().any(|text| FROM_GIT.iter().any(|name| text.contains(name)));
        if is_from_git && !tree.has("PKG-INFO") {
            steps.push("ENV SETUPTOOLS_SCM_PRETEND_VERSION=0".to_owned());
        }
        let extra = needs.extra.as_ref().map(|extra| format!("[{extra}]")).unwrap_or_default();
        let project = quoted(&format!(".{extra}"));
        steps.push(format!("RUN pip install --no-cache-dir --editable {project}"));
    }
    steps
}

/// What `steps` installs, and of what. An editable install has the project's own files; but what it is called, needs and
/// offers is of the day on which it was made, and so is what was compiled.
fn rebuild_on(tree: &Tree, needs: &Needs) -> Vec<String> {
    let mut patterns = BTreeSet::new();
    for file in &needs.files {
        // With its neighbours, which it may name.
        patterns.insert(match file.split_once('/') {
            Some((folder, name)) if name.contains("requirements") => format!("{folder}/*requirements*"),
            Some(_) | None => "*requirements*".to_owned(),
        });
    }
    let pyproject = tree.text("pyproject.toml").unwrap_or_default();
    if is_installed(tree) {
        let setup = tree.text("setup.py").unwrap_or_default();
        if HOOKS.iter().any(|hook| pyproject.contains(hook))
            || SETUP_HOOKS.iter().any(|hook| setup.contains(hook))
        {
            return Vec::new();
        }
        patterns.extend(["pyproject*.toml", "setup.*", "*requirements*"].map(str::to_owned));
        let is_fixed = |table: &toml::Table| {
            table.get("project").is_some_and(|project| project.get("version").is_some())
        };
        if !tree.toml("pyproject.toml").as_ref().is_some_and(is_fixed) {
            patterns.extend(VERSIONS.map(str::to_owned));
        }
        let names = tree.files().map(|(path, _)| path.rsplit('/').next().unwrap_or(path));
        for name in names {
            match name.rsplit_once('.') {
                Some((_, ending)) if COMPILED.contains(&ending) => patterns.insert(format!("**/*.{ending}")),
                Some(_) if COMPILERS.contains(&name) => patterns.insert(format!("**/{name}")),
                Some(_) | None => false,
            };
        }
    } else if needs.group.is_some() {
        patterns.insert("pyproject.toml".to_owned());
    }
    // Where it installs nothing of the project, the image is to be one of something.
    if patterns.is_empty() {
        patterns.extend(tree.first(&MARKS).map(str::to_owned));
    }
    patterns.into_iter().collect()
}

/// A pyproject.toml may be there for the settings of tools alone.
fn is_installed(tree: &Tree) -> bool {
    let pyproject = tree.toml("pyproject.toml").unwrap_or_default();
    let is_built = pyproject.contains_key("build-system") || pyproject.contains_key("project");
    is_built || tree.has("setup.py")
}
