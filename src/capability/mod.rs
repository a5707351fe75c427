//! The nouns that every other part speaks in: what a node can do ([`Capability`]), what it says of itself
//! ([`Advert`]), what a caller wants ([`Intent`]), one attempt to do it ([`Call`]) and what comes back
//! ([`Frame`]).
//!
//! Nothing here does I/O, knows a wire format or keeps time. A value that exists is valid: what comes from
//! outside is checked where it is made into one of these.

mod advert;
mod call;
mod intent;
mod kind;
mod name;
mod reuse;
mod set;

pub use advert::{Advert, Capability, CapabilityId, Cost, Meaning, QuantizedVector, Residency, VectorSource, limits};
pub(crate) use call::SMALL_PIECE;
pub use call::{
    Call, Chunk, ErrorClass, Failure, Frame, FrameStream, Load, Phase, Progress, Rejection, Usage, Whereabouts,
};
pub use intent::{Handling, Intent, Mark, Preference, Requirements, Target};
pub use kind::{Kind, KindError};
/// The identity of a node: the hash of its public key.
pub use libp2p::PeerId;
pub use name::{ModelName, normalise_name};
pub use reuse::{Origin, Reuse, Tenant};
pub use set::{Feature, FeatureSet, Modality, ModalitySet, Operation, OperationSet};
