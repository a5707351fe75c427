//! Refuses to dial some addresses, whoever asked for it.
//!
//! Between DNS and the sockets it sees every IP address that is dialled, and refuses those that no node can answer at.
//! Outside of all it refuses what is not of a shape that this program uses.

use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};

/// The transport within, for the addresses that are allowed.
#[derive(Debug)]
pub struct DialFilter<T> {
    transport: T,
    allowed: fn(&Multiaddr) -> bool,
}

impl<T> DialFilter<T> {
    /// This transport, for these addresses.
    pub const fn new(transport: T, allowed: fn(&Multiaddr) -> bool) -> Self {
        Self { transport, allowed }
    }
}

impl<T: Transport + Unpin> Transport for DialFilter<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.transport.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.transport.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        if !(self.allowed)(&address) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.transport.dial(address, options)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.transport).poll(cx)
    }
}
