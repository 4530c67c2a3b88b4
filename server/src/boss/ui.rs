//! The page: the files that trunk built, carried inside the binary, as they are and packed by gzip.

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
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
/// What the build adds to the name of a file that it has packed.
const PACKED: &str = ".gz";

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
pub(crate) async fn file(uri: Uri, asked: &HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path.starts_with("api/") {
        return no_such_route().into_response();
    }
    let (name, cache) = match find(path) {
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
    let Some(file) = find(name) else { return no_such_route().into_response() };
    let kind = HeaderValue::from_str(file.metadata.mimetype()).expect("a MIME type is ASCII");
    let packed =
        Some(format!("{name}{PACKED}")).filter(|_| takes_gzip(asked)).and_then(|name| Files::get(&name));
    let coding = packed.is_some().then_some([(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
    let file = packed.unwrap_or(file);
    // Of what is sent, so that the packed and the plain form have different ones.
    let tag = STANDARD.encode(&file.metadata.sha256_hash()[..12]);
    let tag = HeaderValue::from_str(&format!("\"{tag}\"")).expect("base64 is ASCII");
    let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|tags| holds(tags, &tag));
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, HeaderValue::from_static(cache)),
        (header::ETAG, tag),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    match coding {
        Some(coding) => (headers, coding, file.data.into_owned()).into_response(),
        None => (headers, file.data.into_owned()).into_response(),
    }
}

/// The packed form of a file is no file of its own.
fn find(name: &str) -> Option<rust_embed::EmbeddedFile> {
    if name.ends_with(PACKED) { None } else { Files::get(name) }
}

/// Whether one of these tags, as a browser lists them, is ours.
fn holds(tags: &HeaderValue, ours: &HeaderValue) -> bool {
    let Ok(tags) = tags.to_str() else { return false };
    tags.split(',').any(|tag| tag.trim().trim_start_matches("W/").as_bytes() == ours.as_bytes())
}

fn takes_gzip(asked: &HeaderMap) -> bool {
    let codings = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|codings| codings.to_str().ok());
    codings.flat_map(|codings| codings.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

pub(crate) fn no_such_route() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "there is no such route",
        "the README lists them; /api/pipeline and /api/runs are two",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_who_takes_it() {
        let takes = |codings: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(codings))]))
        };
        assert!(takes("gzip") && takes("br, GZIP;q=0.5, deflate") && takes("identity,gzip ; q=1"));
        assert!(!takes("br") && !takes("gzip;q=0") && !takes("deflate, gzip; q=0.000") && !takes("x-gzip2"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
