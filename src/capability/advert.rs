//! What a node can do, and its statement of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::{FeatureSet, Kind, ModalitySet, OperationSet};

/// Upper bounds of everything in an advert. What is beyond them is refused when it comes from the network,
/// and cut when it comes from a provider of our own.
pub mod limits {
    /// Capabilities in an advert: ten times what a large home server offers.
    pub const CAPABILITIES: usize = 512;
    /// Bytes of an encoded advert body.
    pub const BODY_BYTES: usize = 256 * 1024;
    /// Addresses in an advert.
    pub const ADDRESSES: usize = 16;
    /// Bytes of a name, id, domain, topic or alias.
    pub const NAME_BYTES: usize = 256;
    /// Bytes of a description or an example.
    pub const TEXT_BYTES: usize = 2048;
    /// Topics, examples or aliases of a capability.
    pub const LIST: usize = 32;
    /// Vectors of a capability.
    pub const VECTORS: usize = 16;
    /// Length of a vector: the longest of the common embedding models.
    pub const VECTOR_DIM: usize = 4096;
}

/// The name of a capability within its node; stable over restarts of the node.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CapabilityId(Arc<str>);

impl CapabilityId {
    /// The id of `name` at provider `provider` with kind `kind`: `provider/kind/name`.
    #[must_use]
    pub fn new(provider: &str, kind: &Kind, name: &str) -> Self {
        Self(format!("{provider}/{kind}/{name}").into())
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for CapabilityId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for CapabilityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CapabilityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One thing that a node can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capability {
    /// Its name within its node.
    pub id: CapabilityId,
    /// What sort of thing it is.
    pub kind: Kind,
    /// The name that callers use, as the provider spells it.
    pub name: String,
    /// Further names that callers may use.
    pub aliases: Vec<String>,
    /// The provider instance that serves it, such as `ollama`.
    pub provider: String,
    /// A provider's named bundle, `namespace/name`.
    pub project: Option<String>,
    /// The field of knowledge; `None` when general.
    pub domain: Option<String>,
    /// Short subject words.
    pub topics: Vec<String>,
    /// One or two sentences in natural language.
    pub description: String,
    /// Example utterances that it should answer.
    pub examples: Vec<String>,
    /// API operations that it serves.
    pub operations: OperationSet,
    /// What it can read.
    pub modalities: ModalitySet,
    /// Optional abilities.
    pub features: FeatureSet,
    /// Longest prompt plus answer, in tokens.
    pub context_length: Option<u32>,
    /// Number of weights.
    pub parameter_count: Option<u64>,
    /// Such as `Q4_K_M`.
    pub quantization: Option<String>,
    /// Digest of the weights; equal digests are the same model whatever the name.
    pub digest: Option<String>,
    /// Length of the vectors that it returns, for an embedding model.
    pub embedding_length: Option<u32>,
    /// How many calls its provider runs at once.
    pub concurrency: Option<u32>,
    /// What a call costs the owner.
    pub cost: Cost,
    /// Whether the weights are in memory.
    pub residency: Residency,
    /// The texts above as vectors; set by the node before it advertises, absent in what providers return.
    pub meaning: Option<Meaning>,
}

impl Capability {
    /// A capability with these names that reads text, serves nothing yet and claims no features.
    #[must_use]
    pub fn new(provider: &str, kind: Kind, name: &str) -> Self {
        Self {
            id: CapabilityId::new(provider, &kind, name),
            kind,
            name: name.to_owned(),
            aliases: Vec::new(),
            provider: provider.to_owned(),
            project: None,
            domain: None,
            topics: Vec::new(),
            description: String::new(),
            examples: Vec::new(),
            operations: OperationSet::EMPTY,
            modalities: ModalitySet::of(&[super::Modality::Text]),
            features: FeatureSet::EMPTY,
            context_length: None,
            parameter_count: None,
            quantization: None,
            digest: None,
            embedding_length: None,
            concurrency: None,
            cost: Cost::default(),
            residency: Residency::Unknown,
            meaning: None,
        }
    }
}

/// Price in US dollars per million tokens; zero on the owner's own hardware.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Per million prompt tokens.
    pub input: f64,
    /// Per million answer tokens.
    pub output: f64,
}

/// Whether a model's weights are in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Residency {
    /// The provider does not tell.
    #[default]
    Unknown,
    /// It must be loaded first.
    Cold,
    /// It is loaded.
    Warm,
}

/// Text as vectors, and as a SimHash for those without the same embedder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meaning {
    /// Names embedder, version and length; vectors of different spaces are never compared.
    pub space: Arc<str>,
    /// One per description, topic list and example.
    pub vectors: Vec<QuantizedVector>,
    /// 256-bit SimHash of the lexical features of all texts; comparable on every node.
    pub simhash: [u8; 32],
}

/// A unit vector `v` with `v[i] = values[i] * scale`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizedVector {
    /// Which text it stands for.
    pub source: VectorSource,
    /// Quantised components.
    pub values: Arc<[i8]>,
    /// The step.
    pub scale: f32,
}

/// Which text of a capability a vector stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorSource {
    /// The description.
    Description,
    /// All topics together.
    Topics,
    /// One of the examples.
    Example,
}

/// A node's verified statement of what it is and can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Advert {
    /// The node that speaks, and that signed.
    pub node: PeerId,
    /// Start of its incarnation, Unix milliseconds.
    pub epoch: u64,
    /// Grows with each change within an epoch.
    pub seq: u64,
    /// How long it may be believed after it was first received.
    pub ttl: Duration,
    /// Its human name.
    pub name: String,
    /// Version of its program.
    pub version: String,
    /// Multiaddresses, best first.
    pub addresses: Vec<String>,
    /// What it can do.
    pub capabilities: Arc<[Arc<Capability>]>,
    /// Load class, 0 (idle) to 4 (full).
    pub load: u8,
    /// Whether it relays for members.
    pub relay: bool,
}
