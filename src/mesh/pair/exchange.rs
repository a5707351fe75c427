//! The exchange of a pairing, without I/O: from a spoken code to a key that only the two sides have.
//!
//! SPAKE2 (the crate `spake2`, group Ed25519) with different sides and both PeerIds as identities: a message that is
//! sent back to its sender, or passed on between other nodes, leads to no common key. From its key and the
//! transcript (both PeerIds, both nonces, both elements, the code's number) comes the key of the session. With it each side
//! proves that it has the same one; the newcomer first, so that whoever knocks here learns nothing from a wrong
//! guess that was not counted.

use std::fmt;

use spake2::{Ed25519Group, Identity, Password, Spake2};

use super::code::Code;
use crate::capability::PeerId;

/// Separates the transcript from every other hash of the gate.
const DOMAIN: &[u8] = b"atmosphere-pair-v1";

/// Derives the key of a session.
const KEY_CONTEXT: &str = "atmosphere 2026 pairing v1: key of one session";

/// The number that both screens show has so many digits.
const CHECK_DIGITS: usize = 5;

/// Which side of a pairing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The newcomer, who typed the code. It dials.
    Joiner,
    /// The admin's node, which shows the code.
    Issuer,
}

/// The two nodes, as the transport has proved them, and what each chose for this exchange.
#[derive(Debug, Clone, Copy)]
pub struct Parties {
    /// The newcomer.
    pub joiner: PeerId,
    /// The admin's node.
    pub issuer: PeerId,
}

/// One side that has begun, and waits for the other's element.
pub struct Started {
    pake: Spake2<Ed25519Group>,
    side: Side,
    number: u32,
    parties: Parties,
    element: Vec<u8>,
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").field("side", &self.side).finish_non_exhaustive()
    }
}

impl Started {
    /// Begins with this code.
    #[must_use]
    pub fn new(side: Side, code: &Code, parties: Parties) -> Self {
        let password = Password::new([DOMAIN, code.to_string().as_bytes()].concat());
        let joiner = Identity::new(&parties.joiner.to_bytes());
        let issuer = Identity::new(&parties.issuer.to_bytes());
        let (pake, element) = match side {
            Side::Joiner => Spake2::start_a(&password, &joiner, &issuer),
            Side::Issuer => Spake2::start_b(&password, &joiner, &issuer),
        };
        Self { pake, side, number: code.number(), parties, element }
    }

    /// What the other side is sent.
    #[must_use]
    pub fn element(&self) -> &[u8] {
        &self.element
    }

    /// Ends it with the other side's element. Whether both used the same code shows in the proofs only.
    ///
    /// # Errors
    ///
    /// When the element is not one, or that of this side.
    pub fn finish(self, element: &[u8], joiner_nonce: &[u8; 32], issuer_nonce: &[u8; 32]) -> Result<Session, String> {
        let Self { pake, side, number, parties, element: own } = self;
        let key = pake.finish(element).map_err(|_| "its element of the exchange makes no sense".to_owned())?;
        let (from_joiner, from_issuer) = match side {
            Side::Joiner => (own.as_slice(), element),
            Side::Issuer => (element, own.as_slice()),
        };
        // Every part has one length, so nothing can slide from one into the next.
        let mut transcript = blake3::Hasher::new();
        transcript.update(DOMAIN);
        transcript.update(&parties.joiner.to_bytes());
        transcript.update(&parties.issuer.to_bytes());
        transcript.update(joiner_nonce);
        transcript.update(issuer_nonce);
        transcript.update(&number.to_be_bytes());
        transcript.update(from_joiner);
        transcript.update(from_issuer);
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(&key);
        hasher.update(transcript.finalize().as_bytes());
        Ok(Session { key: *hasher.finalize().as_bytes() })
    }
}

/// What one side says under the key of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// The newcomer has the key, and this is its name.
    Joiner(&'a str),
    /// The admin's node has the key, and these are its encoded terms.
    Issuer(&'a [u8]),
    /// The newcomer's person said no.
    Decline,
}

/// What both sides have once the exchange is over. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    key: [u8; 32],
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// That with this key.
    #[cfg(test)]
    pub const fn of_bytes(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// Proves that this side has the key, and authenticates what it says.
    #[must_use]
    pub fn prove(&self, said: Said<'_>) -> blake3::Hash {
        let (purpose, text): (&[u8], &[u8]) = match said {
            Said::Joiner(name) => (b"joiner", name.as_bytes()),
            Said::Issuer(terms) => (b"issuer", terms),
            Said::Decline => (b"decline", b""),
        };
        self.hash(purpose, text)
    }

    /// Whether a proof is that of this session, in constant time.
    #[must_use]
    pub fn is_proof(&self, proof: &[u8], said: Said<'_>) -> bool {
        <[u8; 32]>::try_from(proof).is_ok_and(|proof| self.prove(said) == proof)
    }

    /// The number that both screens show.
    #[must_use]
    pub fn check(&self) -> String {
        let hash = self.hash(b"check", b"");
        let number = hash.as_bytes().iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        format!("{:0width$}", number % 10_u64.pow(CHECK_DIGITS as u32), width = CHECK_DIGITS)
    }

    /// The invite that comes of the pairing: id and secret, which neither side sends.
    #[must_use]
    pub fn invite(&self) -> ([u8; 8], [u8; 16]) {
        let (id, secret) = (self.hash(b"invite id", b""), self.hash(b"invite secret", b""));
        let (mut short_id, mut short_secret) = ([0; 8], [0; 16]);
        short_id.copy_from_slice(&id.as_bytes()[..8]);
        short_secret.copy_from_slice(&secret.as_bytes()[..16]);
        (short_id, short_secret)
    }

    fn hash(&self, purpose: &[u8], text: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // The length keeps a purpose and a text from running into each other.
        hasher.update(&[u8::try_from(purpose.len()).unwrap_or(u8::MAX)]);
        hasher.update(purpose);
        hasher.update(text);
        hasher.finalize()
    }
}
