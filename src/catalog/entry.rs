//! What a snapshot is made of, and what a search in it gives.

use std::sync::Arc;

use crate::capability::{Capability, PeerId, VectorSource};

/// One capability of one node.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The node that offers it.
    pub node: PeerId,
    /// The node's human name.
    pub node_name: Arc<str>,
    /// What it offers.
    pub capability: Arc<Capability>,
    /// Equal for capabilities that say the same about what they are about, such as copies of a project on several nodes.
    pub subject: u64,
}

/// Place of an [`Entry`] in its [`Snapshot`](super::Snapshot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u32);

/// A capability that means something like the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Which.
    pub entry: EntryId,
    /// How alike its texts and the query are, -1 to 1: the mean of the similarity of its best text and of the
    /// centroid of all its texts. Where there was no embedder to compare with, the share of the query's
    /// words that it has, 0 to 1.
    pub similarity: f32,
    /// Its most similar text.
    pub source: VectorSource,
}
