//! The wire contract as Rust types, and the conversions to and from the nouns.
//!
//! Everything that comes from the network passes through here: it is decoded, bounded and checked, and what
//! is left is a noun that can be trusted to be well formed. Unknown fields and kinds are ignored.

mod advert;
mod call;

pub use advert::{AdvertError, body_from_wire, body_to_wire};
pub use call::{FrameError, call_from_wire, call_to_wire, frame_from_wire, frame_to_wire};

/// The generated types of `proto/atmosphere/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/atmosphere.v1.rs"));
}

/// Major version of the contract: nodes with another one do not speak with this one.
pub const MAJOR: u32 = 1;
/// Minor version of the contract: grows with every addition.
pub const MINOR: u32 = 0;
