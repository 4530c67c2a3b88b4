//! What tasks print, as files: the exact bytes of each attempt, and beside them an index of marks that says
//! which bytes are whose. Readers follow the file; a slow one slows nobody.
//!
//! A mark is written before its bytes, so whatever stands in the file after the last mark is that mark's. So a boss
//! that comes after a killed one knows from the two files alone how far each step's output is stored.

mod artifacts;
mod ending;
mod heard;

use common::{Mark, OutputMark, RunKey, RunNumber, StepId, Stream};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) use ending::end_of;

/// Which attempt's output. Tasks go by their place in the pipeline: names are the user's and no file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct OutputId {
    pub(crate) run: RunNumber,
    pub(crate) task: usize,
    pub(crate) attempt: u32,
}

const DRAFT: &str = "draft-";

/// No snapshot takes so long.
const OLD_DRAFT: Duration = Duration::from_secs(3600);

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

    /// All of a run's files.
    pub(crate) fn folder(&self, run: RunNumber) -> PathBuf {
        self.folder.join(run.to_string())
    }

    /// Where what a run needs is made, before it has a number.
    pub(crate) fn draft(&self, key: &RunKey) -> PathBuf {
        self.folder.join(format!("{DRAFT}{}", key.as_str()))
    }

    /// What was learned about the files of the source, for the next run.
    pub(crate) fn memory(&self) -> PathBuf {
        self.folder.join("source-ids")
    }

    /// Makes of a draft the folder of a run that is about to begin.
    pub(crate) fn adopt(&self, draft: &Path, run: RunNumber) -> io::Result<PathBuf> {
        // A run of this number never came to be, and left its folder.
        self.remove(run)?;
        let folder = self.folder(run);
        std::fs::rename(draft, &folder)?;
        Ok(folder)
    }

    pub(crate) fn index_path(&self, id: OutputId) -> PathBuf {
        self.path(id).with_extension("index")
    }

    /// Begins an attempt's output, empty.
    pub(crate) fn create(&self, id: OutputId) -> io::Result<Output> {
        let path = self.path(id);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let fresh = |path: &Path| OpenOptions::new().create(true).truncate(true).write(true).open(path);
        let (file, index) = (fresh(&path)?, fresh(&self.index_path(id))?);
        Ok(self.output(id, Writer { file, index, last: None, broken: None }, 0))
    }

    /// Goes on with an output that an earlier boss has begun, and tells what is stored of it.
    pub(crate) fn resume(&self, id: OutputId) -> io::Result<(Output, Stored)> {
        let path = self.path(id);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let open =
            |path: &Path| OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let (mut file, mut index) = (open(&path)?, open(&self.index_path(id))?);
        let size_bytes = file.seek(io::SeekFrom::End(0))?;
        let mut text = Vec::new();
        index.read_to_end(&mut text)?;
        let (marks, kept) = whole_marks(&text, size_bytes);
        // The rest was torn, or is of bytes that never came to the disk.
        index.set_len(kept)?;
        index.seek(io::SeekFrom::Start(kept))?;
        let (stored, last) = Stored::of(&marks, size_bytes);
        Ok((self.output(id, Writer { file, index, last, broken: None }, size_bytes), stored))
    }

    fn output(&self, id: OutputId, writer: Writer, size_bytes: u64) -> Output {
        let (progress, follow) = watch::channel(Progress { size_bytes, ended: false });
        self.live.lock().expect("no panic under this lock").insert(id, follow);
        Output {
            id,
            all: self.clone(),
            writer: Mutex::new(writer),
            progress,
            artifact_bytes: AtomicU64::new(0),
        }
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

/// What becomes of the outputs of runs that have ended. All of this waits for the disk.
impl Outputs {
    /// A folder on the disk that all of it is on.
    pub(crate) fn disk(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    /// What a run's output takes on the disk: whole blocks, also for a small file.
    pub(crate) fn size_bytes(&self, run: RunNumber) -> io::Result<u64> {
        let entries = match std::fs::read_dir(self.folder.join(run.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let mut size_bytes = 0;
        for entry in entries {
            let entry = entry?;
            let meta = entry.metadata()?;
            size_bytes += meta.len().max(meta.blocks() * 512) + artifacts::size_bytes(&entry.path())?;
        }
        Ok(size_bytes)
    }

    /// Removes the whole output of a run. Who reads it right now may go on.
    pub(crate) fn remove(&self, run: RunNumber) -> io::Result<()> {
        match std::fs::remove_dir_all(self.folder.join(run.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes the drafts that a crash has left. Those of late may be of a run that begins just now.
    pub(crate) fn remove_old_drafts(&self) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let is_draft = entry.file_name().to_string_lossy().starts_with(DRAFT);
            if is_draft && entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > OLD_DRAFT) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// The runs that there is output of.
    pub(crate) fn runs(&self) -> io::Result<Vec<RunNumber>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut runs = Vec::new();
        for entry in entries {
            // Anything else is not ours.
            if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                runs.push(RunNumber(number));
            }
        }
        Ok(runs)
    }
}

/// A place in a step's spool: after this position, and after so many bytes of output from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) skip_bytes: u64,
}

/// What is stored of an output that an earlier boss has begun.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    steps: HashMap<StepId, StoredStep>,
    /// How much of what the pipedef's own Python printed.
    pub(crate) pipedef_bytes: u64,
    /// That Python printed more than is kept is marked already.
    pub(crate) pipedef_dropped: bool,
}

/// How far the output of one step is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StoredStep {
    /// What comes after this place is not stored.
    pub(crate) next: Place,
    /// Losses and caps up to this position of its spool are marked.
    pub(crate) marked: u64,
}

impl Stored {
    pub(crate) fn step(&self, id: &StepId) -> StoredStep {
        self.steps.get(id).copied().unwrap_or_default()
    }

    /// Also whose bytes the last mark announces.
    fn of(marks: &[OutputMark], size_bytes: u64) -> (Stored, Option<Whose>) {
        let mut stored = Stored::default();
        let mut last = None;
        for (number, OutputMark { offset, mark, .. }) in marks.iter().enumerate() {
            let length = marks.get(number + 1).map_or(size_bytes, |next| next.offset) - offset;
            last = match mark {
                Mark::Output { step, stream, position, skip_bytes } => {
                    let next = Place { position: *position, skip_bytes: skip_bytes + length };
                    stored.steps.entry(step.clone()).or_default().next = next;
                    Some(Whose::Step(step.clone(), *stream))
                }
                Mark::Dropped { step, position, .. } | Mark::Gap { step, position, .. } => {
                    stored.steps.entry(step.clone()).or_default().marked = *position;
                    None
                }
                Mark::Pipedef => {
                    stored.pipedef_bytes += length;
                    Some(Whose::Pipedef)
                }
                Mark::PipedefDropped { .. } => {
                    stored.pipedef_dropped = true;
                    None
                }
            };
        }
        (stored, last)
    }
}

/// The marks of an index up to the first that is torn or stands where the output does not reach; and how many
/// bytes of the index they are.
fn whole_marks(index: &[u8], size_bytes: u64) -> (Vec<OutputMark>, u64) {
    let mut marks: Vec<OutputMark> = Vec::new();
    let mut kept = 0;
    for line in index.split_inclusive(|byte| *byte == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else { break };
        let Ok(mark) = serde_json::from_slice::<OutputMark>(whole) else { break };
        let before = marks.last().map_or(0, |last| last.offset);
        if !(before..=size_bytes).contains(&mark.offset) {
            break;
        }
        marks.push(mark);
        kept += line.len() as u64;
    }
    (marks, kept)
}

/// One attempt's output while it is written. Its steps and its pipedef share it.
pub(crate) struct Output {
    id: OutputId,
    all: Outputs,
    /// Held for one write to the page cache at a time, never over an await.
    writer: Mutex<Writer>,
    progress: watch::Sender<Progress>,
    /// What the files that are kept of its steps come to.
    artifact_bytes: AtomicU64,
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
    pub(crate) fn id(&self) -> OutputId {
        self.id
    }

    /// Stores what a step printed, and where in its spool that comes from.
    pub(crate) fn step_printed(&self, step: &StepId, stream: Stream, bytes: &[u8], from: Place, at_ms: u64) {
        let whose = Whose::Step(step.clone(), stream);
        self.store(Some(whose), at_ms, bytes, || Mark::Output {
            step: step.clone(),
            stream,
            position: from.position,
            skip_bytes: from.skip_bytes,
        });
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
            if whose.is_none() || writer.last != whose {
                let mut line = serde_json::to_vec(&OutputMark { offset, at_ms, mark: mark() })?;
                line.push(b'\n');
                writer.index.write_all(&line)?;
                writer.last = whose;
            }
            writer.file.write_all(bytes)
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

    /// Why not every byte is stored, if so. Nothing that ends from here on may be told as whole: who comes after a
    /// restart sees no more than the files.
    pub(crate) fn broken(&self) -> Option<String> {
        self.writer.lock().expect("no panic under this lock").broken.clone()
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
