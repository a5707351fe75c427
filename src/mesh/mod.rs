//! The libp2p swarm and all that needs it. No other module imports libp2p, except for `PeerId`.

pub mod call;
pub mod statement;
pub mod streams;
pub mod sync;
mod view;

pub use view::{LinkTransport, MeshView, PathClass, PeerView, SeedView};
