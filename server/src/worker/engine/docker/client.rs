//! The way to Docker: connecting when it is first needed, calls that come back in time, and what went wrong, in
//! words that say what to do.

use bollard::Docker as Client;
use bollard::errors::Error;
use common::Reason;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use super::super::Fault;
use super::Docker;

pub(super) const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

const ANOTHER: &str = "give a worker another docker: bettertest --worker --docker-host URL";

/// Docker 19.03.
const OLDEST_API: (usize, usize) = (1, 40);

/// A call that did not do what it was to do.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No connection, no answer in time, or half an answer.
    Away(String),
    NotFound(String),
    Conflict(String),
    /// It answered, and refused.
    Refused {
        status: u16,
        message: String,
    },
}

impl Docker {
    pub(super) async fn client(&self) -> Result<Client, Fault> {
        if let Some(client) = self.0.client.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(client);
        }
        let client = self.connect().map_err(|error| self.fault(trouble_of(error)))?;
        let negotiated = self.call(self.deadlines().ping, client.negotiate_version()).await;
        let client = negotiated.map_err(|trouble| self.fault(trouble))?;
        let version = client.client_version();
        if (version.major_version, version.minor_version) < OLDEST_API {
            return Err(Fault::new(
                Reason::EngineUnavailable,
                format!("docker at {} speaks API {version} only", self.0.host),
                format!(
                    "update it: API {}.{} is needed, which Docker 19.03 brought",
                    OLDEST_API.0, OLDEST_API.1
                ),
            ));
        }
        *self.0.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    fn connect(&self) -> Result<Client, Error> {
        let host = self.0.host.as_str();
        let seconds = self.deadlines().start.as_secs().max(1);
        let version = bollard::API_DEFAULT_VERSION;
        if host.starts_with("tcp://") || host.starts_with("http://") {
            return Client::connect_with_http(host, seconds, version);
        }
        let path = host.strip_prefix("unix://").unwrap_or(host);
        Client::connect_with_unix(path, seconds, version)
    }

    pub(super) async fn call<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(limit, call).await {
            Ok(done) => done.map_err(trouble_of),
            Err(_) => Err(Trouble::Away(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// For calls of which no refusal is expected.
    pub(super) fn fault(&self, trouble: Trouble) -> Fault {
        let host = &self.0.host;
        match trouble {
            Trouble::Away(message) if message.contains("ermission denied") => {
                let uid = nix::unistd::Uid::effective();
                let user = nix::unistd::User::from_uid(uid).ok().flatten();
                let user = user.map_or_else(|| uid.to_string(), |user| user.name);
                Fault::new(
                    Reason::EngineUnavailable,
                    format!("this user ({user}) may not use docker at {host}: {message}"),
                    format!("sudo usermod -aG docker {user}, then log in again; or {ANOTHER}"),
                )
            }
            Trouble::Away(message) => {
                let mend = if is_installed() || !host.ends_with(DEFAULT_HOST) {
                    "start it: sudo systemctl start docker"
                } else {
                    "install it: sudo apt-get install docker.io"
                };
                Fault::new(
                    Reason::EngineUnavailable,
                    format!("docker does not answer at {host}: {message}"),
                    format!("{mend}; or {ANOTHER}"),
                )
            }
            Trouble::NotFound(message) | Trouble::Conflict(message) | Trouble::Refused { message, .. } => {
                Fault::new(
                    Reason::EngineUnavailable,
                    format!("docker at {host} refused: {message}"),
                    "its own log says more",
                )
            }
        }
    }

    pub(super) fn start_failed(&self, trouble: Trouble) -> Fault {
        match trouble {
            Trouble::Away(_) => self.fault(trouble),
            Trouble::NotFound(message) | Trouble::Conflict(message) | Trouble::Refused { message, .. } => {
                Fault::new(
                    Reason::StartFailed,
                    format!("docker could not start the container: {message}"),
                    "check image, user and workdir of the step",
                )
            }
        }
    }
}

/// Is there a Docker on this machine that could be started?
fn is_installed() -> bool {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/snap/bin"];
    places.iter().any(|place| Path::new(place).join("dockerd").exists())
}

pub(super) fn trouble_of(error: Error) -> Trouble {
    match error {
        Error::DockerResponseServerError { status_code, message } => match status_code {
            404 => Trouble::NotFound(message),
            409 => Trouble::Conflict(message),
            status => Trouble::Refused { status, message },
        },
        Error::DockerStreamError { error } => Trouble::Refused { status: 0, message: error },
        other => Trouble::Away(innermost(&other)),
    }
}

/// The innermost cause is what a person can do something about; hyper's own words are not.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
