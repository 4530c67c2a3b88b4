//! `bettertest backup` and `bettertest restore`: the history of a boss as one file, and a boss's history out of it.
//! What is restored is another history from then on (`agents/decisions/0010`).

use std::path::{Path, PathBuf};

use crate::archive::{self, ArchiveError, Contents, Writing};
use crate::boss::{self, StoreCopy, Whole};
use crate::data_dir::{DataDir, make_folder, unusable};
use crate::error::SetupError;
use crate::joined::joined;

/// Writes the history of the boss of `data` to `file`, whether that boss runs or not; answers with what to print.
pub(crate) async fn backup(file: PathBuf, data: DataDir) -> Result<String, SetupError> {
    let boss = data.path().join("boss");
    if !boss.join("runs.sqlite").exists() {
        return Err(SetupError::new(
            format!("no boss has run in {}", data.path().display()),
            "name the data directory of the boss with --data-dir",
        ));
    }
    if file.exists() {
        return Err(SetupError::new(
            format!("{} is there already", file.display()),
            "name another file, or remove that one",
        ));
    }
    let written = on_disk({
        let file = file.clone();
        move || write(&file, &boss)
    });
    let contents = written.await?;
    Ok(format!("{}: {}\n", file.display(), words(contents)))
}

fn words(contents: Contents) -> String {
    let Contents { runs, files, bytes } = contents;
    let s = if runs == 1 { "" } else { "s" };
    format!("{runs} run{s}, {files} files, {bytes} bytes")
}

fn write(file: &Path, boss: &Path) -> Result<Contents, SetupError> {
    let [draft, store] = [".draft", ".store"].map(|suffix| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    });
    let failed = |why: String| {
        SetupError::new(
            format!("the backup could not be written to {}: {why}", file.display()),
            "is there room, and may this user write there? What was there before is as it was",
        )
    };
    let tidy = || {
        // Of a backup that was killed, or did not come to its end.
        drop(std::fs::remove_file(&draft));
        drop(std::fs::remove_file(&store));
    };
    tidy();
    let written = write_parts(boss, &store, &draft)
        .and_then(|contents| std::fs::rename(&draft, file).map(|()| contents).map_err(anyhow::Error::from));
    tidy();
    written.map_err(|error| failed(error.to_string()))
}

fn write_parts(boss: &Path, store: &Path, draft: &Path) -> anyhow::Result<Contents> {
    // SQLite writes into an empty file as into none.
    drop(archive::private(store)?);
    let copy = StoreCopy::make(&boss.join("runs.sqlite"), store)?;
    let mut writing = Writing::begin(draft)?;
    for run in copy.runs()? {
        writing.output(&boss.join("output"), run)?;
    }
    let runs = copy.finish()?;
    Ok(writing.end(store, runs)?)
}

/// Makes the history in `file` that of the boss of `data`, which must have none; answers with what to print.
pub(crate) async fn restore(file: PathBuf, data: DataDir) -> Result<String, SetupError> {
    let held = data.hold("boss")?;
    for part in ["runs.sqlite", "output"] {
        if held.path.join(part).exists() {
            return Err(SetupError::new(
                format!("{} has a history already", data.path().display()),
                format!("move {} away, or name another folder with --data-dir", held.path.display()),
            ));
        }
    }
    let draft = held.path.join("restore.draft");
    match std::fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(unusable(&draft, &error)),
        Ok(()) | Err(_) => {}
    }
    make_folder(&draft)?;
    let restored = fill(&file, &draft, &data).await;
    let done = restored.and_then(|contents| {
        put(&draft, &held.path)?;
        Ok(contents)
    });
    // Empty now, or of no use.
    drop(std::fs::remove_dir_all(&draft));
    Ok(format!("restored to {}: {}\n", data.path().display(), words(done?)))
}

async fn fill(file: &Path, draft: &Path, data: &DataDir) -> Result<Contents, SetupError> {
    let refused = |why: String| {
        SetupError::new(
            format!("{} cannot be restored: {why}", file.display()),
            "take another backup; nothing was changed",
        )
    };
    let read = on_disk({
        let (from, to) = (file.to_owned(), draft.to_owned());
        move || archive::read(&from, &to)
    });
    let contents = read.await.map_err(|error: ArchiveError| refused(error.to_string()))?;
    let store = draft.join("runs.sqlite");
    let broken = on_disk(move || boss::how_whole(&store, Whole::Everything)).await;
    if let Some(broken) = broken.map_err(|error| refused(error.to_string()))? {
        return Err(refused(format!("its store is damaged: {broken}")));
    }
    boss::make_restored(draft, data).await?;
    Ok(contents)
}

/// The store last: with it, it is a history.
fn put(draft: &Path, boss: &Path) -> Result<(), SetupError> {
    for part in ["output", "runs.sqlite"] {
        match std::fs::rename(draft.join(part), boss.join(part)) {
            // No run has printed anything.
            Err(error) if part == "output" && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(&boss.join(part), &error)),
            Ok(()) => {}
        }
    }
    let synced = std::fs::File::open(boss).and_then(|folder| folder.sync_all());
    synced.map_err(|error| unusable(boss, &error))
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work).await).await
}
