//! How two registers become alike: a digest of positions, and pages of what the other lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;

use super::state::{BodyState, Grave, Record, Register};
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
        let live = self.nodes.iter().map(|(node, record)| (node, record.position));
        let left =
            self.graves.iter().filter(|(_, g)| g.tombstone.is_some()).map(|(node, grave)| (node, grave.position));
        live.chain(left).take(MAX_POSITIONS).map(|(node, position)| to_wire(node, position)).collect()
    }

    /// Compares with another register's digest: what it lacks, and what it knows better. Positions without a
    /// valid node are skipped.
    #[must_use]
    pub fn delta(&self, digest: &[v1::Position], now: Instant) -> Delta {
        let theirs: BTreeMap<PeerId, Position> = digest
            .iter()
            .take(MAX_POSITIONS)
            .filter_map(|p| Some((PeerId::from_bytes(&p.node).ok()?, Position { epoch: p.epoch, seq: p.seq })))
            .collect();
        let lacks = |node: &PeerId, position: Position| theirs.get(node).is_none_or(|known| *known < position);
        let mut page = Page::default();
        let live = self.nodes.iter().filter(|(node, record)| lacks(node, record.position));
        for (_, record) in live {
            page.push(record.passed_on(now));
        }
        let left = self.graves.iter().filter(|(node, grave)| lacks(node, grave.position));
        for (_, grave) in left {
            page.push(grave.passed_on(now));
        }
        let gone = self.graves.iter().filter(|(node, grave)| {
            grave.tombstone.is_none() && theirs.get(node).is_some_and(|known| *known < grave.position)
        });
        let beyond = gone.map(|(node, grave)| to_wire(node, grave.position)).collect();
        let (own, others): (Vec<_>, Vec<_>) = theirs
            .into_iter()
            .filter(|(node, position)| self.wants(node, *position, now))
            .partition(|(n, _)| *n == self.own);
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
        self.nodes.get(node).is_some_and(lacks_body) || self.wants(node, position, now)
    }

    /// Whether a statement at this position would be news.
    fn wants(&self, node: &PeerId, position: Position, now: Instant) -> bool {
        if let Some(record) = self.nodes.get(node) {
            return position > record.position;
        }
        let Some(grave) = self.graves.get(node) else { return *node != self.own || position > Position::default() };
        let revived = grave.heard_until.is_some_and(|until| until > now);
        position > grave.position || (position == grave.position && revived && !grave.left)
    }
}

fn to_wire(node: &PeerId, position: Position) -> v1::Position {
    v1::Position { node: node.to_bytes().into(), epoch: position.epoch, seq: position.seq }
}

impl Record {
    fn passed_on(&self, now: Instant) -> Option<v1::AgedStatement> {
        let rest = self.expires.map_or(self.ttl, |expires| expires.saturating_duration_since(now));
        let body = match &self.body {
            BodyState::Here(body) if body.travels_inline() => body.bytes().clone(),
            _ => Bytes::new(),
        };
        aged(&self.signed, body, self.ttl, rest)
    }
}

impl Grave {
    fn passed_on(&self, now: Instant) -> Option<v1::AgedStatement> {
        let tombstone = self.tombstone.as_ref()?;
        aged(&tombstone.signed, Bytes::new(), tombstone.ttl * 2, tombstone.until.saturating_duration_since(now))
    }
}

/// The statement with its age; `None` when its life is over.
fn aged(signed: &Arc<v1::SignedStatement>, body: Bytes, life: Duration, rest: Duration) -> Option<v1::AgedStatement> {
    if rest.is_zero() {
        return None;
    }
    let age = life.saturating_sub(rest);
    // Rounded up, so that no round trip ever adds to a life.
    let age_ms = u64::try_from(age.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    let statement = v1::SignedStatement { body, ..v1::SignedStatement::clone(signed) };
    Some(v1::AgedStatement { statement: Some(statement), age_ms })
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
