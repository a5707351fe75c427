//! What the owner decides about the mesh.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use super::address::{DEFAULT_GOSSIP_PORT, Seed};
use super::gate::Admission;
use super::id::MeshId;
use super::member::Closed;

/// The mesh that nodes without a mesh name of their own belong to.
pub const DEFAULT_MESH_NAME: &str = "atmosphere";

/// How long an advert is believed without a sign of life: four beats, three of which may be lost.
pub const DEFAULT_ADVERT_TTL: Duration = Duration::from_secs(60);

/// What the owner decides about the mesh.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which open mesh; of no account in a closed one.
    pub mesh_name: String,
    /// The closed mesh that this node is a member of, if it is.
    pub closed: Option<Closed>,
    /// This node's human name.
    pub node_name: String,
    /// The program's version, for others to see.
    pub version: String,
    /// Port for QUIC and TCP alike. 0 takes a free one. `None` listens on no network at all.
    pub gossip_port: Option<u16>,
    /// Addresses to listen on. IPv6 is left out where the system has none.
    pub bind: Vec<IpAddr>,
    /// Further addresses to listen on, such as `/memory/7`.
    pub listen: Vec<Multiaddr>,
    /// Where to find a first node.
    pub seeds: Vec<Seed>,
    /// Whether to find nodes on the same network by mDNS.
    pub mdns: bool,
    /// Whether to ask the router for a port by UPnP.
    pub upnp: bool,
    /// Whether to relay for members.
    pub relay_server: RelayServer,
    /// Addresses at which the owner knows this node to be reachable from the internet.
    pub external_addresses: Vec<Multiaddr>,
    /// Who may knock at an open mesh.
    pub admit: Admission,
    /// How long this node's adverts are believed without a sign of life.
    pub advert_ttl: Duration,
    /// How long the first advert waits for somebody to say what this node can do. One that is made before would replace what
    /// others know of the run before this.
    pub first_advert_within: Duration,
    /// Where the peer book and the epoch are kept; without it they are forgotten.
    pub data_dir: Option<PathBuf>,
    /// The runtime of the connections, and of the driver unless it has a thread of its own. Calls pass between the
    /// connections and those who make and serve them, so that one runtime for all serves them best. Without one the mesh
    /// makes a small one of its own.
    pub runtime: Option<tokio::runtime::Handle>,
    /// Whether the driver has a thread of its own, so that neither it nor a busy runtime holds up the other.
    pub own_thread: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mesh_name: DEFAULT_MESH_NAME.to_owned(),
            closed: None,
            node_name: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gossip_port: Some(DEFAULT_GOSSIP_PORT),
            bind: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            listen: Vec::new(),
            seeds: Vec::new(),
            mdns: true,
            upnp: true,
            relay_server: RelayServer::Auto,
            external_addresses: Vec::new(),
            admit: Admission::Private,
            advert_ttl: DEFAULT_ADVERT_TTL,
            first_advert_within: Duration::ZERO,
            data_dir: None,
            runtime: None,
            own_thread: false,
        }
    }
}

impl Settings {
    /// Which mesh.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        self.closed.as_ref().map_or_else(|| MeshId::open(&self.mesh_name), Closed::mesh)
    }
}

/// Whether this node relays for members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayServer {
    /// Always.
    On,
    /// Never.
    Off,
    /// While it can be reached from the internet.
    #[default]
    Auto,
}
