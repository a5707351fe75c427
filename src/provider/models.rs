//! Which model of the backend a capability stands for; what every adapter keeps between discovery and call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use foldhash::HashMap;

use super::exchange::Exchange;
use super::http::Backend;
use super::settings::BackendSpec;
use crate::capability::{Call, Capability, CapabilityId, ErrorClass, Failure, Frame, FrameStream};

/// A backend that is offered under a name, and the models found on it.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The provider's name on this node.
    pub(crate) id: String,
    /// What the owner said.
    pub(crate) spec: BackendSpec,
    /// Its HTTP side.
    pub(crate) backend: Backend,
    models: ArcSwap<HashMap<CapabilityId, String>>,
    /// Calls that the backend says it runs at once; 0 when it does not.
    slots: AtomicU32,
}

impl Offer {
    /// Offers the backend of `spec` as `id`.
    ///
    /// # Errors
    ///
    /// When it cannot be spoken to at all; see [`Backend::new`].
    pub(crate) fn new(id: &str, spec: &BackendSpec) -> Result<Self, Failure> {
        let backend = Backend::new(id, &spec.url, spec.key.as_ref())?;
        Ok(Self {
            id: id.to_owned(),
            spec: spec.clone(),
            backend,
            models: ArcSwap::default(),
            slots: AtomicU32::new(0),
        })
    }

    /// Whether the owner wants this model offered.
    pub(crate) fn wants(&self, model: &str) -> bool {
        let same =
            |wanted: &String| crate::capability::normalise_name(wanted) == crate::capability::normalise_name(model);
        self.spec.models.is_empty() || self.spec.models.iter().any(same)
    }

    /// Remembers what was found and what the backend calls each, and fills in what is the same for all.
    pub(crate) fn publish(&self, found: Vec<(Capability, String)>) -> Vec<Capability> {
        self.models.store(Arc::new(found.iter().map(|(it, model)| (it.id.clone(), model.clone())).collect()));
        found
            .into_iter()
            .map(|(mut capability, _)| {
                capability.concurrency = self.concurrency();
                capability.cost = self.spec.price();
                capability
            })
            .collect()
    }

    /// Takes note of the calls that the backend runs at once.
    pub(crate) fn set_slots(&self, slots: u32) {
        self.slots.store(slots, Ordering::Relaxed);
    }

    /// How many calls it runs at once: the owner's word, else the backend's.
    pub(crate) fn concurrency(&self) -> Option<u32> {
        let told = self.slots.load(Ordering::Relaxed);
        self.spec.concurrency.or((told > 0).then_some(told))
    }

    /// The backend's name of the model that a capability stands for.
    ///
    /// # Errors
    ///
    /// When there is no such capability, or not any more.
    pub(crate) fn model(&self, id: &CapabilityId) -> Result<String, Failure> {
        self.models.load().get(id).cloned().ok_or_else(|| {
            Failure::new(ErrorClass::Unavailable, format!("{} does not offer {id} any more", self.backend.label()))
        })
    }

    /// Runs a call at OpenAI's usual path.
    pub(crate) fn call(&self, call: Call) -> FrameStream {
        let exchange = self.model(&call.capability).and_then(|model| {
            Exchange::openai(&self.backend, call.operation, &model).ok_or_else(|| {
                let message = format!("{} cannot do {:?}", self.backend.label(), call.operation.as_str());
                Failure::new(ErrorClass::Request, message)
            })
        });
        match exchange {
            Ok(exchange) => exchange.run(call),
            Err(failure) => failed(failure),
        }
    }
}

/// A reply that is nothing but a failure.
pub(crate) fn failed(failure: Failure) -> FrameStream {
    Box::pin(futures::stream::iter([Frame::Error(failure)]))
}

/// A reply that is there already.
pub(crate) fn answered(data: Bytes, usage: Option<crate::capability::Usage>) -> Vec<Frame> {
    let chunk = crate::capability::Chunk { data, content_type: Some("application/json".into()) };
    vec![Frame::Chunk(chunk), Frame::End { usage, load: None }]
}

/// A list without the members that cannot be read: one odd model is no reason to lose the others.
pub(crate) fn lenient<'de, D: serde::Deserializer<'de>, T: serde::de::DeserializeOwned>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    let values = <Option<Vec<serde_json::Value>> as serde::Deserialize>::deserialize(from)?.unwrap_or_default();
    Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}
