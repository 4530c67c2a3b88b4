//! `bettertest open`: a new login link of the boss on this machine.

use std::path::Path;
use std::time::Duration;

use crate::auth::Token;
use crate::boss::NewLink;
use crate::data_dir::DataDir;
use crate::error::SetupError;

/// Asks the boss of this data directory for a link. Where there is none yet, none is made.
pub(crate) async fn link(data: &Path) -> Result<String, SetupError> {
    let start = "start it with: bettertest --boss --pipedef FILE (with the same --data-dir)";
    let address = address(data)
        .ok_or_else(|| SetupError::new(format!("no boss has run in {}", data.display()), start))?;
    let token = Token::of(&DataDir::open(data)?)?;
    let asked = client()
        .post(format!("http://{address}/api/login-links"))
        .bearer_auth(token.as_str())
        .json(&serde_json::json!({}))
        .send();
    let answer =
        asked.await.map_err(|_| SetupError::new(format!("the boss does not answer at {address}"), start))?;
    if !answer.status().is_success() {
        return Err(SetupError::new(
            format!("what answers at {address} is not the boss of {}", data.display()),
            start,
        ));
    }
    let made: NewLink = answer.json().await.map_err(|error| {
        SetupError::new(
            format!("the boss at {address} answered something else: {error}"),
            "compare bettertest --version",
        )
    })?;
    Ok(made.link)
}

/// Where the boss of this data directory listened when it last began.
pub(crate) fn address(data: &Path) -> Option<String> {
    let note = std::fs::read_to_string(data.join("boss/address")).ok()?;
    Some(note.trim().to_owned())
}

/// Does a boss answer there that takes this token?
pub(crate) async fn is_ours(address: &str, token: &Token) -> bool {
    let asked = client().get(format!("http://{address}/api/runs")).bearer_auth(token.as_str()).send().await;
    asked.is_ok_and(|answer| answer.status().is_success())
}

fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
    client.expect("a client without TLS needs nothing that could be missing")
}
