//! The few calls for which no library here has a safe form. Nothing else of this engine is unsafe but forking.

use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::thread::CapabilitySet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// The crate's own does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child with namespaces of its own, in a cgroup v2 where one is given.
pub(super) enum Cloned {
    Child,
    /// With a descriptor that is readable once it has ended.
    Parent(Pid, OwnedFd),
}

pub(super) fn clone(flags: libc::c_int, cgroup: Option<&File>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: zeros are a valid value of this struct of numbers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (flags | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and without a stack of its own the child goes on like after `fork`, which is allowed
    // in a process with one thread. `arguments` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just made this descriptor for us.
        1.. => Ok(Cloned::Parent(Pid::from_raw(pid as i32), unsafe { OwnedFd::from_raw_fd(pidfd) })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// In a network namespace that was just made.
pub(super) fn raise_loopback() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: zeros are a valid value of this struct of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads the struct that this request is documented to take.
    Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request)
    })?;
    Ok(())
}

/// A session keyring of its own: the one of whoever started the worker is not to be found.
pub(super) fn leave_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: without a name, that is all there is to this call.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    match Errno::result(joined) {
        // A kernel without keys has none to hide.
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Closes every descriptor from `first` on, at the latest when a program is executed; `but` is open until then.
pub(super) fn close_from(first: u32, but: &File) -> io::Result<()> {
    let but = but.as_raw_fd() as u32;
    let ranges = [(first, but.saturating_sub(1)), (but + 1, u32::MAX)];
    for (from, to) in ranges {
        if from <= to {
            // SAFETY: whoever calls this goes on with nothing but the first descriptors and `but`.
            Errno::result(unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) })?;
        }
    }
    Ok(())
}

/// Whatever the worker was started with is not the command's: those of real time, which the enum does not have, too.
pub(super) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is taken away, for there is none. Two signals, and those of the C library, refuse.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// From here on every system call of this process and its children goes through the filter.
pub(super) fn load(filter: &[libc::sock_filter]) -> io::Result<()> {
    if filter.is_empty() {
        return Err(io::Error::other("the filter is empty"));
    }
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    const FILTER: libc::c_long = libc::SECCOMP_SET_MODE_FILTER as libc::c_long;
    // SAFETY: the kernel copies the program, which outlives the call; it never writes to it.
    Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, FILTER, 0, &raw const program) })?;
    Ok(())
}

/// By its name, without `CAP_`.
pub(super) fn capability(name: &str) -> Result<CapabilitySet, String> {
    CapabilitySet::from_name(name).ok_or_else(|| format!("there is no capability {name}"))
}
