//! Files out of a container that has ended: which are wanted, and the folder that takes them in.
//!
//! How an engine comes to what a container holds is its own concern. What it finds there it offers here, where all
//! bounds are held: names and sizes are those of a stranger. Only bytes are taken, under numbers as names; never a
//! link, a device, a mode or an owner.

use common::{Artifact, Artifacts, PYTEST_REPORT, StepSpec, is_path};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use crate::limits;

/// So many names are looked at for one step. Whoever has more in a folder names a smaller one.
const MOST_NAMES: usize = 200_000;

/// Of what is left out or stands in the way so many are told by name.
const TOLD: usize = 3;

/// And of other things that stand in the way.
const MOST_TROUBLES: usize = 8;

const READ_BYTES: usize = 128 * 1024;

/// What a step wants kept of what its container holds.
pub(crate) struct Wanted {
    workdir: Vec<String>,
    looks: Vec<Look>,
    /// Those that are reports of tests, and what was asked for as such.
    reports: GlobSet,
    asked: Vec<String>,
}

/// One place to look in.
pub(crate) struct Look {
    /// The names from the root to the folder or file. Nothing beside it is wanted.
    pub(crate) root: Vec<String>,
    /// So many of these are the working directory's: the only ones that may be links, as the image's author chose it.
    pub(crate) trusted: usize,
    /// How many names further down a file can be.
    pub(crate) depth: usize,
    /// Somebody asked for what lies here: why there is nothing is worth a word.
    is_asked: bool,
    globs: GlobSet,
}

impl Wanted {
    /// Patterns that were checked, below a working directory as the container has it.
    pub(crate) fn new(workdir: &str, spec: &StepSpec) -> Result<Wanted, String> {
        let workdir = names(workdir);
        let mut reports = GlobSetBuilder::new();
        let mut looks: BTreeMap<Vec<String>, (usize, bool, GlobSetBuilder)> = BTreeMap::new();
        let patterns = spec.artifacts.iter().map(|pattern| (pattern, false));
        for (pattern, is_report) in patterns.chain(spec.junit.iter().map(|pattern| (pattern, true))) {
            let fixed = if pattern.starts_with('/') { Vec::new() } else { workdir.clone() };
            let asked = names(pattern);
            let plain = asked.iter().take_while(|name| !name.contains(['*', '?'])).count();
            let root: Vec<String> = fixed.iter().chain(&asked[..plain]).cloned().collect();
            let rest = &asked[plain..];
            let mut text = root.iter().map(|name| escaped(name, true)).collect::<Vec<_>>();
            text.extend(rest.iter().map(|name| escaped(name, false)));
            let text = format!("/{}", text.join("/"));
            let open = rest.is_empty() || rest.iter().any(|name| name.contains("**"));
            let depth = if open { usize::MAX } else { rest.len() };
            let (deepest, is_asked, globs) =
                looks.entry(root).or_insert_with(|| (0, false, GlobSetBuilder::new()));
            *deepest = depth.max(*deepest);
            *is_asked |= pattern != PYTEST_REPORT;
            let mut texts = vec![text];
            if rest.is_empty() {
                texts.push(format!("{}/**", texts[0].trim_end_matches('/')));
            }
            for text in texts {
                let glob = GlobBuilder::new(&text).literal_separator(true).backslash_escape(true).build();
                let glob = glob.map_err(|error| format!("{pattern} is no pattern: {error}"))?;
                if is_report {
                    reports.add(glob.clone());
                }
                globs.add(glob);
            }
        }
        let look = |(root, (depth, is_asked, globs)): (Vec<String>, (usize, bool, GlobSetBuilder))| {
            let trusted = if root.starts_with(&workdir) { workdir.len() } else { 0 };
            let globs = globs.build().map_err(|error| format!("too many patterns: {error}"))?;
            Ok(Look { root, trusted, depth, is_asked, globs })
        };
        let looks = looks.into_iter().map(look).collect::<Result<_, String>>()?;
        let reports = reports.build().map_err(|error| format!("too many patterns: {error}"))?;
        let asked = spec.junit.iter().filter(|pattern| *pattern != PYTEST_REPORT).cloned().collect();
        Ok(Wanted { workdir, looks, reports, asked })
    }

    pub(crate) fn looks(&self) -> &[Look] {
        &self.looks
    }
}

impl Look {
    /// Is it a file's path from the root, with a slash before each name, that is wanted?
    pub(crate) fn wants(&self, path: &str) -> bool {
        self.globs.is_match(path)
    }

    /// Why nothing is found here, if somebody asked for it.
    pub(crate) fn leads_nowhere(&self, taker: &mut Taker, words: String) {
        if self.is_asked {
            taker.trouble(words);
        }
    }

    /// Where to look, for a person.
    pub(crate) fn words(&self) -> String {
        format!("/{}", self.root.join("/"))
    }
}

/// The names of a path, as far as they say anything. `..` in it goes as far up as there is something.
fn names(path: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name.to_owned()),
        }
    }
    names
}

/// So that nothing means anything but what is told of patterns; `all`: not even that.
fn escaped(name: &str, all: bool) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        let is_special = matches!(letter, '[' | ']' | '{' | '}' | '\\' | '!' | ',');
        if is_special || (all && matches!(letter, '*' | '?')) {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

/// Takes files in, as long as they are within the bounds.
pub(crate) struct Taker {
    folder: PathBuf,
    workdir: String,
    reports: GlobSet,
    asked: Vec<String>,
    /// When the command began.
    since: Option<SystemTime>,
    kept: Artifacts,
    /// By path: what one look has found need not be looked at by the next.
    met: HashSet<String>,
    bytes: u64,
    path_bytes: usize,
    names: usize,
    left_out: BTreeMap<Bound, (u64, Vec<String>)>,
    troubles: Vec<String>,
    until: Instant,
    stopped: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    Name,
    Large,
    Bytes,
    Files,
    Paths,
    Unread,
}

impl Bound {
    fn words(self) -> String {
        match self {
            Bound::Name => "with a name that is no text, or too long".to_owned(),
            Bound::Large => format!("larger than {} MiB", Artifacts::LARGEST_BYTES >> 20),
            Bound::Bytes => format!("beyond {} MiB for one step", Artifacts::ALL_BYTES >> 20),
            Bound::Files => format!("beyond {} files for one step", Artifacts::MOST_FILES),
            Bound::Paths => format!("beyond {} KiB of names for one step", Artifacts::ALL_PATHS >> 10),
            Bound::Unread => "that could not be read".to_owned(),
        }
    }
}

/// Dropped, it makes whoever takes files in on another thread stop.
pub(crate) struct Stopper(Arc<AtomicBool>);

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Taker {
    /// Into a new folder; what an earlier worker had begun to take there goes.
    /// A report that was last written before `since` is of an earlier run of the tests, and no report of this one.
    pub(crate) fn new(folder: &Path, wanted: &Wanted, since: Option<SystemTime>) -> io::Result<Taker> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        DirBuilder::new().mode(0o700).create(folder)?;
        Ok(Taker {
            folder: folder.to_owned(),
            workdir: wanted.workdir.iter().map(|name| format!("/{name}")).collect::<String>() + "/",
            reports: wanted.reports.clone(),
            asked: wanted.asked.clone(),
            since,
            kept: Artifacts::default(),
            met: HashSet::new(),
            bytes: 0,
            path_bytes: 0,
            names: 0,
            left_out: BTreeMap::new(),
            troubles: Vec::new(),
            until: Instant::now() + limits::ARTIFACTS,
            stopped: Arc::default(),
        })
    }

    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(self.stopped.clone())
    }

    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// One more name is looked at. False, and told once, where there were enough, or there is no more time.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.names += 1;
        if self.stopped.load(Ordering::Relaxed) {
            return false;
        }
        if self.names > MOST_NAMES {
            self.trouble(format!("more than {MOST_NAMES} names lie there: not all were looked at"));
            return false;
        }
        if Instant::now() > self.until {
            self.trouble(format!("it took longer than {} s: not all is kept", limits::ARTIFACTS.as_secs()));
            return false;
        }
        true
    }

    /// Was this file met before?
    pub(crate) fn has_met(&self, path: &str) -> bool {
        self.met.contains(path)
    }

    /// A regular file that is wanted: its path from the root, with a slash before each name, its size, when it was last
    /// written, where that is known, and its bytes.
    /// Fails where it cannot be written down.
    pub(crate) fn offer(
        &mut self,
        path: &str,
        size_bytes: u64,
        modified: Option<SystemTime>,
        from: impl Read,
    ) -> io::Result<()> {
        if !self.met.insert(path.to_owned()) {
            return Ok(());
        }
        // One is known by its path, wherever the command runs.
        let below = path.strip_prefix(&self.workdir).filter(|_| path != PYTEST_REPORT);
        let shown = below.unwrap_or(path);
        let bound = if !is_path(shown) {
            Some(Bound::Name)
        } else if size_bytes > Artifacts::LARGEST_BYTES {
            Some(Bound::Large)
        } else if self.kept.files.len() >= Artifacts::MOST_FILES {
            Some(Bound::Files)
        } else if self.path_bytes + shown.len() > Artifacts::ALL_PATHS {
            Some(Bound::Paths)
        } else if self.bytes + size_bytes > Artifacts::ALL_BYTES {
            Some(Bound::Bytes)
        } else {
            None
        };
        if let Some(bound) = bound {
            self.leave_out(bound, shown);
            return Ok(());
        }
        let place = self.folder.join(self.kept.files.len().to_string());
        match write(&place, size_bytes, from) {
            Ok(sha256) => {
                self.bytes += size_bytes;
                self.path_bytes += shown.len();
                let is_report = self.reports.is_match(path);
                let is_old = self.since.zip(modified).is_some_and(|(since, modified)| modified < since);
                if is_report && is_old {
                    self.trouble(format!(
                        "{shown} was there before the command began: not read as its report"
                    ));
                }
                let junit = is_report && !is_old;
                self.kept.files.push(Artifact { path: shown.to_owned(), size_bytes, sha256, junit });
                Ok(())
            }
            Err(NotWritten::Source) => {
                fs::remove_file(&place)?;
                self.leave_out(Bound::Unread, shown);
                Ok(())
            }
            Err(NotWritten::Here(error)) => {
                drop(fs::remove_file(&place));
                Err(error)
            }
        }
    }

    /// A file that is wanted, of which there is no more than a name that is no text.
    pub(crate) fn leave_out_unnamed(&mut self, name: &[u8]) {
        self.leave_out(Bound::Name, &String::from_utf8_lossy(name));
    }

    pub(crate) fn leave_out_unread(&mut self, path: &str) {
        let shown = path.strip_prefix(&self.workdir).unwrap_or(path).to_owned();
        if self.met.insert(path.to_owned()) {
            self.leave_out(Bound::Unread, &shown);
        }
    }

    fn leave_out(&mut self, bound: Bound, name: &str) {
        self.kept.left_out += 1;
        let (count, told) = self.left_out.entry(bound).or_default();
        *count += 1;
        if told.len() < TOLD {
            told.push(name.chars().filter(|c| !c.is_control()).take(100).collect());
        }
    }

    /// Something stood in the way.
    pub(crate) fn trouble(&mut self, words: String) {
        if self.troubles.len() < MOST_TROUBLES && !self.troubles.contains(&words) {
            self.troubles.push(words.chars().filter(|c| !c.is_control()).take(300).collect());
        }
    }

    pub(crate) fn end(self) -> Artifacts {
        let Taker { mut kept, left_out, mut troubles, asked, .. } = self;
        if !asked.is_empty() && !kept.files.iter().any(|file| file.junit) {
            troubles.push(format!("no JUnit report was found: {}", asked.join(", ")));
        }
        troubles.extend(left_out.into_iter().map(|(bound, (count, told))| {
            let more = if count > told.len() as u64 { ", ..." } else { "" };
            format!("left out: {count} {} ({}{more})", bound.words(), told.join(", "))
        }));
        kept.problem = (!troubles.is_empty()).then(|| troubles.join("; "));
        kept
    }
}

enum NotWritten {
    /// The file that was to be kept is at fault.
    Source,
    Here(io::Error),
}

/// Answers with the SHA-256 of what was written, which is exactly so long.
fn write(place: &Path, size_bytes: u64, mut from: impl Read) -> Result<String, NotWritten> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place);
    let mut file = opened.map_err(NotWritten::Here)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut left = size_bytes;
    while left > 0 {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = match from.read(&mut buffer[..room]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return Err(NotWritten::Source),
            Ok(count) => count,
        };
        hash.update(&buffer[..count]);
        file.write_all(&buffer[..count]).map_err(NotWritten::Here)?;
        left -= count as u64;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(workdir: &str, patterns: &[&str]) -> Wanted {
        let mut spec = StepSpec::new("x", common::Command::Shell("x".to_owned()));
        spec.artifacts = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Wanted::new(workdir, &spec).unwrap_or_else(|why| panic!("{why}"))
    }

    fn wants(pattern: &str, path: &str) -> bool {
        wanted("/a*p", &[pattern]).looks().iter().any(|look| look.wants(path))
    }

    #[test]
    fn patterns_mean_what_is_told_of_them() {
        for (pattern, path) in [
            ("*.xml", "/a*p/x.xml"),
            ("./*.xml", "/a*p/.xml"),
            ("report/**", "/a*p/report/x/y"),
            ("report", "/a*p/report"),
            ("report", "/a*p/report/x/y"),
            ("report/", "/a*p/report/x"),
            ("**/*.xml", "/a*p/x.xml"),
            ("**/*.xml", "/a*p/x/y/z.xml"),
            ("/tmp/x?", "/tmp/xy"),
            ("[a]{b,c}!", "/a*p/[a]{b,c}!"),
            ("a\\b", "/a*p/a\\b"),
        ] {
            assert!(wants(pattern, path), "{pattern} means {path}");
        }
        for (pattern, path) in [
            ("*.xml", "/axp/x.xml"),
            ("*.xml", "/a*p/x/y.xml"),
            ("report/*", "/a*p/report/x/y"),
            ("report/**", "/a*p/reports/x"),
            ("report", "/a*p/reports"),
            ("/tmp/x?", "/tmp/x/"),
            ("[a]", "/a*p/a"),
        ] {
            assert!(!wants(pattern, path), "{pattern} does not mean {path}");
        }
    }

    #[test]
    fn nothing_is_looked_at_but_where_it_can_be() {
        let wanted =
            wanted("/srv/app/", &["*.xml", "report/*/x", "report/**", "/srv/log", "/srv/app/dist/*"]);
        let looks: Vec<_> =
            wanted.looks().iter().map(|look| (look.words(), look.trusted, look.depth)).collect();
        let place = |words: &str, trusted, depth| (words.to_owned(), trusted, depth);
        assert_eq!(
            looks,
            [
                place("/srv/app", 2, 1),
                place("/srv/app/dist", 2, 1),
                place("/srv/app/report", 2, usize::MAX),
                place("/srv/log", 0, usize::MAX),
            ]
        );
    }

    #[test]
    fn bounds_hold_and_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = wanted("/app", &["**"]);
        let mut taker = Taker::new(&folder.path().join("kept"), &wanted, None).unwrap();
        let zeros = || io::repeat(0);
        taker.offer("/app/large", Artifacts::LARGEST_BYTES + 1, None, zeros()).unwrap();
        taker.offer("/app/short", 9, None, &b"12345678"[..]).unwrap();
        taker.offer("/app/a\nb", 1, None, zeros()).unwrap();
        taker.offer("/app/../x", 1, None, zeros()).unwrap();
        for _ in 0..2 {
            taker.offer("/app/whole", 3, None, &b"abcd"[..]).unwrap();
        }
        taker.offer("/tmp/x", 0, None, io::empty()).unwrap();
        for number in 0..Artifacts::MOST_FILES {
            taker.offer(&format!("/app/{number}"), 0, None, io::empty()).unwrap();
        }
        let kept = taker.end();
        kept.check().unwrap();
        assert_eq!((kept.files.len(), kept.left_out), (Artifacts::MOST_FILES, 6));
        let file = |at: usize| (kept.files[at].path.as_str(), kept.files[at].size_bytes);
        assert_eq!((file(0), file(1)), (("whole", 3), ("/tmp/x", 0)));
        assert_eq!(fs::read(folder.path().join("kept/0")).unwrap(), b"abc");
        assert_eq!(fs::read_dir(folder.path().join("kept")).unwrap().count(), Artifacts::MOST_FILES);
        assert_eq!(
            kept.problem.unwrap(),
            "left out: 2 with a name that is no text, or too long (ab, ../x); \
             left out: 1 larger than 64 MiB (large); \
             left out: 2 beyond 1000 files for one step (998, 999); \
             left out: 1 that could not be read (short)"
        );
    }
}
