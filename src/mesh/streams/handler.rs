//! What the streams do on one connection: negotiate those that are asked for, hand over those that come.

use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandler, ConnectionHandlerEvent, DialUpgradeError, FullyNegotiatedInbound,
    FullyNegotiatedOutbound, StreamUpgradeError, SubstreamProtocol,
};
use libp2p::{PeerId, StreamProtocol};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::kept::Kept;
use super::links::{Rank, Request};
use super::stream::{Counted, Inbound, OpenError, Stream};

/// Streams that are negotiated at once on a connection: enough that one slow answer does not hold up the others,
/// few enough that a burst cannot exhaust what the other side takes (it drops what is over its limit).
const NEGOTIATIONS: usize = 16;

/// Longest negotiation, whatever the deadline: several round trips on the slowest link.
const NEGOTIATION: Duration = Duration::from_secs(10);

/// The streams of one connection.
#[derive(Debug)]
pub struct Handler {
    pub(super) peer: PeerId,
    pub(super) protocol: StreamProtocol,
    pub(super) rank: Rank,
    pub(super) streams: Arc<AtomicUsize>,
    pub(super) kept: Arc<Kept>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) inbound: mpsc::Sender<Inbound>,
    pub(super) dropped: Counter,
    pub(super) negotiating: usize,
    /// Woken when a negotiation ends while more requests wait.
    pub(super) waker: Option<Waker>,
}

impl Handler {
    fn negotiated(&mut self) {
        self.negotiating = self.negotiating.saturating_sub(1);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn stream(&self, inner: libp2p::Stream, counted: Counted, home: Weak<Kept>) -> Stream {
        let relayed = !self.rank.is_direct();
        Stream { inner, peer: self.peer, relayed, _counted: counted, home, is_kept: false }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Request;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        !self.requests.is_empty()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Request, Infallible>> {
        // Pings and much else wake a connection often enough.
        self.kept.clear_old();
        if self.negotiating >= NEGOTIATIONS {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while let Poll::Ready(Some(request)) = self.requests.poll_recv(cx) {
            let left = request.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || request.reply.is_closed() {
                // The opener has given up.
                continue;
            }
            self.negotiating += 1;
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), request)
                .with_timeout(left.min(NEGOTIATION));
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Request>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.negotiated();
                let stream = self.stream(protocol, info.counted, Arc::downgrade(&self.kept));
                // An opener that has given up drops the stream, which resets it.
                let _ = info.reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.negotiated();
                let error = match error {
                    StreamUpgradeError::Timeout => OpenError::Timeout { node: self.peer },
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported { node: self.peer },
                    StreamUpgradeError::Io(error) => OpenError::Closed { node: self.peer, reason: error.to_string() },
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = info.reply.send(Err(error));
            }
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info: () }) => {
                let stream = self.stream(protocol, Counted::new(&self.streams), Weak::new());
                if self.inbound.try_send(Inbound { from: self.peer, stream }).is_err() {
                    // Dropped, and so reset: the other side sees at once that it must go elsewhere.
                    let dropped = self.dropped.inc() + 1;
                    tracing::debug!(peer = %self.peer, dropped, "too many calls come at once, dropped a stream");
                }
            }
            _ => {}
        }
    }
}
