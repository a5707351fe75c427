//! Connections that are of no use: one too many, silent, or to a neighbour that does not listen or has gone.

use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::state::Driver;
use crate::capability::PeerId;
use crate::mesh::behaviour::PING_SILENCE;
use crate::mesh::connections::Link;
use crate::mesh::view::PathClass;

/// A neighbour that has not told by then that it takes gossip never will: it tells once, when it sees the first
/// connection of a node. Where an earlier connection was not closed yet, as after a crash, or where
/// another process has this node's identity, it takes the new connection for one more of the same.
const DEAF_AFTER: Duration = Duration::from_secs(8);

/// A neighbour that came back is hung up on after this: what is asked of it meanwhile tells whether it came back, or another
/// process has its identity.
const RETURNED_AFTER: Duration = Duration::from_secs(1);

/// Calls that run on such a connection may finish for so long; until then other neighbours and sync make up for it.
const DEAF_CALLS: Duration = Duration::from_secs(600);

/// How often one neighbour is hung up on for it.
const DEAF_REST: Duration = Duration::from_secs(30);

impl Driver {
    /// Closes connections that live beside a better one. Which of those to a relay, or to a node that this one relays for, carries
    /// the reservation and the circuits is not told, so all of them stay but those that were made for a test.
    pub(super) fn close_duplicates(&mut self, now: Instant) {
        let streams = &self.swarm.behaviour().streams;
        let relays = self.connections.relays_in_use();
        let carries = |node: &PeerId| {
            relays.contains(node)
                || self.relayed_for.contains_key(node)
                || self.reservations.values().any(|of| of == node)
        };
        let used = |node: &PeerId, link: &Link| {
            streams.open_streams_on(node, link.id) > 0
                || (link.path != PathClass::Relayed && link.own_port && carries(node))
        };
        let superfluous = self.connections.duplicates(now, used);
        for id in superfluous {
            self.swarm.close_connection(id);
        }
    }

    /// Lets go of some connections when there are too many. Seeds, relays in use, the mesh of gossip, and whoever has a
    /// stream open are kept.
    pub(super) fn close_surplus(&mut self, now: Instant) {
        let behaviour = self.swarm.behaviour();
        let streams = &behaviour.streams;
        let topic = self.topic.hash();
        let gossips: HashSet<PeerId> = behaviour.gossip.mesh_peers(&topic).copied().collect();
        let relays: HashSet<PeerId> = self.reservations.values().copied().collect();
        let is_kept = |node: &PeerId| {
            self.seeds.is_connected(node)
                || relays.contains(node)
                || gossips.contains(node)
                || streams.open_streams(node) > 0
        };
        let is_used = |node: &PeerId, id| streams.open_streams_on(node, id) > 0;
        for (node, id) in self.connections.surplus(now, is_used, is_kept) {
            tracing::debug!(%node, "too many connections; letting one go");
            self.connections.let_go(node, now);
            self.swarm.close_connection(id);
        }
    }

    /// Closes connections whose far end has answered no ping for too long.
    pub(super) fn close_silent(&mut self, now: Instant) {
        for (node, id) in self.connections.silent(now, PING_SILENCE) {
            tracing::debug!(%node, "no answer to pings; closing the connection");
            self.swarm.close_connection(id);
        }
    }

    /// Hangs up on neighbours that came back before their old connection was known to be dead, so that both begin anew: gossip
    /// takes the new one for one more of the same, and tells nothing on it.
    pub(super) fn close_returned(&mut self, now: Instant) {
        if self.returned.is_empty() {
            return;
        }
        let streams = &self.swarm.behaviour().streams;
        // On all connections: those on a dead one end with it, in seconds.
        let calls = |node: &PeerId| streams.open_streams(node) > 0;
        let age = |since: &Instant| now.saturating_duration_since(*since);
        let is_due =
            |node: &PeerId, since: &Instant| age(since) > DEAF_CALLS || (age(since) > RETURNED_AFTER && !calls(node));
        let due: Vec<_> =
            self.returned.iter().filter(|(node, since)| is_due(node, since)).map(|(node, _)| *node).collect();
        for node in due {
            self.returned.remove(&node);
            if let Entry::Vacant(entry) = self.deaf.entry(node) {
                tracing::debug!(%node, "it was started anew; connecting anew");
                entry.insert(now);
                // An error says that it is gone already.
                let _ = self.swarm.disconnect_peer_id(node);
            }
        }
    }

    /// Hangs up on neighbours that do not take this node's gossip, so that both begin anew.
    pub(super) fn close_deaf(&mut self, now: Instant) {
        self.deaf.retain(|_, since| now.saturating_duration_since(*since) < DEAF_REST);
        let old = self.connections.settled(now, DEAF_AFTER);
        if old.is_empty() {
            return;
        }
        let behaviour = self.swarm.behaviour();
        let listening = self.listening();
        let oldest = self.connections.settled(now, DEAF_CALLS);
        let calls = |node: &PeerId| behaviour.streams.open_streams(node) > 0 && !oldest.contains(node);
        let useless = |node: &PeerId| !listening.contains(node) && !self.deaf.contains_key(node) && !calls(node);
        let useless: Vec<_> = old.into_iter().filter(useless).collect();
        for node in useless {
            tracing::debug!(%node, "it does not take gossip; connecting anew");
            self.deaf.insert(node, now);
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(node);
        }
    }
}
