//! What the source of a run says of a failure: which places of a stack lie in it, and what has changed in it since the
//! task passed. Whose source is gone, of that nothing is said.

use common::{CHANGES_TOLD, ChangedFiles, Entry, FRAMES_TOLD, Frame, Manifest, frames};
use std::collections::HashMap;
use std::path::Path;

use super::one_line;
use crate::source::manifest_in;

/// The list of files of a run's source.
pub(super) struct Files(Vec<u8>);

/// A failure may lie in one of many places; so many of a stack are looked for.
const MOST_FRAMES: usize = 40;

impl Files {
    pub(super) fn of(folder: &Path) -> Option<Files> {
        match manifest_in(folder) {
            Ok(manifest) => manifest.map(Files),
            Err(error) => {
                tracing::warn!("the source in {} is not looked at: {error}", folder.display());
                None
            }
        }
    }

    fn manifest(&self) -> Option<Manifest<'_>> {
        Manifest::parse(&self.0).map_err(|error| tracing::warn!("a stored source is none: {error}")).ok()
    }
}

/// The places of each of these stacks that lie in the source, which its steps have at one of these folders.
pub(super) fn places(files: &Files, at: &[String], stacks: &[Option<&str>]) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<Frame>> = stacks.iter().map(|stack| stack.map_or_else(Vec::new, frames)).collect();
    found.iter_mut().for_each(|frames| frames.truncate(MOST_FRAMES));
    let Some(manifest) = files.manifest().filter(|_| found.iter().any(|frames| !frames.is_empty())) else {
        return vec![Vec::new(); stacks.len()];
    };
    // By name, so that the list is gone through once.
    let mut wanted: HashMap<&[u8], Vec<(&str, Place)>> = HashMap::new();
    for frame in found.iter().flatten() {
        if let Some(path) = inside(&frame.path, at) {
            let name = path.rsplit('/').next().unwrap_or(path).as_bytes();
            let places = wanted.entry(name).or_default();
            if !places.iter().any(|(known, _)| *known == frame.path) {
                places.push((&frame.path, Place::default()));
            }
        }
    }
    for entry in manifest.entries() {
        let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or(entry.path);
        for (frame, place) in wanted.get_mut(name).into_iter().flatten() {
            if let Some(path) = inside(frame, at) {
                place.see(entry.path, path.as_bytes(), frame.starts_with('/'));
            }
        }
    }
    let paths: HashMap<&str, &[u8]> =
        wanted.into_values().flatten().filter_map(|(frame, place)| Some((frame, place.only()?))).collect();
    let told = |frame: &Frame| {
        let path = one_line(paths.get(frame.path.as_str())?);
        let within = frame.within.as_ref().map(|name| format!(" in {}", one_line(name.as_bytes())));
        Some(format!("{path}:{}{}", frame.line, within.unwrap_or_default()))
    };
    found.iter().map(|frames| frames.iter().filter_map(told).take(FRAMES_TOLD).collect()).collect()
}

/// A path of a stack without the folder in which the source lies; None of one that lies elsewhere.
fn inside<'a>(path: &'a str, at: &[String]) -> Option<&'a str> {
    if !path.starts_with('/') {
        return Some(path.trim_start_matches("./")).filter(|path| !path.is_empty());
    }
    at.iter().find_map(|at| path.strip_prefix(at.trim_end_matches('/'))?.strip_prefix('/'))
}

/// Which file of the source a path means: the one of that path, else the only one whose path ends so. Runners name
/// files as they see them from a folder of theirs.
#[derive(Default)]
struct Place<'a> {
    exact: Option<&'a [u8]>,
    ending: Option<&'a [u8]>,
    several: bool,
}

impl<'a> Place<'a> {
    fn see(&mut self, entry: &'a [u8], path: &[u8], is_whole: bool) {
        if entry == path {
            self.exact = Some(entry);
        } else if !is_whole && entry.strip_suffix(path).is_some_and(|folder| folder.ends_with(b"/")) {
            self.several |= self.ending.is_some();
            self.ending = Some(entry);
        }
    }

    fn only(self) -> Option<&'a [u8]> {
        self.exact.or(self.ending.filter(|_| !self.several))
    }
}

/// What is not as it was. Of what was left out the number is told.
pub(super) fn changes(now: &Files, green: &Files) -> Option<ChangedFiles> {
    let (now, green) = (now.manifest()?, green.manifest()?);
    let (mut now, mut green) = (now.entries().peekable(), green.entries().peekable());
    let mut told = ChangedFiles::default();
    loop {
        let order = match (now.peek(), green.peek()) {
            (Some(now), Some(green)) => now.path.cmp(green.path),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return Some(told),
        };
        match order {
            std::cmp::Ordering::Less => tell(&mut told, now.next(), |told| &mut told.added),
            std::cmp::Ordering::Greater => tell(&mut told, green.next(), |told| &mut told.deleted),
            std::cmp::Ordering::Equal => {
                let (now, green) = (now.next(), green.next());
                let looks = |entry: &Entry<'_>| (entry.blob, entry.mode);
                if now.as_ref().map(looks) != green.as_ref().map(looks) {
                    tell(&mut told, now, |told| &mut told.changed);
                }
            }
        }
    }
}

fn tell(
    told: &mut ChangedFiles,
    entry: Option<Entry<'_>>,
    list: impl Fn(&mut ChangedFiles) -> &mut Vec<String>,
) {
    let Some(entry) = entry else { return };
    if told.named() < CHANGES_TOLD as u64 {
        list(told).push(one_line(entry.path));
    } else {
        told.more += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{BlobId, EntryMode};

    fn files(paths: &[(&'static str, u8)]) -> Files {
        let entry = |(path, bytes): &(&'static str, u8)| Entry {
            path: path.as_bytes(),
            blob: BlobId::Sha1([*bytes; 20]),
            mode: EntryMode::File,
            size_bytes: 1,
            mtime_ns: i64::from(*bytes),
        };
        Files(Manifest::format(paths.iter().map(entry).collect()))
    }

    #[test]
    fn a_place_is_in_the_source_or_not_told() {
        let files = files(&[("a/x.py", 1), ("b/x.py", 1), ("src/deep/y.js", 1), ("z.py", 1)]);
        let told = |stack: &str| places(&files, &["/app".to_owned()], &[Some(stack)]).remove(0);
        assert_eq!(told("/app/a/x.py:1: in f\n./z.py:2: in g"), ["z.py:2 in g", "a/x.py:1 in f"]);
        assert_eq!(told("at f (deep/y.js:3:1)"), ["src/deep/y.js:3 in f"], "seen from a folder of its own");
        assert!(told("x.py:1: in f").is_empty(), "either of two");
        assert!(told("/usr/lib/z.py:1: in f\n/apps/z.py:1: in f\n/app/none.py:1: in f").is_empty());
        assert_eq!(places(&files, &[], &[None, Some("z.py:1: in f")])[1], ["z.py:1 in f"]);
        let many: String = (1..30).map(|line| format!("z.py:{line}: in f\n")).collect();
        assert_eq!(told(&many).len(), FRAMES_TOLD);
    }

    #[test]
    fn what_changed_is_told_by_bytes() {
        let green = files(&[("a", 1), ("b", 1), ("d", 1)]);
        let now = files(&[("a", 1), ("b", 2), ("c", 1)]);
        let found = changes(&now, &green).unwrap();
        assert_eq!(
            (found.changed, found.added, found.deleted),
            (vec!["b".into()], vec!["c".into()], vec!["d".into()])
        );
        assert_eq!(changes(&now, &now), Some(ChangedFiles::default()));
        assert_eq!(changes(&now, &Files(b"nonsense".to_vec())), None);
    }
}
