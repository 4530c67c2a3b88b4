//! The page: the files that trunk built, carried inside the binary.

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

use crate::error::Refusal;

#[derive(rust_embed::RustEmbed)]
#[folder = "../frontend/dist"]
struct Files;

const INDEX: &str = "index.html";

/// Nothing but our own files, and of scripts written into the page only those that were built into it.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let index = Files::get(INDEX).map(|file| file.data).unwrap_or_default();
    let text = String::from_utf8_lossy(&index);
    let mut scripts = String::new();
    for script in inline_scripts(&text) {
        let digest = STANDARD.encode(Sha256::digest(script.as_bytes()));
        scripts.push_str(&format!(" 'sha256-{digest}'"));
    }
    let policy = format!(
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'{scripts}; style-src 'self' 'unsafe-inline'; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("a policy is plain ASCII")
});

fn inline_scripts(html: &str) -> impl Iterator<Item = &str> {
    html.split("<script").skip(1).filter_map(|rest| {
        let (attributes, rest) = rest.split_once('>')?;
        let (script, _) = rest.split_once("</script>")?;
        (!attributes.contains("src=") && !script.trim().is_empty()).then_some(script)
    })
}

/// A file of the page; every address that is no file is the page itself, which knows its own addresses.
pub(crate) async fn file(uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path.starts_with("api/") {
        return no_such_route().into_response();
    }
    let (name, cache) = match Files::get(path) {
        // Their names change with their content.
        Some(_) if path != INDEX && path.contains('-') => (path, "public, max-age=31536000, immutable"),
        Some(_) => (path, "no-cache"),
        None if path
            .rsplit('/')
            .next()
            .is_some_and(|last| last.ends_with(".js") || last.ends_with(".wasm")) =>
        {
            return no_such_route().into_response();
        }
        None => (INDEX, "no-cache"),
    };
    let Some(file) = Files::get(name) else { return no_such_route().into_response() };
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_str(file.metadata.mimetype()).expect("a MIME type is ASCII"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static(cache)),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, file.data.into_owned()).into_response()
}

pub(crate) fn no_such_route() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "there is no such route",
        "the README lists them; /api/pipeline and /api/runs are two",
    )
}
