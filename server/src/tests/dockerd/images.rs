//! Registries that refuse, stall, send garbage, or have the image: what a step says of each, and how often an image
//! is fetched for many steps. The registry is a script on loopback, which Docker speaks plain HTTP with.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use common::{Reason, StepEvent, Verdict};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::rig::{IMAGE, Rig, docker};
use crate::worker::EngineChoice;

/// A registry with images that are the test image but for a label, and some that it does not give away.
#[derive(Clone)]
struct Registry {
    host: String,
    blobs: Arc<Mutex<HashMap<String, Bytes>>>,
    manifests: Arc<Mutex<HashMap<String, Bytes>>>,
    configs_sent: Arc<AtomicUsize>,
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    async fn start() -> Registry {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Registry {
            host: listener.local_addr().unwrap().to_string(),
            blobs: Arc::default(),
            manifests: Arc::default(),
            configs_sent: Arc::default(),
        };
        let router = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/{name}/manifests/{tag}", get(manifest))
            .route("/v2/{name}/blobs/{digest}", get(blob))
            .with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        registry
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}:1", self.host)
    }

    /// Makes it have an image of this name.
    fn offer(&self, name: &str) {
        let folder = tempfile::tempdir().unwrap();
        let unpack = format!("docker save {IMAGE} | tar -x -C {}", folder.path().display());
        assert!(std::process::Command::new("sh").args(["-c", &unpack]).status().unwrap().success());
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let saved: Value = serde_json::from_slice(&read("manifest.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&read(saved[0]["Config"].as_str().unwrap())).unwrap();
        config["config"]["Labels"] = json!({"name": self.image(name)});
        let config = Bytes::from(config.to_string());
        let layers: Vec<Bytes> = (saved[0]["Layers"].as_array().unwrap().iter())
            .map(|layer| Bytes::from(read(layer.as_str().unwrap())))
            .collect();
        let about = |kind: &str, bytes: &Bytes| json!({"mediaType": kind, "size": bytes.len(), "digest": digest(bytes)});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": about("application/vnd.docker.container.image.v1+json", &config),
            "layers": layers.iter()
                .map(|layer| about("application/vnd.docker.image.rootfs.diff.tar.gzip", layer))
                .collect::<Vec<_>>(),
        });
        let mut blobs = self.blobs.lock().unwrap();
        for blob in layers.into_iter().chain([config]) {
            blobs.insert(digest(&blob), blob);
        }
        self.manifests.lock().unwrap().insert(name.to_owned(), Bytes::from(manifest.to_string()));
    }
}

async fn manifest(
    State(registry): State<Registry>,
    UrlPath((name, _)): UrlPath<(String, String)>,
) -> Response {
    let refusal = |status, code: &str, message: &str| {
        let body = json!({"errors": [{"code": code, "message": message}]}).to_string();
        (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    match name.as_str() {
        "private" => refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required"),
        "busy" => refusal(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "rate limit exceeded"),
        "garbage" => ([(header::CONTENT_TYPE, "text/html")], "<html>a captive portal</html>").into_response(),
        "stalled" => std::future::pending().await,
        name => match registry.manifests.lock().unwrap().get(name) {
            Some(bytes) => {
                let kind = "application/vnd.docker.distribution.manifest.v2+json".to_owned();
                let content = HeaderName::from_static("docker-content-digest");
                ([(header::CONTENT_TYPE, kind), (content, digest(bytes))], bytes.clone()).into_response()
            }
            None => refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown"),
        },
    }
}

/// Of what is called `half` only the first half, and then nothing more.
async fn blob(
    State(registry): State<Registry>,
    UrlPath((name, digest)): UrlPath<(String, String)>,
) -> Response {
    let Some(bytes) = registry.blobs.lock().unwrap().get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if bytes.starts_with(b"{") {
        registry.configs_sent.fetch_add(1, Ordering::SeqCst);
    }
    if name == "half" {
        let first = futures_util::stream::iter([Ok::<Bytes, std::io::Error>(bytes.slice(..bytes.len() / 2))]);
        let body = Body::from_stream(first.chain(futures_util::stream::pending()));
        return ([(header::CONTENT_LENGTH, bytes.len().to_string())], body).into_response();
    }
    bytes.into_response()
}

async fn rig() -> Rig {
    Rig::with(EngineChoice::Docker { host: None }, |setup| {
        setup.slots = 12;
        setup.deadlines.pull = Duration::from_secs(4);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_refuses_is_told_with_its_reason() {
    let (rig, registry) = (rig().await, Registry::start().await);
    registry.offer("half");
    let cases = [
        ("absent", Reason::ImageNotFound),
        ("private", Reason::PullDenied),
        ("busy", Reason::PullFailed),
        ("garbage", Reason::PullFailed),
        ("stalled", Reason::PullTimeout),
        ("half", Reason::PullTimeout),
    ];
    for (name, reason) in cases {
        let image = registry.image(name);
        let began = Instant::now();
        let end = rig.run(json!({"image": image, "command": "true"})).await.end();
        assert_eq!(end.verdict, Verdict::Not(reason), "{name}: {end:?}");
        assert!(end.message.as_ref().is_some_and(|message| message.contains(&image)), "{name}: {end:?}");
        assert!(end.hint.is_some(), "{name}: {end:?}");
        assert!(began.elapsed() < Duration::from_secs(60), "{name} took {:?}", began.elapsed());
    }
    assert_eq!(rig.sh("true").await.verdict(), "passed");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_fetched_once_for_all_and_stays_what_it_was() {
    let (rig, registry) = (rig().await, Registry::start().await);
    registry.offer("cold");
    let image = registry.image("cold");
    let spec = |n: usize| json!({"image": image, "command": "true", "id": format!("cold-{n}")});
    let steps = (0..12).map(|n| rig.run(spec(n)));
    let mut digests = Vec::new();
    for told in futures_util::future::join_all(steps).await {
        assert_eq!(told.verdict(), "passed");
        digests.extend(told.0.iter().filter_map(|(_, event)| match event {
            StepEvent::Started { image_digest, .. } => image_digest.clone(),
            _ => None,
        }));
    }
    assert_eq!(registry.configs_sent.load(Ordering::SeqCst), 1);
    digests.dedup();
    let [digest] = digests.as_slice() else { panic!("{digests:?}") };

    // The name means something else from here on; who began with the first one keeps it, as long as it is there.
    docker(&["tag", IMAGE, &image]);
    let pinned = |id: &str| json!({"image": image, "command": "true", "id": id, "image_digest": digest});
    let told = rig.run(pinned("pinned-1")).await;
    let same = |event: &StepEvent| matches!(event, StepEvent::Started { image_digest, .. } if image_digest.as_ref() == Some(digest));
    assert!(told.verdict() == "passed" && told.0.iter().any(|(_, event)| same(event)), "{told:?}");
    docker(&["rmi", "-f", digest]);
    assert_eq!(rig.run(pinned("pinned-2")).await.verdict(), "image_changed");
    docker(&["rmi", &image]);
    rig.finish().await;
}
