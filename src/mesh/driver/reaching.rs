//! This node's addresses, whether the internet reaches it, and the relays that it uses until then.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, autonat, identify, relay, upnp};

use super::state::{Asked, BOOK_SOON, Driver, unix_ms};
use crate::capability::PeerId;
use crate::mesh::address::{
    Interfaces, Scope, ip_of, is_dialable_for_others, is_memory, is_relayed, link_transport, of_advert, port_of,
    rank_own, scope, with_port, without_peer,
};
use crate::mesh::book;
use crate::mesh::reachability::Tester;
use crate::mesh::sync;
use crate::mesh::view::{LinkTransport, PathClass};

/// How often it is looked whether an address wants testing.
const TESTS: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn on_identify(&mut self, event: identify::Event, now: Instant) {
        let identify::Event::Received { peer_id, connection_id, info } = event else { return };
        self.identified.insert(peer_id);
        self.on_seen_at(peer_id, connection_id, &info.observed_addr, now);
        let kad = self.mesh.protocol("kad/1");
        if !info.protocols.contains(&kad) {
            return;
        }
        let alone_on_this_machine = self.connections.best(&peer_id).is_some_and(|link| link.path == PathClass::Local);
        let useful = |address: &Multiaddr| {
            let loopback = ip_of(address).is_some_and(|ip| scope(ip) == Scope::Loopback);
            is_dialable_for_others(address) && (!loopback || alone_on_this_machine)
        };
        // Who dialled this node is found again after a restart where it listens, if that is where it came from.
        let came_from = self.connections.direct_ip(&peer_id, connection_id);
        for address in info.listen_addrs.iter().filter(|address| came_from.is_some() && ip_of(address) == came_from) {
            if self.disk.book.came_from(peer_id, &without_peer(address), unix_ms() / 1000) {
                self.next_book = self.next_book.min(now + BOOK_SOON);
            }
        }
        for address in info.listen_addrs.into_iter().filter(useful).take(book::MAX_ADDRESSES) {
            self.swarm.behaviour_mut().kad.inner().add_address(&peer_id, without_peer(&address));
        }
    }

    /// A node tells where it sees this one.
    fn on_seen_at(&mut self, node: PeerId, connection: ConnectionId, seen: &Multiaddr, now: Instant) {
        let Some(by) = self.connections.direct_ip(&node, connection) else { return };
        // What left by a fresh port, to see whether a node can be reached, tells nothing of the port that is listened on.
        if !self.connections.is_from_own_port(&node, connection) {
            return;
        }
        if let Some(ip) = ip_of(seen) {
            self.connections.seen_as(&node, connection, ip);
        }
        let transport = link_transport(seen);
        // A connection over TCP may have left by a port of its own; others are expected at the port that is listened on.
        let own_port = self.swarm.listeners().find(|own| link_transport(own) == transport).and_then(port_of);
        let outer = match (transport, own_port) {
            (LinkTransport::Quic, _) => without_peer(seen),
            (LinkTransport::Tcp, Some(port)) => with_port(&without_peer(seen), port),
            _ => return,
        };
        if is_dialable_for_others(&outer) {
            self.reachability.seen(outer, by, now);
        }
    }

    pub(super) fn on_listening(&mut self, address: Multiaddr, now: Instant) {
        tracing::debug!(%address, "listening");
        self.interfaces = Interfaces::now();
        self.own_ips = self.interfaces.addresses();
        self.reachability.listens(&address, true);
        self.addresses_changed(now);
    }

    pub(super) fn on_listening_no_more(&mut self, address: &Multiaddr, now: Instant) {
        self.reachability.listens(address, false);
        self.addresses_changed(now);
    }

    pub(super) fn on_listener_closed(&mut self, id: ListenerId, reason: io::Result<()>, now: Instant) {
        match self.reservations.remove(&id) {
            Some(relay) => {
                tracing::debug!(%relay, ?reason, "reservation ended");
                self.reachability.reservation_lost(relay, now);
            }
            None => {
                if let Err(error) = reason {
                    tracing::warn!(%error, "a listener of the mesh closed; other nodes may not reach this one");
                }
            }
        }
        self.addresses_changed(now);
    }

    pub(super) fn on_relay_client(&mut self, event: &relay::client::Event, now: Instant) {
        tracing::debug!(?event, "relay client");
        if let relay::client::Event::ReservationReqAccepted { relay_peer_id, .. } = event {
            self.reachability.reserved(*relay_peer_id, now);
        }
    }

    /// Keeps count of what each node has this one relay.
    pub(super) fn on_relay_server(&mut self, event: &relay::Event) {
        tracing::debug!(?event, "relay server");
        let (nodes, more) = match event {
            relay::Event::ReservationReqAccepted { src_peer_id, renewed: false } => (vec![*src_peer_id], true),
            relay::Event::ReservationClosed { src_peer_id } | relay::Event::ReservationTimedOut { src_peer_id } => {
                (vec![*src_peer_id], false)
            }
            relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id } => (vec![*src_peer_id, *dst_peer_id], true),
            relay::Event::CircuitClosed { src_peer_id, dst_peer_id, .. } => (vec![*src_peer_id, *dst_peer_id], false),
            _ => return,
        };
        for node in nodes {
            let count = self.relayed_for.entry(node).or_default();
            *count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
            if *count == 0 {
                self.relayed_for.remove(&node);
            }
        }
    }

    pub(super) fn on_upnp(&mut self, event: &upnp::Event, now: Instant) {
        tracing::debug!(?event, "router");
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => self.reachability.mapped(external_addr, true),
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => self.reachability.mapped(external_addr, false),
            upnp::Event::GatewayNotFound | upnp::Event::NonRoutableGateway => return,
        }
        self.addresses_changed(now);
    }

    /// AutoNAT tested an address of this node.
    pub(super) fn on_autonat(&mut self, event: &autonat::v2::client::Event, now: Instant) {
        let autonat::v2::client::Event { tested_addr, server, result, .. } = event;
        tracing::debug!(address = %tested_addr, node = %server, reached = result.is_ok(), "reachability test");
        self.on_tested(&without_peer(tested_addr), *server, result.is_ok(), now);
    }

    pub(super) fn on_tested(&mut self, address: &Multiaddr, by: PeerId, reached: bool, now: Instant) {
        let Some(ip) = self.connections.best(&by).and_then(|link| self.connections.direct_ip(&by, link.id)) else {
            return;
        };
        let before = self.reachability.public_by(now);
        self.reachability.tested(address, ip, reached, now);
        let after = self.reachability.public_by(now);
        if before != after {
            tracing::info!(by = ?after, "whether the internet reaches this node");
        }
        self.addresses_changed(now);
    }

    pub(super) fn on_external(&mut self, address: &Multiaddr, now: Instant) {
        tracing::debug!(%address, "reachable there");
        self.addresses_changed(now);
    }

    pub(super) fn on_external_no_more(&mut self, now: Instant) {
        self.addresses_changed(now);
    }

    fn addresses_changed(&mut self, now: Instant) {
        self.view_changed = true;
        self.check_reachability(now);
    }

    /// Brings what others are told, the relay's status and the reservations in line with what is known by now.
    pub(super) fn check_reachability(&mut self, now: Instant) {
        self.check_relaying(now);
        self.offer_addresses(now);
        let own = self.own_addresses();
        if own != self.told_addresses {
            self.told_addresses = own;
            self.teller.touch(now);
        }
        for relay in self.reachability.to_end(now) {
            let listeners: Vec<_> =
                self.reservations.iter().filter(|(_, of)| **of == relay).map(|(listener, _)| *listener).collect();
            if listeners.is_empty() {
                self.reachability.reservation_lost(relay, now);
            }
            for listener in listeners {
                tracing::debug!(%relay, "ending a reservation");
                self.swarm.remove_listener(listener);
            }
        }
    }

    /// Tells the swarm which addresses are this node's own: those that members got through to, and, while it relays, those
    /// that it listens on. A reservation tells the client the relay's addresses, and libp2p takes the external ones for these:
    /// within a private network there are none, and clients refuse a reservation without.
    fn offer_addresses(&mut self, now: Instant) {
        let mut wanted: HashSet<_> = self.reachability.addresses(now).into_keys().collect();
        if self.relaying {
            let own = rank_own(self.swarm.listeners().map(without_peer), &self.interfaces);
            wanted.extend(own.into_iter().filter(|address| !is_relayed(address)));
        }
        // What libp2p's own parts have confirmed, they expire; but AutoNAT never does.
        let is_stale = |address: &Multiaddr| {
            !is_relayed(address) && !wanted.contains(address) && !self.settings.external_addresses.contains(address)
        };
        let stale: Vec<_> = self.swarm.external_addresses().filter(|address| is_stale(address)).cloned().collect();
        for address in stale {
            self.swarm.remove_external_address(&address);
        }
        let known: HashSet<_> = self.swarm.external_addresses().cloned().collect();
        for address in wanted.into_iter().filter(|address| !known.contains(address)) {
            self.swarm.add_external_address(address);
        }
    }

    fn check_relaying(&mut self, now: Instant) {
        let relays = self.reachability.relays(now);
        if relays == self.relaying {
            return;
        }
        self.relaying = relays;
        if let Some(server) = self.swarm.behaviour_mut().relay_server.as_mut() {
            let status = if relays { relay::Status::Enable } else { relay::Status::Disable };
            server.set_status(Some(status));
            tracing::info!(relays, "relaying for members");
        }
        self.teller.touch(now);
    }

    /// This node's addresses for others, best first.
    pub(super) fn own_addresses(&self) -> Vec<Multiaddr> {
        let all = self.swarm.listeners().chain(self.swarm.external_addresses());
        let bare = |address: &Multiaddr| if is_relayed(address) { address.clone() } else { without_peer(address) };
        rank_own(all.map(bare), &self.interfaces)
    }

    /// Asks a member to dial an address of this node, when one wants testing.
    pub(super) fn test_addresses(&mut self, now: Instant) {
        if self.next_test > now {
            return;
        }
        self.next_test = now + TESTS;
        let tester = |node: &PeerId| {
            let link = self.connections.best(node).filter(|link| link.path == PathClass::Wan)?;
            Some(Tester { node: *node, ip: self.connections.direct_ip(node, link.id)? })
        };
        let testers: Vec<_> = self.connections.nodes().filter_map(tester).collect();
        if let Some(test) = self.reachability.next_test(&testers, now) {
            tracing::debug!(node = %test.node, address = %test.address, "asking whether it is reachable");
            let request = sync::dial_back_request(&test.address);
            self.will_be_dialled_by(test.node, now);
            self.ask(test.node, request, Asked::Test(test.address));
        }
    }

    /// Asks members to relay, while the internet does not reach this node. A hole is punched with what this node knows of its
    /// outer addresses when a circuit is made, so a relay that has not told it yet is not asked.
    pub(super) fn reserve(&mut self, now: Instant) {
        let adverts = self.teller.register().adverts();
        let relays = adverts.values().filter(|advert| advert.relay && advert.node != self.own);
        let near = |node: &PeerId| {
            let link = self.connections.best(node).filter(|link| link.path != PathClass::Relayed)?;
            self.identified.contains(node).then_some((link.rtt.unwrap_or(Duration::MAX), *node))
        };
        let mut relays: Vec<_> = relays.filter_map(|advert| near(&advert.node)).collect();
        relays.sort_unstable();
        for relay in self.reachability.to_reserve(relays.into_iter().map(|(_, node)| node), now) {
            let addresses = adverts.get(&relay).map(|advert| of_advert(advert)).unwrap_or_default();
            let Some(address) = addresses.into_iter().find(|address| !is_relayed(address)) else { continue };
            self.reachability.reserving(relay, now);
            let circuit = address.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
            match self.swarm.listen_on(circuit) {
                Ok(listener) => {
                    tracing::debug!(%relay, "asking for a reservation");
                    self.reservations.insert(listener, relay);
                }
                Err(error) => {
                    tracing::debug!(%relay, %error, "cannot ask for a reservation");
                    self.reachability.reservation_lost(relay, now);
                }
            }
        }
    }

    /// Whether circuits may be dialled: once any node has told where it sees this one, or has had the time to.
    pub(super) fn may_dial_circuits(&self, now: Instant) -> bool {
        /// A few round trips of the slowest path, after the first connection.
        const TOLD_BY_THEN: Duration = Duration::from_secs(5);
        !self.identified.is_empty() || now.saturating_duration_since(self.started) > TOLD_BY_THEN
    }

    /// Whether seeds may be dialled: a connection over TCP should leave by the port that is listened on, so that the NAT gives it
    /// the outer port that others dial; and that port is known a moment after the start.
    pub(super) fn may_dial_seeds(&self, now: Instant) -> bool {
        /// Longer takes no system to tell its addresses; where it tells none, there is no port to leave by.
        const LONGEST: Duration = Duration::from_millis(500);
        self.settings.gossip_port.is_none()
            || self.swarm.listeners().any(|own| !is_memory(own) && link_transport(own) == LinkTransport::Tcp)
            || now.saturating_duration_since(self.started) > LONGEST
    }
}
