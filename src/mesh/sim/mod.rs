//! A mesh of hundreds of nodes in one thread and simulated time.
//!
//! Each node is what decides in the real one: a [`Teller`](super::telling::Teller) with its register, and its
//! [`Connections`](super::connections::Connections). Between them is a network that loses, delays, duplicates, and is cut
//! in two (`network`), and a story of what befalls the nodes (`story`): they die, leave, stand still, come back with the
//! state of an earlier day, with clocks that are hours off and jump, or as two processes with one identity.
//!
//! A run is a function of its seed. `SIM_SEED` runs one again; `SIM_NODES` and `SIM_SEEDS` say how many.

mod network;
mod node;
mod runs;
mod story;
mod world;
