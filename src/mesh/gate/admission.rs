//! Which addresses may knock at the gate of an open mesh.

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::mesh::address::{Scope, ip_of, is_memory, is_relayed, scope};

/// Whom an open mesh admits, by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// Nodes with loopback, link-local or private addresses: the owner's own networks.
    #[default]
    Private,
    /// Everybody.
    Everybody,
}

impl Admission {
    /// Whether the far end of a connection with this address may knock. `dialled` tells who dialled.
    ///
    /// A relayed connection comes through a member that admitted the far end itself, and shows no address of
    /// it. A name is dialled only when the owner gave it.
    #[must_use]
    pub fn admits(self, address: &Multiaddr, dialled: bool) -> bool {
        if self == Self::Everybody || is_relayed(address) || is_memory(address) {
            return true;
        }
        match ip_of(address) {
            Some(ip) => matches!(scope(ip), Scope::Loopback | Scope::LinkLocal | Scope::Private),
            None => dialled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_of_the_internet_knock_only_when_everybody_may() {
        for (text, dialled, private) in [
            ("/ip4/127.0.0.1/tcp/1", false, true),
            ("/ip4/100.100.1.1/tcp/1", false, true),
            ("/ip6/fe80::1/tcp/1", false, true),
            ("/ip6/fd12::1/udp/1/quic-v1", false, true),
            ("/memory/1", false, true),
            ("/ip4/8.8.8.8/tcp/1", false, false),
            ("/ip4/8.8.8.8/tcp/1", true, false),
            ("/ip6/2001:db8::1/tcp/1", false, false),
            ("/ip6/::ffff:8.8.8.8/tcp/1", false, false),
            ("/dns/nas/tcp/1", true, true),
            ("/dns/nas/tcp/1", false, false),
        ] {
            let address: Multiaddr = text.parse().expect("an address");
            assert_eq!(Admission::Private.admits(&address, dialled), private, "{text}");
            assert!(Admission::Everybody.admits(&address, dialled), "{text}");
        }
    }
}
