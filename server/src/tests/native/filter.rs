//! What system calls a sandbox may make, against what docker lets a container make: its own filter, read back from
//! the kernel, and ours are asked about every call with every argument that either of them looks at.

use libc::sock_filter;
use std::collections::BTreeSet;

use super::super::rig::{IMAGE, Rig, docker};
use super::is_root;
use crate::worker::native::seccomp::program;

const CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"];

const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const X32: u32 = 0x4000_0000;

/// Newer Dockers than 20.10 allow these, and so do we: each works only on what its caller has in its hands already.
const ALLOWED_SINCE: [&str; 20] = [
    "cachestat",
    "fchmodat2",
    "futex_requeue",
    "futex_wait",
    "futex_wake",
    "getxattrat",
    "listmount",
    "listxattrat",
    "map_shadow_stack",
    "mseal",
    // What it tells is of use to nobody who may not also `open_by_handle_at`.
    "name_to_handle_at",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    // Since Linux 4.8 they may no more than `ptrace`, which has been allowed all along.
    "process_vm_readv",
    "process_vm_writev",
    "removexattrat",
    "setxattrat",
    "statmount",
    "uretprobe",
];

/// Of these we refuse what older or newer Dockers allow; `socket` and its like only for some families.
const REFUSED_MORE: [&str; 8] = [
    "add_key",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "keyctl",
    "request_key",
    "socket",
    "socketcall",
];

#[derive(Debug, Clone, Copy)]
struct Call {
    architecture: u32,
    number: u32,
    /// The first one; no rule is on another.
    argument: u64,
}

/// What the kernel does with this call under a filter, as far as filters of this kind go; and whether that may depend
/// on its argument.
fn ask(filter: &[sock_filter], call: Call) -> (u32, bool) {
    let (mut at, mut value, mut looked) = (0, 0_u32, false);
    loop {
        let sock_filter { code, jt, jf, k } = filter[at];
        at += 1;
        let mut either = |is: bool| at += usize::from(if is { jt } else { jf });
        match code {
            0x20 => {
                looked |= k >= 16;
                value = match k {
                    0 => call.number,
                    4 => call.architecture,
                    16 => call.argument as u32,
                    20 => (call.argument >> 32) as u32,
                    _ => panic!("it looks at byte {k}"),
                }
            }
            0x54 => value &= k,
            0x05 => at += k as usize,
            0x15 => either(value == k),
            0x25 => either(value > k),
            0x35 => either(value >= k),
            0x45 => either(value & k != 0),
            0x06 => return (k, looked),
            _ => panic!("what does {code:#x} do?"),
        }
    }
}

/// All at which a filter could change its mind: those beside each number in it, and single bits. On 64 bits also with
/// something in the upper half.
fn arguments(architecture: u32, filters: [&[sock_filter]; 2]) -> BTreeSet<u64> {
    let around =
        filters.into_iter().flatten().flat_map(|one| [one.k.wrapping_sub(1), one.k, one.k.wrapping_add(1)]);
    let low = around.chain((0..32).map(|bit| 1 << bit)).map(u64::from);
    low.flat_map(|low| if architecture == X86 { vec![low] } else { vec![low, low | 1 << 32, low << 32] })
        .collect()
}

fn name(call: Call) -> String {
    let number = call.number as usize;
    let name = match call.architecture {
        X86 => syscalls::x86::Sysno::new(number).map(|call| call.name()),
        _ => syscalls::x86_64::Sysno::new(number).map(|call| call.name()),
    };
    name.map_or_else(|| number.to_string(), str::to_owned)
}

struct Container(String);

impl Container {
    fn new() -> Container {
        let mut words = vec![
            "run",
            "-d",
            "--network",
            "none",
            "--security-opt",
            "no-new-privileges",
            "--cap-drop",
            "ALL",
        ];
        words.extend(CAPABILITIES.iter().flat_map(|name| ["--cap-add", name]));
        words.extend([IMAGE, "sleep", "600"]);
        Container(docker(&words).trim().to_owned())
    }

    fn filter(&self) -> Vec<sock_filter> {
        const GET_FILTER: libc::c_uint = 0x420c;
        let pid: i32 = docker(&["inspect", "-f", "{{.State.Pid}}", &self.0]).trim().parse().unwrap();
        let none = std::ptr::null_mut::<libc::c_void>();
        let mut filter = vec![sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; 4096];
        // SAFETY: these take no address, but for one that has room for the longest filter that the kernel takes. What is
        // traced is let go with this thread at the latest.
        let length = unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, pid, none, none), 0);
            assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL), pid);
            let length = libc::ptrace(GET_FILTER, pid, none, filter.as_mut_ptr());
            let second = libc::ptrace(GET_FILTER, pid, 1, none);
            assert_eq!(second, -1, "it has a second filter");
            assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, none, none), 0);
            length
        };
        filter.truncate(usize::try_from(length).expect("the filter can be read"));
        filter
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.0]);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn no_call_is_allowed_that_docker_refuses() {
    if !is_root() {
        return;
    }
    let (there, here) = (Container::new().filter(), program(&CAPABILITIES).unwrap());
    let (mut more, mut fewer, mut same) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for architecture in [X86_64, X86] {
        let arguments = arguments(architecture, [&there, &here]);
        for number in 0..1024 {
            for &argument in &arguments {
                let call = Call { architecture, number, argument };
                let ((theirs, there_looked), (ours, here_looked)) = (ask(&there, call), ask(&here, call));
                match (theirs == ALLOWED, ours == ALLOWED) {
                    (false, true) => drop(more.insert(name(call))),
                    (true, false) => drop(fewer.insert(name(call))),
                    (true, true) => drop(same.insert(name(call))),
                    (false, false) => {}
                }
                if !there_looked && !here_looked {
                    break;
                }
            }
        }
    }
    assert!(same.len() > 300, "{same:?}");
    more.retain(|name| !ALLOWED_SINCE.contains(&name.as_str()));
    assert!(more.is_empty(), "docker refuses, and we allow, for some argument: {more:?}");
    fewer.retain(|name| !REFUSED_MORE.contains(&name.as_str()));
    assert!(fewer.is_empty(), "docker allows, and we refuse, for some argument: {fewer:?}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn arguments_are_looked_at() {
    use syscalls::{x86, x86_64};
    let filter = program(&CAPABILITIES).unwrap();
    let ask = |architecture, number: i32, argument| {
        let (verdict, _) = ask(&filter, Call { architecture, number: number as u32, argument });
        if verdict == ALLOWED { 0 } else { verdict & libc::SECCOMP_RET_DATA }
    };
    let (allowed, eperm, enosys) = (0, libc::EPERM as u32, libc::ENOSYS as u32);
    let wide = |call: x86_64::Sysno, argument| ask(X86_64, call.id(), argument);
    let narrow = |call: x86::Sysno, argument| ask(X86, call.id(), argument);
    assert_eq!(wide(x86_64::Sysno::clone, libc::SIGCHLD as u64), allowed);
    assert_eq!(narrow(x86::Sysno::clone, libc::CLONE_NEWUSER as u64), eperm);
    assert_eq!(wide(x86_64::Sysno::clone, libc::CLONE_NEWUSER as u64), eperm);
    assert_eq!(wide(x86_64::Sysno::clone3, 0), enosys);
    assert_eq!(wide(x86_64::Sysno::unshare, libc::CLONE_FILES as u64), eperm);
    for (family, verdict) in
        [(libc::AF_INET, allowed), (libc::AF_ALG, eperm), (libc::AF_VSOCK, eperm), (99, eperm)]
    {
        assert_eq!(wide(x86_64::Sysno::socket, family as u64), verdict, "{family}");
        assert_eq!(narrow(x86::Sysno::socket, family as u64), verdict, "{family}");
    }
    assert_eq!(narrow(x86::Sysno::socketcall, 1), eperm);
    assert_eq!(narrow(x86::Sysno::socketcall, 3), allowed);
    assert_eq!(wide(x86_64::Sysno::personality, 0xffff_ffff), allowed);
    assert_eq!(wide(x86_64::Sysno::personality, 0x4_0000), eperm);
    // Newer than all; of x32; of an architecture that this machine does not have.
    assert_eq!(ask(X86_64, 1000, 0), enosys);
    assert_eq!(ask(X86_64, X32 as i32, 0), enosys);
    assert_eq!(ask(0xc000_00b7, 0, 0), eperm);
}

/// As an ELF file: `exit(42)` by the system calls of 32 bits.
const NARROW_PROGRAM: &str = r"\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0\3\0\1\0\0\0\124\200\4\10\64\0\0\0\0\0\0\0\0\0\0\0\64\0\40\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\200\4\10\0\200\4\10\140\0\0\0\140\0\0\0\5\0\0\0\0\20\0\0\270\1\0\0\0\273\52\0\0\0\315\200";

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn a_program_for_32_bits_ends_as_in_docker() {
    if !is_root() {
        return;
    }
    let command =
        format!("printf '{NARROW_PROGRAM}' >/tmp/narrow && chmod +x /tmp/narrow && exec /tmp/narrow");
    let (on_docker, Some(on_native)) = (Rig::docker().await, Rig::native().await) else { return };
    let (there, here) = (on_docker.sh(&command).await, on_native.sh(&command).await);
    assert_eq!((here.end().exit_code, here.stderr()), (there.end().exit_code, there.stderr()));
    on_docker.finish().await;
    on_native.finish().await;
}
