//! Why a node does not start.

use crate::api;
use crate::config::DataDirError;
#[cfg(feature = "fastembed")]
use crate::embedding::OnnxError;
use crate::mesh::{self, IdentityError};

/// Why a node could not start, in words that say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A setting that only its part can judge is wrong.
    #[error("{field}: {message}")]
    Setting {
        /// Which.
        field: String,
        /// What is wrong, and the way out.
        message: String,
    },
    /// The embedder that the owner wants is not there.
    #[cfg(feature = "fastembed")]
    #[error("embedder: {0}")]
    Embedder(#[from] OnnxError),
    /// The mesh cannot start.
    #[error(transparent)]
    Mesh(#[from] mesh::StartError),
    /// The closed mesh that this node belongs to, or shall join.
    #[error(transparent)]
    Entry(#[from] mesh::EntryError),
    /// What it knows of that mesh.
    #[error(transparent)]
    Member(#[from] mesh::MemberError),
    /// The API cannot start.
    #[error(transparent)]
    Api(#[from] api::ServeError),
    /// The system refuses.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A part ended by itself while the node ran.
    #[error("{0} ended by itself (the log says why); start the node again")]
    Lost(&'static str),
}
