//! Meshes for this module's tests, in a line each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::capability::{
    Advert, Capability, Intent, Kind, Operation, OperationSet, PeerId, Preference, Requirements, Target,
};
use crate::catalog::{Adverts, Catalog};

/// A chat model with that many billion weights, of unknown context length.
pub(crate) fn chat_model(name: &str, billions: u64) -> Capability {
    let mut capability = Capability::new("test", Kind::LLM_CHAT, name);
    capability.operations = OperationSet::of(&[Operation::Chat]);
    capability.parameter_count = Some(billions * 1_000_000_000);
    capability
}

/// A chat intent for that model, or for `auto`.
pub(crate) fn intent(model: Option<&str>) -> Intent {
    Intent {
        request_id: "request".into(),
        operation: Operation::Chat,
        target: Target::from_model(model),
        requirements: Requirements::default(),
        preference: Preference::Balanced,
        query: None,
        payload: Bytes::from_static(b"{}"),
        content_type: "application/json".into(),
        deadline: Duration::from_secs(30),
        headers: BTreeMap::new(),
        reuse: Default::default(),
        handling: Default::default(),
        prefix: Vec::new(),
        whereabouts: None,
    }
}

/// The advert of a node.
pub(crate) fn advert(node: PeerId, name: &str, capabilities: Vec<Arc<Capability>>) -> Arc<Advert> {
    Arc::new(Advert {
        node,
        epoch: 1,
        seq: 1,
        ttl: Duration::from_secs(60),
        name: name.into(),
        version: "0".into(),
        addresses: Vec::new(),
        capabilities: capabilities.into(),
        load: 0,
        relay: false,
    })
}

/// A catalog in which these nodes offer these capabilities.
pub(crate) fn catalog(nodes: Vec<(PeerId, &str, Vec<Capability>)>) -> Arc<Catalog> {
    let catalog = Arc::new(Catalog::new(None));
    fill(&catalog, nodes);
    catalog
}

/// Puts these nodes into a catalog, and nothing else.
pub(crate) fn fill(catalog: &Catalog, nodes: Vec<(PeerId, &str, Vec<Capability>)>) {
    let adverts: Adverts =
        nodes.into_iter().map(|(node, name, all)| (node, advert(node, name, catalog.describe(all)))).collect();
    catalog.update(&adverts);
}
