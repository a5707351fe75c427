//! Opening a stream.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::links::{Best, Links, Request};
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
    /// Opens a stream to `node`, `within` this time. Where there is no connection, the node is dialled at
    /// `addresses` and at those that the swarm's other parts know.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached, does not speak the protocol, or the time runs out.
    pub async fn open(
        &self,
        node: PeerId,
        addresses: Vec<Multiaddr>,
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
        mut addresses: Vec<Multiaddr>,
        prefer: Prefer,
        deadline: Instant,
    ) -> Result<Stream, OpenError> {
        let mut last = OpenError::Closed { node, reason: "it closed while the stream was opened".to_owned() };
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let Best::Link(link) = self.links.best(&node, prefer) else {
                self.connect(node, addresses.clone(), prefer).await?;
                attempts += 1;
                continue;
            };
            if prefer == Prefer::Direct && !link.rank.is_direct() && !addresses.is_empty() {
                let addresses = std::mem::take(&mut addresses);
                // Nobody waits for it, so when the queue is full it is left for the next time.
                let _ = self.wish.try_send(Wish { node, addresses, direct: true, reply: None });
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
