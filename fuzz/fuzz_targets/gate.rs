//! What a stranger may say to the gate, in either role: never a panic, and never in.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|messages: Vec<Vec<u8>>| {
    assert!(!atmosphere::mesh::fuzzing::gate_admits(&messages), "a stranger without a key got in");
});
