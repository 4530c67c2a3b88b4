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

/// Runtimes that build the same walls as runc does.
const USUAL_RUNTIMES: [&str; 3] = ["runc", "crun", "io.containerd.runc.v2"];

impl Docker {
    /// What its containers have that sandboxes of our own on this host would not have, in words; None where there is
    /// nothing. AppArmor is not looked at here: the kernel says more of it.
    pub(in crate::worker::engine) async fn beyond_native(&self) -> Result<Option<String>, Fault> {
        let client = self.client().await?;
        let info = self.call(self.deadlines().look, client.info()).await;
        let info = info.map_err(|trouble| self.fault(trouble))?;
        let here = nix::sys::utsname::uname().ok();
        let here = here.as_ref().and_then(|here| Some((here.nodename().to_str()?, here.release().to_str()?)));
        let there =
            (info.name.as_deref().unwrap_or_default(), info.kernel_version.as_deref().unwrap_or_default());
        if here != Some(there) {
            return Ok(Some(format!(
                "the Docker at {} is that of another machine, {}",
                self.0.host, there.0
            )));
        }
        Ok(stronger(&info.security_options.unwrap_or_default(), info.default_runtime.as_deref()))
    }
}

/// `options` look like `name=seccomp,profile=default`.
fn stronger(options: &[String], runtime: Option<&str>) -> Option<String> {
    for option in options {
        let mut parts = option.split(',').filter_map(|part| part.split_once('='));
        let name = parts.clone().find_map(|(key, value)| (key == "name").then_some(value));
        let profile = parts.find_map(|(key, value)| (key == "profile").then_some(value));
        match (name.unwrap_or(option), profile) {
            ("seccomp", None | Some("default" | "builtin" | "unconfined")) => {}
            ("seccomp", Some(profile)) => {
                return Some(format!("its Docker has a seccomp profile of its own, {profile}"));
            }
            ("apparmor" | "cgroupns" | "no-new-privileges", _) => {}
            (other, _) => return Some(format!("its Docker has the security option {other}")),
        }
    }
    let unusual = runtime.filter(|runtime| !USUAL_RUNTIMES.contains(runtime))?;
    Some(format!("its Docker has the runtime {unusual}"))
}

#[cfg(test)]
mod tests {
    use super::stronger;

    #[test]
    fn what_docker_has_beyond_the_usual_walls_is_seen() {
        let of = |options: &[&str], runtime| {
            stronger(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>(), runtime)
        };
        assert_eq!(of(&["name=seccomp,profile=default", "name=cgroupns"], Some("runc")), None);
        assert_eq!(of(&["name=apparmor", "name=seccomp,profile=builtin"], None), None);
        assert_eq!(
            of(&["name=seccomp,profile=/etc/own.json"], None).unwrap(),
            "its Docker has a seccomp profile of its own, /etc/own.json"
        );
        for option in ["name=userns", "name=rootless", "name=selinux", "what nobody knows"] {
            assert!(of(&["name=seccomp,profile=builtin", option], None).is_some(), "{option}");
        }
        assert!(of(&[], Some("runsc")).unwrap().contains("runsc"));
    }
}
