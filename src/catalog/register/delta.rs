//! How two registers become alike: a digest of positions, and pages of what the other lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;

use super::grave::Grave;
use super::state::{BodyState, Record, Register};
use super::statement::Position;
use crate::capability::PeerId;
use crate::wire::v1;

/// Bytes of statements in one page: a push and a digest together stay below half a MiB.
pub const PAGE_BYTES: usize = 256 * 1024;

/// Positions in a digest: at 60 bytes each they are 240 KiB at the most. A larger register names its live nodes
/// first; a node that is left out costs a statement that the other need not have sent.
pub const MAX_POSITIONS: usize = 4096;

/// What follows from comparing a register with another one's digest.
#[derive(Debug, Default)]
pub struct Delta {
    /// What the other lacks, up to a page.
    pub statements: Vec<v1::AgedStatement>,
    /// Nodes of which the other knows more.
    pub want: Vec<PeerId>,
    /// Whether the other lacks more than fits on this page.
    pub more: bool,
    /// The other knows a newer statement of this very node: see [`Outcome::OwnAhead`](super::Outcome::OwnAhead).
    pub own_ahead: Option<Position>,
    /// Nodes that are gone here, at a position past the other's.
    pub beyond: Vec<v1::Position>,
}

impl Register {
    /// The positions of everything that this register would pass on.
    #[must_use]
    pub fn digest(&self) -> Vec<v1::Position> {
        self.passed_on().take(MAX_POSITIONS).collect()
    }

    /// A hash of these positions, without the times. Two registers that know the same have the same.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        for position in self.passed_on() {
            hasher.update(&position.node).update(&position.epoch.to_le_bytes()).update(&position.seq.to_le_bytes());
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        half
    }

    fn passed_on(&self) -> impl Iterator<Item = v1::Position> + '_ {
        let live = self.nodes.values().map(|record| to_wire(&record.name, record.position, record.issued_at_ms));
        let left = self.graves.values().filter(|grave| grave.tombstone.is_some());
        live.chain(left.map(|grave| to_wire(&grave.name, grave.position, 0)))
    }

    /// Compares with another register's digest: what it lacks, and what it knows better. Positions without a
    /// valid node are skipped.
    #[must_use]
    pub fn delta(&self, digest: &[v1::Position], now: Instant) -> Delta {
        let positions = digest.iter().take(MAX_POSITIONS);
        let mut theirs: BTreeMap<&[u8], (Position, u64)> =
            positions.map(|p| (&p.node[..], (Position { epoch: p.epoch, seq: p.seq }, p.issued_at_ms))).collect();
        let (mut page, mut beyond, mut wanted) = (Page::default(), Vec::new(), Vec::new());
        let mut compare = |node: &PeerId, position, issued| {
            if self.wants(node, position, issued, now) {
                wanted.push((*node, position));
            }
        };
        for (node, record) in &self.nodes {
            let Some((known, issued)) = theirs.remove(&record.name[..]) else {
                page.push(record.passed_on(now));
                continue;
            };
            if known < record.position {
                page.push(record.passed_on(now));
            } else if known == record.position && issued > 0 && is_much_later(record.issued_at_ms, issued, record.ttl) {
                page.push(record.beat_passed_on(now));
            }
            compare(node, known, issued);
        }
        for (node, grave) in &self.graves {
            let Some((known, issued)) = theirs.remove(&grave.name[..]) else {
                page.push(grave.passed_on(now));
                continue;
            };
            if known < grave.position {
                page.push(grave.passed_on(now));
            }
            // To the other it lives, at the very position of its `Leave`, or at one where later words of it are known
            // here: that is another process with the node's identity.
            let is_double = known == grave.position && issued > 0 && (grave.left || issued < grave.issued_at_ms);
            if (grave.tombstone.is_none() && known < grave.position) || is_double {
                beyond.push(to_wire(&grave.name, grave.position, 0));
            }
            compare(node, known, issued);
        }
        for (name, (known, issued)) in theirs {
            if let Ok(node) = PeerId::from_bytes(name) {
                compare(&node, known, issued);
            }
        }
        let (own, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(node, _)| *node == self.own);
        Delta {
            statements: page.statements,
            want: others.into_iter().map(|(node, _)| node).collect(),
            more: page.full,
            own_ahead: own.first().map(|(_, position)| *position),
            beyond,
        }
    }

    /// The newest statements of these nodes, up to a page: what another register asked for.
    #[must_use]
    pub fn statements_of(&self, nodes: impl IntoIterator<Item = PeerId>, now: Instant) -> Vec<v1::AgedStatement> {
        let mut page = Page::default();
        for node in nodes.into_iter().take(MAX_POSITIONS).collect::<BTreeSet<_>>() {
            let live = self.nodes.get(&node).and_then(|record| record.passed_on(now));
            page.push(live.or_else(|| self.graves.get(&node).and_then(|grave| grave.passed_on(now))));
        }
        page.statements
    }

    /// Whether an advert or a `Leave` at this position may be news, so that it is worth verifying.
    #[must_use]
    pub fn is_news(&self, node: &PeerId, position: Position, now: Instant) -> bool {
        let lacks_body = |record: &Record| record.position == position && matches!(record.body, BodyState::Missing);
        self.nodes.get(node).is_some_and(lacks_body) || self.wants(node, position, 0, now)
    }

    /// Whether an `Alive` of this position and time may be news.
    #[must_use]
    pub fn is_news_of_life(&self, node: &PeerId, position: Position, issued_at_ms: u64) -> bool {
        match (self.nodes.get(node), self.graves.get(node)) {
            (Some(record), _) => position == record.position && issued_at_ms > record.issued_at_ms,
            (None, Some(grave)) => position == grave.position && issued_at_ms > grave.issued_at_ms && !grave.left,
            (None, None) => *node != self.own,
        }
    }

    /// Whether a statement at this position would be news, or of this time at the position that is known.
    fn wants(&self, node: &PeerId, position: Position, issued_at_ms: u64, now: Instant) -> bool {
        if *node == self.own {
            return self.is_ahead_of_own(position, issued_at_ms);
        }
        if let Some(record) = self.nodes.get(node) {
            let later = || is_much_later(issued_at_ms, record.issued_at_ms, record.ttl);
            return position > record.position || (position == record.position && later());
        }
        let Some(grave) = self.graves.get(node) else { return true };
        let revived = grave.heard_until.is_some_and(|until| until > now) || issued_at_ms > grave.issued_at_ms;
        position > grave.position || (position == grave.position && revived && !grave.left)
    }
}

/// Beats that are on their way by gossip need no sync: only what is late by as much as one beat is passed on.
fn is_much_later(issued_at_ms: u64, than_ms: u64, ttl: Duration) -> bool {
    let beat_ms = u64::try_from(ttl.as_millis() / 4).unwrap_or(u64::MAX);
    issued_at_ms > than_ms.saturating_add(beat_ms)
}

fn to_wire(name: &Bytes, position: Position, issued_at_ms: u64) -> v1::Position {
    v1::Position { node: name.clone(), epoch: position.epoch, seq: position.seq, issued_at_ms }
}

impl Record {
    fn passed_on(&self, now: Instant) -> Option<v1::AgedStatement> {
        let body = match &self.body {
            BodyState::Here(body) if body.travels_inline() => body.bytes().clone(),
            _ => Bytes::new(),
        };
        let statement = v1::SignedStatement { body, ..v1::SignedStatement::clone(&self.signed) };
        Some(v1::AgedStatement { statement: Some(statement), ..self.aged(now)? })
    }

    fn beat_passed_on(&self, now: Instant) -> Option<v1::AgedStatement> {
        self.aged(now).filter(|aged| aged.beat.is_some())
    }

    /// The newest beat and the ages; `None` when its life is over.
    fn aged(&self, now: Instant) -> Option<v1::AgedStatement> {
        let rest = self.expires.map_or(self.ttl, |expires| expires.saturating_duration_since(now));
        Some(v1::AgedStatement {
            statement: None,
            // Whoever gets it takes the age from what the advert says, which a later beat may have made shorter or longer.
            age_ms: age_ms(self.advert_ttl, rest)?,
            beat: self.beat.as_deref().cloned(),
            issued_ago_ms: millis(self.pace.age(self.issued_at_ms, now)),
        })
    }
}

impl Grave {
    fn passed_on(&self, now: Instant) -> Option<v1::AgedStatement> {
        let tombstone = self.tombstone.as_ref()?;
        let rest = tombstone.until.saturating_duration_since(now);
        Some(v1::AgedStatement {
            statement: Some(v1::SignedStatement::clone(&tombstone.signed)),
            age_ms: age_ms(tombstone.ttl * 2, rest)?,
            beat: None,
            issued_ago_ms: 0,
        })
    }
}

/// How old something with this life is; `None` when its life is over.
fn age_ms(life: Duration, rest: Duration) -> Option<u64> {
    (!rest.is_zero()).then(|| millis(life.saturating_sub(rest)))
}

/// Rounded up, so that no round trip ever adds to a life.
fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Statements up to [`PAGE_BYTES`].
#[derive(Default)]
struct Page {
    statements: Vec<v1::AgedStatement>,
    bytes: usize,
    full: bool,
}

impl Page {
    fn push(&mut self, statement: Option<v1::AgedStatement>) {
        let Some(statement) = statement else { return };
        // Tag and length of the field around it.
        let bytes = statement.encoded_len() + 8;
        if self.full || self.bytes + bytes > PAGE_BYTES {
            self.full = true;
            return;
        }
        self.bytes += bytes;
        self.statements.push(statement);
    }
}
