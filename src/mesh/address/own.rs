//! Which of this node's own addresses are worth telling others.

use std::collections::HashSet;
use std::net::IpAddr;

use libp2p::Multiaddr;

use super::scope::{Scope, ip_of, is_dialable_for_others, is_relayed, link_transport, scope};
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
    ranked.into_iter().map(|(_, address)| address).take(limits::ADDRESSES).collect()
}

/// Lower is better: kind of network, then QUIC before TCP, then IPv4 before IPv6, whose many temporary
/// addresses would otherwise fill the list.
fn rank(address: &Multiaddr, interfaces: &Interfaces) -> (u8, u8, u8) {
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
