//! What `bettertest doctor` wants to know of a Docker: its versions and its clock. What they are worth is judged
//! there.

use common::Reason;
use std::time::{Duration, SystemTime};

use super::super::Fault;
use super::client::Trouble;
use super::{Docker, clock};

#[derive(Debug, Clone)]
pub(crate) struct DockerFacts {
    pub(crate) host: String,
    pub(crate) version: String,
    pub(crate) api: String,
    /// As exactly as it says: with what a distribution has added.
    pub(crate) runc: Option<String>,
    /// Its machine's clock, and ours at that moment.
    pub(crate) clocks: Option<(SystemTime, SystemTime)>,
}

impl Docker {
    /// Comes back within that time.
    pub(in crate::worker) async fn facts(&self, limit: Duration) -> Result<DockerFacts, Fault> {
        match tokio::time::timeout(limit, self.look_at()).await {
            Ok(facts) => facts,
            Err(_) => Err(self.fault(Trouble::Away(format!("no answer within {} s", limit.as_secs())))),
        }
    }

    async fn look_at(&self) -> Result<DockerFacts, Fault> {
        let client = self.client().await?;
        let look = self.deadlines().look;
        let (version, info) =
            tokio::try_join!(self.call(look, client.version()), self.call(look, client.info()))
                .map_err(|trouble| self.fault(trouble))?;
        let theirs = info.system_time.as_deref().and_then(clock::parse);
        let runc = version.components.unwrap_or_default().into_iter().find(|part| part.name == "runc");
        let runc = runc.map(|runc| {
            let commit = runc.details.and_then(|details| details.get("GitCommit").cloned());
            // Debian's is the version of its package, which tells of what was mended in it.
            commit.filter(|commit| commit.starts_with(&runc.version)).unwrap_or(runc.version)
        });
        let version = version.version.ok_or_else(|| {
            Fault::new(
                Reason::EngineUnavailable,
                format!("docker at {} does not say which version it is", self.0.host),
                "is it a Docker Engine that listens there?",
            )
        })?;
        Ok(DockerFacts {
            host: self.0.host.clone(),
            version,
            api: client.client_version().to_string(),
            runc,
            clocks: theirs.map(|theirs| (theirs, SystemTime::now())),
        })
    }
}
