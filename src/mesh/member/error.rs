//! Why something about memberships could not be done.

use super::files::FilesError;
use super::membership::RecordError;
use super::role::Role;
use super::roster::Denied;
use crate::capability::PeerId;

/// Why something about memberships could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A record is not one of this mesh.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The mesh is an open one.
    #[error(
        "this node is in an open mesh, which has no members and no invites (atmosphere mesh create NAME makes a closed one)"
    )]
    Open,
    /// This node may not.
    #[error("this node is a {0} of the mesh, and only admins may do that (run it on the machine that made the mesh)")]
    NotAdmin(Role),
    /// This node's own membership does not hold.
    #[error("this node cannot do that, because {0}")]
    Denied(Denied),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Bad(String),
    /// It is of another node than this.
    #[error(
        "the membership in the data directory is that of node {0}; was the directory copied? (join with a new invite)"
    )]
    OtherNode(PeerId),
    /// There is no address that others could dial.
    #[error("this node listens on no address that others could reach, so nobody could use the invite")]
    NoAddress,
}
