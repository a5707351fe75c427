//! A stream to another node, what one may ask for, and why there may be none.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId;

use super::kept::Kept;

/// Which connections a stream may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefer {
    /// The best there is now.
    Any,
    /// The best there is now; while that is a relayed one, also try to get a direct one for the next time.
    Direct,
    /// Only a direct one.
    DirectOnly,
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The deadline passed.
    #[error("node {node} did not answer in time")]
    Timeout {
        /// Which node.
        node: PeerId,
    },
    /// Dialling failed.
    #[error("cannot reach node {node}: {reason}")]
    Unreachable {
        /// Which node.
        node: PeerId,
        /// What each address said.
        reason: String,
    },
    /// Nothing is known about where it is.
    #[error("cannot reach node {node}: no address of it is known")]
    NoAddress {
        /// Which node.
        node: PeerId,
    },
    /// The node is this one.
    #[error("a node does not open streams to itself")]
    OwnNode,
    /// It does not speak the protocol.
    #[error("node {node} does not speak this protocol: is it of another version?")]
    Unsupported {
        /// Which node.
        node: PeerId,
    },
    /// The connection closed while the stream was opened, and so did the others that were tried.
    #[error("connection to node {node} closed: {reason}")]
    Closed {
        /// Which node.
        node: PeerId,
        /// Why, where that is known.
        reason: String,
    },
    /// Too many wait for this node already.
    #[error("too many calls wait for a connection to node {node}")]
    Busy {
        /// Which node.
        node: PeerId,
    },
    /// The swarm is gone.
    #[error("this node is shutting down")]
    Stopped,
}

/// A stream that another node opened.
#[derive(Debug)]
pub struct Inbound {
    /// Who opened it.
    pub from: PeerId,
    /// The stream.
    pub stream: Stream,
}

/// A stream to another node. Dropping it ends it in both directions.
#[derive(Debug)]
pub struct Stream {
    pub(super) inner: libp2p::Stream,
    pub(super) peer: PeerId,
    pub(super) relayed: bool,
    pub(super) _counted: Counted,
    /// Where it waits for its next use: with its connection, if it was opened here.
    pub(super) home: Weak<Kept>,
    pub(super) is_kept: bool,
}

impl Stream {
    /// Keeps it for whoever opens the next one on this connection. Both sides must agree that nothing more comes.
    pub fn keep(self) {
        if let Some(home) = self.home.upgrade() {
            home.put(self.inner);
        }
    }

    /// Whether it was used before, so that the other side may just be closing it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// The node at the other end.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Whether it goes through a relay.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        self.relayed
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Counts a stream of a connection from the moment it is asked for until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
