//! Frames as a hostile node may send them: never a panic, and what is understood survives the way back.
#![no_main]

use atmosphere::wire::{frame_from_wire, frame_to_wire, v1};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let Ok(wire) = v1::Frame::decode(data) else { return };
    if let Ok(Some(frame)) = frame_from_wire(wire) {
        let again = frame_from_wire(frame_to_wire(frame.clone()));
        assert_eq!(again.ok().flatten().as_ref(), Some(&frame));
    }
});
