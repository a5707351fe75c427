//! What an address says about where a node is, and which of our own addresses are worth telling.

mod filter;
mod policy;
mod seed;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::view::{LinkTransport, PathClass};
use crate::capability::{Advert, limits};

pub use filter::DialFilter;
pub use policy::AddressPolicy;
pub use seed::{Seed, SeedError};

/// Where an IP address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Nowhere that one node could answer: unspecified, multicast, broadcast.
    Nowhere,
    /// This machine.
    Loopback,
    /// The same link.
    LinkLocal,
    /// A private network: RFC 1918, unique local, and the shared space of carriers and overlays (RFC 6598).
    Private,
    /// The internet.
    Global,
}

/// Where this IP address leads.
#[must_use]
pub fn scope(ip: IpAddr) -> Scope {
    match ip.to_canonical() {
        IpAddr::V4(ip) => scope_v4(ip),
        IpAddr::V6(ip) => scope_v6(ip),
    }
}

fn scope_v4(ip: Ipv4Addr) -> Scope {
    let [a, b, ..] = ip.octets();
    if a == 0 || ip.is_multicast() || a >= 240 {
        Scope::Nowhere
    } else if ip.is_loopback() {
        Scope::Loopback
    } else if ip.is_link_local() {
        Scope::LinkLocal
    } else if ip.is_private() || (a == 100 && (64..128).contains(&b)) {
        Scope::Private
    } else {
        Scope::Global
    }
}

fn scope_v6(ip: Ipv6Addr) -> Scope {
    if ip.is_unspecified() || ip.is_multicast() {
        Scope::Nowhere
    } else if ip.is_loopback() {
        Scope::Loopback
    } else if ip.is_unicast_link_local() {
        Scope::LinkLocal
    } else if ip.is_unique_local() {
        Scope::Private
    } else {
        Scope::Global
    }
}

/// The IP address that a multiaddress begins with.
#[must_use]
pub fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether the address leads through a relay.
#[must_use]
pub fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Whether the address stays within this process.
#[must_use]
pub fn is_memory(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Memory(_)))
}

/// How near the far end of a connection with this address is. `own` are the addresses of this machine.
#[must_use]
pub fn path_class(address: &Multiaddr, own: &HashSet<IpAddr>) -> PathClass {
    if is_relayed(address) {
        return PathClass::Relayed;
    }
    match ip_of(address) {
        Some(ip) if own.contains(&ip.to_canonical()) => PathClass::Local,
        Some(ip) => match scope(ip) {
            Scope::Loopback => PathClass::Local,
            Scope::LinkLocal | Scope::Private => PathClass::Lan,
            Scope::Global | Scope::Nowhere => PathClass::Wan,
        },
        None if is_memory(address) => PathClass::Local,
        // A name that was resolved further down: the owner gave it for something far enough to need one.
        None => PathClass::Wan,
    }
}

/// What carries a connection with this address.
#[must_use]
pub fn link_transport(address: &Multiaddr) -> LinkTransport {
    if is_relayed(address) {
        LinkTransport::Relay
    } else if address.iter().any(|part| part == Protocol::QuicV1) {
        LinkTransport::Quic
    } else if is_memory(address) {
        LinkTransport::Memory
    } else {
        LinkTransport::Tcp
    }
}

/// The address without the peer id at its end.
#[must_use]
pub fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut bare = address.clone();
    if matches!(bare.iter().last(), Some(Protocol::P2p(_))) {
        bare.pop();
    }
    bare
}

/// Whether another node may make us dial this address: an IP address with a port that one node can answer at,
/// or a circuit through such a one. Names are for seeds, which the owner gives; a name from elsewhere could
/// make us ask for anything.
#[must_use]
pub fn is_dialable_for_others(address: &Multiaddr) -> bool {
    if is_memory(address) {
        return true;
    }
    let Some(ip) = ip_of(address) else { return false };
    let port = address.iter().nth(1);
    matches!(port, Some(Protocol::Tcp(port) | Protocol::Udp(port)) if port != 0)
        // A link-local address means nothing without the interface, which a multiaddress cannot name.
        && !matches!(scope(ip), Scope::Nowhere) && !(ip.is_ipv6() && scope(ip) == Scope::LinkLocal)
}

/// The addresses of an advert that may be dialled.
#[must_use]
pub fn of_advert(advert: &Advert) -> Vec<Multiaddr> {
    advert.addresses.iter().filter_map(|text| text.parse().ok()).filter(is_dialable_for_others).collect()
}

/// The interfaces of this machine, as far as ranking needs them.
#[derive(Debug, Clone, Default)]
pub struct Interfaces(Vec<(IpAddr, String)>);

impl Interfaces {
    /// Those there are now. None when the system does not tell.
    #[must_use]
    pub fn now() -> Self {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        Self(interfaces.into_iter().map(|interface| (interface.ip(), interface.name)).collect())
    }

    /// Their addresses.
    #[must_use]
    pub fn addresses(&self) -> HashSet<IpAddr> {
        self.0.iter().map(|(ip, _)| *ip).collect()
    }

    fn name(&self, ip: IpAddr) -> Option<&str> {
        self.0.iter().find(|(other, _)| *other == ip).map(|(_, name)| name.as_str())
    }
}

/// Beginnings of the names of interfaces that lead to containers and virtual machines of this machine only.
const VIRTUAL: [&str; 17] = [
    "docker",
    "br-",
    "veth",
    "virbr",
    "vmnet",
    "vboxnet",
    "vnic",
    "cni",
    "flannel",
    "cali",
    "podman",
    "lxc",
    "lxd",
    "kube",
    "tap",
    "vEthernet",
    "bridge",
];

/// Beginnings of the names of interfaces of overlay networks: good, but slower than what they run over.
const OVERLAY: [&str; 6] = ["tun", "wg", "tailscale", "utun", "zt", "nebula"];

/// Own addresses that are worth telling others, best first and not more than fit in an advert.
///
/// Loopback addresses are told only when there is nothing else, as for nodes that live on one machine.
#[must_use]
pub fn rank_own(addresses: impl IntoIterator<Item = Multiaddr>, interfaces: &Interfaces) -> Vec<Multiaddr> {
    let mut ranked: Vec<_> = addresses
        .into_iter()
        .filter(is_dialable_for_others)
        .map(|address| (rank(&address, interfaces), address))
        .collect();
    let is_loopback = |address: &Multiaddr| ip_of(address).is_some_and(|ip| scope(ip) == Scope::Loopback);
    if ranked.iter().any(|(_, address)| !is_loopback(address)) {
        ranked.retain(|(_, address)| !is_loopback(address));
    }
    ranked.sort();
    ranked.dedup();
    ranked.into_iter().map(|(_, address)| address).take(limits::ADDRESSES).collect()
}

/// Lower is better: kind of network, then QUIC before TCP, then IPv4 before IPv6, whose many temporary
/// addresses would otherwise fill the list.
fn rank(address: &Multiaddr, interfaces: &Interfaces) -> (u8, u8, u8) {
    let begins = |list: &[&str], name: &str| list.iter().any(|prefix| name.starts_with(prefix));
    let network = match ip_of(address) {
        _ if is_relayed(address) => 4,
        None => 0,
        Some(ip) => match interfaces.name(ip) {
            Some(name) if begins(&VIRTUAL, name) => 3,
            Some(name) if begins(&OVERLAY, name) => 1,
            _ => match scope(ip) {
                Scope::Global | Scope::Private => 0,
                Scope::LinkLocal => 2,
                Scope::Loopback | Scope::Nowhere => 5,
            },
        },
    };
    let transport = u8::from(link_transport(address) != LinkTransport::Quic);
    (network, transport, u8::from(ip_of(address).is_some_and(|ip| ip.is_ipv6())))
}

#[cfg(test)]
mod tests;
