//! What every handler shares, and what it knows of its request.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderName, HeaderValue};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits::Admission;
use super::measure::Measures;
use super::origin::{HostRule, Origins};
use super::service::{Phase, Service};
use super::settings::Settings;
use crate::telemetry::Metrics;

/// Names the node that answered.
pub(super) const X_ATMOSPHERE_NODE: HeaderName = HeaderName::from_static("x-atmosphere-node");

/// WebSockets at once, at the most: each may hold a message of the largest size.
const SOCKETS: usize = 128;

/// What every handler shares.
pub(super) struct App {
    pub(super) service: Arc<dyn Service>,
    pub(super) settings: Settings,
    pub(super) hosts: HostRule,
    pub(super) origins: Origins,
    pub(super) admission: Admission,
    /// One examination of this node at a time.
    pub(super) doctor: Semaphore,
    pub(super) metrics: Metrics,
    pub(super) measures: Measures,
    /// This node's name, as a header can carry it.
    pub(super) node_header: HeaderValue,
    pub(super) started: Instant,
    /// Unix milliseconds: no two runs of a node begin in the same one.
    pub(super) started_at_ms: u64,
    /// The node stops: what runs may finish.
    pub(super) shutdown: CancellationToken,
    /// The time for that is over: streams say that they end.
    pub(super) closing: CancellationToken,
    /// The grace for that is over: what still runs is cut.
    pub(super) kill: CancellationToken,
    /// The tasks of connections, and of WebSockets that outlive theirs.
    pub(super) connections: TaskTracker,
    /// Places for WebSockets.
    pub(super) sockets: Arc<Semaphore>,
}

impl App {
    pub(super) fn new(
        settings: Settings,
        service: Arc<dyn Service>,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        let loopback =
            settings.bind.iter().chain(&settings.ollama).all(|address| address.ip().to_canonical().is_loopback());
        let names = settings.allowed_hosts.clone();
        let hosts = if names.iter().any(|name| name == "*") || (!loopback && !settings.keys.is_empty()) {
            HostRule::Any
        } else if loopback {
            HostRule::Loopback(names)
        } else {
            HostRule::Private(names)
        };
        let measures = Measures::new(&metrics);
        let node_header = node_header(&service.node_name(), || service.mesh().node.to_base58());
        Self {
            hosts,
            origins: Origins::new(&settings.allowed_origins),
            admission: Admission::new(settings.max_concurrency, settings.max_body, &measures),
            doctor: Semaphore::new(1),
            measures,
            metrics,
            node_header,
            started: Instant::now(),
            started_at_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            closing: CancellationToken::new(),
            kill: CancellationToken::new(),
            connections: TaskTracker::new(),
            sockets: Arc::new(Semaphore::new(SOCKETS)),
            shutdown,
            service,
            settings,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        if self.shutdown.is_cancelled() { Phase::Draining } else { self.service.phase() }
    }
}

/// A node's name as a header can carry it: its id, when the name is not ASCII.
pub(super) fn node_header(name: &str, id: impl FnOnce() -> String) -> HeaderValue {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let text = if plain { name.to_owned() } else { id() };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unnamed"))
}

/// What a handler knows of its request besides the request itself.
#[derive(Debug, Clone)]
pub(super) struct Context {
    /// The caller's own id of it, or ours.
    pub(super) request_id: HeaderValue,
    /// When its head had been read.
    pub(super) started: Instant,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller(pub(super) std::net::SocketAddr);

/// One of the connections that there may be, or of the WebSockets. That of a connection is held for as long as anything
/// uses it, which a WebSocket does when HTTP is done with it.
#[derive(Debug)]
pub(super) struct Seat {
    open: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Seat {
    pub(super) fn take(place: OwnedSemaphorePermit, open: Gauge) -> Self {
        open.inc();
        Self { open, _place: place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.open.dec();
    }
}
