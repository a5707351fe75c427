//! What makes a node a member: what this node presents at the gate, and whom it lets in.
//!
//! In an open mesh the credential is empty and every node that proves its id is a member; which addresses may
//! knock at all is decided before. A closed mesh is one more variant here, not another path through the gate.

use super::admission::Admission;
use crate::capability::PeerId;
use crate::wire::v1::proof::Credential;

/// The rule of membership.
#[derive(Debug, Clone)]
pub enum Membership {
    /// Everybody who knows the mesh's name and knocks from an admitted address.
    Open(Admission),
}

impl Membership {
    /// Whose addresses may knock.
    #[must_use]
    pub const fn admission(&self) -> Admission {
        match self {
            Self::Open(admission) => *admission,
        }
    }

    /// What this node presents.
    #[must_use]
    pub fn credential(&self) -> Option<Credential> {
        match self {
            Self::Open(_) => None,
        }
    }

    /// Whether the node that presents this is a member; why not, if not.
    ///
    /// # Errors
    ///
    /// One sentence for the other side.
    pub fn admits(&self, _node: &PeerId, credential: Option<&Credential>) -> Result<(), String> {
        match (self, credential) {
            (Self::Open(_), None) => Ok(()),
            (Self::Open(_), Some(_)) => Err("this mesh is open and takes no credential".into()),
        }
    }
}
