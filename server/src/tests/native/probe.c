// What a process in a container may do: each line is a system call in one form, and the error that it gets.
// It is for containers alone: on a host, root is allowed some of it, such as to take /proc away.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void tell(const char *name, long result) {
    printf("call %s %s\n", name, result >= 0 ? "ok" : strerrorname_np(errno));
    fflush(stdout);
}

#define CALL(name, ...)                                  \
    do {                                                 \
        fflush(stdout);                                  \
        if (fork() == 0) {                               \
            errno = 0;                                   \
            tell(name, syscall(__VA_ARGS__));            \
            _exit(0);                                    \
        }                                                \
        while (wait(0) > 0) {}                           \
    } while (0)

// A child of a clone ends at once, and only its parent tells.
#define CLONE(name, flags)                               \
    do {                                                 \
        long pid = syscall(SYS_clone, (flags) | 17, 0, 0, 0, 0); \
        if (pid == 0) _exit(0);                          \
        tell(name, pid);                                 \
        while (wait(0) > 0) {}                           \
    } while (0)

int main(void) {
    if (access("/in-a-container", F_OK) != 0) {
        fprintf(stderr, "this is no container of the audit\n");
        return 1;
    }
    CALL("mount", SYS_mount, "none", "/tmp", "tmpfs", 0, 0);
    CALL("mount-bind", SYS_mount, "/tmp", "/tmp", 0, 4096, 0);
    CALL("umount2", SYS_umount2, "/proc", 2);
    CALL("pivot_root", SYS_pivot_root, "/", "/");
    CALL("chroot", SYS_chroot, "/tmp");
    CALL("unshare-user", SYS_unshare, CLONE_NEWUSER);
    CALL("unshare-mount", SYS_unshare, CLONE_NEWNS);
    CALL("unshare-pid", SYS_unshare, CLONE_NEWPID);
    CALL("unshare-net", SYS_unshare, CLONE_NEWNET);
    CALL("unshare-ipc", SYS_unshare, CLONE_NEWIPC);
    CALL("unshare-uts", SYS_unshare, CLONE_NEWUTS);
    CALL("unshare-cgroup", SYS_unshare, CLONE_NEWCGROUP);
    CALL("unshare-files", SYS_unshare, CLONE_FILES);
    CLONE("clone", 0);
    CLONE("clone-user", CLONE_NEWUSER);
    CLONE("clone-mount", CLONE_NEWNS);
    CLONE("clone-pid", CLONE_NEWPID);
    CLONE("clone-net", CLONE_NEWNET);
    CLONE("clone-ipc", CLONE_NEWIPC);
    CLONE("clone-uts", CLONE_NEWUTS);
    CLONE("clone-cgroup", CLONE_NEWCGROUP);
    CALL("clone3", SYS_clone3, 0, 0);
    CALL("setns", SYS_setns, -1, 0);
    CALL("bpf", SYS_bpf, 0, 0, 0);
    CALL("perf_event_open", SYS_perf_event_open, 0, 0, -1, -1, 0);
    CALL("ptrace-traceme", SYS_ptrace, 0, 0, 0, 0);
    // Not an attach, which would stop it, and with it the container.
    CALL("ptrace-seize-init", SYS_ptrace, 0x4206, 1, 0, 0);
    CALL("process_vm_readv-init", SYS_process_vm_readv, 1, 0, 0, 0, 0, 0);
    CALL("process_vm_readv-bad", SYS_process_vm_readv, 1, 0, 1, 0, 1, 0);
    CALL("keyctl", SYS_keyctl, 0, -3, 0);
    CALL("add_key", SYS_add_key, 0, 0, 0, 0, 0);
    CALL("request_key", SYS_request_key, 0, 0, 0, 0);
    CALL("userfaultfd", SYS_userfaultfd, 0);
    CALL("io_uring_setup", SYS_io_uring_setup, 0, 0);
    CALL("io_uring_enter", SYS_io_uring_enter, -1, 0, 0, 0, 0, 0);
    CALL("kexec_load", SYS_kexec_load, 0, 0, 0, 0);
    CALL("kexec_file_load", SYS_kexec_file_load, -1, -1, 0, 0, 0);
    CALL("init_module", SYS_init_module, 0, 0, 0);
    CALL("finit_module", SYS_finit_module, -1, 0, 0);
    CALL("delete_module", SYS_delete_module, 0, 0);
    CALL("reboot", SYS_reboot, 0, 0, 0, 0);
    CALL("swapon", SYS_swapon, "/none", 0);
    CALL("swapoff", SYS_swapoff, "/none");
    CALL("sethostname", SYS_sethostname, "x", 1);
    CALL("setdomainname", SYS_setdomainname, "x", 1);
    CALL("settimeofday", SYS_settimeofday, 0, 0);
    CALL("clock_settime", SYS_clock_settime, -99, 0);
    CALL("adjtimex", SYS_adjtimex, 0);
    CALL("acct", SYS_acct, 0);
    CALL("quotactl", SYS_quotactl, 0, 0, 0, 0);
    CALL("syslog", SYS_syslog, 10, 0, 0);
    CALL("vhangup", SYS_vhangup);
    CALL("open_by_handle_at", SYS_open_by_handle_at, -1, 0, 0);
    CALL("name_to_handle_at", SYS_name_to_handle_at, -1, 0, 0, 0, 0);
    CALL("lookup_dcookie", SYS_lookup_dcookie, 0, 0, 0);
    CALL("kcmp", SYS_kcmp, 1, 1, 0, 0, 0);
    CALL("move_pages", SYS_move_pages, 0, 0, 0, 0, 0, 0);
    CALL("migrate_pages", SYS_migrate_pages, 0, 0, 0, 0);
    CALL("mbind", SYS_mbind, 0, 0, 0, 0, 0, 0);
    CALL("set_mempolicy", SYS_set_mempolicy, 0, 0, 0);
    CALL("get_mempolicy", SYS_get_mempolicy, 0, 0, 0, 0, 0);
    CALL("fanotify_init", SYS_fanotify_init, 0, 0);
    CALL("open_tree", SYS_open_tree, -1, 0, 0);
    CALL("move_mount", SYS_move_mount, -1, 0, -1, 0, 0);
    CALL("fsopen", SYS_fsopen, 0, 0);
    CALL("fsconfig", SYS_fsconfig, -1, 0, 0, 0, 0);
    CALL("fsmount", SYS_fsmount, -1, 0, 0);
    CALL("fspick", SYS_fspick, -1, 0, 0);
    CALL("mount_setattr", SYS_mount_setattr, -1, 0, 0, 0, 0);
    CALL("pidfd_getfd", SYS_pidfd_getfd, -1, 0, 0);
    CALL("process_madvise", SYS_process_madvise, -1, 0, 0, 0, 0);
    CALL("personality-read", SYS_personality, 0xffffffff);
    CALL("personality-32", SYS_personality, 8);
    CALL("personality-no-randomize", SYS_personality, 0x0040000);
    CALL("personality-bsd", SYS_personality, 6);
    CALL("socket-inet", SYS_socket, AF_INET, SOCK_DGRAM, 0);
    CALL("socket-raw", SYS_socket, AF_INET, SOCK_RAW, 1);
    CALL("socket-packet", SYS_socket, AF_PACKET, SOCK_RAW, 0);
    CALL("socket-netlink", SYS_socket, AF_NETLINK, SOCK_RAW, 0);
    CALL("socket-vsock", SYS_socket, AF_VSOCK, SOCK_STREAM, 0);
    CALL("socket-alg", SYS_socket, AF_ALG, SOCK_SEQPACKET, 0);
    CALL("socket-key", SYS_socket, 15, SOCK_RAW, 2);
    CALL("mknod-null", SYS_mknodat, AT_FDCWD, "/tmp/null", S_IFCHR | 0666, makedev(1, 3));
    CALL("mknod-disk", SYS_mknodat, AT_FDCWD, "/tmp/disk", S_IFBLK | 0666, makedev(254, 0));
    CALL("mknod-fifo", SYS_mknodat, AT_FDCWD, "/tmp/fifo", S_IFIFO | 0666, 0);
    CALL("setuid-nobody", SYS_setuid, 65534);
    CALL("setpriority-up", SYS_setpriority, 0, 0, -5);
    CALL("sched-fifo", SYS_sched_setscheduler, 0, 1, &(int){1});
    CALL("mlock", SYS_mlock, &(char[4096]){0}, 4096);
    CALL("ioctl-tiocsti", SYS_ioctl, 0, 0x5412, "x");
#ifdef SYS_iopl
    CALL("iopl", SYS_iopl, 3);
    CALL("ioperm", SYS_ioperm, 0, 1, 1);
    CALL("modify_ldt", SYS_modify_ldt, 0, 0, 0);
    CALL("arch_prctl", SYS_arch_prctl, 0x9999, 0);
    CALL("uselib", SYS_uselib, 0);
    CALL("ustat", SYS_ustat, 0, 0);
    CALL("sysfs", SYS_sysfs, 3);
#endif
    return 0;
}
