//! An output over HTTP: its exact bytes, a part of them, or on and on until it ends.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use std::io;
use tokio::fs::File;
use tokio::io::AsyncSeekExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::output::{OutputId, Outputs, Progress};
use crate::error::Refusal;
use crate::http::{CHUNK, part, read_some};

pub(crate) async fn output(
    outputs: &Outputs,
    id: OutputId,
    follow: bool,
    headers: &HeaderMap,
    stop: CancellationToken,
) -> Result<Response, Refusal> {
    let progress = outputs.follow(id).map_err(|error| gone(&error))?;
    let size = progress.borrow().size_bytes;
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (from, to) = match range.map(|range| parse_range(range, size, follow)) {
        None | Some(Asked::All) => (0, size),
        Some(Asked::Part(from, to)) => (from, to),
        Some(Asked::Beyond) => {
            let total = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            let refusal = Refusal::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("this output has {size} bytes"),
                "ask for one range within them, such as `Range: bytes=0-999`",
            );
            return Ok((total, refusal).into_response());
        }
    };
    let mut file = File::open(outputs.path(id)).await.map_err(|error| gone(&error))?;
    file.seek(io::SeekFrom::Start(from)).await.map_err(|error| gone(&error))?;
    let kind = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        // Output is untrusted: whatever it looks like, it is text.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (header::ACCEPT_RANGES, "bytes"),
    ];
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    if follow {
        let body = Body::from_stream(followed(file, from, progress, stop));
        return Ok((status, kind, body).into_response());
    }
    let body = Body::from_stream(part(file, to - from));
    let length = [(header::CONTENT_LENGTH, (to - from).to_string())];
    if range.is_some() && to > from {
        let place = [(header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", to - 1))];
        return Ok((status, kind, length, place, body).into_response());
    }
    Ok((StatusCode::OK, kind, length, body).into_response())
}

pub(crate) async fn index(outputs: &Outputs, id: OutputId) -> Result<Response, Refusal> {
    let file = File::open(outputs.index_path(id)).await.map_err(|error| gone(&error))?;
    let size = file.metadata().await.map_err(|error| gone(&error))?.len();
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(part(file, size))).into_response())
}

fn gone(error: &io::Error) -> Refusal {
    Refusal::new(
        StatusCode::GONE,
        format!("this output cannot be read: {error}"),
        "it may have been removed from the boss's data directory; run the task again",
    )
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Part(u64, u64),
    Beyond,
}

/// One range of bytes, as `[from, to)`. Anything that we do not know is served whole, as the standard wants it.
/// A follower may begin at the very end: what it asks for is still to come.
fn parse_range(range: &str, size: u64, follow: bool) -> Asked {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::All;
    };
    match (first.trim().parse::<u64>().ok(), last.trim().parse::<u64>().ok()) {
        (Some(first), _) if first == size && follow => Asked::Part(first, size),
        (Some(first), _) if first >= size => Asked::Beyond,
        (Some(first), Some(last)) if last >= first => Asked::Part(first, size.min(last.saturating_add(1))),
        (Some(first), None) if last.trim().is_empty() => Asked::Part(first, size),
        (None, Some(count)) if first.trim().is_empty() && count > 0 => {
            Asked::Part(size.saturating_sub(count), size)
        }
        _ => Asked::All,
    }
}

fn followed(
    file: File,
    from: u64,
    progress: watch::Receiver<Progress>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let begin = (file, from, progress, stop);
    futures_util::stream::unfold(begin, |(mut file, at, mut progress, stop)| async move {
        loop {
            let now = *progress.borrow_and_update();
            if now.size_bytes > at {
                let read = read_some(&mut file, (now.size_bytes - at).min(CHUNK as u64)).await;
                let count = read.as_ref().map_or(0, Bytes::len) as u64;
                return Some((read, (file, at + count, progress, stop)));
            }
            if now.ended {
                return None;
            }
            tokio::select! {
                // The writer gone without an end: what it stored has been read.
                changed = progress.changed() => changed.ok()?,
                () = stop.cancelled() => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes=0-", 10, false), Asked::Part(0, 10));
        assert_eq!(parse_range("bytes=2-4", 10, false), Asked::Part(2, 5));
        assert_eq!(parse_range("bytes=2-400", 10, false), Asked::Part(2, 10));
        assert_eq!(parse_range("bytes=-4", 10, false), Asked::Part(6, 10));
        assert_eq!(parse_range("bytes=-40", 10, false), Asked::Part(0, 10));
        assert_eq!(parse_range("bytes=10-", 10, false), Asked::Beyond);
        assert_eq!(parse_range("bytes=10-", 10, true), Asked::Part(10, 10));
        assert_eq!(parse_range("bytes=11-", 10, true), Asked::Beyond);
        assert_eq!(parse_range("bytes=4-2", 10, false), Asked::All);
        assert_eq!(parse_range("lines=1-2", 10, false), Asked::All);
    }
}
