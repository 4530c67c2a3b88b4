//! What all namespaces of an instance stand on: a bridge with an address, the rules of the firewall, forwarding.
//!
//! The kernel is the only record of it. The bridge's name tells whose it is, its address which subnet, a port's name
//! which address is taken; so a worker that comes after a killed one finds all that it has to know.

use super::netlink::{Kind, Link, Netlink};
use super::rules::{self, Rules};
use super::subnet::{self, Subnet};
use super::{Lease, resolv};
use nix::sched::{CloneFlags, unshare};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// Two instances that begin at the same moment may look at the same free subnet; then both look again.
const TRIES: usize = 20;
const LOOPBACK: u32 = 1;

/// What docker sets in each container's namespace: no IPv6 but on loopback, and any user may ping and have port 80.
pub(crate) const SYSCTLS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// In a namespace that was just made.
pub(crate) fn settle() {
    for (path, value) in SYSCTLS {
        // A kernel without IPv6 has no such file.
        let _ = fs::write(path, value);
    }
}

#[derive(Debug)]
pub(super) struct Ground {
    name: String,
    bridge: u32,
    subnet: Subnet,
    mtu: u32,
    /// Where the search for the next free address begins: one that was just given back rests as long as can be.
    next: AtomicU32,
}

/// 10 letters: a port's name has 4 more, and a link's has at most 15.
pub(super) fn bridge_of(instance: &str) -> String {
    let hash = Sha256::digest(instance.as_bytes());
    hash[..4].iter().fold(super::BRIDGES.to_owned(), |name, byte| name + &format!("{byte:02x}"))
}

impl Ground {
    /// Takes over the bridge that an earlier worker left, or makes one.
    pub(super) fn lay(name: &str) -> io::Result<Ground> {
        let mut kernel = Netlink::open()?;
        let from = usize::from_str_radix(name.trim_start_matches(super::BRIDGES), 16).unwrap_or(0);
        for nth in 0..TRIES {
            let (links, addresses) = (kernel.links()?, kernel.addresses()?);
            let found = links.iter().find(|link| link.name == name).map(|link| link.index);
            let had = found.and_then(|bridge| addresses.iter().find(|(link, _)| *link == bridge));
            let subnet = match (found, had) {
                (_, Some((_, address))) => Subnet::new(address.address, address.prefix),
                // Its maker was killed before it had an address; it has no ports either.
                (Some(bridge), None) => {
                    kernel.remove_link(bridge)?;
                    continue;
                }
                (None, None) => {
                    subnet::free(from.wrapping_add(nth * 7), &kernel.routes()?, &addresses, &resolvers())
                        .ok_or_else(|| io::Error::other("every private subnet that we know of is in use"))?
                }
            };
            // Rules first: nothing of ours is up without them.
            rules(name, subnet, &links, &mut kernel)?.put()?;
            rules::forward()?;
            let bridge = match found {
                Some(bridge) => bridge,
                None => bridge(&mut kernel, name, subnet)?,
            };
            kernel.set_up(bridge)?;
            let routes = kernel.routes()?;
            if found.is_none() && routes.iter().any(|route| route.link != bridge && route.to == subnet) {
                kernel.remove_link(bridge)?;
                rules::remove(name)?;
                continue;
            }
            let mtu = subnet::mtu(&links, &routes);
            let next = AtomicU32::new(subnet.hosts().start);
            return Ok(Ground { name: name.to_owned(), bridge, subnet, mtu, next });
        }
        Err(io::Error::other(format!("others took each subnet that the bridge {name} was to have")))
    }

    /// Puts the rules in place again, as the host's routes and resolvers are now. A bridge that somebody took away
    /// needs none.
    pub(super) fn refresh(&self) -> io::Result<()> {
        let mut kernel = Netlink::open()?;
        let links = kernel.links()?;
        if !links.iter().any(|link| link.index == self.bridge) {
            return Ok(());
        }
        rules(&self.name, self.subnet, &links, &mut kernel)?.put()
    }

    /// Makes a namespace. It changes that of its thread, which must not be used for anything else.
    pub(super) fn namespace(&self) -> io::Result<Lease> {
        let mut host = Netlink::open()?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let namespace = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
        settle();
        let mut inside = Netlink::open()?;
        inside.set_up(LOOPBACK)?;
        let address = self.connect(&mut host, &namespace)?;
        let link = nix::net::if_::if_nametoindex("eth0")?;
        inside.set_up(link)?;
        inside.add_address(link, address, self.subnet)?;
        inside.add_default_route(self.subnet.at(1))?;
        Ok(Lease { namespace, address })
    }

    /// Connects it to the bridge, under the first address that is free. A namespace that is gone took its port along.
    fn connect(&self, host: &mut Netlink, namespace: &OwnedFd) -> io::Result<Ipv4Addr> {
        let hosts = self.subnet.hosts();
        for _ in hosts.clone() {
            let index = hosts.start + self.next.fetch_add(1, Ordering::Relaxed) % (hosts.end - hosts.start);
            let (port, address) = (format!("{}-{index:03x}", self.name), self.subnet.at(index));
            match host.add_pair(&port, self.bridge, self.mtu, namespace.as_fd(), mac(address)) {
                Ok(()) => {
                    host.isolate(&port)?;
                    return Ok(address);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("no address is free in {}", self.subnet)))
    }
}

/// Removes the bridge of this name, its ports (with the other ends, wherever they are) and its rules.
pub(super) fn clear(name: &str) -> io::Result<()> {
    let mut kernel = Netlink::open()?;
    let links = kernel.links()?;
    if let Some(bridge) = links.iter().find(|link| link.name == name && link.kind == Kind::Bridge) {
        for port in links.iter().filter(|link| link.bridge == Some(bridge.index)) {
            kernel.remove_link(port.index)?;
        }
        kernel.remove_link(bridge.index)?;
    }
    rules::remove(name)
}

/// How many namespaces are connected to the bridge of this name; None where there is no such bridge.
pub(super) fn ports(name: &str) -> io::Result<Option<usize>> {
    let links = Netlink::open()?.links()?;
    let bridge = links.iter().find(|link| link.name == name && link.kind == Kind::Bridge);
    Ok(bridge.map(|bridge| links.iter().filter(|link| link.bridge == Some(bridge.index)).count()))
}

fn bridge(kernel: &mut Netlink, name: &str, subnet: Subnet) -> io::Result<u32> {
    kernel.add_bridge(name, mac(subnet.at(1)))?;
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    let bridge = nix::net::if_::if_nametoindex(name)?;
    kernel.add_address(bridge, subnet.at(1), subnet)?;
    Ok(bridge)
}

fn rules(name: &str, subnet: Subnet, links: &[Link], kernel: &mut Netlink) -> io::Result<Rules> {
    let mut world = subnet::world(links, &kernel.routes()?);
    world.remove(name);
    let own = kernel.addresses()?;
    let is_own = |resolver: &Ipv4Addr| own.iter().any(|(_, address)| address.address == *resolver);
    let resolvers: BTreeSet<Ipv4Addr> = resolvers().into_iter().filter(is_own).collect();
    Ok(Rules { bridge: name.to_owned(), subnet, world, resolvers })
}

fn resolvers() -> Vec<Ipv4Addr> {
    resolv::resolvers(&resolv::resolv_conf())
}

/// An address has always the same one, so that nobody who remembers its last owner sends to nowhere.
fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x62, a, b, c, d]
}
