//! The coordinator: pipedefs, runs, history, page.

mod api;
mod output;
mod pipedef;
mod runs;
mod serve_output;
mod sessions;
mod sse;
mod store;
mod ui;
mod worker_client;
mod workers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

use crate::auth::Token;
use crate::data_dir::{DataDir, make_folder};
use crate::error::SetupError;
use crate::http;

pub(crate) use api::{NewLink, Told, run_events};
pub(crate) use output::OutputId;
pub(crate) use pipedef::{Code, Python, project_of};
pub(crate) use runs::{Runs, RunsError};
pub(crate) use worker_client::{Probe, WorkerClient};
pub(crate) use workers::{WorkerAddress, Workers, is_loopback};

#[cfg(test)]
pub(crate) use {
    pipedef::{Answer, Order, Say},
    store::{Store, StoreError},
};

pub(crate) struct Options {
    pub(crate) pipedef: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) public_urls: Vec<String>,
    pub(crate) data: DataDir,
}

/// Serves the page and the API until `stop`; `ready` is told the link that opens the page.
pub(crate) async fn serve(
    options: Options,
    stop: CancellationToken,
    ready: impl FnOnce(&str),
) -> Result<(), SetupError> {
    let Options { pipedef, listen, public_urls, data } = options;
    let held = data.hold("boss")?;
    let token = Token::of(&data)?;
    let workers = Workers::new(Some(&token), data.path())?;
    let store = open_store(&held.path)?;
    let runs = runs_in(&held.path, pipedef, store.clone(), workers, &data)?;
    let listener = http::listen(listen).await?;
    let address = listener.local_addr().map_err(|error| {
        SetupError::new(format!("the address listened on is not known: {error}"), "try another --listen")
    })?;
    let unended = runs.unended().await.map_err(|error| {
        SetupError::new(format!("the runs in {} cannot be read: {error}", held.path.display()), "see the log")
    })?;
    for (number, _) in unended {
        // One run that cannot be ended is no reason not to serve the others.
        if let Err(error) = runs.end_abandoned(number, common::Reason::BossRestart).await {
            tracing::error!(
                run.id = number.0,
                "run {number} was left unfinished, and cannot be ended: {error}"
            );
        }
    }
    let sessions = sessions::Sessions::new(token, store, address, &public_urls);
    let note = held.path.join("address");
    std::fs::write(&note, format!("{}\n", sessions::reachable(address)))
        .map_err(|error| crate::data_dir::unusable(&note, &error))?;
    ready(&sessions.new_link());
    let streams_end = CancellationToken::new();
    let api = api::Api { runs: runs.clone(), sessions, stop: streams_end.clone() };
    let server = tokio::spawn(http::serve(listener, api::router(api), streams_end.clone()));
    stop.cancelled().await;
    // Readers hear how their runs end, then their streams are ended, then the rest.
    runs.shut_down().await;
    streams_end.cancel();
    server
        .await
        .map_err(|error| SetupError::new(format!("the server panicked: {error}"), "please report this"))
}

/// Opens the store of a boss, or of the local runs of a project.
pub(crate) fn open_store(folder: &Path) -> Result<store::Store, SetupError> {
    make_folder(folder)?;
    let path = folder.join("runs.sqlite");
    store::Store::open(&path).map_err(|error| {
        let hint = match &error {
            store::StoreError::Newer { .. } => "use the newer bettertest again, or another --data-dir",
            store::StoreError::OldSqlite(_) => "build it with the SQLite that it brings",
            store::StoreError::Unusable { .. }
            | store::StoreError::Failed(_)
            | store::StoreError::Contradicts(_)
            | store::StoreError::Unreadable(_) => {
                "move that file away to begin a new history, or name another folder with --data-dir"
            }
        };
        SetupError::new(error.to_string(), hint)
    })
}

/// All runs of a store in `folder`.
pub(crate) fn runs_in(
    folder: &Path,
    pipedef: PathBuf,
    store: store::Store,
    workers: Workers,
    data: &DataDir,
) -> Result<Runs, SetupError> {
    let python = Python::unpack(&data.path().join("cache"))?;
    let outputs = output::Outputs::new(folder.join("output"));
    Ok(Runs::new(pipedef, python, store, outputs, workers))
}
