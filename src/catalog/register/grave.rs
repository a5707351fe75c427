//! What is remembered of a node that is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::pace::Pace;
use super::statement::Position;
use crate::wire::v1;

/// A node that is gone.
#[derive(Debug)]
pub(super) struct Grave {
    pub(super) name: Bytes,
    pub(super) position: Position,
    pub(super) issued_at_ms: u64,
    pub(super) pace: Pace,
    pub(super) buried: Instant,
    pub(super) tombstone: Option<Tombstone>,
    /// An `Alive` proved after the burial that the node lives: until then its advert may come back by sync.
    pub(super) heard_until: Option<Instant>,
    /// That `Alive`.
    pub(super) beat: Option<Arc<v1::SignedStatement>>,
    /// Whether the node left by its own word; then only a greater position brings it back.
    pub(super) left: bool,
}

/// A `Leave` that is passed on.
#[derive(Debug)]
pub(super) struct Tombstone {
    pub(super) signed: Arc<v1::SignedStatement>,
    pub(super) ttl: Duration,
    pub(super) until: Instant,
}
