//! What the rest of the program may see of the mesh: a plain snapshot, without libp2p's types.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::member::MemberView;
use crate::capability::PeerId;

/// The mesh as this node sees it at one moment.
#[derive(Debug, Clone)]
pub struct MeshView {
    /// Hex of the 32-byte mesh id.
    pub mesh_id: String,
    /// The mesh's name.
    pub mesh_name: String,
    /// This node's membership, when the mesh is a closed one.
    pub membership: Option<MemberView>,
    /// This node.
    pub node: PeerId,
    /// Multiaddresses that this node listens on, without wildcards.
    pub listening: Vec<String>,
    /// Nodes with a live connection.
    pub peers: BTreeMap<PeerId, PeerView>,
    /// The seeds and how they fare.
    pub seeds: Vec<SeedView>,
}

/// A node with a live connection. Where there are several, this is the one that calls take.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerView {
    /// How near it is.
    pub path: PathClass,
    /// What carries the connection.
    pub transport: LinkTransport,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
    /// Its end of the connection.
    pub address: String,
    /// Live connections to it.
    pub connections: u32,
}

/// A seed and how it fares.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeedView {
    /// As the owner wrote it.
    pub seed: String,
    /// The node that answered there.
    pub node: Option<String>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Why the last attempt failed, and what to do.
    pub error: Option<String>,
}

/// How near a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathClass {
    /// This node itself.
    #[serde(rename = "self")]
    Itself,
    /// On the same machine.
    Local,
    /// On the same network: private or link-local addresses.
    Lan,
    /// Direct over the internet.
    Wan,
    /// Through a relay.
    Relayed,
}

impl fmt::Display for PathClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Itself => "self",
            Self::Local => "local",
            Self::Lan => "lan",
            Self::Wan => "wan",
            Self::Relayed => "relayed",
        })
    }
}

/// What carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkTransport {
    /// QUIC over UDP.
    Quic,
    /// TCP with noise and yamux.
    Tcp,
    /// Another member passes it on.
    Relay,
    /// Within one process, in tests.
    Memory,
}
