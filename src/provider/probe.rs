//! Finds out what answers at a URL, by what it answers, and where to look on this machine.
//!
//! A port says nothing: llama.cpp and LocalAI share one, vLLM and older LlamaFarms another, and an Atmosphere
//! node may listen anywhere. A node's own API is recognised and never becomes a backend.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use url::Url;

use super::answer::{self, read_body};
use super::http::{Backend, is_node};
use super::secret::Secret;
use super::settings::BackendKind;
use crate::capability::{ErrorClass, Failure};

/// Ports on which backends listen by default, and whose default each is.
pub(crate) const PORTS: [(u16, BackendKind); 8] = [
    (11434, BackendKind::Ollama),
    (14345, BackendKind::LlamaFarm),
    // vLLM; LlamaFarm before v0.0.27.
    (8000, BackendKind::Vllm),
    (11540, BackendKind::Universal),
    (1234, BackendKind::LmStudio),
    // llama.cpp, LocalAI.
    (8080, BackendKind::LlamaCpp),
    (30000, BackendKind::Sglang),
    (11534, BackendKind::Lemonade),
];

/// How long one question may take. A server that is up answers these from memory.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a local port may take to open.
const PORT_TIMEOUT: Duration = Duration::from_millis(300);

/// Longest answer that is read.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// The URL of a port of this machine, when something listens there.
pub(crate) async fn listening(port: u16) -> Option<Url> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let open = tokio::time::timeout(PORT_TIMEOUT, tokio::net::TcpStream::connect(address)).await;
    matches!(open, Ok(Ok(_))).then(|| Url::parse(&format!("http://{address}")).ok()).flatten()
}

/// What answers at `url`.
///
/// # Errors
///
/// When nothing does, nothing known does, or it is an Atmosphere node.
pub(crate) async fn identify(label: &str, url: &Url, key: Option<&Secret>) -> Result<BackendKind, Failure> {
    let backend = Backend::new(label, url, key)?;
    let root = |path: &[&str]| ask(backend.root(Method::GET, path));
    let (health, models, version, alive, runtime, studio) = tokio::join!(
        ask(backend.api(Method::GET, &["health"])),
        ask(backend.api(Method::GET, &["models"])),
        root(&["api", "version"]),
        root(&["health", "liveness"]),
        root(&["health"]),
        root(&["api", "v0", "models"]),
    );
    let answers = Answers { health, models, version, alive, runtime, studio };
    match answers.recognise() {
        Recognised::Backend(kind) => Ok(kind),
        Recognised::Node => Err(backend.own_kind()),
        Recognised::Unknown if answers.all().iter().all(|answer| answer.status == 0) => {
            Err(Failure::new(ErrorClass::Unavailable, format!("nothing answers at {label} (is it running there?)")))
        }
        Recognised::Unknown => Err(Failure::new(
            ErrorClass::Backend,
            format!("what answers at {label} is no backend that is known: say what it is, as in \"openai={label}\""),
        )),
    }
}

/// What came back to one question.
#[derive(Debug, Clone, Default)]
struct Answer {
    /// 0 when nothing came.
    status: u16,
    /// Whether the headers are a node's.
    node: bool,
    json: Value,
}

async fn ask(request: RequestBuilder) -> Answer {
    let question = async {
        let response = request.send().await.ok()?;
        let (status, node) = (response.status().as_u16(), is_node(response.headers()));
        let body = read_body(answer::Answer::Other(response), ANSWER_BYTES).await.unwrap_or_default();
        Some(Answer { status, node, json: serde_json::from_slice(&body).unwrap_or_default() })
    };
    tokio::time::timeout(QUESTION_TIMEOUT, question).await.ok().flatten().unwrap_or_default()
}

#[derive(Debug, PartialEq, Eq)]
enum Recognised {
    Backend(BackendKind),
    Node,
    Unknown,
}

#[derive(Debug, Default)]
struct Answers {
    health: Answer,
    models: Answer,
    version: Answer,
    alive: Answer,
    runtime: Answer,
    studio: Answer,
}

impl Answers {
    const fn all(&self) -> [&Answer; 6] {
        [&self.health, &self.models, &self.version, &self.alive, &self.runtime, &self.studio]
    }

    fn recognise(&self) -> Recognised {
        use BackendKind::{LlamaFarm, LmStudio, Ollama, OpenAi, Universal};

        if self.all().iter().any(|answer| answer.node) || self.health.json.get("atmosphere").is_some() {
            return Recognised::Node;
        }
        let ok = |answer: &Answer| answer.status == 200;
        let kind = if ok(&self.alive) && self.alive.json["status"] == "alive" {
            LlamaFarm
        } else if ok(&self.runtime) && self.runtime.json["loaded_models"].is_array() {
            Universal
        } else if let Some(owner) = self.owner() {
            owner
        } else if ok(&self.studio)
            && self.studio.json["data"].as_array().is_some_and(|list| {
                list.iter().all(|model| model.get("state").is_some() || model.get("compatibility_type").is_some())
            })
        {
            LmStudio
        } else if ok(&self.version) && self.version.json["version"].is_string() {
            Ollama
        } else if ok(&self.models) && self.models.json["data"].is_array() {
            OpenAi
        } else if matches!(self.models.status, 401 | 403) && self.models.json.is_object() {
            // It wants a key, in JSON: discovery will say so.
            OpenAi
        } else {
            return Recognised::Unknown;
        };
        Recognised::Backend(kind)
    }

    /// The server that its models say they belong to.
    fn owner(&self) -> Option<BackendKind> {
        let list = self.models.json["data"].as_array().filter(|_| self.models.status == 200)?;
        list.iter().find_map(|model| match model["owned_by"].as_str()? {
            "llamacpp" => Some(BackendKind::LlamaCpp),
            "vllm" => Some(BackendKind::Vllm),
            "sglang" => Some(BackendKind::Sglang),
            "lemonade" => Some(BackendKind::Lemonade),
            "localai" => Some(BackendKind::LocalAi),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn says(status: u16, json: Value) -> Answer {
        Answer { status, node: false, json }
    }

    #[test]
    fn what_answers_is_known_by_its_answers() {
        let list = |owner: &str| says(200, json!({"object": "list", "data": [{"id": "m", "owned_by": owner}]}));
        let none = Answers::default;
        let table = [
            (Answers { alive: says(200, json!({"status": "alive"})), ..none() }, Some(BackendKind::LlamaFarm)),
            (
                Answers {
                    runtime: says(200, json!({"status": "healthy", "loaded_models": []})),
                    models: list("x"),
                    ..none()
                },
                Some(BackendKind::Universal),
            ),
            (
                Answers { models: list("llamacpp"), version: says(200, json!({"version": "1"})), ..none() },
                Some(BackendKind::LlamaCpp),
            ),
            (Answers { models: list("vllm"), ..none() }, Some(BackendKind::Vllm)),
            (Answers { models: list("sglang"), ..none() }, Some(BackendKind::Sglang)),
            (
                Answers {
                    models: list("organization_owner"),
                    studio: says(200, json!({"data": [{"id": "m", "state": "loaded"}]})),
                    version: says(200, json!({"error": "Unexpected endpoint"})),
                    ..none()
                },
                Some(BackendKind::LmStudio),
            ),
            (
                Answers { models: list("library"), version: says(200, json!({"version": "0.12"})), ..none() },
                Some(BackendKind::Ollama),
            ),
            (Answers { models: list("me"), ..none() }, Some(BackendKind::OpenAi)),
            (Answers { models: says(401, json!({"error": {}})), ..none() }, Some(BackendKind::OpenAi)),
            (Answers { models: says(401, Value::Null), ..none() }, None),
            // A web server that answers everything with its page.
            (
                Answers {
                    models: says(200, Value::Null),
                    alive: says(200, Value::Null),
                    version: says(200, Value::Null),
                    ..none()
                },
                None,
            ),
            (none(), None),
        ];
        for (answers, kind) in table {
            let wanted = kind.map_or(Recognised::Unknown, Recognised::Backend);
            assert_eq!(answers.recognise(), wanted, "{answers:?}");
        }
    }

    #[test]
    fn a_node_is_no_backend() {
        let models = says(200, json!({"data": [{"id": "m", "owned_by": "vllm"}]}));
        let by_body =
            Answers { health: says(200, json!({"atmosphere": "0.1.0"})), models: models.clone(), ..Answers::default() };
        assert_eq!(by_body.recognise(), Recognised::Node);
        let by_header = Answers { models: Answer { node: true, ..models }, ..Answers::default() };
        assert_eq!(by_header.recognise(), Recognised::Node);
    }
}
