//! `bettertest init`: looks at a repository, and writes the pipedef and the image that run its tests as they are.
//!
//! One file per kind of project says what it saw and how that is tested (a `Plan`); here it is written down and told.
//! Nothing that is there is ever changed, except AGENTS.md, to which `--agents` adds a part. Whatever tests are added
//! later run without a change of the pipedef: each split has a task that takes what the others do not name.

mod agents;
mod go;
mod image;
mod make;
mod node;
mod pipedef;
mod python;
mod rust;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use crate::cli::InitArgs;
use crate::error::SetupError;
use crate::terminal::plain;
use tree::Tree;

/// More tasks than this make nothing faster on the machines that there are, and nobody reads them.
const TASKS: usize = 8;

/// How a project is tested.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// What there is, for people: `Python: pyproject.toml, 17 files of tests`.
    saw: String,
    from: &'static str,
    /// What comes behind FROM and WORKDIR.
    steps: Vec<String>,
    /// Patterns of the files that the image is made anew for. None: for all of them, as it is more than what it installs.
    rebuild_on: Vec<String>,
    /// What an image of the user's own has to have.
    needs: &'static str,
    tasks: Vec<Task>,
}

#[derive(Debug, PartialEq, Eq)]
struct Task {
    name: String,
    command: String,
    /// How its runner is asked for some tests.
    only_tests: Option<String>,
}

impl Task {
    fn new(name: &str, command: impl Into<String>) -> Task {
        Task { name: name.to_owned(), command: command.into(), only_tests: None }
    }

    fn or_only(self, only_tests: impl Into<String>) -> Task {
        Task { only_tests: Some(only_tests.into()), ..self }
    }
}

/// `1 file`, `2 files`.
fn counted(count: usize, one: &str, several: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {several}") }
}

/// Of several kinds in one folder the first that has tests is taken.
const KINDS: [fn(&Tree) -> Option<Plan>; 5] = [python::plan, rust::plan, go::plan, node::plan, make::plan];

/// Answers with what to print.
pub(crate) fn init(args: &InitArgs) -> Result<String, SetupError> {
    let folder = args.path.canonicalize().ok().filter(|folder| folder.is_dir()).ok_or_else(|| {
        let hint = "name the folder of a project, or go there: bettertest init";
        SetupError::new(format!("there is no folder {}", args.path.display()), hint)
    })?;
    let mut told = Told::default();
    let found = look(&folder);
    if let Some((plan, others)) = &found {
        write_plan(&folder, plan, others, &mut told)?;
    } else if !args.agents {
        return Err(SetupError::new(
            format!("{} has no tests that bettertest knows how to run", folder.display()),
            "it looks for tests of Python, Rust, Go or Node and for `make test`; else write .bettertest/pipedef.py: ten lines, as the README shows",
        ));
    }
    if args.agents {
        let (word, what) = agents::add(&folder)?;
        told.line(word, agents::FILE, what);
    }
    if let Some((_, _)) = found {
        let go = if args.path == Path::new(".") {
            String::new()
        } else {
            format!("cd {} && ", tree::quoted(&args.path.to_string_lossy()))
        };
        told.line("next", &format!("{go}bettertest run"), "builds the image, then tests");
    }
    Ok(told.0)
}

/// The plan, and what else of a project there is that it does nothing with.
fn look(folder: &Path) -> Option<(Plan, Vec<String>)> {
    let tree = Tree::of(folder);
    let mut plans = KINDS.iter().filter_map(|plan| plan(&tree));
    let plan = plans.next()?;
    Some((plan, plans.map(|other| other.saw).collect()))
}

fn write_plan(folder: &Path, plan: &Plan, others: &[String], told: &mut Told) -> Result<(), SetupError> {
    told.line("saw", &plan.saw, "");
    for other in others {
        told.line("saw", other, "left out: give it tasks of its own");
    }
    let has_image = folder.join("Dockerfile").symlink_metadata().is_ok();
    // Only of our own is known where it has the project, over which the files lie as they are when a run begins.
    let at = (!has_image).then_some(image::AT);
    let rebuild_on = if has_image { &[] } else { &plan.rebuild_on[..] };
    let text = pipedef::text(&image::name(folder), at, rebuild_on, &plan.tasks);
    let count = counted(plan.tasks.len(), "task", "tasks that run at once");
    if write(folder, pipedef::FILE, &text)? {
        told.line("wrote", pipedef::FILE, &count);
    } else {
        told.line("there", pipedef::FILE, "left as it is");
    }
    if write(folder, "Dockerfile", &image::dockerfile(plan))? {
        told.line("wrote", "Dockerfile", &format!("on {}", plan.from));
        if write(folder, ".dockerignore", image::IGNORED)? {
            told.line("wrote", ".dockerignore", "what no image needs");
        }
    } else {
        told.line("there", "Dockerfile", &format!("left as it is; its image needs {}", plan.needs));
    }
    Ok(())
}

/// Makes the file, unless anything of that name is there.
fn write(folder: &Path, name: &str, text: &str) -> Result<bool, SetupError> {
    let path = folder.join(name);
    let cannot = |error: std::io::Error| {
        let what = format!("{} cannot be written: {error}", path.display());
        SetupError::new(what, "may this user write there, and is there room?")
    };
    std::fs::create_dir_all(path.parent().expect("it lies in a folder")).map_err(cannot)?;
    match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map(|()| true).map_err(cannot),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot(error)),
    }
}

/// What is printed: a word, what it is about, and what of it.
#[derive(Default)]
struct Told(String);

impl Told {
    fn line(&mut self, word: &str, about: &str, more: &str) {
        let gap = if more.is_empty() { "" } else { "  " };
        let line = format!("{word:<6} {:<22}{gap}{}", plain(about), plain(more));
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }
}
