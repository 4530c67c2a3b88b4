//! The limits of a sandbox, and what it used: cgroup v2 where it has the controllers, else v1.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::order::Order;

/// Where the controllers are that we use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hierarchy {
    V2(PathBuf),
    /// Each controller's own mount; two may share one.
    V1 {
        memory: PathBuf,
        pids: PathBuf,
        cpu: PathBuf,
        cpuacct: PathBuf,
    },
}

impl Hierarchy {
    pub(super) fn of_this_host() -> io::Result<Hierarchy> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Hierarchy::among(&mounts, |v2| fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default())
            .ok_or_else(|| {
                io::Error::other("this host has no cgroups with the controllers memory, pids and cpu")
            })
    }

    /// In v2 a group has the controllers that its parent passes on. The root of the host always can; that of a
    /// container cannot while processes are in it, nor where it is read only.
    pub(super) fn pass_on(&self) -> io::Result<()> {
        match self {
            Hierarchy::V2(root) => set(root, "cgroup.subtree_control", PASSED_ON),
            Hierarchy::V1 { .. } => Ok(()),
        }
    }

    fn among(mountinfo: &str, controllers: impl Fn(&Path) -> String) -> Option<Hierarchy> {
        let mut v1 = Vec::new();
        for line in mountinfo.lines() {
            let (before, after) = line.split_once(" - ")?;
            let (mount, mut after) = (PathBuf::from(before.split(' ').nth(4)?), after.split(' '));
            match after.next()? {
                "cgroup2" => {
                    let there = controllers(&mount);
                    if ["memory", "pids", "cpu"]
                        .iter()
                        .all(|one| there.split_whitespace().any(|it| it == *one))
                    {
                        return Some(Hierarchy::V2(mount));
                    }
                }
                "cgroup" => v1.push((mount, after.nth(1)?.to_owned())),
                _ => {}
            }
        }
        let of = |name: &str| {
            v1.iter()
                .find(|(_, options)| options.split(',').any(|it| it == name))
                .map(|(mount, _)| mount.clone())
        };
        Some(Hierarchy::V1 {
            memory: of("memory")?,
            pids: of("pids")?,
            cpu: of("cpu")?,
            cpuacct: of("cpuacct")?,
        })
    }

    /// Each with the name under which a container sees it below `/sys/fs/cgroup`; none: it is all of that.
    pub(super) fn shown(&self) -> Vec<(&'static str, &'static str)> {
        match self {
            Hierarchy::V2(_) => Vec::new(),
            Hierarchy::V1 { cpu, cpuacct, .. } if cpu == cpuacct => {
                vec![("memory", "memory"), ("pids", "pids"), ("cpu,cpuacct", "cpu,cpuacct")]
            }
            Hierarchy::V1 { .. } => {
                vec![("memory", "memory"), ("pids", "pids"), ("cpu", "cpu"), ("cpuacct", "cpuacct")]
            }
        }
    }
}

/// The groups of one sandbox.
pub(super) struct Cgroup {
    hierarchy: Hierarchy,
    path: String,
}

impl Cgroup {
    pub(super) fn of(hierarchy: Hierarchy, path: &str) -> Cgroup {
        Cgroup { hierarchy, path: path.to_owned() }
    }

    /// Makes the groups, without limits.
    pub(super) fn make(hierarchy: Hierarchy, path: &str) -> io::Result<Cgroup> {
        let group = Cgroup::of(hierarchy, path);
        if let Hierarchy::V2(root) = &group.hierarchy {
            delegate(root, path)?;
        }
        for folder in group.folders() {
            fs::create_dir_all(&folder).map_err(|error| at(&folder, error))?;
        }
        Ok(group)
    }

    pub(super) fn limit(&self, order: &Order) -> io::Result<()> {
        let memory = order.memory_bytes.to_string();
        let pids = order.pids.to_string();
        let quota = order.cpus.map(|cpus| (cpus * 100_000.0).round().max(1000.0) as u64);
        match &self.hierarchy {
            Hierarchy::V2(root) => {
                let folder = root.join(&self.path);
                set(&folder, "memory.max", &memory)?;
                // A host without swap has no such file.
                if folder.join("memory.swap.max").exists() {
                    set(&folder, "memory.swap.max", "0")?;
                }
                set(&folder, "pids.max", &pids)?;
                if let Some(quota) = quota {
                    set(&folder, "cpu.max", &format!("{quota} 100000"))?;
                }
            }
            Hierarchy::V1 { memory: memories, pids: all_pids, cpu, .. } => {
                let folder = memories.join(&self.path);
                set(&folder, "memory.limit_in_bytes", &memory)?;
                // Together with swap: the same, so that there is none. Not every kernel counts it.
                if folder.join("memory.memsw.limit_in_bytes").exists() {
                    set(&folder, "memory.memsw.limit_in_bytes", &memory)?;
                }
                set(&all_pids.join(&self.path), "pids.max", &pids)?;
                if let Some(quota) = quota {
                    let folder = cpu.join(&self.path);
                    set(&folder, "cpu.cfs_period_us", "100000")?;
                    set(&folder, "cpu.cfs_quota_us", &quota.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Where a process can be made to begin in it; None where it has to be moved there.
    pub(super) fn to_be_born_in(&self) -> io::Result<Option<fs::File>> {
        match &self.hierarchy {
            Hierarchy::V2(root) => fs::File::open(root.join(&self.path)).map(Some),
            Hierarchy::V1 { .. } => Ok(None),
        }
    }

    pub(super) fn join(&self, pid: Pid) -> io::Result<()> {
        self.folders().iter().try_for_each(|folder| set(folder, "cgroup.procs", &pid.to_string()))
    }

    /// The kernel killed something in it for want of memory.
    pub(super) fn had_oom(&self) -> bool {
        let text = match &self.hierarchy {
            Hierarchy::V2(root) => fs::read_to_string(root.join(&self.path).join("memory.events")),
            Hierarchy::V1 { memory, .. } => {
                fs::read_to_string(memory.join(&self.path).join("memory.oom_control"))
            }
        };
        field(&text.unwrap_or_default(), "oom_kill").is_some_and(|kills| kills > 0)
    }

    pub(super) fn cpu_ms(&self) -> Option<u64> {
        match &self.hierarchy {
            Hierarchy::V2(root) => {
                let text = fs::read_to_string(root.join(&self.path).join("cpu.stat")).ok()?;
                field(&text, "usage_usec").map(|us| us / 1000)
            }
            Hierarchy::V1 { cpuacct, .. } => {
                number(&cpuacct.join(&self.path).join("cpuacct.usage")).map(|ns| ns / 1_000_000)
            }
        }
    }

    pub(super) fn peak_memory_bytes(&self) -> Option<u64> {
        match &self.hierarchy {
            Hierarchy::V2(root) => number(&root.join(&self.path).join("memory.peak")),
            Hierarchy::V1 { memory, .. } => {
                number(&memory.join(&self.path).join("memory.max_usage_in_bytes"))
            }
        }
    }

    /// Kills what is left in it, and removes it.
    pub(super) fn remove(&self) -> io::Result<()> {
        let mut last = Ok(());
        // A process that was killed takes a moment to be gone.
        for wait_ms in [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] {
            std::thread::sleep(Duration::from_millis(wait_ms));
            last = self.folders().iter().try_for_each(|folder| match fs::remove_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(folder, error)),
                Ok(()) | Err(_) => Ok(()),
            });
            if last.is_ok() {
                return last;
            }
            self.kill();
        }
        last
    }

    /// Removes it where nothing is in it.
    pub(super) fn let_go(&self) -> io::Result<()> {
        self.folders().iter().try_for_each(fs::remove_dir)
    }

    fn kill(&self) {
        for folder in self.folders() {
            let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            for pid in procs.lines().filter_map(|line| line.parse().ok()) {
                // Gone already is as well.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = match &self.hierarchy {
            Hierarchy::V2(root) => vec![root.join(&self.path)],
            Hierarchy::V1 { memory, pids, cpu, cpuacct } => {
                [memory, pids, cpu, cpuacct].map(|mount| mount.join(&self.path)).into()
            }
        };
        folders.dedup();
        folders
    }
}

const PASSED_ON: &str = "+memory +pids +cpu";

/// All groups on the way to this one pass the controllers on.
fn delegate(root: &Path, path: &str) -> io::Result<()> {
    let mut folder = root.to_owned();
    for part in Path::new(path).components() {
        set(&folder, "cgroup.subtree_control", PASSED_ON)?;
        folder.push(part);
        if folder != root.join(path) {
            fs::create_dir_all(&folder).map_err(|error| at(&folder, error))?;
        }
    }
    Ok(())
}

fn set(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = folder.join(file);
    fs::write(&path, value).map_err(|error| at(&path, error))
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Hierarchy;

    #[test]
    fn v2_is_taken_only_with_its_controllers() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 24 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let on_v1 = Hierarchy::among(hybrid, |_| "hugetlb\n".to_owned()).unwrap();
        assert_eq!(on_v1.shown().len(), 3);
        let on_v2 = Hierarchy::among(hybrid, |_| "cpuset cpu io memory pids\n".to_owned()).unwrap();
        assert_eq!(on_v2, Hierarchy::V2("/sys/fs/cgroup/unified".into()));
        assert_eq!(Hierarchy::among("", |_| String::new()), None);
    }
}
