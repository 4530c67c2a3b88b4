//! Files that a stranger's test has left, in a real browser: they are saved, byte by byte, and what is in them never
//! becomes a part of our page.

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::ci::Ci;

/// What a page of ours could do: say something else, remember something, start a run.
const HOSTILE: &str = "document.title = 'owned'; document.cookie = 'owned=1; path=/'; try { top.document.title = 'owned' } catch {} \
    fetch('BOSS/api/runs', { method: 'POST', credentials: 'include', headers: { 'content-type': 'application/json' }, body: '{}' })";

const PIPEDEF: &str = r#"
import base64
HTML = base64.b64decode("HTML64").decode()
SVG = base64.b64decode("SVG64").decode()
SCRIPT = base64.b64decode("SCRIPT64").decode()
class One(Stage):
    def task_report(self):
        run(WORKER, IMAGE, f"cat >index.html <<'END'\n{HTML}\nEND\ncat >picture.svg <<'END'\n{SVG}\nEND\ncat >code.js <<'END'\n{SCRIPT}\nEND\n"
            "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i + 1)); done >every.byte",
            artifacts=["*.html", "*.svg", "*.js", "*.byte"], workdir="/tmp/kept")
"#;

fn html(script: &str) -> String {
    format!("<!doctype html><title>report</title><script>{script}</script><body onload=\"{script}\">report")
}

fn svg(script: &str) -> String {
    format!("<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"{script}\"><script>{script}</script></svg>")
}

/// Puts the file into our own page in all ways in which a page takes one in, and answers once each has been taken, or refused.
const TAKE_IN: &str = r#"
const done = arguments[arguments.length - 1];
const take = (name, key, more) => new Promise((resolve) => {
  const element = document.createElement(name);
  element.onload = element.onerror = resolve;
  Object.assign(element, more);
  element[key] = arguments[0];
  document.body.append(element);
  // What is saved instead of shown tells nobody.
  setTimeout(resolve, 1000);
});
Promise.all([take("iframe", "src"), take("object", "data"), take("embed", "src"), take("img", "src"),
  take("script", "src"), take("script", "src", { type: "module" })]).then(() => done(true));
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_test_left_is_saved_as_it_is_and_runs_nowhere() {
    let ci = Ci::with_engine("", "docker").await;
    let script = HOSTILE.replace("BOSS", &ci.boss.base);
    let (html, svg) = (html(&script), svg(&script.replace('&', "&amp;").replace('<', "&lt;")));
    let base64 = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let pipedef = PIPEDEF.replace("HTML64", &base64(&html)).replace("SVG64", &base64(&svg));
    ci.rewrite(&pipedef.replace("SCRIPT64", &base64(&script)));
    let run = ci.run().await;
    assert_eq!(run.words(), "passed", "{}", run.summary());

    let browser = Browser::at(&ci).await;
    browser.sees("ul.runs").await;
    let saved = tempfile::tempdir().unwrap();
    let into = json!({ "behavior": "allow", "downloadPath": saved.path() });
    browser.tells_chromium("Browser.setDownloadBehavior", into).await;
    let task = format!("{}/runs/{}/One.report", ci.boss.base, run.number);
    browser.client.goto(&task).await.unwrap();
    browser.reads(".artifacts", "4 artifacts").await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let files = [
        ("index.html", format!("{html}\n").into_bytes()),
        ("picture.svg", format!("{svg}\n").into_bytes()),
        ("code.js", format!("{script}\n").into_bytes()),
        ("every.byte", every_byte),
    ];
    let mut addresses = Vec::new();
    for (name, bytes) in &files {
        let link = format!(".artifacts a[download=\"{name}\"]");
        browser.click(&link).await;
        assert_eq!(whole(&saved.path().join(name)).await, *bytes, "{name}");
        let address = "return document.querySelector(arguments[0]).href";
        let address = browser.client.execute(address, vec![json!(link)]).await.unwrap();
        addresses.push(address.as_str().unwrap().to_owned());
    }
    is_not_owned(&ci, &browser, "a click").await;

    // Not by a click: by its address in the browser's own line, and by a page of ours that somehow came to name it.
    for (address, (name, _)) in addresses.iter().zip(&files) {
        drop(browser.client.goto(address).await);
        let here = "return document.cookie.includes('owned=1') || document.title === 'owned'";
        assert_eq!(browser.client.execute(here, vec![]).await.unwrap(), false, "{name}");
        browser.client.goto(&task).await.unwrap();
        browser.sees(".artifacts").await;
        let taken = browser.client.execute_async(TAKE_IN, vec![json!(address)]).await.unwrap();
        assert_eq!(taken, true);
        is_not_owned(&ci, &browser, name).await;
    }

    // The same bytes as pages of somebody else do what they say, as far as they can: so far that they start no run.
    for (body, kind) in [(html, "text/html"), (svg, "image/svg+xml")] {
        let page = serves(body, kind).await;
        browser.client.goto(&page).await.unwrap();
        let owned =
            "return document.cookie.includes('owned=1') && (document.title === 'owned' || !document.body)";
        assert_eq!(browser.client.execute(owned, vec![]).await.unwrap(), true, "{kind}");
        browser.client.goto(&ci.boss.base).await.unwrap();
        browser.sees("ul.runs").await;
        assert_eq!(ci.get("/api/runs").await["runs"].as_array().unwrap().len(), 1, "{kind}");
        browser.client.delete_cookie("owned").await.unwrap();
    }
    browser.close().await;
}

async fn is_not_owned(ci: &Ci, browser: &Browser, by: &str) {
    let title = browser.client.title().await.unwrap();
    assert!(title.contains("bettertest") && !title.contains("owned"), "{by}: {title}");
    let cookies = browser.client.get_all_cookies().await.unwrap();
    assert!(cookies.iter().all(|cookie| cookie.name() != "owned"), "{by}: {cookies:?}");
    assert_eq!(ci.get("/api/runs").await["runs"].as_array().unwrap().len(), 1, "{by} started a run");
}

/// A file once the browser has saved all of it: under another name until then.
async fn whole(path: &Path) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Ok(bytes) = std::fs::read(path) {
            return bytes;
        }
        let beside = || -> Vec<_> {
            let folder = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
            folder.into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
        };
        assert!(Instant::now() < deadline, "{} is never saved, but: {:?}", path.display(), beside());
        // A browser offers nothing to wait on for what it saves.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn serves(body: String, kind: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    let page = move || async move { ([("content-type", kind)], Html(body.clone()).0) };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(page))).await });
    base
}
