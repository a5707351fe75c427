//! Invites: what an admin keeps of each, and how a newcomer proves that it has one. Pure.
//!
//! An invite is counted by the node that made it, and by no other: so it cannot be used twice at two admins. A use is
//! bound to the node that used it, which may come again with it, as after a crash before it could keep its membership.
//!
//! The secret itself never travels. Both sides derive a key from it, and with it authenticate the transcript of
//! their handshake, which has both node ids and both fresh nonces in it: a proof is of no use on another connection.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::role::Role;
use super::roster::date;
use crate::capability::PeerId;

/// Invites that are remembered. The longest over are forgotten first.
const MAX_INVITES: usize = 512;

/// Nodes that one invite can let in.
pub const MAX_USES: u32 = 1000;

/// Longest life of an invite.
pub const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// How long an invite that is over is remembered, so that whoever comes late is told why.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Derives the key of an invite from its secret.
const KEY_CONTEXT: &str = "atmosphere 2026 invite v1: key of the proofs of one invite";

/// Bytes of an invite's id.
pub const ID_BYTES: usize = 8;

/// Bytes of an invite's secret: it cannot be guessed, by nobody and never.
pub const SECRET_BYTES: usize = 16;

/// Names an invite.
pub type InviteId = [u8; ID_BYTES];

/// Which side's proof it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side<'a> {
    /// The newcomer's.
    Joiner,
    /// The issuer's, for the membership that it grants.
    Issuer {
        /// The encoded membership.
        membership: &'a [u8],
    },
}

/// What both sides derive from the secret. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteKey(#[serde(with = "super::encoding::base64_array")] [u8; 32]);

impl InviteKey {
    /// That of the invite with this id and secret.
    #[must_use]
    pub fn derive(id: &InviteId, secret: &[u8; SECRET_BYTES]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(id);
        hasher.update(secret);
        Self(*hasher.finalize().as_bytes())
    }

    /// One side's proof that it has the key, for this handshake.
    #[must_use]
    pub fn prove(&self, transcript: &[u8; 32], side: Side<'_>) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(transcript);
        match side {
            Side::Joiner => hasher.update(b"joiner"),
            Side::Issuer { membership } => hasher.update(b"issuer").update(membership),
        };
        hasher.finalize()
    }

    /// Whether the other side's proof is right, in constant time.
    #[must_use]
    pub fn is_proof(&self, proof: &[u8], transcript: &[u8; 32], side: Side<'_>) -> bool {
        <[u8; 32]>::try_from(proof).is_ok_and(|proof| self.prove(transcript, side) == proof)
    }
}

impl fmt::Debug for InviteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteKey")
    }
}

/// What an owner wants of an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InviteOptions {
    /// How long it can be used.
    pub life: Duration,
    /// How many nodes it lets in.
    pub uses: u32,
    /// As what.
    pub role: Role,
}

impl Default for InviteOptions {
    /// One machine more, within a day.
    fn default() -> Self {
        Self { life: Duration::from_secs(24 * 3600), uses: 1, role: Role::Member }
    }
}

/// What the issuer keeps of an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    #[serde(with = "super::encoding::base64_array")]
    id: InviteId,
    key: InviteKey,
    role: Role,
    created_ms: u64,
    expires_ms: u64,
    uses: u32,
    #[serde(with = "super::encoding::nodes")]
    used_by: Vec<PeerId>,
    /// The only nodes that it is for; none: for whoever has it.
    #[serde(default, with = "super::encoding::nodes", skip_serializing_if = "Vec::is_empty")]
    only_for: Vec<PeerId>,
}

/// Why an invite is not honoured. The text is for the newcomer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// This node did not make it.
    #[error("this node did not make that invite, or has forgotten it (ask for a new one: atmosphere invite)")]
    Unknown,
    /// Whoever presents it does not have its secret.
    #[error("that invite is forged: its secret is not the right one (ask for a new one: atmosphere invite)")]
    Forged,
    /// It is too late.
    #[error("that invite ran out on {0} (ask for a new one: atmosphere invite)")]
    Expired(String),
    /// Others have used it up.
    #[error("that invite was used already, by {0} of {0} nodes (ask for a new one: atmosphere invite)")]
    Used(u32),
    /// The newcomer was in already, and was thrown out.
    #[error("this node was revoked after that invite was made (ask for a new one: atmosphere invite)")]
    Revoked,
    /// It is for another node.
    #[error("that invite is for another node (ask for one of your own: atmosphere invite)")]
    OtherNode,
    /// This node may not let anybody in.
    #[error("this node is no admin of the mesh any more (ask an admin for an invite)")]
    NotAdmin,
    /// The use could not be kept.
    #[error("this node cannot count the use of that invite: its data directory cannot be written")]
    Disk,
}

/// All invites of this node.
#[derive(Debug, Default, Clone)]
pub struct Invites(BTreeMap<InviteId, Invite>);

impl Invites {
    /// These.
    #[must_use]
    pub fn of(invites: Vec<Invite>) -> Self {
        Self(invites.into_iter().map(|invite| (invite.id, invite)).collect())
    }

    /// As they are kept.
    #[must_use]
    pub fn to_vec(&self) -> Vec<Invite> {
        self.0.values().cloned().collect()
    }

    /// Remembers a new one. `options` must be within the limits.
    pub fn add(&mut self, id: InviteId, key: InviteKey, options: InviteOptions, now_ms: u64) {
        let over = |invite: &Invite| invite.expires_ms.saturating_add(super::roster::ms(REMEMBERED)) <= now_ms;
        self.0.retain(|_, invite| !over(invite));
        while self.0.len() >= MAX_INVITES {
            let Some(first) = self.0.values().min_by_key(|invite| invite.expires_ms).map(|invite| invite.id) else {
                break;
            };
            self.0.remove(&first);
        }
        let invite = Invite {
            id,
            key,
            role: options.role,
            created_ms: now_ms,
            expires_ms: now_ms.saturating_add(super::roster::ms(options.life)),
            uses: options.uses,
            used_by: Vec::new(),
            only_for: Vec::new(),
        };
        self.0.insert(id, invite);
    }

    /// Keeps an invite for this node alone.
    pub fn bind(&mut self, id: &InviteId, node: PeerId) {
        if let Some(invite) = self.0.get_mut(id) {
            invite.only_for = vec![node];
        }
    }

    /// A newcomer presents an invite, with its proof for this handshake. Returns what it is to become, the key to
    /// answer with, and whether this was a use that counts.
    ///
    /// # Errors
    ///
    /// When it is not to be let in.
    pub fn redeem(
        &mut self,
        node: PeerId,
        id: &[u8],
        proof: &[u8],
        transcript: &[u8; 32],
        revoked_through: u64,
        now_ms: u64,
    ) -> Result<(Role, InviteKey, bool), InviteError> {
        let invite = <InviteId>::try_from(id).ok().and_then(|id| self.0.get_mut(&id)).ok_or(InviteError::Unknown)?;
        // Before anything else: who does not have the secret learns nothing of the invite.
        if !invite.key.is_proof(proof, transcript, Side::Joiner) {
            return Err(InviteError::Forged);
        }
        if !invite.only_for.is_empty() && !invite.only_for.contains(&node) {
            return Err(InviteError::OtherNode);
        }
        if invite.expires_ms <= now_ms {
            return Err(InviteError::Expired(date(invite.expires_ms)));
        }
        if revoked_through >= invite.created_ms {
            return Err(InviteError::Revoked);
        }
        let again = invite.used_by.contains(&node);
        if !again {
            if invite.used_by.len() >= invite.uses as usize {
                return Err(InviteError::Used(invite.uses));
            }
            invite.used_by.push(node);
        }
        Ok((invite.role, invite.key.clone(), !again))
    }

    /// A use came to nothing: it does not count.
    pub fn give_back(&mut self, id: &[u8], node: &PeerId) {
        if let Some(invite) = <InviteId>::try_from(id).ok().and_then(|id| self.0.get_mut(&id)) {
            invite.used_by.retain(|user| user != node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const ID: InviteId = [1; ID_BYTES];
    const TRANSCRIPT: [u8; 32] = [9; 32];

    struct Bench {
        invites: Invites,
        key: InviteKey,
    }

    fn bench(options: InviteOptions) -> Bench {
        let key = InviteKey::derive(&ID, &[7; SECRET_BYTES]);
        let mut invites = Invites::default();
        invites.add(ID, key.clone(), options, NOW);
        Bench { invites, key }
    }

    impl Bench {
        fn redeem(&mut self, node: PeerId, now_ms: u64) -> Result<Role, InviteError> {
            let proof = self.key.prove(&TRANSCRIPT, Side::Joiner);
            let redeemed = self.invites.redeem(node, &ID, proof.as_bytes(), &TRANSCRIPT, 0, now_ms);
            redeemed.map(|(role, ..)| role)
        }
    }

    #[test]
    fn an_invite_lets_in_as_many_nodes_as_it_says_and_each_may_come_again() {
        let mut bench = bench(InviteOptions { uses: 2, role: Role::Client, ..InviteOptions::default() });
        let nodes: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        for node in &nodes[..2] {
            assert_eq!(bench.redeem(*node, NOW), Ok(Role::Client));
            assert_eq!(bench.redeem(*node, NOW), Ok(Role::Client), "as after a crash");
        }
        assert_eq!(bench.redeem(nodes[2], NOW), Err(InviteError::Used(2)));
        bench.invites = Invites::of(bench.invites.to_vec());
        assert_eq!(bench.redeem(nodes[2], NOW), Err(InviteError::Used(2)), "after a restart, too");
        bench.invites.give_back(&ID, &nodes[0]);
        assert_eq!(bench.redeem(nodes[2], NOW), Ok(Role::Client));
    }

    #[test]
    fn an_invite_for_one_node_lets_in_no_other() {
        let mut bench = bench(InviteOptions::default());
        let node = PeerId::random();
        bench.invites.bind(&ID, node);
        assert_eq!(bench.redeem(PeerId::random(), NOW), Err(InviteError::OtherNode));
        let kept = serde_json::to_string(&bench.invites.to_vec()).expect("kept");
        bench.invites = Invites::of(serde_json::from_str(&kept).expect("read"));
        assert_eq!(bench.redeem(PeerId::random(), NOW), Err(InviteError::OtherNode), "after a restart, too");
        assert_eq!(bench.redeem(node, NOW), Ok(Role::Member));
    }

    #[test]
    fn an_invite_runs_out() {
        let mut bench = bench(InviteOptions { life: Duration::from_secs(60), ..InviteOptions::default() });
        assert!(matches!(bench.redeem(PeerId::random(), NOW + 60_000), Err(InviteError::Expired(_))));
        assert!(bench.redeem(PeerId::random(), NOW + 59_999).is_ok());
    }

    #[test]
    fn a_proof_holds_for_its_own_handshake_its_own_side_and_its_own_invite() {
        let mut bench = bench(InviteOptions::default());
        let node = PeerId::random();
        let good = bench.key.prove(&TRANSCRIPT, Side::Joiner);
        for (id, proof, transcript, error) in [
            (ID.to_vec(), bench.key.prove(&[8; 32], Side::Joiner), TRANSCRIPT, InviteError::Forged),
            (
                ID.to_vec(),
                bench.key.prove(&TRANSCRIPT, Side::Issuer { membership: b"" }),
                TRANSCRIPT,
                InviteError::Forged,
            ),
            (
                ID.to_vec(),
                InviteKey::derive(&ID, &[8; SECRET_BYTES]).prove(&TRANSCRIPT, Side::Joiner),
                TRANSCRIPT,
                InviteError::Forged,
            ),
            (ID.to_vec(), good, [8; 32], InviteError::Forged),
            (vec![2; ID_BYTES], good, TRANSCRIPT, InviteError::Unknown),
            (vec![], good, TRANSCRIPT, InviteError::Unknown),
        ] {
            let redeemed = bench.invites.redeem(node, &id, proof.as_bytes(), &transcript, 0, NOW);
            assert_eq!(redeemed.map(|(role, ..)| role), Err(error));
        }
        let revoked = bench.invites.redeem(node, &ID, good.as_bytes(), &TRANSCRIPT, NOW, NOW);
        assert_eq!(revoked.map(|(role, ..)| role), Err(InviteError::Revoked));
        assert_eq!(bench.redeem(node, NOW), Ok(Role::Member));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut bench = bench(InviteOptions::default());
        for number in 0..MAX_INVITES as u64 + 10 {
            let id = number.to_be_bytes();
            bench.invites.add(id, bench.key.clone(), InviteOptions::default(), NOW + number);
        }
        assert_eq!(bench.invites.to_vec().len(), MAX_INVITES);
    }
}
