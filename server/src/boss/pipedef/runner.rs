//! A pipedef's Python process: hearing what it says and prints, answering, and ending it with all that it started.

use futures_util::{SinkExt as _, StreamExt as _};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Serialize;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::process::Child;
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec, LinesCodecError};

use super::host::Host;
use super::pidfd;
use super::words::{Answer, Say};

/// The longest message on the descriptor: 20,000 tasks, and the texts of a large folder, fit.
const LONGEST_MESSAGE: usize = 16 * 1024 * 1024;

/// From the last message to the end of the process, before it is killed.
pub(super) const LAST_BREATH: Duration = Duration::from_secs(2);

/// A process that takes no answer for so long does not listen any more.
pub(super) const DEAF: Duration = Duration::from_secs(10);

/// How much is still taken in of what a process prints while it ends.
const LAST_PRINTED: usize = 1024 * 1024;

/// What comes from a pipedef's Python.
pub(crate) enum Heard {
    Said(Say),
    /// Bytes on its standard output or standard error.
    Printed(Vec<u8>),
    /// It ended, or broke the protocol, which is the same to us.
    Gone,
}

/// What a process printed at its very end.
pub(crate) struct LastPrinted {
    pub(crate) bytes: Vec<u8>,
    /// Printed after that, and not kept.
    pub(crate) lost_bytes: usize,
}

/// A Python process that has an order.
pub(crate) struct Runner {
    process: Process,
    says: FramedRead<OwnedReadHalf, LinesCodec>,
    /// None once it could not be told something.
    answers: Option<FramedWrite<OwnedWriteHalf, LinesCodec>>,
    /// What it inherits of what was printed, until that is told.
    inherited: Vec<u8>,
    /// None once it has closed its output.
    printed: Option<pipe::Receiver>,
    /// Something came on its descriptor that is no message.
    no_message: bool,
}

impl Runner {
    pub(super) fn new(
        process: Process,
        descriptor: StdStream,
        printed: OwnedFd,
        inherited: Vec<u8>,
    ) -> io::Result<Runner> {
        descriptor.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(descriptor)?.into_split();
        Ok(Runner {
            process,
            says: FramedRead::new(read, LinesCodec::new_with_max_length(LONGEST_MESSAGE)),
            answers: Some(FramedWrite::new(write, LinesCodec::new())),
            inherited,
            printed: Some(pipe::Receiver::from_owned_fd(printed)?),
            no_message: false,
        })
    }

    /// Waits for what comes next. May be given up and asked again; nothing is lost.
    pub(crate) async fn heard(&mut self) -> Heard {
        if !self.inherited.is_empty() {
            return Heard::Printed(std::mem::take(&mut self.inherited));
        }
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let line = match &mut self.printed {
                Some(printed) => tokio::select! {
                    count = printed.read(&mut bytes) => match count {
                        Ok(count @ 1..) => {
                            bytes.truncate(count);
                            return Heard::Printed(bytes);
                        }
                        Ok(0) | Err(_) => {
                            self.printed = None;
                            continue;
                        }
                    },
                    line = self.says.next() => line,
                },
                None => self.says.next().await,
            };
            let Some(line) = line else { return Heard::Gone };
            let said = match line {
                Ok(line) => serde_json::from_str(&line).map_err(|error| error.to_string()),
                // Its end is reset where it closes while there is something for it to read.
                Err(LinesCodecError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
                    return Heard::Gone;
                }
                Err(error) => Err(error.to_string()),
            };
            return match said {
                Ok(said) => Heard::Said(said),
                Err(error) => {
                    tracing::debug!("a pipedef's Python said what is no message: {error}");
                    self.no_message = true;
                    Heard::Gone
                }
            };
        }
    }

    pub(crate) async fn answer(&mut self, answer: &Answer) {
        self.send(answer).await;
    }

    /// A process that has gone, or does not listen, cannot be told; what becomes of it, `heard` tells.
    pub(super) async fn send(&mut self, message: &impl Serialize) {
        let line = serde_json::to_string(message).expect("messages are strings, numbers and paths of UTF-8");
        if let Some(answers) = &mut self.answers
            && !matches!(tokio::time::timeout(DEAF, answers.send(line)).await, Ok(Ok(())))
        {
            self.answers = None;
        }
    }

    pub(super) fn said_no_message(&self) -> bool {
        self.no_message
    }

    /// What it has printed before it said what was heard last.
    pub(super) fn printed_until_now(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut bytes = vec![0; 16 * 1024];
        // Asked of the pipe itself: the runtime may not have heard yet that there is something in it.
        while let Some(printed) = &self.printed
            && let Ok(count @ 1..) = nix::unistd::read(printed.as_fd(), &mut bytes)
        {
            all.extend_from_slice(&bytes[..count]);
        }
        all
    }

    /// The process and its descriptor. What it prints from now on is nobody's.
    pub(super) fn into_parts(self) -> io::Result<(Process, UnixStream)> {
        let gone = || io::Error::other("its descriptor is closed");
        let write = self.answers.ok_or_else(gone)?.into_inner();
        let descriptor = self.says.into_inner().reunite(write).map_err(io::Error::other)?;
        Ok((self.process, descriptor))
    }

    /// Ends the process and all that it started; returns what it printed last.
    ///
    /// `at_once` where it waits for what will never come; else it gets a moment to end by itself.
    pub(crate) async fn end(mut self, at_once: bool) -> LastPrinted {
        if at_once {
            self.process.kill();
        }
        let mut last = LastPrinted { bytes: std::mem::take(&mut self.inherited), lost_bytes: 0 };
        if let Some(mut printed) = self.printed.take() {
            let process = &mut self.process;
            let rest = async {
                // The pipe closes when the process and all its children have ended.
                let mut bytes = vec![0; 16 * 1024];
                loop {
                    let count = tokio::select! {
                        count = printed.read(&mut bytes) => count,
                        () = process.left_alone() => {
                            process.kill();
                            continue;
                        }
                    };
                    let Ok(count @ 1..) = count else { return };
                    let room = LAST_PRINTED.saturating_sub(last.bytes.len()).min(count);
                    last.bytes.extend_from_slice(&bytes[..room]);
                    last.lost_bytes += count - room;
                }
            };
            // Either it has closed its output by then, or it never will.
            drop(tokio::time::timeout(LAST_BREATH, rest).await);
        }
        self.process.kill();
        self.process.ended().await;
        last
    }
}

/// The process of a pipedef's Python. Its number is that of its group, in which is what it has started.
pub(super) enum Process {
    /// A child of ours. Until it is waited for, its number means it and nothing else.
    Started(Child),
    Forked(Forked),
}

/// A child of the host, which does not wait for it before it is told to.
pub(super) struct Forked {
    pub(super) pid: Pid,
    pub(super) leader: AsyncFd<OwnedFd>,
    pub(super) host: Arc<Host>,
    /// The host may have waited for it.
    pub(super) released: bool,
    pub(super) killed: bool,
}

impl Process {
    /// Ends all that is in the group.
    pub(super) fn kill(&mut self) {
        let (group, killed) = match self {
            Process::Started(child) => {
                let Some(pid) = child.id() else { return };
                let group = Pid::from_raw(pid as i32);
                (group, killpg(group, Signal::SIGKILL))
            }
            Process::Forked(Forked { released: true, .. }) => return,
            Process::Forked(forked) => {
                forked.killed = true;
                (forked.pid, pidfd::kill_group(forked.leader.get_ref().as_fd(), forked.pid))
            }
        };
        match killed {
            Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => {}
            Err(error) => tracing::warn!("process group {group} could not be killed: {error}"),
        }
    }

    /// Waits for the process that leads the group; from then on its number may mean another.
    pub(super) async fn ended(&mut self) {
        let ended = match self {
            Process::Started(child) => child.wait().await.map(drop),
            Process::Forked(forked) => forked.leader.readable().await.map(drop),
        };
        if let Err(error) = ended {
            tracing::warn!("a pipedef's Python could not be waited for: {error}");
        }
        self.release();
    }

    /// Waits until it has ended and nobody is there who keeps its number: what it started is to be ended then, too,
    /// for nobody knows later whose the number is. For ever where there is somebody.
    async fn left_alone(&mut self) {
        match self {
            Process::Started(_) | Process::Forked(Forked { killed: true, .. }) => {
                std::future::pending().await
            }
            Process::Forked(forked) => {
                if forked.leader.readable().await.is_err() || !forked.host.is_gone() {
                    std::future::pending().await
                }
            }
        }
    }

    pub(super) fn is_gone(&mut self) -> bool {
        match self {
            Process::Started(child) => !matches!(child.try_wait(), Ok(None)),
            Process::Forked(_) => unreachable!("only what was started is asked"),
        }
    }

    fn release(&mut self) {
        if let Process::Forked(forked) = self
            && !std::mem::replace(&mut forked.released, true)
        {
            forked.host.release(forked.pid);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.release();
    }
}
