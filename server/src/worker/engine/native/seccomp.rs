//! Which system calls a sandbox may make: docker's default profile, with its rules on arguments, as one program for
//! the kernel. What is not named here is refused with EPERM, what is newer than all that is named with ENOSYS.
//!
//! The names and rules are those of the newest Docker. Older ones allow more, such as io_uring, and refuse calls that
//! came after them. Programs for 32 bits run under the same rules, as with docker; those of x32 do not.

mod bpf;

use std::collections::BTreeMap;

use bpf::Verdict;

/// Names that an architecture does not have are passed over.
const ALWAYS: &str = "
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_adjtime
clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve
execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate
futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd
getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority
getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr
lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod
mknodat mlock mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend
mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll
ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 ptrace
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages
removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid
setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid
setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs
statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate
umask uname unlink unlinkat uretprobe utime utimensat utimes vfork vmsplice wait4 waitid write writev";

/// The same for 32 bits, where they have other names.
const NARROW: &str = "
_llseek _newselect arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush chown32 clock_adjtime64
clock_getres_time64 clock_gettime64 clock_nanosleep_time64 fadvise64_64 fchown32 fcntl64 fstat64 fstatat64 fstatfs64
ftruncate64 futex_time64 getegid32 geteuid32 getgid32 getgroups32 getresgid32 getresuid32 getuid32
io_pgetevents_time64 ipc lchown32 lstat64 mmap2 mq_timedreceive_time64 mq_timedsend_time64 ppoll_time64
pselect6_time64 recv recvmmsg_time64 rt_sigtimedwait_time64 sched_rr_get_interval_time64 semtimedop_time64 send
sendfile64 set_tls setfsgid32 setfsuid32 setgid32 setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32
sigprocmask sigreturn stat64 statfs64 sync_file_range2 timer_gettime64 timer_settime64 timerfd_gettime64
timerfd_settime64 truncate64 ugetrlimit utimensat_time64 waitpid";

/// What the operator's further capabilities bring with them.
const WITH: [(&str, &str); 14] = [
    ("BPF", "bpf"),
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    ("PERFMON", "perf_event_open"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYSLOG", "syslog"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
];

/// What is allowed by its first argument only, unless a capability allows it whatever that is.
const BY_ARGUMENT: [(&str, Verdict); 5] = [
    // No flag that makes a namespace.
    ("clone", Verdict::AllowedWithout(0x7e02_0000)),
    // Its flags lie in memory, where no filter sees them. Libraries that are told that there is no such call take
    // `clone`.
    ("clone3", Verdict::Refused(libc::ENOSYS)),
    // Linux's own and that of 32 bits, each also with the version numbers of old; and the question which one it is.
    (
        "personality",
        Verdict::AllowedFor(&[
            (0, 0),
            (8, 8),
            (0x2_0000, 0x2_0000),
            (0x2_0008, 0x2_0008),
            (0xffff_ffff, 0xffff_ffff),
        ]),
    ),
    // Not the families of DECnet, Econet, ATM, IrDA, WAN pipes, ISDN and CAIF; not the kernel's ciphers (38), and not
    // the way to a virtual machine's host (40).
    (
        "socket",
        Verdict::AllowedFor(&[(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)]),
    ),
    // Of 32 bits. Docker allows it with its first operation too, which makes a socket of a family that no filter sees.
    ("socketcall", Verdict::AllowedFor(&[(2, 20)])),
];

struct Architecture {
    /// What the kernel calls it (`AUDIT_ARCH_...`).
    id: u32,
    number: fn(&str) -> Option<u32>,
}

macro_rules! architecture {
    ($id:literal, $name:ident) => {
        Architecture {
            id: $id,
            number: |name| name.parse::<syscalls::$name::Sysno>().ok().map(|call| call.id() as u32),
        }
    };
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Architecture] = &[architecture!(0xc000_003e, x86_64), architecture!(0x4000_0003, x86)];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Architecture] =
    &[architecture!(0xc000_00b7, aarch64), architecture!(0x4000_0028, arm)];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: &[Architecture] = &[];

/// The program for a sandbox with these capabilities, named without `CAP_`.
pub(crate) fn program(capabilities: &[&str]) -> Result<Vec<libc::sock_filter>, String> {
    if ARCHITECTURES.is_empty() {
        return Err(format!("there is no list of system calls for {}", std::env::consts::ARCH));
    }
    let of_each = ARCHITECTURES.iter().map(|one| (one.id, verdicts(one, capabilities)));
    Ok(bpf::program(&of_each.collect::<Vec<_>>()))
}

fn verdicts(architecture: &Architecture, capabilities: &[&str]) -> BTreeMap<u32, Verdict> {
    let with = WITH.iter().filter(|(name, _)| capabilities.contains(name)).map(|(_, names)| *names);
    let names = with.chain([ALWAYS, NARROW]).flat_map(str::split_whitespace);
    let mut verdicts: BTreeMap<u32, Verdict> =
        names.filter_map(architecture.number).map(|call| (call, Verdict::Allowed)).collect();
    for (name, verdict) in BY_ARGUMENT {
        if let Some(call) = (architecture.number)(name) {
            verdicts.entry(call).or_insert(verdict);
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::{ALWAYS, ARCHITECTURES, BY_ARGUMENT, NARROW, WITH, program};

    #[test]
    fn a_capability_brings_its_calls_and_no_other() {
        let usual = program(&["CHOWN", "KILL"]).unwrap();
        assert_eq!(usual, program(&[]).unwrap());
        for (capability, _) in WITH {
            assert_ne!(program(&[capability]).unwrap(), usual, "{capability}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn names_are_those_of_calls() {
        // Of other architectures.
        let elsewhere = [
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "recv",
            "send",
            "set_tls",
            "sync_file_range2",
        ];
        let all = WITH.iter().map(|(_, names)| *names).chain([ALWAYS, NARROW]);
        let all = all.flat_map(str::split_whitespace).chain(BY_ARGUMENT.iter().map(|(name, _)| *name));
        let unknown: Vec<&str> =
            all.filter(|name| ARCHITECTURES.iter().all(|one| (one.number)(name).is_none())).collect();
        assert_eq!(unknown, elsewhere);
    }
}
