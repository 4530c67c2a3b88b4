//! A step's output as bytes alone: all there is, all there will be, or a range of what an ended step left.
//!
//! The bytes lie in the events of the spool; nothing is stored twice.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use common::StepEvent;
use futures_util::Stream;
use std::io;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::spool::{Lines, Reader};
use super::step::{Reading, Step};
use crate::error::Refusal;

pub(super) async fn respond(
    step: &Arc<Step>,
    follow: bool,
    range: Option<&str>,
    cut: CancellationToken,
) -> Result<Response, Refusal> {
    let ended = step.spool.has_ended();
    let mut headers = vec![
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    if !ended {
        let body = Body::from_stream(bytes(reader(step)?, step.read(), follow, 0, u64::MAX, cut));
        return Ok((to_headers(headers), body).into_response());
    }
    let total = total(reader(step)?).await.map_err(anyhow::Error::from)?;
    headers.push((header::ACCEPT_RANGES, "bytes".to_owned()));
    let (status, from, until) = match range.map(|range| wanted(range, total)) {
        None => (StatusCode::OK, 0, total),
        Some(Some((from, until))) => {
            headers.push((header::CONTENT_RANGE, format!("bytes {from}-{}/{total}", until - 1)));
            (StatusCode::PARTIAL_CONTENT, from, until)
        }
        Some(None) => {
            return Err(Refusal::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("the output of step {} has {total} bytes", step.id),
                "ask for one range within them, such as `Range: bytes=0-999`",
            ));
        }
    };
    headers.push((header::CONTENT_LENGTH, (until - from).to_string()));
    let body = Body::from_stream(bytes(reader(step)?, step.read(), false, from, until, cut));
    Ok((status, to_headers(headers), body).into_response())
}

fn to_headers(headers: Vec<(header::HeaderName, String)>) -> axum::http::HeaderMap {
    let value = |text: String| text.parse().expect("words and numbers are header values");
    headers.into_iter().map(|(name, text)| (name, value(text))).collect()
}

fn reader(step: &Step) -> Result<Reader, Refusal> {
    let reader = step.spool.reader(0).map_err(anyhow::Error::from)?;
    Ok(reader.ok_or_else(|| anyhow::anyhow!("every spool has a beginning"))?)
}

async fn total(mut reader: Reader) -> io::Result<u64> {
    let mut total = 0;
    while let Some(lines) = reader.next().await? {
        total += outputs(&lines)?.len() as u64;
    }
    Ok(total)
}

/// The output from byte `from` until byte `until`.
fn bytes(
    reader: Reader,
    reading: Reading,
    follow: bool,
    from: u64,
    until: u64,
    cut: CancellationToken,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let start = (reader, reading, 0, cut);
    futures_util::stream::try_unfold(start, move |(mut reader, reading, mut at, cut)| async move {
        while at < until {
            let lines = tokio::select! {
                () = cut.cancelled() => return Ok(None),
                lines = async { if follow { reader.next().await } else { reader.next_ready().await } } => lines?,
            };
            let Some(lines) = lines else { return Ok(None) };
            let mut bytes = outputs(&lines)?;
            let (begin, end) = (at, at + bytes.len() as u64);
            at = end;
            // Both differences are within the length of `bytes`.
            bytes.truncate((until.clamp(begin, end) - begin) as usize);
            bytes.drain(..((from.clamp(begin, end) - begin) as usize).min(bytes.len()));
            if !bytes.is_empty() {
                return Ok(Some((Bytes::from(bytes), (reader, reading, at, cut))));
            }
        }
        Ok(None)
    })
}

fn outputs(lines: &Lines) -> io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(lines.len());
    for event in lines.events() {
        if let StepEvent::Output { bytes, .. } = event? {
            all.extend_from_slice(bytes.as_slice());
        }
    }
    Ok(all)
}

/// The first byte and the one after the last, of the one range that is asked for.
fn wanted(range: &str, total: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (from, until) = match (first.trim(), last.trim()) {
        ("", last) => (total.saturating_sub(last.parse().ok()?), total),
        (first, "") => (first.parse().ok()?, total),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(total)),
    };
    (from < until).then_some((from, until))
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn ranges() {
        assert_eq!(wanted("bytes=0-0", 10), Some((0, 1)));
        assert_eq!(wanted("bytes=3-", 10), Some((3, 10)));
        assert_eq!(wanted("bytes=-3", 10), Some((7, 10)));
        assert_eq!(wanted("bytes=5-99", 10), Some((5, 10)));
        assert_eq!(wanted("bytes=10-", 10), None);
        assert_eq!(wanted("bytes=0-1,4-5", 10), None);
        assert_eq!(wanted("lines=1-2", 10), None);
        assert_eq!(wanted("bytes=-0", 10), None);
    }
}
