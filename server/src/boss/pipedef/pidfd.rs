//! Processes that are not our children, by descriptors: a number may mean another one at any moment.
//!
//! The two calls are the kernel's own, since no library here has them with the flag that this is about.

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Linux 6.9: the group that this process leads or led, whatever has its number now.
const PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Becomes readable when the process ends.
pub(super) fn open(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: it takes two numbers.
    let opened = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: it is new, and nobody else's.
    let opened = unsafe { OwnedFd::from_raw_fd(opened as i32) };
    // SAFETY: it is neither replaced nor closed while the runtime watches it, which now owns it.
    Ok(unsafe { AsyncFd::register_with_interest(opened, Interest::READABLE) }?)
}

/// Kills the group that this process leads.
pub(super) fn kill_group(leader: BorrowedFd<'_>, pid: Pid) -> Result<(), Errno> {
    match send(leader, libc::SIGKILL, PROCESS_GROUP) {
        // An older kernel. Who still is there, or is waited for by nobody yet, keeps its number.
        Err(Errno::EINVAL) => {
            send(leader, 0, 0)?;
            killpg(pid, Signal::SIGKILL)
        }
        sent => sent,
    }
}

fn send(process: BorrowedFd<'_>, signal: libc::c_int, flags: libc::c_uint) -> Result<(), Errno> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: it takes numbers, and without a siginfo it makes one.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, flags) };
    Errno::result(sent).map(drop)
}
