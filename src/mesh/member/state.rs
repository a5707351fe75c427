//! What changes in a closed mesh, and how: this node's membership, the roster, its invites. Under the lock of `closed`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::identity::Keypair;

use super::error::MemberError;
use super::invite::Invites;
use super::membership::{Issuer, Membership, SKEW, Terms};
use super::role::Role;
use super::roster::{Roster, ms};
use crate::capability::PeerId;
use crate::mesh::id::MeshId;
use crate::mesh::identity::Identity;
use crate::wire::v1;
use crate::wire::v1::roster_record::Record;

/// How long an admin's membership lasts: everything that it issues ends with it, and whoever has the root key may be
/// away for long.
pub(super) const ADMIN_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// How long a membership lasts unless the owner says otherwise. It is renewed at half of it, so a machine may be off
/// for six weeks and still come back by itself.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// Records that wait to be told to the neighbours. What is beyond gets there by sync.
const MAX_NEWS: usize = 1024;

/// What this node signs with, and for which mesh.
pub(super) struct Keys {
    pub(super) mesh: MeshId,
    /// The root key itself, on the machine that made the mesh.
    pub(super) root_key: Option<Keypair>,
    pub(super) identity: Identity,
}

/// The wall clock, Unix milliseconds.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ms)
}

/// What changes in a closed mesh, and how.
pub(super) struct State {
    pub(super) own: Arc<Membership>,
    pub(super) roster: Roster,
    pub(super) invites: Invites,
    /// What members called themselves when they were last heard of.
    pub(super) names: HashMap<PeerId, String>,
    pub(super) lifetime: Duration,
    pub(super) last_serial: u64,
    pub(super) news: Vec<v1::RosterRecord>,
    pub(super) revision: u64,
    pub(super) dirty: bool,
}

impl State {
    pub(super) fn new(own: Arc<Membership>, roster: Roster) -> Self {
        Self {
            last_serial: own.own().serial,
            own,
            roster,
            invites: Invites::default(),
            names: HashMap::new(),
            lifetime: DEFAULT_LIFETIME,
            news: Vec::new(),
            revision: 1,
            dirty: false,
        }
    }

    /// Who issues here, when this node may.
    pub(super) fn issuer<'a>(&'a self, keys: &'a Keys) -> Result<Issuer<'a>, MemberError> {
        self.roster.judge(&self.own, now_ms()).map_err(MemberError::Denied).or_else(|error| {
            // The root's word counts whatever became of the membership of its machine.
            if keys.root_key.is_some() { Ok(Role::Admin) } else { Err(error) }
        })?;
        match &keys.root_key {
            Some(root) => Ok(Issuer::Root(root)),
            None if self.own.own().role.issues() => Ok(Issuer::Admin(keys.identity.keypair(), &self.own)),
            None => Err(MemberError::NotAdmin(self.own.own().role)),
        }
    }

    pub(super) fn issue(&mut self, keys: &Keys, node: PeerId, role: Role) -> Result<v1::SignedMembership, MemberError> {
        let now = now_ms();
        let serial = self.next_serial(&node, now);
        let lifetime = if role.issues() { ADMIN_LIFETIME } else { self.lifetime };
        let wire = self.issuer(keys)?.membership(&keys.mesh, Terms { node, role, serial, lifetime })?;
        let record = v1::RosterRecord { record: Some(Record::Membership(wire.clone())) };
        if self.roster.add(record.clone(), now)? {
            self.tell(record);
        }
        Ok(wire)
    }

    /// A serial past every one of this node that is known, and past its revocation.
    pub(super) fn next_serial(&mut self, node: &PeerId, now_ms: u64) -> u64 {
        let known = self.roster.membership_of(node).map_or(0, |membership| membership.own().serial);
        let past = known.max(self.roster.revoked_through(node)).max(self.last_serial);
        // What is in the future would not be believed by the others.
        let latest = now_ms.saturating_add(ms(SKEW) / 2);
        self.last_serial = now_ms.max(past.saturating_add(1)).min(latest);
        self.last_serial
    }

    pub(super) fn tell(&mut self, record: v1::RosterRecord) {
        if self.news.len() < MAX_NEWS {
            self.news.push(record);
        }
        self.revision += 1;
        self.dirty = true;
    }

    /// A node calls itself that. Only of members is it kept.
    pub(super) fn heard(&mut self, node: &PeerId, name: &str) {
        if self.names.get(node).is_none_or(|known| known != name) && self.roster.membership_of(node).is_some() {
            self.names.insert(*node, name.to_owned());
            self.dirty = true;
        }
    }

    /// Takes on this node's own membership when the roster has a better one.
    pub(super) fn take_own(&mut self, node: &PeerId) {
        let Some(known) = self.roster.membership_of(node) else { return };
        if known != self.own && known.own().serial > self.own.own().serial {
            self.own = known;
            self.revision += 1;
            self.dirty = true;
        }
    }
}
