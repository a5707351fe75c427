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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;
    use prost::Message as _;

    use super::*;

    /// The messages that the fuzzer begins with.
    fn seeds(target: &str) -> Vec<(PathBuf, Bytes)> {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let files = std::fs::read_dir(&directory).expect("every decoder has seeds");
        let seeds = files.map(|file| file.expect("it can be listed").path());
        seeds.map(|path| (path.clone(), std::fs::read(&path).expect("it can be read").into())).collect()
    }

    #[test]
    fn what_the_fuzzer_begins_with_is_understood() {
        for (path, seed) in seeds("advert") {
            assert!(body_from_wire(&seed).is_ok_and(|them| !them.is_empty()), "{}", path.display());
        }
        for (path, seed) in seeds("call") {
            let call = v1::CallRequest::decode(seed).expect("a message");
            assert!(call_from_wire(call).is_ok(), "{}", path.display());
        }
        for (path, seed) in seeds("frame") {
            let frame = v1::Frame::decode(seed).expect("a message");
            assert!(frame_from_wire(frame).is_ok_and(|frame| frame.is_some()), "{}", path.display());
        }
    }
}
