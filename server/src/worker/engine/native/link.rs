//! The worker's end of the line to a supervisor.

use bytes::{Buf as _, Bytes, BytesMut};
use common::Stream;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::START;
use super::order::{Ended, SOCKET};
use super::supervisor::{
    BEGAN, DONE, FAILED, FOLLOW, GO, GONE, ON_THE_WAY_BYTES, OVER, READY, STDERR, STDOUT,
};

const HEAD_BYTES: usize = 5;
/// How much is read at once: most steps print little, and what fills that is likely to be a torrent.
const FEW_BYTES: usize = 8 * 1024;
const MANY_BYTES: usize = 256 * 1024;

pub(super) struct Link {
    stream: UnixStream,
    buffer: BytesMut,
    read_bytes: usize,
    /// How much of the output was passed on, by this worker and those before it.
    taken: u64,
    acknowledged: u64,
}

#[derive(Debug)]
pub(super) enum Said {
    /// The sandbox waits for its step.
    Ready,
    Began {
        age: Duration,
        has_ended: bool,
    },
    Output(Stream, Bytes),
    /// So much is lost.
    Gone,
    Over(Ended),
    Failed(String),
}

impl Link {
    /// `told`: how much of the output is known already.
    pub(super) async fn follow(folder: &Path, told: u64) -> io::Result<Link> {
        let mut stream = connect(folder).await?;
        stream.write_all(&[&[FOLLOW][..], &told.to_be_bytes()].concat()).await?;
        Ok(Link::new(stream, told))
    }

    /// Of whoever has a sandbox made: the other end is its supervisor's.
    pub(super) fn pair() -> io::Result<(Link, std::os::unix::net::UnixStream)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Link::new(UnixStream::from_std(ours)?, 0), theirs))
    }

    fn new(stream: UnixStream, told: u64) -> Link {
        Link { stream, buffer: BytesMut::new(), read_bytes: FEW_BYTES, taken: told, acknowledged: told }
    }

    /// Comes when the sandbox waits for its step.
    pub(super) async fn is_ready(&mut self) -> io::Result<()> {
        match tokio::time::timeout(START, self.next()).await?? {
            Some(Said::Ready) => Ok(()),
            Some(Said::Failed(why)) => Err(io::Error::other(why)),
            Some(Said::Began { .. } | Said::Output(..) | Said::Gone | Said::Over(_)) | None => {
                Err(io::Error::other("its supervisor does not say that it is ready"))
            }
        }
    }

    /// The order is in the folder.
    pub(super) async fn go(&mut self) -> io::Result<()> {
        self.stream.write_all(&[GO]).await
    }

    /// As far as has been seen. Of a sandbox that waits, which says nothing.
    pub(super) fn is_open(&self) -> bool {
        let seen = self.stream.try_read(&mut [0]);
        seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// None where the supervisor is gone.
    pub(super) async fn next(&mut self) -> io::Result<Option<Said>> {
        loop {
            if let Some(frame) = self.frame() {
                return said(frame).map(Some);
            }
            self.buffer.reserve(self.read_bytes);
            match self.stream.read_buf(&mut self.buffer).await? {
                0 => return Ok(None),
                count => self.read_bytes = if count < FEW_BYTES { FEW_BYTES } else { MANY_BYTES },
            }
        }
    }

    /// This much more was passed on to where it is stored. What the supervisor may forget is less.
    pub(super) async fn passed_on(&mut self, bytes: usize) -> io::Result<()> {
        self.taken += bytes as u64;
        let stored = self.taken.saturating_sub(ON_THE_WAY_BYTES);
        if stored > self.acknowledged + ON_THE_WAY_BYTES / 8 {
            self.acknowledged = stored;
            self.stream.write_all(&stored.to_be_bytes()).await?;
        }
        Ok(())
    }

    fn frame(&mut self) -> Option<(u8, Bytes)> {
        let head: [u8; HEAD_BYTES] = self.buffer.get(..HEAD_BYTES)?.try_into().ok()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if self.buffer.len() < HEAD_BYTES + length {
            return None;
        }
        self.buffer.advance(HEAD_BYTES);
        Some((head[0], self.buffer.split_to(length).freeze()))
    }
}

fn said((kind, bytes): (u8, Bytes)) -> io::Result<Said> {
    let odd = || io::Error::other("a supervisor said what none says");
    Ok(match kind {
        STDOUT => Said::Output(Stream::Stdout, bytes),
        STDERR => Said::Output(Stream::Stderr, bytes),
        GONE => Said::Gone,
        READY => Said::Ready,
        BEGAN => {
            let (ms, has_ended) = bytes.split_at_checked(8).ok_or_else(odd)?;
            let ms = u64::from_be_bytes(ms.try_into().map_err(|_| odd())?);
            Said::Began { age: Duration::from_millis(ms), has_ended: has_ended == [1] }
        }
        OVER => Said::Over(serde_json::from_slice(&bytes)?),
        FAILED => Said::Failed(String::from_utf8_lossy(&bytes).into_owned()),
        _ => return Err(odd()),
    })
}

/// Asks for one thing, and hears whether it was done.
pub(super) async fn ask(folder: &Path, what: u8) -> io::Result<bool> {
    let mut stream = connect(folder).await?;
    stream.write_all(&[what]).await?;
    Ok(stream.read_u8().await? == DONE)
}

async fn connect(folder: &Path) -> io::Result<UnixStream> {
    // A socket's name has to be short, and that of the folder may be long.
    let folder = open(folder, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    UnixStream::connect(PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))).await
}

/// Where the supervisor of this folder is to listen.
pub(super) fn listen(folder: &Path) -> io::Result<UnixListener> {
    let folder = open(folder, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}
