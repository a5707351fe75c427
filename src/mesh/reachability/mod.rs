//! Whether others can reach this node, and what follows: relaying for members, or asking members to relay. Pure.
//!
//! ```text
//! operator ─┐                                    public ──▶ relays for members, needs no relay
//! AutoNAT  ─┤  evidence (addresses, sources)  ──▶
//! UPnP     ─┤                                    not    ──▶ holds two reservations, and replaces a lost one
//! observed ─┘
//! ```
//!
//! libp2p confirms an address once and for ever, and its relay takes any confirmed address, a circuit of its own among them, for
//! a reason to offer itself. So what is tested, when it runs out, and the relay's status are decided here.

mod evidence;
mod reservations;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use libp2p::Multiaddr;

use super::address::{Scope, is_relayed, scope};
use super::settings::RelayServer;
use crate::capability::PeerId;
use evidence::Evidence;
pub use evidence::{Nat, Source, Test, Tester};
use reservations::Reservations;

/// What is known of this node's reachability.
#[derive(Debug)]
pub struct Reachability {
    setting: RelayServer,
    evidence: Evidence,
    reservations: Reservations,
}

impl Reachability {
    /// Nothing but what the owner says.
    #[must_use]
    pub fn new(setting: RelayServer, external: &[Multiaddr]) -> Self {
        let mut evidence = Evidence::default();
        for address in external {
            evidence.by_operator(address.clone());
        }
        Self { setting, evidence, reservations: Reservations::default() }
    }

    /// This node listens there now, or no more.
    pub fn listens(&mut self, address: &Multiaddr, there: bool) {
        if !is_relayed(address) {
            self.evidence.on_interface(address, there);
        }
    }

    /// The router forwards this address, or no more.
    pub fn mapped(&mut self, address: &Multiaddr, there: bool) {
        self.evidence.by_router(address, there);
    }

    /// A member at this IP address sees this node there. A member of the same network sees it where the internet does not.
    pub fn seen(&mut self, address: Multiaddr, by: IpAddr, now: Instant) {
        if scope(by) == Scope::Global {
            self.evidence.seen(address, by, now);
        }
    }

    /// A member at this IP address dialled it.
    pub fn tested(&mut self, address: &Multiaddr, by: IpAddr, reached: bool, now: Instant) {
        if scope(by) == Scope::Global {
            self.evidence.tested(address, by, reached, now);
        }
    }

    /// The test to make now, which counts as made.
    pub fn next_test(&mut self, testers: &[Tester], now: Instant) -> Option<Test> {
        self.evidence.expire(now);
        self.evidence.next_test(testers, now)
    }

    /// By what the internet is known to reach this node; `None`: it does not, or that is not known.
    #[must_use]
    pub fn public_by(&self, now: Instant) -> Option<Source> {
        self.evidence.public_by(now)
    }

    /// The addresses that a member has got through to, and by what they are known.
    #[must_use]
    pub fn addresses(&self, now: Instant) -> BTreeMap<Multiaddr, Source> {
        self.evidence.addresses(now)
    }

    /// How the NAT before this node translates, once enough members have told.
    #[must_use]
    pub fn nat(&self) -> Option<Nat> {
        self.evidence.nat()
    }

    /// Whether to relay for members.
    #[must_use]
    pub fn relays(&self, now: Instant) -> bool {
        match self.setting {
            RelayServer::On => true,
            RelayServer::Off => false,
            RelayServer::Auto => self.public_by(now).is_some(),
        }
    }

    /// Which of these members that relay, the best first, to ask for a reservation now.
    #[must_use]
    pub fn to_reserve(&self, relays: impl IntoIterator<Item = PeerId>, now: Instant) -> Vec<PeerId> {
        if self.public_by(now).is_some() { Vec::new() } else { self.reservations.to_ask(relays, now) }
    }

    /// Which reservations to end now: all, once the internet reaches this node, and those that came to nothing.
    #[must_use]
    pub fn to_end(&self, now: Instant) -> Vec<PeerId> {
        if self.public_by(now).is_some() { self.reservations.to_give_up() } else { self.reservations.overdue(now) }
    }

    /// A relay was asked for a reservation.
    pub fn reserving(&mut self, relay: PeerId, now: Instant) {
        self.reservations.asked(relay, now);
    }

    /// A relay accepted, or renewed.
    pub fn reserved(&mut self, relay: PeerId, now: Instant) {
        self.reservations.accepted(relay, now);
    }

    /// A reservation was refused or lost.
    pub fn reservation_lost(&mut self, relay: PeerId, now: Instant) {
        if self.public_by(now).is_some() {
            self.reservations.given_up(&relay);
        } else {
            self.reservations.lost(relay, now);
        }
    }

    /// The relays that hold a reservation.
    pub fn reserved_with(&self) -> impl Iterator<Item = PeerId> {
        self.reservations.held()
    }
}
