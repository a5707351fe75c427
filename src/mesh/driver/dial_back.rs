//! Dialling a node because it asks whether it can be reached.
//!
//! The dial leaves by a fresh port, so that no NAT and no firewall knows it from before. The gate proves who answers. The connection is
//! kept like any other; it is soon closed as one too many, when nothing uses it.

use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::request_response::ResponseChannel;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};

use super::dialling::explain;
use super::state::{DialBack, Driver};
use crate::capability::PeerId;
use crate::mesh::guarded::may_dial_back;
use crate::wire::v1;
use v1::dialled_back::Outcome;

/// Dials for others that are under way at once.
const MAX_DIALS: usize = 8;

/// The same for one node: UDP and TCP.
const MAX_FOR_ONE: usize = 2;

/// How long such a dial may take: the node that asks waits for ten seconds in all.
const LIMIT: Duration = Duration::from_secs(7);

impl Driver {
    /// A node asks to be dialled.
    pub(super) fn dial_back(
        &mut self,
        node: PeerId,
        asked: &v1::DialBack,
        channel: ResponseChannel<v1::SyncResponse>,
        now: Instant,
    ) {
        let from = self.connections.best(&node).and_then(|link| self.connections.direct_ip(&node, link.id));
        let address: Option<Multiaddr> = asked.address.parse().ok();
        let Some(address) = address.filter(|address| may_dial_back(address, from)) else {
            return self.dialled_back(channel, Outcome::Refused, "this node may not be asked to dial there");
        };
        let for_it = self.dial_backs.values().filter(|dial| dial.node == node).count();
        let busy = for_it >= MAX_FOR_ONE || self.dial_backs.len() >= MAX_DIALS;
        if busy || !self.dial_back_rates.take(node, now) {
            return self.dialled_back(channel, Outcome::Refused, "it dials enough for others already");
        }
        let options = DialOpts::peer_id(node)
            .condition(PeerCondition::Always)
            .addresses(vec![address])
            .allocate_new_port()
            .build();
        let id = options.connection_id();
        self.dial_backs.insert(id, DialBack { node, channel, since: now });
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_back_failed(id, &error);
        }
    }

    /// A node is being asked to dial this one.
    pub(super) fn will_be_dialled_by(&mut self, node: PeerId, now: Instant) {
        self.asked_to_dial.retain(|_, at| now.saturating_duration_since(*at) < LIMIT);
        self.asked_to_dial.insert(node, now);
    }

    /// Whether a connection that this node makes now was asked for.
    pub(super) fn expects_dial_from(&self, node: &PeerId, now: Instant) -> bool {
        self.asked_to_dial.get(node).is_some_and(|at| now.saturating_duration_since(*at) < LIMIT)
    }

    /// A dial that a node asked for connected.
    pub(super) fn on_dial_back_connected(&mut self, id: ConnectionId) {
        if let Some(dial) = self.dial_backs.remove(&id) {
            self.dialled_back(dial.channel, Outcome::Reached, "");
        }
    }

    /// Whether it was such a dial that failed.
    pub(super) fn on_dial_back_failed(&mut self, id: ConnectionId, error: &DialError) -> bool {
        let Some(dial) = self.dial_backs.remove(&id) else { return false };
        let outcome = match error {
            DialError::Transport(_) | DialError::WrongPeerId { .. } => Outcome::Unreachable,
            // This node's own limits say nothing about the other.
            _ => Outcome::Refused,
        };
        self.dialled_back(dial.channel, outcome, &explain(error));
        true
    }

    /// Answers those whose dial takes too long: whoever drops packets never says so.
    pub(super) fn end_dial_backs(&mut self, now: Instant) {
        let late: Vec<_> =
            self.dial_backs.extract_if(|_, dial| now.saturating_duration_since(dial.since) >= LIMIT).collect();
        for (_, dial) in late {
            self.dialled_back(dial.channel, Outcome::Unreachable, "no answer within 7 s");
        }
    }

    fn dialled_back(&mut self, channel: ResponseChannel<v1::SyncResponse>, outcome: Outcome, reason: &str) {
        let answer = v1::DialledBack { outcome: outcome.into(), reason: reason.to_owned() };
        let body = Some(v1::sync_response::Body::DialledBack(answer));
        // An error says that the other side is gone.
        let _ = self.swarm.behaviour_mut().sync.send_response(channel, v1::SyncResponse { body });
    }
}
