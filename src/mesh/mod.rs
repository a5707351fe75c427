//! The libp2p swarm and all that needs it. No other module imports libp2p, except for `PeerId`.

mod address;
mod behaviour;
mod book;
pub mod call;
mod connections;
mod disk;
mod epoch;
mod gate;
mod id;
mod identity;
mod reachability;
mod seeds;
mod settings;
pub mod statement;
pub mod streams;
pub mod sync;
mod transport;
mod view;

pub use address::{Seed, SeedError};
pub use gate::Admission;
pub use id::MeshId;
pub use identity::{Identity, IdentityError};
pub use settings::{DEFAULT_ADVERT_TTL, DEFAULT_GOSSIP_PORT, DEFAULT_MESH_NAME, RelayServer, Settings};
pub use view::{LinkTransport, MeshView, PathClass, PeerView, SeedView};
