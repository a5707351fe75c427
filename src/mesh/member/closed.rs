//! A closed mesh as one of its members knows it: its own membership, the roster, its invites, and perhaps the root key.
//!
//! The gate, the driver and the API share one [`Closed`]. What it decides is pure and lies beside this file; here is
//! what it is decided with, under one lock that is never held while waiting, and what is kept of it on disk.
//!
//! Whoever admits newcomers by other means than invites needs two of its functions: [`Closed::issue`] on the side of the
//! admin, and [`Closed::adopt`] on the side of the newcomer.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::identity::{Keypair, ed25519};
use parking_lot::Mutex;
use prost::Message as _;

use super::error::MemberError;
use super::files::{self, Encoded, Kept};
use super::invite::{InviteError, InviteKey, InviteOptions, Invites, MAX_LIFE, MAX_USES, Side};
use super::membership::{Issuer, RecordError, Terms, presented, verify};
use super::role::Role;
use super::roster::{Denied, Entry, Roster, ms};
use super::state::{ADMIN_LIFETIME, Keys, State, now_ms};
use super::token::{Invited, MAX_ADDRESSES, Token};
use super::view::{MemberView, Renewal, Revoked, view};
use crate::capability::PeerId;
use crate::mesh::id::MeshId;
use crate::mesh::identity::Identity;
use crate::mesh::pair::{Away, Desk, Pass};
use crate::wire::v1;
use crate::wire::v1::roster_record::Record;

/// Longest name of a mesh, as for nodes.
const MAX_NAME_CHARS: usize = 63;

/// A closed mesh as one of its members knows it. Cheap to clone.
#[derive(Clone)]
pub struct Closed(pub(super) Arc<Inner>);

pub(super) struct Inner {
    name: String,
    pub(super) keys: Keys,
    root: ed25519::PublicKey,
    data_dir: Option<PathBuf>,
    seeds: Vec<Multiaddr>,
    pub(super) state: Mutex<State>,
    /// Held while the file is written, so that an older state never replaces a newer one; whether it is written no more.
    writing: Mutex<bool>,
    /// The spoken code that is offered here, if one is.
    desk: Desk,
}

impl fmt::Debug for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closed").field("name", &self.0.name).field("mesh", &self.0.keys.mesh).finish_non_exhaustive()
    }
}

/// A mesh name that fits a terminal, a host name and an advert.
fn check_name(name: &str) -> Result<(), MemberError> {
    let sound = !name.is_empty()
        && name.chars().count() <= MAX_NAME_CHARS
        && !name.chars().any(|char| char.is_control() || char.is_whitespace() || matches!(char, '@' | '/'));
    let wrong = || {
        format!("{name:?} is no name for a mesh (letters, digits, \"-\", \"_\" and \".\", at most {MAX_NAME_CHARS})")
    };
    if sound { Ok(()) } else { Err(MemberError::Bad(wrong())) }
}

impl Closed {
    /// Makes a new closed mesh with this node as its first admin, and keeps it in `data_dir`.
    ///
    /// # Errors
    ///
    /// When the name is no name, or the files cannot be written.
    pub fn create(data_dir: Option<&Path>, identity: &Identity, name: &str) -> Result<Self, MemberError> {
        check_name(name)?;
        let root_key = Keypair::generate_ed25519();
        let root = files::root_public(&root_key).ok_or(RecordError::Bad("root key"))?;
        let mesh = MeshId::closed(&root);
        let terms = Terms { node: identity.peer_id(), role: Role::Admin, serial: now_ms(), lifetime: ADMIN_LIFETIME };
        let wire = Issuer::Root(&root_key).membership(&mesh, terms)?;
        if let Some(dir) = data_dir {
            // The root key first: a membership without it would be a mesh that nobody can be invited to.
            files::write_root(dir, &root_key)?;
        }
        Self::with(data_dir, identity, name.to_owned(), root, Some(root_key), wire, Vec::new())
    }

    /// Takes on a membership that an admin issued to this node, and keeps it in `data_dir`.
    ///
    /// # Errors
    ///
    /// When it is not one of this mesh or not this node's, or cannot be written.
    pub fn adopt(
        data_dir: Option<&Path>,
        identity: &Identity,
        mesh_name: &str,
        root: &ed25519::PublicKey,
        membership: v1::SignedMembership,
        seeds: Vec<Multiaddr>,
    ) -> Result<Self, MemberError> {
        check_name(mesh_name)?;
        Self::with(data_dir, identity, mesh_name.to_owned(), root.clone(), None, membership, seeds)
    }

    fn with(
        data_dir: Option<&Path>,
        identity: &Identity,
        name: String,
        root: ed25519::PublicKey,
        root_key: Option<Keypair>,
        membership: v1::SignedMembership,
        seeds: Vec<Multiaddr>,
    ) -> Result<Self, MemberError> {
        let mesh = MeshId::closed(&root);
        let own = Arc::new(verify(&mesh, &root, membership)?);
        if own.own().node != identity.peer_id() {
            return Err(MemberError::OtherNode(own.own().node));
        }
        let mut roster = Roster::new(mesh, root.clone());
        roster.add_membership(Arc::clone(&own), now_ms());
        let state = State { dirty: true, ..State::new(own, roster) };
        let closed = Self(Arc::new(Inner {
            desk: Desk::new(name.clone()),
            name,
            keys: Keys { mesh, root_key, identity: identity.clone() },
            root,
            data_dir: data_dir.map(Path::to_owned),
            seeds,
            state: Mutex::new(state),
            writing: Mutex::new(false),
        }));
        closed.save()?;
        Ok(closed)
    }

    /// The closed mesh that the node of this directory is a member of; `None` when it is in an open one.
    ///
    /// # Errors
    ///
    /// When the files cannot be read or understood, or are of another node.
    pub fn open(data_dir: &Path, identity: &Identity) -> Result<Option<Self>, MemberError> {
        let Some(kept) = Kept::read(data_dir)? else { return Ok(None) };
        let bad = RecordError::Bad;
        let root = ed25519::PublicKey::try_from_bytes(&kept.root_key).map_err(|_| bad("root key"))?;
        let root_key = files::read_root(data_dir)?.filter(|key| files::root_public(key).as_ref() == Some(&root));
        let mesh = MeshId::closed(&root);
        let membership = v1::SignedMembership::decode(kept.membership.as_slice()).map_err(|_| bad("encoding"))?;
        let own = Arc::new(verify(&mesh, &root, membership)?);
        if own.own().node != identity.peer_id() {
            return Err(MemberError::OtherNode(own.own().node));
        }
        let now = now_ms();
        let mut roster = Roster::new(mesh, root.clone());
        for Encoded(bytes) in &kept.roster {
            // What cannot be read or has run out is no loss: it comes back by sync.
            let record = v1::RosterRecord::decode(bytes.as_slice());
            if let Err(error) = record.map_err(|_| bad("encoding")).and_then(|record| roster.add(record, now)) {
                tracing::warn!(%error, "a record of the roster on disk is left out");
            }
        }
        roster.add_membership(Arc::clone(&own), now);
        let names = kept.names.into_iter().filter_map(|(node, name)| Some((node.parse().ok()?, name))).collect();
        let state = State { invites: Invites::of(kept.invites), names, ..State::new(own, roster) };
        Ok(Some(Self(Arc::new(Inner {
            desk: Desk::new(kept.name.clone()),
            name: kept.name,
            keys: Keys { mesh, root_key, identity: identity.clone() },
            root,
            data_dir: Some(data_dir.to_owned()),
            seeds: kept.seeds.iter().filter_map(|text| text.parse().ok()).collect(),
            state: Mutex::new(state),
            writing: Mutex::new(false),
        }))))
    }

    /// Leaves the mesh for good: its files are set aside, and nothing more is written. Returns where they are.
    ///
    /// # Errors
    ///
    /// When they cannot be renamed.
    pub fn set_aside(&self) -> Result<Vec<PathBuf>, MemberError> {
        let mut retired = self.0.writing.lock();
        *retired = true;
        match &self.0.data_dir {
            Some(dir) => Ok(files::set_aside(dir, &self.0.keys.mesh)?),
            None => Ok(Vec::new()),
        }
    }

    /// How long memberships last that this node issues.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.0.state.lock().lifetime = lifetime;
    }

    /// The mesh's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The mesh's id.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        self.0.keys.mesh
    }

    /// The mesh's root.
    #[must_use]
    pub fn root(&self) -> &ed25519::PublicKey {
        &self.0.root
    }

    /// Whether this machine has the mesh's root key.
    #[must_use]
    pub fn has_root(&self) -> bool {
        self.0.keys.root_key.is_some()
    }

    /// Where members were found when this node joined.
    #[must_use]
    pub fn seeds(&self) -> &[Multiaddr] {
        &self.0.seeds
    }

    /// This node's own role, until when, and why its membership does not hold now.
    #[must_use]
    pub fn own(&self) -> MemberView {
        let state = self.0.state.lock();
        view(&state.own, state.roster.judge(&state.own, now_ms()).err(), None)
    }

    /// This node's own role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.0.state.lock().own.own().role
    }

    /// What this node presents at the gate, encoded.
    #[must_use]
    pub fn credential(&self) -> Vec<u8> {
        let membership = v1::SignedMembership::clone(&self.0.state.lock().own.wire);
        v1::Credential { root_key: self.0.root.to_bytes().to_vec().into(), membership: Some(membership) }
            .encode_to_vec()
    }

    /// Judges what another node presents at the gate.
    ///
    /// # Errors
    ///
    /// Why it is not a member, for the other side.
    pub fn admits(&self, node: &PeerId, credential: &[u8]) -> Result<Role, String> {
        let membership =
            presented(&self.0.keys.mesh, &self.0.root, node, credential).map_err(|error| error.to_string())?;
        let membership = Arc::new(membership);
        let now = now_ms();
        let mut state = self.0.state.lock();
        let role = state.roster.judge(&membership, now).map_err(|denied| denied.to_string())?;
        if state.roster.add_membership(Arc::clone(&membership), now) {
            let record = Record::Membership(v1::SignedMembership::clone(&membership.wire));
            state.tell(v1::RosterRecord { record: Some(record) });
        }
        Ok(role)
    }

    /// The role of a node that is a member now, as far as this node knows.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn role_of(&self, node: &PeerId) -> Result<Role, Denied> {
        self.0.state.lock().roster.role_of(node, now_ms())
    }

    /// Why a node is no member any more, if it was revoked: for the node itself.
    #[must_use]
    pub fn revocation_of(&self, node: &PeerId) -> Option<v1::SignedRevocation> {
        self.0.state.lock().roster.revocation_of(node).map(|revocation| v1::SignedRevocation::clone(&revocation.wire))
    }

    /// A node calls itself that: by this name its owner knows it, also when it is away.
    pub fn heard(&self, node: &PeerId, name: &str) {
        self.0.state.lock().heard(node, name);
    }

    /// All nodes that are or were members.
    #[must_use]
    pub fn members(&self) -> Vec<MemberView> {
        let state = self.0.state.lock();
        let entries = state.roster.entries(now_ms()).into_iter();
        let shown = |entry: Entry| {
            let name = state.names.get(&entry.membership.own().node).cloned();
            MemberView { name, ..view(&entry.membership, entry.denied, entry.revocation.as_deref()) }
        };
        entries.map(shown).collect()
    }

    /// Issues a membership to a node, which may be a member already.
    ///
    /// # Errors
    ///
    /// When this node may not.
    pub fn issue(&self, node: PeerId, role: Role) -> Result<v1::SignedMembership, MemberError> {
        self.0.state.lock().issue(&self.0.keys, node, role)
    }

    /// Makes an invite for newcomers who find a member at one of these addresses, and keeps it.
    ///
    /// # Errors
    ///
    /// When this node may not, the options make no sense, or it cannot be kept.
    pub fn invite(&self, options: InviteOptions, addresses: Vec<Multiaddr>) -> Result<Invited, MemberError> {
        if options.uses == 0 || options.uses > MAX_USES {
            return Err(MemberError::Bad(format!("an invite is for 1 to {MAX_USES} nodes, not {}", options.uses)));
        }
        if options.life < Duration::from_secs(1) || options.life > MAX_LIFE {
            return Err(MemberError::Bad("an invite can be used for one second to one year".into()));
        }
        if addresses.is_empty() {
            return Err(MemberError::NoAddress);
        }
        let (id, secret) = (rand::random(), rand::random());
        let now = now_ms();
        {
            let mut state = self.0.state.lock();
            state.issuer(&self.0.keys)?;
            state.invites.add(id, InviteKey::derive(&id, &secret), options, now);
        }
        self.save()?;
        let token = Token::new(
            self.0.root.clone(),
            id,
            secret,
            self.0.name.clone(),
            now.saturating_add(ms(options.life)) / 1000,
            self.0.keys.identity.peer_id(),
            addresses.into_iter().take(MAX_ADDRESSES).collect(),
            options.role,
        );
        Ok(Invited { token, uses: options.uses })
    }

    /// A newcomer presents an invite. `joiner` and `issuer` are the two sides' transcripts of the handshake. The use is
    /// on disk when this returns, so it may wait for the disk.
    ///
    /// # Errors
    ///
    /// Why the newcomer is not let in.
    pub fn redeem(
        &self,
        node: PeerId,
        invite: &v1::InviteProof,
        joiner: &[u8; 32],
        issuer: &[u8; 32],
    ) -> Result<v1::Grant, InviteError> {
        let now = now_ms();
        let (membership, key, counts) = {
            let mut state = self.0.state.lock();
            let through = state.roster.revoked_through(&node);
            let (role, key, counts) = state.invites.redeem(node, &invite.id, &invite.mac, joiner, through, now)?;
            match state.issue(&self.0.keys, node, role) {
                Ok(membership) => (membership, key, counts),
                Err(error) => {
                    tracing::warn!(%error, %node, "an invite cannot be honoured");
                    if counts {
                        state.invites.give_back(&invite.id, &node);
                    }
                    return Err(InviteError::NotAdmin);
                }
            }
        };
        if let Err(error) = self.save() {
            tracing::warn!(%error, "an invite cannot be honoured");
            if counts {
                self.0.state.lock().invites.give_back(&invite.id, &node);
            }
            return Err(InviteError::Disk);
        }
        self.0.desk.redeemed(&invite.id);
        let bytes = membership.encode_to_vec();
        let mac = key.prove(issuer, Side::Issuer { membership: &bytes }).as_bytes().to_vec().into();
        Ok(v1::Grant { membership: Some(membership), mac })
    }

    /// The spoken code that this node offers, for its owner and the gate.
    #[must_use]
    pub fn desk(&self) -> &Desk {
        &self.0.desk
    }

    /// Whether this node may let others in.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn may_issue(&self) -> Result<(), MemberError> {
        self.0.state.lock().issuer(&self.0.keys).map(drop)
    }

    /// Keeps an invite for one node, of which both sides know id and secret already.
    ///
    /// # Errors
    ///
    /// When this node may not let anybody in, or it cannot be kept.
    pub fn admit(&self, pass: &Pass) -> Result<(), MemberError> {
        let now = now_ms();
        let life = Duration::from_millis(pass.expires_ms.saturating_sub(now));
        let options = InviteOptions { life, uses: 1, role: pass.role };
        {
            let mut state = self.0.state.lock();
            state.issuer(&self.0.keys)?;
            state.invites.add(pass.id, InviteKey::derive(&pass.id, &pass.secret), options, now);
            state.invites.bind(&pass.id, pass.node);
        }
        self.save()
    }

    /// A newcomer presents an invite that may come of a spoken code offered here.
    ///
    /// # Errors
    ///
    /// When it does, and nobody has said yes yet, or somebody said no.
    pub fn of_pairing(&self, node: &PeerId, invite: &v1::InviteProof, joiner: &[u8; 32]) -> Result<(), Away> {
        self.0.desk.presents(node, &invite.id, |id, secret| {
            InviteKey::derive(id, secret).is_proof(&invite.mac, joiner, Side::Joiner)
        })
    }

    /// Ends the membership of a node, for all members. Nodes that it let in as an admin get a new one from here, unless
    /// they are to go with it.
    ///
    /// # Errors
    ///
    /// When this node may not, or it cannot be kept.
    pub fn revoke(&self, node: PeerId, reason: &str, with_its_own: bool) -> Result<Revoked, MemberError> {
        if node == self.0.keys.identity.peer_id() {
            let why = "this is the node itself; to leave the mesh, run atmosphere mesh leave on it";
            return Err(MemberError::Bad(why.into()));
        }
        if crate::mesh::identity::public_key(&node).is_none() {
            return Err(MemberError::Bad(format!("{node} is not the id of a node")));
        }
        let mut revoked = Revoked::default();
        {
            let mut state = self.0.state.lock();
            let now = now_ms();
            let before: Vec<_> = state.roster.entries(now).into_iter().filter(|entry| entry.denied.is_none()).collect();
            let serial = state.next_serial(&node, now);
            let record = state.issuer(&self.0.keys)?.revocation(&self.0.keys.mesh, node, serial, reason)?;
            let record = v1::RosterRecord { record: Some(Record::Revocation(record)) };
            if !state.roster.add(record.clone(), now)? {
                return Err(MemberError::Bad("the roster is full of revocations".into()));
            }
            state.tell(record);
            for entry in before {
                let member = entry.membership.own();
                let lost = matches!(state.roster.judge(&entry.membership, now), Err(Denied::IssuerRevoked));
                if !lost {
                    continue;
                }
                if with_its_own {
                    revoked.cut.push(member.node);
                } else {
                    state.issue(&self.0.keys, member.node, member.role)?;
                    revoked.reissued.push(member.node);
                }
            }
        }
        self.save()?;
        Ok(revoked)
    }

    /// A member asks for its membership anew, with the role that it has.
    ///
    /// # Errors
    ///
    /// When it is no member, or this node may not.
    pub fn renew(&self, node: PeerId) -> Result<v1::SignedMembership, MemberError> {
        let mut state = self.0.state.lock();
        let role = state.roster.role_of(&node, now_ms()).map_err(MemberError::Denied)?;
        state.issue(&self.0.keys, node, role)
    }

    /// Takes on a membership of this node that an admin issued anew. It is on disk after the next [`Closed::save`].
    ///
    /// # Errors
    ///
    /// When it is not one, or no better than the one there is.
    pub fn take_renewed(&self, membership: v1::SignedMembership) -> Result<(), MemberError> {
        let record = v1::RosterRecord { record: Some(Record::Membership(membership)) };
        let mut state = self.0.state.lock();
        if state.roster.add(record.clone(), now_ms())? {
            state.tell(record);
        }
        state.take_own(&self.0.keys.identity.peer_id());
        Ok(())
    }

    /// What there is to do about this node's own membership, once half of its time is over. Whoever has the root key
    /// renews it at once.
    pub fn renewal(&self) -> Renewal {
        let now = now_ms();
        let mut state = self.0.state.lock();
        let own = state.own.own();
        let holds = state.roster.judge(&state.own, now).is_ok();
        let half = own.not_before_ms + (own.expires_ms - own.not_before_ms) / 2;
        if holds && now < half {
            return Renewal::NotDue;
        }
        if self.0.keys.root_key.is_none() {
            return Renewal::Ask;
        }
        match state.issue(&self.0.keys, own.node, Role::Admin) {
            Ok(_) => {
                state.take_own(&own.node);
                Renewal::Done
            }
            Err(error) => {
                tracing::warn!(%error, "cannot renew this node's membership");
                Renewal::NotDue
            }
        }
    }

    /// Grows with every change of the roster or of this node's own membership.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.state.lock().revision
    }

    /// Forgets what has long run out.
    pub fn expire(&self) {
        self.0.state.lock().roster.expire(now_ms());
    }

    /// Whether something changed that is not on disk yet.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.0.state.lock().dirty
    }

    /// Keeps everything on disk. It waits for the disk.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), MemberError> {
        let Some(dir) = &self.0.data_dir else { return Ok(()) };
        let retired = self.0.writing.lock();
        if *retired {
            return Ok(());
        }
        let kept = {
            let mut state = self.0.state.lock();
            state.dirty = false;
            let own = state.own.wire.encode_to_vec();
            let mut kept = Kept::new(self.0.name.clone(), self.0.root.to_bytes(), own);
            kept.seeds = self.0.seeds.iter().map(ToString::to_string).collect();
            kept.roster = state.roster.records().iter().map(|record| Encoded(record.encode_to_vec())).collect();
            kept.invites = state.invites.to_vec();
            let State { names, roster, .. } = &mut *state;
            names.retain(|node, _| roster.membership_of(node).is_some());
            kept.names = names.iter().map(|(node, name)| (node.to_base58(), name.clone())).collect();
            kept
        };
        kept.write(dir).inspect_err(|_| self.0.state.lock().dirty = true)?;
        Ok(())
    }
}
