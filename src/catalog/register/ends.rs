//! The ends of nodes: by their own word, or when they were not heard for too long; and what is remembered of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::grave::{Grave, Tombstone};
use super::pace::Pace;
use super::state::{Expired, Outcome, Register, Source, name_of};
use super::statement::Statement;
use crate::capability::PeerId;

impl Register {
    pub(super) fn leave(&mut self, statement: &Statement, source: Source, now: Instant) -> Outcome {
        let age = match source {
            Source::Direct | Source::Gossip => Duration::ZERO,
            Source::Sync { age, .. } => age,
        };
        let life = (statement.ttl * 2).saturating_sub(age);
        if life.is_zero() || self.position_of(&statement.node).is_some_and(|known| statement.position <= known) {
            return Outcome::Stale;
        }
        self.bury(statement, life, now);
        Outcome::Left
    }

    /// Lets time pass: ends lives and tombstones that ran out.
    pub fn expire(&mut self, now: Instant) -> Expired {
        let mut expired = Expired { departed: Vec::new(), next: self.earliest };
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return expired;
        }
        let mut outdated = Vec::new();
        let mut next: Option<Instant> = None;
        let mut wake = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for (node, record) in &mut self.nodes {
            match record.expires {
                Some(expires) if expires <= now => expired.departed.push(*node),
                Some(expires) => wake(expires),
                None => {}
            }
            match record.older_until {
                Some(until) if until <= now => {
                    record.older_until = None;
                    outdated.push(*node);
                }
                Some(until) => wake(until),
                None => {}
            }
        }
        for grave in self.graves.values_mut() {
            match &grave.tombstone {
                Some(tombstone) if tombstone.until <= now => grave.tombstone = None,
                Some(tombstone) => wake(tombstone.until),
                None => {}
            }
            grave.heard_until = grave.heard_until.filter(|until| *until > now);
        }
        for node in outdated {
            self.hide(&node);
        }
        for node in &expired.departed {
            self.bury_silently(*node, now);
        }
        self.earliest = next;
        expired.next = next;
        expired
    }

    /// Without a word of the node's own.
    pub(super) fn bury_silently(&mut self, node: PeerId, now: Instant) {
        if let Some(record) = self.nodes.remove(&node) {
            let grave = Grave {
                name: record.name,
                position: record.position,
                issued_at_ms: record.issued_at_ms,
                pace: record.pace,
                buried: now,
                tombstone: None,
                heard_until: None,
                beat: None,
                left: false,
            };
            self.dig(node, grave);
        }
        self.hide(&node);
    }

    pub(super) fn bury(&mut self, leave: &Statement, life: Duration, now: Instant) {
        self.nodes.remove(&leave.node);
        self.hide(&leave.node);
        let grave = Grave {
            name: name_of(&leave.node),
            position: leave.position,
            issued_at_ms: leave.issued_at_ms,
            pace: Pace::default(),
            buried: now,
            tombstone: Some(Tombstone { signed: Arc::clone(&leave.signed), ttl: leave.ttl, until: now + life }),
            heard_until: None,
            beat: None,
            left: true,
        };
        self.ends(now + life);
        self.dig(leave.node, grave);
    }

    /// Adds a grave, and forgets the oldest one when there are too many.
    fn dig(&mut self, node: PeerId, grave: Grave) {
        self.graves.insert(node, grave);
        if self.graves.len() > self.bounds.graves {
            let oldest = self.graves.iter().min_by_key(|(_, grave)| grave.buried).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                self.graves.remove(&oldest);
            }
        }
    }
}
