//! Who may use the boss: whoever has the token, or a browser that came by a one-time link. A cookie alone is not
//! enough: the request has to come from our own page.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::runs::now_ms;
use super::store::Store;
use crate::auth::{Token, random_hex};
use crate::error::Refusal;

/// A link that nobody opened for so long does not open any more.
const LINK_LIVES: Duration = Duration::from_secs(3600);

/// A browser that was not here for so long has to come by a link again.
const SESSION_LIVES_MS: u64 = 30 * 24 * 3600 * 1000;

/// More unopened links than that are nobody's wish; the oldest goes.
const MOST_LINKS: usize = 100;

#[derive(Clone)]
pub(crate) struct Sessions {
    shared: Arc<Shared>,
}

struct Shared {
    token: Token,
    store: Store,
    port: u16,
    /// `host:port` as browsers send it, of every address by which the page may be reached.
    hosts: Vec<String>,
    /// Where links lead; the first of `--public-url`, else loopback.
    base_url: String,
    /// Hash of a one-time code -> until when it is good.
    links: Mutex<HashMap<String, Instant>>,
}

impl Sessions {
    pub(crate) fn new(token: Token, store: Store, listen: SocketAddr, public_urls: &[String]) -> Sessions {
        let port = listen.port();
        let mut hosts: Vec<String> =
            ["localhost", "127.0.0.1", "[::1]"].iter().map(|host| format!("{host}:{port}")).collect();
        hosts.push(reachable(listen).to_string());
        for url in public_urls {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            hosts.push(rest.trim_end_matches('/').to_ascii_lowercase());
        }
        let base_url = match public_urls.first() {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", reachable(listen)),
        };
        let shared = Shared { token, store, port, hosts, base_url, links: Mutex::default() };
        Sessions { shared: Arc::new(shared) }
    }

    /// A link that opens the page once. The code stands in the fragment, which no server and no log ever sees.
    pub(crate) fn new_link(&self) -> String {
        let code = random_hex(16);
        let mut links = self.shared.links.lock().expect("no panic under this lock");
        links.retain(|_, until| *until > Instant::now());
        if links.len() >= MOST_LINKS
            && let Some(oldest) = links.iter().min_by_key(|(_, until)| **until).map(|(hash, _)| hash.clone())
        {
            links.remove(&oldest);
        }
        links.insert(hash(&code), Instant::now() + LINK_LIVES);
        format!("{}/#code={code}", self.shared.base_url)
    }

    /// Trades a link's code for a session; answers with the `Set-Cookie` line.
    pub(crate) async fn log_in(&self, code: &str) -> Result<String, Refusal> {
        let good = {
            let mut links = self.shared.links.lock().expect("no panic under this lock");
            links.remove(&hash(code)).is_some_and(|until| until > Instant::now())
        };
        if !good {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "this link was opened before, or is too old",
                "run `bettertest open` on the boss's machine for a new one",
            ));
        }
        let cookie = random_hex(32);
        let added = self.shared.store.add_session(hash(&cookie), now_ms()).await;
        added.map_err(|error| Refusal::internal(&error.into()))?;
        let name = self.cookie_name();
        let age = SESSION_LIVES_MS / 1000;
        Ok(format!("{name}={cookie}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict"))
    }

    fn cookie_name(&self) -> String {
        format!("bettertest_{}", self.shared.port)
    }

    /// A page that found its way to us by another name than ours may be anybody's.
    fn known_host(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        host.is_some_and(|host| self.shared.hosts.contains(&host.to_ascii_lowercase()))
    }

    async fn has_session(&self, headers: &HeaderMap) -> Result<bool, Refusal> {
        let name = self.cookie_name();
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let cookie = cookies
            .flat_map(|line| line.split(';'))
            .find_map(|pair| pair.trim().split_once('=').filter(|(key, _)| *key == name));
        let Some((_, value)) = cookie else { return Ok(false) };
        let now = now_ms();
        let seen =
            self.shared.store.see_session(hash(value), now.saturating_sub(SESSION_LIVES_MS), now).await;
        seen.map_err(|error| Refusal::internal(&error.into()))
    }
}

/// Where a boss that listens there is reached from its own machine.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() { SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())) } else { listen }
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Does the request come from a page of ours? Where a browser does not say so itself, a POST has to name our
/// origin, and a GET must not name another.
fn from_our_page(method: &Method, headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host)),
        None => method == Method::GET || method == Method::HEAD,
    }
}

/// For everything: only under a name of ours.
pub(crate) async fn host_guard(State(sessions): State<Sessions>, request: Request, next: Next) -> Response {
    if !sessions.known_host(request.headers()) {
        return Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this boss is not known by the name that the request uses",
            format!("use one of {}, or start it with --public-url", sessions.shared.hosts.join(", ")),
        )
        .into_response();
    }
    next.run(request).await
}

/// For the API: the token, or a session and our own page.
pub(crate) async fn api_guard(State(sessions): State<Sessions>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if request.method() == Method::POST && !is_json(headers) {
        return not_json().into_response();
    }
    if headers.contains_key(header::AUTHORIZATION) {
        if sessions.shared.token.is_in(headers) {
            return next.run(request).await;
        }
        return Refusal::no_token(&sessions.shared.token.path().display().to_string()).into_response();
    }
    match sessions.has_session(headers).await {
        Err(refusal) => refusal.into_response(),
        Ok(false) => Refusal::new(
            StatusCode::UNAUTHORIZED,
            "nobody is logged in here",
            "run `bettertest open` on the boss's machine and open the link that it prints",
        )
        .into_response(),
        Ok(true) if !from_our_page(request.method(), headers) => not_ours().into_response(),
        Ok(true) => next.run(request).await,
    }
}

/// For the one API route that needs neither token nor session, because it makes the session.
pub(crate) async fn login_guard(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !is_json(headers) {
        return not_json().into_response();
    }
    if !from_our_page(request.method(), headers) {
        return not_ours().into_response();
    }
    next.run(request).await
}

/// A form of another site can post text, but not JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.split(';').next().unwrap_or_default().trim() == "application/json")
}

fn not_json() -> Refusal {
    Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "a POST needs the header Content-Type: application/json",
        "send JSON; {} where there is nothing to say",
    )
}

fn not_ours() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "this request comes from another site's page",
        "use the boss's own page, or the token with `Authorization: Bearer`",
    )
}
