//! Which of this node's own addresses are worth telling others.

use std::collections::HashSet;
use std::net::IpAddr;

use libp2p::Multiaddr;
use serde::Serialize;

use super::scope::{Scope, ip_of, is_dialable_for_others, is_overlay, is_relayed, link_transport, scope};
use crate::capability::limits;
use crate::mesh::view::LinkTransport;

/// The interfaces of this machine, as far as ranking needs them.
#[derive(Debug, Clone, Default)]
pub struct Interfaces(pub(super) Vec<(IpAddr, String)>);

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

    /// The addresses that no other machine is behind: bridges to containers and virtual machines.
    #[must_use]
    pub fn virtual_addresses(&self) -> Vec<IpAddr> {
        self.0.iter().filter(|(_, name)| begins(&VIRTUAL, name)).map(|(ip, _)| *ip).collect()
    }

    /// The name of the interface that has this address.
    #[must_use]
    pub fn name(&self, ip: IpAddr) -> Option<&str> {
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

/// Circuits that always find room among the addresses that are told: QUIC and TCP of two relays.
const CIRCUITS: usize = 4;

fn begins(list: &[&str], name: &str) -> bool {
    list.iter().any(|prefix| name.starts_with(prefix))
}

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
    // A machine full of containers must not lose the addresses by which it is reached at all.
    let circuits = ranked.iter().filter(|(_, address)| is_relayed(address)).count().min(CIRCUITS);
    let mut room = [limits::ADDRESSES - circuits, circuits];
    let fits = |address: &Multiaddr| {
        let left = &mut room[usize::from(is_relayed(address))];
        let fits = *left > 0;
        *left = left.saturating_sub(1);
        fits
    };
    ranked.into_iter().map(|(_, address)| address).filter(fits).collect()
}

/// What kind of network an own address is of, the best to be dialled at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network of this place.
    Lan,
    /// The internet.
    Internet,
    /// An overlay: good, but slower than what it runs over.
    Overlay,
    /// Addresses that an interface gave itself, as where no router gives any.
    Link,
    /// Through a relay.
    Relay,
    /// A bridge to containers or virtual machines of this machine. Last, and not dropped: the name may deceive.
    Virtual,
    /// This machine only.
    Loopback,
}

/// What kind of network this own address is of.
#[must_use]
pub fn network(address: &Multiaddr, interfaces: &Interfaces) -> Network {
    let Some(ip) = ip_of(address).filter(|_| !is_relayed(address)) else {
        return if is_relayed(address) { Network::Relay } else { Network::Lan };
    };
    match interfaces.name(ip) {
        Some(name) if begins(&VIRTUAL, name) => Network::Virtual,
        Some(name) if begins(&OVERLAY, name) => Network::Overlay,
        _ if is_overlay(ip) => Network::Overlay,
        _ => match scope(ip) {
            Scope::Private => Network::Lan,
            Scope::Global => Network::Internet,
            Scope::LinkLocal => Network::Link,
            Scope::Loopback | Scope::Nowhere => Network::Loopback,
        },
    }
}

/// Lower is better: kind of network, then QUIC before TCP, then IPv4 before IPv6, whose many temporary
/// addresses would otherwise fill the list.
fn rank(address: &Multiaddr, interfaces: &Interfaces) -> (Network, u8, u8) {
    let transport = u8::from(link_transport(address) != LinkTransport::Quic);
    (network(address, interfaces), transport, u8::from(ip_of(address).is_some_and(|ip| ip.is_ipv6())))
}
