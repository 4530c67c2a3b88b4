//! What is worth knowing of a Docker: does it answer, is it new enough, and is it one of those with a known flaw that
//! matters here? Steps run images of others, never privileged: what an image alone can do counts, what a
//! privileged container could do does not.

use common::Check;

use super::Seen;
use crate::worker;

/// With what Docker's own packages call it.
const UPDATE_RUNC: &str = "sudo apt-get update && sudo apt-get install --only-upgrade runc (of Docker's own packages: containerd.io)";

pub(super) async fn look(host: Option<&str>) -> Seen {
    let facts = match worker::docker_facts(host).await {
        Ok(facts) => facts,
        Err(error) => return Seen::of(Check::wrong("docker", error.error, error.hint)),
    };
    let mut seen = Seen::of(engine(&facts.version, &facts.host, &facts.api));
    seen.checks.push(match &facts.runc {
        Some(version) => runc(version),
        None => Check::well("runc", "docker does not say which one it has"),
    });
    seen.clocks.extend(facts.clocks.map(|(theirs, ours)| super::clock::Apart::of("docker", theirs, ours)));
    seen
}

/// Docker older than 19.03 is refused where it is connected to. The release notes of 20.10.10 have `clone3` in the
/// default seccomp policy (moby#42836); before, it was refused with an error after which glibc tries nothing else.
fn engine(version: &str, host: &str, api: &str) -> Check {
    let found = format!("{version} at {host} (API {api})");
    match numbers(version) {
        Some(numbers) if numbers < [20, 10, 10] => Check::warning(
            "docker",
            format!(
                "{found}: images with glibc 2.34 or newer (Debian 12, Ubuntu 22.04) start no threads in it"
            ),
            "update it to 20.10.10 or newer: sudo apt-get update && sudo apt-get install --only-upgrade docker.io",
        ),
        Some(_) | None => Check::well("docker", found),
    }
}

/// As runc's own CHANGELOG and advisories have it: GHSA-xr7r-f8xq-vfvv (CVE-2024-21626, from 1.0.0-rc93 on, mended in
/// 1.1.12) is done by an image alone. CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881 are in all before 1.2.8, 1.3.3
/// and 1.4.0-rc.3.
fn runc(version: &str) -> Check {
    let flaw = match numbers(version) {
        None => None,
        Some(numbers) if numbers < [1, 1, 12] => Some(("1.1.12", "CVE-2024-21626")),
        Some(numbers) if numbers < [1, 2, 8] => Some(("1.2.8", "CVE-2025-31133 and two more")),
        Some(numbers) if ([1, 3, 0]..[1, 3, 3]).contains(&numbers) => {
            Some(("1.3.3", "CVE-2025-31133 and two more"))
        }
        Some([1, 4, 0]) if ["-rc.1", "-rc.2"].iter().any(|early| version.contains(early)) => {
            Some(("1.4.0-rc.3", "CVE-2025-31133 and two more"))
        }
        Some(_) => None,
    };
    match flaw {
        Some((mended, name)) => Check::warning(
            "runc",
            format!(
                "{version} is older than {mended}: a step made for it can break out of its container ({name}), unless your distribution has mended this one"
            ),
            UPDATE_RUNC,
        ),
        None => Check::well("runc", version),
    }
}

/// Of `1.1.5+ds1-1+deb12u1` these are 1, 1 and 5. A pre-release counts as what it leads to, unless it is named above.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let mut parts = version[..end].split('.').map(str::parse::<u32>);
    let mut next = || parts.next().transpose().ok().flatten();
    Some([next()?, next()?, next().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::CheckState::{self, Warning, Well};

    #[test]
    fn versions_with_known_flaws() {
        let runcs: &[(&str, CheckState)] = &[
            ("1.0.0-rc93", Warning),
            ("1.1.0-rc.1", Warning),
            ("1.1.5+ds1-1+deb12u1", Warning),
            ("1.1.11", Warning),
            ("1.1.12", Warning),
            ("1.2.7", Warning),
            ("1.2.8", Well),
            ("1.3.0", Warning),
            ("1.3.2", Warning),
            ("1.3.3", Well),
            ("1.4.0-rc.1", Warning),
            ("1.4.0-rc.2+dev", Warning),
            ("1.4.0-rc.3", Well),
            ("1.4.0", Well),
            ("1.5.0-rc.1", Well),
            ("2.0", Well),
            ("unknown", Well),
        ];
        for (version, state) in runcs {
            assert_eq!(runc(version).state, *state, "runc {version}");
        }
        assert!(runc("1.1.5").found.contains("CVE-2024-21626"), "{:?}", runc("1.1.5"));
        assert!(runc("1.1.12").found.contains("CVE-2025-31133"), "{:?}", runc("1.1.12"));
        let dockers: &[(&str, CheckState)] = &[
            ("19.03.15", Warning),
            ("20.10.9", Warning),
            ("20.10.10", Well),
            ("20.10.24+dfsg1", Well),
            ("28.3.3", Well),
        ];
        for (version, state) in dockers {
            assert_eq!(engine(version, "host", "1.41").state, *state, "docker {version}");
        }
    }
}
