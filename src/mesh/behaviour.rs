//! What the swarm speaks, and how it is set up.
//!
//! The order of the fields is their order of say: what may refuse a connection comes first, because a refusal
//! after an earlier part has made its handler confuses that part.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::gossipsub::{
    self, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, MessageAuthenticity, MessageId, ValidationMode,
    WhitelistSubscriptionFilter,
};
use libp2p::kad::{self, store::MemoryStore};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{autonat, dcutr, identify, mdns, ping, relay, upnp};
use rand::rngs::StdRng;

use super::address::AddressPolicy;
use super::gate::Admission;
use super::guarded::Guarded;
use super::id::MeshId;
use super::identity::Identity;
use super::settings::{RelayServer, Settings};
use super::sparing::Sparing;
use super::streams;
use super::sync::SyncCodec;
use crate::telemetry::Metrics;

/// Connections that are being made, each way. Bounds handshakes before the gate has seen them.
const MAX_PENDING: u32 = 64;

/// Connections in all: sixteen times what a node holds on to.
const MAX_CONNECTIONS: u32 = 256;

/// Connections to one node: a relayed one, a direct one, a crossing dial, one that a hole punch makes, and two that see whether it
/// can be reached by UDP and by TCP.
const MAX_PER_NODE: u32 = 6;

/// How often each connection is measured, and how soon a silent one is noticed.
pub const PING_INTERVAL: Duration = Duration::from_secs(5);

/// A ping without an answer for this long means that the far end is gone: no path takes so long.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which no ping was answered for this long is dead. libp2p's own count forgives a first failure, and
/// so takes twice as long.
pub const PING_SILENCE: Duration = Duration::from_secs(PING_INTERVAL.as_secs() + PING_TIMEOUT.as_secs());

/// Two nodes that start together on one network find each other within this, whoever asked first.
const MDNS_INTERVAL: Duration = Duration::from_secs(4);

/// How often AutoNAT looks for an address to test. It tests each once; from then on `reachability` has it tested again.
const AUTONAT_INTERVAL: Duration = Duration::from_secs(15);

/// One exchange of a sync: a page of 256 KiB over a slow uplink.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

/// Syncs at once per connection.
const SYNC_STREAMS: usize = 16;

/// Largest gossip message: a statement with an inline body, and room for its frame.
const GOSSIP_MESSAGE_BYTES: usize = 16 * 1024;

/// Neighbours that pass every message on to each other.
#[derive(Debug, Clone, Copy)]
pub struct Degree {
    /// Fewer are too few.
    pub low: usize,
    /// As many as there should be.
    pub target: usize,
    /// More are too many.
    pub high: usize,
}

/// Four neighbours that pass everything on reach hundreds of nodes in five or six hops, and what costs traffic is the
/// copies: a node gets and sends every message about three times. Own news goes to all neighbours anyway.
pub const GOSSIP_DEGREE: Degree = Degree { low: 3, target: 4, high: 6 };

/// Other neighbours that are told each second what there was, and ask for what they miss.
pub const GOSSIP_LAZY: usize = 2;

/// A mesh that was met by its adverts need not be searched for nodes that often: a bootstrap asks dozens of nodes for
/// their neighbours' addresses.
const KAD_BOOTSTRAP: Duration = Duration::from_secs(900);

/// A circuit lives as long as a long answer takes, and carries the images that go with it. The defaults
/// (2 minutes, 128 KiB) cut token streams.
const CIRCUIT_DURATION: Duration = Duration::from_secs(3600);
const CIRCUIT_BYTES: u64 = 256 * 1024 * 1024;
const CIRCUITS: usize = 256;
const CIRCUITS_PER_NODE: usize = 16;

/// The behaviours of a node.
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "Event")]
pub struct Behaviour {
    limits: connection_limits::Behaviour,
    pub blocked: allow_block_list::Behaviour<BlockedPeers>,
    pub address_policy: AddressPolicy,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay_client: relay::client::Behaviour,
    pub relay_server: Toggle<relay::Behaviour>,
    dcutr: dcutr::Behaviour,
    autonat_client: Toggle<Guarded<autonat::v2::client::Behaviour<StdRng>>>,
    autonat_server: Toggle<Guarded<autonat::v2::server::Behaviour<StdRng>>>,
    upnp: Toggle<upnp::tokio::Behaviour>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub kad: Sparing<kad::Behaviour<MemoryStore>>,
    pub gossip: Gossip,
    pub sync: request_response::Behaviour<SyncCodec>,
    pub streams: streams::Behaviour,
}

/// Gossip without signatures of its own: statements carry theirs, because they travel by sync too.
pub type Gossip = gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>>;

/// What the behaviours report.
#[derive(Debug)]
pub enum Event {
    Identify(Box<identify::Event>),
    Ping(ping::Event),
    RelayClient(relay::client::Event),
    RelayServer(relay::Event),
    Dcutr(dcutr::Event),
    AutonatClient(autonat::v2::client::Event),
    AutonatServer(autonat::v2::server::Event),
    Upnp(upnp::Event),
    Mdns(mdns::Event),
    Kad(Box<kad::Event>),
    Gossip(Box<gossipsub::Event>),
    Sync(Box<SyncEvent>),
}

/// What sync reports.
pub type SyncEvent = request_response::Event<crate::wire::v1::SyncRequest, crate::wire::v1::SyncResponse>;

macro_rules! event_from {
    ($($from:ty => $make:expr),+ $(,)?) => {
        $(impl From<$from> for Event {
            fn from(event: $from) -> Self {
                $make(event)
            }
        })+
    };
}

event_from! {
    identify::Event => |event| Self::Identify(Box::new(event)),
    ping::Event => Self::Ping,
    relay::client::Event => Self::RelayClient,
    relay::Event => Self::RelayServer,
    dcutr::Event => Self::Dcutr,
    autonat::v2::client::Event => Self::AutonatClient,
    autonat::v2::server::Event => Self::AutonatServer,
    upnp::Event => Self::Upnp,
    mdns::Event => Self::Mdns,
    kad::Event => |event| Self::Kad(Box::new(event)),
    gossipsub::Event => |event| Self::Gossip(Box::new(event)),
    SyncEvent => |event| Self::Sync(Box::new(event)),
}

impl From<Infallible> for Event {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Sets the behaviours up.
///
/// # Errors
///
/// When the settings contradict each other; a fault of this program.
pub fn build(
    settings: &Settings,
    mesh: MeshId,
    identity: &Identity,
    relay_client: relay::client::Behaviour,
    streams: streams::Behaviour,
    metrics: &Metrics,
) -> io::Result<Behaviour> {
    let own = identity.peer_id();
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_pending_outgoing(Some(MAX_PENDING))
        .with_max_established(Some(MAX_CONNECTIONS))
        .with_max_established_per_peer(Some(MAX_PER_NODE));
    let identify = identify::Config::new("atmosphere/1".to_owned(), identity.keypair().public())
        .with_agent_version(format!("atmosphere/{}", settings.version))
        .with_push_listen_addr_updates(true);
    // A mesh that admits private addresses only neither is reached from the internet nor asks to be.
    let wide = settings.admit == Admission::Everybody;
    let autonat_server = || Guarded::new(autonat::v2::server::Behaviour::new(rand::make_rng::<StdRng>()));
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        blocked: allow_block_list::Behaviour::default(),
        address_policy: AddressPolicy::default(),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
        relay_client,
        relay_server: (settings.relay_server != RelayServer::Off).then(|| relay_server(own)).into(),
        dcutr: dcutr::Behaviour::new(own),
        autonat_client: wide.then(|| Guarded::new(autonat_client())).into(),
        autonat_server: wide.then(autonat_server).into(),
        upnp: (wide && settings.upnp).then(upnp::tokio::Behaviour::default).into(),
        mdns: settings.mdns.then(|| mdns(own)).flatten().into(),
        kad: Sparing::new(kad(mesh, own)),
        gossip: gossip(mesh, metrics)?,
        sync: sync(mesh),
        streams,
    })
}

fn relay_server(own: libp2p::PeerId) -> relay::Behaviour {
    let default = relay::Config::default();
    let per_node = NonZeroU32::new(60).expect("not zero");
    let config = relay::Config {
        max_circuits: CIRCUITS,
        max_circuits_per_peer: CIRCUITS_PER_NODE,
        max_circuit_duration: CIRCUIT_DURATION,
        max_circuit_bytes: CIRCUIT_BYTES,
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..default
    };
    let config = config
        .reservation_rate_per_peer(per_node, Duration::from_secs(120))
        .circuit_src_per_peer(per_node, Duration::from_secs(120));
    let mut server = relay::Behaviour::new(own, config);
    // Left alone it would offer itself for any external address, a circuit of its own among them.
    server.set_status(Some(relay::Status::Disable));
    server
}

fn autonat_client() -> autonat::v2::client::Behaviour<StdRng> {
    let config = autonat::v2::client::Config::default().with_probe_interval(AUTONAT_INTERVAL);
    autonat::v2::client::Behaviour::new(rand::make_rng::<StdRng>(), config)
}

fn mdns(own: libp2p::PeerId) -> Option<mdns::tokio::Behaviour> {
    let config = mdns::Config { query_interval: MDNS_INTERVAL, ..mdns::Config::default() };
    match mdns::tokio::Behaviour::new(config, own) {
        Ok(behaviour) => Some(behaviour),
        Err(error) => {
            tracing::warn!(%error, "mDNS does not work here; nodes on this network are not found by themselves (use --seed-peer)");
            None
        }
    }
}

fn kad(mesh: MeshId, own: libp2p::PeerId) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(mesh.protocol("kad/1"));
    // It finds nodes and nothing else: nothing is stored, and only nodes whose addresses were checked enter.
    config
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_query_timeout(Duration::from_secs(20))
        .set_periodic_bootstrap_interval(Some(KAD_BOOTSTRAP));
    let mut kad = kad::Behaviour::with_config(own, MemoryStore::new(own), config);
    // Left alone it would serve only behind a confirmed external address, and a home mesh would find nobody.
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

fn gossip(mesh: MeshId, metrics: &Metrics) -> io::Result<Gossip> {
    let prefix = mesh.protocol("gossip");
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(prefix.as_ref().to_owned())
        .heartbeat_interval(Duration::from_secs(1))
        .heartbeat_initial_delay(Duration::from_millis(200))
        .mesh_n(GOSSIP_DEGREE.target)
        .mesh_n_low(GOSSIP_DEGREE.low)
        .mesh_n_high(GOSSIP_DEGREE.high)
        .mesh_outbound_min(2)
        .gossip_lazy(GOSSIP_LAZY)
        .history_length(6)
        .history_gossip(3)
        .duplicate_cache_time(Duration::from_secs(120))
        // Own news goes to every neighbour at once.
        .flood_publish(true)
        .max_transmit_size(GOSSIP_MESSAGE_BYTES)
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        // Short ids keep the lists of them below the size that the receiver refuses.
        .message_id_fn(|message| MessageId::from(&blake3::hash(&message.data).as_bytes()[..16]))
        .max_control_message_size(64 * 1024)
        .max_control_messages_sent(1000)
        .connection_handler_queue_len(512)
        .build()
        .map_err(io::Error::other)?;
    let topic = topic(mesh);
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(HashSet::from([topic.hash()])),
        max_subscribed_topics: 4,
        max_subscriptions_per_request: 16,
    };
    let gossip = Gossip::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
        .map_err(io::Error::other)?;
    let mut gossip = metrics.with_registry(|registry| {
        let registry = registry.sub_registry_with_prefix("libp2p").sub_registry_with_prefix("gossip");
        gossip.with_metrics(registry, gossipsub::MetricsConfig::default())
    });
    gossip.subscribe(&topic).map_err(io::Error::other)?;
    Ok(gossip)
}

/// The topic of statements.
pub fn topic(mesh: MeshId) -> IdentTopic {
    IdentTopic::new(mesh.topic())
}

fn sync(mesh: MeshId) -> request_response::Behaviour<SyncCodec> {
    let config = request_response::Config::default()
        .with_request_timeout(SYNC_TIMEOUT)
        .with_max_concurrent_streams(SYNC_STREAMS);
    request_response::Behaviour::with_codec(SyncCodec, [(mesh.protocol("sync/1"), ProtocolSupport::Full)], config)
}
