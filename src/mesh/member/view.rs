//! What the rest of the program sees of memberships and revocations.

use super::membership::{Membership, RecordError, Revocation};
use super::role::Role;
use super::roster::Denied;
use crate::capability::PeerId;

/// A node that is or was a member, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberView {
    /// Which node.
    pub node: PeerId,
    /// What it called itself when it was last heard of.
    pub name: Option<String>,
    /// Its role.
    pub role: Role,
    /// Why its membership does not hold now.
    pub denied: Option<Denied>,
    /// When it was issued, Unix milliseconds.
    pub issued_ms: u64,
    /// Until when it holds.
    pub expires_ms: u64,
    /// The admin that issued it; `None`: the root key.
    pub issuer: Option<PeerId>,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
    /// Why, as the admin wrote it.
    pub reason: Option<String>,
}

/// A node that was revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Nodes that the revoked admin had let in, and that got a new membership because of it.
    pub reissued: Vec<PeerId>,
    /// Those that were not kept.
    pub cut: Vec<PeerId>,
}

/// What came of records of another roster.
#[derive(Debug, Default)]
pub struct Merged {
    /// How many were news.
    pub news: usize,
    /// Whether one of them was a membership of a node that was no member here before.
    pub newcomers: bool,
    /// The record that no honest node would have passed on.
    pub fault: Option<RecordError>,
}

/// What there is to do about this node's own membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing.
    NotDue,
    /// It was renewed with the root key.
    Done,
    /// An admin must be asked.
    Ask,
}

/// A membership for people.
pub(super) fn view(membership: &Membership, denied: Option<Denied>, revocation: Option<&Revocation>) -> MemberView {
    let own = membership.own();
    MemberView {
        node: own.node,
        name: None,
        role: own.role,
        denied,
        issued_ms: own.serial,
        expires_ms: own.expires_ms,
        issuer: membership.issuer(),
        revoked_ms: revocation.map(|revocation| revocation.serial),
        reason: revocation.map(|revocation| revocation.reason.clone()).filter(|reason| !reason.is_empty()),
    }
}
