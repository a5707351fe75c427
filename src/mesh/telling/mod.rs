//! Telling: what a node says of itself, and what it makes of what others say. Pure.
//!
//! [`Teller`] is a state machine. Events go in by its methods, with the time; what is to be done comes out of
//! [`Teller::take_effects`]. It owns the register and knows nothing of sockets, so that hundreds of them run in one
//! seeded simulator (`mesh::sim`); the driver runs one over the swarm.
//!
//! * **News** goes by gossip: an advert when it changes, and a beat in between. In a large mesh each node says less, so
//!   that all together say no more (`announcer`).
//! * **The past** comes by sync: on connect, when something is heard of that cannot be understood, and now and then with
//!   a random neighbour, which costs a fingerprint while both know the same. What a sync brings of third nodes is passed
//!   on by a few more syncs, so that two halves of a mesh that meet again know each other at once.
//! * **Life** is the node's own word, or an answer to a ping. A node that itself stood still first hears what has come
//!   in the meantime, and only then decides who is dead.
//! * **Everything is bounded**: token buckets by origin, by neighbour and in all (`rate`).

mod announcer;
mod effect;
mod hears;
mod rate;
mod says;
mod state;
mod syncs;
#[cfg(test)]
mod tests;

pub use effect::{Asked, Counted, Effect, Verdict};
pub use rate::{Rate, Rates};
pub use says::Profile;
pub use state::Teller;
