//! Advert bodies: what nodes can do, which may come later than their word that it changed.

use bytes::Bytes;

use super::state::{BodyState, Outcome, Register};
use super::statement::{Body, BodyError, BodyHash};
use crate::capability::{PeerId, limits};

impl Register {
    /// Brings an advert body that was missing. Returns whether any node needed it.
    ///
    /// # Errors
    ///
    /// When the bytes are not the body with this hash (ask somebody else), or are what a node signed and yet
    /// cannot be read (nobody need be asked again).
    pub fn body(&mut self, hash: BodyHash, bytes: Bytes) -> Result<Outcome, BodyError> {
        let waiting: Vec<(PeerId, u32)> = self
            .nodes
            .iter()
            .filter(|(_, r)| matches!(r.body, BodyState::Missing) && r.head.body_hash == hash)
            .map(|(node, r)| (*node, r.head.body_len))
            .collect();
        let mut outcome = Outcome::Stale;
        for (node, len) in waiting {
            match Body::from_wire(hash, len, bytes.clone()) {
                Ok(body) => {
                    let installed = self.install(&node, body);
                    if outcome != Outcome::Changed {
                        outcome = installed;
                    }
                }
                Err(BodyError::Mismatch) => return Err(BodyError::Mismatch),
                Err(error) => {
                    if let Some(record) = self.nodes.get_mut(&node) {
                        record.body = BodyState::Broken;
                        record.older_until = None;
                    }
                    self.hide(&node);
                    return Err(error);
                }
            }
        }
        Ok(outcome)
    }

    /// The bodies that are still missing, with a node that has each.
    pub fn missing_bodies(&self) -> impl Iterator<Item = (PeerId, BodyHash)> + '_ {
        self.nodes
            .iter()
            .filter(|(_, record)| matches!(record.body, BodyState::Missing))
            .map(|(node, record)| (*node, record.head.body_hash))
    }

    /// The bytes of the body with this hash, for a node that asks.
    #[must_use]
    pub fn body_bytes(&self, hash: &[u8]) -> Option<Bytes> {
        let hash = BodyHash::try_from(hash).ok()?;
        self.known_body(&hash).map(|body| body.bytes().clone())
    }

    pub(super) fn install(&mut self, node: &PeerId, body: Body) -> Outcome {
        if !self.has_room_for(node, &body) {
            return Outcome::Full;
        }
        let Some(record) = self.nodes.get_mut(node) else { return Outcome::Stale };
        record.body = BodyState::Here(body);
        record.older_until = None;
        self.show(*node);
        Outcome::Changed
    }

    pub(super) fn known_body(&self, hash: &BodyHash) -> Option<Body> {
        self.nodes.values().find_map(|record| match &record.body {
            BodyState::Here(body) if body.hash() == *hash => Some(body.clone()),
            _ => None,
        })
    }

    /// Whether the bodies of all other nodes leave room for this one.
    pub(super) fn has_room_for(&self, node: &PeerId, body: &Body) -> bool {
        let others: usize = self
            .nodes
            .iter()
            .filter(|(other, _)| *other != node && **other != self.own)
            .map(|(_, record)| match &record.body {
                BodyState::Here(body) => body.bytes().len(),
                BodyState::Missing | BodyState::Broken => 0,
            })
            .sum();
        body.bytes().len() <= limits::BODY_BYTES && others + body.bytes().len() <= self.bounds.body_bytes
    }
}
