//! The walls of the native engine against docker's with our hardening: the same look around in a container of each.
//! What differs is listed here with its reason, and nothing that is listed lets a step do more.

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::super::rig::{IMAGE, Rig, docker};

/// Every line is `SUBJECT WHAT IT IS`; a subject is one or two words.
const LOOK: &str = r#"
for who in self 1; do
    grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/$who/status | while read -r name rest; do
        echo "status-$who $name $rest"
    done
done
for who in self 1; do echo "confined $who $(cat /proc/$who/attr/current 2>/dev/null)"; done
awk '{ for (i = 7; $i != "-"; i++) {} print "mount", $5, $(i + 1), $6 }' /proc/self/mountinfo
for path in /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi \
    /proc/timer_list /proc/timer_stats /sys/firmware /sys/devices/virtual/powercap; do
    if [ -d $path ]; then echo "masked $path $(ls $path | wc -l) entries"
    else echo "masked $path $(head -c 1 $path 2>/dev/null | wc -c) bytes"; fi
done
for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/sys/vm/drop_caches /proc/irq /sys/kernel \
    /sys/fs/cgroup /proc/bus /sys/module; do
    if [ -d $path ]; then if touch $path/x 2>/dev/null; then echo "write $path yes"; else echo "write $path no"; fi
    elif (: >>$path) 2>/dev/null; then echo "write $path yes"; else echo "write $path no"; fi
done
ls -l /dev | awk 'NR > 1 { print "device", $NF == $(NF-2) ? $NF : $(substr($1, 1, 1) == "l" ? NF-2 : NF), $1, substr($1, 1, 1) == "c" ? $5 $6 : "" }'
for device in null zero full random urandom tty kmsg mem; do
    if (: </dev/$device) 2>/dev/null; then echo "open $device yes"; else echo "open $device no"; fi
done
if (: </odd-device) 2>/dev/null; then echo "open odd-device yes"; else echo "open odd-device no"; fi
for space in cgroup ipc mnt net pid uts user; do echo "namespace $space $(readlink /proc/self/ns/$space)"; done
echo "map uid $(cat /proc/self/uid_map)"; echo "map gid $(cat /proc/self/gid_map)"
for controller in memory pids cpu cpuacct; do
    for file in memory.limit_in_bytes memory.memsw.limit_in_bytes pids.max cpu.cfs_quota_us; do
        path=/sys/fs/cgroup/$controller/$file
        if [ -e $path ]; then echo "limit $file $(cat $path)"; fi
    done
done
for file in memory.max memory.swap.max pids.max cpu.max; do
    if [ -e /sys/fs/cgroup/$file ]; then echo "limit $file $(cat /sys/fs/cgroup/$file)"; fi
done
ulimit -a | sed 's/^\([^(]*[^ (]\) *(.*-\(.\)) */ulimit \2 /'
echo "umask - $(umask)"; echo "cwd - $(pwd)"; echo "oom - $(cat /proc/self/oom_score_adj)"
env | grep -vE '^(HOSTNAME|SHLVL|_)=' | sort | sed 's/^\([^=]*\)=/env \1 /'
echo "files - $(ls /proc/self/fd | wc -l)"
echo "init - $(readlink /proc/1/exe 2>/dev/null || echo closed)"
for name in ip_unprivileged_port_start ping_group_range; do echo "sysctl $name $(cat /proc/sys/net/ipv4/$name)"; done
ip -o link | awk '{ print "link", $2, $3 }'; ip route | awk '{ print "route", $0 }'
/probe
"#;

/// Subjects that differ, and why. A wall that is lower would not be named here.
fn may_differ(subject: &str, docker: Option<&str>, native: Option<&str>) -> bool {
    match subject {
        // Tini may be looked into by its container; ours is closed.
        "init -" => native == Some("closed"),
        // Ours refuses device files wherever they lie but in /dev; docker asks its list of devices.
        "mount /" => native.is_some_and(|flags| flags.contains("nodev")),
        // Each container has its own view of its own group, read only, where docker shows the host's names.
        subject if subject.starts_with("mount /sys/fs/cgroup") => {
            native.is_none_or(|flags| flags.starts_with("cgroup ro") || flags.starts_with("tmpfs ro"))
        }
        // Files in the upper layer here, mounts of the host's files there; tini is a mount as well.
        "mount /etc/hosts" | "mount /etc/hostname" | "mount /etc/resolv.conf" | "mount /sbin/docker-init" => {
            native.is_none()
        }
        // Newer Dockers than the one that is compared with hide these, and so do we.
        "masked /proc/interrupts" | "mount /proc/interrupts" => {
            native.is_some_and(|it| it == "0 bytes" || it.starts_with("tmpfs"))
        }
        "masked /sys/devices/virtual/powercap" => native.is_some_and(|it| it.starts_with("0 ")),
        "mount /sys/devices/virtual/powercap" => native.is_none_or(|flags| flags.starts_with("tmpfs ro")),
        // Mounts that hide what this kernel does not have differ in nothing else.
        subject if subject.starts_with("mount /proc/") => docker.is_none(),
        subject if subject.starts_with("write ") => native == Some("no"),
        // There is no terminal in either; docker has a place for one.
        "device core" | "device console" | "mount /dev/console" => native.is_none(),
        // Newer profiles refuse these.
        "call io_uring_setup" | "call io_uring_enter" | "call socket-alg" | "call socket-vsock" => {
            native == Some("EPERM")
        }
        // Newer profiles allow these, for what they reach their caller has already: `filter.rs` says more.
        "call name_to_handle_at" | "call process_vm_readv-bad" => native == Some("EFAULT"),
        // Of no bytes at all.
        "call process_vm_readv-init" => native == Some("ok"),
        subject if subject.starts_with("call ") => {
            // Refused earlier, or by another wall before this one.
            native != Some("ok") && native.is_some_and(|error| matches!(error, "EPERM" | "ENOSYS"))
        }
        // Services may have more than whoever starts a worker: files, cores, processes of one user on all the machine.
        subject if subject.starts_with("ulimit ") => {
            let count = |limit: Option<&str>| match limit? {
                "unlimited" => Some(u64::MAX),
                number => number.parse::<u64>().ok(),
            };
            count(native).is_some_and(|here| count(docker).is_some_and(|there| here < there))
        }
        _ => false,
    }
}

struct Probed(String);

impl Probed {
    /// The image of all tests, with the probe in it, and a device file that no container is to use.
    fn image() -> Probed {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/native/probe.c");
        let mut compile = Command::new("cc");
        compile.args(["-static", "-O1", "-w", "-o"]).arg(folder.path().join("probe")).arg(source);
        let compiled = compile.output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        fs::write(folder.path().join("in-a-container"), "").unwrap();
        let device = nix::sys::stat::makedev(1, 1);
        let all = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::sys::stat::mknod(&folder.path().join("odd-device"), nix::sys::stat::SFlag::S_IFCHR, all, device)
            .unwrap();
        let name = format!("bettertest-audit-{}", crate::auth::random_hex(8));
        docker(&["create", "--name", &name, IMAGE]);
        for file in ["probe", "in-a-container", "odd-device"] {
            let archive =
                Command::new("tar").arg("-C").arg(folder.path()).args(["-cf", "-", file]).output().unwrap();
            copy_into(&name, &archive.stdout);
        }
        docker(&["commit", &name, &name]);
        docker(&["rm", &name]);
        Probed(name)
    }
}

fn copy_into(container: &str, archive: &[u8]) {
    use std::io::Write as _;
    let copying = Command::new("docker")
        .args(["cp", "-", &format!("{container}:/")])
        .stdin(std::process::Stdio::piped())
        .spawn();
    let mut copying = copying.unwrap();
    copying.stdin.take().unwrap().write_all(archive).unwrap();
    assert!(copying.wait().unwrap().success());
}

impl Drop for Probed {
    fn drop(&mut self) {
        drop(Command::new("docker").args(["rmi", "-f", &self.0]).output());
    }
}

async fn look(rig: &Rig, image: &str, user: Option<&str>) -> BTreeMap<String, String> {
    let mut spec = json!({
        "image": image, "command": LOOK, "network": "none", "memory_bytes": 100_000_000, "cpus": 0.5, "pids": 50,
        "env": {"A": "b c"}, "workdir": "/tmp/some/where"
    });
    if let Some(user) = user {
        spec["user"] = json!(user);
    }
    let told = rig.run(spec).await;
    assert_eq!(told.verdict(), "passed", "{}", told.stderr());
    let mut seen = BTreeMap::new();
    for line in told.stdout().lines() {
        let mut words = line.splitn(3, ' ');
        let subject = [words.next().unwrap_or_default(), words.next().unwrap_or_default()].join(" ");
        seen.insert(subject, words.next().unwrap_or_default().trim().to_owned());
    }
    assert!(seen.len() > 150, "{seen:#?}");
    seen
}

/// Those of the host itself, in which no container may be.
fn namespaces_of_the_host(seen: &BTreeMap<String, String>) -> Vec<&str> {
    let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    ["ipc", "mnt", "net", "pid", "uts"]
        .into_iter()
        .filter(|name| seen[&format!("namespace {name}")] == own(name))
        .collect()
}

async fn audit(user: Option<&str>) {
    // Who starts a worker by hand may have more than a service has. It is not the steps' to have.
    for (what, much) in [
        (Resource::RLIMIT_MEMLOCK, RLIM_INFINITY),
        (Resource::RLIMIT_NICE, 40),
        (Resource::RLIMIT_RTPRIO, 99),
    ] {
        // In a container of less rights there is nothing to have more of.
        let _ = setrlimit(what, much, much);
    }
    let image = Probed::image();
    let (on_docker, Some(on_native)) = (Rig::docker().await, Rig::native().await) else { return };
    let docker = look(&on_docker, &image.0, user).await;
    let made_for_it = look(&on_native, &image.0, user).await;
    let waiting = on_native.waiting("none").await;
    let made_ahead = look(&on_native, &image.0, user).await;
    let still = on_native.waiting("none").await;
    assert!(waiting.iter().any(|name| !still.contains(name)), "none of {waiting:?} was used");
    on_docker.finish().await;
    on_native.finish().await;
    for native in [made_for_it, made_ahead] {
        compare(&docker, &native);
    }
}

fn compare(docker: &BTreeMap<String, String>, native: &BTreeMap<String, String>) {
    assert_eq!(namespaces_of_the_host(native), Vec::<&str>::new());
    let subjects: std::collections::BTreeSet<&String> = docker.keys().chain(native.keys()).collect();
    let mut differences = Vec::new();
    for subject in subjects {
        let (there, here) =
            (docker.get(subject).map(String::as_str), native.get(subject).map(String::as_str));
        let is_of_each = subject.starts_with("namespace ") && there != here;
        if there != here && !is_of_each && !may_differ(subject, there, here) {
            differences.push(format!("{subject}: docker {there:?}, native {here:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wall_is_lower_than_dockers() {
    audit(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wall_is_lower_for_another_user() {
    audit(Some("65534:65534")).await;
}
