//! The files by which a step finds names: resolv.conf as on the host, and hosts.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// systemd-resolved writes the real resolvers here, where it is itself the only one in /etc/resolv.conf.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
const RESOLVED: &str = "127.0.0.53";
/// Where no resolver of the host can be reached from a container: the same as docker takes.
const PUBLIC: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// What this host says, without what a namespace of its own cannot reach. Read anew for each step: a host moves.
pub(crate) fn resolv_conf() -> String {
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let only_resolved = nameservers(&host).collect::<Vec<_>>() == [RESOLVED];
    match only_resolved.then(|| std::fs::read_to_string(BEHIND_RESOLVED)) {
        Some(Ok(behind)) => reachable(&behind),
        _ => reachable(&host),
    }
}

/// The resolvers in such a text.
pub(super) fn resolvers(text: &str) -> Vec<Ipv4Addr> {
    nameservers(text).filter_map(|server| server.parse().ok()).collect()
}

fn nameservers(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    })
}

/// Loopback is another one inside, and there is no IPv6.
fn reachable(text: &str) -> String {
    let usable = |server: &str| matches!(server.parse(), Ok(IpAddr::V4(address)) if !address.is_loopback());
    let mut kept: String = text
        .lines()
        .filter(|line| nameservers(line).all(usable))
        .fold(String::new(), |text, line| text + line + "\n");
    if nameservers(&kept).next().is_none() {
        for server in PUBLIC {
            let _ = writeln!(kept, "nameserver {server}");
        }
    }
    kept
}

/// The text of /etc/hosts, as docker writes it; a step without a network has no address.
pub(crate) fn hosts(hostname: &str, address: Option<Ipv4Addr>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                    ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
        .to_owned();
    if let Some(address) = address {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_that_cannot_be_reached_are_left_out() {
        let host = "# made by hand\nsearch corp.example\nnameserver 127.0.0.1\nnameserver fd00::1\nnameserver 10.0.0.2\noptions ndots:2\n";
        assert_eq!(
            reachable(host),
            "# made by hand\nsearch corp.example\nnameserver 10.0.0.2\noptions ndots:2\n"
        );
        assert_eq!(reachable("nameserver 127.0.0.53\n"), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert_eq!(resolvers("nameserver 10.0.0.2\nnameserver ::1\n"), [Ipv4Addr::new(10, 0, 0, 2)]);
    }
}
