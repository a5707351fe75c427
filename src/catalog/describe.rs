//! What a node sends along with its capabilities, so that others need not work it out.

use std::sync::Arc;

use super::texts::texts;
use crate::capability::{Capability, Meaning, limits};
use crate::embedding::Embedder;
use crate::embedding::quantise::quantise;
use crate::embedding::simhash::{SimHash, simhash};

/// The space of a node without an embedder; it has no vectors.
const NO_SPACE: &str = "none";

/// Bytes of vectors in one advert. The rest of the body is for the texts. A capability whose vectors do not fit goes
/// without: who receives it embeds its texts, as it does for another space.
const VECTOR_BYTES: usize = limits::BODY_BYTES / 2;

/// Bytes that a vector takes on the wire beside its components: tags, lengths, scale and source.
const VECTOR_OVERHEAD_BYTES: usize = 16;

/// Fills in the meaning of capabilities in the embedder's space.
pub(super) fn describe(embedder: Option<&dyn Embedder>, capabilities: Vec<Capability>) -> Vec<Arc<Capability>> {
    let mut left = VECTOR_BYTES;
    let describe = |mut capability: Capability| {
        let texts = texts(&capability);
        let vectors = embedder.and_then(|embedder| {
            left = left.checked_sub(texts.len() * (embedder.dim() + VECTOR_OVERHEAD_BYTES))?;
            let vectors = texts.iter().map(|(source, text)| quantise(&embedder.embed(text), *source));
            Some(vectors.filter(|vector| vector.scale > 0.0).collect())
        });
        let space = embedder.map_or_else(|| NO_SPACE.into(), |embedder| Arc::clone(embedder.space()));
        let simhash = words_of(&capability);
        capability.meaning = Some(Meaning { space, vectors: vectors.unwrap_or_default(), simhash });
        Arc::new(capability)
    };
    capabilities.into_iter().map(describe).collect()
}

/// The SimHash of a capability's texts and name.
pub(super) fn words_of(capability: &Capability) -> SimHash {
    let texts = texts(capability);
    simhash(texts.iter().map(|(_, text)| text.as_str()).chain([capability.name.as_str()]))
}
