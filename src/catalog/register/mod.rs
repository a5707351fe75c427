//! The register: what every node last said of itself, as far as this node knows.
//!
//! A pure state machine. It is told verified statements and the time, it says what came of them, and it
//! keeps the live adverts. No I/O, no keys, no clock of its own; the mesh's driver owns it.
//!
//! * **Last writer wins.** A node's statements are ordered by [`Position`] (epoch, seq); only a greater one
//!   replaces. An `Alive` prolongs the advert of its own position and replaces nothing.
//! * **Lives end.** An advert is believed for its ttl after the node itself made its newest statement: not after that
//!   came, because a node that stood still may pass on old news (`pace` tells how old). Copies that others pass on
//!   carry their age, and never lengthen a life. A neighbour that answers here is alive, whatever was lost
//!   ([`Register::vouch`]).
//! * **The dead stay dead.** A `Leave` is kept as a tombstone for twice its ttl, and the position of a node
//!   that left or expired is remembered, so that old copies do not bring it back. What does is a statement
//!   that the node made later: a greater position, or an `Alive` issued after everything we heard of it.
//! * **Large bodies follow.** An advert whose body did not come along is taken in, reports
//!   [`Outcome::NeedBody`], and becomes visible when [`Register::body`] brings it; until then the node's older
//!   advert stays visible for the rest of its own life.
//! * **Everything is bounded**: nodes, graves, and the bytes of all bodies together ([`Bounds`]).
//!
//! Two registers become alike by exchanging a digest (all positions) and a delta (what the other lacks, page
//! by page): see [`Register::digest`] and [`Register::delta`].

mod bodies;
mod delta;
mod ends;
mod grave;
mod pace;
mod state;
mod statement;
#[cfg(test)]
mod tests;

pub use delta::{Delta, MAX_POSITIONS, PAGE_BYTES};
pub use state::{Bounds, Expired, Guard, Outcome, Register, Source};
pub use statement::{AdvertHead, Body, BodyError, BodyHash, Content, INLINE_BODY_BYTES, Position, Statement};
