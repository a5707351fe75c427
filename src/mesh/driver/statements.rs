//! The teller's hands: what it wants said and asked goes into the swarm, and what comes out goes to it.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use libp2p::gossipsub::{self, MessageAcceptance, PublishError};
use libp2p::request_response::{self, OutboundRequestId};
use prost::Message as _;

use super::members::MemberRequest;
use super::state::{Asked, Driver, unix_ms};
use crate::capability::PeerId;
use crate::catalog::register::Position;
use crate::mesh::behaviour::SyncEvent;
use crate::mesh::telling::{self, Effect, Profile, Verdict};
use crate::wire::v1;

/// How long a departing node waits for its neighbours to hear of it.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long it then waits for its connections to close.
const HANG_UP: Duration = Duration::from_millis(200);

/// A warning about another node with this identity comes this often at the most.
const CLASH_WARNING: Duration = Duration::from_secs(60);

impl Driver {
    /// Tells the mesh what this node is and can do.
    pub(super) fn announce(&mut self, now: Instant) {
        let profile = Profile {
            name: self.settings.node_name.clone(),
            version: self.settings.version.clone(),
            addresses: self.own_addresses(),
            relay: self.relaying,
        };
        self.teller.announce(profile, now);
    }

    /// Does what the teller wants done.
    pub(super) fn perform(&mut self, now: Instant) {
        for effect in self.teller.take_effects() {
            match effect {
                Effect::Gossip(wire) => {
                    self.gossip(wire);
                    let listening = self.listening();
                    self.untold.extend(self.connections.nodes().filter(|node| !listening.contains(node)));
                }
                Effect::Ask { node, request, what } => {
                    // Where statements are compared, so are memberships.
                    if matches!(what, telling::Asked::Round(1, _)) {
                        self.sync_roster_with(node);
                    }
                    self.ask(node, request, Asked::Told(what));
                }
                Effect::Stranger { from } => self.ask_who_it_is(from, now),
                Effect::Clash { position, from } => self.on_clash(position, from, now),
                Effect::Returned { node } => {
                    if self.connections.outlives_a_run(&node) {
                        self.returned.entry(node).or_insert(now);
                    }
                }
                Effect::Count(counted) => self.outlets.measures.statement(counted),
            }
        }
    }

    /// Neighbours that have not said that they take gossip learn by sync what this node says. After a crash they take its new
    /// connection for one more of the same, until the old one is known to be dead.
    pub(super) fn tell_untold(&mut self, now: Instant) {
        if self.untold.is_empty() {
            return;
        }
        let listening = self.listening();
        let connections = &self.connections;
        self.untold.retain(|node| {
            connections.best(node).is_some() && !listening.contains(node) && !self.teller.sync_with(*node, now)
        });
    }

    /// Neighbours that have said that they take this mesh's gossip.
    pub(super) fn listening(&self) -> HashSet<PeerId> {
        let topic = self.topic.hash();
        let peers = self.swarm.behaviour().gossip.all_peers();
        peers.filter(|(_, topics)| topics.contains(&&topic)).map(|(node, _)| *node).collect()
    }

    fn gossip(&mut self, mut wire: v1::SignedStatement) {
        let mut sent = self.publish_statement(&wire);
        if matches!(sent, Err(PublishError::MessageTooLarge)) && !wire.body.is_empty() {
            // Those who want the body fetch it.
            wire.body.clear();
            sent = self.publish_statement(&wire);
        }
        match sent {
            Ok(()) | Err(PublishError::Duplicate) => {}
            Err(PublishError::NoPeersSubscribedToTopic) => self.teller.nobody_heard(),
            Err(error) => tracing::debug!(%error, "gossip"),
        }
    }

    fn publish_statement(&mut self, statement: &v1::SignedStatement) -> Result<(), PublishError> {
        let topic = self.topic.hash();
        self.swarm.behaviour_mut().gossip.publish(topic, statement.encode_to_vec()).map(|_| ())
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event, now: Instant) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let verdict = match self.teller.on_gossip(&message.data, propagation_source, now) {
                    Verdict::Accept => MessageAcceptance::Accept,
                    Verdict::Ignore => MessageAcceptance::Ignore,
                    Verdict::Reject => MessageAcceptance::Reject,
                };
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(&message_id, &propagation_source, verdict);
            }
            gossipsub::Event::Subscribed { peer_id, .. } => self.teller.on_listener(peer_id, now),
            gossipsub::Event::SlowPeer { peer_id, .. } => tracing::debug!(node = %peer_id, "slow to take gossip"),
            _ => {}
        }
    }

    /// Somebody speaks for this node, past what it has said itself.
    fn on_clash(&mut self, position: Position, from: PeerId, now: Instant) {
        let epoch = self.disk.epochs.next(position.epoch, SystemTime::now());
        let keep = self.disk.epochs.unsaved();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = keep() {
                tracing::warn!(%error, "cannot keep this node's epoch");
            }
        });
        self.teller.begin_run(epoch, now);
        self.warn_of_clash(&format!("node {from} knows of a newer run"), now);
    }

    /// Warns that this node's identity is used twice, or was.
    pub(super) fn warn_of_clash(&mut self, why: &str, now: Instant) {
        self.clash = Some((why.to_owned(), now));
        if self.clash_warned.is_some_and(|last| now.saturating_duration_since(last) < CLASH_WARNING) {
            return;
        }
        self.clash_warned = Some(now);
        tracing::warn!(
            node = %self.own,
            "this node's identity seems to be used by another process: {why}. Was the data directory restored or copied? \
             (two nodes must never share one identity; give the copy a data directory of its own)"
        );
        self.outlets
            .events
            .emit("mesh.identity_clash", || serde_json::json!({ "node": self.own.to_base58(), "why": why }));
    }

    pub(super) fn ask(&mut self, node: PeerId, request: v1::SyncRequest, what: Asked) -> OutboundRequestId {
        let id = self.swarm.behaviour_mut().sync.send_request(&node, request);
        self.asked.insert(id, what);
        id
    }

    pub(super) fn on_sync(&mut self, event: SyncEvent, now: Instant) {
        use request_response::{Event, Message};
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                if !self.teller.may_ask(peer, now) {
                    tracing::debug!(node = %peer, "too many requests; dropping some");
                    return;
                }
                let request = match request.body {
                    Some(v1::sync_request::Body::DialBack(asked)) => {
                        return self.dial_back(peer, &asked, channel, now);
                    }
                    Some(v1::sync_request::Body::HearMulticast(asked)) => {
                        return self.hear_multicast(peer, &asked, channel, now);
                    }
                    body => v1::SyncRequest { body },
                };
                let request = match self.on_member_request(request, peer, now) {
                    MemberRequest::Answered(response) => {
                        // An error says that the other side is gone.
                        let _ = self.swarm.behaviour_mut().sync.send_response(channel, response);
                        return;
                    }
                    MemberRequest::Other(request) => request,
                };
                if let Some(response) = self.teller.on_request(request, peer, now, unix_ms()) {
                    // An error says that the other side is gone.
                    let _ = self.swarm.behaviour_mut().sync.send_response(channel, response);
                }
            }
            Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                if let Some(what) = self.asked.remove(&request_id) {
                    self.on_response(what, response, peer, now);
                }
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(node = %peer, %error, "sync");
                match self.asked.remove(&request_id) {
                    Some(Asked::Told(what)) => self.teller.on_failure(what, now),
                    Some(Asked::Question(answerer)) => {
                        // The asker may have stopped waiting; here and below that is its own affair.
                        let _ = answerer.send(Err(error.to_string()));
                    }
                    // Nothing was found out.
                    Some(Asked::Test(_) | Asked::Roster | Asked::Renewal) | None => {}
                }
            }
            Event::InboundFailure { peer, error, .. } => tracing::debug!(node = %peer, %error, "sync request"),
            Event::ResponseSent { .. } => {}
        }
    }

    fn on_response(&mut self, what: Asked, response: v1::SyncResponse, from: PeerId, now: Instant) {
        use v1::sync_response::Body;
        match (what, response.body) {
            (Asked::Told(what), body) => self.teller.on_response(what, v1::SyncResponse { body }, from, now),
            (Asked::Roster, Some(Body::Roster(delta))) => self.on_roster(delta, from, now),
            (Asked::Renewal, Some(Body::Renewed(renewed))) => self.on_renewed(renewed, from, now),
            (Asked::Question(answerer), body) => {
                let _ = answerer.send(Ok(v1::SyncResponse { body }));
            }
            (Asked::Test(address), Some(Body::DialledBack(answer))) => match answer.outcome() {
                v1::dialled_back::Outcome::Refused => {
                    tracing::debug!(node = %from, reason = %answer.reason, "it does not test reachability");
                }
                outcome => {
                    let reached = outcome == v1::dialled_back::Outcome::Reached;
                    tracing::debug!(node = %from, %address, reached, reason = %answer.reason, "reachability test");
                    self.on_tested(&address, from, reached, now);
                }
            },
            (Asked::Test(_), _) => tracing::debug!(node = %from, "it does not test reachability"),
            (Asked::Roster | Asked::Renewal, _) => tracing::debug!(node = %from, "an answer about members is not one"),
        }
    }

    /// Says goodbye, and shows at once that this node has gone.
    pub(super) fn say_goodbye(&mut self, now: Instant) {
        self.teller.say_goodbye(now);
        self.perform(now);
        self.publish();
    }

    /// Says goodbye if that has not been done, waits a moment for it to be heard, and hangs up.
    pub(super) async fn leave(&mut self) {
        use futures::StreamExt as _;
        self.say_goodbye(Instant::now());
        let heard = async {
            while self.teller.farewells() > 0 {
                let event = self.swarm.select_next_some().await;
                self.on_swarm_event(event, Instant::now());
                self.perform(Instant::now());
            }
        };
        if tokio::time::timeout(FAREWELL, heard).await.is_err() {
            tracing::debug!("not every neighbour heard the goodbye in time");
        }
        self.hang_up(HANG_UP).await;
        self.save_book();
        Self::keep_members(self.settings.closed.clone()).await;
    }
}
