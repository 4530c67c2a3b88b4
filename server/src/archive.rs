//! A backup as a file: a tar archive of the store and the outputs, with a last entry that says how much there is. What
//! stands in it under any other name, or is no plain file, is refused: a backup may have come from anywhere.

use common::RunNumber;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const STORE: &str = "runs.sqlite";
const END: &str = "end.json";

/// The last entry: what is not like this was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Contents {
    pub(crate) runs: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it holds {0:?}, which no backup does")]
    Stranger(String),
    #[error("it is not whole: its end is missing, or does not tell of what is there")]
    CutOff,
}

/// A new file, for this user alone: a history is nobody else's.
pub(crate) fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// An archive while it is written: outputs first, then the store.
pub(crate) struct Writing {
    archive: tar::Builder<BufWriter<File>>,
    contents: Contents,
}

impl Writing {
    pub(crate) fn begin(to: &Path) -> Result<Writing, ArchiveError> {
        let archive = tar::Builder::new(BufWriter::new(private(to)?));
        Ok(Writing { archive, contents: Contents::default() })
    }

    /// Adds what there is of a run's output. `outputs` is the folder of all.
    pub(crate) fn output(&mut self, outputs: &Path, run: RunNumber) -> Result<(), ArchiveError> {
        for (name, path) in outputs_of(&outputs.join(run.to_string()))? {
            match File::open(&path) {
                // The run is being removed; what is known of it when the store is added, tells that.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => self.add(&format!("output/{run}/{name}"), file?, &path)?,
            }
        }
        Ok(())
    }

    /// Adds the store, and the end.
    pub(crate) fn end(mut self, store: &Path, runs: u64) -> Result<Contents, ArchiveError> {
        self.add(STORE, File::open(store)?, store)?;
        let contents = Contents { runs, ..self.contents };
        let end = serde_json::to_vec(&contents).map_err(io::Error::from)?;
        self.archive.append_data(&mut header(end.len() as u64), END, &end[..])?;
        let file = self.archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(contents)
    }

    fn add(&mut self, name: &str, file: File, path: &Path) -> io::Result<()> {
        // It may still grow; what is there now is enough.
        let size_bytes = file.metadata()?.len();
        let mut counted = Counted { file: file.take(size_bytes), bytes: 0 };
        self.archive.append_data(&mut header(size_bytes), name, &mut counted)?;
        if counted.bytes != size_bytes {
            return Err(io::Error::other(format!("{} became shorter while it was read", path.display())));
        }
        self.contents.files += 1;
        self.contents.bytes += size_bytes;
        Ok(())
    }
}

/// The files of a run's output. An output comes before its index: of a run that goes on meanwhile the marks of the
/// index then reach as far as the output, and what they name beyond it is cut off when that is read.
fn outputs_of(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if is_output(name) {
            found.push((name.to_owned(), entry.path()));
        } else if is_folder(name) {
            found.extend(artifacts_of(name, &entry.path())?);
        }
    }
    found.sort_by_key(|(name, _)| (name.ends_with(".index"), name.clone()));
    Ok(found)
}

/// The files that are kept of an attempt. One that is being fetched has another name still.
fn artifacts_of(folder: &str, path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().filter(|name| is_hash(name)) {
            found.push((format!("{folder}/{name}"), entry.path()));
        }
    }
    Ok(found)
}

/// `TASK-ATTEMPT.artifacts`, in which files go by their hash.
fn is_folder(name: &str) -> bool {
    name.strip_suffix(".artifacts").is_some_and(|stem| is_output(&format!("{stem}.out")))
}

fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// `TASK-ATTEMPT.out` or `.index`.
fn is_output(name: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().is_ok_and(|number| number.to_string() == text);
    let stem = name.strip_suffix(".out").or_else(|| name.strip_suffix(".index"));
    stem.and_then(|stem| stem.split_once('-')).is_some_and(|(task, attempt)| number(task) && number(attempt))
}

fn header(size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size_bytes);
    header.set_mode(0o600);
    header
}

struct Counted {
    file: io::Take<File>,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Writes what the archive holds into `to`, a new folder.
pub(crate) fn read(from: &Path, to: &Path) -> Result<Contents, ArchiveError> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(from)?));
    let mut found = Contents::default();
    let mut told = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let stranger = |name: String| Err(ArchiveError::Stranger(name));
        if entry.header().entry_type() != tar::EntryType::Regular || told.is_some() {
            return stranger(name);
        }
        if name == END {
            let mut text = Vec::new();
            (&mut entry).take(4096).read_to_end(&mut text)?;
            told = Some(serde_json::from_slice::<Contents>(&text).map_err(|_| ArchiveError::CutOff)?);
            continue;
        }
        let Some(path) = place_of(&name) else { return stranger(name) };
        let path = to.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(to))?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        found.bytes += io::copy(&mut entry, &mut file)?;
        found.files += 1;
        file.sync_all()?;
    }
    match told {
        Some(told) if (told.files, told.bytes) == (found.files, found.bytes) => Ok(told),
        Some(_) | None => Err(ArchiveError::CutOff),
    }
}

/// Where in the folder an entry belongs. Built from numbers that were read, never from the name itself.
fn place_of(name: &str) -> Option<PathBuf> {
    if name == STORE {
        return Some(PathBuf::from(STORE));
    }
    let (run, file) = name.strip_prefix("output/")?.split_once('/')?;
    let run: u32 = run.parse().ok().filter(|number: &u32| number.to_string() == run)?;
    let is_artifact = file.split_once('/').is_some_and(|(folder, name)| is_folder(folder) && is_hash(name));
    (is_output(file) || is_artifact).then(|| PathBuf::from("output").join(run.to_string()).join(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of these entries, as anybody could make it.
    fn archive(path: &Path, entries: &[(&str, tar::EntryType)]) {
        let mut builder = tar::Builder::new(File::create(path).unwrap());
        for (name, kind) in entries {
            let mut header = header(1);
            header.set_entry_type(*kind);
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            if *kind != tar::EntryType::Regular {
                header.set_size(0);
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            let data: &[u8] = if *kind == tar::EntryType::Regular { b"x" } else { b"" };
            builder.append(&header, data).unwrap();
        }
        builder.finish().unwrap();
    }

    #[test]
    fn what_is_no_part_of_a_backup_is_refused_and_written_nowhere() {
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        let folder = tempfile::tempdir().unwrap();
        let (file, to) = (folder.path().join("backup.tar"), folder.path().join("to/deep"));
        for (name, kind) in [
            ("../runs.sqlite", Regular),
            ("/tmp/bettertest-stranger", Regular),
            ("output/../../x", Regular),
            ("output/1/../0-1.out", Regular),
            ("output/1//0-1.out", Regular),
            ("output/01/0-1.out", Regular),
            ("output/1/0-1.out/x", Regular),
            ("output/1/0-+1.out", Regular),
            ("output/1/0-1.sh", Regular),
            ("output/1/0-1.artifacts/../../../x", Regular),
            ("output/1/0-1.artifacts/x", Regular),
            ("output/1/0-1.artifacts", Regular),
            ("token", Regular),
            ("runs.sqlite", Symlink),
            ("output/1/0-1.out", Link),
            ("output", Directory),
        ] {
            archive(&file, &[(name, kind)]);
            std::fs::create_dir_all(&to).unwrap();
            let refused = read(&file, &to).unwrap_err();
            assert!(matches!(refused, ArchiveError::Stranger(_)), "{name}: {refused}");
            assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0, "{name}");
            assert_eq!(std::fs::read_dir(folder.path().join("to")).unwrap().count(), 1, "{name}");
        }
        archive(&file, &[("runs.sqlite", Regular), ("runs.sqlite", Regular)]);
        assert!(read(&file, &to).is_err());
    }

    #[test]
    fn an_archive_that_was_cut_anywhere_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("store"), "the store").unwrap();
        std::fs::create_dir_all(at("output/7")).unwrap();
        std::fs::write(at("output/7/0-1.out"), vec![b'x'; 3000]).unwrap();
        std::fs::write(at("output/7/0-1.index"), "").unwrap();
        std::fs::write(at("output/7/notes.txt"), "not ours").unwrap();
        let kept = format!("output/7/0-1.artifacts/{}", "a".repeat(64));
        std::fs::create_dir_all(at("output/7/0-1.artifacts")).unwrap();
        std::fs::write(at(&kept), "kept").unwrap();
        std::fs::write(at(&format!("{kept}.5")), "half").unwrap();
        let mut writing = Writing::begin(&at("whole")).unwrap();
        for run in [RunNumber(7), RunNumber(8)] {
            writing.output(&at("output"), run).unwrap();
        }
        let written = writing.end(&at("store"), 2).unwrap();
        assert_eq!(written, Contents { runs: 2, files: 4, bytes: 3013 });
        assert_eq!(read(&at("whole"), &at("to")).unwrap(), written);
        assert_eq!(std::fs::read(at("to/output/7/0-1.out")).unwrap(), vec![b'x'; 3000]);
        assert_eq!(std::fs::read(at("to").join(&kept)).unwrap(), b"kept");
        let whole = std::fs::read(at("whole")).unwrap();
        // The zeros at its end are padding.
        let last = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for length in (0..=last).step_by(97) {
            std::fs::write(at("cut"), &whole[..length]).unwrap();
            drop(std::fs::remove_dir_all(at("to")));
            std::fs::create_dir(at("to")).unwrap();
            assert!(read(&at("cut"), &at("to")).is_err(), "cut after {length}");
        }
    }
}
