//! `bettertest open`: a new login link of the boss on this machine.

use std::time::Duration;

use crate::auth::Token;
use crate::boss::NewLink;
use crate::data_dir::DataDir;
use crate::error::SetupError;

/// Asks the boss of this data directory for a link.
pub(crate) async fn link(data: &DataDir) -> Result<String, SetupError> {
    let start = "start it with: bettertest --boss --pipedef FILE (with the same --data-dir)";
    let note = data.path().join("boss/address");
    let address = std::fs::read_to_string(&note)
        .map_err(|_| SetupError::new(format!("no boss has run in {}", data.path().display()), start))?;
    let address = address.trim();
    let token = Token::of(data)?;
    let asked = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()
        .expect("a client without TLS needs nothing that could be missing")
        .post(format!("http://{address}/api/login-links"))
        .bearer_auth(token.as_str())
        .json(&serde_json::json!({}))
        .send();
    let answer =
        asked.await.map_err(|_| SetupError::new(format!("the boss does not answer at {address}"), start))?;
    if !answer.status().is_success() {
        return Err(SetupError::new(
            format!("what answers at {address} is not the boss of {}", data.path().display()),
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
