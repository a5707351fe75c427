//! What the driver measures, in the program's one registry.
//!
//! libp2p measures the swarm and most protocols itself; here are the rest: connections by path, adverts, statements.
//! Labels are of small closed sets. Nothing that another node says becomes one.

use std::collections::BTreeMap;

use libp2p::metrics::{Metrics as Libp2p, Recorder as _};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, identify};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::catalog::register::Outcome;
use crate::mesh::address::is_plain;
use crate::mesh::behaviour::Event;
use crate::mesh::telling::Counted;
use crate::mesh::view::{LinkTransport, PathClass};
use crate::telemetry::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkLabels {
    path: &'static str,
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatementLabels {
    outcome: &'static str,
}

/// What the driver measures.
pub struct Measures {
    libp2p: Libp2p,
    connections: Family<LinkLabels, Gauge>,
    adverts: Gauge,
    statements: Family<StatementLabels, Counter>,
    seeds_connected: Gauge,
}

impl Measures {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            libp2p: metrics.with_registry(Libp2p::new),
            connections: metrics.register(
                "mesh_connections",
                "Live connections to other nodes, by path and transport",
                Family::default(),
            ),
            adverts: metrics.register("mesh_adverts", "Live adverts, this node's own among them", Gauge::default()),
            statements: metrics.register(
                "mesh_statements",
                "Statements of other nodes that were judged, by what came of them",
                Family::default(),
            ),
            seeds_connected: metrics.register("mesh_seeds_connected", "Seeds that are connected", Gauge::default()),
        }
    }

    /// Takes note of an event before it is acted upon.
    pub fn record(&self, event: &SwarmEvent<Event>) {
        match event {
            SwarmEvent::Behaviour(Event::Ping(event)) => self.libp2p.record(event),
            SwarmEvent::Behaviour(Event::Dcutr(event)) => self.libp2p.record(event),
            SwarmEvent::Behaviour(Event::RelayServer(event)) => self.libp2p.record(event),
            SwarmEvent::Behaviour(Event::Kad(event)) => self.libp2p.record(&**event),
            SwarmEvent::Behaviour(Event::Gossip(event)) => self.libp2p.record(&**event),
            SwarmEvent::Behaviour(Event::Identify(event)) => match tame(event) {
                Some(tamed) => self.libp2p.record(&tamed),
                None => self.libp2p.record(&**event),
            },
            // The address is another node's word, and its shape would become a label for ever.
            SwarmEvent::NewExternalAddrCandidate { .. } => {}
            event => self.libp2p.record(event),
        }
    }

    /// What became of a statement.
    pub fn statement(&self, counted: Counted) {
        self.count_statement(match counted {
            Counted::Judged(Outcome::Changed) => "changed",
            Counted::Judged(Outcome::NeedBody(_)) => "body_wanted",
            Counted::Judged(Outcome::Prolonged) => "prolonged",
            Counted::Judged(Outcome::NeedSync) => "sync_wanted",
            Counted::Judged(Outcome::Left) => "left",
            Counted::Judged(Outcome::Stale) => "stale",
            Counted::Judged(Outcome::Full) => "full",
            Counted::Judged(Outcome::OwnAhead(_)) => "own_ahead",
            Counted::Judged(Outcome::NotAdmitted) => "not_admitted",
            Counted::Refused => "refused",
            Counted::Ignored => "too_many",
        });
    }

    fn count_statement(&self, outcome: &'static str) {
        self.statements.get_or_create(&StatementLabels { outcome }).inc();
    }

    /// How many adverts live.
    pub fn adverts(&self, count: usize) {
        self.adverts.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many seeds are connected.
    pub fn seeds(&self, connected: usize) {
        self.seeds_connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
    }

    /// All connections there are.
    pub fn connections(&self, links: impl Iterator<Item = (PathClass, LinkTransport)>) {
        let mut counts = BTreeMap::<_, i64>::new();
        for (path, transport) in links {
            *counts.entry((path_label(path), transport_label(transport))).or_default() += 1;
        }
        for path in [PathClass::Local, PathClass::Lan, PathClass::Wan, PathClass::Relayed].map(path_label) {
            for transport in [LinkTransport::Quic, LinkTransport::Tcp, LinkTransport::Relay].map(transport_label) {
                // Those that never were need no line.
                let count = counts.get(&(path, transport)).copied().unwrap_or_default();
                let labels = LinkLabels { path, transport };
                if count > 0 || self.connections.get(&labels).is_some() {
                    self.connections.get_or_create(&labels).set(count);
                }
            }
        }
    }
}

/// An event that tells of another node, without addresses of shapes that the node made up: shapes become labels.
fn tame(event: &identify::Event) -> Option<identify::Event> {
    let identify::Event::Received { connection_id, peer_id, info } = event else { return None };
    let mut info = info.clone();
    info.listen_addrs.retain(is_plain);
    if !is_plain(&info.observed_addr) {
        info.observed_addr = Multiaddr::empty();
    }
    Some(identify::Event::Received { connection_id: *connection_id, peer_id: *peer_id, info })
}

const fn path_label(path: PathClass) -> &'static str {
    match path {
        PathClass::Itself => "self",
        PathClass::Local => "local",
        PathClass::Lan => "lan",
        PathClass::Wan => "wan",
        PathClass::Relayed => "relayed",
    }
}

const fn transport_label(transport: LinkTransport) -> &'static str {
    match transport {
        LinkTransport::Quic => "quic",
        LinkTransport::Tcp => "tcp",
        LinkTransport::Relay => "relay",
        LinkTransport::Memory => "memory",
    }
}
