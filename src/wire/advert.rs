//! Advert bodies and their capabilities.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::v1;
use crate::capability::{
    Capability, CapabilityId, Cost, Feature, FeatureSet, Kind, Meaning, Modality, ModalitySet, Operation, OperationSet,
    QuantizedVector, Residency, VectorSource, limits,
};

/// An advert body that does not keep to the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvertError {
    /// Not an encoded body.
    #[error("advert body cannot be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Larger than [`limits`] allow.
    #[error("advert has too much of {0}")]
    TooLarge(&'static str),
    /// A field that must be there is not, or makes no sense.
    #[error("advert has a bad {0}")]
    Bad(&'static str),
}

/// The encoded body that advertises these capabilities.
#[must_use]
pub fn body_to_wire(capabilities: &[Arc<Capability>]) -> Bytes {
    let capabilities = capabilities.iter().map(|capability| to_wire(capability)).collect();
    v1::AdvertBody { capabilities }.encode_to_vec().into()
}

/// The capabilities of an encoded body, all of them or none.
///
/// # Errors
///
/// When it cannot be decoded, is beyond [`limits`], repeats an id or has a field that makes no sense.
pub fn body_from_wire(body: &Bytes) -> Result<Arc<[Arc<Capability>]>, AdvertError> {
    if body.len() > limits::BODY_BYTES {
        return Err(AdvertError::TooLarge("body bytes"));
    }
    let body = v1::AdvertBody::decode(body.clone())?;
    if body.capabilities.len() > limits::CAPABILITIES {
        return Err(AdvertError::TooLarge("capabilities"));
    }
    let mut ids = std::collections::HashSet::new();
    body.capabilities
        .into_iter()
        .map(|wire| {
            let capability = from_wire(wire)?;
            if !ids.insert(capability.id.clone()) {
                return Err(AdvertError::Bad("capability id (given twice)"));
            }
            Ok(Arc::new(capability))
        })
        .collect()
}

fn to_wire(capability: &Capability) -> v1::Capability {
    v1::Capability {
        id: capability.id.as_str().to_owned(),
        kind: capability.kind.as_str().to_owned(),
        name: capability.name.clone(),
        provider: capability.provider.clone(),
        project: capability.project.clone().unwrap_or_default(),
        domain: capability.domain.clone().unwrap_or_default(),
        topics: capability.topics.clone(),
        description: capability.description.clone(),
        examples: capability.examples.clone(),
        operations: names(capability.operations.iter().map(Operation::as_str)),
        modalities: names(capability.modalities.iter().map(Modality::as_str)),
        features: names(capability.features.iter().map(Feature::as_str)),
        context_length: capability.context_length.unwrap_or(0),
        parameter_count: capability.parameter_count.unwrap_or(0),
        quantization: capability.quantization.clone().unwrap_or_default(),
        digest: capability.digest.clone().unwrap_or_default(),
        embedding_length: capability.embedding_length.unwrap_or(0),
        concurrency: capability.concurrency.unwrap_or(0),
        input_cost: capability.cost.input,
        output_cost: capability.cost.output,
        residency: match capability.residency {
            Residency::Unknown => v1::Residency::Unknown,
            Residency::Cold => v1::Residency::Cold,
            Residency::Warm => v1::Residency::Warm,
        }
        .into(),
        aliases: capability.aliases.clone(),
        meaning: capability.meaning.as_ref().map(meaning_to_wire),
    }
}

fn from_wire(wire: v1::Capability) -> Result<Capability, AdvertError> {
    let residency = match wire.residency() {
        v1::Residency::Unknown => Residency::Unknown,
        v1::Residency::Cold => Residency::Cold,
        v1::Residency::Warm => Residency::Warm,
    };
    let id = required(wire.id, "capability id")?;
    Ok(Capability {
        id: CapabilityId::from(id.as_str()),
        kind: wire.kind.parse::<Kind>().map_err(|_| AdvertError::Bad("kind"))?,
        name: required(wire.name, "name")?,
        provider: required(wire.provider, "provider")?,
        project: optional(wire.project, "project")?,
        domain: optional(wire.domain, "domain")?,
        topics: list(wire.topics, limits::NAME_BYTES, "topics")?,
        description: text(wire.description, limits::TEXT_BYTES, "description")?,
        examples: list(wire.examples, limits::TEXT_BYTES, "examples")?,
        operations: OperationSet::from(wire.operations),
        modalities: ModalitySet::from(wire.modalities),
        features: FeatureSet::from(wire.features),
        context_length: nonzero(wire.context_length),
        parameter_count: (wire.parameter_count != 0).then_some(wire.parameter_count),
        quantization: optional(wire.quantization, "quantization")?,
        digest: optional(wire.digest, "digest")?,
        embedding_length: nonzero(wire.embedding_length),
        concurrency: nonzero(wire.concurrency),
        cost: Cost { input: price(wire.input_cost)?, output: price(wire.output_cost)? },
        residency,
        aliases: list(wire.aliases, limits::NAME_BYTES, "aliases")?,
        meaning: wire.meaning.map(meaning_from_wire).transpose()?,
    })
}

fn meaning_to_wire(meaning: &Meaning) -> v1::Meaning {
    v1::Meaning {
        space: meaning.space.to_string(),
        vectors: meaning
            .vectors
            .iter()
            .map(|vector| v1::QuantizedVector {
                values: vector.values.iter().map(|value| value.cast_unsigned()).collect::<Vec<u8>>().into(),
                scale: vector.scale,
                source: match vector.source {
                    VectorSource::Description => v1::quantized_vector::Source::Description,
                    VectorSource::Topics => v1::quantized_vector::Source::Topics,
                    VectorSource::Example => v1::quantized_vector::Source::Example,
                }
                .into(),
            })
            .collect(),
        simhash: Bytes::copy_from_slice(&meaning.simhash),
    }
}

fn meaning_from_wire(wire: v1::Meaning) -> Result<Meaning, AdvertError> {
    if wire.vectors.len() > limits::VECTORS {
        return Err(AdvertError::TooLarge("vectors"));
    }
    let dim = wire.vectors.first().map_or(0, |vector| vector.values.len());
    let vectors = wire
        .vectors
        .iter()
        .map(|vector| {
            let sound = vector.values.len() == dim && dim <= limits::VECTOR_DIM;
            if !sound || dim == 0 || !vector.scale.is_finite() || vector.scale < 0.0 {
                return Err(AdvertError::Bad("vector"));
            }
            Ok(QuantizedVector {
                source: match vector.source() {
                    v1::quantized_vector::Source::Description => VectorSource::Description,
                    v1::quantized_vector::Source::Topics => VectorSource::Topics,
                    v1::quantized_vector::Source::Example => VectorSource::Example,
                },
                values: vector.values.iter().map(|value| value.cast_signed()).collect(),
                scale: vector.scale,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Meaning {
        space: required(wire.space, "embedding space")?.into(),
        vectors,
        simhash: wire.simhash.as_ref().try_into().map_err(|_| AdvertError::Bad("SimHash"))?,
    })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_owned).collect()
}

fn nonzero(value: u32) -> Option<u32> {
    (value != 0).then_some(value)
}

fn price(value: f64) -> Result<f64, AdvertError> {
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err(AdvertError::Bad("cost")) }
}

fn text(value: String, most: usize, what: &'static str) -> Result<String, AdvertError> {
    if value.len() <= most { Ok(value) } else { Err(AdvertError::TooLarge(what)) }
}

fn required(value: String, what: &'static str) -> Result<String, AdvertError> {
    if value.is_empty() { Err(AdvertError::Bad(what)) } else { text(value, limits::NAME_BYTES, what) }
}

fn optional(value: String, what: &'static str) -> Result<Option<String>, AdvertError> {
    if value.is_empty() { Ok(None) } else { text(value, limits::NAME_BYTES, what).map(Some) }
}

fn list(values: Vec<String>, most: usize, what: &'static str) -> Result<Vec<String>, AdvertError> {
    if values.len() > limits::LIST {
        return Err(AdvertError::TooLarge(what));
    }
    values.into_iter().map(|value| text(value, most, what)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Capability {
        let mut capability = Capability::new("ollama", Kind::LLM_CODE, "qwen2.5-coder:7b");
        capability.project = Some("farm/camelids".into());
        capability.domain = Some("camelids".into());
        capability.topics = vec!["llama".into(), "alpaca".into()];
        capability.description = "Knows llamas.".into();
        capability.examples = vec!["How do I care for my llama?".into()];
        capability.operations = OperationSet::of(&[Operation::Chat]);
        capability.features = FeatureSet::of(&[Feature::Tools, Feature::Streaming]);
        capability.context_length = Some(32_768);
        capability.cost = Cost { input: 0.5, output: 1.5 };
        capability.residency = Residency::Warm;
        capability.meaning = Some(Meaning {
            space: "s/2".into(),
            vectors: vec![QuantizedVector {
                source: VectorSource::Example,
                values: [-127_i8, 127].into(),
                scale: 0.01,
            }],
            simhash: [7; 32],
        });
        capability
    }

    #[test]
    fn a_body_reads_back_as_it_was_written() {
        let capabilities = [Arc::new(full()), Arc::new(Capability::new("builtin", Kind::ML_EMBED, "static"))];
        assert_eq!(&*body_from_wire(&body_to_wire(&capabilities)).expect("a body"), &capabilities);
    }

    #[test]
    fn a_body_beyond_the_limits_is_refused_whole() {
        let refused = |change: fn(&mut v1::Capability)| {
            let mut wire = to_wire(&full());
            change(&mut wire);
            body_from_wire(&v1::AdvertBody { capabilities: vec![wire] }.encode_to_vec().into()).expect_err("refused")
        };
        assert_eq!(refused(|c| c.name.clear()), AdvertError::Bad("name"));
        assert_eq!(refused(|c| c.kind = "LLM".into()), AdvertError::Bad("kind"));
        assert_eq!(refused(|c| c.description = "x".repeat(3000)), AdvertError::TooLarge("description"));
        assert_eq!(refused(|c| c.topics = vec![String::new(); 99]), AdvertError::TooLarge("topics"));
        assert_eq!(refused(|c| c.input_cost = f64::NAN), AdvertError::Bad("cost"));
        assert_eq!(refused(|c| c.meaning.as_mut().expect("set").simhash = Bytes::new()), AdvertError::Bad("SimHash"));
        assert_eq!(
            refused(|c| c.meaning.as_mut().expect("set").vectors[0].scale = f32::NAN),
            AdvertError::Bad("vector")
        );

        let twice = [Arc::new(full()), Arc::new(full())];
        assert!(body_from_wire(&body_to_wire(&twice)).is_err());
        assert!(body_from_wire(&vec![0; limits::BODY_BYTES + 1].into()).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = body_from_wire(&bytes.into());
        }
    }
}
