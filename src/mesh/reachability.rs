//! Whether others can reach this node, and what follows: relaying for members, or asking members to relay. Pure.
//!
//! Sources, the surest first: the owner said so, a listen address is one of the internet, AutoNAT or UPnP
//! confirmed an address. A confirmed private address is no proof of anything, and neither is a circuit: libp2p's
//! relay would take both for one, so its status is always set from here.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;

use super::address::{Scope, ip_of, is_relayed, scope};
use super::settings::RelayServer;
use crate::capability::PeerId;

/// Reservations held while this node is not public: one may be lost without being cut off.
const RESERVATIONS: usize = 2;

/// How long a relay that refused or was lost is left alone.
const RELAY_REST: Duration = Duration::from_secs(30);

/// What is known of this node's reachability.
#[derive(Debug)]
pub struct Reachability {
    setting: RelayServer,
    operator: bool,
    listening: HashSet<Multiaddr>,
    confirmed: HashSet<Multiaddr>,
    relays: HashMap<PeerId, Relay>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relay {
    Held,
    Resting { until: Instant },
}

impl Reachability {
    /// Nothing but what the owner says.
    #[must_use]
    pub fn new(setting: RelayServer, external: &[Multiaddr]) -> Self {
        Self {
            setting,
            operator: external.iter().any(is_global),
            listening: HashSet::new(),
            confirmed: HashSet::new(),
            relays: HashMap::new(),
        }
    }

    /// This node listens there now.
    pub fn listens(&mut self, address: Multiaddr) {
        self.listening.insert(address);
    }

    /// It does no more.
    pub fn listens_no_more(&mut self, address: &Multiaddr) {
        self.listening.remove(address);
    }

    /// Somebody reached this node there.
    pub fn confirmed(&mut self, address: Multiaddr) {
        self.confirmed.insert(address);
    }

    /// It is reached there no more.
    pub fn expired(&mut self, address: &Multiaddr) {
        self.confirmed.remove(address);
    }

    /// Whether the internet can reach this node.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.operator || self.listening.iter().chain(&self.confirmed).any(is_global)
    }

    /// Whether to relay for members.
    #[must_use]
    pub fn relays(&self) -> bool {
        match self.setting {
            RelayServer::On => true,
            RelayServer::Off => false,
            RelayServer::Auto => self.is_public(),
        }
    }

    /// Which of these members that relay to ask for a reservation now.
    #[must_use]
    pub fn to_reserve(&self, relays: impl IntoIterator<Item = PeerId>, now: Instant) -> Vec<PeerId> {
        if self.is_public() {
            return Vec::new();
        }
        let held = self.relays.values().filter(|relay| **relay == Relay::Held).count();
        let may = |node: &PeerId| match self.relays.get(node) {
            None => true,
            Some(Relay::Held) => false,
            Some(Relay::Resting { until }) => *until <= now,
        };
        relays.into_iter().filter(may).take(RESERVATIONS.saturating_sub(held)).collect()
    }

    /// A reservation was asked for.
    pub fn reserving(&mut self, relay: PeerId) {
        self.relays.insert(relay, Relay::Held);
    }

    /// A reservation was refused or lost.
    pub fn reservation_lost(&mut self, relay: PeerId, now: Instant) {
        self.relays.retain(|_, relay| !matches!(relay, Relay::Resting { until } if *until <= now));
        self.relays.insert(relay, Relay::Resting { until: now + RELAY_REST });
    }
}

fn is_global(address: &Multiaddr) -> bool {
    !is_relayed(address) && ip_of(address).is_some_and(|ip| scope(ip) == Scope::Global)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_an_address_of_the_internet_makes_a_node_public() {
        let circuit = "/ip4/8.8.8.8/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
        let mut node = Reachability::new(RelayServer::Auto, &[]);
        for not in ["/ip4/192.168.1.1/tcp/1", "/ip4/127.0.0.1/tcp/1", circuit] {
            node.confirmed(address(not));
            node.listens(address(not));
            assert!(!node.is_public() && !node.relays(), "{not}");
        }
        node.confirmed(address("/ip4/8.8.8.8/tcp/1"));
        assert!(node.is_public() && node.relays());
        node.expired(&address("/ip4/8.8.8.8/tcp/1"));
        assert!(!node.relays());
        node.listens(address("/ip6/2001:4860::1/tcp/1"));
        assert!(node.relays());
        assert!(Reachability::new(RelayServer::Auto, &[address("/ip4/8.8.8.8/tcp/1")]).relays());
    }

    #[test]
    fn the_owner_has_the_last_word_on_relaying() {
        assert!(Reachability::new(RelayServer::On, &[]).relays());
        assert!(!Reachability::new(RelayServer::Off, &[address("/ip4/8.8.8.8/tcp/1")]).relays());
    }

    #[test]
    fn two_relays_are_held_and_a_lost_one_rests() {
        let now = Instant::now();
        let relays: Vec<_> = (0..3).map(|_| PeerId::random()).collect();
        let mut node = Reachability::new(RelayServer::Auto, &[]);
        let first = node.to_reserve(relays.clone(), now);
        assert_eq!(first, relays[..2]);
        for relay in first {
            node.reserving(relay);
        }
        assert!(node.to_reserve(relays.clone(), now).is_empty());
        node.reservation_lost(relays[0], now);
        assert_eq!(node.to_reserve(relays.clone(), now), [relays[2]]);
        node.reserving(relays[2]);
        node.reservation_lost(relays[1], now);
        assert_eq!(node.to_reserve(relays[..2].to_vec(), now + RELAY_REST).len(), 1);
        node.confirmed(address("/ip4/8.8.8.8/tcp/1"));
        assert!(node.to_reserve(relays, now + RELAY_REST).is_empty(), "a public node needs none");
    }
}
