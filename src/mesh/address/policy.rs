//! Refuses dials that a stranger could use to make this node knock at doors of its own network.
//!
//! A dial that names no node would talk to whoever answers. The driver's own ones (seeds) are announced here first;
//! every other nameless dial must go to the internet. Dials for AutoNAT name a node, and are looked at in `guarded`.

use std::collections::HashSet;
use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};

use super::scope::{Scope, ip_of, scope};
use crate::capability::PeerId;

/// Announced dials that are kept; a dial is announced just before it is made, so a few are enough.
const MAX_ANNOUNCED: usize = 64;

/// The behaviour that refuses.
#[derive(Debug, Default)]
pub struct AddressPolicy {
    announced: HashSet<ConnectionId>,
}

/// A dial that was refused.
#[derive(Debug, thiserror::Error)]
#[error("refused to dial {0} for another node: it is not an address of the internet")]
pub struct Refused(Multiaddr);

impl AddressPolicy {
    /// The owner wants this dial.
    pub fn announce(&mut self, dial: ConnectionId) {
        if self.announced.len() >= MAX_ANNOUNCED {
            self.announced.clear();
        }
        self.announced.insert(dial);
    }

    fn check(&mut self, dial: ConnectionId, node: Option<PeerId>, addresses: &[Multiaddr]) -> Result<(), Refused> {
        if self.announced.remove(&dial) || node.is_some() {
            return Ok(());
        }
        match addresses.iter().find(|address| ip_of(address).is_none_or(|ip| scope(ip) != Scope::Global)) {
            Some(address) => Err(Refused(address.clone())),
            None => Ok(()),
        }
    }
}

impl NetworkBehaviour for AddressPolicy {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        dial: ConnectionId,
        node: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.check(dial, node, addresses).map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_dials_into_the_own_network_without_a_name() {
        let private: Multiaddr = "/ip4/192.168.1.1/tcp/80".parse().expect("an address");
        let public: Multiaddr = "/ip4/8.8.8.8/tcp/80".parse().expect("an address");
        let mut policy = AddressPolicy::default();
        let dial = ConnectionId::new_unchecked(1);
        assert!(policy.check(dial, None, std::slice::from_ref(&private)).is_err());
        assert!(policy.check(dial, None, std::slice::from_ref(&public)).is_ok());
        assert!(policy.check(dial, Some(PeerId::random()), std::slice::from_ref(&private)).is_ok());
        policy.announce(dial);
        assert!(policy.check(dial, None, std::slice::from_ref(&private)).is_ok());
        assert!(policy.check(dial, None, &[private]).is_err(), "an announcement is used up");
    }
}
