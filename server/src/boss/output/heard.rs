//! What the test runners in an attempt's steps told, read from its stored output: so it is the same for whoever reads
//! it, also after a restart. Each step is listened to by itself.

use common::{Mark, StepId, StepTests, Stream, TestListener};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _};

use super::{OutputId, Outputs, whole_marks};

/// So much is read at once.
const PIECE: usize = 64 * 1024;

/// A runner that runs no test prints little; to read more than this again would be felt at the end of a task.
const MOST: u64 = 16 * 1024 * 1024;

impl Outputs {
    /// By step; none of a step whose output is not whole, as what is missing may say otherwise, and none at all where
    /// there is very much of it. Waits for the disk.
    pub(crate) fn heard(&self, id: OutputId) -> io::Result<BTreeMap<StepId, StepTests>> {
        let file = File::open(self.path(id))?;
        let size_bytes = file.metadata()?.len();
        if size_bytes > MOST {
            return Ok(BTreeMap::new());
        }
        let (marks, _) = whole_marks(&std::fs::read(self.index_path(id))?, size_bytes);
        let mut file = BufReader::new(file);
        let mut piece = vec![0; PIECE];
        let mut steps: BTreeMap<StepId, Option<TestListener>> = BTreeMap::new();
        for (number, mark) in marks.iter().enumerate() {
            let end = marks.get(number + 1).map_or(size_bytes, |next| next.offset);
            let mut said = file.by_ref().take(end - mark.offset);
            match &mark.mark {
                Mark::Output { step, stream, .. } => {
                    let listener = steps.entry(step.clone()).or_insert_with(|| Some(TestListener::default()));
                    hear(&mut said, &mut piece, *stream, listener)?;
                }
                Mark::Dropped { step, .. } | Mark::Gap { step, .. } => {
                    steps.insert(step.clone(), None);
                }
                Mark::Pipedef | Mark::PipedefDropped { .. } => {
                    hear(&mut said, &mut piece, Stream::Pipedef, &mut None)?
                }
            }
        }
        Ok(steps.into_iter().filter_map(|(step, heard)| Some((step, heard?.finish()))).collect())
    }
}

fn hear(
    said: &mut impl io::Read,
    piece: &mut [u8],
    stream: Stream,
    listener: &mut Option<TestListener>,
) -> io::Result<()> {
    loop {
        match said.read(piece)? {
            0 => return Ok(()),
            length => {
                if let Some(listener) = listener {
                    listener.hear(stream, &piece[..length]);
                }
            }
        }
    }
}
