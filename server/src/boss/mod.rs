//! The coordinator: pipedefs, runs, history, page.

mod api;
mod attempt_tests;
pub(crate) mod junit;
mod output;
mod packet;
mod pipedef;
mod routes;
mod runs;
mod serve_artifact;
mod serve_output;
mod sessions;
mod sse;
mod store;
mod ui;
mod worker_client;
mod workers;

use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::auth::Token;
use crate::data_dir::{DataDir, make_folder};
use crate::error::SetupError;
use crate::joined::joined;
use crate::signals::{Signals, Stop};
use crate::{http, limits};
use common::Checkup;

pub(crate) use api::{NewLink, Told, run_events};
pub(crate) use output::{OutputId, end_of};
pub(crate) use pipedef::{Code, Python, project_of, which_python};
pub(crate) use runs::{Keep, Runs, RunsError};
pub(crate) use store::{StoreCopy, Whole, how_whole};
pub(crate) use worker_client::{Probe, WorkerClient};
pub(crate) use workers::{WorkerAddress, Workers, is_loopback};

#[cfg(test)]
pub(crate) use {
    pipedef::{Answer, Order, Say},
    routes::DOCUMENT,
    store::{AttemptTests, Change, Standing, Store, StoreError, StoredCode, StoredTests, bounded},
};

/// Looks at what is missing on this machine. The boss serves it, and does not know how it is found out.
pub(crate) type Examine = Arc<dyn Fn() -> BoxFuture<'static, Checkup> + Send + Sync>;

pub(crate) struct Options {
    pub(crate) pipedef: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) public_urls: Vec<String>,
    pub(crate) data: DataDir,
    pub(crate) examine: Examine,
    pub(crate) keep: Keep,
}

/// Serves the page and the API until it is told to stop; `ready` is told the link that opens the page.
pub(crate) async fn serve(
    options: Options,
    mut told: Signals,
    ready: impl FnOnce(&str),
) -> Result<(), SetupError> {
    let Options { pipedef, listen, public_urls, data, examine, keep } = options;
    let held = data.hold("boss")?;
    let token = Token::of(&data)?;
    let workers = Workers::new(Some(&token), data.path())?;
    refuse_emptied(&held.path)?;
    refuse_damaged(&held.path).await?;
    let store = open_store(&held.path)?;
    let runs = runs_in(&held.path, pipedef, store.clone(), workers, &data)?;
    let listener = http::listen(listen).await?;
    let address = listener.local_addr().map_err(|error| {
        SetupError::new(format!("the address listened on is not known: {error}"), "try another --listen")
    })?;
    runs.resume().await.map_err(|error| {
        SetupError::new(
            format!("the runs in {} cannot be read: {error}", held.path.display()),
            restore_hint(&held.path),
        )
    })?;
    let sessions = sessions::Sessions::new(token, store.clone(), address, &public_urls);
    let note = held.path.join("address");
    std::fs::write(&note, format!("{}\n", sessions::reachable(address)))
        .map_err(|error| crate::data_dir::unusable(&note, &error))?;
    let house = tokio::spawn(runs.clone().keep_house(keep));
    ready(&sessions.new_link());
    let streams_end = CancellationToken::new();
    let api = api::Api { runs: runs.clone(), sessions, examine, stop: streams_end.clone() };
    let server = tokio::spawn(http::serve(listener, routes::router(api), streams_end.clone()));
    stop(&runs, &mut told).await;
    // Lists have no end of their own.
    streams_end.cancel();
    let served = server.await;
    runs.hand_over().await;
    // It may just have measured what a run takes, and would write that after the last look at the store.
    joined(house.await).await;
    if let Err(error) = store.settle().await {
        tracing::warn!("the store is looked through at the next start: {error}");
    }
    // The kernel lets go of it, once nothing of this process can write any more.
    std::mem::forget(held);
    served.map_err(|error| SetupError::new(format!("the server panicked: {error}"), "please report this"))
}

/// Once told to: SIGINT cancels every run, SIGTERM lets them end within a time. At a second signal, or past that
/// time, what still runs is left for the next boss of this data directory.
async fn stop(runs: &Runs, told: &mut Signals) {
    let ended = async |how: Stop| match how {
        Stop::Interrupt => {
            runs.shut_down().await;
            true
        }
        Stop::Terminate => tokio::time::timeout(limits::DRAIN, runs.drain()).await.is_ok(),
    };
    let how = told.next().await;
    let hint = match how {
        Stop::Interrupt => "cancelling all runs",
        Stop::Terminate => "waiting for runs to end; the next boss goes on with those that do not",
    };
    tracing::info!("told to stop: {hint}; a second signal stops at once");
    let all_ended = tokio::select! {
        all_ended = ended(how) => all_ended,
        _ = told.next() => false,
    };
    if !all_ended {
        runs.hand_over().await;
    }
}

/// SQLite takes a file without a byte for a new store; but here a history has been, and somebody has to know. (Local
/// runs are several to a store: one may just be making it.)
fn refuse_emptied(folder: &Path) -> Result<(), SetupError> {
    let path = folder.join("runs.sqlite");
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() && meta.len() == 0 => Err(SetupError::new(
            format!("{} is empty: the history that it held is gone", path.display()),
            restore_hint(folder),
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// After a stop that was none, a disk may have made something else of a page. Better nobody begins than that some find
/// it out, run by run.
async fn refuse_damaged(folder: &Path) -> Result<(), SetupError> {
    let (path, log) = (folder.join("runs.sqlite"), folder.join("runs.sqlite-wal"));
    // A boss that was told to stop leaves nothing there.
    if !std::fs::metadata(log).is_ok_and(|log| log.len() > 0) {
        return Ok(());
    }
    let looked = tokio::task::spawn_blocking({
        let path = path.clone();
        move || how_whole(&path, Whole::Tables)
    });
    match joined(looked.await).await {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(damaged(&path, &what)),
        Err(error) => Err(SetupError::new(error.to_string(), restore_hint(folder))),
    }
}

fn damaged(path: &Path, what: &str) -> SetupError {
    let folder = path.parent().unwrap_or(path);
    SetupError::new(format!("{} is damaged: {what}", path.display()), restore_hint(folder))
}

/// `folder` is that of the store.
fn restore_hint(folder: &Path) -> String {
    format!(
        "move {} away; then bettertest restore FILE puts a backup there, or a new history begins",
        folder.display()
    )
}

/// Opens the store of a boss, or of the local runs of a project.
pub(crate) fn open_store(folder: &Path) -> Result<store::Store, SetupError> {
    make_folder(folder)?;
    let path = folder.join("runs.sqlite");
    store::Store::open(&path).map_err(|error| {
        if error.is_damage() {
            return damaged(&path, &error.to_string());
        }
        let hint = match &error {
            store::StoreError::Newer { .. } => "use the newer bettertest again, or another --data-dir",
            store::StoreError::NotCopied { .. } => {
                "make room on that disk, or name another folder with --data-dir"
            }
            store::StoreError::OtherSchema { .. } => "use the bettertest that wrote it",
            store::StoreError::OldSqlite(_) => "build it with the SQLite that it brings",
            store::StoreError::Unusable { .. }
            | store::StoreError::Failed(_)
            | store::StoreError::Removed(_)
            | store::StoreError::Contradicts(_)
            | store::StoreError::Unreadable(_) => {
                "move that file away to begin a new history, or name another folder with --data-dir"
            }
        };
        SetupError::new(error.to_string(), hint)
    })
}

/// Makes the store in `folder`, which was just read from a backup, a history of its own, in which nothing runs.
pub(crate) async fn make_restored(folder: &Path, data: &DataDir) -> Result<(), SetupError> {
    let failed = |error: RunsError| {
        SetupError::new(format!("the history cannot be restored: {error}"), "take another backup")
    };
    let store = open_store(folder)?;
    store.become_another().await.map_err(|error| failed(error.into()))?;
    let runs = runs_in(folder, PathBuf::new(), store, Workers::new(None, data.path())?, data)?;
    runs.end_restored().await.map_err(failed)?;
    runs.store().settle().await.map_err(|error| failed(error.into()))
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
