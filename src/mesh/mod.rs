//! The libp2p swarm and all that needs it. No other module imports libp2p, except for `PeerId`.

mod address;
mod book;
mod disk;
mod epoch;
mod gate;
mod id;
mod identity;
mod seeds;
mod settings;
mod transport;
mod view;

pub use address::{Seed, SeedError};
pub use gate::Admission;
pub use id::MeshId;
pub use identity::{Identity, IdentityError};
pub use settings::{DEFAULT_ADVERT_TTL, DEFAULT_GOSSIP_PORT, DEFAULT_MESH_NAME, RelayServer, Settings};
pub use view::{LinkTransport, MeshView, PathClass, PeerView, SeedView};
