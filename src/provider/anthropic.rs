//! Anthropic: `GET /v1/models` lists the models and what they can do, and chats are put to `/v1/messages`.
//!
//! An account there is its owner's own: it is offered to other nodes only when the owner says so, wherever its URL
//! leads (a proxy of one's own is no reason to share what is behind it).

use std::collections::HashMap;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;

use super::Provider;
use super::exchange::Exchange;
use super::models::{Offer, failed, lenient};
use super::naming::{self, Role};
use super::protocol::Protocol;
use super::settings::BackendSpec;
use crate::capability::{
    Call, Capability, ErrorClass, Failure, Feature, FrameStream, Modality, Operation, OperationSet, Residency,
};
use crate::dialect::claude::Limits;

/// The version of the protocol, which every request names.
const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

/// An account at Anthropic, or a server that speaks its protocol.
#[derive(Debug)]
pub struct Anthropic {
    offer: Offer,
    /// What the list told of each model, by its name there.
    limits: ArcSwap<HashMap<String, Limits>>,
}

impl Anthropic {
    /// The account of `spec`, as `id`.
    ///
    /// # Errors
    ///
    /// When its key cannot be sent, or `https` cannot be spoken on this machine.
    pub fn new(id: &str, spec: &BackendSpec) -> Result<Self, Failure> {
        let mut offer = Offer::new(id, spec)?;
        offer.backend = offer.backend.with_key_in("x-api-key");
        Ok(Self { offer, limits: ArcSwap::default() })
    }

    async fn list(&self) -> Result<Vec<Listed>, Failure> {
        let request = self.offer.backend.api(Method::GET, &["models"]).header(VERSION.0, VERSION.1);
        let list: Result<List, Failure> = self.offer.backend.json(whole_list(request)?).await;
        match list {
            Ok(list) => Ok(list.data),
            // A server without a list can still be used for the models that the owner names.
            Err(failure) if failure.status == 404 && !self.offer.spec.models.is_empty() => {
                Ok(self.offer.spec.models.iter().map(|id| Listed { id: id.clone(), ..Listed::default() }).collect())
            }
            Err(failure) => Err(failure),
        }
    }

    async fn find(&self) -> Result<Vec<Capability>, Failure> {
        let models: Vec<Listed> = self.list().await?.into_iter().filter(|model| self.offer.wants(&model.id)).collect();
        let limits = models.iter().map(|model| (model.id.clone(), model.limits())).collect();
        self.limits.store(std::sync::Arc::new(limits));
        Ok(self.offer.publish(models.iter().map(|model| (self.capability(model), model.id.clone())).collect()))
    }

    fn capability(&self, model: &Listed) -> Capability {
        let role = Some(Role::of_name(&model.id)).filter(|role| role.writes_text()).unwrap_or(Role::Chat);
        let mut it = naming::capability(&self.offer.id, &model.id, role);
        it.operations = OperationSet::of(&[Operation::Chat, Operation::CountTokens]);
        it.context_length = model.max_input_tokens.filter(|length| *length > 0);
        it.residency = Residency::Warm;
        // What the list does not tell is not denied: a wrong no would refuse what works.
        let can = |support: fn(&Abilities) -> Option<&Support>| {
            model.capabilities.as_ref().and_then(support).is_none_or(|support| support.supported)
        };
        it.features.insert(Feature::Tools);
        if can(|abilities| abilities.structured_outputs.as_ref()) {
            it.features.insert(Feature::JsonSchema);
        }
        if can(|abilities| abilities.thinking.as_ref().map(|thinking| &thinking.support)) {
            it.features.insert(Feature::Thinking);
        }
        if can(|abilities| abilities.image_input.as_ref()) {
            it.modalities.insert(Modality::Image);
        }
        naming::describe(&mut it, role, self.offer.spec.domain.as_deref());
        it
    }

    fn exchange(&self, call: &Call) -> Result<Exchange, Failure> {
        let model = self.offer.model(&call.capability)?;
        let path: &[&'static str] = match call.operation {
            Operation::Chat => &["messages"],
            Operation::CountTokens => &["messages", "count_tokens"],
            other => {
                let message = format!("{} cannot do {:?}", self.offer.backend.label(), other.as_str());
                return Err(Failure::new(ErrorClass::Request, message));
            }
        };
        let limits = self.limits.load().get(&model).copied().unwrap_or_default();
        Ok(Exchange {
            backend: self.offer.backend.clone(),
            path: path.iter().map(|&segment| segment.into()).collect(),
            model,
            headers: vec![VERSION],
            done_is_reliable: true,
            protocol: Protocol::Anthropic(limits),
        })
    }
}

/// The request for all models in one page, which holds a thousand.
fn whole_list(request: RequestBuilder) -> Result<RequestBuilder, Failure> {
    let (client, request) = request.build_split();
    let mut request = request.map_err(|cause| Failure::new(ErrorClass::Internal, cause.to_string()))?;
    request.url_mut().set_query(Some("limit=1000"));
    Ok(RequestBuilder::from_parts(client, request))
}

impl Provider for Anthropic {
    fn id(&self) -> &str {
        &self.offer.id
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>> {
        Box::pin(self.find())
    }

    fn call(&self, call: Call) -> FrameStream {
        match self.exchange(&call) {
            Ok(exchange) => exchange.run(call),
            Err(failure) => failed(failure),
        }
    }

    fn concurrency(&self) -> Option<u32> {
        self.offer.concurrency()
    }

    fn shared(&self) -> bool {
        self.offer.spec.shared.unwrap_or(false)
    }
}

#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "lenient")]
    data: Vec<Listed>,
}

/// One model of `GET /v1/models`.
#[derive(Debug, Clone, Default, Deserialize)]
struct Listed {
    id: String,
    max_input_tokens: Option<u32>,
    max_tokens: Option<u64>,
    capabilities: Option<Abilities>,
}

impl Listed {
    fn limits(&self) -> Limits {
        let thinking = self.capabilities.as_ref().and_then(|abilities| abilities.thinking.as_ref());
        let adaptive = thinking.and_then(|thinking| thinking.types.as_ref()?.adaptive.as_ref());
        Limits {
            max_tokens: self.max_tokens.filter(|tokens| *tokens > 0),
            adaptive: adaptive.is_some_and(|support| support.supported),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Abilities {
    image_input: Option<Support>,
    structured_outputs: Option<Support>,
    thinking: Option<Thinking>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Support {
    #[serde(default)]
    supported: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Thinking {
    #[serde(flatten)]
    support: Support,
    types: Option<ThinkingTypes>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct ThinkingTypes {
    adaptive: Option<Support>,
}
