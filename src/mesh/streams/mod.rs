//! Streams to other nodes, for protocols that outlive one request and one response.
//!
//! [`new`] makes three things: a [`Behaviour`] for the swarm, a [`Control`] for those who open streams, and the
//! receiver of the streams that others open. What it promises:
//!
//! * [`Control::open`] always answers within its deadline, and says why when it fails. It takes the best
//!   connection there is (direct QUIC, direct TCP, relayed; then the newest). Without one it
//!   has the swarm dial, once for all who wait for the same node.
//! * A stream goes from the opener to the connection's own task and back; the swarm's loop is not on the way.
//! * Nothing outlives its connection: when it closes, whoever waits for a stream on it tries the next one.
//! * Streams that come are handed over in a bounded queue. When it is full they are reset and counted.
//! * A stream that was used up to its end and is [kept](Stream::keep) is the next one that is opened on its connection.
//! * A connection with open streams stays alive; their number is told, so that the others may be closed.
//!
//! With lazy protocol negotiation a node that does not speak the protocol is noticed at the first read, so a
//! protocol's first message back has to say that it was understood.

mod behaviour;
mod control;
mod handler;
mod kept;
mod links;
mod stream;
#[cfg(test)]
mod tests;

pub use behaviour::{Behaviour, new};
pub use control::Control;
pub use stream::{Inbound, OpenError, Prefer, Stream};
