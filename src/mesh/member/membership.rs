//! Memberships and revocations with their signatures: issued by an [`Issuer`], checked by [`verify`] and
//! [`verify_revocation`].
//!
//! A membership is signed by the mesh's root key, or by an admin that carries its own membership along, and so on
//! up to the root. Each link of this chain lies within the time of the one above, so that whoever issues can give
//! no more than it has. Checking goes from the root downwards: a forger's bytes cost one signature.
//!
//! What is checked here does not depend on time or on revocations; [`Roster`](super::roster::Roster) judges these.
//!
//! Why not Biscuit tokens, which are made for delegation: nothing here is attenuated by its holder, every field is
//! fixed, and these bytes come from strangers before anything is known of them. Its Datalog would be 40 more crates
//! (a second prost, nom, regex and P-256 among them) in the one place that must stay small.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use prost::Message as _;

use super::role::Role;
use crate::capability::PeerId;
use crate::mesh::id::MeshId;
use crate::mesh::identity::public_key;
use crate::wire::v1;

/// Separate these signatures from every other use of a key.
const MEMBERSHIP_DOMAIN: &[u8] = b"atmosphere-membership-v1";
const REVOCATION_DOMAIN: &[u8] = b"atmosphere-revocation-v1";

/// Memberships on top of each other: the root's admin, an admin that this one made, one more, and a member.
pub const MAX_CHAIN: usize = 4;

/// Longest life of a membership: admins are rarely renewed, and revoked when they are lost.
pub const MAX_LIFETIME: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// How far clocks of members may differ.
pub const SKEW: Duration = Duration::from_secs(600);

/// Bytes of an encoded membership: ids, numbers and room for fields to come.
const MEMBERSHIP_BYTES: usize = 512;

/// Bytes of an encoded revocation: the same and a reason.
const REVOCATION_BYTES: usize = 768;

/// Bytes of a reason.
pub const REASON_BYTES: usize = 200;

/// Numbers stay below it, so that JSON numbers hold them and there is always a next one.
const NUMBER_MAX: u64 = 1 << 53;

/// Why a record is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Larger than any honest one, or a chain that is too long.
    #[error("the membership is larger than any honest one")]
    TooLarge,
    /// It cannot be decoded, or a field makes no sense.
    #[error("the membership has a bad {0}")]
    Bad(&'static str),
    /// It is of another mesh.
    #[error("the membership is of another mesh")]
    OtherMesh,
    /// It is not signed by who may sign it.
    #[error("the membership is not signed by this mesh's root or one of its admins")]
    Signature,
    /// Its issuer may not issue it.
    #[error("the membership was issued by a node that may not issue it")]
    Authority,
}

/// One membership of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whose.
    pub node: PeerId,
    /// Which role.
    pub role: Role,
    /// Which of this node's.
    pub serial: u64,
    /// From when, Unix milliseconds.
    pub not_before_ms: u64,
    /// Until when.
    pub expires_ms: u64,
}

/// A membership that is signed as it should be. Whether it holds now is for the roster to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Membership {
    /// From the one that the root issued to this one, which is the last.
    chain: Vec<Link>,
    /// As it travels.
    pub wire: Arc<v1::SignedMembership>,
}

impl Membership {
    /// The membership itself.
    #[must_use]
    pub fn own(&self) -> Link {
        self.chain[self.chain.len() - 1]
    }

    /// Those that it stems from, itself the last.
    #[must_use]
    pub fn chain(&self) -> &[Link] {
        &self.chain
    }

    /// The admin that issued it; `None`: the root.
    #[must_use]
    pub fn issuer(&self) -> Option<PeerId> {
        self.chain.len().checked_sub(2).map(|index| self.chain[index].node)
    }
}

/// A revocation that is signed as it should be.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// Whose memberships end.
    pub node: PeerId,
    /// All up to this serial.
    pub through: u64,
    /// When it was issued, Unix milliseconds.
    pub serial: u64,
    /// Why, for people.
    pub reason: String,
    /// The issuer's membership and those that it stems from; empty: the root.
    pub chain: Vec<Link>,
    /// As it travels.
    pub wire: Arc<v1::SignedRevocation>,
}

/// Who issues: the root, or an admin.
#[derive(Debug, Clone, Copy)]
pub enum Issuer<'a> {
    /// The holder of the mesh's root key.
    Root(&'a Keypair),
    /// An admin with its node key.
    Admin(&'a Keypair, &'a Membership),
}

/// What is issued.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// To whom.
    pub node: PeerId,
    /// Which role.
    pub role: Role,
    /// Which of this node's; also when it was issued, Unix milliseconds.
    pub serial: u64,
    /// For how long.
    pub lifetime: Duration,
}

impl Issuer<'_> {
    fn signs(&self, domain: &[u8], mesh: &MeshId, bytes: &[u8]) -> Result<Bytes, RecordError> {
        let (Self::Root(key) | Self::Admin(key, _)) = self;
        let signature = key.sign(&signed_bytes(domain, mesh, bytes)).map_err(|_| RecordError::Signature)?;
        Ok(signature.into())
    }

    fn id(&self) -> Bytes {
        match self {
            Self::Root(_) => Bytes::new(),
            Self::Admin(_, own) => own.own().node.to_bytes().into(),
        }
    }

    fn wire(&self) -> Option<v1::SignedMembership> {
        match self {
            Self::Root(_) => None,
            Self::Admin(_, own) => Some(v1::SignedMembership::clone(&own.wire)),
        }
    }

    /// Issues a membership. It ends with the issuer's own at the latest.
    ///
    /// # Errors
    ///
    /// When the issuer may not.
    pub fn membership(&self, mesh: &MeshId, terms: Terms) -> Result<v1::SignedMembership, RecordError> {
        let lifetime = u64::try_from(terms.lifetime.min(MAX_LIFETIME).as_millis()).unwrap_or(u64::MAX);
        let mut expires_ms = terms.serial.saturating_add(lifetime);
        // Clocks differ: what is new here must not begin before the issuer's own did.
        let mut not_before_ms = terms.serial;
        if let Self::Admin(_, own) = self {
            if !own.own().role.issues() || own.chain.len() >= MAX_CHAIN {
                return Err(RecordError::Authority);
            }
            expires_ms = expires_ms.min(own.own().expires_ms);
            not_before_ms = not_before_ms.max(own.own().not_before_ms);
        }
        let membership = v1::Membership {
            mesh_id: mesh.as_bytes().to_vec().into(),
            node: terms.node.to_bytes().into(),
            role: terms.role.to_wire(),
            not_before_ms,
            expires_ms,
            serial: terms.serial,
            issuer: self.id(),
        };
        let bytes = Bytes::from(membership.encode_to_vec());
        let signature = self.signs(MEMBERSHIP_DOMAIN, mesh, &bytes)?;
        Ok(v1::SignedMembership { membership: bytes, signature, issuer: self.wire().map(Box::new) })
    }

    /// Ends the memberships of a node that were issued until `serial`, which is now.
    ///
    /// # Errors
    ///
    /// When the issuer may not.
    pub fn revocation(
        &self,
        mesh: &MeshId,
        node: PeerId,
        serial: u64,
        reason: &str,
    ) -> Result<v1::SignedRevocation, RecordError> {
        if matches!(self, Self::Admin(_, own) if !own.own().role.issues()) {
            return Err(RecordError::Authority);
        }
        let mut reason: String = reason.trim().chars().filter(|char| !char.is_control()).collect();
        while reason.len() > REASON_BYTES {
            reason.pop();
        }
        let revocation = v1::Revocation {
            mesh_id: mesh.as_bytes().to_vec().into(),
            node: node.to_bytes().into(),
            through_serial: serial,
            serial,
            issuer: self.id(),
            reason,
        };
        let bytes = Bytes::from(revocation.encode_to_vec());
        let signature = self.signs(REVOCATION_DOMAIN, mesh, &bytes)?;
        Ok(v1::SignedRevocation { revocation: bytes, signature, issuer: self.wire() })
    }
}

/// Checks a membership that came from the network.
///
/// # Errors
///
/// When it is not one of this mesh, whatever the time.
pub fn verify(mesh: &MeshId, root: &ed25519::PublicKey, wire: v1::SignedMembership) -> Result<Membership, RecordError> {
    let chain = chain(mesh, root, &wire)?;
    Ok(Membership { chain, wire: Arc::new(wire) })
}

fn chain(mesh: &MeshId, root: &ed25519::PublicKey, wire: &v1::SignedMembership) -> Result<Vec<Link>, RecordError> {
    // From the given one upwards, and back down from the root.
    let mut levels = vec![wire];
    while let Some(issuer) = &levels[levels.len() - 1].issuer {
        if levels.len() >= MAX_CHAIN {
            return Err(RecordError::TooLarge);
        }
        levels.push(issuer);
    }
    let mut links: Vec<Link> = Vec::with_capacity(levels.len());
    for wire in levels.into_iter().rev() {
        let link = link(mesh, root, links.last(), wire)?;
        links.push(link);
    }
    Ok(links)
}

/// One membership below the one that it was issued by.
fn link(
    mesh: &MeshId,
    root: &ed25519::PublicKey,
    above: Option<&Link>,
    wire: &v1::SignedMembership,
) -> Result<Link, RecordError> {
    if wire.membership.len() > MEMBERSHIP_BYTES {
        return Err(RecordError::TooLarge);
    }
    let says = v1::Membership::decode(wire.membership.clone()).map_err(|_| RecordError::Bad("encoding"))?;
    if says.mesh_id.as_ref() != mesh.as_bytes() {
        return Err(RecordError::OtherMesh);
    }
    check_signature(MEMBERSHIP_DOMAIN, mesh, root, above, &says.issuer, &wire.membership, &wire.signature)?;
    let node = node(&says.node)?;
    let role = Role::of_wire(says.role).ok_or(RecordError::Bad("role"))?;
    let numbers = [says.serial, says.not_before_ms, says.expires_ms];
    let lifetime = says.expires_ms.checked_sub(says.not_before_ms).filter(|lifetime| *lifetime > 0);
    let lifetime =
        lifetime.filter(|_| numbers.iter().all(|number| *number < NUMBER_MAX)).ok_or(RecordError::Bad("time"))?;
    if Duration::from_millis(lifetime) > MAX_LIFETIME {
        return Err(RecordError::Bad("lifetime"));
    }
    if above.is_some_and(|above| says.not_before_ms < above.not_before_ms || says.expires_ms > above.expires_ms) {
        return Err(RecordError::Authority);
    }
    Ok(Link { node, role, serial: says.serial, not_before_ms: says.not_before_ms, expires_ms: says.expires_ms })
}

/// Checks a revocation that came from the network.
///
/// # Errors
///
/// When it is not one of this mesh, whatever the time.
pub fn verify_revocation(
    mesh: &MeshId,
    root: &ed25519::PublicKey,
    wire: v1::SignedRevocation,
) -> Result<Revocation, RecordError> {
    if wire.revocation.len() > REVOCATION_BYTES {
        return Err(RecordError::TooLarge);
    }
    let says = v1::Revocation::decode(wire.revocation.clone()).map_err(|_| RecordError::Bad("encoding"))?;
    if says.mesh_id.as_ref() != mesh.as_bytes() {
        return Err(RecordError::OtherMesh);
    }
    let chain = match &wire.issuer {
        Some(issuer) => chain(mesh, root, issuer)?,
        None => Vec::new(),
    };
    check_signature(REVOCATION_DOMAIN, mesh, root, chain.last(), &says.issuer, &wire.revocation, &wire.signature)?;
    if says.serial >= NUMBER_MAX || says.through_serial > says.serial {
        return Err(RecordError::Bad("serial"));
    }
    if says.reason.len() > REASON_BYTES || says.reason.chars().any(char::is_control) {
        return Err(RecordError::Bad("reason"));
    }
    Ok(Revocation {
        node: node(&says.node)?,
        through: says.through_serial,
        serial: says.serial,
        reason: says.reason,
        chain,
        wire: Arc::new(wire),
    })
}

fn check_signature(
    domain: &[u8],
    mesh: &MeshId,
    root: &ed25519::PublicKey,
    above: Option<&Link>,
    issuer: &[u8],
    bytes: &[u8],
    signature: &[u8],
) -> Result<(), RecordError> {
    let key = match above {
        None if issuer.is_empty() => PublicKey::from(root.clone()),
        Some(above) if above.role.issues() && issuer == above.node.to_bytes() => {
            public_key(&above.node).ok_or(RecordError::Authority)?
        }
        _ => return Err(RecordError::Authority),
    };
    if key.verify(&signed_bytes(domain, mesh, bytes), signature) { Ok(()) } else { Err(RecordError::Signature) }
}

/// A node by its one and only spelling.
fn node(bytes: &[u8]) -> Result<PeerId, RecordError> {
    let node = PeerId::from_bytes(bytes).map_err(|_| RecordError::Bad("node id"))?;
    let key = public_key(&node).ok_or(RecordError::Bad("node id"))?;
    if key.to_peer_id() == node && node.to_bytes() == bytes { Ok(node) } else { Err(RecordError::Bad("node id")) }
}

fn signed_bytes(domain: &[u8], mesh: &MeshId, bytes: &[u8]) -> Vec<u8> {
    [domain, mesh.as_bytes(), bytes].concat()
}

/// The membership that a node presents at the gate, checked but for time and revocations.
pub fn presented(
    mesh: &MeshId,
    root: &ed25519::PublicKey,
    node: &PeerId,
    credential: &[u8],
) -> Result<Membership, RecordError> {
    let credential = v1::Credential::decode(credential).map_err(|_| RecordError::Bad("encoding"))?;
    // Its root key is there for whoever knows the mesh by its id only; here it must be the known one.
    if credential.root_key.as_ref() != root.to_bytes() {
        return Err(RecordError::OtherMesh);
    }
    let membership = verify(mesh, root, credential.membership.ok_or(RecordError::Bad("encoding"))?)?;
    if membership.own().node == *node { Ok(membership) } else { Err(RecordError::Authority) }
}
