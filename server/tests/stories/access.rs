//! Who may use a boss, and who may not.

use reqwest::{Method, StatusCode, header};

use crate::ci::Ci;

const PIPEDEF: &str = "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n";

const ROUTES: &[(&str, &str)] = &[
    ("GET", "/api/pipeline"),
    ("GET", "/api/workers"),
    ("GET", "/api/runs"),
    ("POST", "/api/runs"),
    ("GET", "/api/runs/1"),
    ("GET", "/api/runs/1/events"),
    ("POST", "/api/runs/1/cancel"),
    ("POST", "/api/runs/1/rerun"),
    ("GET", "/api/runs/1/tasks/One.a/output"),
    ("GET", "/api/runs/1/tasks/One.a/output/index"),
    ("GET", "/api/events"),
    ("GET", "/api/doctor"),
    ("POST", "/api/login-links"),
];

#[tokio::test]
async fn without_the_token_there_is_nothing_but_the_page() {
    let ci = Ci::with(PIPEDEF).await;
    for (method, path) in ROUTES {
        for token in [None, Some("0".repeat(64)), Some(String::new())] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let mut asked = ci.http.request(method, format!("{}{path}", ci.boss.base));
            asked = asked.header(header::CONTENT_TYPE, "application/json").body("{}");
            if let Some(token) = token {
                asked = asked.bearer_auth(token);
            }
            let answer = asked.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
            assert!(answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
        }
    }
    let page = ci.http.get(&ci.boss.base).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("default-src 'self'"));
    assert!(page.text().await.unwrap().contains("<html"));
    assert_eq!(ci.get("/api/runs").await["runs"], serde_json::json!([]));
}

#[tokio::test]
async fn a_link_opens_once_and_its_session_outlives_the_boss() {
    let mut ci = Ci::with(PIPEDEF).await;
    let (_, made) = ci.post("/api/login-links").await;
    let code = made["link"].as_str().unwrap().split_once("#code=").unwrap().1.to_owned();
    let log_in = |origin: String| {
        let login =
            ci.http.post(format!("{}/api/login", ci.boss.base)).json(&serde_json::json!({"code": code}));
        login.header(header::ORIGIN, origin).send()
    };
    assert_eq!(log_in("http://evil.example".to_owned()).await.unwrap().status(), StatusCode::FORBIDDEN);
    let answer = log_in(ci.boss.base.clone()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let line = answer.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(
        line.contains("HttpOnly") && line.contains("SameSite=Strict") && !line.contains(&ci.token),
        "{line}"
    );
    assert_eq!(log_in(ci.boss.base.clone()).await.unwrap().status(), StatusCode::UNAUTHORIZED);

    // The cookie is named after the port, which is another after this restart; its value stays good.
    let value = line.split_once('=').unwrap().1.split(';').next().unwrap().to_owned();
    ci.boss.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(ci.boss.child.wait().unwrap().success());
    ci.boss = Ci::start_boss(ci.folder.path());
    let port = ci.boss.base.rsplit(':').next().unwrap().to_owned();
    let cookie = format!("other=1; bettertest_{port}={value}");
    let ask = |method: Method, headers: &[(&'static str, String)]| {
        let mut asked = ci.http.request(method, format!("{}/api/runs", ci.boss.base));
        asked = asked.header(header::COOKIE, &cookie);
        for (name, value) in headers {
            asked = asked.header(*name, value);
        }
        asked
    };
    let json = || ("content-type", "application/json".to_owned());
    let site = |site: &str| ("sec-fetch-site", site.to_owned());
    let origin = |origin: &str| ("origin", origin.to_owned());
    let ours = ci.boss.base.clone();
    let refused = StatusCode::FORBIDDEN;
    let cases = [
        (Method::GET, vec![site("same-origin")], StatusCode::OK),
        (Method::GET, vec![], StatusCode::OK),
        (Method::GET, vec![site("cross-site")], refused),
        (Method::GET, vec![site("same-site")], refused),
        (Method::GET, vec![site("none")], refused),
        (Method::GET, vec![origin("http://evil.example")], refused),
        (Method::POST, vec![json()], refused),
        (Method::POST, vec![json(), origin("null")], refused),
        (Method::POST, vec![json(), site("cross-site"), origin(&ours)], refused),
        (Method::POST, vec![origin(&ours)], StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (
            Method::POST,
            vec![site("same-origin"), ("content-type", "text/plain".to_owned())],
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (Method::GET, vec![("host", "rebound.example".to_owned())], StatusCode::MISDIRECTED_REQUEST),
        (Method::POST, vec![json(), origin(&ours)], StatusCode::CREATED),
    ];
    for (method, headers, expected) in cases {
        let answer = ask(method.clone(), &headers).body("{}").send().await.unwrap();
        assert_eq!(answer.status(), expected, "{method} {headers:?}");
    }
    assert_eq!(ci.get("/api/runs").await["runs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_worker_talks_to_no_browser() {
    let ci = Ci::with(PIPEDEF).await;
    let url = format!("{}/steps", ci.worker.base);
    let ask =
        |name: &'static str, value: &str| ci.http.get(&url).bearer_auth(&ci.token).header(name, value).send();
    assert_eq!(ask("origin", "http://localhost:9009").await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(ask("sec-fetch-site", "none").await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(ask("accept", "*/*").await.unwrap().status(), StatusCode::OK);
    assert_eq!(ci.http.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        ci.http.get(format!("{}/health", ci.worker.base)).send().await.unwrap().status(),
        StatusCode::OK
    );
}
