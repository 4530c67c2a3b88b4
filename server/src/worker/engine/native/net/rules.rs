//! The rules of the host's firewall for one bridge of ours, as iptables has them: by docker's own tool, so that they
//! lie in the same tables as docker's, in front of which they must be.
//!
//! * To the host itself: nothing, but the questions to a resolver of the host's.
//! * Forwarded: to the links that lead into the world, and what comes back. Not to link-local addresses, not to
//!   containers and machines on this host, not by a detour over a published port.
//!
//! Why not a table of our own in nftables: an accept there does not overrule docker's `FORWARD` policy, which is to
//! drop, so that iptables would be needed too; and Debian's docker.io brings iptables, but not nft.

use super::subnet::Subnet;
use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// An answer at once instead of silence: a step that tries what it may not must not hang.
const REFUSE: &str = "-j REJECT --reject-with icmp-admin-prohibited";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) bridge: String,
    pub(super) subnet: Subnet,
    /// Links that may be forwarded to.
    pub(super) world: BTreeSet<String>,
    /// Resolvers that are addresses of the host itself.
    pub(super) resolvers: BTreeSet<Ipv4Addr>,
}

impl Rules {
    /// Puts in place what is not. The tables are changed in one go each, or not at all.
    pub(super) fn put(&self) -> io::Result<()> {
        match self.missing(&save()?) {
            Some(script) => restore(&script),
            None => Ok(()),
        }
    }

    /// What iptables-restore must do so that all is there; None where it is. Rules are written as iptables-save does.
    fn missing(&self, saved: &str) -> Option<String> {
        let (bridge, subnet) = (&self.bridge, self.subnet);
        let [to_host, forwarded] = chains(bridge);
        let mut chain = Vec::new();
        for resolver in &self.resolvers {
            chain.push(format!("-A {to_host} -d {resolver}/32 -p udp -m udp --dport 53 -j ACCEPT"));
            chain.push(format!("-A {to_host} -d {resolver}/32 -p tcp -m tcp --dport 53 -j ACCEPT"));
        }
        chain.push(format!("-A {to_host} {REFUSE}"));
        chain
            .push(format!("-A {forwarded} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
        chain.push(format!("-A {forwarded} -o {bridge} -j DROP"));
        chain.push(format!("-A {forwarded} ! -s {subnet} -j DROP"));
        chain.push(format!("-A {forwarded} -d 169.254.0.0/16 {REFUSE}"));
        chain.push(format!("-A {forwarded} -m conntrack --ctstate DNAT {REFUSE}"));
        chain.extend(self.world.iter().map(|link| format!("-A {forwarded} -o {link} -j ACCEPT")));
        chain.push(format!("-A {forwarded} {REFUSE}"));

        // docker puts its own jumps in front of all others whenever it starts, and leaves DOCKER-USER alone.
        let mut jumps = vec![format!("INPUT -i {bridge} -j {to_host}")];
        for before in ["FORWARD", "DOCKER-USER"] {
            if before == "FORWARD" || saved.lines().any(|line| line.starts_with(":DOCKER-USER ")) {
                jumps.push(format!("{before} -i {bridge} -j {forwarded}"));
                jumps.push(format!("{before} -o {bridge} -j {forwarded}"));
            }
        }
        let masquerade = format!("POSTROUTING -s {subnet} ! -o {bridge} -j MASQUERADE");

        let there = |rule: &String| saved.lines().any(|line| line.strip_prefix("-A ") == Some(rule));
        let now: Vec<&str> = saved
            .lines()
            .filter(|line| line.split(' ').nth(1).is_some_and(|name| name == to_host || name == forwarded))
            .filter(|line| line.starts_with("-A "))
            .collect();
        // The order of chains in what is saved is not ours to choose, that of the rules in a chain is.
        let same = |name: &str| {
            let of = |line: &&str| line.split(' ').nth(1) == Some(name);
            now.iter().copied().filter(of).eq(chain.iter().map(String::as_str).filter(of))
        };
        let mut script = String::new();
        let wrong = !(same(&to_host) && same(&forwarded));
        if wrong || !jumps.iter().all(there) {
            script += "*filter\n";
            if wrong {
                // Emptied and filled in one transaction.
                script += &format!(":{to_host} - [0:0]\n:{forwarded} - [0:0]\n{}\n", chain.join("\n"));
            }
            for jump in jumps.iter().filter(|jump| !there(jump)) {
                let (chain, rule) = jump.split_once(' ').expect("a chain and its rule");
                script += &format!("-I {chain} 1 {rule}\n");
            }
            script += "COMMIT\n";
        }
        if !there(&masquerade) {
            script += &format!("*nat\n-A {masquerade}\nCOMMIT\n");
        }
        (!script.is_empty()).then_some(script)
    }
}

/// Takes away every rule of this bridge, and nothing else.
pub(super) fn remove(bridge: &str) -> io::Result<()> {
    match removal(bridge, &save()?) {
        Some(script) => restore(&script),
        None => Ok(()),
    }
}

fn removal(bridge: &str, saved: &str) -> Option<String> {
    let chains = chains(bridge);
    let is_chain = |name: &str| chains.iter().any(|chain| chain == name);
    let (mut script, mut table, mut found) = (String::new(), Vec::new(), false);
    for line in saved.lines() {
        match line.split_at_checked(1) {
            Some(("*", _)) => table = vec![line.to_owned()],
            Some((":", declared)) if declared.split(' ').next().is_some_and(is_chain) => {
                let name = declared.split(' ').next().unwrap_or_default();
                // Emptied by its declaration, and removed once nothing leads to it.
                table.insert(1, format!(":{name} - [0:0]"));
                table.push(format!("-X {name}"));
            }
            Some(("-", _)) => {
                let words: Vec<&str> = line.split(' ').collect();
                let ours = words.iter().any(|word| *word == bridge || is_chain(word));
                if ours && !words.get(1).is_some_and(|chain| is_chain(chain)) {
                    let at = table.iter().position(|line| line.starts_with("-X")).unwrap_or(table.len());
                    table.insert(at, line.replacen("-A", "-D", 1));
                }
            }
            _ if line == "COMMIT" && table.len() > 1 => {
                found = true;
                script += &format!("{}\nCOMMIT\n", table.join("\n"));
            }
            _ => {}
        }
    }
    found.then_some(script)
}

/// What goes to the host, and what is forwarded.
fn chains(bridge: &str) -> [String; 2] {
    let instance = bridge.trim_start_matches(super::BRIDGES);
    [format!("BETTERTEST-{instance}-HOST"), format!("BETTERTEST-{instance}-WORLD")]
}

/// A host that forwarded nothing so far, and now must, does not become a router for others by it: as docker does.
pub(super) fn forward() -> io::Result<()> {
    const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(FORWARD)?.trim() == "0" {
        restore("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n")?;
        std::fs::write(FORWARD, "1")?;
    }
    Ok(())
}

fn save() -> io::Result<String> {
    // Both tables in one; a table that nobody has used yet is not printed, and has nothing of ours.
    let output = Command::new(program("iptables-save")).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(failed("iptables-save", &output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn restore(script: &str) -> io::Result<()> {
    let mut child = Command::new(program("iptables-restore"))
        .args(["--noflush", "--wait", "10"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let written = child.stdin.take().expect("a pipe").write_all(script.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(failed("iptables-restore", &output.stderr));
    }
    written
}

/// A service's PATH may lack the folders of root's programs.
fn program(name: &str) -> String {
    let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin"];
    let found =
        places.iter().map(|place| format!("{place}/{name}")).find(|path| std::path::Path::new(path).exists());
    found.unwrap_or_else(|| name.to_owned())
}

fn failed(program: &str, said: &[u8]) -> io::Error {
    let said = String::from_utf8_lossy(said);
    io::Error::other(format!("{program} failed: {}", said.lines().next().unwrap_or("it says nothing").trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the real iptables, for a bridge that does not exist.
    #[test]
    fn rules_that_are_there_are_not_put_again_and_all_go() {
        let link = |name: &str| name.to_owned();
        let mut rules = Rules {
            bridge: "btcafe0000".to_owned(),
            subnet: Subnet { address: Ipv4Addr::new(10, 213, 16, 0), prefix: 20 },
            world: BTreeSet::from([link("eth0"), link("wg0")]),
            resolvers: BTreeSet::from([Ipv4Addr::new(192, 0, 2, 7)]),
        };
        rules.put().unwrap();
        assert_eq!(rules.missing(&save().unwrap()), None, "iptables writes them otherwise than we do");
        let before = save().unwrap();
        rules.world.remove("wg0");
        assert!(rules.missing(&before).is_some_and(|script| !script.contains("-I ")), "only a chain is new");
        rules.put().unwrap();
        assert!(!save().unwrap().contains("-o wg0"));
        remove(&rules.bridge).unwrap();
        let after = save().unwrap();
        assert!(!after.contains("cafe0000"), "{after}");
        remove(&rules.bridge).unwrap();
    }
}
