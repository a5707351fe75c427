//! The router's answer, complete enough to be explained afterwards.

use std::sync::Arc;
use std::time::Duration;

use super::aliases::Prefer;
use crate::capability::{Capability, PeerId};

/// Candidates that a decision lists: far more than dispatch will ever try, and few enough to read.
pub const MAX_CANDIDATES: usize = 32;
/// Rejections that a decision lists; the rest is only counted.
pub const MAX_REJECTED: usize = 64;

/// Who shall do it, who else could, who could not, and why.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// For `GET /v1/mesh/decisions/{id}` and the response header.
    pub id: String,
    /// What the caller said about who shall do it, as they wrote it; `auto` when nothing.
    pub target: String,
    /// What the target turned out to be.
    pub step: Step,
    /// One sentence for a person: why the first candidate is the first.
    pub reason: String,
    /// What the question was taken for, when the classifier was asked.
    pub taken: Option<Taken>,
    /// Whether it is so unsure what the question means that somebody who knows better is worth asking.
    pub doubtful: bool,
    /// What somebody who was asked about it said.
    pub second: Option<Second>,
    /// Whether nothing matched well enough by meaning, so that the best general model was taken.
    pub abstained: bool,
    /// Who can do it, best first; at most [`MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// What the parts of their scores are worth; `None` when nobody was looked at.
    pub weights: Option<Weights>,
    /// How many can do it, listed or not.
    pub candidates_total: usize,
    /// Who was looked at and cannot; at most [`MAX_REJECTED`].
    pub rejected: Vec<Rejected>,
    /// How many were looked at and cannot, listed or not.
    pub rejected_total: usize,
    /// Why there is no candidate, when there is none.
    pub no_route: Option<NoRoute>,
    /// What the decision took.
    pub elapsed: Duration,
}

/// What a question was taken for, by the classifier.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Taken {
    /// The best of what the mesh can do: a project, or a kind of thing in words.
    pub what: String,
    /// The probability that this is right, 0 to 1.
    pub probability: f32,
    /// What it would be taken for otherwise.
    pub next: Option<String>,
    /// The probability that this is right, 0 to 1.
    pub next_probability: f32,
    /// Whether the next would have been the best, and nobody who could be asked is made for it.
    pub beaten: bool,
}

/// A second opinion on what a question means.
#[derive(Debug, Clone, PartialEq)]
pub struct Second {
    /// The node that was asked.
    pub node: PeerId,
    /// Its human name.
    pub node_name: Arc<str>,
    /// The embedding model that was asked.
    pub model: String,
    /// What became of it.
    pub said: Said,
    /// Whether the answer was known from before, so that nobody was asked this time.
    pub remembered: bool,
    /// What it took.
    pub elapsed: Duration,
    /// What the question was taken for at first.
    pub first: Option<Taken>,
}

/// What became of asking for a second opinion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It changed who shall run the request.
    Changed,
    /// It came to the same.
    Agreed,
    /// It did not come within this time, so the first decision stands.
    Late(Duration),
    /// It did not come, so the first decision stands; why.
    Failed(String),
}

/// What a target turned out to be: the step of the resolution that found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The exact name of a model.
    Model,
    /// A model, project or alias on one named node: `model@node`.
    Node,
    /// A provider's named bundle, `namespace/name`.
    Project,
    /// A filter and a scoring rule with a name, such as `best-code`.
    Alias,
    /// Nothing was said: by meaning.
    #[default]
    Auto,
    /// The name is nobody's.
    Unknown,
}

/// A capability of a node that can do it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The node.
    pub node: PeerId,
    /// Its human name.
    pub node_name: Arc<str>,
    /// The capability.
    pub capability: Arc<Capability>,
    /// What the order is by; higher is better.
    pub score: f64,
    /// When the answer is expected to be complete.
    pub predicted: Duration,
    /// What went into it.
    pub parts: Parts,
}

/// What went into a candidate's score. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Parts {
    /// One network round trip.
    pub rtt_ms: f64,
    /// Waiting for the calls before it.
    pub queue_ms: f64,
    /// Loading the weights.
    pub load_ms: f64,
    /// So much of that as requests have lost already because it was not done: it does not count again.
    pub repaid_ms: f64,
    /// Reading the prompt.
    pub prefill_ms: f64,
    /// Writing the answer.
    pub decode_ms: f64,
    /// What it costs the calls that run beside it, all together: no part of its own time, and counted nonetheless.
    pub others_ms: f64,
    /// Tokens of the prompt that it has read before.
    pub warm_tokens: f64,
    /// Tokens of the prompt that it is expected to have in its cache.
    pub cached_tokens: f64,
    /// Tokens of the answer that are counted on; 0 when it is not written token by token.
    pub answer_tokens: f64,
    /// In 95 of 100 cases the first content is there by then.
    pub first_p95_ms: f64,
    /// Whether the rates were measured here, or are a prior.
    pub measured: bool,
    /// Similarity of meaning, -1 to 1, when meaning was asked.
    pub similarity: Option<f32>,
    /// Prior quality of the model for this intent, 0 to 1.
    pub quality: f64,
    /// What was meant comes before what stands in for it: the higher the better.
    pub tier: i32,
    /// How far away it is, from 0 (this process) to 2.5 (through a relay).
    pub distance: f64,
    /// What the call is expected to cost, in US dollars.
    pub cost_usd: f64,
}

/// What the parts of a score are worth, by what the caller prefers:
///
/// ```text
/// score = tier * parts.tier
///         - time * log2(1 + (rtt + queue + load + prefill + decode + (others - repaid if considerate)) / scale_s)
///         + quality * parts.quality - path * parts.distance - cost * log2(1 + 10^4 * parts.cost_usd)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Weights {
    /// What the caller, or the alias, prefers.
    pub prefer: Prefer,
    /// Of the tier: more than everything else together.
    pub tier: f64,
    /// Of the time.
    pub time: f64,
    /// Far above so many seconds, halving the time is worth `time`; far below, time hardly counts.
    pub scale_s: f64,
    /// Of the quality.
    pub quality: f64,
    /// Of the distance.
    pub path: f64,
    /// Of the money.
    pub cost: f64,
    /// Whether it counts what it costs those that run beside it, and what it saves those that come after it to wait until
    /// weights are loaded.
    pub considerate: bool,
}

/// A capability of a node that cannot do it.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// The node.
    pub node: PeerId,
    /// Its human name.
    pub node_name: Arc<str>,
    /// The capability.
    pub capability: Arc<Capability>,
    /// Why not, in one sentence.
    pub reason: String,
}

/// Why nobody can do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// No node has a model, project or alias of this name.
    #[error("no node in the mesh has the model {name:?}{}", near_hint(.near))]
    UnknownModel {
        /// The name as the caller wrote it.
        name: String,
        /// Names that look like it.
        near: Vec<String>,
    },
    /// No node has this name.
    #[error("no node in the mesh is called {name:?}{}", near_hint(.near))]
    UnknownNode {
        /// The name as the caller wrote it.
        name: String,
        /// Names of nodes.
        near: Vec<String>,
    },
    /// There are candidates by name, and each lacks something.
    #[error("{0}")]
    NothingCan(String),
    /// All who could have failed lately.
    #[error("every node that could answer has failed lately; the next try is due in {} s", .retry_after.as_secs().max(1))]
    AllCooling {
        /// When the first may be tried again.
        retry_after: Duration,
    },
}

fn near_hint(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) }
}
