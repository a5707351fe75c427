//! A double of an Ollama server: its native discovery (`/api/tags`, `/api/show`, `/api/ps`) and its OpenAI routes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::backend::{Server, Shared, completions, models_list};
use super::{Counts, Mode};

/// A running double.
pub struct Ollama {
    shared: Arc<Shared>,
    server: Server,
}

impl Ollama {
    /// Its models: a chat model that is loaded, a coder, an embedder and a model that sees.
    pub const MODELS: [&str; 4] = ["llama3.2:latest", "qwen2.5-coder:7b", "nomic-embed-text:latest", "qwen2.5vl:7b"];

    /// Starts it.
    pub fn start(name: &str) -> Self {
        let shared = Shared::new(name, &Self::MODELS);
        let app = Router::new()
            .route("/", get(|| async { "Ollama is running" }))
            .route("/api/version", get(|| async { Json(json!({"version": "0.14.2"})) }))
            .route("/api/tags", get(tags))
            .route("/api/show", post(show))
            .route("/api/ps", get(running))
            .route("/api/embed", post(embed))
            .route("/v1/models", get(models_list))
            .route("/v1/chat/completions", post(completions))
            .route("/v1/completions", post(completions))
            .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found") })
            .with_state(Arc::clone(&shared));
        Self { shared, server: Server::start(app) }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// How it behaves from now on.
    pub fn set(&self, mode: Mode) {
        self.shared.set(mode);
    }

    /// What happened to its completions.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }
}

/// Family, parameters, context, embedding length and capabilities of a model.
fn facts(model: &str) -> Option<(&'static str, &'static str, u64, u64, &'static [&'static str])> {
    Some(match model {
        "llama3.2" | "llama3.2:latest" => ("llama", "3.2B", 131_072, 3072, &["completion", "tools"]),
        "qwen2.5-coder:7b" => ("qwen2", "7.6B", 32_768, 3584, &["completion", "tools", "insert"]),
        "nomic-embed-text" | "nomic-embed-text:latest" => ("nomic-bert", "137M", 2048, 768, &["embedding"]),
        "qwen2.5vl:7b" => ("qwen25vl", "8.3B", 128_000, 3584, &["completion", "vision"]),
        _ => return None,
    })
}

fn details(family: &str, size: &str) -> Value {
    json!({"parent_model": "", "format": "gguf", "family": family, "families": [family], "parameter_size": size,
        "quantization_level": "Q4_K_M"})
}

fn entry(model: &str) -> Value {
    let (family, size, _, _, capabilities) = facts(model).expect("MODELS and facts agree");
    json!({"name": model, "model": model, "modified_at": "2026-08-21T10:00:00Z", "size": 2_019_393_189_u64,
        "digest": format!("{:0>64}", model.len()), "details": details(family, size), "capabilities": capabilities})
}

async fn tags() -> Json<Value> {
    Json(json!({"models": Ollama::MODELS.map(entry)}))
}

async fn running() -> Json<Value> {
    let mut loaded = entry("llama3.2:latest");
    loaded["expires_at"] = "2026-11-21T23:00:00Z".into();
    loaded["size_vram"] = 2_019_393_189_u64.into();
    loaded["context_length"] = 8192.into();
    Json(json!({"models": [loaded]}))
}

async fn show(Json(request): Json<Value>) -> Response {
    let model = request["model"].as_str().or(request["name"].as_str()).unwrap_or_default();
    let Some((family, size, context, width, capabilities)) = facts(model) else {
        return (StatusCode::NOT_FOUND, Json(json!({"error": format!("model '{model}' not found")}))).into_response();
    };
    Json(json!({
        "details": details(family, size), "capabilities": capabilities, "modified_at": "2026-08-21T10:00:00Z",
        "template": "{{ .Prompt }}", "parameters": "", "license": "test",
        "model_info": {
            "general.architecture": family,
            format!("{family}.context_length"): context,
            format!("{family}.embedding_length"): width,
        },
    }))
    .into_response()
}

async fn embed(State(_): State<Arc<Shared>>, Json(request): Json<Value>) -> Json<Value> {
    let count = request["input"].as_array().map_or(1, Vec::len);
    let vectors: Vec<Value> = (0..count).map(|_| json!([0.6, 0.8, 0.0])).collect();
    Json(json!({"model": request["model"], "embeddings": vectors, "total_duration": 1_000_000, "prompt_eval_count": 3}))
}
