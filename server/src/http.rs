//! What both servers share of HTTP: listening, serving with deadlines, shutting down, and server-sent events.
//!
//! The accept loop is our own because a slow reader must be noticed where bytes are written, and
//! `axum::serve` has no place for a deadline there.

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::map_request;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::TcpKeepalive;
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use crate::error::SetupError;
use crate::limits;

/// How much one reader of a file holds in memory.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Binds, or says in two lines why not.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, SetupError> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!(
                    "something else listens on port {}; stop it, or choose another with --listen",
                    address.port()
                )
            }
            _ => "choose an address of this machine with --listen, such as 127.0.0.1:9009".to_owned(),
        };
        SetupError::new(format!("cannot listen on {address}: {error}"), hint)
    })
}

/// Serves until `stop`, then lets answers that are being written end. Streams have to watch `stop` themselves.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let router = router.layer(map_request(async |request: Request| request.map(patient)));
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or a client gone already: neither is a reason to stop serving.
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        tune(&stream);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits::WRITE_STALL));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::HEADERS)
            .max_buf_size(limits::CONNECTION_BYTES)
            .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router.clone()));
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(limits::SHUTDOWN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections were still busy at shutdown and are cut");
    }
}

/// Small events leave at once. A peer that vanished without a word is noticed by the kernel: by what it does not
/// acknowledge, and where there is nothing to send it, by asking whether it is there.
fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let asking = TcpKeepalive::new().with_time(limits::KEEP_ALIVE).with_interval(limits::KEEP_ALIVE);
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_user_timeout(Some(limits::SILENCE)))
        .and_then(|()| socket.set_tcp_keepalive(&asking));
    if let Err(error) = tuned {
        tracing::debug!("a connection could not be tuned: {error}");
    }
}

/// The same body, which breaks off where its sender says nothing for too long.
fn patient(body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let pieces = futures_util::stream::unfold(body.into_data_stream(), |mut pieces| async move {
        match tokio::time::timeout(limits::SILENCE, pieces.next()).await {
            Ok(piece) => piece.map(|piece| (piece, pieces)),
            Err(late) => Some((Err(axum::Error::new(late)), pieces)),
        }
    });
    // Whoever reads it may ask once more after its end.
    Body::from_stream(pieces.fuse())
}

/// One server-sent event. `json` must be one line, as serde_json writes it.
pub(crate) fn sse_event(name: Option<&str>, id: Option<u64>, json: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(json.len() + 48);
    write_event(&mut frame, name, id, json);
    Bytes::from(frame)
}

/// Like `sse_event`, into a buffer that may hold many.
pub(crate) fn write_event(frame: &mut Vec<u8>, name: Option<&str>, id: Option<u64>, json: &[u8]) {
    debug_assert!(!json.contains(&b'\n') && !json.contains(&b'\r'));
    if let Some(name) = name {
        frame.extend_from_slice(b"event: ");
        frame.extend_from_slice(name.as_bytes());
        frame.push(b'\n');
    }
    if let Some(id) = id {
        writeln!(frame, "id: {id}").expect("writing to a Vec does not fail");
    }
    frame.extend_from_slice(b"data: ");
    frame.extend_from_slice(json);
    frame.extend_from_slice(b"\n\n");
}

/// What a stream says where it has nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alive {
    Comment,
    /// Browsers do not show comments to pages, which are to notice a dead connection, too.
    Event,
}

/// A response of server-sent events, kept alive, which ends with its stream or at `stop`.
pub(crate) fn sse_response(
    events: impl Stream<Item = Bytes> + Send + 'static,
    stop: CancellationToken,
    alive: Alive,
) -> Response {
    let alive: &'static [u8] = match alive {
        Alive::Comment => b": alive\n\n",
        Alive::Event => b"event: alive\ndata: {}\n\n",
    };
    let body = Body::from_stream(kept_alive(events, stop, alive).map(Ok::<Bytes, Infallible>));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

/// How many streams are open now, of this process.
pub(crate) fn sse_readers() -> u64 {
    READERS.load(Ordering::Relaxed)
}

static READERS: AtomicU64 = AtomicU64::new(0);

/// Counts a stream for as long as it lives.
struct Counted;

impl Counted {
    fn new() -> Counted {
        READERS.fetch_add(1, Ordering::Relaxed);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn kept_alive(
    events: impl Stream<Item = Bytes> + Send + 'static,
    stop: CancellationToken,
    alive: &'static [u8],
) -> impl Stream<Item = Bytes> + Send {
    let begin = (Box::pin(events), stop, Counted::new());
    futures_util::stream::unfold(begin, move |(mut events, stop, counted)| async move {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            next = events.next() => next,
            () = tokio::time::sleep(limits::KEEP_ALIVE) => Some(Bytes::from_static(alive)),
        };
        next.map(|bytes| (bytes, (events, stop, counted)))
    })
}

/// The next bytes of a file.
pub(crate) async fn read_some(file: &mut File, at_most: u64) -> io::Result<Bytes> {
    let mut bytes = BytesMut::with_capacity((CHUNK as u64).min(at_most) as usize);
    let count = file.take(at_most).read_buf(&mut bytes).await?;
    bytes.truncate(count);
    Ok(bytes.freeze())
}

/// So many bytes of a file, from where it stands.
pub(crate) fn part(file: File, size: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::unfold((file, size), |(mut file, left)| async move {
        if left == 0 {
            return None;
        }
        match read_some(&mut file, left.min(CHUNK as u64)).await {
            Ok(bytes) if bytes.is_empty() => Some((Err(io::ErrorKind::UnexpectedEof.into()), (file, 0))),
            Ok(bytes) => {
                let left = left - bytes.len() as u64;
                Some((Ok(bytes), (file, left)))
            }
            Err(error) => Some((Err(error), (file, 0))),
        }
    })
}
