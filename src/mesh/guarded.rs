//! AutoNAT v2 with bounds.
//!
//! libp2p's client tests whatever any node claims to see, remembers it for ever, and takes an address of the own network
//! for a proof. Its server dials whatever it is asked to, so that a member could make this node knock at doors of its own
//! network, and learn whether somebody opens. Around both goes this: candidates are addresses of the internet, and
//! few; what is dialled for another node is an address of the internet, or the very address that the node has
//! on the same network.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

use super::address::{Scope, ip_of, is_dialable_for_others, is_of_internet, is_relayed, scope};
use crate::capability::PeerId;

/// Candidates that are passed on in the life of a node. An outer address changes now and then; claims could without end.
const MAX_CANDIDATES: usize = 32;

/// Dials for other nodes that are made within [`PERIOD`].
const MAX_DIALS: usize = 20;

/// See [`MAX_DIALS`].
const PERIOD: Duration = Duration::from_secs(60);

/// A dial for another node that was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Of where it leads.
    #[error("{0} is neither an address of the internet nor that of the node that asks")]
    Place(Multiaddr),
    /// There were too many.
    #[error("too many addresses were tested for other nodes in the last minute")]
    TooMany,
}

/// Whether this node may dial `address` on the wish of a node that is connected from `from`.
#[must_use]
pub fn may_dial_back(address: &Multiaddr, from: Option<IpAddr>) -> bool {
    let Some(from) = from.map(|ip| ip.to_canonical()) else { return false };
    let Some(ip) = ip_of(address).map(|ip| ip.to_canonical()) else { return false };
    is_dialable_for_others(address)
        && !is_relayed(address)
        && (ip == from || (scope(ip) == Scope::Global && scope(from) == Scope::Global))
}

/// AutoNAT's client or server, within bounds.
#[derive(Debug)]
pub struct Guarded<B> {
    inner: B,
    candidates: HashSet<Multiaddr>,
    /// Where the direct connections of each node come from.
    from: HashMap<PeerId, HashMap<ConnectionId, IpAddr>>,
    dials: HashMap<ConnectionId, PeerId>,
    last: VecDeque<Instant>,
}

impl<B> Guarded<B> {
    /// This one.
    pub fn new(inner: B) -> Self {
        Self { inner, candidates: HashSet::new(), from: HashMap::new(), dials: HashMap::new(), last: VecDeque::new() }
    }

    /// Whether this is a candidate worth a test.
    fn admits(&mut self, address: &Multiaddr) -> bool {
        let known = self.candidates.contains(address);
        if !is_of_internet(address) || (!known && self.candidates.len() >= MAX_CANDIDATES) {
            return false;
        }
        self.candidates.insert(address.clone());
        true
    }

    fn check(&mut self, node: &PeerId, addresses: &[Multiaddr], now: Instant) -> Result<(), Refused> {
        let from: Vec<_> = self.from.get(node).into_iter().flat_map(HashMap::values).copied().collect();
        let may = |address: &Multiaddr| from.iter().any(|ip| may_dial_back(address, Some(*ip)));
        if let Some(address) = addresses.iter().find(|address| !may(address)) {
            return Err(Refused::Place(address.clone()));
        }
        while self.last.front().is_some_and(|at| now.saturating_duration_since(*at) >= PERIOD) {
            self.last.pop_front();
        }
        if self.last.len() >= MAX_DIALS {
            return Err(Refused::TooMany);
        }
        self.last.push_back(now);
        Ok(())
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Guarded<B> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        node: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, node, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        node: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(node) = self.dials.remove(&id) {
            self.check(&node, addresses, Instant::now()).map_err(ConnectionDenied::new)?;
        }
        self.inner.handle_pending_outbound_connection(id, node, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        node: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, node, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::NewExternalAddrCandidate(candidate) if !self.admits(candidate.addr) => return,
            FromSwarm::ConnectionEstablished(established) if !established.endpoint.is_relayed() => {
                if let Some(ip) = ip_of(established.endpoint.get_remote_address()) {
                    self.from.entry(established.peer_id).or_default().insert(established.connection_id, ip);
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some(connections) = self.from.get_mut(&closed.peer_id) {
                    connections.remove(&closed.connection_id);
                    if connections.is_empty() {
                        self.from.remove(&closed.peer_id);
                    }
                }
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, node: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(node, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let next = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::Dial { opts }) = &next
            && let Some(node) = opts.get_peer_id()
        {
            // It is looked at when the swarm takes it up, which is next.
            self.dials.insert(opts.connection_id(), node);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_dial_for_another_leads_to_the_internet_or_back_to_it() {
        for (from, target, may) in [
            ("9.9.9.9", "/ip4/9.9.9.9/udp/11450/quic-v1", true),
            ("9.9.9.9", "/ip4/8.8.8.8/udp/11450/quic-v1", true),
            ("9.9.9.9", "/ip4/192.168.1.1/tcp/80", false),
            ("9.9.9.9", "/ip4/127.0.0.1/tcp/80", false),
            ("9.9.9.9", "/ip4/169.254.169.254/tcp/80", false),
            ("9.9.9.9", "/ip4/100.64.0.1/tcp/80", false),
            ("9.9.9.9", "/ip6/::ffff:192.168.1.1/tcp/80", false),
            ("9.9.9.9", "/dns4/router.lan/tcp/80", false),
            ("192.168.1.7", "/ip4/192.168.1.7/tcp/11450", true),
            ("192.168.1.7", "/ip4/192.168.1.1/tcp/80", false),
            ("192.168.1.7", "/ip4/8.8.8.8/tcp/80", false),
            ("127.0.0.1", "/ip4/127.0.0.1/tcp/11450", true),
        ] {
            let from = from.parse().expect("an ip");
            assert_eq!(may_dial_back(&address(target), Some(from)), may, "{from} asks for {target}");
        }
        assert!(!may_dial_back(&address("/ip4/8.8.8.8/tcp/1"), None), "nobody knows where it is");
    }

    #[test]
    fn dials_for_others_are_bounded() {
        let mut guarded = Guarded::new(());
        let node = PeerId::random();
        guarded.from.entry(node).or_default().insert(ConnectionId::new_unchecked(1), "9.9.9.9".parse().expect("an ip"));
        let now = Instant::now();
        let target = [address("/ip4/9.9.9.9/tcp/1")];
        for _ in 0..MAX_DIALS {
            guarded.check(&node, &target, now).expect("within bounds");
        }
        assert!(matches!(guarded.check(&node, &target, now), Err(Refused::TooMany)));
        guarded.check(&node, &target, now + PERIOD).expect("a minute later");
        assert!(matches!(guarded.check(&PeerId::random(), &target, now + PERIOD), Err(Refused::Place(_))));
    }

    #[test]
    fn candidates_are_of_the_internet_and_few() {
        let mut guarded = Guarded::new(());
        assert!(!guarded.admits(&address("/ip4/192.168.1.7/tcp/1")));
        for port in 0..MAX_CANDIDATES {
            assert!(guarded.admits(&address(&format!("/ip4/9.9.9.9/tcp/{}", port + 1))));
        }
        assert!(!guarded.admits(&address("/ip4/9.9.9.9/tcp/9999")));
        assert!(guarded.admits(&address("/ip4/9.9.9.9/tcp/1")), "known before");
    }
}
