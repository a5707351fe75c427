//! Syncs and bodies: what is asked of neighbours, and what they are answered.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::seq::IteratorRandom as _;

use super::effect::{Asked, Counted, Effect};
use super::state::{Fetch, SYNC_INTERVAL, SYNCS, Teller};
use crate::capability::PeerId;
use crate::catalog::register::{BodyError, BodyHash, Outcome, Position};
use crate::mesh::sync;
use crate::wire::v1;

/// Syncs with one node are this far apart, unless they go on.
const SYNC_SPACING: Duration = Duration::from_millis(200);

/// A sync that there was no token for is made up for with anybody, so soon.
const SYNC_LATER: Duration = Duration::from_secs(1);

/// Neighbours that hear at once of what a sync brought; they pass it on in turn.
const SPREAD: usize = 3;

/// What a sync brought is passed on within this: others may bring the same.
const SPREAD_AFTER: Duration = Duration::from_millis(300);

/// Advert bodies that are being fetched.
const MAX_FETCHES: usize = 256;

/// A request is answered within this, or not at all.
const FETCH_LIMIT: Duration = Duration::from_secs(15);

/// How long a body that nobody had is not asked for again.
const FETCH_REST: Duration = Duration::from_secs(2);

impl Teller {
    pub(super) fn ask(&mut self, node: PeerId, request: v1::SyncRequest, what: Asked) {
        self.effects.push(Effect::Ask { node, request, what });
    }

    pub(super) fn sync_if_due(&mut self, now: Instant) {
        if self.spread_at.take_if(|at| *at <= now).is_some() {
            for node in self.neighbours.keys().copied().sample(&mut self.rng, SPREAD) {
                self.greet(node, now);
            }
        }
        if self.next_sync <= now {
            self.next_sync = now + SYNC_INTERVAL.mul_f64(self.rng.random_range(0.8..1.2));
            if let Some(node) = self.neighbours.keys().choose(&mut self.rng).copied() {
                self.greet(node, now);
            }
        }
    }

    /// Syncs with a neighbour that probably knows the same.
    pub(super) fn greet(&mut self, node: PeerId, now: Instant) {
        if self.may_sync(node, now) {
            let request = sync::hello(&self.register);
            self.ask(node, request, Asked::Round(1, now));
        }
    }

    /// Syncs with a neighbour that probably knows more, or less. Returns whether it does: not when that was done just now.
    pub fn sync_with(&mut self, node: PeerId, now: Instant) -> bool {
        let may = self.may_sync(node, now);
        if may {
            let request = sync::first_request(&self.register);
            self.ask(node, request, Asked::Round(1, now));
        }
        may
    }

    fn may_sync(&mut self, node: PeerId, now: Instant) -> bool {
        self.syncing.retain(|_, since| now.saturating_duration_since(*since) < SYNC_SPACING);
        if !self.neighbours.contains_key(&node) || self.syncing.contains_key(&node) {
            return false;
        }
        if !self.sync_tokens.take(SYNCS, now) {
            self.next_sync = self.next_sync.min(now + SYNC_LATER);
            return false;
        }
        self.syncing.insert(node, now);
        true
    }

    /// Whether a node has not asked too much yet.
    pub fn may_ask(&mut self, node: PeerId, now: Instant) -> bool {
        self.requests.take(node, now)
    }

    /// Answers a request of another node that [may ask](Self::may_ask); `None`: not at all.
    pub fn on_request(
        &mut self,
        mut request: v1::SyncRequest,
        from: PeerId,
        now: Instant,
        unix_ms: u64,
    ) -> Option<v1::SyncResponse> {
        if self.is_catching_up(now)
            && let Some(v1::sync_request::Body::Digest(digest)) = &mut request.body
        {
            // Nobody knows how long it has waited here; the next sync brings it.
            digest.push.clear();
        }
        let (mesh, before) = (self.mesh, self.register.position_of(&from));
        let answer = sync::answer(&mut self.register, &mesh, &*self.verify, request, now, unix_ms)?;
        self.on_taken(answer.taken, from, before, now);
        Some(answer.response)
    }

    /// A request was answered.
    pub fn on_response(&mut self, what: Asked, response: v1::SyncResponse, from: PeerId, now: Instant) {
        use v1::sync_response::Body;
        match (what, response.body) {
            (Asked::Round(round, since), Some(Body::Delta(mut delta))) => {
                // Whoever of the two stood still, or however slow the path is: it was true when it was asked at the
                // earliest.
                sync::grow_older(&mut delta.statements, now.saturating_duration_since(since));
                let (mesh, before) = (self.mesh, self.register.position_of(&from));
                let absorbed = sync::absorb(&mut self.register, &mesh, &*self.verify, delta, now);
                self.on_taken(absorbed.taken, from, before, now);
                if let Some(next) = absorbed.next.filter(|_| round < sync::MAX_ROUNDS) {
                    self.ask(from, next, Asked::Round(round + 1, now));
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
            (Asked::Body(hash), _) => self.fetch_elsewhere(hash, now),
            (Asked::Farewell, _) => self.farewells = self.farewells.saturating_sub(1),
            (Asked::Round(..), _) => tracing::debug!(node = %from, "a sync answer is not one"),
        }
    }

    /// A request was not answered.
    pub fn on_failure(&mut self, what: Asked, now: Instant) {
        match what {
            Asked::Body(hash) => self.fetch_elsewhere(hash, now),
            Asked::Farewell => self.farewells = self.farewells.saturating_sub(1),
            Asked::Round(..) => {}
        }
    }

    /// `before`: where the node that it came from stood.
    fn on_taken(&mut self, taken: sync::Taken, from: PeerId, before: Option<Position>, now: Instant) {
        if let Some(fault) = taken.fault {
            self.count(Counted::Refused);
            tracing::debug!(node = %from, error = %fault, "refused a statement");
        }
        for (node, outcome) in taken.outcomes {
            // Of itself a neighbour tells by gossip.
            let is_news = matches!(outcome, Outcome::Changed | Outcome::NeedBody(_) | Outcome::Left);
            if is_news && node != from {
                self.spread_at.get_or_insert(now + SPREAD_AFTER);
            }
            // Where a sync brought a beat without its advert, it is the asker's turn again anyway.
            if outcome != Outcome::NeedSync {
                self.on_outcome(node, outcome, from, now);
            }
        }
        if let Some(position) = self.register.position_of(&from) {
            self.look_at_run(from, position, before, now);
        }
    }

    /// Fetches an advert body from the first of these that is connected and has it; the last is asked first.
    pub(super) fn fetch(&mut self, hash: BodyHash, mut from: Vec<PeerId>, now: Instant) {
        from.dedup();
        self.lacks_bodies = true;
        if self.fetches.len() >= MAX_FETCHES || self.fetches.contains_key(&hash) {
            return;
        }
        let fetch = Fetch { others: from, rest_until: now };
        self.fetches.insert(hash, fetch);
        self.fetch_elsewhere(hash, now);
    }

    fn fetch_elsewhere(&mut self, hash: BodyHash, now: Instant) {
        let Some(fetch) = self.fetches.get_mut(&hash) else { return };
        while let Some(node) = fetch.others.pop() {
            if node != self.own && self.neighbours.contains_key(&node) {
                fetch.rest_until = now + FETCH_LIMIT;
                self.ask(node, sync::body_request(&hash), Asked::Body(hash));
                return;
            }
        }
        fetch.rest_until = now + FETCH_REST;
    }

    /// Asks again for bodies that nobody had: their node, or any neighbour.
    pub(super) fn fetch_missing(&mut self, now: Instant) {
        self.fetches.retain(|_, fetch| fetch.rest_until > now);
        if !self.lacks_bodies {
            return;
        }
        let missing: Vec<_> = self.register.missing_bodies().take(MAX_FETCHES).collect();
        self.lacks_bodies = !missing.is_empty();
        for (node, hash) in missing {
            let neighbour = self.neighbours.keys().choose(&mut self.rng).copied();
            self.fetch(hash, neighbour.into_iter().chain([node]).collect(), now);
        }
    }
}
