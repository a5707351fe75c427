//! Any server with OpenAI's API: llama.cpp, vLLM, LM Studio, SGLang, LocalAI, Lemonade, and OpenAI itself.
//!
//! `GET /v1/models` lists the models; what else is known comes from where each server tells it: llama.cpp's
//! `/props`, LM Studio's `/api/v0/models`, and further fields of the list. Calls go through untouched.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;

use super::Provider;
use super::models::{Offer, lenient};
use super::naming::{self, Role};
use super::settings::{BackendKind, BackendSpec};
use crate::capability::{Call, Capability, ErrorClass, Failure, Feature, FrameStream, Modality, Operation, Residency};

/// How long details that need further requests are believed while the list of models stays the same.
const DETAILS_AGE: Duration = Duration::from_secs(60);

/// A server with OpenAI's API.
#[derive(Debug)]
pub struct OpenAi {
    kind: BackendKind,
    offer: Offer,
    details: Mutex<Option<(Instant, Vec<String>, Details)>>,
}

impl OpenAi {
    /// The server of `spec`, as `id`.
    ///
    /// # Errors
    ///
    /// When its key cannot be sent, or `https` cannot be spoken on this machine.
    pub fn new(id: &str, kind: BackendKind, spec: &BackendSpec) -> Result<Self, Failure> {
        Ok(Self { kind, offer: Offer::new(id, spec)?, details: Mutex::new(None) })
    }

    async fn list(&self) -> Result<Vec<Listed>, Failure> {
        let backend = &self.offer.backend;
        let list: Result<List, Failure> = backend.json(backend.api(Method::GET, &["models"])).await;
        match list {
            Ok(list) => {
                // llama.cpp tells some things in a second list, in Ollama's shape.
                let mut told: HashMap<String, Vec<String>> =
                    list.models.into_iter().map(|model| (model.name, model.capabilities)).collect();
                let mut models = list.data;
                for model in &mut models {
                    model.told = told.remove(&model.id).unwrap_or_default();
                }
                Ok(models)
            }
            // A server without a list can still be used for the models that the owner names.
            Err(failure) if failure.status == 404 && !self.offer.spec.models.is_empty() => {
                Ok(self.offer.spec.models.iter().map(|id| Listed { id: id.clone(), ..Listed::default() }).collect())
            }
            Err(failure) => Err(failure),
        }
    }

    async fn find(&self) -> Result<Vec<Capability>, Failure> {
        let models = self.list().await?;
        let names: Vec<String> = models.iter().map(|model| model.id.clone()).collect();
        let known = self.details.lock().as_ref().and_then(|(at, of, details)| {
            // LM Studio tells there which models are loaded, so it is always asked.
            let fresh = at.elapsed() < DETAILS_AGE && *of == names && details.studio.is_empty();
            fresh.then(|| details.clone())
        });
        let details = match known {
            Some(details) => details,
            None => {
                let details = self.look_closer(&models).await;
                *self.details.lock() = Some((Instant::now(), names, details.clone()));
                details
            }
        };
        self.offer.set_slots(details.props.as_ref().and_then(|props| props.total_slots).unwrap_or_default());
        let found = models
            .into_iter()
            .filter(|model| self.offer.wants(&model.id))
            .filter_map(|model| Some((self.capability(&model, &details)?, model.id)))
            .collect();
        Ok(self.offer.publish(found))
    }

    /// What the server tells apart from the list. A server that does not know a path is none the worse for it.
    async fn look_closer(&self, models: &[Listed]) -> Details {
        let backend = &self.offer.backend;
        let mut details = Details::default();
        let owned_by = |owner: &str| models.iter().any(|model| model.owned_by.as_deref() == Some(owner));
        if self.kind == BackendKind::LlamaCpp || owned_by("llamacpp") {
            details.props = backend.json(backend.root(Method::GET, &["props"])).await.ok();
            details.embeds = self.serves(&["v1", "embeddings"]).await;
            details.counts = self.serves(&["v1", "messages", "count_tokens"]).await;
            details.no_chat = !self.serves(&["completion"]).await && details.embeds;
            details.prefills = !details.no_chat && self.renders_prefill().await;
        }
        if self.kind == BackendKind::Vllm
            && let Some(model) = models.first()
        {
            details.prefills = self.tokenizes_prefill(&model.id).await;
        }
        if self.kind == BackendKind::LmStudio {
            let list: Result<StudioList, Failure> =
                backend.json(backend.root(Method::GET, &["api", "v0", "models"])).await;
            let list = list.map(|list| list.data).unwrap_or_default();
            details.studio = list.into_iter().map(|model| (model.id.clone(), model)).collect();
        }
        details
    }

    /// Whether llama.cpp serves this path: an empty request is refused as "not supported" (501) when it does
    /// not, and as incomplete when it does. Nothing is computed either way.
    async fn serves(&self, path: &[&str]) -> bool {
        let backend = &self.offer.backend;
        let request = backend.root(Method::POST, path).header(reqwest::header::CONTENT_TYPE, "application/json");
        let answer: Result<serde_json::Value, Failure> = backend.json(request.body("{}")).await;
        match answer {
            Ok(_) => true,
            Err(failure) => matches!(failure.status, 400 | 422 | 500) && failure.class != ErrorClass::Unavailable,
        }
    }

    /// Whether llama.cpp leaves a last assistant message open, to be continued. It renders the template and computes nothing;
    /// a model whose thinking forbids it says so here too.
    async fn renders_prefill(&self) -> bool {
        #[derive(Deserialize)]
        struct Rendered {
            prompt: String,
        }
        let backend = &self.offer.backend;
        let request = backend.root(Method::POST, &["apply-template"]).json(&prefill_question());
        let answer: Result<Rendered, Failure> = backend.json(request).await;
        answer.is_ok_and(|rendered| rendered.prompt.ends_with(PREFILL))
    }

    /// The same of vLLM, which tells the tokens of a chat and the text of tokens.
    async fn tokenizes_prefill(&self, model: &str) -> bool {
        #[derive(Deserialize)]
        struct Tokens {
            tokens: Vec<u32>,
        }
        #[derive(Deserialize)]
        struct Text {
            prompt: String,
        }
        let backend = &self.offer.backend;
        let mut question = prefill_question();
        question["model"] = model.into();
        let tokens: Result<Tokens, Failure> =
            backend.json(backend.root(Method::POST, &["tokenize"]).json(&question)).await;
        let Ok(Tokens { tokens }) = tokens else { return false };
        let question = serde_json::json!({"model": model, "tokens": tokens});
        let text: Result<Text, Failure> =
            backend.json(backend.root(Method::POST, &["detokenize"]).json(&question)).await;
        text.is_ok_and(|text| text.prompt.ends_with(PREFILL))
    }

    fn capability(&self, model: &Listed, details: &Details) -> Option<Capability> {
        let name = public_name(&model.id);
        let studio = details.studio.get(&model.id);
        let by_server = |word: &str| model.told.iter().any(|told| told == word);
        let told_embedding = studio.is_some_and(|it| it.kind == "embeddings")
            || by_server("embedding") && !by_server("completion")
            || details.no_chat;
        let role = if told_embedding { Role::Embed } else { Role::of_name(&name) };
        if role == Role::Unserved {
            tracing::debug!(provider = self.offer.id, model = name, "left out: nothing here could use it");
            return None;
        }
        let mut it = naming::capability(&self.offer.id, &name, role);
        if let Some(stem) = name.strip_suffix(".gguf") {
            it.aliases.push(stem.to_owned());
        }
        if let Some(root) = model.root.as_deref().filter(|root| *root != model.id && !root.starts_with('/')) {
            it.aliases.push(root.to_owned());
        }
        let props = details.props.as_ref();
        let meta = model.meta.clone().unwrap_or_default();
        it.parameter_count = meta.n_params.filter(|count| *count > 0).or(it.parameter_count);
        it.embedding_length = if role == Role::Embed { meta.n_embd } else { None };
        it.quantization = studio.and_then(|it| it.quantization.clone()).or(it.quantization);
        it.context_length = props
            .and_then(|props| props.default_generation_settings.n_ctx)
            .or(studio.and_then(|it| it.loaded_context_length.or(it.max_context_length)))
            .or(model.max_model_len)
            .or(model.context_length)
            .or(model.context_window)
            .or(meta.n_ctx_train)
            .filter(|length| *length > 0);
        it.residency = match (studio.map(|it| it.state.as_str()), self.kind) {
            (Some("loaded"), _) => Residency::Warm,
            (Some(_), _) => Residency::Cold,
            (None, BackendKind::LlamaCpp | BackendKind::Vllm | BackendKind::Sglang) => match &model.status {
                Some(status) if status.value != "loaded" => Residency::Cold,
                _ => Residency::Warm,
            },
            (None, _) => Residency::Unknown,
        };
        if role.writes_text() {
            // What a server does not tell is not denied: a wrong no would refuse what works.
            for feature in [Feature::Tools, Feature::JsonSchema, Feature::Logprobs] {
                it.features.insert(feature);
            }
            let no_tools = props.is_some_and(Props::denies_tools)
                || studio
                    .is_some_and(|it| !it.capabilities.is_empty() && !it.capabilities.iter().any(|c| c == "tool_use"));
            if no_tools {
                it.features = it.features.iter().filter(|feature| *feature != Feature::Tools).collect();
            }
            if role == Role::Reason || naming::thinks(&name) {
                it.features.insert(Feature::Thinking);
            }
            if details.prefills {
                it.features.insert(Feature::Prefill);
            }
            let eyes = match (props.and_then(|props| props.modalities.as_ref()), studio) {
                (Some(modalities), _) => modalities.vision,
                (None, Some(it)) => it.kind == "vlm",
                (None, None) => by_server("multimodal") || naming::sees(&name),
            };
            if eyes {
                it.modalities.insert(Modality::Image);
            }
            if props.and_then(|props| props.modalities.as_ref()).is_some_and(|modalities| modalities.audio) {
                it.modalities.insert(Modality::Audio);
            }
            if details.counts {
                it.operations.insert(Operation::CountTokens);
            }
            if details.embeds {
                it.operations.insert(Operation::Embed);
                it.embedding_length = meta.n_embd;
            }
        }
        naming::describe(&mut it, role, self.offer.spec.domain.as_deref());
        Some(it)
    }
}

impl Provider for OpenAi {
    fn id(&self) -> &str {
        &self.offer.id
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>> {
        Box::pin(async {
            let found = self.find().await;
            if found.is_err() {
                // Whoever answers next may be another server.
                *self.details.lock() = None;
            }
            found
        })
    }

    fn call(&self, call: Call) -> FrameStream {
        self.offer.call(call)
    }

    fn concurrency(&self) -> Option<u32> {
        self.offer.concurrency()
    }

    fn shared(&self) -> bool {
        self.offer.spec.is_shared()
    }
}

/// An answer that has begun; it is only ever looked for in a rendered prompt.
const PREFILL: &str = "Once upon a";

/// A chat whose last message is to be continued.
fn prefill_question() -> serde_json::Value {
    serde_json::json!({
        "messages": [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": PREFILL}],
        "add_generation_prompt": false,
        "continue_final_message": true,
    })
}

/// A model's name without what it tells of this machine: llama.cpp's default name is the file's path.
fn public_name(id: &str) -> String {
    let is_path = id.starts_with(['/', '\\', '~', '.']) || id.get(1..3) == Some(":\\");
    let bare = id.rsplit(['/', '\\']).next().unwrap_or(id);
    if is_path && !bare.is_empty() { bare.to_owned() } else { id.to_owned() }
}

#[derive(Debug, Clone, Default)]
struct Details {
    props: Option<Props>,
    /// llama.cpp was started with embeddings.
    embeds: bool,
    /// llama.cpp counts the tokens of a chat.
    counts: bool,
    /// llama.cpp was started for embeddings only.
    no_chat: bool,
    /// A last assistant message is continued.
    prefills: bool,
    studio: HashMap<String, StudioModel>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "lenient")]
    data: Vec<Listed>,
    #[serde(default, deserialize_with = "lenient")]
    models: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    name: String,
    #[serde(default)]
    capabilities: Vec<String>,
}

/// One model of `GET /v1/models`, with what some servers add.
#[derive(Debug, Clone, Default, Deserialize)]
struct Listed {
    id: String,
    owned_by: Option<String>,
    root: Option<String>,
    max_model_len: Option<u32>,
    context_length: Option<u32>,
    context_window: Option<u32>,
    meta: Option<Meta>,
    status: Option<Status>,
    #[serde(skip)]
    told: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Meta {
    n_params: Option<u64>,
    n_embd: Option<u32>,
    n_ctx_train: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Status {
    #[serde(default)]
    value: String,
}

/// llama.cpp's `/props`.
#[derive(Debug, Clone, Default, Deserialize)]
struct Props {
    #[serde(default)]
    default_generation_settings: GenerationSettings,
    total_slots: Option<u32>,
    chat_template: Option<String>,
    chat_template_caps: Option<TemplateCaps>,
    modalities: Option<Modalities>,
}

impl Props {
    fn denies_tools(&self) -> bool {
        match (&self.chat_template_caps, &self.chat_template) {
            (Some(caps), _) if caps.supports_tools.is_some() => caps.supports_tools == Some(false),
            (_, Some(template)) => !template.contains("tool"),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
struct GenerationSettings {
    n_ctx: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct TemplateCaps {
    supports_tools: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Modalities {
    #[serde(default)]
    vision: bool,
    #[serde(default)]
    audio: bool,
}

#[derive(Deserialize)]
struct StudioList {
    #[serde(default, deserialize_with = "lenient")]
    data: Vec<StudioModel>,
}

/// One model of LM Studio's `/api/v0/models`.
#[derive(Debug, Clone, Deserialize)]
struct StudioModel {
    id: String,
    #[serde(default, rename = "type")]
    kind: String,
    quantization: Option<String>,
    #[serde(default)]
    state: String,
    max_context_length: Option<u32>,
    loaded_context_length: Option<u32>,
    #[serde(default)]
    capabilities: Vec<String>,
}
