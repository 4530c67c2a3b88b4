//! One process for each sandbox, which outlives the worker: it makes the sandbox, keeps what it prints until that is
//! stored elsewhere, and knows how it ended.
//!
//! It begins with a line to whoever had the sandbox made, who is told when it waits for a step, and orders one by one
//! byte; with that he is the first follower. Where he goes without an order, the sandbox goes as well.
//!
//! Whoever connects says what for, in one byte: to follow (with eight more: how much of the output it knows), to
//! send a signal, or to remove all; the latter are answered by one byte. A follower is sent frames: one byte that
//! says what it is, four of length, then so many bytes. It sends back how much is stored, eight bytes at a time.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{fchdir, setsid};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::born::{Sandbox, Stage};
use super::cgroup::Hierarchy;
use super::files::Doing as _;
use super::kept::Kept;
use super::order::{BASE, Base, ENDED, LONG_PAST_S};

pub(super) const FOLLOW: u8 = b'f';
pub(super) const TERMINATE: u8 = b't';
pub(super) const KILL: u8 = b'k';
pub(super) const REMOVE: u8 = b'r';
/// Said by the one who had the sandbox made: the order of a step is in the folder.
pub(super) const GO: u8 = b'g';
pub(super) const DONE: u8 = 1;
pub(super) const NOT_DONE: u8 = 0;

pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
/// Output that is no longer there: its length as eight bytes.
pub(super) const GONE: u8 = 3;
/// How long the command has run, in ms, as eight bytes, and whether it has ended, as one.
pub(super) const BEGAN: u8 = 4;
/// An `Ended`, as JSON.
pub(super) const OVER: u8 = 5;
/// Why there is no sandbox, in words.
pub(super) const FAILED: u8 = 6;

/// The sandbox waits for its step.
pub(super) const READY: u8 = 7;

/// Then what prints has to wait.
const MOST_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// So much less than what it has taken in a follower says to be stored, as what it passed on may be on its way yet.
pub(super) const ON_THE_WAY_BYTES: u64 = 2 * 1024 * 1024;

/// What a supervisor begins with.
pub(super) struct Given {
    /// It has another name once there is a step.
    pub(super) folder: OwnedFd,
    pub(super) listener: UnixListener,
    /// To whoever has the sandbox made.
    pub(super) customer: UnixStream,
    /// A namespace with a way out.
    pub(super) network: Option<OwnedFd>,
}

/// Serves one sandbox, until somebody removes it.
pub(super) fn supervise(given: Given, filter: &[libc::sock_filter], hierarchy: &Hierarchy) -> io::Result<()> {
    let _ = setsid();
    // SAFETY: no handler is taken away: the launcher ignores the ends of its children, and has none.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    let Given { folder, listener, customer, network } = given;
    // By no name, for that will change; and it is copied with the namespace of mounts, which a descriptor is not.
    fchdir(&folder)?;
    let folder = PathBuf::from(".");
    let made = fs::read(folder.join(BASE)).doing("reading what it is made of").and_then(|json| {
        let base: Base = serde_json::from_slice(&json).doing("reading what it is made of")?;
        Sandbox::make(&folder, &base, network, filter, hierarchy)
    });
    let (sandbox, last) = match made {
        Ok(sandbox) => (Some(sandbox), None),
        Err(why) => (None, Some(frame(FAILED, why.as_bytes()))),
    };
    listener.set_nonblocking(true)?;
    customer.set_nonblocking(true)?;
    let mut supervisor = Supervisor {
        folder,
        sandbox,
        kept: Kept::default(),
        last,
        until_s: u64::MAX,
        customer: Some(customer),
        is_told: false,
        followers: Vec::new(),
        visitors: Vec::new(),
    };
    supervisor.serve(&listener)
}

struct Supervisor {
    /// This process is in it.
    folder: PathBuf,
    sandbox: Option<Sandbox>,
    kept: Kept,
    /// The last frame, once it is known.
    last: Option<Vec<u8>>,
    /// Seconds since 1970.
    until_s: u64,
    /// Until there is an order.
    customer: Option<UnixStream>,
    /// The customer knows that the sandbox waits.
    is_told: bool,
    followers: Vec<Follower>,
    /// Who has not said yet what for.
    visitors: Vec<UnixStream>,
}

struct Follower {
    stream: UnixStream,
    knows_beginning: bool,
    /// The next piece, and how many bytes of it and its head were sent.
    piece: u64,
    sent: usize,
    /// Frames that are sent before the next piece.
    waiting: Vec<u8>,
    is_told_all: bool,
    /// Half a number that it sent, and the last whole one.
    heard: Vec<u8>,
    stored: u64,
}

/// Nothing is left to be supervised.
struct Removed;

impl Supervisor {
    fn serve(&mut self, listener: &UnixListener) -> io::Result<()> {
        loop {
            let left_s = self.until_s.saturating_sub(now_s());
            if left_s == 0 {
                self.remove();
                return Ok(());
            }
            let ready = self.wait(listener, left_s)?;
            if ready.listener
                && let Ok((stream, _)) = listener.accept()
            {
                stream.set_nonblocking(true)?;
                self.visitors.push(stream);
            }
            self.look(&ready);
            if let Err(Removed) = self.hear_customer().and_then(|()| self.hear()) {
                return Ok(());
            }
            let (sandbox, kept, last) = (&self.sandbox, &self.kept, self.last.as_deref());
            let began =
                sandbox.as_ref().and_then(|sandbox| Some((sandbox.age_ms()?, sandbox.alive().is_none())));
            self.followers.retain_mut(|follower| follower.tell(kept, began, last).is_ok());
        }
    }

    fn wait(&self, listener: &UnixListener, left_s: u64) -> io::Result<Ready> {
        let mut watched = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let may_read = self.kept.bytes() < MOST_KEPT_BYTES;
        let own: Vec<_> = self.sandbox.iter().flat_map(|sandbox| sandbox.watched(may_read)).collect();
        watched.extend(own.iter().map(|fd| readable(*fd)));
        watched.extend(self.customer.iter().chain(&self.visitors).map(|stream| readable(stream.as_fd())));
        watched.extend(self.followers.iter().map(|follower| {
            let more = follower.has_more(&self.kept, self.last.is_some());
            let events = if more { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            PollFd::new(follower.stream.as_fd(), events)
        }));
        let timeout = u16::try_from(left_s.min(60)).unwrap_or(60) * 1000;
        match poll(&mut watched, PollTimeout::from(timeout)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let any = |watched: &[PollFd]| watched.iter().any(|one| one.any().unwrap_or(false));
        Ok(Ready { listener: any(&watched[..1]), sandbox: any(&watched[1..=own.len()]) })
    }

    fn look(&mut self, ready: &Ready) {
        let Some(sandbox) = self.sandbox.as_mut().filter(|_| ready.sandbox) else { return };
        let may_read = self.kept.bytes() < MOST_KEPT_BYTES;
        sandbox.read(may_read, |kind, bytes| self.kept.push(kind, bytes));
        match sandbox.stage() {
            Stage::Running => {}
            Stage::Failed(why) if self.last.is_none() => self.last = Some(frame(FAILED, why.as_bytes())),
            Stage::Over(ended) if self.last.is_none() => {
                let json = serde_json::to_vec(&ended).expect("an end is numbers");
                // For the case that this process does not live to tell it: nobody reads it before.
                drop(fs::write(self.folder.join(ENDED), &json));
                self.last = Some(frame(OVER, &json));
            }
            Stage::Failed(_) | Stage::Over(_) => {}
        }
    }

    /// Whether there is an order, or nobody any more who might give one; until then he is told how far it is.
    fn hear_customer(&mut self) -> Result<(), Removed> {
        let Some(mut customer) = self.customer.take() else { return Ok(()) };
        match customer.read(&mut [0]) {
            Ok(1..) => {
                self.begin();
                self.followers.push(Follower::new(customer, &self.kept, 0));
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => {
                self.remove();
                return Err(Removed);
            }
        }
        if let Some(last) = &self.last {
            // Where he does not hear it, he sees that nobody is there.
            drop(customer.write_all(last));
            self.remove();
            return Err(Removed);
        }
        if !self.is_told && self.sandbox.as_ref().is_some_and(Sandbox::is_ready) {
            self.is_told = true;
            drop(customer.write_all(&frame(READY, &[])));
        }
        self.customer = Some(customer);
        Ok(())
    }

    fn begin(&mut self) {
        let began = self.sandbox.as_mut().map(|sandbox| sandbox.begin(&self.folder));
        match began {
            Some(Ok(deadline_s)) => self.until_s = deadline_s.saturating_add(LONG_PAST_S),
            Some(Err(why)) => {
                self.remove();
                self.sandbox = None;
                self.last = Some(frame(FAILED, why.as_bytes()));
                self.until_s = now_s().saturating_add(LONG_PAST_S);
            }
            None => self.until_s = now_s().saturating_add(LONG_PAST_S),
        }
    }

    /// What visitors want, and what followers say.
    fn hear(&mut self) -> Result<(), Removed> {
        let mut still = Vec::new();
        for mut visitor in std::mem::take(&mut self.visitors) {
            let mut words = [0; 9];
            let length = match visitor.read(&mut words) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    still.push(visitor);
                    continue;
                }
                Ok(length) => length,
                Err(_) => 0,
            };
            match (words[0], length) {
                (FOLLOW, 9) => {
                    let told = u64::from_be_bytes(words[1..].try_into().expect("eight bytes"));
                    self.followers.push(Follower::new(visitor, &self.kept, told));
                }
                (TERMINATE, 1..) => self.signal(&mut visitor, Signal::SIGTERM),
                (KILL, 1..) => self.signal(&mut visitor, Signal::SIGKILL),
                (REMOVE, 1..) => {
                    if self.sandbox.as_mut().is_none_or(|sandbox| sandbox.end().is_ok()) {
                        drop(visitor.write_all(&[DONE]));
                        // Groups may wait long for the kernel. They go before the lock does.
                        self.remove();
                        return Err(Removed);
                    }
                    drop(visitor.write_all(&[NOT_DONE]));
                }
                // It went away again.
                _ => {}
            }
        }
        self.visitors = still;
        let kept = &mut self.kept;
        self.followers.retain_mut(|follower| {
            follower.hear().is_ok_and(|stored| {
                kept.let_go(stored);
                true
            })
        });
        Ok(())
    }

    fn signal(&self, visitor: &mut UnixStream, signal: Signal) {
        if let Some(init) = self.sandbox.as_ref().and_then(Sandbox::alive) {
            // It is our child and was not waited for, so that this is no other's number.
            let _ = kill(init, signal);
        }
        drop(visitor.write_all(&[DONE]));
    }

    /// What cannot be removed is left to the worker, who finds the lock free.
    fn remove(&mut self) {
        drop(self.sandbox.as_mut().map(Sandbox::remove));
    }
}

struct Ready {
    listener: bool,
    sandbox: bool,
}

impl Follower {
    fn new(stream: UnixStream, kept: &Kept, told: u64) -> Follower {
        let place = kept.after(told);
        let waiting = if place.missing > 0 { frame(GONE, &place.missing.to_be_bytes()) } else { Vec::new() };
        let mut follower = Follower {
            stream,
            knows_beginning: false,
            piece: place.piece,
            sent: 0,
            waiting,
            is_told_all: false,
            heard: Vec::new(),
            stored: 0,
        };
        if let Some(piece) = kept.get(place.piece)
            && place.skip > 0
        {
            follower.waiting.extend(frame(piece.kind, &piece.bytes[place.skip..]));
            follower.piece += 1;
        }
        follower
    }

    fn has_more(&self, kept: &Kept, has_last: bool) -> bool {
        let has_output = !self.waiting.is_empty() || kept.get(self.piece).is_some();
        (has_output && self.knows_beginning) || (has_last && !self.is_told_all)
    }

    /// Sends what there is, as far as it is taken; an error where nobody takes it any more.
    fn tell(&mut self, kept: &Kept, began: Option<(u64, bool)>, last: Option<&[u8]>) -> io::Result<()> {
        if let Some((age_ms, has_ended)) = began.filter(|_| !self.knows_beginning) {
            self.knows_beginning = true;
            let said = [&age_ms.to_be_bytes()[..], &[u8::from(has_ended)]].concat();
            self.waiting.splice(0..0, frame(BEGAN, &said));
        }
        if !self.knows_beginning && last.is_none() {
            // A command may print before it is heard here that it began.
            return Ok(());
        }
        loop {
            let written = if !self.waiting.is_empty() {
                let written = self.stream.write(&self.waiting);
                if let Ok(count) = written {
                    self.waiting.drain(..count);
                }
                written
            } else if let Some(piece) = kept.get(self.piece) {
                let head = head(piece.kind, piece.bytes.len());
                let whole = head.len() + piece.bytes.len();
                let (a, b) = (self.sent.min(head.len()), self.sent.saturating_sub(head.len()));
                let slices = [io::IoSlice::new(&head[a..]), io::IoSlice::new(&piece.bytes[b..])];
                let written = self.stream.write_vectored(&slices);
                if let Ok(count) = written {
                    self.sent += count;
                    if self.sent == whole {
                        (self.piece, self.sent) = (self.piece + 1, 0);
                    }
                }
                written
            } else if let Some(last) = last.filter(|_| !self.is_told_all) {
                self.is_told_all = true;
                self.waiting.extend_from_slice(last);
                continue;
            } else {
                return Ok(());
            };
            match written {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// How much is stored, as far as it said; an error where it is gone.
    fn hear(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 512];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let whole = self.heard.len() / 8 * 8;
        if let Some(at) = whole.checked_sub(8) {
            self.stored = u64::from_be_bytes(self.heard[at..whole].try_into().expect("eight bytes"));
        }
        self.heard.drain(..whole);
        Ok(self.stored)
    }
}

fn head(kind: u8, length: usize) -> [u8; 5] {
    let length = u32::try_from(length).expect("a piece is what was read at once").to_be_bytes();
    [kind, length[0], length[1], length[2], length[3]]
}

fn frame(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&head(kind, bytes.len()), bytes].concat()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
