//! Who belongs to the mesh, as far as this node knows. Pure: records in, judgements out.
//!
//! The roster is a set of signed records that only grows, apart from what has run out: for each node the membership
//! with the greatest serial, and every revocation. Rosters that have the same records judge alike, in whatever order
//! these came.
//!
//! Revocations can contradict each other, when two admins revoke one another. They count in this order: those of the
//! root first, then those of admins that are nearer to the root, then the earlier ones. One whose issuer is revoked
//! by those before it does not count. So the root has the last word, and a lost admin cannot undo its own revocation.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::ed25519;
use prost::Message as _;

use super::membership::{Link, MAX_LIFETIME, Membership, RecordError, Revocation, SKEW, verify, verify_revocation};
use super::role::Role;
use crate::capability::PeerId;
use crate::mesh::id::MeshId;
use crate::wire::v1;
use crate::wire::v1::roster_record::Record;

/// Memberships that are kept: several times the largest mesh that this is made for.
const MAX_MEMBERS: usize = 2048;

/// Revocations that are kept. Where there are more, those that count first stay.
const MAX_REVOCATIONS: usize = 4096;

/// How long a membership that ran out is still listed.
const LISTED_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of a record's id.
pub const ID_BYTES: usize = 16;

/// Bytes of records on one page of a sync.
const PAGE_BYTES: usize = 256 * 1024;

/// Names a record by its content.
pub type RecordId = [u8; ID_BYTES];

/// Why a node is not a member now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It has no membership that is known here.
    #[error("it is not a member of this mesh (ask an admin for an invite)")]
    Unknown,
    /// Its membership begins later.
    #[error("its membership begins in the future (do the clocks of both machines agree?)")]
    NotYet,
    /// Its membership ran out.
    #[error("its membership ran out on {0} (ask an admin for a new invite; do the clocks of both machines agree?)")]
    Expired(String),
    /// It was revoked.
    #[error("its membership was revoked (an admin can invite it anew)")]
    Revoked,
    /// The admin who issued it was revoked.
    #[error("its membership was issued by an admin that was revoked (ask another admin for an invite)")]
    IssuerRevoked,
}

/// A node that is or was a member.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its membership.
    pub membership: Arc<Membership>,
    /// Why it does not hold now.
    pub denied: Option<Denied>,
    /// Why it was revoked, and when, in Unix milliseconds.
    pub revocation: Option<Arc<Revocation>>,
}

/// Who belongs to the mesh.
#[derive(Debug)]
pub struct Roster {
    mesh: MeshId,
    root: ed25519::PublicKey,
    members: BTreeMap<PeerId, (RecordId, Arc<Membership>)>,
    revocations: BTreeMap<RecordId, Arc<Revocation>>,
    /// By node, the greatest serial that is revoked, as all revocations together say.
    revoked: HashMap<PeerId, u64>,
}

impl Roster {
    /// That of a mesh of which nothing is known but its root.
    #[must_use]
    pub fn new(mesh: MeshId, root: ed25519::PublicKey) -> Self {
        Self { mesh, root, members: BTreeMap::new(), revocations: BTreeMap::new(), revoked: HashMap::new() }
    }

    /// Takes in a record, and returns whether it is news.
    ///
    /// # Errors
    ///
    /// When no honest node would have passed it on.
    pub fn add(&mut self, record: v1::RosterRecord, now_ms: u64) -> Result<bool, RecordError> {
        match record.record {
            Some(Record::Membership(wire)) => {
                let id = id_of_membership(&wire);
                if self.members.values().any(|(known, _)| *known == id) {
                    return Ok(false);
                }
                Ok(self.add_membership(Arc::new(verify(&self.mesh, &self.root, wire)?), now_ms))
            }
            Some(Record::Revocation(wire)) => {
                let id = id_of(&wire.encode_to_vec());
                if self.revocations.contains_key(&id) {
                    return Ok(false);
                }
                Ok(self.add_revocation(id, verify_revocation(&self.mesh, &self.root, wire)?, now_ms))
            }
            // Of a later version.
            None => Ok(false),
        }
    }

    /// Takes in a membership that was verified, and returns whether it is news.
    pub fn add_membership(&mut self, membership: Arc<Membership>, now_ms: u64) -> bool {
        let own = membership.own();
        if own.serial > now_ms.saturating_add(ms(SKEW)) || self.is_over(&own, now_ms) {
            return false;
        }
        if let Some((_, known)) = self.members.get(&own.node) {
            let better = match (self.judge(known, now_ms).is_ok(), self.judge(&membership, now_ms).is_ok()) {
                (true, false) => false,
                (false, true) => true,
                _ => own.serial > known.own().serial,
            };
            if !better {
                return false;
            }
        } else if self.members.len() >= MAX_MEMBERS {
            self.expire(now_ms);
            let gone = self.members.iter().find(|(_, (_, member))| self.judge(member, now_ms).is_err());
            let Some(gone) = gone.map(|(node, _)| *node) else {
                tracing::warn!(members = MAX_MEMBERS, "the roster is full; a membership is left out");
                return false;
            };
            self.members.remove(&gone);
        }
        self.members.insert(own.node, (id_of_membership(&membership.wire), membership));
        true
    }

    fn add_revocation(&mut self, id: RecordId, revocation: Revocation, now_ms: u64) -> bool {
        if revocation.serial > now_ms.saturating_add(ms(SKEW)) || is_spent(&revocation, now_ms) {
            return false;
        }
        self.revocations.insert(id, Arc::new(revocation));
        self.count_revocations();
        self.revocations.contains_key(&id)
    }

    /// Lets all revocations take effect in their order.
    fn count_revocations(&mut self) {
        let mut all: Vec<_> = self.revocations.iter().map(|(id, revocation)| (*id, Arc::clone(revocation))).collect();
        all.sort_by_key(|(id, revocation)| (revocation.chain.len(), revocation.serial, *id));
        for (id, _) in all.drain(all.len().min(MAX_REVOCATIONS)..) {
            self.revocations.remove(&id);
        }
        self.revoked.clear();
        for (_, revocation) in all {
            if !revocation.chain.iter().any(|link| self.is_revoked(link)) {
                let through = self.revoked.entry(revocation.node).or_default();
                *through = revocation.through.max(*through);
            }
        }
    }

    fn is_revoked(&self, link: &Link) -> bool {
        self.revoked.get(&link.node).is_some_and(|through| link.serial <= *through)
    }

    /// Whether a membership holds now.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn judge(&self, membership: &Membership, now_ms: u64) -> Result<Role, Denied> {
        let own = membership.own();
        if self.is_revoked(&own) {
            return Err(Denied::Revoked);
        }
        if membership.chain().iter().any(|link| self.is_revoked(link)) {
            return Err(Denied::IssuerRevoked);
        }
        if own.not_before_ms > now_ms.saturating_add(ms(SKEW)) {
            return Err(Denied::NotYet);
        }
        if own.expires_ms.saturating_add(ms(SKEW)) <= now_ms {
            return Err(Denied::Expired(date(own.expires_ms)));
        }
        Ok(own.role)
    }

    /// The role of a node that is a member now.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn role_of(&self, node: &PeerId, now_ms: u64) -> Result<Role, Denied> {
        let (_, membership) = self.members.get(node).ok_or(Denied::Unknown)?;
        self.judge(membership, now_ms)
    }

    /// The membership that is known of a node.
    #[must_use]
    pub fn membership_of(&self, node: &PeerId) -> Option<Arc<Membership>> {
        self.members.get(node).map(|(_, membership)| Arc::clone(membership))
    }

    /// Until when memberships of a node are revoked, as serial.
    #[must_use]
    pub fn revoked_through(&self, node: &PeerId) -> u64 {
        self.revoked.get(node).copied().unwrap_or_default()
    }

    /// The revocation of a node that reaches farthest.
    #[must_use]
    pub fn revocation_of(&self, node: &PeerId) -> Option<Arc<Revocation>> {
        let revocations = self.revocations.values().filter(|revocation| revocation.node == *node);
        revocations.max_by_key(|revocation| revocation.through).map(Arc::clone)
    }

    /// All nodes that are or were members, in the order of their ids.
    #[must_use]
    pub fn entries(&self, now_ms: u64) -> Vec<Entry> {
        self.members
            .values()
            .map(|(_, membership)| {
                let node = membership.own().node;
                let denied = self.judge(membership, now_ms).err();
                let revocation = self.revocation_of(&node).filter(|_| denied == Some(Denied::Revoked));
                Entry { membership: Arc::clone(membership), denied, revocation }
            })
            .collect()
    }

    /// Forgets what has long run out.
    pub fn expire(&mut self, now_ms: u64) {
        let over: Vec<_> = self.members.iter().filter(|(_, (_, member))| self.is_over(&member.own(), now_ms)).collect();
        let over: Vec<PeerId> = over.into_iter().map(|(node, _)| *node).collect();
        for node in over {
            self.members.remove(&node);
        }
        let before = self.revocations.len();
        self.revocations.retain(|_, revocation| !is_spent(revocation, now_ms));
        if self.revocations.len() < before {
            self.count_revocations();
        }
    }

    fn is_over(&self, link: &Link, now_ms: u64) -> bool {
        link.expires_ms.saturating_add(ms(LISTED_AFTER)) <= now_ms
    }

    /// All records, as they travel.
    #[must_use]
    pub fn records(&self) -> Vec<v1::RosterRecord> {
        self.iter().map(|(_, record)| record).collect()
    }

    fn iter(&self) -> impl Iterator<Item = (RecordId, v1::RosterRecord)> + '_ {
        // Revocations first: what they end is then not news.
        let revocations = self
            .revocations
            .iter()
            .map(|(id, revocation)| (*id, Record::Revocation(v1::SignedRevocation::clone(&revocation.wire))));
        let members = self
            .members
            .values()
            .map(|(id, member)| (*id, Record::Membership(v1::SignedMembership::clone(&member.wire))));
        revocations.chain(members).map(|(id, record)| (id, v1::RosterRecord { record: Some(record) }))
    }

    /// The ids of all records, one after the other.
    #[must_use]
    pub fn digest(&self) -> Vec<u8> {
        self.revocations.keys().chain(self.members.values().map(|(id, _)| id)).flatten().copied().collect()
    }

    /// What whoever sent this digest lacks, a page at the most, and the ids of what it has and this roster lacks.
    #[must_use]
    pub fn delta(&self, digest: &[u8]) -> (Vec<v1::RosterRecord>, Vec<u8>) {
        let theirs: std::collections::HashSet<RecordId> =
            digest.chunks_exact(ID_BYTES).filter_map(|id| id.try_into().ok()).collect();
        let lacking = page(self.iter().filter(|(id, _)| !theirs.contains(id)).map(|(_, record)| record));
        let mine: std::collections::HashSet<RecordId> =
            self.revocations.keys().copied().chain(self.members.values().map(|(id, _)| *id)).collect();
        let want = theirs.into_iter().filter(|id| !mine.contains(id)).take(MAX_MEMBERS).flatten().collect();
        (lacking, want)
    }

    /// The records with these ids, a page at the most.
    #[must_use]
    pub fn find(&self, ids: &[u8]) -> Vec<v1::RosterRecord> {
        let wanted: std::collections::HashSet<RecordId> =
            ids.chunks_exact(ID_BYTES).filter_map(|id| id.try_into().ok()).collect();
        page(self.iter().filter(|(id, _)| wanted.contains(id)).map(|(_, record)| record))
    }
}

/// As many as fit on a page.
fn page(records: impl Iterator<Item = v1::RosterRecord>) -> Vec<v1::RosterRecord> {
    let mut room = PAGE_BYTES;
    let fits = |record: &v1::RosterRecord| {
        let size = record.encoded_len() + 8;
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    };
    records.take_while(fits).collect()
}

/// Whether nothing that it could end can hold any more.
fn is_spent(revocation: &Revocation, now_ms: u64) -> bool {
    revocation.through.saturating_add(ms(MAX_LIFETIME) + ms(LISTED_AFTER)) <= now_ms
}

fn id_of_membership(wire: &v1::SignedMembership) -> RecordId {
    id_of(&wire.encode_to_vec())
}

fn id_of(bytes: &[u8]) -> RecordId {
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&blake3::hash(bytes).as_bytes()[..ID_BYTES]);
    id
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A point in time for people.
pub fn date(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(unix_ms / 1000));
    time.map_or_else(|| "a day that no calendar has".into(), |time| humantime::format_rfc3339_seconds(time).to_string())
}
