//! The node as its API sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::parts::Parts;
use crate::api::{JoinError, Phase, ProviderStatus, Service};
use crate::capability::{Intent, Operation, PeerId, Preference, Requirements, Target};
use crate::catalog::Snapshot;
use crate::dispatch::{DispatchError, Reply};
use crate::mesh::{self, Examination, MeshView};
use crate::provider::Registry;
use crate::router::{Decision, Logged};

/// The node as its API sees it.
pub(super) struct NodeService(pub Arc<Parts>);

impl Service for NodeService {
    fn node_name(&self) -> Arc<str> {
        Arc::clone(&self.0.name)
    }

    fn dispatch(&self, intent: Intent) -> BoxFuture<'static, Result<Reply, DispatchError>> {
        let parts = Arc::clone(&self.0);
        async move {
            let dispatcher = Arc::clone(&parts.dispatcher);
            let decide = |intent: &Intent| parts.router.decide(intent);
            let run = |intent| async move { dispatcher.dispatch(intent).await }.boxed();
            parts.cache.answer(intent, decide, run).await
        }
        .boxed()
    }

    fn route(&self, intent: &Intent) -> Decision {
        let decision = self.0.router.decide(intent);
        self.0.router.log().record(Arc::new(decision.clone()), &intent.request_id);
        decision
    }

    fn decisions(&self, count: usize) -> Vec<Logged> {
        self.0.router.log().latest(count)
    }

    fn decision(&self, id: &str) -> Option<Logged> {
        self.0.router.log().get(id)
    }

    fn catalog(&self) -> Arc<Snapshot> {
        self.0.catalog.snapshot()
    }

    fn mesh(&self) -> Arc<MeshView> {
        self.0.mesh.view()
    }

    fn join(&self, peer: &str) -> BoxFuture<'static, Result<PeerId, JoinError>> {
        let mesh = self.0.mesh.clone();
        let seed = peer.parse::<mesh::Seed>().map_err(|error| JoinError::BadAddress(error.to_string()));
        async move {
            mesh.join(seed?).await.map_err(|error| match error {
                mesh::JoinError::Itself(_) => JoinError::BadAddress(error.to_string()),
                _ => JoinError::Unreachable(error.to_string()),
            })
        }
        .boxed()
    }

    fn examine(&self, only: Option<PeerId>) -> BoxFuture<'static, Examination> {
        let mesh = self.0.mesh.clone();
        async move { mesh::examine(&mesh, only).await }.boxed()
    }

    fn gossip_port(&self) -> Option<u16> {
        self.0.mesh.port()
    }

    fn providers(&self) -> Vec<ProviderStatus> {
        provider_statuses(&self.0.registry)
    }

    fn aliases(&self) -> Vec<String> {
        let router = &self.0.router;
        let usable = |name: &&str| !router.decide(&asking_for(name)).candidates.is_empty();
        router.aliases().names().filter(usable).map(str::to_owned).collect()
    }

    fn phase(&self) -> Phase {
        *self.0.phase.read()
    }
}

/// The plainest request for this name: what it cannot be chosen for, nothing can.
fn asking_for(name: &str) -> Intent {
    Intent {
        request_id: String::new(),
        operation: Operation::Chat,
        target: Target::Named(name.to_owned()),
        requirements: Requirements::default(),
        preference: Preference::Balanced,
        query: None,
        payload: Bytes::new(),
        content_type: String::new(),
        deadline: Duration::ZERO,
        headers: BTreeMap::new(),
        reuse: Default::default(),
    }
}

pub(super) fn provider_statuses(registry: &Registry) -> Vec<ProviderStatus> {
    let statuses = registry.statuses().into_iter();
    statuses
        .map(|status| ProviderStatus {
            id: status.id,
            kind: status.kind,
            url: (!status.url.is_empty()).then_some(status.url),
            up: status.up,
            error: status.error,
            capabilities: status.capabilities,
        })
        .collect()
}
