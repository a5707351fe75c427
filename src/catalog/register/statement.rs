//! What the register is told: statements of nodes, already verified by whoever received them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::capability::{Capability, PeerId, limits};
use crate::wire::{self, AdvertError, v1};

/// Longest advert body that travels inside its statement, in bytes. With the largest statement (16 addresses
/// and two names of 256 bytes) it stays below the 16 KiB that a gossip message may have; larger bodies
/// are fetched by their hash.
pub const INLINE_BODY_BYTES: usize = 10 * 1024;

/// BLAKE3 of an encoded advert body.
pub type BodyHash = [u8; 32];

/// Where a statement stands among those of its node: the greater one is the newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Start of the node's incarnation, Unix milliseconds by its own clock.
    pub epoch: u64,
    /// Count of changes within the epoch.
    pub seq: u64,
}

/// A statement whose signature, sizes and values have been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// The node that speaks, of itself.
    pub node: PeerId,
    /// Where it stands among this node's statements. An [`Content::Alive`] has that of the advert it confirms.
    pub position: Position,
    /// When it was made by the node's own clock, Unix milliseconds. Compared only with other statements of
    /// the same node, never with a clock of ours.
    pub issued_at_ms: u64,
    /// How long it may be believed.
    pub ttl: Duration,
    /// What it says.
    pub content: Content,
    /// As it came, without the body: what others verify.
    pub signed: Arc<v1::SignedStatement>,
}

/// What a statement says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// What the node is and can do; with the body if that came along.
    Advert(AdvertHead, Option<Body>),
    /// The advert of this position still holds.
    Alive {
        /// The node's load class now.
        load: u8,
    },
    /// The node leaves.
    Leave,
}

/// An advert without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertHead {
    /// The node's human name.
    pub name: String,
    /// Version of its program.
    pub version: String,
    /// Multiaddresses, best first.
    pub addresses: Vec<String>,
    /// Names the body.
    pub body_hash: BodyHash,
    /// Length of the body in bytes.
    pub body_len: u32,
    /// Load class, 0 to 4.
    pub load: u8,
    /// Whether the node relays for members.
    pub relay: bool,
}

/// An advert body that is what its hash says, and well formed.
#[derive(Debug, Clone, PartialEq)]
pub struct Body {
    hash: BodyHash,
    bytes: Bytes,
    capabilities: Arc<[Arc<Capability>]>,
}

/// Bytes that are not the advert body they were asked for, or are none at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Somebody else's bytes: another copy may be right.
    #[error("advert body does not match the hash or the length that its advert names")]
    Mismatch,
    /// The node itself signed something that cannot be read: no copy will do.
    #[error(transparent)]
    Malformed(#[from] AdvertError),
}

impl Body {
    /// Checks and decodes a body that came from the network.
    ///
    /// # Errors
    ///
    /// When it is too long, not the one with this hash and length, or malformed.
    pub fn from_wire(hash: BodyHash, len: u32, bytes: Bytes) -> Result<Self, BodyError> {
        if bytes.len() > limits::BODY_BYTES || bytes.len() != len as usize || blake3::hash(&bytes) != hash {
            return Err(BodyError::Mismatch);
        }
        let capabilities = wire::body_from_wire(&bytes)?;
        Ok(Self { hash, bytes, capabilities })
    }

    /// The body that tells of these capabilities of this node.
    ///
    /// # Errors
    ///
    /// When other nodes would refuse it.
    pub fn of(capabilities: &Arc<[Arc<Capability>]>) -> Result<Self, BodyError> {
        let bytes = wire::body_to_wire(capabilities);
        wire::body_from_wire(&bytes)?;
        Ok(Self { hash: blake3::hash(&bytes).into(), bytes, capabilities: Arc::clone(capabilities) })
    }

    /// BLAKE3 of the bytes.
    #[must_use]
    pub fn hash(&self) -> BodyHash {
        self.hash
    }

    /// As it travels.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it tells.
    #[must_use]
    pub fn capabilities(&self) -> &Arc<[Arc<Capability>]> {
        &self.capabilities
    }

    /// Whether it may travel inside its statement.
    #[must_use]
    pub fn travels_inline(&self) -> bool {
        self.bytes.len() <= INLINE_BODY_BYTES
    }
}
