//! Calls as a hostile node may send them: never a panic, and what is understood stays within its limits.
#![no_main]

use atmosphere::wire::{call_from_wire, call_to_wire, v1};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let Ok(wire) = v1::CallRequest::decode(data) else { return };
    if let Ok(call) = call_from_wire(wire) {
        assert!(call_from_wire(call_to_wire(&call)).is_ok());
    }
});
