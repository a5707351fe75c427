//! How bytes and node ids are spelt in this node's own files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize as _;

fn decode<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

/// Bytes as base64.
pub mod base64_bytes {
    use base64::Engine as _;

    use super::{STANDARD, decode};

    pub(in crate::mesh::member) fn serialize<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in crate::mesh::member) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        decode(from)
    }
}

/// So many bytes as base64.
pub mod base64_array {
    use base64::Engine as _;

    use super::{STANDARD, decode};

    pub(in crate::mesh::member) fn serialize<S: serde::Serializer, const N: usize>(
        bytes: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in crate::mesh::member) fn deserialize<'de, D: serde::Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        decode(from)?.try_into().map_err(|_| serde::de::Error::custom(format!("not {N} bytes")))
    }
}

/// Node ids as people know them.
pub mod nodes {
    use serde::{Deserialize as _, Serialize as _};

    use crate::capability::PeerId;

    pub(in crate::mesh::member) fn serialize<S: serde::Serializer>(nodes: &[PeerId], to: S) -> Result<S::Ok, S::Error> {
        nodes.iter().map(|node| node.to_base58()).collect::<Vec<_>>().serialize(to)
    }

    pub(in crate::mesh::member) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<PeerId>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
    }
}
