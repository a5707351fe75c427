//! The text of an invite: `atmo1` and base64url, or the same as a link. It has all that a newcomer needs.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libp2p::Multiaddr;
use libp2p::identity::ed25519;
use prost::Message as _;

use super::invite::{InviteId, InviteKey, SECRET_BYTES};
use super::role::Role;
use crate::capability::PeerId;
use crate::mesh::address::external_address;
use crate::mesh::id::MeshId;
use crate::wire::v1;

/// What every token begins with; the number is the version of what follows.
const PREFIX: &str = "atmo1";

/// What every link begins with.
const LINK: &str = "atmosphere://join/";

/// Longest token: eight addresses with long names, and a circuit among them.
const MAX_LEN: usize = 4096;

/// Addresses in a token. Each makes the QR code larger.
pub const MAX_ADDRESSES: usize = 8;

/// Bytes at the end by which a mistyped token is noticed.
const CHECK_BYTES: usize = 4;

/// An invite, as its holder has it. Its `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The mesh's root.
    root: ed25519::PublicKey,
    id: InviteId,
    secret: [u8; SECRET_BYTES],
    /// The mesh's name.
    pub mesh_name: String,
    /// Until when, Unix seconds.
    pub expires: u64,
    /// The admin who made it.
    pub issuer: PeerId,
    /// Where a member answers, best first.
    pub addresses: Vec<Multiaddr>,
    /// What its holder becomes.
    pub role: Role,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Token");
        shown.field("mesh_name", &self.mesh_name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// An invite that was made.
#[derive(Debug, Clone)]
pub struct Invited {
    /// For the newcomer.
    pub token: Token,
    /// How many nodes it lets in.
    pub uses: u32,
}

/// Not an invite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an invite: {0} (copy the whole token that `atmosphere invite` printed, or ask for a new one)")]
pub struct TokenError(&'static str);

impl Token {
    /// A token of these parts.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "each is one field")]
    pub(in crate::mesh) const fn new(
        root: ed25519::PublicKey,
        id: InviteId,
        secret: [u8; SECRET_BYTES],
        mesh_name: String,
        expires: u64,
        issuer: PeerId,
        addresses: Vec<Multiaddr>,
        role: Role,
    ) -> Self {
        Self { root, id, secret, mesh_name, expires, issuer, addresses, role }
    }

    /// Whether a text is meant to be one, rightly written or not.
    #[must_use]
    pub fn is_like(text: &str) -> bool {
        let text = text.trim();
        text.starts_with(PREFIX) && !text.contains([':', '.', '/']) || text.starts_with("atmosphere:")
    }

    /// The mesh that it leads to.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        MeshId::closed(&self.root)
    }

    /// The root of that mesh.
    #[must_use]
    pub const fn root(&self) -> &ed25519::PublicKey {
        &self.root
    }

    /// Which invite.
    #[must_use]
    pub const fn id(&self) -> &InviteId {
        &self.id
    }

    /// What its proofs are made with.
    #[must_use]
    pub fn key(&self) -> InviteKey {
        InviteKey::derive(&self.id, &self.secret)
    }

    /// The same as a link.
    #[must_use]
    pub fn link(&self) -> String {
        format!("{LINK}{self}")
    }
}

/// The whole token, its secret among it: for its holder, and for no log.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = v1::InviteToken {
            root_key: self.root.to_bytes().to_vec().into(),
            id: self.id.to_vec().into(),
            secret: self.secret.to_vec().into(),
            mesh_name: self.mesh_name.clone(),
            expires: self.expires,
            issuer: self.issuer.to_bytes().into(),
            addresses: self.addresses.iter().map(|address| address.to_vec().into()).collect(),
            role: self.role.to_wire(),
        };
        let mut bytes = wire.encode_to_vec();
        bytes.extend_from_slice(&blake3::hash(&bytes).as_bytes()[..CHECK_BYTES]);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > MAX_LEN + LINK.len() {
            return Err(TokenError("it is too long"));
        }
        let text = text.strip_prefix(LINK).unwrap_or(text);
        let text = text.strip_prefix(PREFIX).ok_or(TokenError("it does not begin with \"atmo1\""))?;
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('/'))
            .map_err(|_| TokenError("it is cut short or has wrong characters in it"))?;
        let (bytes, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(TokenError("it is cut short"))?;
        if blake3::hash(bytes).as_bytes()[..CHECK_BYTES] != check[..] {
            return Err(TokenError("it is cut short or mistyped"));
        }
        let wire = v1::InviteToken::decode(bytes).map_err(|_| TokenError("it cannot be decoded"))?;
        let bad = |_| TokenError("a part of it makes no sense");
        let root: [u8; 32] = wire.root_key.as_ref().try_into().map_err(bad)?;
        let root = ed25519::PublicKey::try_from_bytes(&root).map_err(|_| TokenError("its mesh makes no sense"))?;
        let issuer = PeerId::from_bytes(&wire.issuer).map_err(|_| TokenError("its issuer makes no sense"))?;
        let name_is_sound =
            !wire.mesh_name.is_empty() && wire.mesh_name.len() <= 256 && !wire.mesh_name.chars().any(char::is_control);
        if !name_is_sound {
            return Err(TokenError("its mesh has no sound name"));
        }
        // Only what this node would dial anyway; what a later version knows is left out.
        let addresses = wire.addresses.iter().filter_map(|bytes| Multiaddr::try_from(bytes.to_vec()).ok());
        let addresses: Vec<Multiaddr> = addresses.filter(is_sound).take(MAX_ADDRESSES).collect();
        Ok(Self {
            root,
            id: wire.id.as_ref().try_into().map_err(bad)?,
            secret: wire.secret.as_ref().try_into().map_err(bad)?,
            mesh_name: wire.mesh_name,
            expires: wire.expires,
            issuer,
            addresses,
            role: Role::of_wire(wire.role).ok_or(TokenError("its role is not known here; update atmosphere"))?,
        })
    }
}

/// Whether an address is one that a node can be dialled at.
fn is_sound(address: &Multiaddr) -> bool {
    let text = address.to_string();
    text.starts_with("/memory/") || external_address(&text).is_ok()
}

/// The same invite with another secret, as somebody would make it who has seen its id only.
#[cfg(test)]
pub fn forge(token: &Token) -> Token {
    let mut forged = token.clone();
    forged.secret[0] ^= 1;
    forged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::invite::ID_BYTES;
    use super::*;
    use crate::mesh::Identity;

    fn token() -> Token {
        let root = ed25519::Keypair::generate().public();
        let addresses = ["/ip4/192.168.1.20/udp/11450/quic-v1", "/dns4/node1/tcp/11450", "/memory/7"];
        Token {
            root,
            id: [1; ID_BYTES],
            secret: [2; SECRET_BYTES],
            mesh_name: "home".into(),
            expires: 1_800_000_000,
            issuer: Identity::generate().peer_id(),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            role: Role::Client,
        }
    }

    #[test]
    fn a_token_reads_as_it_was_written_also_as_a_link_and_shows_no_secret() {
        let token = token();
        for text in [token.to_string(), token.link(), format!("  {}\n", token.link())] {
            assert!(Token::is_like(&text));
            assert_eq!(text.parse::<Token>().as_ref(), Ok(&token), "{text}");
        }
        assert!(token.link().len() < 400, "a QR code of it fits a terminal: {}", token.link().len());
        assert!(!format!("{token:?}").contains("2, 2, 2"), "{token:?}");
        assert!(!Token::is_like("atmo1:11450") && !Token::is_like("nas:1") && !Token::is_like("atmo1.local:1"));
    }

    #[test]
    fn what_is_no_token_is_explained() {
        let good = token().to_string();
        let cut = &good[..good.len() - 3];
        for (text, why) in
            [("", "begin"), ("atmo1", "cut short"), (cut, "cut short"), ("atmo1%%%%", "wrong characters")]
        {
            let error = text.parse::<Token>().expect_err(text).to_string();
            assert!(error.contains(why) && error.contains("atmosphere invite"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_mistyped_token_is_noticed(at in any::<prop::sample::Index>(), letter in "[A-Za-z0-9_-]") {
            let good = token().to_string();
            let at = 5 + at.index(good.len() - 5);
            let mut text = good.clone();
            text.replace_range(at..=at, &letter);
            if text != good {
                prop_assert!(text.parse::<Token>().is_err());
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "(atmo1|atmosphere://join/atmo1)?[ -~]{0,200}") {
            let _ = text.parse::<Token>();
        }
    }
}
