//! Whom to dial: seeds, nodes found by mDNS, and nodes known from adverts and from the peer book.

use std::time::{Duration, Instant};

use libp2p::core::transport::TransportError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, mdns};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use tokio::sync::oneshot;

use super::state::{Driver, Found, MAX_SEEDS, YIELD};
use crate::capability::PeerId;
use crate::catalog::Adverts;
use crate::mesh::address::{Seed, is_dialable_for_others, is_relayed, of_advert, without_peer};
use crate::mesh::book;
use crate::mesh::causes::{causes, root_cause};
use crate::mesh::command::JoinError;
use crate::mesh::gate::{GateError, Refusal, Report};
use crate::mesh::seeds::{Cause, Connected, Dial};

/// How long a node that is no member is not dialled again, unless it is a seed.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// Nodes found and not dialled yet, and nodes refused, that are remembered: a network has no more nodes of
/// interest, and a hostile one cannot make us remember more.
const MAX_REMEMBERED: usize = 256;

/// Longest explanation of a failed dial.
const MAX_REASON_CHARS: usize = 300;

impl Driver {
    pub(super) fn join(&mut self, seed: Seed, reply: oneshot::Sender<Result<PeerId, JoinError>>, now: Instant) {
        if self.seeds.len() >= MAX_SEEDS && !self.seeds.knows(&seed) {
            // The asker may have stopped waiting; here and below that is its own affair.
            let _ = reply.send(Err(JoinError::TooMany(MAX_SEEDS)));
            return;
        }
        let index = self.seeds.add(seed, now);
        self.view_changed = true;
        if self.seeds.known_as_itself(index) {
            let _ = reply.send(Err(JoinError::Itself(self.seeds.text(index).to_owned())));
            return;
        }
        match self.seeds.node(index) {
            Some(node) => {
                let _ = reply.send(Ok(node));
            }
            None => {
                let waiting = self.joins.entry(index).or_default();
                waiting.retain(|reply| !reply.is_closed());
                waiting.push(reply);
            }
        }
    }

    pub(super) fn dial_seed(&mut self, dial: Dial, now: Instant) {
        let options = match dial.node {
            Some(node) => {
                DialOpts::peer_id(node).condition(PeerCondition::Always).addresses(vec![dial.address]).build()
            }
            None => DialOpts::unknown_peer_id().address(dial.address).build(),
        };
        let id = options.connection_id();
        self.swarm.behaviour_mut().address_policy.announce(id);
        self.seed_dials.insert(id, dial.seed);
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(id, dial.node, &error, now);
        }
    }

    /// A seed's dial connected.
    pub(super) fn on_seed_connected(&mut self, id: ConnectionId, node: PeerId) {
        let Some(index) = self.seed_dials.remove(&id) else { return };
        self.view_changed = true;
        match self.seeds.connected(index, node) {
            Some(Connected::New { instead_of }) => {
                let seed = self.seeds.text(index).to_owned();
                if let Some(before) = instead_of {
                    tracing::warn!(%seed, %node, %before, "another node answers at this seed than before; was it set up anew?");
                } else {
                    tracing::info!(%seed, %node, "seed connected");
                }
                self.outlets.events.emit("seed.connected", || {
                    serde_json::json!({
                        "seed": seed, "node": node.to_base58(), "instead_of": instead_of.map(|node| node.to_base58()),
                    })
                });
                for reply in self.joins.remove(&index).unwrap_or_default() {
                    let _ = reply.send(Ok(node));
                }
            }
            Some(Connected::Already) => {
                self.swarm.close_connection(id);
            }
            None => {}
        }
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, node: Option<PeerId>, error: &DialError, now: Instant) {
        if self.on_dial_back_failed(id, error) {
            return;
        }
        if let Some(index) = self.seed_dials.remove(&id) {
            self.view_changed = true;
            let refusal = gate_error(error).and_then(GateError::refusal);
            // The swarm leaves out addresses that it listens on itself, and a seed's dial has just one.
            if refusal == Some(&Refusal::Itself) || matches!(error, DialError::NoAddresses) {
                if self.seeds.known_as_itself(index) {
                    return;
                }
                self.seeds.is_itself(index);
                let seed = self.seeds.text(index).to_owned();
                tracing::info!(%seed, "this seed is this node itself; it is left out");
                for reply in self.joins.remove(&index).unwrap_or_default() {
                    let _ = reply.send(Err(JoinError::Itself(seed.clone())));
                }
                return;
            }
            let cause = Cause { text: &explain(error), answered: refusal.is_some() };
            if let Some(failed) = self.seeds.failed(index, cause, now, &mut self.rng) {
                let text = failed.text;
                if failed.is_news {
                    tracing::warn!("{text}; it is tried further");
                } else {
                    tracing::debug!("{text}");
                }
                let seed = self.seeds.text(index);
                self.outlets.events.emit("seed.failed", || serde_json::json!({ "seed": seed, "error": text }));
                for reply in self.joins.remove(&index).unwrap_or_default() {
                    let _ = reply.send(Err(JoinError::Unreachable(text.clone())));
                }
            }
            return;
        }
        // A dial that was not made because another one is under way says nothing about the node.
        let no_dial = matches!(error, DialError::DialPeerConditionFalse(_) | DialError::Aborted);
        if let Some(node) = node.filter(|_| !no_dial) {
            tracing::debug!(%node, reason = %explain(error), "cannot reach node");
            let jitter = self.rng.random_range(0.0..1.0);
            self.connections.unreachable(node, now, jitter);
        }
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event, now: Instant) {
        let mdns::Event::Discovered(found) = event else { return };
        for (node, address) in found {
            let known = node == self.own || self.connections.is_connected(&node) || self.is_refused(&node, now);
            let address = without_peer(&address);
            if known || !is_dialable_for_others(&address) {
                continue;
            }
            let dial_at = if self.own < node { now } else { now + YIELD };
            let room = self.found.len() < MAX_REMEMBERED;
            if let Some(found) = self.found.get_mut(&node) {
                if found.addresses.len() < book::MAX_ADDRESSES && !found.addresses.contains(&address) {
                    found.addresses.push(address);
                }
            } else if room {
                tracing::debug!(%node, %address, "found by mDNS");
                self.found.insert(node, Found { addresses: vec![address], dial_at });
            }
        }
        self.dial_found(now);
    }

    pub(super) fn dial_found(&mut self, now: Instant) {
        let due: Vec<_> = self.found.extract_if(|_, found| found.dial_at <= now).collect();
        for (node, found) in due {
            if !self.connections.is_connected(&node) {
                self.dial_node(node, found.addresses, PeerCondition::DisconnectedAndNotDialing, now);
            }
        }
    }

    /// Dials known nodes until enough are connected.
    pub(super) fn dial_known(&mut self, now: Instant) {
        let adverts = self.teller.register().adverts();
        let mut known: Vec<_> = adverts.keys().copied().filter(|node| !self.is_refused(node, now)).collect();
        known.shuffle(&mut self.rng);
        for node in self.connections.to_dial(known.iter().copied(), now) {
            let addresses = adverts.get(&node).map(|advert| of_advert(advert)).unwrap_or_default();
            self.connections.dialling(node, now);
            // Those who dialled before a node had a relay need not wait until that has come to nothing.
            let by_circuit = self.may_dial_circuits(now) && addresses.iter().any(is_relayed);
            let condition = if by_circuit && self.tried_circuits.insert(node) {
                PeerCondition::Disconnected
            } else {
                PeerCondition::DisconnectedAndNotDialing
            };
            self.dial_node(node, addresses, condition, now);
        }
        self.tried_circuits.retain(|node| adverts.contains_key(node));
        if self.connections.looks_for_the_lost(now) {
            self.dial_lost(&adverts, now);
        }
    }

    /// Dials one of the nodes that were connected before and that nobody speaks of any more: when this node has just
    /// started, or when the mesh was cut in two, that is how it finds the others.
    fn dial_lost(&mut self, adverts: &Adverts, now: Instant) {
        let mut lost = self.disk.book.peers();
        lost.retain(|(node, _)| !adverts.contains_key(node) && !self.is_refused(node, now));
        if self.connections.len() > 0 {
            lost.shuffle(&mut self.rng);
        }
        if let Some(node) = self.connections.lost_to_dial(lost.iter().map(|(node, _)| *node), now) {
            let known = lost.iter().find(|(other, _)| *other == node).map(|(_, addresses)| addresses.clone());
            let addresses = known.unwrap_or_default().into_iter().filter(is_dialable_for_others).collect();
            self.connections.dialling(node, now);
            self.dial_node(node, addresses, PeerCondition::DisconnectedAndNotDialing, now);
        }
        let known = lost.into_iter().map(|(node, _)| node).chain(adverts.keys().copied());
        let known = known.chain(self.found.keys().copied()).collect();
        self.connections.forget_all_but(&known);
    }

    /// Tries to get a direct connection to nodes that are reached through a relay.
    pub(super) fn dial_anew(&mut self, now: Instant) {
        let adverts = self.teller.register().adverts();
        for node in self.connections.detours_due(now) {
            tracing::debug!(%node, "trying for a direct connection");
            let addresses = adverts.get(&node).map(|advert| of_advert(advert)).unwrap_or_default();
            self.dial_node(node, addresses, PeerCondition::NotDialing, now);
        }
    }

    pub(super) fn dial_node(
        &mut self,
        node: PeerId,
        mut addresses: Vec<Multiaddr>,
        condition: PeerCondition,
        now: Instant,
    ) {
        if !self.may_dial_circuits(now) {
            addresses.retain(|address| !is_relayed(address));
        }
        let options = DialOpts::peer_id(node)
            .condition(condition)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        let id = options.connection_id();
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(id, Some(node), &error, now);
        }
    }

    /// The gate did not let a connection pass.
    pub(super) fn on_report(&mut self, report: Report, now: Instant) {
        if report.identity_clash {
            self.warn_of_clash(&format!("a process at {} answers with it", report.address), now);
        }
        if report.not_a_member {
            if report.inbound && !self.is_refused(&report.node, now) {
                tracing::info!(node = %report.node, address = %report.address, reason = %report.reason, "refused at the gate");
            }
            self.remember_turned_away(&report, now);
            if self.refused.len() >= MAX_REMEMBERED {
                self.refused.retain(|_, until| *until > now);
            }
            if self.refused.len() < MAX_REMEMBERED {
                self.refused.insert(report.node, now + REFUSED_FOR);
            }
        }
        self.outlets.events.emit("gate.refused", || {
            serde_json::json!({
                "node": report.node.to_base58(),
                "address": report.address.to_string(),
                "inbound": report.inbound,
                "reason": report.reason,
            })
        });
    }

    fn is_refused(&self, node: &PeerId, now: Instant) -> bool {
        self.refused.get(node).is_some_and(|until| *until > now)
    }
}

/// Why a dial failed, for a person.
pub fn explain(error: &DialError) -> String {
    let text = match error {
        DialError::LocalPeerId { .. } => "it is this node itself".to_owned(),
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::DialPeerConditionFalse(_) => "it is being dialled already".to_owned(),
        DialError::Aborted => "the dial was aborted".to_owned(),
        DialError::WrongPeerId { obtained, .. } => format!("another node answers there: {obtained}"),
        DialError::Denied { cause } => root_cause(cause),
        DialError::Transport(attempts) => match attempts.first() {
            Some((_, TransportError::Other(error))) => {
                error.get_ref().map_or_else(|| error.to_string(), |inner| root_cause(inner))
            }
            Some((address, TransportError::MultiaddrNotSupported(_))) => format!("{address} cannot be dialled"),
            None => "no address of it could be dialled".to_owned(),
        },
    };
    // The resolver tells the whole query.
    let text = if text.starts_with("no records found for") { "there is no such name in the DNS" } else { &text };
    let text = text.split(" (os error").next().unwrap_or_default().trim_end_matches('.');
    let mut text: String = text.chars().filter(|char| !char.is_control()).take(MAX_REASON_CHARS).collect();
    // System errors begin with a capital; here they stand within a sentence.
    if let Some(first) = text.get(..1).filter(|_| text.chars().nth(1).is_some_and(char::is_lowercase)) {
        let lower = first.to_lowercase();
        text.replace_range(..1, &lower);
    }
    text
}

/// What the gate said, when it was the gate.
fn gate_error(error: &DialError) -> Option<&GateError> {
    let DialError::Transport(attempts) = error else { return None };
    attempts.iter().find_map(|(_, error)| match error {
        TransportError::Other(error) => causes(error).find_map(|cause| cause.downcast_ref()),
        TransportError::MultiaddrNotSupported(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_failed_dial_is_explained_by_its_cause() {
        let refused = io::Error::from_raw_os_error(111);
        let wrapped = io::Error::other(io::Error::other(refused));
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().expect("an address");
        let error = DialError::Transport(vec![(address, TransportError::Other(wrapped))]);
        assert_eq!(explain(&error), "connection refused");
        assert_eq!(explain(&DialError::NoAddresses), "no address of it is known");
    }
}
