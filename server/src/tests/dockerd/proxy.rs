//! A Docker Engine that fails on purpose: a socket in front of the real one, which passes everything through but
//! for one call, the k-th.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;

pub(super) const REAL: &str = "/var/run/docker.sock";

/// What becomes of that call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It is refused, and not made.
    Error,
    /// It is not made, and never answered.
    Hang,
    /// It is made, and never answered.
    Mute,
    /// It is made, and its connection cut before the answer.
    Lost,
    /// It is made, and its answer cut after so many bytes that follow its head.
    Cut(usize),
    /// It is made, and its answer stays open and says no more after so many bytes that follow its head.
    Stall(usize),
}

#[derive(Debug, Clone)]
pub(super) struct Call {
    /// Such as `POST /v1.41/containers/create`, without its query.
    pub(super) what: String,
    /// What the real Docker answered.
    pub(super) status: Option<u16>,
}

pub(super) struct Proxy {
    _folder: TempDir,
    path: PathBuf,
    calls: Arc<Calls>,
    serving: AbortHandle,
}

struct Calls {
    real: PathBuf,
    seen: Mutex<Vec<Call>>,
    plan: Mutex<Option<Plan>>,
}

struct Plan {
    /// Only calls with these words count.
    of: String,
    left: usize,
    way: Way,
}

impl Proxy {
    pub(super) fn new(real: &Path) -> Proxy {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let calls = Arc::new(Calls { real: real.to_owned(), seen: Mutex::default(), plan: Mutex::default() });
        let all = calls.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(all.clone(), client));
            }
        });
        Proxy { _folder: folder, path, calls, serving: serving.abort_handle() }
    }

    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// The k-th call from now on that has these words fails, once.
    pub(super) fn fail(&self, of: &str, k: usize, way: Way) {
        *self.calls.plan.lock().unwrap() = Some(Plan { of: of.to_owned(), left: k, way });
    }

    /// Did that call never come?
    pub(super) fn untouched(&self) -> bool {
        self.calls.plan.lock().unwrap().take().is_some()
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.seen.lock().unwrap().clone()
    }

    /// How many such calls did the real Docker do?
    pub(super) fn done(&self, end: &str) -> usize {
        let done = |call: &Call| call.what.ends_with(end) && call.status.is_some_and(|status| status < 300);
        self.calls().iter().filter(|call| done(call)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Calls {
    /// Which one it is, and how it is to fail.
    fn count(&self, what: &str) -> (usize, Option<Way>) {
        let mut seen = self.seen.lock().unwrap();
        seen.push(Call { what: what.to_owned(), status: None });
        let mut plan = self.plan.lock().unwrap();
        let hit = plan.as_mut().is_some_and(|plan| {
            if what.contains(&plan.of) {
                plan.left -= 1;
            }
            plan.left == 0
        });
        (seen.len() - 1, if hit { plan.take().map(|plan| plan.way) } else { None })
    }
}

/// One connection, which is one call: the client keeps none. Errors mean that one side left.
async fn pass(calls: Arc<Calls>, mut client: UnixStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    let Some(head) = read_head(&mut client, &mut request).await? else { return Ok(()) };
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    while request.len() < head + length.unwrap_or(0) {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(&request[..head]).lines().next().unwrap_or_default().to_owned();
    let what = line.split(['?']).next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let (number, way) = calls.count(&what);
    if way == Some(Way::Error) {
        let body = r#"{"message": "scripted: no"}"#;
        let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n";
        let answer = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        return client.write_all(answer.as_bytes()).await;
    }
    if way == Some(Way::Hang) {
        return until_gone(client).await;
    }
    let mut real = UnixStream::connect(&calls.real).await?;
    real.write_all(&request).await?;
    let mut answer = Vec::new();
    let Some(head) = read_head(&mut real, &mut answer).await? else { return Ok(()) };
    let status = std::str::from_utf8(&answer[9..12]).ok().and_then(|status| status.parse().ok());
    calls.seen.lock().unwrap()[number].status = status;
    match way {
        None | Some(Way::Error | Way::Hang) => {
            client.write_all(&answer).await?;
            copy_bidirectional(&mut client, &mut real).await.map(drop)
        }
        Some(Way::Mute) => until_gone(client).await,
        Some(Way::Lost) => Ok(()),
        Some(Way::Cut(bytes) | Way::Stall(bytes)) => {
            client.write_all(&answer[..head]).await?;
            while answer.len() < head + bytes && real.read_buf(&mut answer).await? > 0 {}
            client.write_all(&answer[head..answer.len().min(head + bytes)]).await?;
            if matches!(way, Some(Way::Stall(_))) { until_gone(client).await } else { Ok(()) }
        }
    }
}

/// The length of the head of a message, once it is there.
async fn read_head(from: &mut UnixStream, message: &mut Vec<u8>) -> std::io::Result<Option<usize>> {
    loop {
        if let Some(at) = message.windows(4).position(|end| end == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        if from.read_buf(message).await? == 0 {
            return Ok(None);
        }
    }
}

async fn until_gone(mut client: UnixStream) -> std::io::Result<()> {
    let mut ignored = [0; 1024];
    while client.read(&mut ignored).await? > 0 {}
    Ok(())
}
