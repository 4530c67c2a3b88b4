//! The end of what was printed: of one step of an attempt, or of all of it. For those who want to know why it failed, and
//! read no more than they have to.

use common::{Mark, StepId};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{OutputId, Outputs, whole_marks};

/// Of the end of an output.
const LAST_BYTES: u64 = 64 * 1024;

impl Outputs {
    /// The last bytes of a step, without what others printed between them; empty where it printed nothing.
    pub(crate) fn end_of_step(&self, id: OutputId, step: &StepId) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(id))?;
        let size_bytes = file.metadata()?.len();
        let (marks, _) = whole_marks(&std::fs::read(self.index_path(id))?, size_bytes);
        let (mut pieces, mut room, mut end) = (Vec::new(), LAST_BYTES, size_bytes);
        for mark in marks.iter().rev() {
            let is_its = match &mark.mark {
                Mark::Output { step: of, .. } => of == step,
                Mark::Dropped { .. } | Mark::Gap { .. } | Mark::Pipedef | Mark::PipedefDropped { .. } => {
                    false
                }
            };
            let from = mark.offset.max(end.saturating_sub(room));
            if is_its && from < end {
                let mut piece = vec![0; (end - from) as usize];
                file.read_exact_at(&mut piece, from)?;
                room -= end - from;
                pieces.push(piece);
            }
            end = mark.offset;
        }
        pieces.reverse();
        Ok(pieces.concat())
    }
}

/// The last bytes of an output.
pub(crate) fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = vec![0; size.min(LAST_BYTES) as usize];
    file.read_exact_at(&mut bytes, size.saturating_sub(LAST_BYTES))?;
    Ok(bytes)
}
