//! A newcomer with a spoken code at the gates of nearby nodes: what it came for, and what it got.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message as _;

use crate::capability::PeerId;
use crate::mesh::pair::{Code, Parties, Said, Session, Side, Started};
use crate::wire::v1;

/// Nodes that get a proof. Whoever answers without having the code can test one guess with it, so there are few.
const MAX_PROOFS: usize = 3;

/// What a newcomer comes for.
#[derive(Debug, Clone)]
enum Errand {
    /// To find who shows this code.
    Pair(Code),
    /// To tell that its person said no.
    Decline([u8; 32]),
}

/// Who had the same code, and what it offers.
#[derive(Debug, Clone)]
pub struct Met {
    /// The node.
    pub node: PeerId,
    /// What both have now.
    pub session: Session,
    /// What it offers, authenticated and otherwise as it came.
    pub terms: v1::PairTerms,
}

/// A newcomer with a spoken code. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pairing {
    errand: Errand,
    name: Arc<str>,
    progress: Arc<Mutex<Progress>>,
}

#[derive(Debug, Default)]
struct Progress {
    proved_to: HashSet<PeerId>,
    met: Option<Met>,
}

impl Pairing {
    /// With this code; `name` is what the newcomer calls itself.
    #[must_use]
    pub fn new(code: Code, name: &str) -> Self {
        Self { errand: Errand::Pair(code), name: name.into(), progress: Arc::default() }
    }

    /// To tell that the newcomer's person said no.
    #[must_use]
    pub fn declining(session: &Session) -> Self {
        let proof = *session.prove(Said::Decline).as_bytes();
        Self { errand: Errand::Decline(proof), name: "".into(), progress: Arc::default() }
    }

    /// Who had the same code.
    #[must_use]
    pub fn met(&self) -> Option<Met> {
        self.progress.lock().met.clone()
    }

    /// Whether a node took up the exchange, so that its refusal is about the code.
    #[must_use]
    pub fn has_proved_to(&self, node: &PeerId) -> bool {
        self.progress.lock().proved_to.contains(node)
    }

    /// The exchange with a node, when that is the errand.
    pub(super) fn start(&self, joiner: PeerId, issuer: PeerId) -> Option<Started> {
        match &self.errand {
            Errand::Pair(code) => Some(Started::new(Side::Joiner, code, Parties { joiner, issuer })),
            Errand::Decline(_) => None,
        }
    }

    /// Which code, when that is the errand.
    pub(super) fn number(&self) -> u32 {
        match &self.errand {
            Errand::Pair(code) => code.number(),
            Errand::Decline(_) => 0,
        }
    }

    /// The no, when that is the errand.
    pub(super) fn decline(&self) -> Option<v1::PairDecline> {
        match &self.errand {
            Errand::Pair(_) => None,
            Errand::Decline(proof) => Some(v1::PairDecline { mac: proof.to_vec().into() }),
        }
    }

    /// The proof for a node, if it may have one.
    pub(super) fn proof(&self, node: PeerId, session: &Session) -> Option<v1::PairProof> {
        let mut progress = self.progress.lock();
        if progress.met.is_some() || progress.proved_to.len() >= MAX_PROOFS || !progress.proved_to.insert(node) {
            return None;
        }
        let mac = session.prove(Said::Joiner(&self.name)).as_bytes().to_vec().into();
        Some(v1::PairProof { mac, name: self.name.to_string() })
    }

    /// Takes what a node offers, when it proves that it had the code.
    pub(super) fn take(&self, node: PeerId, session: &Session, offer: &v1::PairOffer) -> Result<(), String> {
        if !session.is_proof(&offer.mac, Said::Issuer(&offer.terms)) {
            return Err("it does not have the code that it was asked for".into());
        }
        let terms = v1::PairTerms::decode(offer.terms.clone()).map_err(|_| "its terms cannot be decoded")?;
        self.progress.lock().met.get_or_insert(Met { node, session: session.clone(), terms });
        Ok(())
    }
}
