//! How a node comes into a closed mesh, and what its owner does there: create, enter, leave, invite, revoke.
//!
//! A node is in one mesh at a time. It leaves the former one only when it has its membership of the new one, and then
//! changes while it runs: its API, its backends and its port stay.

use std::path::{Path, PathBuf};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::sync::oneshot;

use super::command::{Change, Command};
use super::handle::Handle;
use super::identity::Identity;
use super::knock::{Granted, KnockError, knock};
use super::member::{Closed, InviteOptions, Invited, MemberError, Revoked, Token};
use crate::capability::PeerId;

/// How long a change of the mesh may take: saying goodbye, and taking the port anew.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);

/// How long to wait for the first member after it. The node goes on looking for it.
const MEETING: Duration = Duration::from_secs(5);

/// Why a node did not come into a closed mesh, or out of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The mesh did not let it in.
    #[error(transparent)]
    Knock(#[from] KnockError),
    /// Its membership could not be kept.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// It is in another closed mesh.
    #[error(
        "this node is a member of the closed mesh {0} already; to change, first leave that one: atmosphere mesh leave"
    )]
    Elsewhere(String),
    /// The mesh has stopped, or takes too long.
    #[error("this node could not change the mesh in time; restart it, and it will be in the new one")]
    Stopped,
}

/// Gets a membership for an invite and keeps it in `data_dir`; the next start of the node is in that mesh. A node that is
/// a member already may be revoked without knowing it, so it knocks as well; the same invite counts once for one node.
///
/// # Errors
///
/// When the mesh cannot be reached or does not let it in, the node is in another closed mesh, or it cannot be kept.
pub async fn enter(data_dir: Option<&Path>, identity: &Identity, token: &Token) -> Result<Closed, EntryError> {
    let existing = match data_dir {
        Some(dir) => Closed::open(dir, identity)?,
        None => None,
    };
    if let Some(closed) = existing.as_ref().filter(|closed| closed.mesh() != token.mesh()) {
        return Err(EntryError::Elsewhere(closed.name().to_owned()));
    }
    let granted = knock(identity, token).await?;
    match existing {
        Some(closed) => {
            closed.take_renewed(granted.membership)?;
            closed.save()?;
            Ok(closed)
        }
        None => adopt(data_dir, identity, token, granted),
    }
}

fn adopt(data_dir: Option<&Path>, identity: &Identity, token: &Token, granted: Granted) -> Result<Closed, EntryError> {
    let at = |address: &Multiaddr, node: PeerId| address.clone().with(Protocol::P2p(node));
    // Who answered is known; behind the other addresses is most likely who made the invite.
    let others = token.addresses.iter().filter(|address| **address != granted.address);
    let seeds = std::iter::once(at(&granted.address, granted.by)).chain(others.map(|other| at(other, token.issuer)));
    let (name, root) = (&token.mesh_name, token.root());
    Ok(Closed::adopt(data_dir, identity, name, root, granted.membership, seeds.collect())?)
}

impl Handle {
    /// Joins the closed mesh of this invite, and leaves the open one that the node is in. Returns a member that it is
    /// connected to, when it is within a few seconds.
    ///
    /// # Errors
    ///
    /// When the mesh cannot be reached or does not let the node in, or the node is in another closed mesh. It stays
    /// where it is then.
    pub async fn enter(&self, token: &Token) -> Result<Option<PeerId>, EntryError> {
        let _changing = self.shared.changing.lock().await;
        let (data_dir, identity) = (self.shared.data_dir.as_deref(), &self.shared.identity);
        if let Some(closed) = self.closed() {
            if closed.mesh() != token.mesh() {
                return Err(EntryError::Elsewhere(closed.name().to_owned()));
            }
            // A node that was revoked may not have heard of it: then nobody speaks with it.
            if closed.own().denied.is_some() || self.view().peers.is_empty() {
                let granted = knock(identity, token).await?;
                closed.take_renewed(granted.membership)?;
                self.commands.send(Command::Renewed).await.map_err(|_| EntryError::Stopped)?;
            }
            return Ok(self.meets_somebody().await);
        }
        let granted = knock(identity, token).await?;
        let closed = adopt(data_dir, identity, token, granted)?;
        self.change(Some(closed), String::new()).await?;
        Ok(self.meets_somebody().await)
    }

    /// Makes a new closed mesh, and goes into it.
    ///
    /// # Errors
    ///
    /// When the node is in a closed mesh already, the name is no name, or it cannot be kept.
    pub async fn create(&self, name: &str) -> Result<Closed, EntryError> {
        let _changing = self.shared.changing.lock().await;
        if let Some(closed) = self.closed() {
            return Err(EntryError::Elsewhere(closed.name().to_owned()));
        }
        let closed = Closed::create(self.shared.data_dir.as_deref(), &self.shared.identity, name)?;
        self.change(Some(closed.clone()), String::new()).await?;
        Ok(closed)
    }

    /// Leaves the closed mesh, and goes into the open one of this name. Returns where the files of the former are now.
    ///
    /// # Errors
    ///
    /// When the node is in an open mesh, or the files cannot be renamed.
    pub async fn abandon(&self, open: &str) -> Result<Vec<PathBuf>, EntryError> {
        let _changing = self.shared.changing.lock().await;
        let closed = self.closed().ok_or(MemberError::Open)?;
        self.change(None, open.to_owned()).await?;
        Ok(blocking(move || closed.set_aside()).await?)
    }

    async fn change(&self, closed: Option<Closed>, mesh_name: String) -> Result<(), EntryError> {
        let (reply, done) = oneshot::channel();
        let change = Command::Change(Change { closed, mesh_name, reply });
        self.commands.send(change).await.map_err(|_| EntryError::Stopped)?;
        match tokio::time::timeout(CHANGE_LIMIT, done).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(EntryError::Stopped),
        }
    }

    /// A node that is connected within a few seconds.
    async fn meets_somebody(&self) -> Option<PeerId> {
        let mut view = self.watch_view();
        let met = tokio::time::timeout(MEETING, view.wait_for(|view| !view.peers.is_empty())).await;
        met.ok()?.ok()?.peers.keys().next().copied()
    }

    /// Makes an invite with this node's addresses in it.
    ///
    /// # Errors
    ///
    /// When the mesh is open, this node is no admin, or the options make no sense.
    pub async fn invite(&self, options: InviteOptions) -> Result<Invited, MemberError> {
        let closed = self.closed().ok_or(MemberError::Open)?;
        let (reply, addresses) = oneshot::channel();
        // Without an answer there is no address, and that is said.
        let _ = self.commands.send(Command::Addresses { reply }).await;
        let addresses = addresses.await.unwrap_or_default();
        blocking(move || closed.invite(options, addresses)).await
    }

    /// Ends the membership of a node, for all members; see [`Closed::revoke`].
    ///
    /// # Errors
    ///
    /// When the mesh is open, this node is no admin, or it cannot be kept.
    pub async fn revoke(&self, node: PeerId, reason: String, with_its_own: bool) -> Result<Revoked, MemberError> {
        let closed = self.closed().ok_or(MemberError::Open)?;
        blocking(move || closed.revoke(node, &reason, with_its_own)).await
    }
}

/// Does what waits for the disk where that holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MemberError> + Send + 'static,
) -> Result<T, MemberError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(MemberError::Bad("a fault in this node; its log says which".into())))
}
