//! Who a command runs as: an image's USER or a spec's `user`, looked up in the container's own files.

use nix::unistd::{Gid, Uid};
use std::fs;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
    pub(super) home: String,
}

/// `name`, `uid`, `name:group`, `uid:gid`; as docker reads them. Looked up in the root of this process.
pub(super) fn who(user: &str) -> Result<Who, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    among(user, &read("/etc/passwd"), &read("/etc/group"))
}

fn among(user: &str, passwd: &str, group: &str) -> Result<Who, String> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group_name)) => (name, Some(group_name)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let rows = |text: &str| {
        text.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let (users, all_groups) = (rows(passwd), rows(group));
    let number: Option<u32> = name.parse().ok();
    let found = users.iter().find(|row| {
        row.len() >= 6 && (row[0] == name || (number.is_some() && row[2].parse().ok() == number))
    });
    let uid = found.and_then(|row| row[2].parse().ok()).or(number);
    let uid = uid.ok_or_else(|| format!("the image has no user \"{name}\""))?;
    let mut gid = found.and_then(|row| row[3].parse().ok()).unwrap_or(0);
    let mut groups = Vec::new();
    match group_name {
        Some(group_name) if !group_name.is_empty() => {
            let number: Option<u32> = group_name.parse().ok();
            let row = all_groups.iter().find(|row| row.len() >= 3 && row[0] == group_name);
            gid = row
                .and_then(|row| row[2].parse().ok())
                .or(number)
                .ok_or_else(|| format!("the image has no group \"{group_name}\""))?;
        }
        // Further groups are those that list the user by name, unless one was named.
        Some(_) | None => {
            let login = found.map(|row| row[0].as_str());
            for row in all_groups.iter().filter(|row| row.len() >= 4) {
                if row[3].split(',').any(|member| Some(member) == login) {
                    groups.extend(row[2].parse().ok().map(Gid::from_raw));
                }
            }
        }
    }
    // As docker has it, the main one is among the others as well.
    if !groups.contains(&Gid::from_raw(gid)) {
        groups.insert(0, Gid::from_raw(gid));
    }
    let home =
        found.map(|row| row[5].clone()).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(Who { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), groups, home })
}

#[cfg(test)]
mod tests {
    use super::{Who, among};
    use nix::unistd::{Gid, Uid};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\nbad line\n";
    const GROUP: &str = "root:x:0:\nann:x:1001:\nvideo:x:44:ann,bob\nbin:x:2:root\n";

    fn who(uid: u32, gid: u32, groups: &[u32], home: &str) -> Who {
        let groups = groups.iter().copied().map(Gid::from_raw).collect();
        Who { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), groups, home: home.to_owned() }
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let of = |user| among(user, PASSWD, GROUP);
        assert_eq!(of(""), Ok(who(0, 0, &[0, 2], "/root")));
        assert_eq!(of("ann"), Ok(who(1000, 1001, &[1001, 44], "/home/ann")));
        assert_eq!(of("1000"), of("ann"));
        assert_eq!(of("ann:video"), Ok(who(1000, 44, &[44], "/home/ann")));
        assert_eq!(of("4711:4712"), Ok(who(4711, 4712, &[4712], "/")));
        assert_eq!(of("4711"), Ok(who(4711, 0, &[0], "/")));
        assert!(of("nobody").unwrap_err().contains("nobody"));
        assert!(of("ann:nogroup").unwrap_err().contains("nogroup"));
    }
}
