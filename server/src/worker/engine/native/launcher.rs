//! The process from which supervisors come: one thread, no secret, nothing but this. The worker has it started anew
//! from the binary, for a process with many threads must not be forked.
//!
//! Its standard input is a socket. Each message on it is the folder of a step, with descriptors: the lock of the
//! step, the socket to listen on, and where it has one the network.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::{seccomp, supervisor};

/// What the binary is called with; nobody types it.
pub(crate) const ARGUMENT: &str = "native-launcher";

pub(super) const LONGEST_PATH: usize = 4096;

/// Until the worker is gone. `capabilities`: those of all sandboxes, with commas between.
pub(crate) fn launch(capabilities: &str) -> Result<(), String> {
    let words = |error: Errno| format!("the native launcher cannot go on: {error}");
    let capabilities: Vec<&str> = capabilities.split(',').filter(|name| !name.is_empty()).collect();
    let filter = seccomp::program(&capabilities).map_err(|error| error.to_string())?;
    // Started by way of /proc, it would be called `exe` in every list of processes.
    prctl::set_name(c"bettertest").map_err(words)?;
    // SAFETY: no handler: ended supervisors are nobody's concern.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map_err(words)?;
    while let Some((folder, mut given)) = next().map_err(words)? {
        // SAFETY: this process has one thread.
        match unsafe { fork() }.map_err(words)? {
            ForkResult::Parent { .. } => {}
            ForkResult::Child => {
                let network = if given.len() > 2 { given.pop() } else { None };
                let (Some(listener), Some(_held)) = (given.pop(), given.pop()) else {
                    return Err("an order came without its descriptors".to_owned());
                };
                detach().map_err(words)?;
                let listener = UnixListener::from(listener);
                return supervisor::supervise(&folder, listener, network, &filter)
                    .map_err(|error| error.to_string());
            }
        }
    }
    Ok(())
}

fn next() -> nix::Result<Option<(PathBuf, Vec<OwnedFd>)>> {
    let mut path = [0; LONGEST_PATH];
    let mut room = nix::cmsg_space!([RawFd; 3]);
    let (length, given) = loop {
        let mut into = [IoSliceMut::new(&mut path)];
        let stdin = std::io::stdin().as_raw_fd();
        match recvmsg::<()>(stdin, &mut into, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(message) => {
                let mut given = Vec::new();
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(fds) = part {
                        // SAFETY: the kernel has just made these for us.
                        given.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                break (message.bytes, given);
            }
        }
    };
    // Nothing is said where nobody is left to say it.
    Ok((length > 0).then(|| (PathBuf::from(std::ffi::OsString::from_vec(path[..length].to_vec())), given)))
}

/// It lives on when launcher and worker are gone, and says nothing to their terminal.
fn detach() -> nix::Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}
