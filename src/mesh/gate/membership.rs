//! What makes a node a member: what this node presents at the gate, and whom it lets in.
//!
//! In an open mesh the credential is empty and every node that proves its id is a member; which addresses may
//! knock at all is decided before. In a closed one every node presents its membership, or, once, an invite. There is
//! one path through the gate for all of them.

use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message as _;

use super::admission::Admission;
use super::pairing::Pairing;
use crate::capability::PeerId;
use crate::mesh::member::{Closed, Side, Token, presented};
use crate::wire::v1;
use crate::wire::v1::proof::Credential;

/// The rule of membership.
#[derive(Debug, Clone)]
pub enum Membership {
    /// Everybody who knows the mesh's name and knocks from an admitted address.
    Open(Admission),
    /// Who has a membership, or gets one for an invite.
    Closed(Closed),
    /// Nobody yet: this node knocks with an invite.
    Joining(Joining),
    /// Nobody yet: this node was told a spoken code.
    Pairing(Pairing),
}

/// A newcomer with an invite, and what it was granted.
#[derive(Debug, Clone)]
pub struct Joining {
    token: Arc<Token>,
    granted: Arc<Mutex<Option<v1::SignedMembership>>>,
}

impl Joining {
    /// With this invite.
    #[must_use]
    pub fn new(token: Token) -> Self {
        Self { token: Arc::new(token), granted: Arc::default() }
    }

    /// The membership that was granted.
    #[must_use]
    pub fn granted(&self) -> Option<v1::SignedMembership> {
        self.granted.lock().clone()
    }

    /// Checks the membership that the other side grants, and its proof that it knows the invite.
    fn take(&self, own: &PeerId, grant: Option<&v1::Grant>, transcript: &[u8; 32]) -> Result<(), String> {
        let grant = grant.ok_or("it did not honour the invite")?;
        let membership = grant.membership.as_ref().ok_or("it granted nothing for the invite")?;
        let side = Side::Issuer { membership: &membership.encode_to_vec() };
        if !self.token.key().is_proof(&grant.mac, transcript, side) {
            return Err("it does not know the invite that it was shown".into());
        }
        let (mesh, root) = (self.token.mesh(), self.token.root());
        let credential =
            v1::Credential { root_key: root.to_bytes().to_vec().into(), membership: Some(membership.clone()) };
        presented(&mesh, root, own, &credential.encode_to_vec()).map_err(|error| error.to_string())?;
        *self.granted.lock() = Some(membership.clone());
        Ok(())
    }
}

/// What a proof that was shown leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// Its sender is a member.
    Member,
    /// Its sender is a newcomer with an invite, about which somebody must be asked.
    Invite(v1::InviteProof),
}

impl Membership {
    /// Whose addresses may knock. A closed mesh knows its members, wherever they are.
    #[must_use]
    pub const fn admission(&self) -> Admission {
        match self {
            Self::Open(admission) => *admission,
            Self::Closed(_) | Self::Joining(_) | Self::Pairing(_) => Admission::Everybody,
        }
    }

    /// What this node presents; `transcript` is that of its own side.
    #[must_use]
    pub fn credential(&self, transcript: &[u8; 32]) -> Option<Credential> {
        match self {
            Self::Open(_) | Self::Pairing(_) => None,
            Self::Closed(closed) => Some(Credential::Membership(closed.credential().into())),
            Self::Joining(joining) => {
                let mac = joining.token.key().prove(transcript, Side::Joiner);
                let proof = v1::InviteProof {
                    id: joining.token.id().to_vec().into(),
                    mac: mac.as_bytes().to_vec().into(),
                    issuer: joining.token.issuer.to_bytes().into(),
                };
                Some(Credential::Invite(proof.encode_to_vec().into()))
            }
        }
    }

    /// Whether the node that sent this proof is a member; why not, if not. `own` is this node, and `transcript` that of
    /// the other side.
    ///
    /// # Errors
    ///
    /// One sentence for the other side.
    pub fn admits(
        &self,
        own: &PeerId,
        node: &PeerId,
        proof: &v1::Proof,
        transcript: &[u8; 32],
    ) -> Result<Shown, String> {
        match (self, proof.credential.as_ref()) {
            (Self::Open(_), None) => Ok(Shown::Member),
            (Self::Open(_), Some(_)) => Err("this mesh is open and takes no credential".into()),
            (Self::Closed(closed), Some(Credential::Membership(shown))) => {
                closed.admits(node, shown).map(|_| Shown::Member)
            }
            (Self::Closed(_), Some(Credential::Invite(shown))) => {
                let invite = v1::InviteProof::decode(shown.clone()).map_err(|_| "the invite cannot be decoded")?;
                Ok(Shown::Invite(invite))
            }
            (Self::Closed(_), None) => Err("this mesh is closed, and it has neither a membership nor an invite".into()),
            (Self::Joining(joining), Some(Credential::Membership(shown))) => {
                presented(&joining.token.mesh(), joining.token.root(), node, shown)
                    .map_err(|error| error.to_string())?;
                joining.take(own, proof.grant.as_ref(), transcript).map(|()| Shown::Member)
            }
            (Self::Pairing(_), _) => Err("it was asked for a spoken code, and for nothing else".into()),
            (Self::Joining(_), _) => Err("it has no membership of the mesh that the invite is for".into()),
        }
    }
}
