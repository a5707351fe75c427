//! The swarm's side: it keeps the connections, and dials for those who wait.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, ListenFailure,
    NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, StreamProtocol};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::control::{Control, Wish};
use super::handler::Handler;
use super::kept::Kept;
use super::links::{Best, Link, Links, REQUESTS, Rank};
use super::stream::{Inbound, OpenError, Prefer};

/// Streams that others opened and nobody has taken yet. The taker only spawns, so this is a burst within
/// one turn of its loop.
const INBOUND: usize = 256;
/// Wishes for a connection that the behaviour has not seen yet. Beyond it openers wait, for their own deadline.
const WISHES: usize = 256;
/// Openers that wait for a connection to one node; more are told that it is too much.
const WAITING_PER_NODE: usize = 1024;
/// Addresses that are dialled for one node, however many openers bring some.
const ADDRESSES: usize = 32;
/// Time between two attempts to replace a relayed connection by a direct one.
const DIRECT_RETRY: Duration = Duration::from_secs(60);

/// Makes the streams of `protocol` for the node `own`. `dropped` counts those that others opened in vain.
#[must_use]
pub fn new(own: PeerId, protocol: StreamProtocol, dropped: Counter) -> (Behaviour, Control, mpsc::Receiver<Inbound>) {
    let links = Arc::new(Links::default());
    let (wish, wishes) = mpsc::channel(WISHES);
    let (inbound, streams) = mpsc::channel(INBOUND);
    let behaviour = Behaviour {
        own,
        protocol,
        links: Arc::clone(&links),
        nascent: HashMap::new(),
        waiting: HashMap::new(),
        direct_tried: HashMap::new(),
        wishes,
        dials: VecDeque::new(),
        inbound,
        dropped,
        waker: None,
    };
    (behaviour, Control { own, links, wish }, streams)
}

/// Those who wait for a connection to a node.
#[derive(Debug, Default)]
struct Waiting {
    openers: Vec<oneshot::Sender<Result<(), OpenError>>>,
    addresses: Vec<Multiaddr>,
    /// Our own dial. While there is none, somebody else's dial or closing connection is waited for.
    dial: Option<ConnectionId>,
}

/// Keeps the streams of one protocol. Reports nothing to the swarm's owner.
#[derive(Debug)]
pub struct Behaviour {
    own: PeerId,
    protocol: StreamProtocol,
    links: Arc<Links>,
    /// Connections that have a handler but are not established yet: another behaviour may still refuse them.
    nascent: HashMap<ConnectionId, Link>,
    /// By node, and whether only a direct connection will do.
    waiting: HashMap<(PeerId, bool), Waiting>,
    /// When a direct connection was last tried beside a relayed one; only for connected nodes.
    direct_tried: HashMap<PeerId, Instant>,
    wishes: mpsc::Receiver<Wish>,
    dials: VecDeque<DialOpts>,
    inbound: mpsc::Sender<Inbound>,
    dropped: Counter,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Streams to this node that are open or being opened, in both directions.
    #[must_use]
    pub fn open_streams(&self, node: &PeerId) -> usize {
        self.links.streams(node)
    }

    /// The same for one connection.
    #[must_use]
    pub fn open_streams_on(&self, node: &PeerId, connection: ConnectionId) -> usize {
        self.links.streams_on(node, connection)
    }

    /// Streams that were reset because nobody took them in time, since the start.
    #[must_use]
    pub fn dropped_inbound(&self) -> u64 {
        self.dropped.get()
    }

    /// Whether nobody waits and no connection is on its way.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.nascent.is_empty() && self.dials.is_empty()
    }

    fn handler(&mut self, peer: PeerId, connection: ConnectionId, addresses: &[&Multiaddr]) -> Handler {
        let rank = Rank::of(addresses);
        let (sender, requests) = mpsc::channel(REQUESTS);
        let streams = Arc::new(AtomicUsize::new(0));
        let kept = Arc::new(Kept::default());
        let link = Link { connection, rank, requests: sender, streams: Arc::clone(&streams), kept: Arc::clone(&kept) };
        self.nascent.insert(connection, link);
        Handler {
            peer,
            protocol: self.protocol.clone(),
            rank,
            streams,
            kept,
            requests,
            inbound: self.inbound.clone(),
            dropped: self.dropped.clone(),
            negotiating: 0,
            waker: None,
        }
    }

    fn is_connected(&self, node: &PeerId, direct: bool) -> bool {
        let prefer = if direct { Prefer::DirectOnly } else { Prefer::Any };
        matches!(self.links.best(node, prefer), Best::Link(_))
    }

    fn on_wish(&mut self, wish: Wish) {
        let Wish { node, addresses, direct, reply } = wish;
        let refused = match &reply {
            _ if node == self.own => Some(Err(OpenError::OwnNode)),
            _ if self.is_connected(&node, direct) => Some(Ok(())),
            Some(_) if self.waiting.get(&(node, direct)).is_some_and(|w| w.openers.len() >= WAITING_PER_NODE) => {
                Some(Err(OpenError::Busy { node }))
            }
            Some(_) => None,
            None if self.direct_tried.get(&node).is_some_and(|at| at.elapsed() < DIRECT_RETRY) => return,
            None => {
                self.direct_tried.insert(node, Instant::now());
                None
            }
        };
        if let Some(answer) = refused {
            if let Some(reply) = reply {
                let _ = reply.send(answer);
            }
            return;
        }
        let waiting = self.waiting.entry((node, direct)).or_default();
        waiting.openers.extend(reply);
        for address in addresses {
            if waiting.addresses.len() < ADDRESSES && !waiting.addresses.contains(&address) {
                waiting.addresses.push(address);
            }
        }
        if waiting.dial.is_none() {
            self.dial(node, direct);
        }
    }

    /// Dials for those who wait, unless all have given up.
    fn dial(&mut self, node: PeerId, direct: bool) {
        let beside_relayed = self.is_connected(&node, false);
        let Some(waiting) = self.waiting.get_mut(&(node, direct)) else { return };
        waiting.openers.retain(|opener| !opener.is_closed());
        let opts = DialOpts::peer_id(node);
        let opts = if direct {
            let is_direct = |address: &&Multiaddr| !address.iter().any(|part| matches!(part, Protocol::P2pCircuit));
            let addresses = waiting.addresses.iter().filter(is_direct).cloned().collect();
            let condition =
                if beside_relayed { PeerCondition::NotDialing } else { PeerCondition::DisconnectedAndNotDialing };
            opts.addresses(addresses).condition(condition).build()
        } else {
            let addresses = waiting.addresses.clone();
            opts.addresses(addresses)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .extend_addresses_through_behaviour()
                .build()
        };
        waiting.dial = Some(opts.connection_id());
        self.dials.push_back(opts);
        self.wake();
    }

    fn on_established(&mut self, node: PeerId, connection: ConnectionId) {
        let Some(link) = self.nascent.remove(&connection) else { return };
        self.links.add(node, link);
        for direct in [false, true] {
            if self.is_connected(&node, direct) {
                if let Some(waiting) = self.waiting.remove(&(node, direct)) {
                    for opener in waiting.openers {
                        let _ = opener.send(Ok(()));
                    }
                }
            } else {
                self.dial_if_idle(node, direct);
            }
        }
    }

    fn on_closed(&mut self, node: PeerId, connection: ConnectionId, remaining: usize) {
        self.links.remove(&node, connection);
        if remaining == 0 {
            self.direct_tried.remove(&node);
        }
        for direct in [false, true] {
            self.dial_if_idle(node, direct);
        }
    }

    fn on_dial_failure(&mut self, node: PeerId, connection: ConnectionId, error: &DialError) {
        for direct in [false, true] {
            let Some(waiting) = self.waiting.get_mut(&(node, direct)) else { continue };
            if waiting.dial != Some(connection) {
                self.dial_if_idle(node, direct);
            } else if matches!(error, DialError::DialPeerConditionFalse(_)) {
                // Somebody else is at it, or a connection is just closing: its end is waited for.
                waiting.dial = None;
            } else if let Some(waiting) = self.waiting.remove(&(node, direct)) {
                let error = self.explain(node, error);
                for opener in waiting.openers {
                    let _ = opener.send(Err(error.clone()));
                }
            }
        }
    }

    fn dial_if_idle(&mut self, node: PeerId, direct: bool) {
        let Some(waiting) = self.waiting.get_mut(&(node, direct)) else { return };
        if waiting.dial.is_some() {
            return;
        }
        waiting.openers.retain(|opener| !opener.is_closed());
        if waiting.openers.is_empty() {
            self.waiting.remove(&(node, direct));
        } else {
            self.dial(node, direct);
        }
    }

    fn explain(&self, node: PeerId, error: &DialError) -> OpenError {
        let reason = match error {
            DialError::LocalPeerId { .. } => return OpenError::OwnNode,
            DialError::NoAddresses => return OpenError::NoAddress { node },
            DialError::WrongPeerId { obtained, address } => format!("at {address} answers node {obtained}"),
            DialError::Denied { cause } => with_causes(cause),
            DialError::Aborted => "dialling was given up".to_owned(),
            DialError::DialPeerConditionFalse(_) => "it is being dialled already".to_owned(),
            DialError::Transport(attempts) => {
                let attempts: Vec<_> =
                    attempts.iter().map(|(address, error)| format!("{address}: {}", with_causes(error))).collect();
                attempts.join("; ")
            }
        };
        OpenError::Unreachable { node, reason }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// An error with what it stems from, each said once: libp2p's outer errors often say only that there is one.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local_addr: &Multiaddr,
        remote_addr: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection, &[local_addr, remote_addr]))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection, &[addr]))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.on_established(established.peer_id, established.connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, remaining_established, .. }) => {
                self.on_closed(peer_id, connection_id, remaining_established);
            }
            FromSwarm::DialFailure(DialFailure { peer_id, error, connection_id }) => {
                self.nascent.remove(&connection_id);
                if let Some(peer_id) = peer_id {
                    self.on_dial_failure(peer_id, connection_id, error);
                }
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.nascent.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        loop {
            if let Some(opts) = self.dials.pop_front() {
                return Poll::Ready(ToSwarm::Dial { opts });
            }
            match self.wishes.poll_recv(cx) {
                Poll::Ready(Some(wish)) => self.on_wish(wish),
                Poll::Ready(None) | Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}
