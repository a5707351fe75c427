//! Where an address leads, how near its far end is, and whether others may make us dial it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::capability::{Advert, PeerId};
use crate::mesh::view::{LinkTransport, PathClass};

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

/// Its UDP or TCP port.
#[must_use]
pub fn port_of(address: &Multiaddr) -> Option<u16> {
    address.iter().find_map(|part| match part {
        Protocol::Udp(port) | Protocol::Tcp(port) => Some(port),
        _ => None,
    })
}

/// The same address at another UDP or TCP port.
#[must_use]
pub fn with_port(address: &Multiaddr, port: u16) -> Multiaddr {
    let other = |part| match part {
        Protocol::Udp(_) => Protocol::Udp(port),
        Protocol::Tcp(_) => Protocol::Tcp(port),
        part => part,
    };
    address.iter().map(other).collect()
}

/// Whether the IP address is one that overlay networks give out: the shared space (RFC 6598) or Tailscale's own prefix.
#[must_use]
pub fn is_overlay(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => matches!(ip.octets(), [100, 64..128, ..]),
        IpAddr::V6(ip) => matches!(ip.segments(), [0xfd7a, 0x115c, 0xa1e0, ..]),
    }
}

/// Whether it is the address of a node of the internet itself, by IP.
#[must_use]
pub fn is_of_internet(address: &Multiaddr) -> bool {
    !is_relayed(address) && ip_of(address).is_some_and(|ip| scope(ip) == Scope::Global)
}

/// Whether the address leads through a relay.
#[must_use]
pub fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The node that relays, when the address leads through one.
#[must_use]
pub fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let parts: Vec<_> = address.iter().collect();
    let circuit = parts.iter().position(|part| *part == Protocol::P2pCircuit)?;
    match parts.get(circuit.checked_sub(1)?)? {
        Protocol::P2p(relay) => Some(*relay),
        _ => None,
    }
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

/// Whether a node could be at this address: an IP address that one machine has, or a name.
#[must_use]
pub fn is_a_place(address: &Multiaddr) -> bool {
    ip_of(address).is_none_or(|ip| scope(ip) != Scope::Nowhere)
}

/// Whether the address has one of the shapes that this program dials: a host with QUIC or TCP, or memory; then perhaps
/// a circuit.
#[must_use]
pub fn is_plain(address: &Multiaddr) -> bool {
    use Protocol::{Dns, Dns4, Dns6, Dnsaddr, Ip4, Ip6, Memory, P2p, P2pCircuit, QuicV1, Tcp, Udp};
    let parts: Vec<_> = address.iter().take(MAX_PARTS + 1).collect();
    let rest = match &parts[..] {
        [Memory(_) | Dnsaddr(_), rest @ ..] => rest,
        [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Tcp(_), rest @ ..]
        | [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Udp(_), QuicV1, rest @ ..] => rest,
        _ => return false,
    };
    matches!(rest, [] | [P2p(_)] | [P2p(_), P2pCircuit] | [P2p(_), P2pCircuit, P2p(_)])
}

/// Parts of the longest address that is dialled: host, UDP, QUIC, relay, circuit, node.
const MAX_PARTS: usize = 6;

/// Whether another node may make us dial this address: an IP address with a port that one node can answer at,
/// or a circuit through such a one. Names are for seeds, which the owner gives; a name from elsewhere could
/// make us ask for anything.
#[must_use]
pub fn is_dialable_for_others(address: &Multiaddr) -> bool {
    if !is_plain(address) {
        return false;
    }
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
