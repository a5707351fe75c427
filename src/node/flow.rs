//! The tasks that carry what one part knows to the part that needs it. Each ends when its source does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::parts::Parts;
use super::settings::{DESCRIBED, SETTLE};
use crate::capability::{Advert, Capability, PeerId};
use crate::catalog::Adverts;
use crate::mesh::InboundCall;

/// How often the load class is looked at; it changes the advert only when it changes class.
const LOAD_EVERY: Duration = Duration::from_secs(5);

/// Providers' capabilities, with their meaning, become this node's own.
pub(super) async fn describe(parts: Arc<Parts>) {
    let mut found = parts.registry.capabilities();
    loop {
        let capabilities = found.borrow_and_update().as_ref().clone();
        let catalog = Arc::clone(&parts.catalog);
        // Embedding takes microseconds with the built-in embedder and seconds with a large one.
        match tokio::task::spawn_blocking(move || catalog.describe(capabilities)).await {
            Ok(described) => drop(parts.own.send_replace(described.into())),
            Err(fault) => tracing::error!(%fault, "could not describe this node's capabilities"),
        }
        if found.changed().await.is_err() {
            return;
        }
    }
}

/// This node's own capabilities, as far as they are shared, become its advert. The first waits for the backends to be asked: to
/// the others it replaces the advert of this node's last run.
pub(super) async fn advertise(parts: Arc<Parts>) {
    parts.registry.settled(SETTLE).await;
    let mut own = parts.own.subscribe();
    let found = parts.registry.capabilities().borrow().len();
    // An error says that describing takes very long, or has failed; what there is by then is told.
    let _ = tokio::time::timeout(DESCRIBED, own.wait_for(|own| own.len() >= found)).await;
    let mut told = (u8::MAX, Arc::from([]));
    loop {
        let capabilities = Arc::clone(&own.borrow_and_update());
        let load = parts.local.load_class();
        if told.0 != load || !Arc::ptr_eq(&told.1, &capabilities) {
            let shared: Vec<Arc<Capability>> =
                capabilities.iter().filter(|capability| parts.registry.is_shared(&capability.id)).cloned().collect();
            parts.mesh.advertise(shared, load).await;
            told = (load, capabilities);
        }
        if let Ok(Err(_)) = tokio::time::timeout(LOAD_EVERY, own.changed()).await {
            return;
        }
    }
}

/// The adverts of all nodes become the catalog; of this node also what it keeps to itself.
pub(super) async fn catalogue(parts: Arc<Parts>) {
    let mut adverts = parts.mesh.adverts();
    let mut own = parts.own.subscribe();
    let mut runs: HashMap<PeerId, u64> = HashMap::new();
    loop {
        let live = with_own(&adverts.borrow_and_update(), &parts, &own.borrow_and_update());
        let catalog = Arc::clone(&parts.catalog);
        let router = Arc::clone(&parts.router);
        let nodes: HashMap<_, _> = live.iter().map(|(node, advert)| (*node, advert.epoch)).collect();
        let updated = tokio::task::spawn_blocking(move || {
            catalog.update(&live);
            router.refresh();
        });
        if let Err(fault) = updated.await {
            tracing::error!(%fault, "could not update the catalog");
        }
        let signals = parts.router.signals();
        signals.retain(&nodes.keys().copied().collect());
        for node in nodes.iter().filter(|(node, run)| runs.get(node) != Some(run)).map(|(node, _)| node) {
            signals.began_anew(node, Instant::now());
        }
        runs = nodes;
        let more = tokio::select! {
            changed = adverts.changed() => changed,
            changed = own.changed() => changed,
        };
        if more.is_err() {
            return;
        }
    }
}

fn with_own(adverts: &Adverts, parts: &Parts, own: &Arc<[Arc<Capability>]>) -> Adverts {
    let mut live = adverts.clone();
    let node = parts.mesh.node();
    let advert = match live.get(&node) {
        Some(advert) => Advert { capabilities: Arc::clone(own), ..Advert::clone(advert) },
        // Before the mesh has said anything, and after it has left, this node is still its own.
        None => Advert {
            node,
            epoch: 0,
            seq: 0,
            ttl: Duration::ZERO,
            name: parts.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: Vec::new(),
            capabilities: Arc::clone(own),
            load: 0,
            relay: false,
        },
    };
    live.insert(node, Arc::new(advert));
    live
}

/// What the mesh sees of its peers becomes what the router knows of paths.
pub(super) async fn paths(parts: Arc<Parts>) {
    let mut view = parts.mesh.watch_view();
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        parts.router.signals().update_paths(&now);
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// Other nodes' calls run on this node's providers.
pub(super) async fn inbound(
    parts: Arc<Parts>,
    mut calls: mpsc::Receiver<InboundCall>,
    running: TaskTracker,
    stop: CancellationToken,
) {
    while let Some(Some(InboundCall { from, call, reply, .. })) = stop.run_until_cancelled(calls.recv()).await {
        let frames = parts.local.run(call, Some(from));
        // As many as the mesh lets in, which is bounded; each ends with its deadline at the latest.
        running.spawn(reply.send_all(frames));
    }
}
