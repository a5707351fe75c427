//! What the handle asks of the driver.

use std::sync::Arc;

use libp2p::Multiaddr;
use tokio::sync::oneshot;

use super::address::Seed;
use super::member::Closed;
use super::situation::Situation;
use crate::capability::{Capability, PeerId};
use crate::wire::v1;

/// Why a seed could not be joined. It is tried again all the same, for ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It did not answer; the text names the seed, the cause and the way out.
    #[error("{0}")]
    Unreachable(String),
    /// It is this node.
    #[error("{0} is this node itself (give the address of another one)")]
    Itself(String),
    /// There are too many seeds.
    #[error("there are {0} seeds already, which is the most that are kept (a mesh needs one that answers)")]
    TooMany(usize),
    /// It took too long.
    #[error("seed {0} has not answered yet; it is tried further")]
    TimedOut(String),
    /// The mesh has stopped.
    #[error("this node has left the mesh")]
    Stopped,
}

/// Where the answer of another node goes, or why there is none.
pub type Answerer = oneshot::Sender<Result<v1::SyncResponse, String>>;

/// What the handle asks of the driver.
#[derive(Debug)]
pub enum Command {
    /// Ask another node something.
    Ask {
        /// Which; it must be connected.
        node: PeerId,
        /// What.
        request: v1::SyncRequest,
        /// Where the answer goes.
        reply: Answerer,
    },
    /// Tell what this node knows of its own situation.
    Describe {
        /// Where the answer goes.
        reply: oneshot::Sender<Situation>,
    },
    /// Tell the mesh what this node can do.
    Advertise {
        /// All of it.
        capabilities: Vec<Arc<Capability>>,
        /// Load class, 0 to 4.
        load: u8,
    },
    /// Connect to one more seed.
    Join {
        /// Which.
        seed: Seed,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<PeerId, JoinError>>,
    },
    /// Tell where others reach this node, best first.
    Addresses {
        /// Where the answer goes.
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    /// Go on in another mesh.
    Change(Change),
    /// This node's membership is new: those that refused it are tried again.
    Renewed,
    /// Tell the mesh that this node leaves, and go on with what runs.
    SayGoodbye,
    /// Fail, as a fault in a behaviour would make it.
    #[cfg(test)]
    Panic,
    /// Say goodbye and stop.
    Leave {
        /// Told when it is done.
        reply: oneshot::Sender<()>,
    },
}

/// From one mesh to another.
#[derive(Debug)]
pub struct Change {
    /// The closed mesh to go to, or the name of the open one.
    pub closed: Option<Closed>,
    /// Its name.
    pub mesh_name: String,
    /// Told when the node is there.
    pub reply: oneshot::Sender<()>,
}
