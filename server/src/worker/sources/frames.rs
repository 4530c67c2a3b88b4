//! The body of `PUT /blobs`: any number of frames, each `BLOB_ID LENGTH\n` and so many bytes. Each blob is on the disk,
//! checked, before the next is looked at, so that what came before a fault is kept.

use common::BlobId;
use std::io::{self, BufRead, BufReader, Read};

use super::store::Store;
use crate::worker::disk;
use crate::worker::pieces::Pieces;

/// An id, a space, a number of 20 digits and the line's end.
const LONGEST_HEAD: u64 = BlobId::LONGEST as u64 + 22;
/// How much is read at once.
const READ_BYTES: usize = 128 * 1024;
/// The disk is asked whether there is room each time that so much has come.
const LOOK_BYTES: u64 = 64 * 1024 * 1024;

/// Why not all of a body was taken; how many blobs were is told before it.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStored {
    #[error("frame {0} does not begin with BLOB_ID LENGTH and a line's end")]
    NoFrame(u64),
    #[error("the bytes that were sent as blob {0} have another id")]
    OtherBytes(BlobId),
    #[error("blob {id} is to have {size_bytes} bytes, and this worker keeps {bound_bytes} bytes of sources")]
    TooLarge { id: BlobId, size_bytes: u64, bound_bytes: u64 },
    #[error("the body ended in the middle of frame {0}")]
    CutOff(u64),
    #[error("disk_full: {0}")]
    DiskFull(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Answers with how many blobs came.
pub(super) fn store(store: &Store, body: Pieces) -> Result<u64, NotStored> {
    let mut body = BufReader::with_capacity(READ_BYTES, body);
    let (mut stored, mut since_look) = (0, LOOK_BYTES);
    loop {
        let frame = stored + 1;
        let mut head = Vec::new();
        (&mut body).take(LONGEST_HEAD).read_until(b'\n', &mut head).map_err(|error| cut_off(error, frame))?;
        if head.is_empty() {
            return Ok(stored);
        }
        let (id, size_bytes) = read_head(&head).ok_or(NotStored::NoFrame(frame))?;
        let bound_bytes = store.bound_bytes();
        if size_bytes > bound_bytes {
            return Err(NotStored::TooLarge { id, size_bytes, bound_bytes });
        }
        let mut draft = store.draft(&id, size_bytes)?;
        let mut left = size_bytes;
        while left > 0 {
            if since_look >= LOOK_BYTES {
                since_look = 0;
                if let Some(shortage) = disk::shortage(store.folder()) {
                    return Err(NotStored::DiskFull(shortage));
                }
            }
            let bytes = body.fill_buf().map_err(|error| cut_off(error, frame))?;
            if bytes.is_empty() {
                return Err(NotStored::CutOff(frame));
            }
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            draft.write(&bytes[..count])?;
            body.consume(count);
            left -= count as u64;
            since_look += count as u64;
        }
        if !draft.keep(&id)? {
            return Err(NotStored::OtherBytes(id));
        }
        stored = frame;
    }
}

fn cut_off(error: io::Error, frame: u64) -> NotStored {
    if error.kind() == io::ErrorKind::UnexpectedEof { NotStored::CutOff(frame) } else { error.into() }
}

fn read_head(head: &[u8]) -> Option<(BlobId, u64)> {
    let (id, length) = std::str::from_utf8(head.strip_suffix(b"\n")?).ok()?.split_once(' ')?;
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    Some((id.parse().ok()?, is_number.then(|| length.parse().ok())??))
}
