//! What happens in a sandbox, passed on to the life of its step; and what can still be said where nobody saw it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

use super::super::{Exit, Fault, Happening, Running};
use super::link::{Link, Said};
use super::order::{ENDED, Ended, ORDER, Order, STARTED};
use common::Reason;

/// Until the command has ended, the supervisor is gone, or nobody listens any more.
pub(super) async fn pass_on(mut link: Link, folder: PathBuf, tell: mpsc::Sender<Happening>) {
    loop {
        let said = tokio::select! {
            said = link.next() => said,
            () = tell.closed() => return,
        };
        let happening = match said {
            Ok(Some(Said::Output(stream, bytes))) => {
                let count = bytes.len();
                if tell.send(Happening::Output(stream, bytes)).await.is_err() {
                    return;
                }
                // Where it is not heard, its end is seen next.
                drop(link.passed_on(count).await);
                continue;
            }
            Ok(Some(Said::Gone)) => Happening::Gap,
            Ok(Some(Said::Over(ended))) => Happening::Exited(exit(ended)),
            Ok(Some(Said::Ready | Said::Began { .. } | Said::Failed(_)) | None) | Err(_) => {
                for last in left(&folder) {
                    if tell.send(last).await.is_err() {
                        return;
                    }
                }
                return;
            }
        };
        let is_last = matches!(happening, Happening::Exited(_));
        if tell.send(happening).await.is_err() || is_last {
            return;
        }
    }
}

/// A step that nobody supervises any more, from what its supervisor wrote down; None where its command cannot have begun.
pub(super) fn afterwards(folder: &Path) -> io::Result<Option<Running>> {
    if !folder.join(STARTED).exists() {
        return Ok(None);
    }
    let order: Order = serde_json::from_slice(&fs::read(folder.join(ORDER))?)?;
    let age = ended(folder).map_or(Duration::ZERO, |ended| Duration::from_millis(ended.took_ms));
    let (tell, happenings) = mpsc::channel(super::super::AHEAD);
    for last in left(folder) {
        tell.try_send(last).map_err(io::Error::other)?;
    }
    let (container, image_digest) = (order.container, Some(order.image_digest));
    Ok(Some(Running { container, image_digest, age, has_ended: true, happenings }))
}

/// The supervisor is gone, and with it what it kept.
fn left(folder: &Path) -> Vec<Happening> {
    match ended(folder) {
        Some(ended) => vec![Happening::Gap, Happening::Exited(exit(ended))],
        None => {
            let fault = Fault::new(
                Reason::ContainerLost,
                "the sandbox's supervisor is gone, and with it the sandbox and its exit code",
                "did somebody kill it, or was the machine restarted? run it again",
            );
            vec![Happening::Lost { fault, exit_code: None }]
        }
    }
}

fn ended(folder: &Path) -> Option<Ended> {
    serde_json::from_slice(&fs::read(folder.join(ENDED)).ok()?).ok()
}

fn exit(ended: Ended) -> Exit {
    let Ended { code, signal, oom, cpu_ms, peak_memory_bytes, .. } = ended;
    Exit { code, oom, signal, cpu_ms, peak_memory_bytes }
}
