//! What the API needs of the node. The node implements it; tests script it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;

use crate::capability::{Intent, PeerId};
use crate::catalog::Snapshot;
use crate::dispatch::{DispatchError, Reply};
use crate::mesh::{
    Code, EntryError, Examination, InviteOptions, Invited, MemberError, MemberView, MeshView, PairView, Revoked, Role,
    Seed,
};
use crate::router::{Decision, Logged};
use crate::telemetry::EventBus;

/// The node behind the API.
pub trait Service: Send + Sync + 'static {
    /// This node's human name.
    fn node_name(&self) -> Arc<str>;

    /// Runs an intent. Resolves with the first piece of the answer, or with why there is none; dropping the
    /// future, or the reply's body, cancels the work. It keeps the intent's deadline.
    fn dispatch(&self, intent: Intent) -> BoxFuture<'static, Result<Reply, DispatchError>>;

    /// Judges an intent without running it, at once and by itself.
    fn route(&self, intent: &Intent) -> Decision;

    /// Judges an intent without running it, as it would be judged if it were to be run: where it is doubtful what it means,
    /// somebody who knows better may be asked. It ends within a time of its own.
    fn consider(&self, intent: Intent) -> BoxFuture<'static, Decision>;

    /// The last decisions, newest first, `count` at the most.
    fn decisions(&self, count: usize) -> Vec<Logged>;

    /// The decision with this id, while it is remembered.
    fn decision(&self, id: &str) -> Option<Logged>;

    /// What happens, for whoever watches.
    fn events(&self) -> EventBus;

    /// What the mesh can do now.
    fn catalog(&self) -> Arc<Snapshot>;

    /// Who is connected, and how.
    fn mesh(&self) -> Arc<MeshView>;

    /// Joins the mesh of the node at this address (`host:port` or a multiaddress), or of this invite. It ends within a
    /// time of its own.
    fn join(&self, peer: &str) -> BoxFuture<'static, Result<PeerId, JoinError>>;

    /// Finds out what hinders this node, together with its neighbours or with one of them only. It ends within a time of
    /// its own.
    fn examine(&self, only: Option<PeerId>) -> BoxFuture<'static, Examination>;

    /// The mesh's port, UDP and TCP.
    fn gossip_port(&self) -> Option<u16>;

    /// Who belongs to the closed mesh; `None` in an open one.
    fn members(&self) -> Option<Vec<MemberView>>;

    /// Makes an invite.
    fn invite(&self, options: InviteOptions) -> BoxFuture<'static, Result<Invited, MemberError>>;

    /// Ends the membership of a node; of an admin, perhaps `with_its_own` newcomers.
    fn revoke(
        &self,
        node: PeerId,
        reason: String,
        with_its_own: bool,
    ) -> BoxFuture<'static, Result<Revoked, MemberError>>;

    /// Makes a closed mesh of this name, and goes into it.
    fn create_mesh(&self, name: String) -> BoxFuture<'static, Result<(), EntryError>>;

    /// Offers a spoken code to a nearby machine.
    ///
    /// # Errors
    ///
    /// When this node may not.
    fn offer_pairing(&self, role: Role, life: Duration) -> Result<PairView, MemberError>;

    /// Begins to join with a spoken code, looking at these places and on the network.
    ///
    /// # Errors
    ///
    /// When the node is in a closed mesh already.
    fn join_nearby(&self, code: Code, peers: Vec<Seed>) -> Result<PairView, EntryError>;

    /// A pairing, once its revision is greater than `after` or `wait` is over; `None` when there is none with this id.
    fn pairing(&self, id: &str, after: u64, wait: Duration) -> BoxFuture<'static, Option<PairView>>;

    /// The owner's answer about a pairing.
    fn answer_pairing(&self, id: &str, yes: bool) -> BoxFuture<'static, Result<Option<PairView>, MemberError>>;

    /// Leaves the closed mesh. Returns where its files are now.
    fn leave_mesh(&self) -> BoxFuture<'static, Result<Vec<PathBuf>, EntryError>>;

    /// How this node's providers fare.
    fn providers(&self) -> Vec<ProviderStatus>;

    /// Names that mean "the best for this", such as `best-code`, and that somebody in the mesh can answer now.
    fn aliases(&self) -> Vec<String>;

    /// Where the node is in its life.
    fn phase(&self) -> Phase;
}

/// Where a node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It still looks for its backends and seeds.
    Starting,
    /// It answers.
    #[serde(rename = "ok")]
    Ready,
    /// It finishes what it has and takes nothing new.
    Draining,
}

/// How a provider fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProviderStatus {
    /// Its name on this node.
    pub id: String,
    /// Which adapter it is, such as `ollama`.
    pub kind: String,
    /// Where its backend is, without secrets; `None` for a built-in one.
    pub url: Option<String>,
    /// Whether its last discovery succeeded.
    pub up: bool,
    /// Why it did not.
    pub error: Option<String>,
    /// How many capabilities it has now.
    pub capabilities: usize,
}

/// Why a mesh was not joined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// What was given is no address.
    #[error("{0}")]
    BadAddress(String),
    /// Nobody answered there, or not in time.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody answered, and one of the two does not admit the other.
    #[error("{0}")]
    NotAdmitted(String),
    /// It failed on this node itself.
    #[error("{0}")]
    Failed(String),
}
