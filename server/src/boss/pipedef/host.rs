//! A process that has executed a pipedef and is forked for each task of a run: a task has no Python to start then.
//! `bettertest/_host.py` is the other end.
//!
//! A fork is no child of ours. That its number is still its own, the host sees to: it waits for nobody before it is
//! told to. What a fork executes comes by its own descriptor, and only once we can kill it.

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::unistd::Pid;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::pidfd;
use super::runner::{DEAF, Forked, LAST_BREATH, Process, Runner};
use super::words::{Order, Say};

pub(crate) struct Host {
    process: Mutex<Process>,
    control: UnixStream,
    /// Forks whose numbers it may forget, as far as it was not told.
    released: Mutex<Vec<i32>>,
    /// What the pipedef printed outside of its tasks. Each of them has printed that.
    printed: Vec<u8>,
    given_up: AtomicBool,
}

impl Host {
    /// Of a process that stays.
    pub(super) fn of(runner: Runner, printed: Vec<u8>) -> io::Result<Host> {
        let (process, control) = runner.into_parts()?;
        Ok(Host {
            process: Mutex::new(process),
            control,
            released: Mutex::default(),
            printed,
            given_up: AtomicBool::new(false),
        })
    }

    /// A fork that executes this task.
    pub(crate) async fn start(self: &Arc<Host>, stage: &str, task: &str) -> io::Result<Runner> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(io::Error::other("is given up"));
        }
        let forked = tokio::time::timeout(DEAF, self.fork()).await;
        let mut runner = forked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        runner.send(&Order::Forked { stage: stage.to_owned(), task: task.to_owned() }).await;
        Ok(runner)
    }

    /// After a fork that came to nothing: is none to be asked for any more? True once.
    pub(crate) fn give_up(&self, error: &io::Error) -> bool {
        // There were too many processes for the moment.
        if error.kind() == io::ErrorKind::UnexpectedEof && !self.is_gone() {
            return false;
        }
        self.process.lock().expect("no panic under this lock").kill();
        !self.given_up.swap(true, Ordering::Relaxed)
    }

    /// Lets it do what the pipedef wants to be done at the end, and ends it.
    pub(crate) async fn end(&self) {
        // Not before: its forks are children of it.
        let over = async {
            self.tell(&Order::End, &[]).await?;
            let mut nothing = [0];
            loop {
                self.control.readable().await?;
                match self.control.try_read(&mut nothing) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        let over: Result<io::Result<()>, _> = tokio::time::timeout(LAST_BREATH, over).await;
        if !matches!(over, Ok(Ok(()))) {
            tracing::debug!("a pipedef's Python did not end by itself: {over:?}");
        }
        self.process.lock().expect("no panic under this lock").kill();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.process.lock().expect("no panic under this lock").is_gone()
    }

    /// The number of this fork is not needed any more.
    pub(super) fn release(&self, pid: Pid) {
        let mut released = self.released.lock().expect("no panic under this lock");
        released.push(pid.as_raw());
        let order = line(&Order::Reap { pids: released.clone() });
        // Where it cannot hear that now, it is told with the next.
        if matches!(send(&self.control, &order, &[]), Ok(sent) if sent == order.len()) {
            released.clear();
        }
    }

    async fn fork(self: &Arc<Host>) -> io::Result<Runner> {
        let (ours, theirs) = StdStream::pair()?;
        let (printed, print) = io::pipe()?;
        setsockopt(&ours, sockopt::PassCred, &true)?;
        self.tell(&Order::Fork, &[theirs.as_raw_fd(), print.as_raw_fd()]).await?;
        // While we hold them, nobody could be seen to have closed them.
        drop((theirs, print));
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let pid = ours.async_io(Interest::READABLE, || ready(&ours)).await?;
        let leader = pidfd::open(pid)?;
        if self.is_gone() {
            // Then the number may have been another's by the time that we looked.
            return Err(io::Error::other("ended while it was forked"));
        }
        let host = self.clone();
        let process = Process::Forked(Forked { pid, leader, host, released: false, killed: false });
        let ours = ours.into_std()?;
        setsockopt(&ours, sockopt::PassCred, &false)?;
        Runner::new(process, ours, OwnedFd::from(printed), self.printed.clone())
    }

    async fn tell(&self, order: &Order, descriptors: &[RawFd]) -> io::Result<()> {
        let order = line(order);
        let sent =
            self.control.async_io(Interest::WRITABLE, || send(&self.control, &order, descriptors)).await?;
        if sent == order.len() { Ok(()) } else { Err(io::Error::other("does not listen")) }
    }
}

fn line(order: &Order) -> Vec<u8> {
    let mut line = serde_json::to_vec(order).expect("these orders are words and numbers");
    line.push(b'\n');
    line
}

/// So short a line goes whole or not at all, and does not mix with another.
fn send(control: &UnixStream, line: &[u8], descriptors: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights: &[_] = if descriptors.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<()>(control.as_raw_fd(), &[IoSlice::new(line)], rights, flags, None)?)
}

/// The number of a fork: the kernel says it, and the fork the same, unless it counts in a namespace of its own.
fn ready(descriptor: &UnixStream) -> io::Result<Pid> {
    let mut bytes = [0; 64];
    let mut room = nix::cmsg_space!(UnixCredentials);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let heard = recvmsg::<()>(descriptor.as_raw_fd(), &mut into, Some(&mut room), MsgFlags::MSG_DONTWAIT)?;
    let kernels = heard.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
        _ => None,
    });
    let count = heard.bytes;
    match serde_json::from_slice(&bytes[..count]) {
        Ok(Say::Ready { pid }) if kernels == Some(pid) && pid > 0 => Ok(Pid::from_raw(pid)),
        Ok(said) => Err(io::Error::other(format!("said {said:?}, and is {kernels:?}"))),
        Err(_) if count == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(io::Error::other(format!("said what is no message: {error}"))),
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}
