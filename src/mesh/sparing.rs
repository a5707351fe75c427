//! Kademlia that goes out only when it must.
//!
//! A bootstrap of libp2p's Kademlia dials dozens of nodes to ask them for their neighbours, begins by itself whenever a
//! small routing table gets a new entry, and its connections stay. Whoever has some neighbours hears of every node of the
//! mesh by gossip and sync, so that this finds nobody new, and costs every node of a hundred its sixty connections. Hence
//! this goes around it: it may dial while the node has few neighbours. It answers whoever asks at any time.

use std::collections::HashMap;
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

use crate::capability::PeerId;

/// Neighbours from which on nobody need be looked for.
const ENOUGH: usize = 8;

/// A dial that was not made.
#[derive(Debug, thiserror::Error)]
#[error("there are enough neighbours already")]
pub struct Spared;

/// A behaviour that dials while there are few neighbours.
#[derive(Debug)]
pub struct Sparing<B> {
    inner: B,
    /// Connected nodes, and by how many connections.
    neighbours: HashMap<PeerId, usize>,
    /// The dial that it wants, which is looked at next.
    dial: Option<ConnectionId>,
}

impl<B> Sparing<B> {
    /// This one.
    pub fn new(inner: B) -> Self {
        Self { inner, neighbours: HashMap::new(), dial: None }
    }

    /// The behaviour itself.
    pub const fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    fn opened(&mut self, node: PeerId) {
        *self.neighbours.entry(node).or_default() += 1;
    }

    fn closed(&mut self, node: &PeerId) {
        if let Some(connections) = self.neighbours.get_mut(node) {
            *connections = connections.saturating_sub(1);
            if *connections == 0 {
                self.neighbours.remove(node);
            }
        }
    }

    /// Whether a dial that is about to be made may be: others' are not this one's affair.
    fn check(&mut self, id: ConnectionId) -> Result<(), Spared> {
        let own = self.dial.take_if(|dial| *dial == id).is_some();
        if own && self.neighbours.len() >= ENOUGH { Err(Spared) } else { Ok(()) }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Sparing<B> {
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
        self.check(id).map_err(ConnectionDenied::new)?;
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
            FromSwarm::ConnectionEstablished(established) => self.opened(established.peer_id),
            FromSwarm::ConnectionClosed(closed) => self.closed(&closed.peer_id),
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, node: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(node, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let next = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::Dial { opts }) = &next {
            // The swarm takes it up at once; a condition that is not met ends it before it is looked at.
            self.dial = Some(opts.connection_id());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_dials_while_there_are_few_neighbours_and_leaves_the_dials_of_others_alone() {
        let mut sparing = Sparing::new(());
        let (mine, others) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        let nodes: Vec<_> = (0..ENOUGH).map(|_| PeerId::random()).collect();
        for node in &nodes {
            sparing.dial = Some(mine);
            sparing.check(mine).expect("there are few");
            sparing.opened(*node);
            sparing.opened(*node);
        }
        sparing.dial = Some(mine);
        sparing.check(others).expect("not its own");
        sparing.check(mine).expect_err("there are enough");
        sparing.closed(&nodes[0]);
        sparing.dial = Some(mine);
        sparing.check(mine).expect_err("one of two connections is left");
        sparing.closed(&nodes[0]);
        sparing.dial = Some(mine);
        sparing.check(mine).expect("one has gone");
        sparing.check(mine).expect("nothing is remembered of a dial that was made");
    }
}
