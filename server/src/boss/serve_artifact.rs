//! A kept file over HTTP. A stranger's test wrote it, so no browser is to do anything with it but save it: neither what
//! it says of itself nor its name makes it a page of ours.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::Artifact;
use std::path::Path;
use tokio::fs::File;

use crate::error::Refusal;
use crate::http::part;

pub(crate) async fn artifact(path: &Path, artifact: &Artifact) -> Result<Response, Refusal> {
    let opened = async {
        let file = File::open(path).await?;
        let size_bytes = file.metadata().await?.len();
        std::io::Result::Ok((file, size_bytes))
    };
    let (file, size_bytes) = match opened.await {
        Ok((file, size_bytes)) if size_bytes == artifact.size_bytes => (file, size_bytes),
        Ok(_) => return Err(gone("it has another size than it had")),
        Err(error) => return Err(gone(&error.to_string())),
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, disposition(&artifact.path)),
        (header::CONTENT_LENGTH, size_bytes.to_string()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'".to_owned()),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Body::from_stream(part(file, size_bytes))).into_response())
}

fn gone(why: &str) -> Refusal {
    Refusal::new(
        StatusCode::GONE,
        format!("this artifact cannot be read: {why}"),
        "it may have been removed from the boss's data directory; run the task again",
    )
}

/// To be saved, under its last name: as RFC 6266 writes one that is more than ASCII.
fn disposition(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let mut whole = String::new();
    for byte in name.bytes() {
        if is_plain(char::from(byte)) {
            whole.push(char::from(byte));
        } else {
            whole.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}")
}

#[cfg(test)]
mod tests {
    use super::disposition;

    #[test]
    fn no_name_says_more_than_a_name() {
        assert_eq!(disposition("a/x.html"), "attachment; filename=\"x.html\"; filename*=UTF-8''x.html");
        assert_eq!(
            disposition("/é\"; x=\"y"),
            "attachment; filename=\"____x__y\"; filename*=UTF-8''%C3%A9%22%3B%20x%3D%22y"
        );
    }
}
