//! The catalog through its front.

mod graph;
mod meaning;
mod sentences;
mod updates;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::*;
use crate::capability::{Advert, Kind};
use crate::embedding::StaticEmbedder;

/// Read once for all tests.
fn embedder() -> Arc<dyn Embedder> {
    static EMBEDDER: LazyLock<Arc<StaticEmbedder>> = LazyLock::new(|| Arc::new(StaticEmbedder::builtin()));
    Arc::clone(&*EMBEDDER) as Arc<dyn Embedder>
}

fn advert(node: PeerId, seq: u64, capabilities: Vec<Arc<Capability>>) -> Arc<Advert> {
    Arc::new(Advert {
        node,
        epoch: 1,
        seq,
        ttl: Duration::from_secs(60),
        name: format!("node-{}", node.to_base58().split_off(32)),
        version: "1".into(),
        addresses: Vec::new(),
        capabilities: capabilities.into(),
        load: 0,
        relay: false,
    })
}

fn described(name: &str, kind: Kind, description: &str, examples: &[&str]) -> Capability {
    let mut capability = Capability::new("p", kind, name);
    capability.description = description.into();
    capability.examples = examples.iter().map(|example| (*example).into()).collect();
    capability
}

/// A catalog of one node with these capabilities.
fn catalog_of(embedder: Option<Arc<dyn Embedder>>, capabilities: Vec<Capability>) -> Catalog {
    let catalog = Catalog::new(embedder);
    let node = PeerId::random();
    let advert = advert(node, 1, catalog.describe(capabilities));
    catalog.update(&Adverts::from([(node, advert)]));
    catalog
}

/// The names of what is found, best first.
fn found(snapshot: &Snapshot, query: &str, count: usize) -> Vec<String> {
    let hits = snapshot.search(query, count, |_| true);
    hits.iter().map(|hit| snapshot.entry(hit.entry).expect("an entry").capability.name.clone()).collect()
}
