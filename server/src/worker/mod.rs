//! The process that runs steps.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;

use crate::auth::Token;
use crate::data_dir::DataDir;
use crate::error::SetupError;
use crate::signals::Stop;

/// What `--worker` is told by its flags.
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) slots: Option<u16>,
    /// `docker` or `fake`.
    pub(crate) engine: String,
    pub(crate) docker_host: Option<String>,
    pub(crate) data: DataDir,
    pub(crate) max_output_bytes: Option<u64>,
    pub(crate) spool_bytes: Option<u64>,
    pub(crate) allow_cap: Vec<String>,
}

/// Serves until `told`: on Terminate hands running steps over, on Interrupt cancels them. `ready` is given the
/// lines to print once it listens.
pub(crate) async fn serve(
    options: Options,
    told: impl Future<Output = Stop>,
    ready: impl FnOnce(&str),
) -> Result<(), SetupError> {
    let _not_yet = (options.listen, options.slots, options.engine, options.docker_host, options.data);
    let _not_yet = (options.max_output_bytes, options.spool_bytes, options.allow_cap);
    ready("");
    told.await;
    Err(not_there())
}

/// A worker of `bettertest run`'s own, on a free port of loopback, with docker.
pub(crate) struct PrivateWorker {
    address: SocketAddr,
}

/// Starts one that keeps its spools in `folder` and labels its containers with `instance`.
pub(crate) async fn serve_privately(
    _folder: &Path,
    _instance: &str,
    _token: &Token,
) -> Result<PrivateWorker, SetupError> {
    Err(not_there())
}

impl PrivateWorker {
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cancels what still runs, and returns when nothing is left.
    pub(crate) async fn shut_down(self) {}
}

/// Removes the containers of an instance whose process is gone.
pub(crate) async fn sweep_instance(_instance: &str) -> Result<(), SetupError> {
    Err(not_there())
}

fn not_there() -> SetupError {
    SetupError::new("this build has no worker yet", "take the next one")
}
