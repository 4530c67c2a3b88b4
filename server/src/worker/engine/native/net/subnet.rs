//! Which addresses are ours, and which links lead out into the world. Pure: from what the kernel lists.

use super::netlink::{Kind, Link, Route};
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

/// Room for 4,093 namespaces.
pub(super) const PREFIX: u8 = 20;

/// Where we look for a free subnet: none of these is in docker's own list. The last is meant for benchmarks of
/// networks, so that hardly anyone routes it.
const PLACES: [Subnet; 4] = [
    Subnet { address: Ipv4Addr::new(10, 213, 0, 0), prefix: 16 },
    Subnet { address: Ipv4Addr::new(10, 77, 0, 0), prefix: 16 },
    Subnet { address: Ipv4Addr::new(172, 16, 0, 0), prefix: 16 },
    Subnet { address: Ipv4Addr::new(198, 18, 0, 0), prefix: 15 },
];

/// A VPN that takes all traffic routes halves or quarters of all that there is: that is a way out, not a place
/// that somebody lives in.
const WIDEST: u8 = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Subnet {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
}

impl Subnet {
    /// The subnet in which this address is.
    pub(super) fn new(address: Ipv4Addr, prefix: u8) -> Subnet {
        let subnet = Subnet { address, prefix };
        Subnet { address: Ipv4Addr::from(u32::from(address) & subnet.mask()), prefix }
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    pub(super) fn contains(self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.address)) & self.mask() == 0
    }

    fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    pub(super) fn last(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !self.mask())
    }

    pub(super) fn at(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) + index)
    }

    /// The bridge has 1; the last is for broadcasts.
    pub(super) fn hosts(self) -> std::ops::Range<u32> {
        2..(!self.mask())
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The first subnet that nobody has, beginning at the `from`th, so that two instances seldom look at the same one.
pub(super) fn free(
    from: usize,
    routes: &[Route],
    addresses: &[(u32, Subnet)],
    resolvers: &[Ipv4Addr],
) -> Option<Subnet> {
    let all: Vec<Subnet> = PLACES
        .iter()
        .flat_map(|place| {
            let step = 1_u32 << (32 - PREFIX);
            (0..1_u32 << (PREFIX - place.prefix)).map(move |nth| Subnet::new(place.at(nth * step), PREFIX))
        })
        .collect();
    let taken = |subnet: Subnet| {
        routes.iter().any(|route| route.to.prefix > WIDEST && route.to.overlaps(subnet))
            || addresses.iter().any(|(_, other)| other.overlaps(subnet))
            || resolvers.iter().any(|resolver| subnet.contains(*resolver))
    };
    (0..all.len()).map(|nth| all[(from + nth) % all.len()]).find(|subnet| !taken(*subnet))
}

/// The links through which the rest of the world is reached. A bridge or the end of a pair is where containers and
/// virtual machines of this host live, unless a gateway is behind it; anything else that has a route leads out.
pub(super) fn world(links: &[Link], routes: &[Route]) -> BTreeSet<String> {
    links
        .iter()
        .filter(|link| {
            let mut through = routes.iter().filter(|route| route.link == link.index).peekable();
            match link.kind {
                Kind::Loopback => false,
                Kind::Bridge | Kind::Veth => through.any(|route| route.has_gateway),
                Kind::Other => through.peek().is_some(),
            }
        })
        .map(|link| link.name.clone())
        .collect()
}

/// How much fits into a packet that goes the usual way out.
pub(super) fn mtu(links: &[Link], routes: &[Route]) -> u32 {
    let default = routes.iter().filter(|route| route.to.prefix == 0).min_by_key(|route| route.metric);
    default.and_then(|route| links.iter().find(|link| link.index == route.link)).map_or(1500, |link| link.mtu)
}
