//! Ollama: found out natively, called through its OpenAI endpoints, or its own where those would leave something out (options
//! such as `top_k`, raw prompts, earlier thoughts).
//!
//! `/api/tags` lists the models, on newer versions with what they can do; on older ones `/api/show` tells, once
//! per model. `/api/ps` tells which are loaded, and with what context. Models that Ollama would run on somebody
//! else's machine (`remote_host`) are left out, unless the owner names them.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Provider;
use super::exchange::Exchange;
use super::models::{Offer, failed, lenient};
use super::naming::{self, Role};
use super::protocol::Protocol;
use super::settings::{BackendSpec, NOMINAL_PRICE};
use crate::capability::{
    Call, Capability, Failure, Feature, FrameStream, Modality, Operation, Residency, normalise_name,
};
use crate::dialect::ollama::{self, Form};

/// Models of which `/api/show` was asked that are remembered; beyond it all are asked again.
const SHOWN: usize = 1024;

/// An Ollama server.
#[derive(Debug)]
pub struct Ollama {
    offer: Offer,
    /// What `/api/show` told, by name and digest.
    shown: Mutex<HashMap<(String, String), Shown>>,
}

impl Ollama {
    /// The server of `spec`, as `id`.
    ///
    /// # Errors
    ///
    /// When its key cannot be sent, or `https` cannot be spoken on this machine.
    pub fn new(id: &str, spec: &BackendSpec) -> Result<Self, Failure> {
        Ok(Self { offer: Offer::new(id, spec)?, shown: Mutex::default() })
    }

    async fn find(&self) -> Result<Vec<Capability>, Failure> {
        let backend = &self.offer.backend;
        let tags: Tags = backend.json(backend.root(Method::GET, &["api", "tags"])).await?;
        // Old versions have no /api/ps; which models are loaded is then unknown.
        let loaded: Option<Ps> = backend.json(backend.root(Method::GET, &["api", "ps"])).await.ok();
        let mut found = Vec::new();
        for model in tags.models {
            let named = !self.offer.spec.models.is_empty();
            if !self.offer.wants(&model.name) {
                continue;
            }
            if model.remote_host.is_some() && !named {
                tracing::debug!(
                    provider = self.offer.id,
                    model = model.name,
                    "left out: it does not run on this machine"
                );
                continue;
            }
            let shown = if model.capabilities.is_none() { self.show(&model).await } else { Shown::default() };
            let running = loaded
                .as_ref()
                .map(|ps| ps.models.iter().find(|it| normalise_name(&it.name) == normalise_name(&model.name)));
            if let Some(capability) = self.capability(&model, &shown, running) {
                found.push((capability, model.name));
            }
        }
        let remote: Vec<String> =
            found.iter().filter(|(it, _)| it.cost == NOMINAL_PRICE).map(|(it, _)| it.name.clone()).collect();
        let mut published = self.offer.publish(found);
        for it in published.iter_mut().filter(|it| remote.contains(&it.name)) {
            it.cost = self.offer.spec.cost.unwrap_or(NOMINAL_PRICE);
        }
        Ok(published)
    }

    async fn show(&self, model: &Tag) -> Shown {
        let key = (model.name.clone(), model.digest.clone());
        if let Some(shown) = self.shown.lock().get(&key) {
            return shown.clone();
        }
        let backend = &self.offer.backend;
        let request =
            backend.root(Method::POST, &["api", "show"]).json(&json!({"model": model.name, "name": model.name}));
        match backend.json::<Shown>(request).await {
            Ok(shown) => {
                let mut known = self.shown.lock();
                if known.len() >= SHOWN {
                    known.clear();
                }
                known.insert(key, shown.clone());
                shown
            }
            Err(failure) => {
                tracing::debug!(provider = self.offer.id, model = model.name, %failure, "no details");
                Shown::default()
            }
        }
    }

    /// `running`: `None` when unknown, `Some(None)` when not loaded.
    fn capability(&self, model: &Tag, shown: &Shown, running: Option<Option<&Running>>) -> Option<Capability> {
        let told = model.capabilities.as_ref().or(shown.capabilities.as_ref());
        let can = |word: &str| told.is_some_and(|told| told.iter().any(|it| it == word));
        let role = match told {
            Some(_) if can("embedding") && !can("completion") => Role::Embed,
            Some(_) if can("image") && !can("completion") => Role::Image,
            Some(_) if can("completion") => match Role::of_name(&model.name) {
                role if role.writes_text() => role,
                _ => Role::Chat,
            },
            _ => Role::of_name(&model.name),
        };
        if role == Role::Unserved {
            tracing::debug!(provider = self.offer.id, model = model.name, "left out: nothing here could use it");
            return None;
        }
        let mut it = naming::capability(&self.offer.id, &model.name, role);
        let details = &model.details;
        it.parameter_count = details.parameter_size.as_deref().and_then(naming::parameter_count).or(it.parameter_count);
        it.quantization = details.quantization_level.clone().filter(|level| level != "unknown").or(it.quantization);
        it.digest = (!model.digest.is_empty()).then(|| model.digest.clone());
        let trained = details.context_length.or_else(|| shown.number("context_length"));
        // What is loaded has the context that it was loaded with, which may be far less than it was trained for.
        it.context_length = running.flatten().and_then(|it| it.context_length).or(trained).filter(|length| *length > 0);
        if role == Role::Embed {
            it.embedding_length = details.embedding_length.or_else(|| shown.number("embedding_length"));
        }
        it.residency = match running {
            None => Residency::Unknown,
            Some(None) => Residency::Cold,
            Some(Some(_)) => Residency::Warm,
        };
        if role.writes_text() {
            it.operations.insert(Operation::Complete);
            it.features.insert(Feature::JsonSchema);
            it.features.insert(Feature::Logprobs);
            for (word, feature) in
                [("tools", Feature::Tools), ("thinking", Feature::Thinking), ("insert", Feature::Insert)]
            {
                if can(word) {
                    it.features.insert(feature);
                }
            }
            if can("vision") || told.is_none() && naming::sees(&model.name) {
                it.modalities.insert(Modality::Image);
            }
            if can("audio") {
                it.modalities.insert(Modality::Audio);
            }
            if told.is_none() {
                // An old version: nothing is known, and a wrong no would refuse what works.
                it.features.insert(Feature::Tools);
            }
        }
        if model.remote_host.is_some() {
            it.cost = NOMINAL_PRICE;
        }
        naming::describe(&mut it, role, self.offer.spec.domain.as_deref());
        Some(it)
    }
}

impl Ollama {
    /// A call by Ollama's own API, for what its OpenAI API would leave out without a word.
    fn native(&self, call: &Call, form: Form) -> Result<Exchange, Failure> {
        let mut backend = self.offer.backend.clone();
        backend.api = Arc::clone(&backend.root);
        let route = match form {
            Form::Chat => "chat",
            Form::Generate => "generate",
        };
        Ok(Exchange {
            backend,
            path: vec!["api".into(), route.into()],
            model: self.offer.model(&call.capability)?,
            headers: Vec::new(),
            done_is_reliable: true,
            protocol: Protocol::Ollama(form),
        })
    }
}

impl Provider for Ollama {
    fn id(&self) -> &str {
        &self.offer.id
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>> {
        Box::pin(self.find())
    }

    fn call(&self, call: Call) -> FrameStream {
        let form = match call.operation {
            Operation::Chat | Operation::Complete => ollama::form_of(&call.payload),
            _ => None,
        };
        match form.map(|form| self.native(&call, form)) {
            None => self.offer.call(call),
            Some(Ok(exchange)) => exchange.run(call),
            Some(Err(failure)) => failed(failure),
        }
    }

    fn concurrency(&self) -> Option<u32> {
        self.offer.concurrency()
    }

    fn shared(&self) -> bool {
        self.offer.spec.is_shared()
    }
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default, deserialize_with = "lenient")]
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    details: TagDetails,
    capabilities: Option<Vec<String>>,
    #[serde(default, deserialize_with = "filled")]
    remote_host: Option<String>,
}

#[derive(Default, Deserialize)]
struct TagDetails {
    parameter_size: Option<String>,
    quantization_level: Option<String>,
    context_length: Option<u32>,
    embedding_length: Option<u32>,
}

#[derive(Deserialize)]
struct Ps {
    #[serde(default, deserialize_with = "lenient")]
    models: Vec<Running>,
}

#[derive(Deserialize)]
struct Running {
    name: String,
    context_length: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Shown {
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    model_info: HashMap<String, Value>,
}

impl Shown {
    /// `<architecture>.<what>` of the model's metadata.
    fn number(&self, what: &str) -> Option<u32> {
        let architecture = self.model_info.get("general.architecture")?.as_str()?;
        u32::try_from(self.model_info.get(&format!("{architecture}.{what}"))?.as_u64()?).ok()
    }
}

fn filled<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.filter(|text| !text.is_empty()))
}
