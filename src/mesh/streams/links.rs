//! The live connections as the streams see them, and which one a new stream takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::kept::Kept;
use super::stream::{Counted, OpenError, Prefer, Stream};

/// Requests that wait for one connection's handler. Beyond it the opener waits, for its own deadline.
pub(super) const REQUESTS: usize = 256;

/// How good a connection is by its nature; the smaller is the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Direct over QUIC: a lost packet stalls one stream, not all.
    Quic,
    /// Direct over TCP or, in tests, memory.
    Direct,
    /// Through a relay.
    Relayed,
}

impl Rank {
    /// The rank of a connection with these addresses at its ends.
    pub(super) fn of(addresses: &[&Multiaddr]) -> Self {
        let has = |wanted: fn(&Protocol<'_>) -> bool| addresses.iter().any(|a| a.iter().any(|part| wanted(&part)));
        if has(|part| matches!(part, Protocol::P2pCircuit)) {
            Self::Relayed
        } else if has(|part| matches!(part, Protocol::QuicV1 | Protocol::Quic)) {
            Self::Quic
        } else {
            Self::Direct
        }
    }

    pub(super) fn is_direct(self) -> bool {
        self != Self::Relayed
    }
}

/// Asks a connection's handler for a stream. Dropping it is an answer too: the connection is gone.
#[derive(Debug)]
pub struct Request {
    pub(super) reply: oneshot::Sender<Result<Stream, OpenError>>,
    pub(super) counted: Counted,
    pub(super) deadline: Instant,
}

/// A live connection.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) connection: ConnectionId,
    pub(super) rank: Rank,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) streams: Arc<AtomicUsize>,
    pub(super) kept: Arc<Kept>,
}

impl Link {
    /// A stream to `node` that was used before.
    pub(super) fn take_kept(&self, node: PeerId) -> Option<Stream> {
        let inner = self.kept.take()?;
        let (relayed, home) = (!self.rank.is_direct(), Arc::downgrade(&self.kept));
        Some(Stream { inner, peer: node, relayed, _counted: Counted::new(&self.streams), home, is_kept: true })
    }
}

/// What there is to a peer.
#[derive(Debug)]
pub(super) enum Best {
    Link(Link),
    OnlyRelayed,
    None,
}

/// All live connections by peer; shared between the behaviour, which keeps it, and those who open streams.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<PeerId, Vec<Link>>>);

impl Links {
    pub(super) fn add(&self, peer: PeerId, link: Link) {
        self.0.lock().entry(peer).or_default().push(link);
    }

    pub(super) fn remove(&self, peer: &PeerId, connection: ConnectionId) {
        let mut peers = self.0.lock();
        if let Some(links) = peers.get_mut(peer) {
            links.retain(|link| link.connection != connection);
            if links.is_empty() {
                peers.remove(peer);
            }
        }
    }

    /// The best connection to a peer: by rank, then the newest. Of two alike, the older one may be that of a process
    /// that was killed and is back, which shows only later.
    pub(super) fn best(&self, peer: &PeerId, prefer: Prefer) -> Best {
        let peers = self.0.lock();
        let live = peers.get(peer).into_iter().flatten().filter(|link| !link.requests.is_closed());
        // In the order in which they were made; of equals the first wins.
        match live.rev().min_by_key(|link| link.rank) {
            Some(link) if link.rank.is_direct() || prefer != Prefer::DirectOnly => Best::Link(link.clone()),
            Some(_) => Best::OnlyRelayed,
            None => Best::None,
        }
    }

    /// Open streams to a peer on all connections, those being negotiated among them.
    pub(super) fn streams(&self, peer: &PeerId) -> usize {
        self.0.lock().get(peer).into_iter().flatten().map(|link| link.streams.load(Ordering::Relaxed)).sum()
    }

    /// Open streams on one connection.
    pub(super) fn streams_on(&self, peer: &PeerId, connection: ConnectionId) -> usize {
        let peers = self.0.lock();
        let link = peers.get(peer).into_iter().flatten().find(|link| link.connection == connection);
        link.map_or(0, |link| link.streams.load(Ordering::Relaxed))
    }
}
