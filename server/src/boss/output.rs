//! What tasks print, as files: the exact bytes of each attempt, and beside them an index of marks that says
//! which bytes are whose. Readers follow the file; a slow one slows nobody.

use common::{Mark, OutputMark, RunNumber, StepId, Stream};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Which attempt's output. Tasks go by their place in the pipeline: names are the user's and no file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct OutputId {
    pub(crate) run: RunNumber,
    pub(crate) task: usize,
    pub(crate) attempt: u32,
}

/// How far an output has come; `ended` means that no byte follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    pub(crate) size_bytes: u64,
    pub(crate) ended: bool,
}

/// All outputs of a store: a folder, and the ones that are being written now.
#[derive(Clone)]
pub(crate) struct Outputs {
    folder: PathBuf,
    live: Arc<Mutex<HashMap<OutputId, watch::Receiver<Progress>>>>,
}

impl Outputs {
    pub(crate) fn new(folder: PathBuf) -> Outputs {
        Outputs { folder, live: Arc::default() }
    }

    pub(crate) fn path(&self, id: OutputId) -> PathBuf {
        self.folder.join(id.run.to_string()).join(format!("{}-{}.out", id.task, id.attempt))
    }

    pub(crate) fn index_path(&self, id: OutputId) -> PathBuf {
        self.path(id).with_extension("index")
    }

    /// Begins an attempt's output, empty.
    pub(crate) fn create(&self, id: OutputId) -> io::Result<Output> {
        let path = self.path(id);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let fresh = |path: &Path| OpenOptions::new().create(true).truncate(true).write(true).open(path);
        let (progress, follow) = watch::channel(Progress::default());
        let writer =
            Writer { file: fresh(&path)?, index: fresh(&self.index_path(id))?, last: None, broken: None };
        self.live.lock().expect("no panic under this lock").insert(id, follow);
        Ok(Output { id, all: self.clone(), writer: Mutex::new(writer), progress })
    }

    /// Where an output stands, and how to hear of more. One that nobody writes has ended.
    pub(crate) fn follow(&self, id: OutputId) -> io::Result<watch::Receiver<Progress>> {
        if let Some(live) = self.live.lock().expect("no panic under this lock").get(&id) {
            return Ok(live.clone());
        }
        let size_bytes = std::fs::metadata(self.path(id))?.len();
        Ok(watch::channel(Progress { size_bytes, ended: true }).1)
    }
}

/// One attempt's output while it is written. Its steps and its pipedef share it.
pub(crate) struct Output {
    id: OutputId,
    all: Outputs,
    /// Held for one write to the page cache at a time, never over an await.
    writer: Mutex<Writer>,
    progress: watch::Sender<Progress>,
}

struct Writer {
    file: File,
    index: File,
    /// Whose bytes came last, so that a mark is written only where that changes.
    last: Option<Whose>,
    /// The first failed write. After it nothing more is stored, and the attempt cannot pass.
    broken: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    Step(StepId, Stream),
    Pipedef,
}

impl Output {
    /// Stores what a step printed. `position` is where the worker's spool continues after it.
    pub(crate) fn step_printed(
        &self,
        step: &StepId,
        stream: Stream,
        bytes: &[u8],
        position: u64,
        at_ms: u64,
    ) {
        let whose = Whose::Step(step.clone(), stream);
        self.store(Some(whose), at_ms, bytes, || Mark::Output { step: step.clone(), stream, position });
    }

    /// Stores what the pipedef's own Python printed.
    pub(crate) fn pipedef_printed(&self, bytes: &[u8], at_ms: u64) {
        self.store(Some(Whose::Pipedef), at_ms, bytes, || Mark::Pipedef);
    }

    /// Marks the place where output is missing.
    pub(crate) fn mark(&self, mark: Mark, at_ms: u64) {
        self.store(None, at_ms, b"", || mark);
    }

    fn store(&self, whose: Option<Whose>, at_ms: u64, bytes: &[u8], mark: impl FnOnce() -> Mark) {
        let mut writer = self.writer.lock().expect("no panic under this lock");
        if writer.broken.is_some() {
            return;
        }
        let offset = self.progress.borrow().size_bytes;
        let write = || -> io::Result<()> {
            writer.file.write_all(bytes)?;
            if whose.is_none() || writer.last != whose {
                let mut line = serde_json::to_vec(&OutputMark { offset, at_ms, mark: mark() })?;
                line.push(b'\n');
                writer.index.write_all(&line)?;
                writer.last = whose;
            }
            Ok(())
        };
        match write() {
            Ok(()) => self.progress.send_modify(|progress| progress.size_bytes += bytes.len() as u64),
            Err(error) => {
                let path = self.all.path(self.id);
                tracing::error!("output cannot be stored in {}: {error}", path.display());
                writer.broken = Some(format!("cannot write {}: {error}", path.display()));
            }
        }
    }

    /// Brings everything to the disk and ends the output; says why, where not every byte is stored.
    pub(crate) fn end(&self) -> Result<(), String> {
        let writer = self.writer.lock().expect("no panic under this lock");
        let synced = match &writer.broken {
            Some(why) => Err(why.clone()),
            None => writer.file.sync_data().and_then(|()| writer.index.sync_data()).map_err(|error| {
                format!("cannot bring {} to the disk: {error}", self.all.path(self.id).display())
            }),
        };
        self.finish();
        synced
    }

    fn finish(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
        self.all.live.lock().expect("no panic under this lock").remove(&self.id);
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.finish();
    }
}
