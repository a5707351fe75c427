//! Whole nodes in one process, over memory and over loopback.

mod calls;
mod closed;
mod faults;
mod finding;
mod relaying;
mod strangers;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Handle, Identity, InboundCall, MeshView, Seed, Settings, start};
use crate::capability::{Advert, Capability, Kind, PeerId};
use crate::catalog::Adverts;
use crate::telemetry::{EventBus, Metrics};

/// How long a condition may take. Far more than it does, because the machine may be busy.
const LIMIT: Duration = Duration::from_secs(30);

/// A running node.
struct Node {
    mesh: Handle,
    calls: mpsc::Receiver<InboundCall>,
    events: EventBus,
    metrics: Metrics,
}

/// Settings of a node that finds nobody by itself.
fn quiet(name: &str) -> Settings {
    Settings {
        node_name: name.to_owned(),
        gossip_port: None,
        bind: vec![Ipv4Addr::LOCALHOST.into()],
        mdns: false,
        upnp: false,
        runtime: Some(tokio::runtime::Handle::current()),
        ..Settings::default()
    }
}

/// A node on loopback, QUIC and TCP.
fn on_loopback(name: &str) -> Settings {
    Settings { gossip_port: Some(0), ..quiet(name) }
}

/// A node within this process, and where others reach it.
fn in_memory(name: &str) -> (Settings, Seed) {
    // The numbers are shared by all tests of the process.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let address = format!("/memory/{}", 7_000_000 + NEXT.fetch_add(1, Ordering::Relaxed));
    let listen = vec![address.parse().expect("an address")];
    (Settings { listen, ..quiet(name) }, address.parse().expect("a seed"))
}

fn run(settings: Settings) -> Node {
    run_as(settings, Identity::generate())
}

fn run_as(settings: Settings, identity: Identity) -> Node {
    let events = EventBus::default();
    let metrics = Metrics::default();
    let (mesh, calls) = start(settings, identity, events.clone(), &metrics).expect("started");
    Node { mesh, calls, events, metrics }
}

fn with_seed(mut settings: Settings, seed: &Seed) -> Settings {
    settings.seeds.push(seed.clone());
    settings
}

fn model(name: &str) -> Vec<Arc<Capability>> {
    vec![Arc::new(Capability::new("test", Kind::LLM_CHAT, name))]
}

impl Node {
    fn id(&self) -> PeerId {
        self.mesh.node()
    }

    fn seed(&self) -> Seed {
        let port = self.mesh.port().expect("a port");
        format!("{}:{port}", IpAddr::V4(Ipv4Addr::LOCALHOST)).parse().expect("a seed")
    }

    async fn until_adverts<T>(&self, what: &str, found: impl FnMut(&Adverts) -> Option<T>) -> T {
        until(self.mesh.adverts(), what, found).await
    }

    async fn until_view<T>(&self, what: &str, found: impl FnMut(&MeshView) -> Option<T>) -> T {
        until(self.mesh.watch_view(), what, found).await
    }

    /// Waits until it knows that the other node offers a model of this name.
    async fn until_offered(&self, other: PeerId, name: &str) -> Arc<Advert> {
        self.until_adverts(&format!("{name} of {other}"), |adverts| {
            let advert = adverts.get(&other)?;
            advert.capabilities.iter().any(|capability| capability.name == name).then(|| Arc::clone(advert))
        })
        .await
    }

    async fn until_gone(&self, other: PeerId) {
        self.until_adverts("that the node is gone", |adverts| (!adverts.contains_key(&other)).then_some(())).await;
    }

    async fn until_connected(&self, other: PeerId) {
        self.until_view("a connection", |view| view.peers.contains_key(&other).then_some(())).await;
    }
}

/// Waits until something is seen in a watched value.
async fn until<T, U>(mut watched: watch::Receiver<Arc<T>>, what: &str, mut found: impl FnMut(&T) -> Option<U>) -> U {
    let wait = async {
        loop {
            if let Some(found) = found(&watched.borrow_and_update()) {
                return found;
            }
            watched.changed().await.unwrap_or_else(|_| panic!("the node stopped before {what}"));
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
