//! File, environment and flags become one validated [`Config`] with plain values.
//!
//! From weak to strong: defaults, the TOML file (`--config`, or `ATMOSPHERE_CONFIG`, or `config.toml` in the data
//! directory when it exists), environment variables `ATMOSPHERE_*`, flags of `atmosphere start`. A stronger value
//! replaces a weaker one, lists too. Everything is checked together, and every problem is told at once with its
//! field, its origin, its value and the way out. A value that is here is valid; what it means is for others.
//!
//! [`DataDir`] is the directory on disk: one running node owns it.

mod alias;
mod backend;
mod data_dir;
mod fields;
mod load;
mod parse;
mod problem;
mod secret;
mod show;
mod source;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use backend::Backend;
pub use data_dir::{ApiFile, DataDir, DataDirError, default_data_dir, url_from_here};
pub use load::{Loaded, load, machine_name};
pub use problem::{ConfigError, Origin, Problem};
pub use secret::{REDACTED, Secret, without_userinfo};
pub use source::{FlagValue, Sources};

use crate::mesh::{DEFAULT_MESH_NAME, Multiaddr, Seed, Token};
use crate::router::Alias;

pub use crate::cache::Mode as CacheMode;
pub use crate::telemetry::LogFormat;

/// The port of the API.
pub const DEFAULT_PORT: u16 = 11451;
/// The port of the mesh, on UDP and TCP.
pub const DEFAULT_GOSSIP_PORT: u16 = 11450;

/// How a node shall be.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The node's human name: the machine's, up to the first dot, unless told otherwise.
    pub name: String,
    /// TCP port of the API; 0 lets the system choose.
    pub port: u16,
    /// Address that the API listens on.
    pub bind: IpAddr,
    /// TCP port for clients that speak only Ollama's API; `None`: there is none. 0 lets the system choose.
    pub ollama_port: Option<u16>,
    /// UDP and TCP port of the mesh; 0 lets the system choose.
    pub gossip_port: u16,
    /// Addresses that the mesh listens on.
    pub gossip_bind: Vec<IpAddr>,
    /// Nodes to join by.
    pub seed_peers: Vec<Seed>,
    /// Invites to join by, given as seeds.
    pub invites: Vec<Token>,
    /// A file with more of both, one on each line, which may come later.
    pub seed_peers_file: Option<PathBuf>,
    /// Backends that the owner named.
    pub backends: Vec<Backend>,
    /// Do not look for nodes on the local network.
    pub no_mdns: bool,
    /// Do not look for backends at their default ports.
    pub no_probe: bool,
    /// Where identity, peer book and snapshots live.
    pub data_dir: PathBuf,
    /// The mesh.
    pub mesh: MeshConfig,
    /// The API.
    pub api: ApiConfig,
    /// Answers that are kept.
    pub cache: CacheConfig,
    /// The router.
    pub router: RouterConfig,
    /// What is done when something goes wrong with a request.
    pub dispatch: DispatchConfig,
    /// What runs calls on this node.
    pub provider: ProviderConfig,
    /// What turns text into vectors.
    pub embedder: EmbedderConfig,
    /// What is logged, and how.
    pub log: LogConfig,
}

/// The mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshConfig {
    /// Nodes of another mesh name do not speak with this one.
    pub name: String,
    /// Make a closed mesh of that name on the first start.
    pub private: bool,
    /// Where an admin keeps an invite for machines that share the file.
    pub invite_file: Option<PathBuf>,
    /// How long memberships last that this node issues.
    pub membership: Duration,
    /// Whose connections an open mesh lets in.
    pub admit: Admit,
    /// How long other nodes believe this node's advert without hearing from it.
    pub advert_ttl: Duration,
    /// Where others reach this node, when it cannot know that itself: a forwarded port, a public name.
    pub external_addresses: Vec<Multiaddr>,
    /// Whether to relay for members that cannot reach each other.
    pub relay: Relay,
    /// Whether to ask the router for a forwarded port.
    pub upnp: bool,
}

/// Whose connections an open mesh lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Peers with loopback, link-local or private addresses.
    Private,
    /// Everybody who can reach the port.
    Everybody,
}

/// Whether a node relays for members that cannot reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// While it can be reached from the internet.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Keys, one of which a client must show; those of `keys_file` among them. Empty: no key is asked for.
    pub keys: Vec<Secret>,
    /// The owner said that the API may be open on an address that others reach.
    pub allow_no_auth: bool,
    /// Largest request body, in bytes.
    pub max_body_bytes: u64,
    /// Requests that are worked on at once.
    pub max_concurrency: usize,
    /// Connections that are open at once.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request, and a connection may be idle.
    pub header_timeout: Duration,
    /// Longest time for a request, streams included.
    pub request_timeout: Duration,
    /// Origins whose pages may call the API from a browser.
    pub allowed_origins: Vec<String>,
    /// Names by which clients may call it, besides its addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
    /// How long a stopping node waits for streams to finish.
    pub drain_limit: Duration,
}

/// Answers that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// Which.
    pub mode: CacheMode,
    /// Bytes of all of them.
    pub size_bytes: u64,
    /// How many.
    pub answers: usize,
    /// How long each.
    pub ttl: Duration,
}

/// The router.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterConfig {
    /// Requests that begin alike go to a node that has read that beginning, while it is worth it.
    pub affinity: bool,
    /// How long a stronger embedder may take to say what a doubtful question means; zero: nobody is asked.
    pub second_opinion: Duration,
    /// Whose embedders may be asked for that.
    pub second_opinion_from: OpinionFrom,
    /// Names of the owner's own, each for models in order of preference or for a wish.
    pub aliases: BTreeMap<String, Alias>,
}

/// Whose embedders may be asked what a doubtful question means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpinionFrom {
    /// Every node's.
    Mesh,
    /// This node's own: no question leaves it for that.
    Itself,
}

/// What is done when something goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DispatchConfig {
    /// Another node goes on with a streamed answer whose node is lost, where that is honest.
    pub failover: bool,
    /// A second node is asked when the first takes unusually long to begin.
    pub hedge: bool,
    /// Share of the requests up to which more is tried than once.
    pub retry_share: f64,
}

/// What runs calls on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// Calls that may wait for a provider; more are refused with `Retry-After`.
    pub queue: usize,
    /// Calls that a backend runs at once when neither it nor its entry in `backends` says.
    pub concurrency: u32,
}

/// What turns text into vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderConfig {
    /// Which.
    pub kind: EmbedderKind,
    /// Where the model lies, for [`EmbedderKind::Onnx`].
    pub dir: Option<PathBuf>,
}

/// Which embedder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbedderKind {
    /// The static table that is compiled in.
    Builtin,
    /// An ONNX model on disk.
    Onnx,
    /// None: meaning is matched by keywords.
    None,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A filter in tracing's syntax.
    pub filter: String,
    /// For people or for machines.
    pub format: LogFormat,
}

impl MeshConfig {
    /// Whether the owner gave the mesh a name.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.name != DEFAULT_MESH_NAME
    }
}

impl Config {
    /// A file with every setting, its default, and what it is for.
    #[must_use]
    pub fn example_toml() -> &'static str {
        include_str!("example.toml")
    }
}

#[cfg(test)]
mod tests;
