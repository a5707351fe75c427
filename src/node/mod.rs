//! Builds the parts, wires them, starts, drains and stops them: the only place that knows them all.
//!
//! What flows between them:
//!
//! ```text
//! providers ──capabilities──▶ describe ──▶ mesh (signs, tells the others)
//!                                  │            │ adverts of all nodes
//!                                  └──────▶ catalog ──snapshot──▶ router ──decision──▶ dispatch
//! mesh ──calls of other nodes──▶ Local ◀──calls of this node──────────────────────────────┘
//! mesh ──view (paths, round trips)──▶ router's signals
//! ```

mod error;
mod flow;
mod membership;
mod parts;
mod remote;
mod service;
mod settings;
mod stop;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Phase};
use crate::cache::Cache;
use crate::capability::PeerId;
use crate::catalog::Catalog;
use crate::config::{Config, DataDir, url_from_here};
use crate::dispatch::{self, Dispatcher, Local};
use crate::mesh::{self, Identity};
use crate::provider::Registry;
use crate::router::{Router, Signals};
use crate::telemetry::{EventBus, Metrics};

pub use error::StartError;

use parts::Parts;
use stop::Stop;

/// What a started node can say about itself.
#[derive(Debug, Clone)]
pub struct Up {
    /// The node's human name.
    pub name: String,
    /// The node.
    pub node: PeerId,
    /// The mesh's name.
    pub mesh: String,
    /// This node's membership, when the mesh is a closed one.
    pub membership: Option<mesh::MemberView>,
    /// Where the API is, reachable from this machine.
    pub api_url: String,
    /// Where clients of Ollama find the mesh, when the owner wants them to.
    pub ollama_url: Option<String>,
    /// Whether the API asks for a key.
    pub wants_key: bool,
    /// The backends that were found, and those that were named and do not answer.
    pub backends: Vec<api::ProviderStatus>,
    /// Multiaddresses that the mesh listens on.
    pub listening: Vec<String>,
    /// Whether other nodes of this network find it by mDNS.
    pub mdns: bool,
    /// Where it keeps what it must not forget.
    pub data_dir: std::path::PathBuf,
}

/// Runs a node until Ctrl-C, SIGTERM, or a fault that it cannot go on with. `announce` is called once, when it is up.
///
/// # Errors
///
/// When it cannot start; the message says what to do.
pub async fn run(config: Config, announce: impl FnOnce(&Up) + Send) -> Result<(), StartError> {
    // First of all, so that a Ctrl-C during a slow start is a clean end too.
    let stop = Stop::listen()?;
    let data_dir = DataDir::open(&config.data_dir)?;
    let identity = Identity::load_or_create(data_dir.path())?;
    let events = EventBus::default();
    let metrics = Metrics::default();
    metrics.watch_runtime("main", tokio::runtime::Handle::current());

    let (embedder, builtin) = settings::embedders(&config.embedder)?;
    let catalog = Arc::new(Catalog::new(embedder));
    let tasks = CancellationToken::new();
    let _tasks = tasks.clone().drop_guard();
    let provider_settings = settings::provider(&config, builtin)?;
    let Some(belongs) = membership::find(&config, &data_dir, &identity, &stop).await? else { return Ok(()) };
    let is_closed = belongs.closed.is_some();
    let mesh_settings = settings::mesh(&config, belongs.closed, belongs.seeds);
    let api_settings = settings::api(&config);
    let router_settings = settings::router(&config);
    // The API's port first: when it is taken, nobody should see this node join and leave.
    let registry = Registry::start(provider_settings, events.clone(), tasks.clone());
    let (handle, inbound) = mesh::start(mesh_settings, identity, events.clone(), &metrics)?;

    let signals = Arc::new(Signals::new(handle.node()));
    let router = Arc::new(Router::new(Arc::clone(&catalog), signals, router_settings, handle.node()));
    let local = Arc::new(Local::new(Arc::clone(&registry) as Arc<dyn dispatch::Providers>, settings::local(&config)));
    let dispatcher = Arc::new(Dispatcher::new(
        Arc::clone(&router),
        Arc::clone(&local),
        Arc::new(remote::OverMesh(handle.clone())),
        events.clone(),
        settings::dispatch(&config),
    ));
    dispatcher.register(&metrics);
    let parts = Arc::new(Parts {
        name: config.name.as_str().into(),
        open_mesh: config.mesh.name.as_str().into(),
        membership: config.mesh.membership,
        mdns: !config.no_mdns,
        mesh: handle,
        registry,
        catalog,
        router,
        local,
        dispatcher,
        cache: Cache::new(settings::cache(&config), &metrics),
        events,
        own: watch::Sender::new(Arc::new([])),
        phase: RwLock::new(Phase::Starting),
    });
    let stop_api = CancellationToken::new();
    let service = Arc::new(service::NodeService(Arc::clone(&parts)));
    let serving = match api::serve(api_settings, service, metrics, stop_api.clone()).await {
        Ok(serving) => serving,
        Err(error) => {
            parts.mesh.leave().await;
            return Err(error.into());
        }
    };
    let addresses = serving.addresses.clone();
    let ollama_url = serving.ollama.map(url_from_here);
    let mut api = tokio::spawn(serving.done);

    let inbound_calls = TaskTracker::new();
    tokio::spawn(tasks.clone().run_until_cancelled_owned(flow::describe(Arc::clone(&parts))));
    tokio::spawn(tasks.clone().run_until_cancelled_owned(flow::advertise(Arc::clone(&parts))));
    tokio::spawn(tasks.clone().run_until_cancelled_owned(flow::catalogue(Arc::clone(&parts))));
    tokio::spawn(tasks.clone().run_until_cancelled_owned(flow::paths(Arc::clone(&parts))));
    tokio::spawn(flow::inbound(Arc::clone(&parts), inbound, inbound_calls.clone(), tasks.clone()));

    parts.registry.settled(settings::SETTLE).await;
    *parts.phase.write() = Phase::Ready;
    let api_url = publish_address(&data_dir, &addresses)?;
    listening(&parts.mesh).await;
    if let Some(path) = config.mesh.invite_file.clone() {
        if !is_closed {
            tracing::warn!(
                "there is no invite to keep in a file: this node is in an open mesh (mesh.invite_file wants --private)"
            );
        }
        tokio::spawn(tasks.clone().run_until_cancelled_owned(membership::keep_invite(parts.mesh.clone(), path)));
    }
    announce(&up(&parts, api_url, ollama_url, &config));

    // Only the owner's wish is a good end. Whatever watches over this process (systemd, Docker) should start it anew
    // when a part of it is lost.
    let mut mesh_lost = parts.mesh.watch_view();
    let lost = tokio::select! {
        () = stop.requested() => {
            tracing::info!("stopping: finishing what runs; once more to stop at once");
            None
        }
        _ = &mut api => Some("the API"),
        () = async { while mesh_lost.changed().await.is_ok() {} } => Some("the mesh"),
    };
    if let Some(part) = lost {
        tracing::error!(part, "ended by itself; stopping the node");
    }
    let drained = drain(&parts, &stop_api, api, &inbound_calls, config.api.drain_limit);
    tokio::select! {
        () = drained => {}
        () = stop.requested() => tracing::warn!("stopped at once; streams that ran were cut"),
    }
    parts.mesh.leave().await;
    lost.map_or(Ok(()), |part| Err(StartError::Lost(part)))
}

/// Says goodbye, takes nothing new, and lets what runs finish for up to `limit`.
async fn drain(
    parts: &Parts,
    stop_api: &CancellationToken,
    api: tokio::task::JoinHandle<()>,
    inbound: &TaskTracker,
    limit: Duration,
) {
    *parts.phase.write() = Phase::Draining;
    parts.mesh.say_goodbye().await;
    parts.local.close();
    stop_api.cancel();
    inbound.close();
    let finished = async {
        // The API keeps to the same limit by itself; a panic in it is in the log already.
        if !api.is_finished() {
            let _ = api.await;
        }
        inbound.wait().await;
    };
    if tokio::time::timeout(limit + Duration::from_secs(2), finished).await.is_err() {
        tracing::warn!(?limit, "some streams had not finished when the drain limit was over; they were cut");
    }
}

/// Waits until the mesh knows its own addresses, which the system tells one by one after the port is taken.
async fn listening(mesh: &mesh::Handle) {
    /// Longer takes no system; a node without any network is up all the same.
    const LONGEST: Duration = Duration::from_secs(2);
    /// The addresses of one machine come closer together than this.
    const QUIET: Duration = Duration::from_millis(100);
    let mut view = mesh.watch_view();
    let known = async {
        let both = |view: &Arc<mesh::MeshView>| {
            ["/udp/", "/tcp/"].iter().all(|part| view.listening.iter().any(|address| address.contains(part)))
        };
        if view.wait_for(both).await.is_ok() {
            while let Ok(Ok(())) = tokio::time::timeout(QUIET, view.changed()).await {}
        }
    };
    // What came until then is what there is to tell.
    let _ = tokio::time::timeout(LONGEST, known).await;
}

fn publish_address(data_dir: &DataDir, addresses: &[SocketAddr]) -> Result<String, StartError> {
    let system = |cause| StartError::System { what: "cannot write api.json into the data directory", cause };
    let address = addresses.first().copied().ok_or(api::ServeError::NoAddress)?;
    data_dir.api_is_up(address).map_err(system)
}

fn up(parts: &Parts, api_url: String, ollama_url: Option<String>, config: &Config) -> Up {
    let view = parts.mesh.view();
    Up {
        name: parts.name.to_string(),
        node: parts.mesh.node(),
        mesh: view.mesh_name.clone(),
        membership: view.membership.clone(),
        api_url,
        ollama_url,
        wants_key: !config.api.keys.is_empty(),
        backends: service::provider_statuses(&parts.registry),
        listening: view.listening.clone(),
        mdns: parts.mdns,
        data_dir: config.data_dir.clone(),
    }
}
