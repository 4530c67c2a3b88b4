//! The launcher as the worker has it: started when it is first needed, and again where it went away.

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::launcher::ARGUMENT;

pub(super) struct Helper {
    /// This very binary.
    program: PathBuf,
    /// Those of all sandboxes.
    capabilities: String,
    running: Mutex<Option<Launcher>>,
}

struct Launcher {
    /// Its end is that of the launcher.
    socket: Option<OwnedFd>,
    child: Child,
}

impl Helper {
    pub(super) fn new(program: PathBuf, capabilities: &[String]) -> Helper {
        Helper { program, capabilities: capabilities.join(","), running: Mutex::new(None) }
    }

    /// Has a supervisor started, which gets copies of these descriptors: see `launcher.rs`.
    pub(super) fn order(&self, given: &[BorrowedFd]) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(launcher) = &*running
            && launcher.send(given).is_ok()
        {
            return Ok(());
        }
        let launcher = self.start()?;
        launcher.send(given)?;
        *running = Some(launcher);
        Ok(())
    }

    fn start(&self) -> io::Result<Launcher> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let child = Command::new(&self.program)
            .arg0("bettertest")
            .args([ARGUMENT, &self.capabilities])
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            // A terminal's Ctrl-C is for the worker, which knows what is to happen then.
            .process_group(0)
            .spawn()?;
        Ok(Launcher { socket: Some(ours), child })
    }
}

impl Launcher {
    fn send(&self, given: &[BorrowedFd]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        let fds: Vec<_> = given.iter().map(|fd| fd.as_raw_fd()).collect();
        let byte = [IoSlice::new(&[1])];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(socket.as_raw_fd(), &byte, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.socket = None;
        // It ends at once then. Its supervisors do not.
        drop(self.child.wait());
    }
}
