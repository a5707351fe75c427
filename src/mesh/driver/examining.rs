//! What this node knows of its own situation, and questions between nodes that somebody waits for.

use std::collections::BTreeSet;
use std::time::Instant;

use libp2p::request_response::ResponseChannel;

use super::state::{Asked, Driver, Late};
use crate::capability::PeerId;
use crate::mesh::address::{Interfaces, ip_of, network};
use crate::mesh::command::Answerer;
use crate::mesh::gate::Report;
use crate::mesh::multicast::{self, Mark};
use crate::mesh::situation::{Incident, OwnAddress, Situation, TurnedAway};
use crate::wire::v1;

/// Connections that were not admitted, and are remembered.
const MAX_TURNED_AWAY: usize = 16;

impl Driver {
    /// Asks another node on behalf of somebody who waits.
    pub(super) fn ask_for(&mut self, node: PeerId, request: v1::SyncRequest, reply: Answerer, now: Instant) {
        if self.connections.is_connected(&node) {
            if matches!(request.body, Some(v1::sync_request::Body::DialBack(_))) {
                self.will_be_dialled_by(node, now);
            }
            self.ask(node, request, Asked::Question(reply));
        } else {
            // The asker may have stopped waiting.
            let _ = reply.send(Err("it is not connected".to_owned()));
        }
    }

    /// What this node knows of its own situation.
    pub(super) fn situation(&self, now: Instant) -> Situation {
        let public = self.reachability.addresses(now);
        let told = self.own_addresses();
        let all: BTreeSet<_> = self.swarm.listeners().chain(self.swarm.external_addresses()).cloned().collect();
        let others = all.into_iter().filter(|address| !told.contains(address)).collect::<Vec<_>>();
        let address = |address, told| OwnAddress {
            interface: ip_of(address).and_then(|ip| self.interfaces.name(ip)).map(str::to_owned),
            network: network(address, &self.interfaces),
            told,
            public_by: public.get(address).copied(),
            address: address.to_string(),
        };
        let ago = |at: Instant| now.saturating_duration_since(at).as_secs();
        let seen_as = |node: &PeerId| Some((*node, self.connections.best(node)?.seen_as?));
        Situation {
            addresses: told
                .iter()
                .map(|one| address(one, true))
                .chain(others.iter().map(|one| address(one, false)))
                .collect(),
            public_by: self.reachability.public_by(now),
            nat: self.reachability.nat(),
            relaying: self.relaying,
            relays: self.reachability.reserved_with().map(|relay| relay.to_base58()).collect(),
            mdns: self.settings.mdns,
            identity_clash: self.clash.as_ref().map(|(what, at)| Incident { what: what.clone(), ago_s: ago(*at) }),
            turned_away: self
                .turned_away
                .iter()
                .rev()
                .map(|(report, at)| TurnedAway {
                    node: report.node.to_base58(),
                    address: report.address.to_string(),
                    reason: report.reason.clone(),
                    ago_s: ago(*at),
                })
                .collect(),
            seen_as: self.connections.nodes().filter_map(seen_as).collect(),
        }
    }

    /// Remembers a connection that was not admitted; of each node the last.
    pub(super) fn remember_turned_away(&mut self, report: &Report, now: Instant) {
        self.turned_away.retain(|(before, _)| before.node != report.node);
        if self.turned_away.len() >= MAX_TURNED_AWAY {
            self.turned_away.pop_front();
        }
        self.turned_away.push_back((report.clone(), now));
    }

    /// A node asks whether its multicast comes through.
    pub(super) fn hear_multicast(
        &mut self,
        node: PeerId,
        asked: &v1::HearMulticast,
        channel: ResponseChannel<v1::SyncResponse>,
        now: Instant,
    ) {
        let (Ok(mark), Ok(reply_mark)) = (Mark::try_from(&asked.mark[..]), Mark::try_from(&asked.reply_mark[..]))
        else {
            return self.heard_multicast((channel, heard(false, "a mark is 16 bytes")));
        };
        // A place in the channel of answers bounds how many listen at once.
        let Ok(place) = self.late.0.clone().try_reserve_owned() else {
            return self.heard_multicast((channel, heard(false, "it listens for others already")));
        };
        if !self.dial_back_rates.take(node, now) {
            return self.heard_multicast((channel, heard(false, "it was asked too often")));
        }
        tokio::spawn(async move {
            let answer = match multicast::exchange(reply_mark, &BTreeSet::from([mark]), &Interfaces::now()).await {
                Ok(marks) => heard(marks.contains(&mark), ""),
                Err(error) => heard(false, &format!("it cannot listen: {error}")),
            };
            place.send((channel, answer));
        });
    }

    pub(super) fn heard_multicast(&mut self, (channel, answer): Late) {
        // An error says that the other side is gone.
        let _ = self.swarm.behaviour_mut().sync.send_response(channel, answer);
    }
}

fn heard(heard: bool, trouble: &str) -> v1::SyncResponse {
    let answer = v1::HeardMulticast { heard, trouble: trouble.to_owned() };
    v1::SyncResponse { body: Some(v1::sync_response::Body::HeardMulticast(answer)) }
}
