//! What others say, by gossip.

use std::time::{Duration, Instant};

use prost::Message as _;

use super::effect::{Asked, Counted, Effect, Verdict};
use super::state::{SYNCS, Teller};
use crate::capability::PeerId;
use crate::catalog::register::{Outcome, Position, Source};
use crate::mesh::sync;
use crate::wire::v1;

/// Half of the numbers that an epoch may have: milliseconds until the year 144,000, whatever some clock said, and room
/// for as many runs again.
const MAX_CLAIMED_EPOCH: u64 = 1 << 52;

/// What was held up for so long is not passed on: no path takes a tenth of it.
const OLD_NEWS: Duration = Duration::from_secs(2);

impl Teller {
    /// From here on a neighbour hears what this node says; what was said before it gets by sync, and so does
    /// this node from it when it comes to the same point.
    pub fn on_listener(&mut self, node: PeerId, now: Instant) {
        self.greet(node, now);
        if self.alone {
            self.announcer.touch(now);
        } else {
            self.announcer.beat_soon(now);
        }
    }

    /// Judges a statement that came by gossip.
    pub fn on_gossip(&mut self, data: &[u8], from: PeerId, now: Instant) -> Verdict {
        if !self.may_look(from, now) {
            self.count(Counted::Ignored);
            return Verdict::Ignore;
        }
        let Ok(wire) = v1::SignedStatement::decode(data) else {
            tracing::debug!(%from, "a gossip message cannot be decoded");
            self.count(Counted::Refused);
            return Verdict::Reject;
        };
        let statement = match (self.verify)(&self.mesh, wire) {
            Ok(statement) => statement,
            Err(error) if error.is_fault() => {
                tracing::debug!(%from, %error, "refused a statement");
                self.count(Counted::Refused);
                return Verdict::Reject;
            }
            // Of a newer version, and signed: others may understand it.
            Err(_) => return Verdict::Accept,
        };
        let node = statement.node;
        if !self.origins.take(node, now) {
            tracing::debug!(%node, "too many statements; ignoring some");
            self.count(Counted::Ignored);
            return Verdict::Ignore;
        }
        let position = statement.position;
        if self.is_catching_up(now)
            && node != self.own
            && !self.register.can_judge_age(&node, position, statement.issued_at_ms, now)
        {
            // It may have waited for as long as this node stood still. By sync it comes with its age.
            self.sync_with(from, now);
            return Verdict::Ignore;
        }
        let before = self.register.position_of(&node);
        let source = if node == from { Source::Direct } else { Source::Gossip };
        let outcome = self.register.apply(statement, source, now);
        // Whoever told of it: where it could not tell itself, others may.
        self.look_at_run(node, position, before, now);
        if node == from {
            self.look_at_speaker(node, position, now);
        }
        self.on_outcome(node, outcome, from, now);
        match outcome {
            Outcome::Stale | Outcome::Full | Outcome::NotAdmitted | Outcome::OwnAhead(_) => Verdict::Ignore,
            // Whoever does not know the node would take it for fresh, and gets it by sync with its age.
            _ if self.register.age_of(&node, now).is_some_and(|age| age > OLD_NEWS) => Verdict::Ignore,
            _ => Verdict::Accept,
        }
    }

    /// A neighbour began a new run: is it the one that was known?
    pub(super) fn look_at_run(&mut self, node: PeerId, position: Position, before: Option<Position>, now: Instant) {
        let connections = self.neighbours.get(&node).copied().unwrap_or_default();
        if before.is_some_and(|before| before.epoch < position.epoch) && connections > 1 {
            // Either its former process left a connection behind, or two processes share its identity, and the other one
            // must hear of it. Requests take the connections by turns, so this asks on each.
            for number in 1..=connections {
                if !self.sync_tokens.take(SYNCS, now) {
                    break;
                }
                let request = sync::first_request(&self.register);
                // With the first round of a sync memberships are compared, by a request that takes a turn of its own.
                self.ask(node, request, Asked::Round(number, now));
            }
            self.effects.push(Effect::Returned { node });
        }
    }

    /// A neighbour spoke of itself: does it know what the mesh knows of it?
    fn look_at_speaker(&mut self, node: PeerId, position: Position, now: Instant) {
        if self.register.position_of(&node).is_some_and(|known| position < known) {
            // It does not know what the mesh knows of it: another node has its identity, or it lost its past.
            self.sync_with(node, now);
        }
    }

    pub(super) fn on_outcome(&mut self, node: PeerId, outcome: Outcome, from: PeerId, now: Instant) {
        self.count(Counted::Judged(outcome));
        match outcome {
            Outcome::NeedBody(hash) => self.fetch(hash, vec![node, from], now),
            Outcome::NeedSync => _ = self.sync_with(from, now),
            Outcome::OwnAhead(position) => self.on_clash(position, from),
            Outcome::Full => tracing::debug!(%node, "no room for an advert"),
            Outcome::NotAdmitted => {
                tracing::debug!(%node, "a statement of a node that is no member, or offers what its role does not let it");
                self.effects.push(Effect::Stranger { from });
            }
            Outcome::Changed | Outcome::Prolonged | Outcome::Left | Outcome::Stale => {}
        }
    }

    /// Somebody speaks for this node, past what it has said itself.
    fn on_clash(&mut self, position: Position, from: PeerId) {
        if position < self.register.own_position() || position.epoch < self.announcer.position().epoch {
            return;
        }
        // Some of what comes here is only claimed. A claim at the end of all numbers would silence this node for ever.
        if position.epoch > MAX_CLAIMED_EPOCH {
            tracing::debug!(%from, epoch = position.epoch, "a claim about this node makes no sense");
            return;
        }
        self.effects.push(Effect::Clash { position, from });
    }
}
