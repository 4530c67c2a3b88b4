//! What a supervisor is told, in two files of its folder: what a sandbox is made of before anybody knows for which
//! step, and what the step has to say.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Their names in the folder.
pub(super) const BASE: &str = "base.json";
pub(super) const ORDER: &str = "order.json";
/// Held by an exclusive lock as long as anybody may still start or supervise the step.
pub(super) const LOCK: &str = "lock";
/// Where the supervisor listens.
pub(super) const SOCKET: &str = "socket";
/// Written before the command may begin, and once it has ended.
pub(super) const STARTED: &str = "started";
pub(super) const ENDED: &str = "ended.json";

/// A stranger's sandbox is ended by its own supervisor so long after its deadline, in seconds.
pub(super) const LONG_PAST_S: u64 = 600;

/// What any step of the same image and kind of network can have.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Base {
    /// The image, unpacked: the lowest layer, which nobody writes to.
    pub(super) rootfs: PathBuf,
    /// A shared lock on it keeps the image from being removed.
    pub(super) image_lock: PathBuf,
    /// Folders that are to be there.
    pub(super) volumes: Vec<String>,
    /// Without `CAP_`.
    pub(super) capabilities: Vec<String>,
    /// Below the root of every hierarchy.
    pub(super) cgroup: String,
    /// It was made before there was a step for it.
    pub(super) is_ahead: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// A short name, also its host name.
    pub(super) container: String,
    pub(super) image_digest: String,
    /// The program and its arguments.
    pub(super) words: Vec<String>,
    /// `NAME=value`.
    pub(super) env: Vec<String>,
    pub(super) workdir: String,
    /// As in an image's USER: name or number, perhaps with `:group`; empty for root.
    pub(super) user: String,
    pub(super) memory_bytes: u64,
    pub(super) cpus: Option<f64>,
    pub(super) pids: u32,
    pub(super) shm_bytes: u64,
    /// Contents of files of the container.
    pub(super) hosts: String,
    pub(super) resolv_conf: String,
    /// Seconds since 1970.
    pub(super) deadline_s: u64,
    /// What lies over the image.
    pub(super) source: Option<Source>,
    /// A folder that is to be there for whoever the command runs as.
    #[serde(default)]
    pub(super) open_folder: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Source {
    /// The tree: a layer that nobody writes to.
    pub(super) files: PathBuf,
    /// A shared lock on it keeps the tree from being removed.
    pub(super) lock: PathBuf,
    /// The folder of the container.
    pub(super) at: String,
}

/// How the command ended, as its supervisor saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) code: u8,
    pub(super) signal: Option<u8>,
    pub(super) oom: bool,
    pub(super) cpu_ms: Option<u64>,
    pub(super) peak_memory_bytes: Option<u64>,
    /// From its start to its end.
    pub(super) took_ms: u64,
}
