//! The parts of a running node that its tasks and its API share.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::api::Phase;
use crate::cache::Cache;
use crate::capability::Capability;
use crate::catalog::Catalog;
use crate::dispatch::{Dispatcher, Local};
use crate::mesh;
use crate::provider::Registry;
use crate::router::Router;
use crate::telemetry::EventBus;

/// The parts of a running node that its tasks and its API share.
pub(super) struct Parts {
    pub name: Arc<str>,
    /// The open mesh that this node is in when it is in no closed one.
    pub open_mesh: Arc<str>,
    /// How long memberships last that this node issues.
    pub membership: Duration,
    /// Whether to look for others on the local network.
    pub mdns: bool,
    pub mesh: mesh::Handle,
    pub registry: Arc<Registry>,
    pub catalog: Arc<Catalog>,
    pub router: Arc<Router>,
    pub local: Arc<Local>,
    pub dispatcher: Arc<Dispatcher>,
    pub cache: Cache,
    pub events: EventBus,
    /// Everything that this node can do, with its meaning: what is shared and what is kept to itself.
    pub own: watch::Sender<Arc<[Arc<Capability>]>>,
    pub phase: RwLock<Phase>,
}
