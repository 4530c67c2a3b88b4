//! The files of the page: small, packed, kept by browsers, and nothing from anywhere else.

use reqwest::{Response, StatusCode, header};

use crate::ci::Ci;

/// What a browser has to fetch before the page is there.
const MOST_BYTES: usize = 430_000;

async fn get(ci: &Ci, path: &str, headers: &[(header::HeaderName, &str)]) -> Response {
    let mut asked = ci.http.get(format!("{}/{path}", ci.boss.base));
    for (name, value) in headers {
        asked = asked.header(name, *value);
    }
    asked.send().await.unwrap()
}

/// The names of the page's own files that its HTML refers to.
fn files_of(html: &str) -> Vec<String> {
    let mut files: Vec<String> = html
        .split(['"', '\''])
        .filter(|piece| {
            piece.starts_with('/') && [".js", ".css", ".wasm"].iter().any(|end| piece.ends_with(end))
        })
        .map(|path| path.trim_start_matches('/').to_owned())
        .collect();
    files.sort();
    files.dedup();
    files
}

#[tokio::test]
async fn the_page_is_small_packed_and_kept() {
    let ci = Ci::with("class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n").await;
    let html = get(&ci, "", &[]).await.text().await.unwrap();
    let files = files_of(&html);
    assert_eq!(files.len(), 3, "{files:?} in {html}");
    assert!(!html.contains("http"), "everything comes from the boss itself: {html}");
    let mut total = 0;
    for path in files.iter().map(String::as_str).chain([""]) {
        let plain = get(&ci, path, &[]).await;
        assert!(plain.headers().get(header::CONTENT_ENCODING).is_none(), "{path}");
        let plain_tag = plain.headers()[header::ETAG].clone();
        let plain_bytes = plain.bytes().await.unwrap();

        let packed = get(&ci, path, &[(header::ACCEPT_ENCODING, "gzip, deflate, br")]).await;
        assert_eq!(packed.status(), StatusCode::OK);
        let headers = packed.headers().clone();
        assert_eq!(headers[header::CONTENT_ENCODING], "gzip", "{path}");
        assert_eq!(headers[header::VARY], "accept-encoding");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let cache = if path.is_empty() { "no-cache" } else { "public, max-age=31536000, immutable" };
        assert_eq!(headers[header::CACHE_CONTROL], cache, "{path}");
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        for part in ["default-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(part), "{policy}");
        }
        let scripts = policy.split("; ").find(|part| part.starts_with("script-src")).unwrap();
        assert!(!scripts.contains("unsafe-inline") && !scripts.contains("'unsafe-eval'"), "{policy}");

        let tag = headers[header::ETAG].clone();
        assert_ne!(tag, plain_tag, "{path}: they are not the same bytes");
        let bytes = packed.bytes().await.unwrap();
        // The last bytes of a gzip file are how long it is when unpacked.
        let length = u32::from_le_bytes(bytes[bytes.len() - 4..].try_into().unwrap());
        assert_eq!((&bytes[..2], length as usize), (&[0x1f, 0x8b][..], plain_bytes.len()), "{path}");
        if !path.is_empty() {
            total += bytes.len();
        }

        let asked = [(header::ACCEPT_ENCODING, "gzip"), (header::IF_NONE_MATCH, tag.to_str().unwrap())];
        let again = get(&ci, path, &asked).await;
        assert_eq!((again.status(), again.headers()[header::ETAG].clone()), (StatusCode::NOT_MODIFIED, tag));
        assert!(again.bytes().await.unwrap().is_empty());
    }
    assert!(total > 0 && total <= MOST_BYTES, "wasm, js and css are {total} bytes packed");
    let hidden = get(&ci, &format!("{}.gz", files[0]), &[]).await;
    assert_eq!(hidden.headers()[header::CONTENT_TYPE], "text/html", "the packed form is no file of its own");
}
