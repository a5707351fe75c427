//! Statements with their signature: made by a [`Signer`], checked by [`verify`].
//!
//! A statement carries its own signature, so that anybody may pass it on and nobody can change it. It is bound to
//! the mesh, so that it cannot be taken to another one. Everything is measured before it is decoded, and what
//! [`verify`] returns can be believed to be the node's own word and within all limits.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::identity::{KeyType, Keypair, PublicKey};
use parking_lot::Mutex;
use prost::Message as _;

use super::own_time::OwnTime;
use crate::capability::{Advert, limits};
use crate::catalog::register::{AdvertHead, Body, BodyError, Content, Position, Statement};
use crate::wire::v1;

/// What every signature covers first, so that no other use of the key can be mistaken for a statement.
const DOMAIN: &[u8] = b"atmosphere-statement-v1";
/// Multihash code of a hash that is the hashed bytes themselves.
const IDENTITY_MULTIHASH: u64 = 0;
/// Bytes of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;
/// Bytes of a PeerId; an Ed25519 one has 38.
const NODE_BYTES: usize = 64;
/// Bytes of a statement: 16 addresses and two names of 256 bytes, hash and numbers, and room for fields to come.
const STATEMENT_BYTES: usize = 6 * 1024;
/// Shortest life that is believed: below it a mesh would do nothing but confirm.
const TTL_MIN: Duration = Duration::from_millis(500);
/// Longest life that is believed: a dead node must not stay for longer, whatever it said.
const TTL_MAX: Duration = Duration::from_secs(3600);
/// Epochs and sequence numbers stay below it, so that JSON numbers hold them and there is always a next one.
const NUMBER_MAX: u64 = 1 << 53;
/// Highest load class.
const LOAD_MAX: u32 = 4;

/// Why a statement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Larger than any honest one.
    #[error("statement has too much of {0}")]
    TooLarge(&'static str),
    /// The node is not named by an Ed25519 key.
    #[error("statement is by a node whose id is not an Ed25519 key")]
    NotANode,
    /// Signed by another key, for another mesh, or changed on the way.
    #[error("statement is not signed by the node it speaks of, or not for this mesh")]
    BadSignature,
    /// Not an encoded statement.
    #[error("statement cannot be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A field makes no sense.
    #[error("statement has a bad {0}")]
    Bad(&'static str),
    /// It says something that this version does not know.
    #[error("statement is of a kind that this version does not know")]
    Unknown,
    /// The body that came along is not the one that the advert names, or cannot be read.
    #[error(transparent)]
    Body(#[from] BodyError),
}

impl StatementError {
    /// Whether whoever passed it on is to blame. A statement of a newer version is nobody's fault.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::Unknown)
    }
}

/// Why a statement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The node's key is of another type.
    #[error("the node's identity must be an Ed25519 key, not {0}")]
    KeyType(KeyType),
    /// Others would refuse it.
    #[error("this node's own advert is not valid: {0}")]
    Invalid(#[from] StatementError),
    /// The capabilities are beyond the limits.
    #[error("this node's capabilities cannot be advertised: {0}")]
    Body(#[from] BodyError),
    /// The key refused to sign.
    #[error("cannot sign: {0}")]
    Sign(#[from] libp2p::identity::SigningError),
}

/// Unix milliseconds, and the moment at which the clock said so.
type Clock = Box<dyn Fn() -> (u64, Instant) + Send + Sync>;

/// Makes the statements of this node.
pub struct Signer {
    key: Keypair,
    node: PeerId,
    mesh: [u8; 32],
    clock: Clock,
    time: Mutex<OwnTime>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer with the node's key, for this mesh.
    ///
    /// # Errors
    ///
    /// When the key is not Ed25519.
    pub fn new(key: Keypair, mesh: [u8; 32]) -> Result<Self, SignError> {
        let clock = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            (u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Instant::now())
        };
        Self::with_clock(key, mesh, Box::new(clock))
    }

    /// The same, with another clock than the machine's.
    ///
    /// # Errors
    ///
    /// When the key is not Ed25519.
    pub(super) fn with_clock(key: Keypair, mesh: [u8; 32], clock: Clock) -> Result<Self, SignError> {
        if key.key_type() != KeyType::Ed25519 {
            return Err(SignError::KeyType(key.key_type()));
        }
        let node = key.public().to_peer_id();
        Ok(Self { key, node, mesh, clock, time: Mutex::default() })
    }

    /// The node that it signs for.
    #[must_use]
    pub fn node(&self) -> PeerId {
        self.node
    }

    /// The mesh that its statements are for.
    #[must_use]
    pub const fn mesh(&self) -> &[u8; 32] {
        &self.mesh
    }

    /// States what this node is and can do. The node of `advert` must be this one.
    ///
    /// # Errors
    ///
    /// When others would refuse the advert.
    pub fn advert(&self, advert: &Advert) -> Result<Signed, SignError> {
        if advert.node != self.node {
            return Err(StatementError::BadSignature.into());
        }
        let body = Body::of(&advert.capabilities)?;
        let head = v1::Advert {
            name: advert.name.clone(),
            version: advert.version.clone(),
            addresses: advert.addresses.clone(),
            body_hash: Bytes::copy_from_slice(&body.hash()),
            body_len: u32::try_from(body.bytes().len()).unwrap_or(u32::MAX),
            load: u32::from(advert.load),
            relay: advert.relay,
        };
        let position = Position { epoch: advert.epoch, seq: advert.seq };
        self.sign(position, advert.ttl, v1::statement::Content::Advert(head), Some(body))
    }

    /// States that the advert of this position still holds.
    ///
    /// # Errors
    ///
    /// When others would refuse it.
    pub fn alive(&self, position: Position, ttl: Duration, load: u8) -> Result<Signed, SignError> {
        self.sign(position, ttl, v1::statement::Content::Alive(v1::Alive { load: load.into() }), None)
    }

    /// States that this node leaves. The position must be past that of its last advert.
    ///
    /// # Errors
    ///
    /// When others would refuse it.
    pub fn leave(&self, position: Position, ttl: Duration) -> Result<Signed, SignError> {
        self.sign(position, ttl, v1::statement::Content::Leave(v1::Leave {}), None)
    }

    fn sign(
        &self,
        position: Position,
        ttl: Duration,
        content: v1::statement::Content,
        body: Option<Body>,
    ) -> Result<Signed, SignError> {
        let statement = v1::Statement {
            epoch: position.epoch,
            seq: position.seq,
            issued_at_ms: self.issue_time(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            content: Some(content),
        };
        let bytes = Bytes::from(statement.encode_to_vec());
        let signature = self.key.sign(&signed_bytes(&self.mesh, &bytes))?;
        let wire = v1::SignedStatement {
            node: self.node.to_bytes().into(),
            statement: bytes,
            signature: signature.into(),
            body: body.as_ref().filter(|b| b.travels_inline()).map(|b| b.bytes().clone()).unwrap_or_default(),
        };
        let mut statement = verify(&self.mesh, wire.clone())?;
        if let Content::Advert(_, slot @ None) = &mut statement.content {
            *slot = body;
        }
        Ok(Signed { statement, wire })
    }

    fn issue_time(&self) -> u64 {
        let (wall_ms, now) = (self.clock)();
        self.time.lock().next(wall_ms, now)
    }
}

/// A statement of this node, ready for its own register and for the others.
#[derive(Debug, Clone)]
pub struct Signed {
    /// For [`Register::apply_own`](crate::catalog::register::Register::apply_own); always with its body.
    pub statement: Statement,
    /// For gossip; with the body only when that is small.
    pub wire: v1::SignedStatement,
}

/// Checks a statement that came from the network.
///
/// # Errors
///
/// When it is too large, not signed by the node it names for this mesh, malformed, or beyond a limit.
pub fn verify(mesh: &[u8; 32], wire: v1::SignedStatement) -> Result<Statement, StatementError> {
    if wire.node.len() > NODE_BYTES {
        return Err(StatementError::TooLarge("node id"));
    }
    if wire.statement.len() > STATEMENT_BYTES {
        return Err(StatementError::TooLarge("statement"));
    }
    if wire.body.len() > limits::BODY_BYTES {
        return Err(StatementError::TooLarge("body"));
    }
    let (node, key) = node_key(&wire.node)?;
    if wire.signature.len() != SIGNATURE_BYTES || !key.verify(&signed_bytes(mesh, &wire.statement), &wire.signature) {
        return Err(StatementError::BadSignature);
    }
    let statement = v1::Statement::decode(wire.statement.clone())?;
    if statement.epoch >= NUMBER_MAX || statement.seq >= NUMBER_MAX {
        return Err(StatementError::Bad("epoch or sequence number"));
    }
    let ttl = Duration::from_millis(statement.ttl_ms);
    if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Err(StatementError::Bad("time to live"));
    }
    let content = match statement.content.ok_or(StatementError::Unknown)? {
        v1::statement::Content::Advert(advert) => {
            let head = head(advert)?;
            let body = body(&head, wire.body)?;
            Content::Advert(head, body)
        }
        v1::statement::Content::Alive(alive) if wire.body.is_empty() => Content::Alive { load: load(alive.load) },
        v1::statement::Content::Leave(_) if wire.body.is_empty() => Content::Leave,
        _ => return Err(StatementError::Bad("body (of something that has none)")),
    };
    Ok(Statement {
        node,
        position: Position { epoch: statement.epoch, seq: statement.seq },
        issued_at_ms: statement.issued_at_ms,
        ttl,
        content,
        signed: Arc::new(v1::SignedStatement {
            node: wire.node,
            statement: wire.statement,
            signature: wire.signature,
            body: Bytes::new(),
        }),
    })
}

/// What a statement claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The node that it is said to be of.
    pub node: PeerId,
    /// Where it stands.
    pub position: Position,
    /// The node's own time.
    pub issued_at_ms: u64,
}

/// What a statement claims to be, without believing it: to see whether it is worth verifying.
#[must_use]
pub fn peek(wire: &v1::SignedStatement) -> Option<Claim> {
    if wire.statement.len() > STATEMENT_BYTES {
        return None;
    }
    let statement = v1::Statement::decode(wire.statement.clone()).ok()?;
    let node = PeerId::from_bytes(&wire.node).ok()?;
    let position = Position { epoch: statement.epoch, seq: statement.seq };
    Some(Claim { node, position, issued_at_ms: statement.issued_at_ms })
}

/// The node that an id names, and the key that the id is.
fn node_key(bytes: &[u8]) -> Result<(PeerId, PublicKey), StatementError> {
    let node = PeerId::from_bytes(bytes).map_err(|_| StatementError::NotANode)?;
    if node.as_ref().code() != IDENTITY_MULTIHASH {
        return Err(StatementError::NotANode);
    }
    let key = PublicKey::try_decode_protobuf(node.as_ref().digest()).map_err(|_| StatementError::NotANode)?;
    // One key has one id: another encoding of the same key would be a second node.
    if key.key_type() != KeyType::Ed25519 || key.to_peer_id() != node || node.to_bytes() != bytes {
        return Err(StatementError::NotANode);
    }
    Ok((node, key))
}

fn signed_bytes(mesh: &[u8; 32], statement: &[u8]) -> Vec<u8> {
    [DOMAIN, mesh, statement].concat()
}

fn head(advert: v1::Advert) -> Result<AdvertHead, StatementError> {
    if advert.addresses.len() > limits::ADDRESSES || advert.addresses.iter().any(|a| a.len() > limits::NAME_BYTES) {
        return Err(StatementError::TooLarge("addresses"));
    }
    // Names are shown on terminals and in headers.
    let is_name =
        |name: &str| !name.is_empty() && name.len() <= limits::NAME_BYTES && !name.chars().any(char::is_control);
    if !is_name(&advert.name) {
        return Err(StatementError::Bad("node name"));
    }
    if !is_name(&advert.version) {
        return Err(StatementError::Bad("version"));
    }
    if advert.body_len as usize > limits::BODY_BYTES {
        return Err(StatementError::TooLarge("body"));
    }
    Ok(AdvertHead {
        name: advert.name,
        version: advert.version,
        addresses: advert.addresses,
        body_hash: advert.body_hash.as_ref().try_into().map_err(|_| StatementError::Bad("body hash"))?,
        body_len: advert.body_len,
        load: load(advert.load),
        relay: advert.relay,
    })
}

/// The body that came along, if one did. An advert of nothing has an empty body, which is always there.
fn body(head: &AdvertHead, bytes: Bytes) -> Result<Option<Body>, StatementError> {
    if bytes.is_empty() && head.body_len > 0 {
        return Ok(None);
    }
    Ok(Some(Body::from_wire(head.body_hash, head.body_len, bytes)?))
}

fn load(class: u32) -> u8 {
    u8::try_from(class.min(LOAD_MAX)).unwrap_or_default()
}

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
