//! What lies in a project's folder: the names of its files, and their text where somebody asks for it. No links are
//! followed, and nothing is looked at that tools make.

use std::path::Path;

/// Beyond so many files nothing more is looked at: what is not seen is left to the task that takes the rest.
const MOST_FILES: usize = 50_000;
const DEEPEST: usize = 12;
/// No file that says how a project is tested is as long as this.
const LONGEST_BYTES: u64 = 4 * 1024 * 1024;

/// Made by tools, or of somebody else.
const NOT_OURS: [&str; 9] =
    ["node_modules", "target", "venv", "env", "build", "dist", "vendor", "__pycache__", "site-packages"];

pub(super) struct Tree {
    folder: std::path::PathBuf,
    /// With `/`, from the folder on, sorted, each with its size.
    files: Vec<(String, u64)>,
}

impl Tree {
    pub(super) fn of(folder: &Path) -> Tree {
        let mut tree = Tree { folder: folder.to_owned(), files: Vec::new() };
        tree.read("", 0);
        tree.files.sort();
        tree
    }

    fn read(&mut self, below: &str, depth: usize) {
        // A folder that cannot be read has nothing to say.
        let Ok(entries) = std::fs::read_dir(self.folder.join(below)) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(kind) = entry.file_type() else { continue };
            let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            if self.files.len() >= MOST_FILES || name.chars().any(char::is_control) {
                continue;
            }
            if kind.is_dir()
                && depth < DEEPEST
                && !name.starts_with('.')
                && !NOT_OURS.contains(&name.as_str())
            {
                self.read(&path, depth + 1);
            } else if kind.is_file() {
                self.files.push((path, entry.metadata().map_or(0, |metadata| metadata.len())));
            }
        }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|(path, size)| (path.as_str(), *size))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.files.binary_search_by(|(file, _)| file.as_str().cmp(path)).is_ok()
    }

    /// The first of these that is there.
    pub(super) fn first<'a>(&self, paths: &[&'a str]) -> Option<&'a str> {
        paths.iter().copied().find(|path| self.has(path))
    }

    /// Nothing where there is no such file, or none of text.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let (_, size) = self.files().find(|(file, _)| *file == path)?;
        if size > LONGEST_BYTES {
            return None;
        }
        std::fs::read_to_string(self.folder.join(path)).ok()
    }

    pub(super) fn toml(&self, path: &str) -> Option<toml::Table> {
        self.text(path)?.parse().ok()
    }
}

/// As a word of /bin/sh.
pub(super) fn quoted(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_-./=:@+,".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Something to be tested, and how much there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) path: String,
    pub(super) bytes: u64,
}

/// At most `most` groups of about the same size, none of them empty; the last has the most parts, so that it is the
/// one which takes the rest.
pub(super) fn groups(mut parts: Vec<Part>, most: usize) -> Vec<Vec<String>> {
    parts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    let mut groups: Vec<(u64, Vec<String>)> = vec![(0, Vec::new()); most.min(parts.len())];
    for part in parts {
        let least = groups.iter_mut().min_by_key(|(bytes, paths)| (*bytes, paths.len()));
        let Some((bytes, paths)) = least else { break };
        // Each file costs something, however small.
        *bytes += part.bytes + 512;
        paths.push(part.path);
    }
    for (_, paths) in &mut groups {
        paths.sort();
    }
    groups.sort_by(|(_, a), (_, b)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    groups.into_iter().map(|(_, paths)| paths).collect()
}
