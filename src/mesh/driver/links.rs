//! Connections as they come and go.

use std::time::{Duration, Instant};

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::PortUse;
use libp2p::ping;
use libp2p::swarm::ConnectionId;
use rand::RngExt as _;

use super::state::{BOOK_SOON, Driver, unix_ms};
use crate::capability::PeerId;
use crate::mesh::address::{ip_of, is_memory, is_relayed, link_transport, path_class, without_peer};
use crate::mesh::connections::Link;
use crate::mesh::view::PathClass;

/// With so many other neighbours a lost seed need not be had back at once: it may have had too many.
const CALM: usize = 4;

impl Driver {
    pub(super) fn on_established(&mut self, node: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, now: Instant) {
        let address = endpoint.get_remote_address();
        // A name says nothing about how near it is; what it stood for does.
        let resolved = endpoint.is_dialer().then(|| self.inlets.places.of(&node)).flatten();
        let resolved = resolved.filter(|_| ip_of(address).is_none() && !is_memory(address) && !endpoint.is_relayed());
        let address = resolved.as_ref().unwrap_or(address);
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
            own_port: match endpoint {
                ConnectedPoint::Dialer { port_use, .. } => *port_use == PortUse::Reuse,
                ConnectedPoint::Listener { .. } => !self.expects_dial_from(&node, now),
            },
            seen_as: None,
        };
        let before = self.connections.best(&node).map(|link| link.id);
        self.connections.opened(node, link);
        self.found.remove(&node);
        self.refused.remove(&node);
        self.tried_circuits.remove(&node);
        self.view_changed = true;
        self.tell_path(node, before);
        self.on_dial_back_connected(id);
        self.on_seed_connected(id, node);
        if endpoint.is_dialer() {
            let address = without_peer(address);
            if !is_relayed(&address) && !is_memory(&address) && ip_of(&address).is_some() {
                self.disk.book.reached(node, &address, unix_ms() / 1000);
                self.next_book = self.next_book.min(now + BOOK_SOON);
            }
        }
        self.teller.connected(node, endpoint.is_dialer(), now);
    }

    pub(super) fn on_closed(&mut self, node: PeerId, id: ConnectionId, now: Instant) {
        let before = self.connections.best(&node).map(|link| link.id);
        let was_last = self.connections.closed(&node, id);
        self.teller.disconnected(&node);
        self.view_changed = true;
        if was_last {
            // Both begin anew anyway.
            self.returned.remove(&node);
            self.identified.remove(&node);
            self.relayed_for.remove(&node);
            let in_need = self.connections.len() < CALM;
            self.seeds.disconnected(node, in_need, now, &mut self.rng);
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
                self.teller.answered(event.peer, now);
            }
            Err(ping::Failure::Timeout) => {
                tracing::debug!(node = %event.peer, "no answer to a ping; closing the connection");
                self.swarm.close_connection(event.connection);
            }
            Err(error) => tracing::debug!(node = %event.peer, %error, "ping"),
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
