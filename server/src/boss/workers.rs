//! Which process really serves a worker's address, and which token it takes.

use common::{Problem, Reason};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::auth::Token;
use crate::error::SetupError;

/// A worker that can be spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkerAddress {
    /// Without a slash at its end.
    pub(crate) base: String,
    pub(crate) token: String,
}

/// Why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoWorker {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// What is known of workers: the tokens, and what stands in for an address that the pipedef names.
#[derive(Clone, Default)]
pub(crate) struct Workers {
    /// The token that workers on this machine take.
    local_token: Option<String>,
    /// Lines of workers.toml: address -> token.
    elsewhere: BTreeMap<String, String>,
    workers_toml: PathBuf,
    /// Why the lines are those of before: the file cannot be read as it is now.
    unread: Option<Problem>,
    /// Instead of whatever the pipedef says (`--worker`).
    everywhere: Option<String>,
    /// Instead of single addresses: private workers.
    instead: BTreeMap<String, WorkerAddress>,
}

impl Workers {
    pub(crate) fn new(local_token: Option<&Token>, data_dir: &Path) -> Result<Workers, SetupError> {
        let workers_toml = data_dir.join("workers.toml");
        let elsewhere = read_workers_toml(&workers_toml)?;
        let local_token = local_token.map(|token| token.as_str().to_owned());
        Ok(Workers { local_token, elsewhere, workers_toml, ..Workers::default() })
    }

    /// Takes the lines of workers.toml as they are now. Where they cannot be read, those of before still count.
    pub(crate) fn reread(&mut self) {
        match read_workers_toml(&self.workers_toml) {
            Ok(elsewhere) => (self.elsewhere, self.unread) = (elsewhere, None),
            Err(SetupError { error, hint, .. }) => {
                let problem = Problem::new(format!("{error}; what it said before still counts"), hint);
                if self.unread.as_ref() != Some(&problem) {
                    tracing::warn!("{}", problem.error);
                }
                self.unread = Some(problem);
            }
        }
    }

    pub(crate) fn unread(&self) -> Option<&Problem> {
        self.unread.as_ref()
    }

    /// Every step goes to this worker, whatever the pipedef says.
    pub(crate) fn use_everywhere(&mut self, address: &str) {
        self.everywhere = Some(tidy(address));
    }

    /// Steps for `address` go to `worker`.
    pub(crate) fn use_instead(&mut self, address: &str, worker: WorkerAddress) {
        self.instead.insert(tidy(address), worker);
    }

    /// Every worker that there is a name for: those of the pipedef, then those of workers.toml.
    pub(crate) fn known(&self, of_pipedef: &[String]) -> Vec<String> {
        let mut known: Vec<String> = of_pipedef.iter().map(|address| tidy(address)).collect();
        known.extend(self.elsewhere.keys().cloned());
        let mut met = BTreeSet::new();
        known.retain(|address| met.insert(address.clone()));
        known
    }

    /// Where a step goes that the pipedef sends to `asked`.
    pub(crate) fn resolve(&self, asked: &str) -> Result<WorkerAddress, NoWorker> {
        let base = self.everywhere.clone().unwrap_or_else(|| tidy(asked));
        if let Some(instead) = self.instead.get(&base) {
            return Ok(instead.clone());
        }
        let url = reqwest::Url::parse(&base).ok().filter(|url| url.scheme() == "http" && url.has_host());
        let Some(url) = url else {
            return Err(NoWorker {
                reason: Reason::WorkerUnreachable,
                message: format!("{asked:?} is not the address of a worker"),
                hint: "an address looks like http://localhost:9009".to_owned(),
            });
        };
        let token = match self.elsewhere.get(&base) {
            Some(token) => Some(token),
            // The token of this machine is not for others to see.
            None if is_loopback(&url) => self.local_token.as_ref(),
            None => None,
        };
        match token {
            Some(token) => Ok(WorkerAddress { base, token: token.clone() }),
            None => Err(NoWorker {
                reason: Reason::TokenRefused,
                message: match &self.unread {
                    Some(unread) => format!("there is no token for the worker {base}: {}", unread.error),
                    None => format!("there is no token for the worker {base}"),
                },
                hint: match self.unread.as_ref().and_then(|unread| unread.hint.clone()) {
                    Some(hint) => hint,
                    None => format!("add the line \"{base}\" = \"TOKEN\" to {}", self.workers_toml.display()),
                },
            }),
        }
    }

    /// The addresses that workers.toml names.
    pub(crate) fn elsewhere(&self) -> impl Iterator<Item = &str> {
        self.elsewhere.keys().map(String::as_str)
    }

    pub(crate) fn token_hint(&self, base: &str) -> String {
        format!(
            "copy the token of that worker (the file `token` in its data directory) into {}: \"{base}\" = \"TOKEN\"",
            self.workers_toml.display()
        )
    }
}

fn tidy(address: &str) -> String {
    address.trim().trim_end_matches('/').to_owned()
}

pub(crate) fn is_loopback(url: &reqwest::Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        None => false,
    }
}

fn read_workers_toml(path: &Path) -> Result<BTreeMap<String, String>, SetupError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(crate::data_dir::unusable(path, &error)),
    };
    parse_workers_toml(&text).map_err(|line| {
        SetupError::new(
            format!("line {line} of {} is no address and token", path.display()),
            "mend or remove it; such a line looks like \"http://host:9009\" = \"token\"",
        )
    })
}

/// Only lines of `"address" = "token"`, comments and blank lines, so that this needs no parser of TOML.
/// Otherwise the number of the first line that is something else.
fn parse_workers_toml(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut found = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let quoted = |text: &str| -> Option<String> {
            let inner = text.trim().strip_prefix('"')?.strip_suffix('"')?;
            (!inner.contains(['"', '\\'])).then(|| inner.to_owned())
        };
        let pair = line.split_once('=').and_then(|(left, right)| Some((quoted(left)?, quoted(right)?)));
        let (address, token) = pair.ok_or(number + 1)?;
        found.insert(tidy(&address), token);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_workers_toml() {
        let text = "# ours\n\n\"http://big:9009/\" = \"abc\"\n";
        let found = parse_workers_toml(text).unwrap();
        assert_eq!(found, BTreeMap::from([("http://big:9009".to_owned(), "abc".to_owned())]));
        assert_eq!(parse_workers_toml("\n[workers]\n"), Err(2));
        assert_eq!(parse_workers_toml("http://big:9009 = \"abc\""), Err(1));
    }

    #[test]
    fn lines_are_read_again_and_those_of_before_count_while_that_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("workers.toml");
        let mut workers = Workers::new(None, folder.path()).unwrap();
        let token = |workers: &Workers| workers.resolve("http://big:9009").map(|worker| worker.token);
        assert_eq!(token(&workers).unwrap_err().reason, Reason::TokenRefused);
        std::fs::write(&path, "\"http://big:9009\" = \"abc\"\n").unwrap();
        workers.reread();
        assert_eq!((token(&workers).unwrap().as_str(), workers.unread()), ("abc", None));
        std::fs::write(&path, "\"http://big:9009\" = \"def\"\nhttp://other:9009 = abc\n").unwrap();
        workers.reread();
        assert_eq!(token(&workers).unwrap(), "abc");
        let unread = workers.unread().unwrap().error.clone();
        assert!(
            unread.contains("line 2 of") && unread.contains("what it said before still counts"),
            "{unread}"
        );
        let of_other = workers.resolve("http://other:9009").unwrap_err();
        assert!(
            of_other.message.contains("line 2 of") && of_other.hint.contains("mend or remove"),
            "{of_other:?}"
        );
        std::fs::remove_file(&path).unwrap();
        workers.reread();
        assert!(token(&workers).is_err() && workers.unread().is_none());
    }

    #[test]
    fn a_worker_with_two_names_for_it_is_known_once() {
        let elsewhere = parse_workers_toml("\"http://big:9009\" = \"abc\"\n\"http://x:1\" = \"d\"").unwrap();
        let workers = Workers { elsewhere, ..Workers::default() };
        let named = ["http://big:9009/", "http://localhost:9009"].map(str::to_owned);
        assert_eq!(workers.known(&named), ["http://big:9009", "http://localhost:9009", "http://x:1"]);
    }

    #[test]
    fn our_token_stays_on_this_machine() {
        let workers = Workers { local_token: Some("secret".to_owned()), ..Workers::default() };
        assert_eq!(workers.resolve("http://localhost:9009/").unwrap().token, "secret");
        assert_eq!(workers.resolve("http://[::1]:9009").unwrap().base, "http://[::1]:9009");
        assert_eq!(workers.resolve("http://10.0.0.7:9009").unwrap_err().reason, Reason::TokenRefused);
        assert_eq!(workers.resolve("http://localhost.evil:9009").unwrap_err().reason, Reason::TokenRefused);
        assert_eq!(workers.resolve("localhost:9009").unwrap_err().reason, Reason::WorkerUnreachable);
    }
}
