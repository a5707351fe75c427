//! Opens the handshake to the fuzz target `gate`; built only with the feature `fuzzing`.

use super::handshake::{Handshake, Role, Standing};
use super::instance::Instance;
use super::membership::Membership;
use super::{Admission, Identity, MeshId};

/// Hands a stranger's messages to both ends of a handshake, and tells whether either let the stranger in.
#[must_use]
pub fn gate_admits(messages: &[Vec<u8>]) -> bool {
    let (own, stranger) = (Identity::generate(), Identity::generate().peer_id());
    let membership = Membership::Open(Admission::Everybody);
    let instance = Instance::new([5; 32]);
    [Role::Initiator, Role::Responder].into_iter().any(|role| {
        let mesh = MeshId::open("fuzz");
        let mut handshake = Handshake::new(role, own.keypair(), mesh, &membership, stranger, &instance, [7; 16]);
        messages.iter().any(|message| handshake.receive(message).standing == Standing::Admitted)
    })
}
