//! Who may be asked: which embedders of the mesh are of one space, which is the strongest, and who of its holders is quick
//! enough. Decides, and asks nobody.

use std::time::Duration;

use crate::capability::{
    Capability, CapabilityId, Intent, Kind, Operation, PeerId, Preference, Requirements, Target, normalise_name,
};
use crate::catalog::Snapshot;
use crate::router::{Candidate, Router};

/// What the digest of a table that every node has begins with: no stronger than this node's own.
const TABLE: &str = "space:";

/// An embedding space, by who makes its vectors: the same weights wherever they run, or, where weights have no digest, one
/// capability of one node. Two backends with a model of one name need not have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Space {
    pub(super) model: String,
    weights: Option<String>,
    place: Option<(PeerId, CapabilityId)>,
}

impl Space {
    /// The space of a capability.
    pub(super) fn of(node: PeerId, capability: &Capability) -> Self {
        let weights = capability.digest.clone().filter(|digest| !digest.is_empty());
        let place = weights.is_none().then(|| (node, capability.id.clone()));
        Self { model: normalise_name(&capability.name), weights, place }
    }

    /// Puts what tells it from others into a hash.
    pub(super) fn mark(&self, hasher: &mut blake3::Hasher) {
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(self.model.as_bytes());
        part(self.weights.as_deref().unwrap_or_default().as_bytes());
        if let Some((node, capability)) = &self.place {
            part(&node.to_bytes());
            part(capability.as_str().as_bytes());
        }
    }
}

/// Whether it may be a judge: it embeds text, is no table such as every node has, and costs nobody anything. What costs money is
/// outside of the mesh, where no question goes that was not sent there.
fn may_judge(capability: &Capability) -> bool {
    capability.kind == Kind::LLM_EMBED
        && capability.operations.contains(Operation::Embed)
        && capability.cost.input <= 0.0
        && capability.cost.output <= 0.0
        && !capability.digest.as_deref().is_some_and(|digest| digest.starts_with(TABLE))
}

/// The spaces of all who may be judges, the strongest first: more weights, then longer vectors; `only` on this node.
pub(super) fn spaces(snapshot: &Snapshot, only: Option<PeerId>) -> Vec<Space> {
    let all = snapshot.entries().iter().filter(|entry| only.is_none_or(|only| entry.node == only));
    let mut found: Vec<_> = all
        .filter(|entry| may_judge(&entry.capability))
        .map(|entry| {
            let capability = &entry.capability;
            let strength = (capability.parameter_count.unwrap_or(0), capability.embedding_length.unwrap_or(0));
            (std::cmp::Reverse(strength), Space::of(entry.node, capability))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.model.cmp(&b.1.model)));
    let mut spaces: Vec<Space> = Vec::new();
    for (_, space) in found {
        if !spaces.contains(&space) {
            spaces.push(space);
        }
    }
    spaces
}

/// The holder of a space that is predicted to read so many tokens soonest, within that time; `only` this node. Those that failed
/// lately are no holders, nor are those that `rests`.
pub(super) fn holder(
    router: &Router,
    space: &Space,
    only: Option<PeerId>,
    tokens: u32,
    within: Duration,
    rests: impl Fn(&Candidate) -> bool,
) -> Option<Candidate> {
    let able = |candidate: &Candidate| {
        may_judge(&candidate.capability)
            && Space::of(candidate.node, &candidate.capability) == *space
            && only.is_none_or(|only| candidate.node == only)
            && !rests(candidate)
    };
    let decision = router.decide(&asking_for(&space.model, tokens));
    let able = decision.candidates.into_iter().filter(able);
    able.min_by_key(|candidate| candidate.predicted).filter(|candidate| candidate.predicted <= within)
}

/// An embedding of so many tokens by this model.
fn asking_for(model: &str, tokens: u32) -> Intent {
    Intent {
        requirements: Requirements { kind: Some(Kind::LLM_EMBED), prompt_tokens: tokens, ..Requirements::default() },
        preference: Preference::Latency,
        ..Intent::plain(Operation::Embed, Target::Named(model.to_owned()))
    }
}
