//! Connections as they come and go, this node's addresses, and whether it can be reached.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, identify, ping, relay};
use rand::RngExt as _;

use super::state::{Driver, unix_ms};
use crate::capability::PeerId;
use crate::mesh::address::{
    Interfaces, Scope, ip_of, is_dialable_for_others, is_memory, is_relayed, link_transport, of_advert, path_class,
    rank_own, scope, without_peer,
};
use crate::mesh::connections::Link;
use crate::mesh::{book, view::PathClass};

impl Driver {
    pub(super) fn on_established(&mut self, node: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, now: Instant) {
        let address = endpoint.get_remote_address();
        let path = if endpoint.is_relayed() { PathClass::Relayed } else { path_class(address, &self.own_ips) };
        let transport = match endpoint {
            // The far end of an inbound connection has the address of a socket, not of a circuit.
            ConnectedPoint::Listener { local_addr, .. } => link_transport(local_addr),
            ConnectedPoint::Dialer { address, .. } => link_transport(address),
        };
        tracing::debug!(%node, %address, %path, ?transport, "connected");
        // The far end of a circuit that came in has no address; the circuit has.
        let shown = match endpoint {
            ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => without_peer(local_addr),
            _ => without_peer(address),
        };
        let link = Link {
            id,
            path,
            transport,
            dialled: endpoint.is_dialer(),
            address: shown.to_string(),
            since: now,
            heard: now,
            rtt: None,
        };
        let before = self.connections.best(&node).map(|link| link.id);
        self.connections.opened(node, link);
        self.found.remove(&node);
        self.refused.remove(&node);
        self.view_changed = true;
        self.tell_path(node, before);
        self.on_seed_connected(id, node);
        if endpoint.is_dialer() {
            let address = without_peer(address);
            if !is_relayed(&address) && !is_memory(&address) && ip_of(&address).is_some() {
                self.disk.book.reached(node, &address, unix_ms() / 1000);
            }
            self.sync_with(node, now);
        }
    }

    pub(super) fn on_closed(&mut self, node: PeerId, id: ConnectionId, now: Instant) {
        let before = self.connections.best(&node).map(|link| link.id);
        let was_last = self.connections.closed(&node, id);
        self.view_changed = true;
        if was_last {
            self.seeds.disconnected(node, now, &mut self.rng);
            let jitter = self.rng.random_range(0.0..1.0);
            self.connections.unreachable(node, now, jitter);
        } else {
            self.tell_path(node, before);
        }
    }

    /// Tells when calls to a node take another path than before.
    fn tell_path(&self, node: PeerId, before: Option<ConnectionId>) {
        let Some(best) = self.connections.best(&node).filter(|best| Some(best.id) != before) else { return };
        self.outlets.events.emit("node.path", || {
            serde_json::json!({
                "node": node.to_base58(), "path": best.path, "transport": best.transport, "address": best.address,
            })
        });
    }

    pub(super) fn on_ping(&mut self, event: &ping::Event, now: Instant) {
        match &event.result {
            Ok(rtt) => {
                self.view_changed |= self.connections.measured(&event.peer, event.connection, *rtt, now);
            }
            Err(ping::Failure::Timeout) => {
                tracing::debug!(node = %event.peer, "no answer to a ping; closing the connection");
                self.swarm.close_connection(event.connection);
            }
            Err(error) => tracing::debug!(node = %event.peer, %error, "ping"),
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else { return };
        let kad = self.mesh.protocol("kad/1");
        if !info.protocols.contains(&kad) {
            return;
        }
        let alone_on_this_machine = self.connections.best(&peer_id).is_some_and(|link| link.path == PathClass::Local);
        let useful = |address: &Multiaddr| {
            let loopback = ip_of(address).is_some_and(|ip| scope(ip) == Scope::Loopback);
            is_dialable_for_others(address) && (!loopback || alone_on_this_machine)
        };
        for address in info.listen_addrs.into_iter().filter(useful).take(book::MAX_ADDRESSES) {
            self.swarm.behaviour_mut().kad.add_address(&peer_id, without_peer(&address));
        }
    }

    pub(super) fn on_listening(&mut self, address: Multiaddr, now: Instant) {
        tracing::debug!(%address, "listening");
        self.interfaces = Interfaces::now();
        self.own_ips = self.interfaces.addresses();
        self.reachability.listens(address);
        self.addresses_changed(now);
    }

    pub(super) fn on_listening_no_more(&mut self, address: &Multiaddr, now: Instant) {
        self.reachability.listens_no_more(address);
        self.addresses_changed(now);
    }

    pub(super) fn on_listener_closed(&mut self, id: ListenerId, reason: io::Result<()>, now: Instant) {
        match self.reservations.remove(&id) {
            Some(relay) => {
                tracing::debug!(%relay, ?reason, "reservation lost");
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

    pub(super) fn on_external(&mut self, address: Multiaddr, now: Instant) {
        tracing::debug!(%address, "reachable there");
        self.reachability.confirmed(address);
        self.addresses_changed(now);
    }

    pub(super) fn on_external_no_more(&mut self, address: &Multiaddr, now: Instant) {
        self.reachability.expired(address);
        self.addresses_changed(now);
    }

    fn addresses_changed(&mut self, now: Instant) {
        self.view_changed = true;
        self.announcer.touch(now);
        self.check_relaying(now);
        self.offer_addresses();
    }

    /// A reservation tells the client the relay's addresses, and libp2p takes the external ones for these. Within a
    /// private network there are none, and clients refuse a reservation without.
    fn offer_addresses(&mut self) {
        let mut wanted = HashSet::new();
        if self.relaying {
            let own = self.swarm.listeners().map(without_peer);
            wanted.extend(own.filter(|address| !is_relayed(address) && is_dialable_for_others(address)));
        }
        for address in self.offered.difference(&wanted) {
            self.swarm.remove_external_address(address);
        }
        let known: HashSet<_> = self.swarm.external_addresses().cloned().collect();
        self.offered.retain(|address| wanted.contains(address));
        for address in wanted.into_iter().filter(|address| !known.contains(address)) {
            self.swarm.add_external_address(address.clone());
            self.offered.insert(address);
        }
    }

    pub(super) fn check_relaying(&mut self, now: Instant) {
        let relays = self.reachability.relays();
        if relays == self.relaying {
            return;
        }
        self.relaying = relays;
        if let Some(server) = self.swarm.behaviour_mut().relay_server.as_mut() {
            let status = if relays { relay::Status::Enable } else { relay::Status::Disable };
            server.set_status(Some(status));
            tracing::info!(relays, "relaying for members");
        }
        self.announcer.touch(now);
    }

    /// This node's addresses for others, best first.
    pub(super) fn own_addresses(&self) -> Vec<Multiaddr> {
        let all = self.swarm.listeners().chain(self.swarm.external_addresses());
        let bare = |address: &Multiaddr| if is_relayed(address) { address.clone() } else { without_peer(address) };
        rank_own(all.map(bare), &self.interfaces)
    }

    /// Asks members to relay, while this node cannot be reached.
    pub(super) fn reserve(&mut self, now: Instant) {
        let adverts = self.register.adverts();
        let relays = adverts.values().filter(|advert| advert.relay && advert.node != self.own);
        let relays = relays
            .filter(|advert| self.connections.best(&advert.node).is_some_and(|link| link.path != PathClass::Relayed));
        for relay in self.reachability.to_reserve(relays.map(|advert| advert.node), now) {
            let addresses = adverts.get(&relay).map(|advert| of_advert(advert)).unwrap_or_default();
            let Some(address) = addresses.into_iter().find(|address| !is_relayed(address)) else { continue };
            self.reachability.reserving(relay);
            let circuit = address.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
            match self.swarm.listen_on(circuit) {
                Ok(listener) => {
                    self.reservations.insert(listener, relay);
                }
                Err(error) => {
                    tracing::debug!(%relay, %error, "cannot ask for a reservation");
                    self.reachability.reservation_lost(relay, now);
                }
            }
        }
    }

    /// Closes every connection in order, and waits a moment for the far ends to hear of it.
    pub(super) async fn hang_up(&mut self, limit: Duration) {
        use futures::StreamExt as _;
        let nodes: Vec<_> = self.connections.nodes().copied().collect();
        for node in nodes {
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(node);
        }
        let closed = async {
            while self.connections.len() > 0 {
                let event = self.swarm.select_next_some().await;
                self.on_swarm_event(event, Instant::now());
            }
        };
        let _ = tokio::time::timeout(limit, closed).await;
    }
}
