//! Who may ask for what. One token per data directory, for machines and command lines; the page's sessions are
//! in `boss/sessions.rs`.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::data_dir::{DataDir, once, unusable};
use crate::error::{Refusal, SetupError};

/// 256 random bits, made at the first start. Kept as a digest where it is only compared.
#[derive(Clone)]
pub(crate) struct Token {
    text: String,
    path: PathBuf,
}

impl Token {
    /// The token of this data directory, made where there is none.
    pub(crate) fn of(data: &DataDir) -> Result<Token, SetupError> {
        let path = data.path().join("token");
        let group = nix::unistd::Group::from_name("bettertest").ok().flatten();
        let shared = group.filter(|_| nix::unistd::Uid::effective().is_root());
        let text = once(&path, 0o600, || random_hex(32))?;
        if let Some(group) = shared {
            let share = || -> std::io::Result<()> {
                nix::unistd::chown(&path, None, Some(group.gid))?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))
            };
            share().map_err(|error| unusable(&path, &error))?;
        }
        Ok(Token { text, path })
    }

    /// The token in a file that somebody else made; None where there is none that this user may read.
    pub(crate) fn read(path: &Path) -> Option<Token> {
        let text = std::fs::read_to_string(path).ok()?.trim().to_owned();
        (!text.is_empty()).then(|| Token { text, path: path.to_owned() })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Compared as digests, so that the time it takes tells nothing of the token.
    fn is(&self, given: &str) -> bool {
        Sha256::digest(self.text.as_bytes()) == Sha256::digest(given.as_bytes())
    }

    /// Does this request carry the token as `Authorization: Bearer TOKEN`?
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        given.and_then(|value| value.strip_prefix("Bearer ")).is_some_and(|given| self.is(given.trim()))
    }
}

/// For the routes of a worker that need the token. A browser has no business there, token or not.
pub(crate) async fn worker_guard(State(token): State<Token>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Refusal::new(
            StatusCode::FORBIDDEN,
            "a worker does not talk to browsers",
            "open the page of the boss instead, or use curl",
        )
        .into_response();
    }
    if !token.is_in(headers) {
        return Refusal::no_token(&token.path().display().to_string()).into_response();
    }
    next.run(request).await
}

pub(crate) fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel always has random bytes");
    u128::from_le_bytes(bytes)
}

pub(crate) fn random_hex(count: usize) -> String {
    let mut bytes = vec![0; count];
    getrandom::fill(&mut bytes).expect("the kernel always has random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
