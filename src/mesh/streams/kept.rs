//! Streams of a connection that were used and can be used again.
//!
//! To open a stream takes turns of the connection's task at both ends and a negotiation; to take one from here takes neither.
//! What waits here does not count as open at this end, and at the other only for as long as it is waited for there.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::AsyncRead as _;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Streams that wait at the most: as many as calls usually run at once between two nodes.
const MOST: usize = 32;
/// How long a stream waits. The other side waits longer, so that it does not close one that is just being taken.
const REST: Duration = Duration::from_secs(20);

/// The streams, the longest unused first.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<VecDeque<(libp2p::Stream, Instant)>>);

impl Kept {
    pub(super) fn put(&self, stream: libp2p::Stream) {
        let mut kept = self.0.lock();
        if kept.len() >= MOST {
            kept.pop_front();
        }
        kept.push_back((stream, Instant::now()));
    }

    /// The one that was used last; those that the other side has closed are dropped.
    pub(super) fn take(&self) -> Option<libp2p::Stream> {
        let mut kept = self.0.lock();
        while let Some((mut stream, since)) = kept.pop_back() {
            if since.elapsed() < REST && is_silent(&mut stream) {
                return Some(stream);
            }
        }
        None
    }

    /// Drops what has waited too long.
    pub(super) fn clear_old(&self) {
        let mut kept = self.0.lock();
        while kept.front().is_some_and(|(_, since)| since.elapsed() >= REST) {
            kept.pop_front();
        }
    }
}

/// Whether nothing has come, not even an end.
fn is_silent(stream: &mut libp2p::Stream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    matches!(Pin::new(stream).poll_read(&mut cx, &mut [0]), Poll::Pending)
}
