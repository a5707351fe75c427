//! Statements: what this node says, what others say by gossip, and what is made up for by sync.

use std::time::{Duration, Instant, SystemTime};

use libp2p::gossipsub::{self, MessageAcceptance, PublishError};
use libp2p::request_response::{self, OutboundRequestId};
use prost::Message as _;
use rand::RngExt as _;
use rand::seq::IteratorRandom as _;

use super::members::MemberRequest;
use super::state::{Asked, Driver, Fetch, SYNC_INTERVAL, unix_ms};
use crate::capability::{Advert, PeerId};
use crate::catalog::register::{BodyError, BodyHash, Outcome, Position, Source};
use crate::mesh::behaviour::SyncEvent;
use crate::mesh::statement::{self, Signed};
use crate::mesh::sync;
use crate::wire::v1;

/// Syncs with one node are this far apart, unless they go on.
const SYNC_SPACING: Duration = Duration::from_millis(200);

/// Advert bodies that are being fetched.
const MAX_FETCHES: usize = 256;

/// How long a body that nobody had is not asked for again.
const FETCH_REST: Duration = Duration::from_secs(2);

/// How long a departing node waits for its neighbours to hear of it.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long it then waits for its connections to close.
const HANG_UP: Duration = Duration::from_millis(200);

/// Half of the numbers that an epoch may have: milliseconds until the year 144,000, whatever some clock said, and room
/// for as many runs again.
const MAX_CLAIMED_EPOCH: u64 = 1 << 52;

/// A warning about another node with this identity comes this often at the most.
const CLASH_WARNING: Duration = Duration::from_secs(60);

impl Driver {
    /// Tells the mesh what this node is and can do.
    pub(super) fn announce(&mut self, now: Instant) {
        let Position { epoch, seq } = self.announcer.advance();
        let advert = Advert {
            node: self.own,
            epoch,
            seq,
            ttl: self.announcer.ttl(),
            name: self.settings.node_name.clone(),
            version: self.settings.version.clone(),
            addresses: self.own_addresses().iter().map(ToString::to_string).collect(),
            capabilities: self.announcer.capabilities.clone(),
            load: self.announcer.load,
            relay: self.relaying,
        };
        let jitter = self.rng.random_range(0.0..1.0);
        self.announcer.advertised(now, jitter);
        match self.signer.advert(&advert) {
            Ok(signed) => self.say(signed, now),
            Err(error) => tracing::warn!(%error, "this node's capabilities cannot be told to the mesh"),
        }
    }

    /// Tells the mesh that this node lives.
    pub(super) fn beat(&mut self, now: Instant) {
        let jitter = self.rng.random_range(0.0..1.0);
        self.announcer.beaten(now, jitter);
        // The advert that others have: when the last one could not be signed, that is an older one.
        let position = self.register.own_position();
        match self.signer.alive(position, self.announcer.ttl(), self.announcer.load) {
            Ok(signed) => self.say(signed, now),
            Err(error) => tracing::warn!(%error, "this node cannot tell the mesh that it lives"),
        }
    }

    fn say(&mut self, signed: Signed, now: Instant) {
        self.register.apply_own(signed.statement, now);
        let mut wire = signed.wire;
        let mut sent = self.gossip(&wire);
        if matches!(sent, Err(PublishError::MessageTooLarge)) && !wire.body.is_empty() {
            // Those who want the body fetch it.
            wire.body.clear();
            sent = self.gossip(&wire);
        }
        self.alone = matches!(sent, Err(PublishError::NoPeersSubscribedToTopic));
        match sent {
            Ok(()) | Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => {}
            Err(error) => tracing::debug!(%error, "gossip"),
        }
    }

    fn gossip(&mut self, statement: &v1::SignedStatement) -> Result<(), PublishError> {
        let topic = self.topic.hash();
        self.swarm.behaviour_mut().gossip.publish(topic, statement.encode_to_vec()).map(|_| ())
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event, now: Instant) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let verdict = self.on_statement(&message.data, propagation_source, now);
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(&message_id, &propagation_source, verdict);
            }
            gossipsub::Event::Subscribed { peer_id, .. } => {
                // From here on it hears what this node says; what was said before it gets by sync, and so does
                // this node from it when it comes to the same point.
                self.sync_with(peer_id, now);
                if self.alone {
                    self.announcer.touch(now);
                } else {
                    self.announcer.beat_soon(now);
                }
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => tracing::debug!(node = %peer_id, "slow to take gossip"),
            _ => {}
        }
    }

    /// Judges a statement that came by gossip.
    fn on_statement(&mut self, data: &[u8], from: PeerId, now: Instant) -> MessageAcceptance {
        if !self.neighbour_rates.take(from, now) {
            self.outlets.measures.statement_ignored();
            return MessageAcceptance::Ignore;
        }
        let Ok(wire) = v1::SignedStatement::decode(data) else {
            tracing::debug!(%from, "a gossip message cannot be decoded");
            self.outlets.measures.statement_refused();
            return MessageAcceptance::Reject;
        };
        let statement = match statement::verify(self.mesh.as_bytes(), wire) {
            Ok(statement) => statement,
            Err(error) if error.is_fault() => {
                tracing::debug!(%from, %error, "refused a statement");
                self.outlets.measures.statement_refused();
                return MessageAcceptance::Reject;
            }
            // Of a newer version, and signed: others may understand it.
            Err(_) => return MessageAcceptance::Accept,
        };
        let node = statement.node;
        if !self.gossip_rates.take(node, now) {
            tracing::debug!(%node, "too many statements; ignoring some");
            self.outlets.measures.statement_ignored();
            return MessageAcceptance::Ignore;
        }
        let position = statement.position;
        let before = self.register.position_of(&node);
        let outcome = self.register.apply(statement, Source::Gossip, now);
        let is_new_run = before.is_some_and(|before| before.epoch < position.epoch);
        if node == from && is_new_run && self.connections.count(&node) > 1 {
            // Either its former process left a connection behind, or two processes share its identity, and the other one
            // must hear of it. Requests take the connections by turns, so this asks on each.
            for _ in 0..self.connections.count(&node) {
                let request = sync::first_request(&self.register);
                self.ask(node, request, Asked::Round(1));
            }
        }
        if node == from && self.register.position_of(&node).is_some_and(|known| position < known) {
            // It does not know what the mesh knows of it: another node has its identity, or it lost its past.
            self.sync_with(from, now);
        }
        self.on_outcome(node, outcome, from, now);
        match outcome {
            Outcome::Stale | Outcome::Full | Outcome::NotAdmitted | Outcome::OwnAhead(_) => MessageAcceptance::Ignore,
            _ => MessageAcceptance::Accept,
        }
    }

    fn on_outcome(&mut self, node: PeerId, outcome: Outcome, from: PeerId, now: Instant) {
        self.outlets.measures.statement(outcome);
        match outcome {
            Outcome::NeedBody(hash) => self.fetch(hash, vec![node, from], now),
            Outcome::NeedSync => self.sync_with(from, now),
            Outcome::OwnAhead(position) => self.on_clash(position, from, now),
            Outcome::Full => tracing::debug!(%node, "no room for an advert"),
            Outcome::NotAdmitted => {
                tracing::debug!(%node, "a statement of a node that is no member, or offers what its role does not let it");
                self.ask_who_it_is(from, now);
            }
            Outcome::Changed | Outcome::Prolonged | Outcome::Left | Outcome::Stale => {}
        }
    }

    /// Somebody speaks for this node, past what it has said itself.
    fn on_clash(&mut self, position: Position, from: PeerId, now: Instant) {
        if position <= self.register.own_position() || position.epoch < self.announcer.position().epoch {
            return;
        }
        // Some of what comes here is only claimed. A claim at the end of all numbers would silence this node for ever.
        if position.epoch > MAX_CLAIMED_EPOCH {
            tracing::debug!(%from, epoch = position.epoch, "a claim about this node makes no sense");
            return;
        }
        let epoch = self.disk.epochs.next(position.epoch, SystemTime::now());
        let keep = self.disk.epochs.unsaved();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = keep() {
                tracing::warn!(%error, "cannot keep this node's epoch");
            }
        });
        self.announcer.jump(epoch, now);
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

    pub(super) fn sync_with_somebody(&mut self, now: Instant) {
        self.next_sync = now + SYNC_INTERVAL.mul_f64(self.rng.random_range(0.8..1.2));
        if let Some(node) = self.connections.nodes().choose(&mut self.rng).copied() {
            self.sync_with(node, now);
        }
    }

    pub(super) fn sync_with(&mut self, node: PeerId, now: Instant) {
        self.syncing.retain(|_, since| now.saturating_duration_since(*since) < SYNC_SPACING);
        if !self.connections.is_connected(&node) || self.syncing.contains_key(&node) {
            return;
        }
        self.syncing.insert(node, now);
        self.sync_roster_with(node);
        let request = sync::first_request(&self.register);
        self.ask(node, request, Asked::Round(1));
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
                if !self.sync_rates.take(peer, now) {
                    tracing::debug!(node = %peer, "too many sync requests; dropping some");
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
                let mesh = *self.mesh.as_bytes();
                let Some(answer) = sync::answer(&mut self.register, &mesh, request, now, unix_ms()) else { return };
                // An error says that the other side is gone.
                let _ = self.swarm.behaviour_mut().sync.send_response(channel, answer.response);
                self.on_taken(answer.taken, peer, now);
            }
            Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                if let Some(what) = self.asked.remove(&request_id) {
                    self.on_response(what, response, peer, now);
                }
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(node = %peer, %error, "sync");
                match self.asked.remove(&request_id) {
                    Some(Asked::Body(hash)) => self.fetch_elsewhere(hash, now),
                    Some(Asked::Farewell) => self.farewells = self.farewells.saturating_sub(1),
                    Some(Asked::Question(answerer)) => {
                        // The asker may have stopped waiting; here and below that is its own affair.
                        let _ = answerer.send(Err(error.to_string()));
                    }
                    // Nothing was found out.
                    Some(Asked::Round(_) | Asked::Test(_) | Asked::Roster | Asked::Renewal) | None => {}
                }
            }
            Event::InboundFailure { peer, error, .. } => tracing::debug!(node = %peer, %error, "sync request"),
            Event::ResponseSent { .. } => {}
        }
    }

    fn on_response(&mut self, what: Asked, response: v1::SyncResponse, from: PeerId, now: Instant) {
        use v1::sync_response::Body;
        match (what, response.body) {
            (Asked::Round(round), Some(Body::Delta(delta))) => {
                let mesh = *self.mesh.as_bytes();
                let absorbed = sync::absorb(&mut self.register, &mesh, delta, now);
                self.on_taken(absorbed.taken, from, now);
                if let Some(next) = absorbed.next.filter(|_| round < sync::MAX_ROUNDS) {
                    self.ask(from, next, Asked::Round(round + 1));
                }
            }
            (Asked::Body(hash), Some(Body::FoundBody(found))) => match self.register.body(hash, found.data) {
                Ok(_) => {
                    self.fetches.remove(&hash);
                }
                Err(BodyError::Mismatch) => self.fetch_elsewhere(hash, now),
                Err(error) => {
                    tracing::debug!(%error, "an advert cannot be read");
                    self.fetches.remove(&hash);
                }
            },
            (Asked::Roster, Some(Body::Roster(delta))) => self.on_roster(delta, from, now),
            (Asked::Renewal, Some(Body::Renewed(renewed))) => self.on_renewed(renewed, from, now),
            (Asked::Body(hash), _) => self.fetch_elsewhere(hash, now),
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
            (Asked::Farewell, _) => self.farewells = self.farewells.saturating_sub(1),
            (Asked::Round(_) | Asked::Roster | Asked::Renewal, _) => {
                tracing::debug!(node = %from, "a sync answer is not one")
            }
        }
    }

    fn on_taken(&mut self, taken: sync::Taken, from: PeerId, now: Instant) {
        if let Some(fault) = taken.fault {
            self.outlets.measures.statement_refused();
            tracing::debug!(node = %from, error = %fault, "refused a statement");
        }
        for (node, outcome) in taken.outcomes {
            self.on_outcome(node, outcome, from, now);
        }
    }

    /// Fetches an advert body from the first of these that is connected and has it; the last is asked first.
    fn fetch(&mut self, hash: BodyHash, mut from: Vec<PeerId>, now: Instant) {
        from.dedup();
        if self.fetches.len() >= MAX_FETCHES || self.fetches.contains_key(&hash) {
            return;
        }
        let fetch = Fetch { others: from, under_way: false, rest_until: now };
        self.fetches.insert(hash, fetch);
        self.fetch_elsewhere(hash, now);
    }

    fn fetch_elsewhere(&mut self, hash: BodyHash, now: Instant) {
        let Some(fetch) = self.fetches.get_mut(&hash) else { return };
        fetch.under_way = false;
        while let Some(node) = fetch.others.pop() {
            if node != self.own && self.connections.is_connected(&node) {
                fetch.under_way = true;
                self.ask(node, sync::body_request(&hash), Asked::Body(hash));
                return;
            }
        }
        fetch.rest_until = now + FETCH_REST;
    }

    /// Asks again for bodies that nobody had: their node, or any neighbour.
    pub(super) fn fetch_missing(&mut self, now: Instant) {
        self.fetches.retain(|_, fetch| fetch.under_way || fetch.rest_until > now);
        let missing: Vec<_> = self.register.missing_bodies().take(MAX_FETCHES).collect();
        for (node, hash) in missing {
            let neighbour = self.connections.nodes().choose(&mut self.rng).copied();
            self.fetch(hash, neighbour.into_iter().chain([node]).collect(), now);
        }
    }

    /// Says goodbye: by gossip, and to each neighbour in person, because gossip does not tell when it is out.
    /// The connections stay, so that what runs can finish; nothing is advertised from here on.
    pub(super) fn say_goodbye(&mut self, now: Instant) {
        if std::mem::replace(&mut self.departed, true) {
            return;
        }
        // Nothing was ever said: nobody need be told.
        if self.register.own_position() != Position::default() {
            let position = self.announcer.advance();
            match self.signer.leave(position, self.announcer.ttl()) {
                Ok(signed) => self.say(signed, now),
                Err(error) => {
                    tracing::warn!(%error, "cannot say goodbye; this node stays listed until its advert runs out")
                }
            }
        }
        self.publish();
        let neighbours: Vec<_> = self.connections.nodes().copied().collect();
        for node in neighbours {
            let push = self.register.statements_of([self.own], now);
            let digest = v1::SyncDigest { positions: self.register.digest(), push };
            let request = v1::SyncRequest { body: Some(v1::sync_request::Body::Digest(digest)) };
            self.ask(node, request, Asked::Farewell);
            self.farewells += 1;
        }
    }

    /// Says goodbye if that has not been done, waits a moment for it to be heard, and hangs up.
    pub(super) async fn leave(&mut self) {
        use futures::StreamExt as _;
        self.say_goodbye(Instant::now());
        let heard = async {
            while self.farewells > 0 {
                let event = self.swarm.select_next_some().await;
                self.on_swarm_event(event, Instant::now());
            }
        };
        if tokio::time::timeout(FAREWELL, heard).await.is_err() {
            tracing::debug!("not every neighbour heard the goodbye in time");
        }
        self.hang_up(HANG_UP).await;
        self.save_book();
    }
}
