//! The state of the register, and what statements and time do to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::grave::Grave;
use super::pace::Pace;
use super::statement::{AdvertHead, Body, BodyHash, Content, Position, Statement};
use crate::capability::{Advert, PeerId};
use crate::catalog::Adverts;
use crate::wire::v1;

/// How much a register holds at the most. What is beyond is refused, so that a hostile member can cost only this.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Live nodes.
    pub nodes: usize,
    /// Remembered positions of nodes that are gone; the longest gone are forgotten first.
    pub graves: usize,
    /// Bytes of all advert bodies.
    pub body_bytes: usize,
}

impl Default for Bounds {
    /// Ten times the largest mesh that this is made for, and 64 MiB: 16 KiB of body for each.
    fn default() -> Self {
        Self { nodes: 4096, graves: 4096, body_bytes: 64 * 1024 * 1024 }
    }
}

/// How a statement came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// As news, from the node itself, with nobody in between.
    Direct,
    /// As news, passed on by others.
    Gossip,
    /// From somebody's register.
    Sync {
        /// How long ago the node was last known there to be alive.
        age: Duration,
        /// How long ago the statement was made, as far as is known there.
        issued_ago: Duration,
    },
}

impl Source {
    const fn is_news(self) -> bool {
        matches!(self, Self::Direct | Self::Gossip)
    }
}

/// What came of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force, and the adverts changed.
    Changed,
    /// It is in force; its body must be fetched before it becomes visible.
    NeedBody(BodyHash),
    /// The advert lives on.
    Prolonged,
    /// The node is alive with an advert that is not known here: sync with somebody.
    NeedSync,
    /// The node has left.
    Left,
    /// Nothing new.
    Stale,
    /// There is no room.
    Full,
    /// The node is no member, or offers what its role does not let it.
    NotAdmitted,
    /// Somebody holds a statement of this very node that is newer than its own: an earlier run with a faster
    /// clock, or a second node with the same identity. The next advert must be past this position.
    OwnAhead(Position),
}

/// What the passing of time did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Nodes whose adverts ran out.
    pub departed: Vec<PeerId>,
    /// Nothing runs out before this.
    pub next: Option<Instant>,
}

/// What every node last said of itself. See the documentation of the module.
#[derive(Debug)]
pub struct Register {
    pub(super) own: PeerId,
    pub(super) bounds: Bounds,
    pub(super) nodes: BTreeMap<PeerId, Record>,
    pub(super) graves: BTreeMap<PeerId, Grave>,
    pub(super) adverts: Arc<Adverts>,
    pub(super) revision: u64,
    /// Nothing ends before this; `None` when nothing ends at all.
    pub(super) earliest: Option<Instant>,
    guard: Guard,
}

/// Whose statements count at all, and whose capabilities: a function of the node and of whether it offers any.
#[derive(Clone)]
pub struct Guard(Arc<Admits>);

type Admits = dyn Fn(&PeerId, bool) -> bool + Send + Sync;

impl Guard {
    /// By this function.
    #[must_use]
    pub fn new(admits: impl Fn(&PeerId, bool) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(admits))
    }
}

impl Default for Guard {
    /// Everybody's.
    fn default() -> Self {
        Self::new(|_, _| true)
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

/// A node as messages name it: a digest of hundreds of nodes is made and read many times a minute, so nobody should
/// encode and decode each of them every time.
pub(super) fn name_of(node: &PeerId) -> Bytes {
    node.to_bytes().into()
}

/// A live node.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: Bytes,
    pub(super) position: Position,
    /// The latest of the node's own times that we saw, of the advert or an `Alive`.
    pub(super) issued_at_ms: u64,
    pub(super) pace: Pace,
    /// How long it is to be believed, by the newest word of the node.
    pub(super) ttl: Duration,
    /// The same by its advert.
    pub(super) advert_ttl: Duration,
    pub(super) head: AdvertHead,
    pub(super) signed: Arc<v1::SignedStatement>,
    /// The newest `Alive` of this position.
    pub(super) beat: Option<Arc<v1::SignedStatement>>,
    pub(super) body: BodyState,
    /// When it is no longer believed; `None` for this node itself.
    pub(super) expires: Option<Instant>,
    /// Whether the node itself was heard, so that ages told by others do not matter.
    pub(super) heard: bool,
    /// Until when the older advert stays visible while the body of this one is missing.
    pub(super) older_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum BodyState {
    Missing,
    Here(Body),
    /// The node signed the hash of something that cannot be read.
    Broken,
}

impl Register {
    /// An empty register of the node `own`.
    #[must_use]
    pub fn new(own: PeerId) -> Self {
        Self::with_bounds(own, Bounds::default())
    }

    /// An empty register with other bounds.
    #[must_use]
    pub fn with_bounds(own: PeerId, bounds: Bounds) -> Self {
        let (nodes, graves) = (BTreeMap::new(), BTreeMap::new());
        let guard = Guard::default();
        Self { own, bounds, nodes, graves, adverts: Arc::default(), revision: 0, earliest: None, guard }
    }

    /// The same, for the statements that `guard` admits only.
    #[must_use]
    pub fn guarded(self, guard: Guard) -> Self {
        Self { guard, ..self }
    }

    /// Whether the guard admits a statement. One that carries no advert offers nothing.
    fn is_admitted(&self, statement: &Statement) -> bool {
        let offers = matches!(&statement.content, Content::Advert(head, _) if head.body_len > 0);
        (self.guard.0)(&statement.node, offers)
    }

    /// Buries the nodes that the guard admits no more, as if they had died, and returns them.
    pub fn evict(&mut self, now: Instant) -> Vec<PeerId> {
        let gone: Vec<PeerId> = self
            .nodes
            .iter()
            .filter(|(node, record)| **node != self.own && !(self.guard.0)(node, record.head.body_len > 0))
            .map(|(node, _)| *node)
            .collect();
        for node in &gone {
            self.bury_silently(*node, now);
        }
        gone
    }

    /// The node whose register this is.
    #[must_use]
    pub fn own(&self) -> PeerId {
        self.own
    }

    /// The visible adverts, this node's own among them. Cheap; what was handed out never changes.
    #[must_use]
    pub fn adverts(&self) -> Arc<Adverts> {
        Arc::clone(&self.adverts)
    }

    /// Grows whenever [`adverts`](Self::adverts) changes.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Live nodes, this one and those with a missing body among them.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// What is remembered of a node, for a person who looks for a fault.
    #[cfg(test)]
    pub fn describe(&self, node: &PeerId, now: Instant) -> String {
        let live = self.nodes.get(node).map(|record| {
            let rest = record.expires.map(|expires| expires.saturating_duration_since(now));
            (record.position, record.issued_at_ms, record.pace, rest, record.heard, record.ttl)
        });
        format!("{live:?} {:?} at {now:?}", self.graves.get(node))
    }

    #[cfg(test)]
    pub(super) fn graves(&self) -> usize {
        self.graves.len()
    }

    /// Where this node's own newest statement stands.
    #[must_use]
    pub fn own_position(&self) -> Position {
        self.position_of(&self.own).unwrap_or_default()
    }

    /// The position last known of a node, live or gone.
    #[must_use]
    pub fn position_of(&self, node: &PeerId) -> Option<Position> {
        self.nodes.get(node).map(|r| r.position).or_else(|| self.graves.get(node).map(|g| g.position))
    }

    /// Whether a node was here, and has left or expired.
    #[must_use]
    pub fn is_gone(&self, node: &PeerId) -> bool {
        self.graves.contains_key(node)
    }

    /// Takes in a statement that this node made of itself. It is always believed and never expires.
    ///
    /// Returns [`Outcome::Stale`] for a statement of another node, or one that is not newer.
    pub fn apply_own(&mut self, statement: Statement, now: Instant) -> Outcome {
        if statement.node != self.own {
            return Outcome::Stale;
        }
        let own = self.own_position();
        match statement.content {
            Content::Advert(head, body) if statement.position > own => {
                let mut pace = self.pace_of(&self.own, statement.position);
                pace.hear(statement.issued_at_ms, true, now);
                self.graves.remove(&self.own);
                let body = body.map_or(BodyState::Missing, BodyState::Here);
                let record = Record {
                    name: name_of(&self.own),
                    position: statement.position,
                    issued_at_ms: statement.issued_at_ms,
                    pace,
                    beat: None,
                    ttl: statement.ttl,
                    advert_ttl: statement.ttl,
                    head,
                    signed: statement.signed,
                    body,
                    expires: None,
                    heard: true,
                    older_until: None,
                };
                self.nodes.insert(self.own, record);
                self.show(self.own);
                Outcome::Changed
            }
            Content::Alive { load } if statement.position == own => {
                if let Some(record) = self.nodes.get_mut(&self.own) {
                    record.pace.hear(statement.issued_at_ms, true, now);
                    record.issued_at_ms = record.issued_at_ms.max(statement.issued_at_ms);
                    record.ttl = statement.ttl;
                    record.beat = Some(statement.signed);
                }
                self.set_load(self.own, load)
            }
            Content::Leave if statement.position > own => {
                self.bury(&statement, statement.ttl * 2, now);
                Outcome::Left
            }
            _ => Outcome::Stale,
        }
    }

    /// Takes in a verified statement that came from another node.
    pub fn apply(&mut self, statement: Statement, source: Source, now: Instant) -> Outcome {
        if statement.node == self.own {
            return if self.is_ahead_of_own(statement.position, statement.issued_at_ms) {
                Outcome::OwnAhead(statement.position)
            } else {
                Outcome::Stale
            };
        }
        if !self.is_admitted(&statement) {
            return Outcome::NotAdmitted;
        }
        match statement.content {
            Content::Advert(..) => self.advert(statement, source, now),
            Content::Alive { load } => self.alive(&statement, load, source, now),
            Content::Leave => self.leave(&statement, source, now),
        }
    }

    /// Takes in what another register passed on of a node: an advert or a `Leave`, and its newest `Alive`.
    pub fn apply_copy(
        &mut self,
        statement: Statement,
        beat: Option<Statement>,
        source: Source,
        now: Instant,
    ) -> Outcome {
        let beat = beat.filter(|beat| beat.node == statement.node && matches!(beat.content, Content::Alive { .. }));
        // Where the node is thought to be dead, its beat lets the advert in.
        let revived = beat.clone().filter(|beat| self.graves.contains_key(&beat.node));
        if let Some(beat) = revived {
            self.apply(beat, source, now);
        }
        let outcome = self.apply(statement, source, now);
        match beat.map(|beat| self.apply(beat, source, now)) {
            Some(prolonged @ (Outcome::Changed | Outcome::Prolonged)) if outcome == Outcome::Stale => prolonged,
            _ => outcome,
        }
    }

    /// A neighbour has just answered here: it is alive, whether or not its beats came. [`Outcome::NeedSync`] when it is
    /// not known as alive: it knows itself, and can be asked.
    pub fn vouch(&mut self, node: &PeerId, now: Instant) -> Outcome {
        if let Some(record) = self.nodes.get_mut(node) {
            record.heard = true;
            record.expires = record.expires.map(|expires| expires.max(now + record.ttl));
            return Outcome::Prolonged;
        }
        if self.graves.get(node).is_some_and(|grave| grave.left) { Outcome::Stale } else { Outcome::NeedSync }
    }

    /// Whether this is past what this node has said itself: a later position, or the same at a later time, which is the
    /// word of another process that came to the same epoch.
    pub(super) fn is_ahead_of_own(&self, position: Position, issued_at_ms: u64) -> bool {
        let own = self.own_position();
        let said_at = self.nodes.get(&self.own).map_or(u64::MAX, |record| record.issued_at_ms);
        position > own || (position == own && issued_at_ms > said_at)
    }

    /// Whether it can be told how old a statement of this position and time is.
    #[must_use]
    pub fn can_judge_age(&self, node: &PeerId, position: Position, issued_at_ms: u64, now: Instant) -> bool {
        self.pace_of(node, position).can_judge(issued_at_ms, now)
    }

    /// How old the newest statement of a live node is.
    #[must_use]
    pub fn age_of(&self, node: &PeerId, now: Instant) -> Option<Duration> {
        self.nodes.get(node).map(|record| record.pace.age(record.issued_at_ms, now))
    }

    /// How the time of a node's run goes.
    fn pace_of(&self, node: &PeerId, position: Position) -> Pace {
        let live = self.nodes.get(node).map(|record| (record.position, record.pace));
        let known = live.or_else(|| self.graves.get(node).map(|grave| (grave.position, grave.pace)));
        known.filter(|(known, _)| known.epoch == position.epoch).map(|(_, pace)| pace).unwrap_or_default()
    }

    /// Nothing is looked for before the earliest end.
    pub(super) fn ends(&mut self, at: Instant) {
        self.earliest = Some(self.earliest.map_or(at, |earliest| earliest.min(at)));
    }

    fn advert(&mut self, statement: Statement, source: Source, now: Instant) -> Outcome {
        let Statement { node, position, issued_at_ms, ttl, content: Content::Advert(head, body), signed } = statement
        else {
            return Outcome::Stale;
        };
        let mut pace = self.pace_of(&node, position);
        let mut life = match source {
            Source::Direct => ttl.saturating_sub(pace.hear(issued_at_ms, true, now)),
            Source::Gossip => ttl.saturating_sub(pace.hear(issued_at_ms, false, now)),
            Source::Sync { age, issued_ago } => {
                // Of a beat that came with it, which is later: then it is older than that, and no harm is done.
                pace.tell(issued_at_ms, issued_ago, now);
                ttl.saturating_sub(age)
            }
        };
        let mut heard = source.is_news();
        let mut issued_at_ms = issued_at_ms;
        if life.is_zero() {
            return Outcome::Stale;
        }
        if let Some(record) = self.nodes.get_mut(&node) {
            if position < record.position {
                return Outcome::Stale;
            }
            if position == record.position {
                if heard && !record.heard {
                    record.heard = true;
                    record.pace = pace;
                    record.expires = Some(now + life);
                } else if !record.heard {
                    record.expires = record.expires.map(|expires| expires.min(now + life));
                }
                if let Some(expires) = record.expires {
                    self.earliest = Some(self.earliest.map_or(expires, |earliest| earliest.min(expires)));
                }
                let record = &*record;
                return match body {
                    Some(body) if matches!(record.body, BodyState::Missing) => self.install(&node, body),
                    _ => Outcome::Stale,
                };
            }
        } else if self.nodes.len() >= self.bounds.nodes {
            return Outcome::Full;
        }
        let mut beat = None;
        if let Some(grave) = self.graves.get(&node) {
            if position < grave.position || (position == grave.position && grave.left) {
                return Outcome::Stale;
            }
            if position == grave.position {
                let Some(rest) = grave.heard_until.map(|until| until.saturating_duration_since(now)) else {
                    return Outcome::Stale;
                };
                // The Alive told that it lives, so the age of this copy says nothing.
                life = rest;
                heard = true;
                beat.clone_from(&grave.beat);
                pace = grave.pace;
                issued_at_ms = issued_at_ms.max(grave.issued_at_ms);
                if life.is_zero() {
                    return Outcome::Stale;
                }
            }
        }
        let body = body.or_else(|| self.known_body(&head.body_hash));
        if body.as_ref().is_some_and(|body| !self.has_room_for(&node, body)) {
            return Outcome::Full;
        }
        self.graves.remove(&node);
        let hash = head.body_hash;
        let previous = self.nodes.remove(&node);
        let older_until = previous.and_then(|record| record.older_until.or(record.expires));
        let here = body.is_some();
        let record = Record {
            name: name_of(&node),
            position,
            issued_at_ms,
            pace,
            ttl,
            advert_ttl: ttl,
            head,
            signed,
            beat,
            body: body.map_or(BodyState::Missing, BodyState::Here),
            expires: Some(now + life),
            heard,
            older_until: if here { None } else { older_until },
        };
        self.nodes.insert(node, record);
        self.ends(now + life);
        if let Some(until) = older_until.filter(|_| !here) {
            self.ends(until);
        }
        if here {
            self.show(node);
            Outcome::Changed
        } else {
            Outcome::NeedBody(hash)
        }
    }

    fn alive(&mut self, statement: &Statement, load: u8, source: Source, now: Instant) -> Outcome {
        let (node, issued_at_ms) = (statement.node, statement.issued_at_ms);
        let mut pace = self.pace_of(&node, statement.position);
        let mut life = || {
            let age = match source {
                Source::Direct => pace.hear(issued_at_ms, true, now),
                Source::Gossip => pace.hear(issued_at_ms, false, now),
                Source::Sync { issued_ago, .. } => pace.tell(issued_at_ms, issued_ago, now),
            };
            statement.ttl.saturating_sub(age)
        };
        if let Some(record) = self.nodes.get_mut(&node) {
            return match statement.position.cmp(&record.position) {
                std::cmp::Ordering::Less => Outcome::Stale,
                std::cmp::Ordering::Greater => Outcome::NeedSync,
                // A replayed Alive must not prolong: it has to be later than what we heard before.
                std::cmp::Ordering::Equal if issued_at_ms <= record.issued_at_ms => Outcome::Stale,
                std::cmp::Ordering::Equal => {
                    let life = life();
                    if life.is_zero() {
                        return Outcome::Stale;
                    }
                    record.issued_at_ms = issued_at_ms;
                    record.pace = pace;
                    record.ttl = statement.ttl;
                    record.beat = Some(Arc::clone(&statement.signed));
                    let until = now + life;
                    // What others said of an unheard node's age says nothing beside its own word.
                    let known = record.expires.filter(|_| record.heard);
                    record.expires = Some(known.map_or(until, |known| known.max(until)));
                    record.heard |= source.is_news();
                    self.ends(until);
                    self.set_load(node, load)
                }
            };
        }
        let Some(grave) = self.graves.get_mut(&node) else { return Outcome::NeedSync };
        if statement.position > grave.position {
            return Outcome::NeedSync;
        }
        if statement.position < grave.position || grave.left || issued_at_ms <= grave.issued_at_ms {
            return Outcome::Stale;
        }
        let life = life();
        if life.is_zero() {
            return Outcome::Stale;
        }
        grave.issued_at_ms = issued_at_ms;
        grave.pace = pace;
        grave.heard_until = Some(now + life);
        grave.beat = Some(Arc::clone(&statement.signed));
        Outcome::NeedSync
    }

    fn set_load(&mut self, node: PeerId, load: u8) -> Outcome {
        let Some(record) = self.nodes.get_mut(&node) else { return Outcome::Stale };
        if record.head.load == load {
            return Outcome::Prolonged;
        }
        record.head.load = load;
        if !matches!(record.body, BodyState::Here(_)) {
            return Outcome::Prolonged;
        }
        self.show(node);
        Outcome::Changed
    }

    /// Makes the node's newest advert the visible one.
    pub(super) fn show(&mut self, node: PeerId) {
        let Some(record) = self.nodes.get(&node) else { return };
        let BodyState::Here(body) = &record.body else { return };
        let advert = Advert {
            node,
            epoch: record.position.epoch,
            seq: record.position.seq,
            ttl: record.ttl,
            name: record.head.name.clone(),
            version: record.head.version.clone(),
            addresses: record.head.addresses.clone(),
            capabilities: Arc::clone(body.capabilities()),
            load: record.head.load,
            relay: record.head.relay,
        };
        Arc::make_mut(&mut self.adverts).insert(node, Arc::new(advert));
        self.revision += 1;
    }

    pub(super) fn hide(&mut self, node: &PeerId) {
        if self.adverts.contains_key(node) {
            Arc::make_mut(&mut self.adverts).remove(node);
            self.revision += 1;
        }
    }
}
