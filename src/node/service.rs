//! The node as its API sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::parts::Parts;
use crate::api::{JoinError, Phase, ProviderStatus, Service};
use crate::capability::{Intent, Operation, PeerId, Target};
use crate::catalog::Snapshot;
use crate::dispatch::{DispatchError, Reply};
use crate::mesh::{
    self, Attempt, Code, EntryError, Examination, InviteOptions, Invited, MemberError, MemberView, MeshView, Nearby,
    PairView, Revoked, Role, Seed, Token,
};
use crate::provider::Registry;
use crate::router::{Decision, Logged};
use crate::telemetry::EventBus;

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
            let decide = |intent: &Intent| parts.dispatcher.decide(intent);
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

    fn consider(&self, intent: Intent) -> BoxFuture<'static, Decision> {
        let parts = Arc::clone(&self.0);
        async move {
            let decision = parts.dispatcher.consider(&intent).await;
            parts.router.log().record(Arc::new(decision.clone()), &intent.request_id);
            decision
        }
        .boxed()
    }

    fn decisions(&self, count: usize) -> Vec<Logged> {
        self.0.router.log().latest(count)
    }

    fn decision(&self, id: &str) -> Option<Logged> {
        self.0.router.log().get(id)
    }

    fn events(&self) -> EventBus {
        self.0.events.clone()
    }

    fn catalog(&self) -> Arc<Snapshot> {
        self.0.catalog.snapshot()
    }

    fn mesh(&self) -> Arc<MeshView> {
        self.0.mesh.view()
    }

    fn join(&self, peer: &str) -> BoxFuture<'static, Result<PeerId, JoinError>> {
        let mesh = self.0.mesh.clone();
        if Token::is_like(peer) {
            let token = peer.parse::<Token>().map_err(|error| JoinError::BadAddress(error.to_string()));
            let membership = self.0.membership;
            return async move {
                let met = mesh.enter(&token?).await.map_err(join_error)?;
                if let Some(closed) = mesh.closed() {
                    closed.set_lifetime(membership);
                }
                // The node is in, and finds the others as they come.
                Ok(met.unwrap_or(mesh.node()))
            }
            .boxed();
        }
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

    fn members(&self) -> Option<Vec<MemberView>> {
        Some(self.0.mesh.closed()?.members())
    }

    fn invite(&self, options: InviteOptions) -> BoxFuture<'static, Result<Invited, MemberError>> {
        let mesh = self.0.mesh.clone();
        async move { mesh.invite(options).await }.boxed()
    }

    fn revoke(
        &self,
        node: PeerId,
        reason: String,
        with_its_own: bool,
    ) -> BoxFuture<'static, Result<Revoked, MemberError>> {
        let mesh = self.0.mesh.clone();
        async move { mesh.revoke(node, reason, with_its_own).await }.boxed()
    }

    fn create_mesh(&self, name: String) -> BoxFuture<'static, Result<(), EntryError>> {
        let (mesh, membership) = (self.0.mesh.clone(), self.0.membership);
        async move {
            mesh.create(&name).await?.set_lifetime(membership);
            Ok(())
        }
        .boxed()
    }

    fn offer_pairing(&self, role: Role, life: Duration) -> Result<PairView, MemberError> {
        self.0.mesh.offer_pairing(role, life, &self.0.name)
    }

    fn join_nearby(&self, code: Code, peers: Vec<Seed>) -> Result<PairView, EntryError> {
        // Where the owner says where to look, there only; or else at the seeds and on the network.
        let nearby = if peers.is_empty() {
            let seeds = self.0.mesh.view().seeds.iter().filter_map(|seed| seed.seed.parse().ok()).collect();
            Nearby { seeds, mdns: self.0.mdns }
        } else {
            Nearby { seeds: peers, mdns: false }
        };
        let (own_name, lifetime) = (self.0.name.to_string(), self.0.membership);
        self.0.mesh.join_nearby(Attempt { code, nearby, own_name, lifetime })
    }

    fn pairing(&self, id: &str, after: u64, wait: Duration) -> BoxFuture<'static, Option<PairView>> {
        let (mesh, id) = (self.0.mesh.clone(), id.to_owned());
        async move { mesh.pairing(&id, after, wait).await }.boxed()
    }

    fn answer_pairing(&self, id: &str, yes: bool) -> BoxFuture<'static, Result<Option<PairView>, MemberError>> {
        let (mesh, id) = (self.0.mesh.clone(), id.to_owned());
        async move { mesh.answer_pairing(&id, yes).await }.boxed()
    }

    fn leave_mesh(&self) -> BoxFuture<'static, Result<Vec<PathBuf>, EntryError>> {
        let (mesh, open) = (self.0.mesh.clone(), Arc::clone(&self.0.open_mesh));
        async move { mesh.abandon(&open).await }.boxed()
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

fn join_error(error: EntryError) -> JoinError {
    let text = error.to_string();
    match error {
        EntryError::Knock(mesh::KnockError::Unreachable { .. }) => JoinError::Unreachable(text),
        EntryError::Knock(_) | EntryError::Elsewhere(_) => JoinError::NotAdmitted(text),
        _ => JoinError::Failed(text),
    }
}

/// The plainest request for this name: what it cannot be chosen for, nothing can.
fn asking_for(name: &str) -> Intent {
    Intent::plain(Operation::Chat, Target::Named(name.to_owned()))
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
