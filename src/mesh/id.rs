//! Which mesh: its id, and the protocol names that carry it.

use std::fmt;

use libp2p::StreamProtocol;
use libp2p::identity::ed25519;

/// Separates the ids of open meshes from every other use of BLAKE3.
const OPEN_MESH_DOMAIN: &[u8] = b"atmosphere-open-mesh-v1";

/// Separates the ids of closed meshes from every other use of BLAKE3, those of open meshes among them.
const CLOSED_MESH_DOMAIN: &[u8] = b"atmosphere-closed-mesh-v1";

/// Bytes of the id in protocol names: identify messages list every protocol and are capped at 4 KiB, so the
/// names are short. Names only keep meshes apart by accident; the gate keeps them apart for certain.
const TAG_BYTES: usize = 8;

/// Names a mesh for certain; two meshes with one id are the same mesh.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MeshId([u8; 32]);

impl MeshId {
    /// The id of the open mesh of this name.
    #[must_use]
    pub fn open(name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(OPEN_MESH_DOMAIN);
        hasher.update(name.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The id of the closed mesh with this root key.
    #[must_use]
    pub fn closed(root: &ed25519::PublicKey) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(CLOSED_MESH_DOMAIN);
        hasher.update(&root.to_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The id itself.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id as hex.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// The name of a protocol that only this mesh speaks, such as `/atmosphere/<mesh>/call/1`.
    #[must_use]
    pub fn protocol(&self, name: &str) -> StreamProtocol {
        StreamProtocol::try_from_owned(format!("/atmosphere/{}/{name}", hex(&self.0[..TAG_BYTES])))
            .expect("begins with a slash")
    }

    /// The gossip topic of this mesh's statements.
    #[must_use]
    pub fn topic(&self) -> String {
        format!("atmosphere/{}/statements/1", hex(&self.0[..TAG_BYTES]))
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..TAG_BYTES]))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).expect("a nibble"));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meshes_of_different_names_are_different() {
        let (a, b) = (MeshId::open("default"), MeshId::open("atmosphere"));
        assert_ne!(a, b);
        assert_eq!(a, MeshId::open("default"));
        assert_eq!(a.to_hex().len(), 64);
        assert!(a.protocol("call/1").as_ref().starts_with("/atmosphere/"));
        assert_eq!(hex(&[0x0f, 0xa0]), "0fa0");
    }
}
