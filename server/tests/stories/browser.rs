//! A real browser, as a person uses it: it opens the boss's page, looks until something shows, clicks.

use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, Url};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::ci::Ci;

/// A person waits so long for something to show, and no longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser of its own for one test.
pub(crate) struct Browser {
    pub(crate) client: Client,
    _driver: Driver,
    _profile: tempfile::TempDir,
}

/// The chromedriver of one browser; ended with it, also where the browser never starts.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        // Where a test has failed, its browser is still open, and nobody else would ever close it.
        for browser in self.children() {
            // One that has ended by now needs no signal.
            let _has_ended = kill(browser, Signal::SIGTERM);
        }
        // Where it has ended already there is nothing left to end.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Driver {
    /// The processes that it has started, from whichever of its threads.
    fn children(&self) -> Vec<Pid> {
        let threads =
            std::fs::read_dir(format!("/proc/{}/task", self.0.id())).into_iter().flatten().flatten();
        let of_each =
            threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        let all: Vec<String> = of_each.collect();
        all.iter()
            .flat_map(|pids| pids.split_whitespace())
            .filter_map(|pid| Some(Pid::from_raw(pid.parse().ok()?)))
            .collect()
    }

    /// With the port that it has chosen.
    fn start() -> (Driver, String) {
        let mut heard = String::new();
        // It takes a port that is free at one of both loopback addresses, and leaves where another test has it at the
        // other one.
        for _ in 0..5 {
            let mut driver = Command::new("chromedriver")
                .arg("--port=0")
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("chromedriver is there: run setup/browser.sh");
            let said = driver.stdout.take();
            let driver = Driver(driver);
            let mut said = BufReader::new(said.expect("it is piped"));
            let mut line = String::new();
            while said.read_line(&mut line).expect("it speaks") > 0 {
                if let Some((_, port)) = line.split_once("successfully on port ") {
                    let port = port.chars().take_while(char::is_ascii_digit).collect();
                    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
                    return (driver, port);
                }
                heard.push_str(&line);
                line.clear();
            }
            assert!(heard.contains("port not available"), "chromedriver ended early: {heard}");
        }
        panic!("chromedriver finds no port: {heard}");
    }
}

impl Browser {
    /// Opens the boss's page by a new login link.
    pub(crate) async fn at(ci: &Ci) -> Browser {
        Browser::over(ci, &ci.boss.base).await
    }

    /// The same, where the boss is reached by another address.
    pub(crate) async fn over(ci: &Ci, base: &str) -> Browser {
        let (driver, port) = Driver::start();
        let profile = tempfile::tempdir().expect("there is a temp folder");
        let mut args = vec![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1400,900",
        ];
        let folder = format!("--user-data-dir={}", profile.path().display());
        args.push(&folder);
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".to_owned(), serde_json::json!({ "args": args }));
        capabilities.insert("goog:loggingPrefs".to_owned(), serde_json::json!({ "browser": "ALL" }));
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromium starts");
        let browser = Browser { client, _driver: driver, _profile: profile };
        let (_, made) = ci.post("/api/login-links").await;
        let link = made["link"].as_str().expect("a link").replace(&ci.boss.base, base);
        browser.client.goto(&link).await.expect("the page loads");
        browser
    }

    /// Waits until something is there, and returns its text.
    pub(crate) async fn sees(&self, css: &str) -> String {
        let found = self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await;
        match found {
            Ok(element) => element.text().await.unwrap_or_default(),
            Err(error) => panic!("nobody sees {css}: {error}\n{}", self.text().await),
        }
    }

    /// Waits until the page, or a part of it, says something.
    pub(crate) async fn reads(&self, css: &str, words: &str) {
        let script = "const e = document.querySelector(arguments[0]); return e ? e.innerText : ''";
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.client.execute(script, vec![css.into()]).await.expect("a script runs");
            let text = text.as_str().unwrap_or_default().to_owned();
            if text.contains(words) {
                return;
            }
            assert!(Instant::now() < deadline, "{css} never says {words:?}, but: {text}");
            // A browser offers nothing to wait on for "these words are somewhere in there".
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn click(&self, css: &str) {
        self.sees(css).await;
        let element = self.client.find(Locator::Css(css)).await.expect("just seen");
        element.click().await.unwrap_or_else(|error| panic!("{css} cannot be clicked: {error}"));
    }

    pub(crate) async fn number(&self, script: &str) -> f64 {
        self.client.execute(script, vec![]).await.expect("a script runs").as_f64().expect("a number")
    }

    async fn text(&self) -> String {
        let text = self.client.execute("return document.body.innerText", vec![]).await;
        text.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub(crate) async fn close(self) {
        self.client.clone().close().await.expect("the browser closes");
    }

    /// What only this browser can do; `params` as Chromium's developer tools have them.
    pub(crate) async fn tells_chromium(&self, cmd: &'static str, params: serde_json::Value) {
        let told = self.client.issue_cmd(OfChromium { cmd, params }).await;
        told.unwrap_or_else(|error| panic!("{cmd}: {error}"));
    }
}

/// A command of chromedriver's own.
#[derive(Debug)]
struct OfChromium {
    cmd: &'static str,
    params: serde_json::Value,
}

impl WebDriverCompatibleCommand for OfChromium {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as FromStr>::Err> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        let body = serde_json::json!({ "cmd": self.cmd, "params": self.params });
        (Method::POST, Some(body.to_string()))
    }
}
