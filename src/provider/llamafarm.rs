//! LlamaFarm's server: every project is a capability, called `namespace/name`.
//!
//! A project is a model with prompts, data and a field of its own, so it is described by what its owner wrote:
//! prompts, model description, names of datasets and databases. Its configuration may hold keys and addresses;
//! only the fields named here are ever read. The server cannot list its namespaces: they are configured, or read
//! from its data directory when it runs on this machine.
//!
//! Two habits of the server shape the calls: without `X-No-Session` it keeps a session for every call, and it
//! ends a failed stream with `[DONE]` as if it were complete.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;

use super::Provider;
use super::exchange::Exchange;
use super::models::{Offer, failed, lenient};
use super::naming;
use super::protocol::Protocol;
use super::settings::BackendSpec;
use crate::capability::{Call, Capability, ErrorClass, Failure, Feature, FrameStream, Kind, Operation, OperationSet};

/// How long the list of projects is believed; the server reads every project's file for it.
const LIST_AGE: Duration = Duration::from_secs(15);

/// Namespaces that are asked for; far more than one person keeps.
const NAMESPACES: usize = 64;

/// Most characters of a project's own words that are told to the mesh.
const DESCRIPTION_CHARS: usize = 600;

/// Parts of a project's name that say nothing about its field.
const EMPTY_WORDS: [&str; 22] = [
    "project",
    "projects",
    "bot",
    "chatbot",
    "assistant",
    "expert",
    "agent",
    "demo",
    "test",
    "app",
    "ai",
    "llm",
    "chat",
    "default",
    "my",
    "the",
    "a",
    "seed",
    "rag",
    "helper",
    "v1",
    "v2",
];

/// A LlamaFarm server.
#[derive(Debug)]
pub struct LlamaFarm {
    offer: Offer,
    listed: Mutex<Option<(Instant, Vec<Capability>)>>,
}

impl LlamaFarm {
    /// The server of `spec`, as `id`.
    ///
    /// # Errors
    ///
    /// When its key cannot be sent, or `https` cannot be spoken on this machine.
    pub fn new(id: &str, spec: &BackendSpec) -> Result<Self, Failure> {
        Ok(Self { offer: Offer::new(id, spec)?, listed: Mutex::new(None) })
    }

    async fn find(&self) -> Result<Vec<Capability>, Failure> {
        let backend = &self.offer.backend;
        let alive: Liveness = backend.json(backend.root(Method::GET, &["health", "liveness"])).await?;
        if alive.status != "alive" {
            return Err(Failure::new(
                ErrorClass::Unavailable,
                format!("{} says that it is {:?}, not alive", self.offer.id, alive.status),
            ));
        }
        if let Some((at, listed)) = &*self.listed.lock()
            && at.elapsed() < LIST_AGE
        {
            return Ok(listed.clone());
        }
        let namespaces = self.namespaces().await;
        if namespaces.is_empty() {
            tracing::debug!(
                provider = self.offer.id,
                "no namespaces: name them in the configuration (the server cannot list them)"
            );
        }
        let mut found = Vec::new();
        for namespace in namespaces.iter().take(NAMESPACES) {
            let list: Projects = backend.json(backend.api(Method::GET, &["projects", namespace])).await?;
            for project in list.projects {
                if project.validation_error.is_some() {
                    tracing::debug!(
                        provider = self.offer.id,
                        project = project.name,
                        "left out: its file is not valid"
                    );
                    continue;
                }
                let model = match project.config.default_model() {
                    Some(model) => Some(model.name.clone()),
                    None => self.listed_model(namespace, &project.name).await,
                };
                let Some(model) = model else {
                    tracing::debug!(provider = self.offer.id, project = project.name, "left out: it has no model");
                    continue;
                };
                if self.offer.wants(&format!("{namespace}/{}", project.name)) {
                    found.push((self.capability(namespace, &project), model));
                }
            }
        }
        let found = self.offer.publish(found);
        *self.listed.lock() = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    /// The project's default model, as `/models` tells it.
    async fn listed_model(&self, namespace: &str, project: &str) -> Option<String> {
        let backend = &self.offer.backend;
        let request = backend.api(Method::GET, &["projects", namespace, project, "models"]);
        let list: Models = backend.json(request).await.ok()?;
        list.models.iter().find(|model| model.default).or(list.models.first()).map(|model| model.name.clone())
    }

    async fn namespaces(&self) -> Vec<String> {
        if !self.offer.spec.namespaces.is_empty() {
            return self.offer.spec.namespaces.clone();
        }
        let local = match self.offer.spec.url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        match data_dir() {
            Some(dir) if local => directories(&dir.join("projects")).await,
            _ => Vec::new(),
        }
    }

    fn capability(&self, namespace: &str, project: &Project) -> Capability {
        let name = format!("{namespace}/{}", project.name);
        let config = &project.config;
        let mut it = Capability::new(&self.offer.id, Kind::LLM_CHAT, &name);
        it.operations = OperationSet::of(&[Operation::Chat]);
        it.project = Some(name);
        it.features.insert(Feature::Streaming);
        let model = config.default_model();
        if model.is_some_and(|model| is_filled(model.tools.as_ref()) || is_filled(model.mcp_servers.as_ref())) {
            it.features.insert(Feature::Tools);
        }
        if config.rag.is_some() && model.is_none_or(|model| model.rag_enabled != Some(false)) {
            it.features.insert(Feature::Rag);
        }
        if let Some(model) = model.and_then(|model| model.model.as_deref()) {
            it.parameter_count = naming::parameter_count(model);
            it.quantization = naming::quantization(model);
        }
        let field = words_of(&project.name).join(" ");
        it.domain = self.offer.spec.domain.clone().or((!field.is_empty()).then_some(field));
        it.topics = config.topics(&project.name, it.domain.as_deref());
        it.description = config.description(&project.name, it.domain.as_deref());
        it.examples = config.said_by("user");
        it
    }
}

impl Provider for LlamaFarm {
    fn id(&self) -> &str {
        &self.offer.id
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>> {
        Box::pin(async {
            let found = self.find().await;
            if found.is_err() {
                *self.listed.lock() = None;
            }
            found
        })
    }

    fn call(&self, call: Call) -> FrameStream {
        let exchange = self.offer.model(&call.capability).and_then(|model| {
            let id = call.capability.as_str();
            // provider/llm/chat/namespace/name
            let names = id.strip_prefix(&format!("{}/{}/", self.offer.id, Kind::LLM_CHAT));
            match names.and_then(|names| names.split_once('/')) {
                Some((namespace, project)) if call.operation == Operation::Chat => Ok(Exchange {
                    backend: self.offer.backend.clone(),
                    path: ["projects", namespace, project, "chat", "completions"]
                        .map(|part| part.to_owned().into())
                        .to_vec(),
                    model,
                    headers: vec![("x-no-session", "true")],
                    done_is_reliable: false,
                    protocol: Protocol::OpenAi,
                }),
                _ => Err(Failure::new(
                    ErrorClass::Request,
                    format!("{id} cannot do {:?}: LlamaFarm's projects chat", call.operation.as_str()),
                )),
            }
        });
        match exchange {
            Ok(exchange) => exchange.run(call),
            Err(failure) => failed(failure),
        }
    }

    fn concurrency(&self) -> Option<u32> {
        self.offer.concurrency()
    }

    fn shared(&self) -> bool {
        self.offer.spec.is_shared()
    }
}

/// Where LlamaFarm keeps its projects on this machine.
fn data_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("LF_DATA_DIR").or_else(|| Some(std::env::home_dir()?.join(".llamafarm")))
}

/// Names of the directories in `dir`, sorted; none when it cannot be read.
async fn directories(dir: &std::path::Path) -> Vec<String> {
    let Ok(mut entries) = tokio::fs::read_dir(dir).await else { return Vec::new() };
    let mut names = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let is_dir = entry.file_type().await.is_ok_and(|kind| kind.is_dir());
        if let (true, Ok(name)) = (is_dir && names.len() < NAMESPACES, entry.file_name().into_string())
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    names
}

/// The parts of a name that say something.
fn words_of(name: &str) -> Vec<String> {
    name.to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.len() > 1 && !EMPTY_WORDS.contains(word) && !word.bytes().all(|b| b.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

fn is_filled(value: Option<&serde_json::Value>) -> bool {
    value.is_some_and(|value| match value {
        serde_json::Value::Array(list) => !list.is_empty(),
        serde_json::Value::Object(object) => !object.is_empty(),
        _ => false,
    })
}

#[derive(Deserialize)]
struct Liveness {
    status: String,
}

#[derive(Deserialize)]
struct Projects {
    #[serde(default, deserialize_with = "lenient")]
    projects: Vec<Project>,
}

#[derive(Deserialize)]
struct Project {
    name: String,
    #[serde(default)]
    config: Config,
    validation_error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Models {
    #[serde(default, deserialize_with = "lenient")]
    models: Vec<Model>,
}

/// The fields of llamafarm.yaml that are read. Keys and addresses are none of them.
#[derive(Default, Deserialize)]
struct Config {
    #[serde(default, deserialize_with = "lenient")]
    prompts: Vec<Prompt>,
    rag: Option<Rag>,
    #[serde(default, deserialize_with = "lenient")]
    datasets: Vec<Named>,
    #[serde(default)]
    runtime: Runtime,
}

#[derive(Deserialize)]
struct Prompt {
    #[serde(default, deserialize_with = "lenient")]
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    role: String,
    #[serde(default)]
    content: String,
}

#[derive(Default, Deserialize)]
struct Rag {
    #[serde(default, deserialize_with = "lenient")]
    databases: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
struct Runtime {
    default_model: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    models: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    name: String,
    description: Option<String>,
    model: Option<String>,
    #[serde(default)]
    default: bool,
    tools: Option<serde_json::Value>,
    mcp_servers: Option<serde_json::Value>,
    rag_enabled: Option<bool>,
}

impl Config {
    fn default_model(&self) -> Option<&Model> {
        let models = &self.runtime.models;
        let named = self.runtime.default_model.as_ref();
        models
            .iter()
            .find(|model| Some(&model.name) == named)
            .or_else(|| models.iter().find(|model| model.default))
            .or(models.first())
    }

    /// What the prompts have this role say, each bounded.
    fn said_by(&self, role: &str) -> Vec<String> {
        let messages = self.prompts.iter().flat_map(|prompt| &prompt.messages);
        messages
            .filter(|message| message.role == role)
            .map(|message| plain(&message.content))
            .filter(|text| !text.is_empty())
            .take(crate::capability::limits::LIST)
            .collect()
    }

    fn topics(&self, project: &str, domain: Option<&str>) -> Vec<String> {
        let databases = self.rag.iter().flat_map(|rag| &rag.databases);
        let named = self.datasets.iter().chain(databases).flat_map(|named| words_of(&named.name));
        let mut topics: Vec<String> = Vec::new();
        for topic in domain.map(str::to_owned).into_iter().chain(words_of(project)).chain(named) {
            let says_something = !matches!(
                topic.as_str(),
                "main" | "database" | "db" | "data" | "dataset" | "docs" | "documents" | "files"
            );
            if says_something && !topics.contains(&topic) && topics.len() < crate::capability::limits::LIST {
                topics.push(topic);
            }
        }
        topics
    }

    fn description(&self, project: &str, domain: Option<&str>) -> String {
        let mut parts = vec![match domain {
            Some(domain) => format!("Project {project}, about {domain}."),
            None => format!("Project {project}."),
        }];
        parts.extend(self.default_model().and_then(|model| model.description.as_deref()).map(plain));
        parts.extend(self.said_by("system"));
        parts.retain(|part| !part.is_empty());
        cut(&parts.join(" "), DESCRIPTION_CHARS)
    }
}

/// One line without template placeholders.
fn plain(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(from) = text.find("{{")
        && let Some(len) = text[from..].find("}}")
    {
        text.replace_range(from..from + len + 2, " ");
    }
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), DESCRIPTION_CHARS)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_tells_its_field_by_its_name() {
        assert_eq!(words_of("camelid-expert"), ["camelid"]);
        assert_eq!(words_of("My_Demo_2024"), Vec::<String>::new());
        assert_eq!(words_of("llama-care"), ["llama", "care"]);
    }

    #[test]
    fn placeholders_and_line_breaks_are_left_out() {
        assert_eq!(plain("You help\n {{user | default('x')}} with llamas.\t{{open"), "You help with llamas. {{open");
        assert_eq!(cut("ääää", 2), "ää…");
    }
}
