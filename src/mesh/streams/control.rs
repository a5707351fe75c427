//! Opening a stream.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::links::{Best, Link, Links, Request};
use super::stream::{Counted, OpenError, Prefer, Stream};

/// How often a connection may vanish under an opener before it is told.
const ATTEMPTS: usize = 3;

/// Opens streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    pub(super) own: PeerId,
    pub(super) links: Arc<Links>,
    pub(super) wish: mpsc::Sender<Wish>,
}

impl Control {
    /// Opens a stream to `node`, `within` this time, or takes one that was [kept](Stream::keep). Where there is no
    /// connection, the node is dialled at `addresses` and at those that the swarm's other parts know.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached, does not speak the protocol, or the time runs out.
    pub async fn open(
        &self,
        node: PeerId,
        addresses: impl Fn() -> Vec<Multiaddr>,
        prefer: Prefer,
        within: Duration,
    ) -> Result<Stream, OpenError> {
        if let Best::Link(link) = self.links.best(&node, prefer)
            && let Some(stream) = link.take_kept(node)
        {
            if prefer == Prefer::Direct {
                self.wish_for_direct(node, &link, &addresses);
            }
            return Ok(stream);
        }
        self.open_new(node, addresses, prefer, within).await
    }

    /// The same, but never one that was kept.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_new(
        &self,
        node: PeerId,
        addresses: impl Fn() -> Vec<Multiaddr>,
        prefer: Prefer,
        within: Duration,
    ) -> Result<Stream, OpenError> {
        if node == self.own {
            return Err(OpenError::OwnNode);
        }
        let deadline = Instant::now() + within;
        let opening = self.open_before(node, addresses, prefer, deadline);
        tokio::time::timeout_at(deadline, opening).await.unwrap_or(Err(OpenError::Timeout { node }))
    }

    /// Streams to this node that are open or being opened, in both directions.
    #[must_use]
    pub fn open_streams(&self, node: &PeerId) -> usize {
        self.links.streams(node)
    }

    async fn open_before(
        &self,
        node: PeerId,
        addresses: impl Fn() -> Vec<Multiaddr>,
        prefer: Prefer,
        deadline: Instant,
    ) -> Result<Stream, OpenError> {
        let mut last = OpenError::Closed { node, reason: "it closed while the stream was opened".to_owned() };
        let (mut attempts, mut tells) = (0, prefer == Prefer::Direct);
        while attempts < ATTEMPTS {
            let Best::Link(link) = self.links.best(&node, prefer) else {
                self.connect(node, addresses(), prefer).await?;
                attempts += 1;
                continue;
            };
            if std::mem::take(&mut tells) {
                self.wish_for_direct(node, &link, &addresses);
            }
            let (reply, answer) = oneshot::channel();
            let request = Request { reply, counted: Counted::new(&link.streams), deadline };
            if link.requests.send(request).await.is_ok() {
                match answer.await {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error @ OpenError::Closed { .. })) => last = error,
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {}
                }
            }
            attempts += 1;
        }
        Err(last)
    }

    /// Has a better connection tried beside a relayed one.
    fn wish_for_direct(&self, node: PeerId, link: &Link, addresses: &impl Fn() -> Vec<Multiaddr>) {
        if link.rank.is_direct() {
            return;
        }
        let addresses = addresses();
        if !addresses.is_empty() {
            // Nobody waits for it, so when the queue is full it is left for the next time.
            let _ = self.wish.try_send(Wish { node, addresses, direct: true, reply: None });
        }
    }

    async fn connect(&self, node: PeerId, addresses: Vec<Multiaddr>, prefer: Prefer) -> Result<(), OpenError> {
        let (reply, answer) = oneshot::channel();
        let wish = Wish { node, addresses, direct: prefer == Prefer::DirectOnly, reply: Some(reply) };
        self.wish.send(wish).await.map_err(|_| OpenError::Stopped)?;
        answer.await.unwrap_or(Err(OpenError::Stopped))
    }
}

/// Asks the behaviour for a connection.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) node: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) direct: bool,
    pub(super) reply: Option<oneshot::Sender<Result<(), OpenError>>>,
}
