//! The libp2p swarm and all that needs it. No other module imports libp2p, except for `PeerId`.
//!
//! [`start`] makes a node of the mesh: it takes the port, starts the one task that owns the swarm (`driver`), and
//! returns a [`Handle`] and the calls that other nodes make. From the bottom up:
//!
//! * `transport` carries bytes: QUIC, TCP, circuits through relays, memory in tests. Around all of it is the
//!   `gate`: a membership handshake before any protocol, so that a stranger reaches none.
//! * `behaviour` is what the swarm speaks. `seeds`, `connections`, `reachability` and `telling` decide, as pure state
//!   machines that a simulator runs by the hundred; the driver acts.
//! * [`statement`]s are what nodes say of themselves, signed. They spread by gossip, and by `sync` for those who
//!   were not there; the catalog's register judges and keeps them.
//! * [`call`]s run on `streams` of their own, past the driver.
//! * `member` knows who belongs to a closed mesh; `knock` and `entry` bring a node into one, also while it runs.
//! * `pair` lets a nearby machine in with a short spoken code; `nearby` and `pairing` do it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use atmosphere::mesh::{self, Identity, Settings};
//! use atmosphere::telemetry::{EventBus, Metrics};
//!
//! let settings = Settings { node_name: "nas".into(), seeds: vec!["laptop.local:11450".parse()?], ..Settings::default() };
//! let (mesh, mut calls) = mesh::start(settings, Identity::generate(), EventBus::default(), &Metrics::default())?;
//! let adverts = mesh.adverts();
//! # let _ = (adverts, calls.recv().await);
//! # Ok(())
//! # }
//! ```

mod address;
mod behaviour;
mod book;
pub mod call;
mod calling;
mod causes;
mod command;
mod connections;
mod disk;
mod driver;
mod entry;
mod epoch;
mod examine;
mod gate;
mod guarded;
mod handle;
mod id;
mod identity;
mod knock;
mod listen;
mod member;
mod multicast;
mod nearby;
mod own_time;
mod pair;
mod pairing;
mod reachability;
mod seeds;
mod settings;
#[cfg(test)]
mod sim;
mod situation;
mod sparing;
pub mod statement;
pub mod streams;
pub mod sync;
mod telling;
#[cfg(test)]
mod tests;
mod transport;
mod view;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use libp2p::Swarm;
use libp2p::core::upgrade::Version;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::capability::limits;
use crate::catalog::Adverts;
use crate::telemetry::{EventBus, Metrics};

pub use address::{DEFAULT_GOSSIP_PORT, Interfaces, Network, Seed, SeedError, external_address};
pub use call::{InboundCall, Reply};
pub use command::JoinError;
pub use disk::write_private;
pub use driver::MAX_SEEDS;
pub use entry::{EntryError, enter};
pub use examine::{Examination, Multicast, Neighbour, Reach, examine};
pub use gate::Admission;
#[cfg(feature = "fuzzing")]
pub use gate::fuzzing;
pub use handle::Handle;
pub use id::MeshId;
pub use identity::{Identity, IdentityError};
pub use knock::KnockError;
pub use libp2p::Multiaddr;
pub use listen::ListenError;
pub use member::{
    Closed, DEFAULT_LIFETIME, Denied, FilesError, InviteError, InviteOptions, Invited, MemberError, MemberView,
    RecordError, Revoked, Role, RoleError, Token, TokenError,
};
pub use nearby::{Introduction, Nearby, NearbyError, meet};
pub use pair::{ANSWER_LIFE, CODE_LIFE, Code, CodeError, MAX_CODE_LIFE, PairSide, PairStage, PairView};
pub use pairing::{ASK_AGAIN, Attempt};
pub use reachability::{Nat, Source};
pub use settings::{DEFAULT_ADVERT_TTL, DEFAULT_MESH_NAME, RelayServer, Settings};
pub use situation::{Incident, OwnAddress, Situation, TurnedAway};
pub use view::{LinkTransport, MeshView, PathClass, PeerView, SeedView};

/// Commands that wait for the driver. Beyond it the askers wait.
const COMMANDS: usize = 64;

/// Calls of other nodes that wait to be taken. Beyond it they are told that this node is busy.
const CALLS: usize = 64;

/// Reports of the gate that wait for the driver; what is beyond is a flood.
const REPORTS: usize = 64;

/// Threads of the mesh's own runtime, besides the driver's. One: what a packet passes through (endpoint, connection,
/// stream) wakes each other, which within a thread is free, and between two costs more than the packet.
const WORKERS: usize = 1;

/// A connection without streams stays for this long; which to close sooner is decided by `connections`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long the port of the former mesh may stay taken when a node changes to another one, and how often it is tried.
const PORT_PATIENCE: Duration = Duration::from_secs(10);
const PORT_PAUSE: Duration = Duration::from_millis(50);

/// Shortest and longest time to live of adverts that others believe; see [`statement::verify`].
const TTL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(3600);

/// Why the mesh could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system refuses something that the mesh needs.
    #[error("cannot start the mesh: {what}: {source}")]
    System {
        /// What for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A setting makes no sense.
    #[error("cannot start the mesh: {0}")]
    Setting(String),
}

/// Starts a node of the mesh. Dropping all handles stops it without a word, as a crash would; to say goodbye,
/// [`Handle::leave`].
///
/// # Errors
///
/// When the port is taken, the data directory cannot be written, or a setting makes no sense.
pub fn start(
    settings: Settings,
    identity: Identity,
    events: EventBus,
    metrics: &Metrics,
) -> Result<(Handle, mpsc::Receiver<InboundCall>), StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let as_given = settings;
    let settings = sound(as_given.clone(), &identity)?;
    let own = identity.peer_id();

    let mut epochs = epoch::Epochs::open(settings.data_dir.as_deref());
    epochs.next(0, SystemTime::now());
    epochs.unsaved()().map_err(system("the data directory cannot be written"))?;

    let (runtime, own_runtime) = match &settings.runtime {
        Some(given) => (given.clone(), None),
        None => {
            let own = OwnRuntime::new().map_err(system("its threads cannot be started"))?;
            metrics.watch_runtime("mesh", own.handle());
            (own.handle(), Some(own))
        }
    };
    let (view, watched_view) = watch::channel(Arc::new(first_view(&settings, own)));
    let (adverts, watched_adverts) = watch::channel(Arc::<Adverts>::default());
    let (commands, asked) = mpsc::channel(COMMANDS);
    let (calls, taken) = mpsc::channel(CALLS);
    let ground = Ground {
        identity,
        runtime: runtime.clone(),
        metrics: metrics.clone(),
        calls,
        leaving: CancellationToken::new(),
    };
    let remains = driver::Remains {
        commands: asked,
        outlets: driver::Outlets { view, adverts, events, measures: driver::Measures::new(metrics) },
        epochs,
        capabilities: None,
        load: 0,
    };
    let (closed, data_dir) = (settings.closed.clone(), settings.data_dir.clone());
    let measured = metrics.part();
    let (driver, control, port) = ground.build(settings.clone(), remains, &measured)?;
    let shared = handle::Shared::new(ground.identity.clone(), data_dir, control, ground.leaving.clone(), closed);
    let handle = Handle::new(own, port, commands, Arc::clone(&shared), watched_view, watched_adverts);
    let as_given = Settings { gossip_port: port.or(as_given.gossip_port), ..as_given };
    let own_thread = as_given.own_thread;
    let running = ground.run(driver, as_given, shared, measured);
    let in_thread = |run: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name("mesh".to_owned());
        thread.spawn(run).map(drop).map_err(system("its thread cannot be started"))
    };
    match own_runtime {
        None if own_thread => in_thread(Box::new(move || runtime.block_on(running)))?,
        None => drop(runtime.spawn(running)),
        // The runtime lives and ends with the driver, on a thread where it may be waited for.
        Some(own_runtime) => in_thread(Box::new(move || own_runtime.block_on(running)))?,
    }
    Ok((handle, taken))
}

fn first_view(settings: &Settings, own: crate::capability::PeerId) -> MeshView {
    MeshView {
        mesh_id: settings.mesh().to_hex(),
        mesh_name: settings.mesh_name.clone(),
        membership: settings.closed.as_ref().map(Closed::own),
        node: own,
        listening: Vec::new(),
        peers: std::collections::BTreeMap::new(),
        seeds: Vec::new(),
    }
}

/// What stays when a node changes from one mesh to another.
struct Ground {
    identity: Identity,
    runtime: tokio::runtime::Handle,
    metrics: Metrics,
    calls: mpsc::Sender<InboundCall>,
    /// Set when this node says farewell.
    leaving: CancellationToken,
}

impl Ground {
    /// A driver of a mesh with these settings, and what opens streams in it.
    fn build(
        &self,
        settings: Settings,
        remains: driver::Remains,
        metrics: &Metrics,
    ) -> Result<(Box<driver::Driver>, streams::Control, Option<u16>), StartError> {
        // Sockets, resolver and mDNS register with the runtime where they are made.
        let _within = self.runtime.enter();
        let mesh = settings.mesh();
        let Listening { swarm, control, inbound, reports, places, port } =
            self.listening_swarm(&settings, mesh, metrics)?;
        let signer = statement::Signer::new(self.identity.keypair().clone(), *mesh.as_bytes())
            .map_err(|error| StartError::Setting(error.to_string()))?;
        let streams = ReceiverStream::new(inbound).map(|inbound| (inbound.from, inbound.stream));
        let closed = settings.closed.clone();
        let may_call = move |node: &crate::capability::PeerId| match closed.as_ref().map(|closed| closed.role_of(node))
        {
            None => Ok(()),
            Some(Ok(role)) if role.calls() => Ok(()),
            Some(Ok(role)) => Err(format!("a {role} of this mesh may not call other nodes")),
            Some(Err(denied)) => Err(format!("the caller is no member: {denied}")),
        };
        let limits = call::ServerLimits::default();
        self.runtime.spawn(Box::pin(call::serve(streams, may_call, self.calls.clone(), limits, self.leaving.clone())));
        let book = book::Book::open(settings.data_dir.as_deref(), mesh.as_bytes());
        Ok((driver::Driver::new(swarm, (reports, places), remains, book, signer, mesh, settings), control, port))
    }

    /// Runs the driver, and another one whenever the node changes to another mesh.
    async fn run(
        self,
        mut driver: Box<driver::Driver>,
        mut settings: Settings,
        shared: Arc<handle::Shared>,
        measured: Metrics,
    ) {
        // Held for as long as the swarm that is measured.
        let mut _measured = measured;
        while let Some((change, remains)) = driver.run().await {
            // The seeds were those of the former mesh.
            settings = Settings { seeds: Vec::new(), mesh_name: change.mesh_name, closed: change.closed, ..settings };
            remains.outlets.adverts.send_replace(Arc::default());
            let rebuilt = self.rebuild(&settings, remains).await;
            match rebuilt {
                Ok((next, control, measured)) => {
                    // What was measured of the former swarm is of the past.
                    _measured = measured;
                    shared.change(control, settings.closed.clone());
                    // Whoever asked may have stopped waiting.
                    let _ = change.reply.send(());
                    driver = next;
                }
                Err(error) => {
                    tracing::error!(%error, "the mesh cannot be changed; this node is in none now");
                    return;
                }
            }
        }
    }

    /// A driver of the mesh that the node has changed to.
    async fn rebuild(
        &self,
        settings: &Settings,
        remains: driver::Remains,
    ) -> Result<(Box<driver::Driver>, streams::Control, Metrics), StartError> {
        let settings = sound(settings.clone(), &self.identity)?;
        remains.outlets.view.send_replace(Arc::new(first_view(&settings, self.identity.peer_id())));
        if let Some(port) = settings.gossip_port {
            // The sockets of the former swarm are given up when the last of its connections has been closed in order.
            let freed = async {
                while !listen::is_free(&settings.bind, port) {
                    tokio::time::sleep(PORT_PAUSE).await;
                }
            };
            // Should it still be taken, building says so.
            let _ = tokio::time::timeout(PORT_PATIENCE, freed).await;
        }
        let measured = self.metrics.part();
        let (driver, control, _) = self.build(settings, remains, &measured)?;
        Ok((driver, control, measured))
    }

    /// The swarm, with the gate around its transport, listening; and the streams of calls.
    fn listening_swarm(&self, settings: &Settings, mesh: MeshId, metrics: &Metrics) -> Result<Listening, StartError> {
        let (reports, gate_reports) = mpsc::channel(REPORTS);
        let places = address::Places::default();
        let (mut swarm, control, inbound) =
            make_swarm(settings, mesh, &self.identity, &self.runtime, reports, places.clone(), metrics)?;
        let port = match settings.gossip_port {
            Some(port) => Some(listen::listen(&mut swarm, &settings.bind, port)?),
            None => None,
        };
        for address in &settings.listen {
            listen::listen_on(&mut swarm, address)?;
        }
        for address in &settings.external_addresses {
            swarm.add_external_address(address.clone());
        }
        Ok(Listening { swarm, control, inbound, reports: gate_reports, places, port })
    }
}

/// A swarm that listens, and what comes from it.
struct Listening {
    swarm: Swarm<behaviour::Behaviour>,
    control: streams::Control,
    inbound: mpsc::Receiver<streams::Inbound>,
    reports: mpsc::Receiver<gate::Report>,
    places: address::Places,
    port: Option<u16>,
}

/// The swarm, with the gate around its transport; and the streams of calls.
fn make_swarm(
    settings: &Settings,
    mesh: MeshId,
    identity: &Identity,
    runtime: &tokio::runtime::Handle,
    reports: mpsc::Sender<gate::Report>,
    places: address::Places,
    metrics: &Metrics,
) -> Result<(Swarm<behaviour::Behaviour>, streams::Control, mpsc::Receiver<streams::Inbound>), StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let own = identity.peer_id();
    let membership = match &settings.closed {
        Some(closed) => gate::Membership::Closed(closed.clone()),
        None => gate::Membership::Open(settings.admit),
    };
    let handshakes = gate::Handshakes::register(metrics);
    let gate = gate::Gate::new(identity.clone(), mesh, membership, handshakes, reports);
    let (transport, relay_client) =
        transport::build(identity, gate, places, metrics).map_err(system("its transports cannot be set up"))?;
    let dropped = metrics.register(
        "mesh_calls_dropped",
        "Streams of other nodes' calls that were reset because nobody took them in time",
        Counter::default(),
    );
    let (streams, control, inbound) = streams::new(own, mesh.protocol("call/1"), dropped);
    let behaviour = behaviour::build(settings, mesh, identity, relay_client, streams, metrics)
        .map_err(system("its protocols cannot be set up"))?;
    let executor = {
        let runtime = runtime.clone();
        move |task| drop(runtime.spawn(task))
    };
    let config = libp2p::swarm::Config::with_executor(executor)
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        .with_notify_handler_buffer_size(NonZeroUsize::new(64).expect("not zero"))
        .with_per_connection_event_buffer_size(32)
        .with_max_negotiating_inbound_streams(128)
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_smart_dial();
    Ok((Swarm::new(transport, behaviour, own, config), control, inbound))
}

/// A runtime of the mesh's own. It ends without waiting for what still runs on it, because it may be dropped within
/// another one, where waiting is not allowed.
struct OwnRuntime(Option<tokio::runtime::Runtime>);

impl OwnRuntime {
    fn new() -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(WORKERS).thread_name("mesh-io").enable_all().build().map(|runtime| Self(Some(runtime)))
    }

    fn runtime(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().expect("taken only when it is dropped")
    }

    fn handle(&self) -> tokio::runtime::Handle {
        self.runtime().handle().clone()
    }

    fn block_on(&self, task: impl Future<Output = ()>) {
        self.runtime().block_on(task);
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The settings, made such that other nodes believe what follows from them.
fn sound(mut settings: Settings, identity: &Identity) -> Result<Settings, StartError> {
    if let Some(closed) = &settings.closed {
        closed.name().clone_into(&mut settings.mesh_name);
        // Members are known by their keys, wherever they are.
        settings.admit = Admission::Everybody;
    }
    if settings.mesh_name.trim().is_empty() {
        return Err(StartError::Setting("the mesh name is empty (the default is \"atmosphere\")".into()));
    }
    if !TTL_RANGE.contains(&settings.advert_ttl) {
        return Err(StartError::Setting(format!(
            "an advert's time to live of {:?} is not between 500 ms and an hour",
            settings.advert_ttl
        )));
    }
    if settings.seeds.len() > driver::MAX_SEEDS {
        return Err(StartError::Setting(format!(
            "there are {} seeds, more than the {} that are kept (a mesh needs one that answers)",
            settings.seeds.len(),
            driver::MAX_SEEDS
        )));
    }
    settings.node_name = name_for_others(&settings.node_name);
    if settings.node_name.is_empty() {
        let id = identity.peer_id().to_base58();
        settings.node_name = format!("node-{}", &id[id.len().saturating_sub(6)..]);
    }
    Ok(settings)
}

/// A name without what others refuse: control characters, and more than fits.
fn name_for_others(name: &str) -> String {
    let mut clean: String = name.trim().chars().filter(|char| !char.is_control()).collect();
    while clean.len() > limits::NAME_BYTES {
        clean.pop();
    }
    clean
}
