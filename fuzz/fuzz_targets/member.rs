//! What a hostile member, or anybody, may say about memberships: never a panic, and never believed without a signature.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    assert!(!atmosphere::mesh::fuzzing::member_believes(data), "something unsigned was believed");
});
