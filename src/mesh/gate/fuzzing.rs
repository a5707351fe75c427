//! Opens the handshake and the roster to the fuzz targets `gate` and `member`; built only with the feature `fuzzing`.

use super::handshake::{Handshake, Role, Standing};
use super::instance::Instance;
use super::membership::Membership;
use super::pairing::Pairing;
use super::{Admission, Identity, MeshId};
use crate::mesh::member::Closed;
use crate::mesh::pair::Code;

/// Hands a stranger's messages to both ends of a handshake, and tells whether either let the stranger in.
#[must_use]
pub fn gate_admits(messages: &[Vec<u8>]) -> bool {
    let (own, stranger) = (Identity::generate(), Identity::generate().peer_id());
    let instance = Instance::new([5; 32]);
    let mut meshes = vec![(MeshId::open("fuzz"), Membership::Open(Admission::Everybody))];
    meshes.extend(Closed::create(None, &own, "fuzz").ok().map(|closed| (closed.mesh(), Membership::Closed(closed))));
    for (_, membership) in &meshes {
        if let Membership::Closed(closed) = membership {
            let _ = closed.desk().offer(crate::mesh::Role::Member, std::time::Duration::from_secs(60), "fuzz".into());
        }
    }
    let pairing = Pairing::new(Code::random(), "fuzz");
    meshes.push((MeshId::open("fuzz"), Membership::Pairing(pairing)));
    meshes.iter().any(|(mesh, membership)| {
        [Role::Initiator, Role::Responder].into_iter().any(|role| {
            let handshake = Handshake::new(role, own.keypair(), *mesh, membership, stranger, &instance, [7; 16]);
            let mut handshake = handshake.nearby(true);
            messages
                .iter()
                .any(|message| matches!(handshake.receive(message).standing, Standing::Admitted | Standing::Paired))
        })
    })
}

/// Hands bytes to a member as a record of the roster, as a credential, and as the text of an invite; and tells whether any
/// of it was believed.
#[must_use]
pub fn member_believes(bytes: &[u8]) -> bool {
    use prost::Message as _;
    let own = Identity::generate();
    let Ok(closed) = Closed::create(None, &own, "fuzz") else { return false };
    // What an invite says is believed by whoever holds it; here it must only not fail.
    let _ = String::from_utf8_lossy(bytes).parse::<crate::mesh::member::Token>();
    let record = crate::wire::v1::RosterRecord::decode(bytes);
    let news = record.is_ok_and(|record| closed.merge(vec![record]).news > 0);
    news || closed.admits(&Identity::generate().peer_id(), bytes).is_ok()
}
