//! The records of all steps on disk: found, listed, and kept within bounds.
//!
//! The record of an ended step is kept for a while. Its output goes earlier where all of them together take too
//! much: that of the step which ended first. Readers then find a gap where it was, and the end all the same.

use common::{StepId, StepSpec};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::disk;
use super::forgotten::Forgotten;
use super::spool::{self, Meter, Phase, Spool};

pub(crate) struct Records {
    worker: PathBuf,
    folder: PathBuf,
    forgotten: Forgotten,
    /// What the spools take now.
    meter: Arc<Meter>,
    bound_bytes: u64,
}

/// One that ended, for keeping house.
struct Ended {
    at: SystemTime,
    id: StepId,
    folder: PathBuf,
}

impl Records {
    pub(crate) fn open(worker: &Path, bound_bytes: u64) -> io::Result<Records> {
        let folder = worker.join("steps");
        fs::create_dir_all(&folder)?;
        disk::spread(&folder);
        let forgotten = Forgotten::open(&worker.join("forgotten"))?;
        let meter = Arc::new(Meter::default());
        let records = Records { worker: worker.to_owned(), folder, forgotten, meter, bound_bytes };
        records.measure()?;
        Ok(records)
    }

    fn measure(&self) -> io::Result<()> {
        let mut bytes = 0;
        for id in self.ids()? {
            bytes += match spool::size_bytes(&self.folder_of(&id)) {
                Ok(size) => size,
                // Let go of in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            };
        }
        self.meter.set(bytes);
        Ok(())
    }

    /// What is short on its disk, if something is.
    pub(crate) fn shortage(&self) -> Option<String> {
        disk::shortage(&self.worker)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn folder_of(&self, id: &StepId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    fn ids(&self) -> io::Result<Vec<StepId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().into_string().ok();
            ids.extend(name.and_then(|name| StepId::try_from(name).ok()));
        }
        Ok(ids)
    }

    /// In the order in which they were taken on.
    pub(crate) fn oldest_first(&self) -> io::Result<Vec<StepId>> {
        let mut ids = self.ids()?;
        ids.sort_by_cached_key(|id| spool::made_at(&self.folder_of(id)).ok());
        Ok(ids)
    }

    /// The newest so many.
    pub(crate) fn newest(&self, count: usize) -> io::Result<Vec<StepId>> {
        let mut all = Vec::new();
        for id in self.ids()? {
            // One that is being made or forgotten right now has no spec.
            if let Ok(made_at) = spool::made_at(&self.folder_of(&id)) {
                all.push((made_at, id));
            }
        }
        all.sort_by(|one, other| other.cmp(one));
        Ok(all.into_iter().take(count).map(|(_, id)| id).collect())
    }

    /// Makes the record of a new step.
    pub(crate) fn begin(&self, id: &StepId, spec: &StepSpec) -> io::Result<Spool> {
        let folder = self.folder_of(id);
        Spool::create(&folder, spec).inspect_err(|error| {
            // What was there before is somebody's record. But half of a new one would stand in the way.
            if error.kind() != io::ErrorKind::AlreadyExists {
                drop(fs::remove_dir_all(&folder));
            }
        })
    }

    /// What an earlier worker left unended of this step; None where it ended, or never really began.
    pub(crate) fn unended(&self, id: &StepId) -> io::Result<Option<(StepSpec, Spool)>> {
        let folder = self.folder_of(id);
        if folder.join("events").exists() {
            if Spool::ended(&folder)?.is_some() {
                return Ok(None);
            }
            let spool = Spool::unended(&folder)?;
            match spool.spec() {
                Ok(spec) if !spool.is_empty() => return Ok(Some((spec, spool))),
                Err(error) if spool.phase() == Phase::Running => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        // A crash came before anyone was told that the step was taken on, or a loss of power before it started.
        fs::remove_dir_all(folder)?;
        Ok(None)
    }

    pub(crate) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    pub(crate) fn ended(&self, id: &StepId) -> io::Result<Option<(StepSpec, Spool)>> {
        let Some(spool) = Spool::ended(&self.folder_of(id))? else { return Ok(None) };
        Ok(Some((spool.spec()?, spool)))
    }

    pub(crate) fn is_forgotten(&self, id: &StepId) -> io::Result<bool> {
        self.forgotten.has(id)
    }

    pub(crate) fn are_full(&self) -> bool {
        self.meter.bytes() >= self.bound_bytes
    }

    /// Keeps room for the ends of steps. Where that is there, the output of others may be written.
    pub(crate) fn keep_reserve(&self) -> io::Result<()> {
        if disk::keep_reserve(&self.worker)? {
            self.meter.resume_output();
        }
        Ok(())
    }

    /// Lets go of what is older than `keep`, and of output where there is too much of it. Reads every record.
    pub(crate) fn keep_house(&self, keep: Duration) -> io::Result<()> {
        self.measure()?;
        let mut ended = Vec::new();
        for id in self.ids()? {
            let folder = self.folder_of(&id);
            if let (Ok(Some(_)), Ok(at)) = (Spool::ended(&folder), spool::written_at(&folder)) {
                ended.push(Ended { at, id, folder });
            }
        }
        ended.sort_by_key(|record| record.at);
        let (old, young): (Vec<_>, Vec<_>) =
            ended.into_iter().partition(|record| record.at.elapsed().is_ok_and(|age| age > keep));
        for record in &old {
            self.forget(record)?;
        }
        for record in &young {
            if !self.are_full() {
                break;
            }
            let freed = match spool::prune(&record.folder) {
                Ok(freed) => freed,
                Err(error) => {
                    tracing::info!(step = %record.id, "its output cannot go alone, so its record goes: {error}");
                    self.forget(record)?;
                    continue;
                }
            };
            self.meter.remove(freed);
        }
        Ok(())
    }

    fn forget(&self, record: &Ended) -> io::Result<()> {
        let had = spool::size_bytes(&record.folder)?;
        // The ids that we made ourselves are never used twice.
        if spool::spec_in(&record.folder).is_ok_and(|spec| spec.id.is_some()) {
            self.forgotten.add(&record.id)?;
        }
        fs::remove_dir_all(&record.folder)?;
        self.meter.remove(had);
        Ok(())
    }
}
