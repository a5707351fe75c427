//! What a caller wants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::{FeatureSet, Kind, ModalitySet, Operation, Reuse, Whereabouts};

/// What a caller wants: every API request becomes one.
#[derive(Debug, Clone)]
pub struct Intent {
    /// The request id that the caller sees.
    pub request_id: String,
    /// What to do.
    pub operation: Operation,
    /// What the caller said about who shall do it.
    pub target: Target,
    /// What whoever does it must be able to.
    pub requirements: Requirements,
    /// What matters most to the caller.
    pub preference: Preference,
    /// The text whose meaning is matched: the last user message, a query, a goal.
    pub query: Option<String>,
    /// The request body as it came, untouched.
    pub payload: Bytes,
    /// Media type of the payload.
    pub content_type: String,
    /// Time until it is no longer wanted.
    pub deadline: Duration,
    /// Request headers to hand on, such as `traceparent`.
    pub headers: BTreeMap<String, String>,
    /// Whether an answer that was given before will do.
    pub reuse: Reuse,
    /// What shall be done when something goes wrong.
    pub handling: Handling,
    /// Where its prompt can be cut so that another may begin alike; the longest last. Empty where nobody keeps prompts.
    pub prefix: Vec<Mark>,
    /// Where to note how far it is, for whoever waits for the answer.
    pub whereabouts: Option<Arc<Whereabouts>>,
}

impl Intent {
    /// The plainest request to do something, without payload and with no time: to be judged, not to be run.
    #[must_use]
    pub fn plain(operation: Operation, target: Target) -> Self {
        Self {
            request_id: String::new(),
            operation,
            target,
            requirements: Requirements::default(),
            preference: Preference::Balanced,
            query: None,
            payload: Bytes::new(),
            content_type: String::new(),
            deadline: Duration::ZERO,
            headers: BTreeMap::new(),
            reuse: Reuse::default(),
            handling: Handling::default(),
            prefix: Vec::new(),
            whereabouts: None,
        }
    }
}

/// The end of a part of a prompt: equal hashes mean equal prompts up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Of everything up to here. Only ever compared on the node that made it.
    pub hash: u64,
    /// Estimate of the tokens up to here.
    pub tokens: u32,
}

/// What a caller wants done when something goes wrong; `None` leaves it to the owner's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handling {
    /// Whether another node may go on with a streamed answer whose node is lost.
    pub failover: Option<bool>,
    /// Whether a second node may be asked when the first takes unusually long.
    pub hedge: Option<bool>,
}

/// What the caller said about who shall do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nothing, or `auto`: by meaning.
    Auto,
    /// A name as it came: a model, `model@node`, `namespace/project` or an alias such as `best-code`. The
    /// router finds out which, against what the mesh has.
    Named(String),
}

impl Target {
    /// The target that a request's `model` field stands for.
    #[must_use]
    pub fn from_model(model: Option<&str>) -> Self {
        match model.map(str::trim) {
            None | Some("") => Self::Auto,
            Some(name) if name.eq_ignore_ascii_case("auto") => Self::Auto,
            Some(name) => Self::Named(name.to_owned()),
        }
    }
}

/// What a candidate must be able to. Each comes from the payload; none is a guess about the text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirements {
    /// The kind, for a typed intent.
    pub kind: Option<Kind>,
    /// The domain, for a typed intent.
    pub domain: Option<String>,
    /// What the payload holds.
    pub modalities: ModalitySet,
    /// What the payload uses.
    pub features: FeatureSet,
    /// Estimate of the prompt's tokens.
    pub prompt_tokens: u32,
    /// Tokens that the answer may take, where the caller said so.
    pub max_output_tokens: Option<u32>,
    /// Whether the answer shall be streamed.
    pub stream: bool,
}

/// What matters most to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preference {
    /// A fair trade.
    #[default]
    Balanced,
    /// The soonest answer.
    Latency,
    /// The best answer.
    Accuracy,
    /// This node, or one close by.
    Location,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_and_nothing_mean_the_same() {
        for model in [None, Some(""), Some("auto"), Some(" AUTO ")] {
            assert_eq!(Target::from_model(model), Target::Auto, "{model:?}");
        }
        assert_eq!(Target::from_model(Some("best-code")), Target::Named("best-code".into()));
    }
}
