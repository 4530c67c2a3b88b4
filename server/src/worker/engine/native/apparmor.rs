//! AppArmor, where it rules: the profile that dockerd loads into the kernel for its containers is put on each sandbox,
//! its first process included. Where that cannot be, no sandbox is made. No profile is loaded here, so that there is
//! one for both, and whoever changed docker's has changed ours.

use std::fs;
use std::io;

use super::files::Doing as _;

const PROFILE: &str = "docker-default";
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// Of AppArmor alone, since Linux 5.8; older kernels cannot run a sandbox for other reasons.
const CURRENT: &str = "/proc/self/attr/apparmor/current";

/// Is it on? Inside of a sandbox, too, `/sys` says so.
fn rules() -> io::Result<bool> {
    match fs::read_to_string(ENABLED) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        enabled => Ok(enabled?.trim() != "N"),
    }
}

/// Why sandboxes would be less confined than docker's containers; for who makes them.
pub(super) fn missing() -> Option<String> {
    match rules() {
        Ok(false) => None,
        Ok(true) => match (fs::read_to_string(PROFILES), fs::read_to_string(CURRENT)) {
            (Ok(profiles), Ok(own)) => lacking(&profiles, &own),
            (Err(error), _) => Some(format!("AppArmor rules here, and {PROFILES} cannot be read: {error}")),
            (_, Err(error)) => Some(format!("AppArmor rules here, and {CURRENT} cannot be read: {error}")),
        },
        Err(error) => Some(format!("whether AppArmor rules cannot be seen: {ENABLED}: {error}")),
    }
}

fn lacking(profiles: &str, own: &str) -> Option<String> {
    let mode =
        |line: &str| Some(line.strip_prefix(PROFILE)?.strip_prefix(" (")?.strip_suffix(')')?.to_owned());
    match profiles.lines().find_map(mode).as_deref() {
        Some("enforce") => {}
        Some(mode) => {
            return Some(format!("AppArmor's profile {PROFILE} is not enforced: its mode is {mode}"));
        }
        None => {
            return Some(format!(
                "AppArmor rules here, and docker has not loaded its profile {PROFILE}: it needs apparmor_parser"
            ));
        }
    }
    // That profile takes signals from who is not confined, and from nobody else outside.
    let own = own.trim();
    (own != "unconfined").then(|| format!("AppArmor confines this worker itself: {own}"))
}

/// Of this process and of all that it starts, for good.
pub(super) fn enter() -> Result<(), String> {
    if !rules().doing("asking for AppArmor")? {
        return Ok(());
    }
    let what = format!("entering AppArmor's profile {PROFILE}");
    fs::write(CURRENT, format!("changeprofile {PROFILE}")).doing(&what)?;
    // Some kernels stack profiles where that is all that one may; and its mode may have changed.
    let now = fs::read_to_string(CURRENT).doing(&what)?;
    if now.trim() == format!("{PROFILE} (enforce)") {
        Ok(())
    } else {
        Err(format!("{what}: it is {}", now.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::lacking;

    #[test]
    fn only_an_enforced_profile_will_do() {
        let others = "/usr/bin/man (enforce)\ndocker-default-not (enforce)\nman_groff (complain)\n";
        let with = |line: &str| lacking(&format!("{others}{line}\n"), "unconfined\n");
        assert_eq!(with("docker-default (enforce)"), None);
        assert!(with("docker-default (complain)").unwrap().ends_with("its mode is complain"));
        assert!(with("").unwrap().contains("has not loaded"));
        let confined = lacking("docker-default (enforce)\n", "snap.some.thing (enforce)\n").unwrap();
        assert!(confined.ends_with("snap.some.thing (enforce)"));
    }
}
