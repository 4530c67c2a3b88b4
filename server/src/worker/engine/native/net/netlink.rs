//! What we ask of the kernel about links, addresses and routes, over one netlink socket. A socket stays in the
//! network namespace in which it was opened, whatever its thread does later.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, Socket, SocketAddr, TokioSocket};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::subnet::Subnet;

/// `RTNLGRP_IPV4_ROUTE`.
const IPV4_ROUTES: u32 = 7;
/// A list that changed while it was read is read again, but not for ever.
const READS: usize = 10;

pub(super) struct Netlink {
    socket: Socket,
    asked: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) bridge: Option<u32>,
    pub(super) mtu: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Loopback,
    Bridge,
    Veth,
    Other,
}

/// An IPv4 route of any table; one of several next hops is a route of its own here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: Subnet,
    pub(super) link: u32,
    pub(super) has_gateway: bool,
    pub(super) metric: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, asked: 0 })
    }

    /// A socket that hears of each IPv4 route that comes or goes.
    pub(super) fn route_changes() -> io::Result<TokioSocket> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(IPV4_ROUTES)?;
        Ok(socket)
    }

    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.list(|| Message::GetLink(LinkMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|a| if let Message::NewLink(l) = a { link(l) } else { None })
            .collect())
    }

    pub(super) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let answers = self.list(|| {
            let mut ask = RouteMessage::default();
            ask.header.address_family = AddressFamily::Inet;
            Message::GetRoute(ask)
        })?;
        Ok(answers
            .into_iter()
            .flat_map(|a| if let Message::NewRoute(r) = a { routes(&r) } else { vec![] })
            .collect())
    }

    /// The IPv4 addresses of this host, each with its link.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<(u32, Subnet)>> {
        let answers = self.list(|| {
            let mut ask = AddressMessage::default();
            ask.header.family = AddressFamily::Inet;
            Message::GetAddress(ask)
        })?;
        Ok(answers
            .into_iter()
            .filter_map(|a| if let Message::NewAddress(a) = a { address(&a) } else { None })
            .collect())
    }

    /// A bridge, still down.
    pub(super) fn add_bridge(&mut self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let mut new = LinkMessage::default();
        new.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            // A bridge without one takes that of a port, another one whenever ports change.
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.add(Message::NewLink(new))
    }

    /// A pair of links: `name` here, a port of the bridge and up, and `eth0` in the namespace, which can be up only
    /// once it has its peer.
    pub(super) fn add_pair(
        &mut self,
        name: &str,
        bridge: u32,
        mtu: u32,
        namespace: BorrowedFd<'_>,
        mac: [u8; 6],
    ) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName("eth0".to_owned()),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
        ];
        let mut new = up(LinkMessage::default());
        new.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Controller(bridge),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.add(Message::NewLink(new))
    }

    /// An isolated port of a bridge passes nothing to another isolated one.
    pub(super) fn isolate(&mut self, name: &str) -> io::Result<()> {
        let mut set = LinkMessage::default();
        set.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
            ]),
        ];
        self.ask(Message::NewLink(set), NLM_F_ACK).map(drop)
    }

    pub(super) fn set_up(&mut self, link: u32) -> io::Result<()> {
        let mut set = up(LinkMessage::default());
        set.header.index = link;
        self.ask(Message::SetLink(set), NLM_F_ACK).map(drop)
    }

    pub(super) fn add_address(&mut self, link: u32, address: Ipv4Addr, within: Subnet) -> io::Result<()> {
        let mut new = AddressMessage::default();
        new.header.family = AddressFamily::Inet;
        new.header.prefix_len = within.prefix;
        new.header.index = link;
        new.attributes = vec![
            AddressAttribute::Local(IpAddr::V4(address)),
            AddressAttribute::Address(IpAddr::V4(address)),
            AddressAttribute::Broadcast(within.last()),
        ];
        self.add(Message::NewAddress(new))
    }

    pub(super) fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        let mut new = RouteMessage::default();
        new.header.address_family = AddressFamily::Inet;
        new.header.table = RouteHeader::RT_TABLE_MAIN;
        new.header.protocol = RouteProtocol::Boot;
        new.header.scope = RouteScope::Universe;
        new.header.kind = RouteType::Unicast;
        new.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
        self.add(Message::NewRoute(new))
    }

    /// The other end of a pair goes with it. One that has gone already is no error.
    pub(super) fn remove_link(&mut self, link: u32) -> io::Result<()> {
        let mut old = LinkMessage::default();
        old.header.index = link;
        match self.ask(Message::DelLink(old), NLM_F_ACK) {
            Err(error) if error.raw_os_error() != Some(nix::libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
    }

    fn add(&mut self, message: Message) -> io::Result<()> {
        self.ask(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    fn list(&mut self, ask: impl Fn() -> Message) -> io::Result<Vec<Message>> {
        for _ in 0..READS {
            if let Some(whole) = self.ask(ask(), NLM_F_DUMP)? {
                return Ok(whole);
            }
        }
        Err(io::Error::other("the kernel's list of links and routes changed each time that it was read"))
    }

    /// None: the list changed while it was read.
    fn ask(&mut self, message: Message, flags: u16) -> io::Result<Option<Vec<Message>>> {
        self.asked += 1;
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.asked;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let (mut answers, mut whole) = (Vec::new(), true);
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            let mut rest = &received[..];
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if length < 16 || length > rest.len() {
                    return Err(io::Error::other("the kernel's answer is cut off"));
                }
                let (one, after) = rest.split_at(length);
                rest = &rest[length.next_multiple_of(4).min(length + after.len())..];
                // What this crate cannot read is a kind of link or route that we have nothing to do with.
                let Ok(one) = NetlinkMessage::<Message>::deserialize(one) else { continue };
                if one.header.sequence_number != self.asked {
                    continue;
                }
                whole &= one.header.flags & NLM_F_DUMP_INTR == 0;
                match one.payload {
                    NetlinkPayload::Done(_) => return Ok(whole.then_some(answers)),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(Some(answers)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
        }
    }
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn link(message: LinkMessage) -> Option<Link> {
    let mut link =
        Link { index: message.header.index, name: String::new(), kind: Kind::Other, bridge: None, mtu: 1500 };
    if message.header.flags.contains(LinkFlags::Loopback) {
        link.kind = Kind::Loopback;
    }
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(bridge) => link.bridge = Some(bridge),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Bridge)) => {
                link.kind = Kind::Bridge;
            }
            LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Veth)) => {
                link.kind = Kind::Veth;
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn routes(message: &RouteMessage) -> Vec<Route> {
    if message.header.kind != RouteType::Unicast {
        return vec![];
    }
    let mut to = Ipv4Addr::UNSPECIFIED;
    let (mut metric, mut hops, mut single, mut gateway) = (0, vec![], None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(link) => single = Some(*link),
            RouteAttribute::MultiPath(several) => hops
                .extend(several.iter().map(|hop| (hop.interface_index, hop.attributes.iter().any(leads_on)))),
            other => gateway |= leads_on(other),
        }
    }
    hops.extend(single.map(|link| (link, gateway)));
    let to = Subnet::new(to, message.header.destination_prefix_length);
    hops.into_iter().map(|(link, has_gateway)| Route { to, link, has_gateway, metric }).collect()
}

fn leads_on(attribute: &RouteAttribute) -> bool {
    matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_))
}

fn address(message: &AddressMessage) -> Option<(u32, Subnet)> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some((message.header.index, Subnet { address: local, prefix: message.header.prefix_len }))
}
