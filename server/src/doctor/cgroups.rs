//! Do the limits of steps hold on this machine? The kernel holds them, where somebody has mounted what they are set by:
//! Docker leaves out a limit that it cannot set and only says so in its log, and the native engine does not start.

use common::Check;
use std::path::Path;

use super::Seen;

/// What limits steps, and nothing else does.
const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];

/// Docker's own machine is ours, unless it is spoken to over a network.
pub(super) fn look(docker_host: Option<&str>) -> Seen {
    if docker_host.is_some_and(|host| !host.starts_with("unix://") && !host.starts_with('/')) {
        return Seen::default();
    }
    Seen::of(match std::fs::read_to_string("/proc/self/mountinfo") {
        Ok(mounts) => {
            // Without that file, the kernel has none of the first version.
            let kernel = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
            judged(&mounts, &kernel, |mount| {
                std::fs::read_to_string(Path::new(mount).join("cgroup.controllers")).unwrap_or_default()
            })
        }
        Err(error) => Check::wrong(
            "cgroups",
            format!("/proc/self/mountinfo cannot be read: {error}"),
            "sudo mount -t proc proc /proc",
        ),
    })
}

/// From what is mounted, what the kernel has, and the controllers of a mount of the second version.
fn judged(mountinfo: &str, kernel: &str, controllers: impl Fn(&str) -> String) -> Check {
    let mut first = Vec::new();
    let mut second = None;
    for (mount, kind, options) in mountinfo.lines().filter_map(mounted) {
        if kind == "cgroup2" {
            second = second.or(Some(mount));
        } else if kind == "cgroup" {
            first.extend(options.split(',').map(|controller| (controller, mount)));
        }
    }
    let there = second.map(&controllers).unwrap_or_default();
    let there: Vec<&str> = there.split_whitespace().collect();
    if NEEDED.iter().all(|needed| there.contains(needed)) {
        return Check::well("cgroups", format!("version 2 limits {}", NEEDED.join(", ")));
    }
    // A host of the first version beside the second is one of the first.
    let is_first = first.iter().any(|(controller, _)| NEEDED.contains(controller));
    let is_there = |needed: &&str| match second {
        Some(_) if !is_first => there.contains(needed),
        Some(_) | None => first.iter().any(|(controller, _)| controller == needed),
    };
    let missing: Vec<&str> = NEEDED.into_iter().filter(|needed| !is_there(needed)).collect();
    let Some(one) = missing.first() else {
        return Check::well("cgroups", format!("version 1 limits {}", NEEDED.join(", ")));
    };
    let has = |controller: &str| kernel.lines().any(|line| is_enabled(line, controller));
    let hint = if is_first && missing.iter().any(|missing| there.contains(missing)) {
        // Of two versions each has a part: no controller can be moved while it is used.
        "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line: then version 2 has all of them"
            .to_owned()
    } else if second.is_none() && !is_first && !has(one) {
        "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup".to_owned()
    } else if missing.iter().all(|missing| has(missing)) && (is_first || second.is_none()) {
        let mounts = missing.iter().map(|controller| {
            let at = format!("/sys/fs/cgroup/{controller}");
            format!("sudo mkdir -p {at} && sudo mount -t cgroup -o {controller} cgroup {at}")
        });
        let mounts: Vec<String> = mounts.collect();
        format!("{}; then restart Docker", mounts.join(" && "))
    } else {
        format!(
            "the kernel does not offer it here: boot with cgroup_enable={one} on its command line, or, in a container, have that started with --cgroupns=host"
        )
    };
    let (names, are) = (missing.join(", "), if missing.len() == 1 { "is" } else { "are" });
    Check::wrong("cgroups", format!("{names} of steps {are} not limited: no cgroup does it"), hint)
}

/// Where it is mounted, its kind, and its options: of a line such as
/// `35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory`.
fn mounted(line: &str) -> Option<(&str, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    Some((before.split(' ').nth(4)?, after.next()?, after.nth(1)?))
}

/// A line of `/proc/cgroups`: name, hierarchy, how many groups, and whether it can be used.
fn is_enabled(line: &str, controller: &str) -> bool {
    let columns: Vec<&str> = line.split_whitespace().collect();
    columns.first() == Some(&controller) && columns.last() == Some(&"1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::CheckState::{self, Well, Wrong};

    const KERNEL: &str =
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t19\t1\nmemory\t4\t26\t1\npids\t8\t19\t1\n";

    fn first(controllers: &[&str]) -> String {
        let line = |controller: &&str| {
            format!("35 31 0:32 / /sys/fs/cgroup/{controller} rw - cgroup cgroup rw,{controller}\n")
        };
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n".to_owned()
            + &controllers.iter().map(line).collect::<String>()
    }

    const SECOND: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";

    #[track_caller]
    fn is(mounts: &str, kernel: &str, controllers: &str, state: CheckState, found: &str, hint: &str) {
        let check = judged(mounts, kernel, |mount| {
            assert_eq!(mount, "/sys/fs/cgroup/unified");
            controllers.to_owned()
        });
        assert_eq!((check.state, check.found.contains(found)), (state, true), "{check:?}");
        assert!(check.hint.unwrap_or_default().contains(hint), "{found}");
    }

    #[test]
    fn what_is_mounted_and_what_is_not() {
        let all = "version 1 limits memory, pids, cpu";
        is(&first(&["cpu,cpuacct", "memory", "pids"]), KERNEL, "", Well, all, "");
        is(&(first(&["cpu", "memory", "pids"]) + SECOND), KERNEL, "cpuset", Well, all, "");
        is(SECOND, "", "cpuset cpu io memory pids\n", Well, "version 2 limits memory, pids, cpu", "");

        let mount = "sudo mkdir -p /sys/fs/cgroup/memory && sudo mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory;";
        let memory = "memory of steps is not limited";
        is(&(first(&["cpu", "pids"]) + SECOND), KERNEL, "", Wrong, memory, mount);
        is(&first(&["cpu"]), KERNEL, "", Wrong, "memory, pids of steps are not limited", "-o pids cgroup");
        is(&first(&[]), KERNEL, "", Wrong, "memory, pids, cpu of steps are", "-o cpu cgroup");
        // The kernel could, and was told not to.
        let off = KERNEL.replace("26\t1", "26\t0");
        is(&first(&["cpu", "pids"]), &off, "", Wrong, memory, "cgroup_enable=memory");
        is(SECOND, &off, "cpu pids", Wrong, memory, "cgroup_enable=memory");
        // A name within another's is none.
        is(SECOND, "", "cpu pids memory_recursiveprot", Wrong, memory, "--cgroupns=host");
        is(
            &(first(&["cpu", "pids"]) + SECOND),
            KERNEL,
            "memory",
            Wrong,
            memory,
            "unified_cgroup_hierarchy=1",
        );
        is("", "", "", Wrong, "memory, pids, cpu", "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    }
}
