//! The process from which supervisors come: one thread, no secret, nothing but this. The worker has it started anew
//! from the binary, for a process with many threads must not be forked.
//!
//! Its standard input is a socket. Each message on it is one byte with descriptors: the folder of a sandbox, its lock,
//! the socket to listen on, the line to who has it made, and where it has one the network.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use super::cgroup::Hierarchy;
use super::seccomp;
use super::supervisor::{self, Given};

/// What the binary is called with; nobody types it.
pub(crate) const ARGUMENT: &str = "native-launcher";

/// Until the worker is gone. `capabilities`: those of all sandboxes, with commas between.
pub(crate) fn launch(capabilities: &str) -> Result<(), String> {
    let words = |error: Errno| format!("the native launcher cannot go on: {error}");
    let capabilities: Vec<&str> = capabilities.split(',').filter(|name| !name.is_empty()).collect();
    let filter = seccomp::program(&capabilities).map_err(|error| error.to_string())?;
    let hierarchy = Hierarchy::of_this_host().map_err(|error| error.to_string())?;
    // Started by way of /proc, it would be called `exe` in every list of processes.
    prctl::set_name(c"bettertest").map_err(words)?;
    // SAFETY: no handler: ended supervisors are nobody's concern.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map_err(words)?;
    while let Some(given) = next().map_err(words)? {
        // SAFETY: this process has one thread.
        match unsafe { fork() }.map_err(words)? {
            ForkResult::Parent { .. } => {}
            ForkResult::Child => {
                let mut given = given.into_iter();
                let mut next = || given.next();
                let (Some(folder), Some(_held), Some(listener), Some(customer)) =
                    (next(), next(), next(), next())
                else {
                    return Err("an order came without its descriptors".to_owned());
                };
                let (listener, customer, network) = (listener.into(), customer.into(), next());
                detach().map_err(words)?;
                return supervisor::supervise(
                    Given { folder, listener, customer, network },
                    &filter,
                    &hierarchy,
                )
                .map_err(|error| error.to_string());
            }
        }
    }
    Ok(())
}

/// None where nobody is left to say anything.
fn next() -> nix::Result<Option<Vec<OwnedFd>>> {
    let mut byte = [0];
    let mut room = nix::cmsg_space!([RawFd; 5]);
    loop {
        let mut into = [IoSliceMut::new(&mut byte)];
        let stdin = std::io::stdin().as_raw_fd();
        match recvmsg::<()>(stdin, &mut into, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(message) if message.bytes == 0 => return Ok(None),
            Ok(message) => {
                let mut given = Vec::new();
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(fds) = part {
                        // SAFETY: the kernel has just made these for us.
                        given.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                return Ok(Some(given));
            }
        }
    }
}

/// It lives on when launcher and worker are gone, and says nothing to their terminal.
fn detach() -> nix::Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}
