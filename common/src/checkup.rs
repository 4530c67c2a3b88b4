//! What `bettertest doctor` finds: the same facts in the same words in the terminal, as JSON and on the page.

use serde::{Deserialize, Serialize};

/// `GET /api/doctor`, and `bettertest doctor --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Checkup {
    /// Nothing is wrong. Warnings are allowed.
    pub ok: bool,
    /// All of it in a few words.
    pub headline: String,
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Check {
    /// Such as `docker`; there may be several of one name.
    pub check: String,
    pub state: CheckState,
    pub found: String,
    /// What mends it; null where there is nothing to mend.
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    Well,
    /// It works, but somebody should know.
    Warning,
    /// Something will not work.
    Wrong,
}

impl Check {
    pub fn well(check: &str, found: impl Into<String>) -> Check {
        Check { check: check.to_owned(), state: CheckState::Well, found: found.into(), hint: None }
    }

    pub fn warning(check: &str, found: impl Into<String>, hint: impl Into<String>) -> Check {
        Check { state: CheckState::Warning, hint: Some(hint.into()), ..Check::well(check, found) }
    }

    pub fn wrong(check: &str, found: impl Into<String>, hint: impl Into<String>) -> Check {
        Check { state: CheckState::Wrong, hint: Some(hint.into()), ..Check::well(check, found) }
    }
}

impl Checkup {
    pub fn of(checks: Vec<Check>) -> Checkup {
        let count = |state| checks.iter().filter(|check| check.state == state).count();
        let (wrong, warnings) = (count(CheckState::Wrong), count(CheckState::Warning));
        let but = match warnings {
            0 => String::new(),
            1 => ", with 1 warning".to_owned(),
            warnings => format!(", with {warnings} warnings"),
        };
        let headline = match wrong {
            0 => format!("all is well{but}"),
            1 => format!("1 of {} checks found something wrong{but}", checks.len()),
            wrong => format!("{wrong} of {} checks found something wrong{but}", checks.len()),
        };
        Checkup { ok: wrong == 0, headline, checks }
    }
}
