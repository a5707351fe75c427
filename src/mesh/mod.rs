//! The libp2p swarm and all that needs it. No other module imports libp2p, except for `PeerId`.

mod view;

pub use view::{LinkTransport, MeshView, PathClass, PeerView, SeedView};
