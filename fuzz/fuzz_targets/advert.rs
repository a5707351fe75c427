//! The body of an advert as a hostile node may sign it: never a panic, and what is understood survives the way back.
#![no_main]

use atmosphere::wire::{body_from_wire, body_to_wire};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(capabilities) = body_from_wire(&Bytes::copy_from_slice(data)) {
        let again = body_from_wire(&body_to_wire(&capabilities));
        assert_eq!(again.ok().map(|again| again.len()), Some(capabilities.len()));
    }
});
