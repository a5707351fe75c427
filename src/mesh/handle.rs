//! What the rest of the program holds of the mesh. Cheap to clone; nothing here waits without a limit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::address::{Seed, of_advert, path_class};
use super::calling::{self, NotCalled};
use super::command::{Command, JoinError};
use super::identity::Identity;
use super::member::Closed;
use super::pair::Joins;
use super::situation::Situation;
use super::streams::{Control, OpenError};
use super::view::{MeshView, PathClass};
use crate::capability::{Call, Capability, ErrorClass, Failure, FrameStream, PeerId};
use crate::catalog::Adverts;
use crate::wire::v1;

/// From a call to its first frame on this machine or network: connecting takes milliseconds there, and a dead
/// node must be given up within 2 s.
const NEAR: Duration = Duration::from_millis(1500);

/// The same over the internet or through a relay: DNS, handshakes and the gate over a slow path.
const FAR: Duration = Duration::from_secs(5);

/// How long to wait for a seed: one attempt with both transports.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// How long leaving may take; the driver needs less.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);

/// What changes when the node changes to another mesh, and what it takes to do so.
#[derive(Debug)]
pub struct Shared {
    pub(super) identity: Identity,
    pub(super) data_dir: Option<PathBuf>,
    control: ArcSwap<Control>,
    /// Set when this node says farewell.
    leaving: CancellationToken,
    closed: ArcSwapOption<Closed>,
    /// This node's own attempt to join with a spoken code.
    pub(super) joins: Joins,
    /// One change at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(super) fn new(
        identity: Identity,
        data_dir: Option<PathBuf>,
        control: Control,
        leaving: CancellationToken,
        closed: Option<Closed>,
    ) -> Arc<Self> {
        let (control, closed) = (ArcSwap::from_pointee(control), ArcSwapOption::from(closed.map(Arc::new)));
        Arc::new(Self {
            identity,
            data_dir,
            control,
            leaving,
            closed,
            joins: Joins::default(),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// The node is in another mesh now.
    pub(super) fn change(&self, control: Control, closed: Option<Closed>) {
        self.control.store(Arc::new(control));
        self.closed.store(closed.map(Arc::new));
    }
}

/// The mesh, for the rest of the program.
#[derive(Debug, Clone)]
pub struct Handle {
    node: PeerId,
    port: Option<u16>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) shared: Arc<Shared>,
    view: watch::Receiver<Arc<MeshView>>,
    adverts: watch::Receiver<Arc<Adverts>>,
}

impl Handle {
    pub(super) const fn new(
        node: PeerId,
        port: Option<u16>,
        commands: mpsc::Sender<Command>,
        shared: Arc<Shared>,
        view: watch::Receiver<Arc<MeshView>>,
        adverts: watch::Receiver<Arc<Adverts>>,
    ) -> Self {
        Self { node, port, commands, shared, view, adverts }
    }

    /// The closed mesh that this node is in; `None` when it is in an open one.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.shared.closed.load().as_deref().cloned()
    }

    /// This node.
    #[must_use]
    pub const fn node(&self) -> PeerId {
        self.node
    }

    /// The port, UDP and TCP, that the mesh listens on.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// The mesh as this node sees it now.
    #[must_use]
    pub fn view(&self) -> Arc<MeshView> {
        Arc::clone(&self.view.borrow())
    }

    /// The same, with a notice of each change. The sender is gone once this node has left the mesh.
    #[must_use]
    pub fn watch_view(&self) -> watch::Receiver<Arc<MeshView>> {
        self.view.clone()
    }

    /// All live adverts, this node's own among them, with a notice of each change.
    #[must_use]
    pub fn adverts(&self) -> watch::Receiver<Arc<Adverts>> {
        self.adverts.clone()
    }

    /// Tells the mesh what this node can do and how busy it is (0, idle, to 4, full). Several changes in a row
    /// become one advert.
    pub async fn advertise(&self, capabilities: Vec<Arc<Capability>>, load: u8) {
        // Once the mesh has stopped there is nobody to tell.
        let _ = self.commands.send(Command::Advertise { capabilities, load }).await;
    }

    /// Makes a call, and returns once it was admitted or rejected. The node is dialled if it is not connected.
    /// Dropping the frames ends the work there.
    ///
    /// # Errors
    ///
    /// When the node is unknown or cannot be reached, or does not take the call in time: 1.5 s on this machine or
    /// network, 5 s beyond.
    pub async fn call(&self, node: PeerId, call: Call) -> Result<FrameStream, Failure> {
        let advert = self.adverts.borrow().get(&node).cloned();
        let addresses = || advert.as_deref().map(of_advert).unwrap_or_default();
        let path = self.view.borrow().peers.get(&node).map(|peer| peer.path);
        let name = || advert.as_ref().map_or_else(|| node.to_base58(), |advert| format!("{} ({node})", advert.name));
        if path.is_none() && advert.is_none() {
            let why = format!("node {} is not in the mesh any more", name());
            return Err(Failure::new(ErrorClass::Unavailable, why));
        }
        let near = |path| path <= PathClass::Lan;
        let is_near =
            path.map_or_else(|| addresses().iter().all(|address| near(path_class(address, &Default::default()))), near);
        let limit = if is_near { NEAR } else { FAR }.min(call.deadline);
        let control = Control::clone(&self.shared.control.load());
        calling::call(&control, node, &addresses, &call, limit).await.map_err(|not_called| match not_called {
            NotCalled::Unreachable(error) => unreachable(&name(), &error),
            NotCalled::Failed(failure) => failure,
        })
    }

    /// Connects to one more seed, and returns the node that answers there. A seed that does not answer is kept
    /// and tried further.
    ///
    /// # Errors
    ///
    /// When it did not answer, or is this node.
    pub async fn join(&self, seed: Seed) -> Result<PeerId, JoinError> {
        let text = seed.to_string();
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Join { seed, reply }).await.map_err(|_| JoinError::Stopped)?;
        match tokio::time::timeout(JOIN_LIMIT, answer).await {
            Ok(answer) => answer.unwrap_or(Err(JoinError::Stopped)),
            Err(_) => Err(JoinError::TimedOut(text)),
        }
    }

    /// Asks another node; why not, in words.
    pub(super) async fn ask(&self, node: PeerId, request: v1::SyncRequest) -> Result<v1::SyncResponse, String> {
        let stopped = || "this node has left the mesh".to_owned();
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Ask { node, request, reply }).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// What this node knows of its own situation; `None` once it has left the mesh.
    pub async fn situation(&self) -> Option<Situation> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Describe { reply }).await.ok()?;
        answer.await.ok()
    }

    /// Tells the mesh that this node leaves. Nobody sends it anything new from then on; calls that run go on until
    /// [`leave`](Self::leave).
    pub async fn say_goodbye(&self) {
        self.shared.leaving.cancel();
        // When the mesh has stopped already there is nobody to tell.
        let _ = tokio::time::timeout(LEAVE_LIMIT, self.commands.send(Command::SayGoodbye)).await;
    }

    /// Makes the driver panic.
    #[cfg(test)]
    pub(super) async fn fail(&self) {
        let _ = self.commands.send(Command::Panic).await;
    }

    /// Tells the mesh that this node leaves, closes its connections and stops the mesh. Calls that run are cut.
    pub async fn leave(&self) {
        let (reply, left) = oneshot::channel();
        let said = async {
            // When the mesh has stopped already there is nothing to leave.
            if self.commands.send(Command::Leave { reply }).await.is_ok() {
                let _ = left.await;
            }
        };
        if tokio::time::timeout(LEAVE_LIMIT, said).await.is_err() {
            tracing::warn!("leaving the mesh took too long; this node stays listed until its advert runs out");
        }
    }
}

fn unreachable(name: &str, error: &OpenError) -> Failure {
    let (class, why) = match error {
        OpenError::OwnNode => {
            (ErrorClass::Internal, "a call to this node itself must not go through the mesh".to_owned())
        }
        OpenError::Timeout { .. } => (ErrorClass::Unavailable, format!("node {name} did not answer in time")),
        OpenError::Stopped => (ErrorClass::Unavailable, "this node has left the mesh".to_owned()),
        OpenError::Busy { .. } => {
            (ErrorClass::Overloaded, format!("too many calls wait for a connection to node {name}"))
        }
        error => (ErrorClass::Unavailable, format!("cannot call node {name}: {error}")),
    };
    Failure::new(class, why)
}
