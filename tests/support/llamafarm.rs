//! A double of a LlamaFarm server with one project, `farm/camelids`, which knows all about llamas.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::backend::{Server, Shared, completions};
use super::{Counts, Mode};

/// A running double.
pub struct LlamaFarm {
    shared: Arc<Shared>,
    server: Server,
}

impl LlamaFarm {
    /// A secret in the project's config, which must never be seen outside of the node.
    pub const SECRET: &str = "sk-farm-secret-never-to-be-seen";

    /// Starts it.
    pub fn start(name: &str) -> Self {
        let shared = Shared::new(name, &["herd"]);
        let app = Router::new()
            .route("/health/liveness", get(|| async { Json(json!({"status": "alive"})) }))
            .route("/health", get(health))
            .route("/info", get(|| async { Json(json!({"version": "0.0.33", "data_directory": "/var/lib/farm"})) }))
            .route("/openapi.json", get(openapi))
            .route("/v1/models", get(|| async { Json(json!({"data": []})) }))
            .route("/v1/projects/{namespace}", get(projects))
            .route("/v1/projects/{namespace}/{project}", get(project))
            .route("/v1/projects/{namespace}/{project}/models", get(models))
            .route("/v1/projects/{namespace}/{project}/chat/completions", post(project_chat))
            // The real one serves its single-page application for every unknown GET, with status 200.
            .fallback(|| async { Html("<!doctype html><title>Designer</title>") })
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

    /// What happened to its chats.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// The bodies of its chats so far.
    pub fn requests(&self) -> Vec<Value> {
        self.shared.requests()
    }
}

async fn health() -> Json<Value> {
    Json(json!({
        "status": "degraded", "summary": "server up; ollama down",
        "components": [
            {"name": "server", "status": "healthy", "message": "ok", "latency_ms": 0},
            {"name": "ollama", "status": "unhealthy", "message": "connection refused", "latency_ms": 3},
        ],
        "seeds": [], "timestamp": 1_763_700_000,
    }))
}

async fn openapi() -> Json<Value> {
    Json(json!({
        "openapi": "3.1.0", "info": {"title": "LlamaFarm API", "version": "0.0.33"},
        "paths": {
            "/health": {"get": {}}, "/health/liveness": {"get": {}}, "/info": {"get": {}}, "/v1/models": {"get": {}},
            "/v1/projects/{namespace}": {"get": {}, "post": {}},
            "/v1/projects/{namespace}/{project_id}": {"get": {}, "put": {}, "delete": {}},
            "/v1/projects/{namespace}/{project_id}/models": {"get": {}},
            "/v1/projects/{namespace}/{project_id}/chat/completions": {"post": {}},
            "/v1/projects/{namespace}/{project_id}/rag/query": {"post": {}},
        },
    }))
}

fn camelids() -> Value {
    json!({
        "namespace": "farm", "name": "camelids", "last_modified": "2026-08-01T12:00:00",
        "config": {
            "version": "v1", "name": "camelids", "namespace": "farm",
            "prompts": [{"name": "default", "messages": [{"role": "system", "content":
                "You are an expert on camelids: llamas, alpacas, vicuñas and guanacos. You answer questions on their care, \
                 feeding, shearing, health, breeding, behaviour and housing."}]}],
            "rag": {
                "default_database": "herd_books",
                "databases": [{"name": "herd_books", "type": "ChromaStore"}],
                "data_processing_strategies": [{"name": "handbooks", "description":
                    "Veterinary handbooks on llama and alpaca husbandry"}],
            },
            "datasets": [{"name": "llama_care", "data_processing_strategy": "handbooks", "database": "herd_books"}],
            "runtime": {
                "default_model": "herd",
                "models": [{
                    "name": "herd", "description": "Answers questions about caring for llamas and alpacas",
                    "provider": "universal", "model": "unsloth/Qwen3-1.7B-GGUF:Q4_K_M",
                    "base_url": "http://127.0.0.1:11540/v1", "api_key": LlamaFarm::SECRET, "rag_enabled": true,
                    "target_database": "herd_books",
                }],
            },
        },
    })
}

fn not_found(project: &str) -> Response {
    let body = json!({"error": "ProjectNotFound", "message": format!("project {project} not found")});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

async fn projects(Path(namespace): Path<String>) -> Json<Value> {
    // An unknown namespace is an empty list, not an error.
    let projects = if namespace == "farm" { vec![camelids()] } else { Vec::new() };
    Json(json!({"total": projects.len(), "projects": projects}))
}

async fn project(Path((namespace, project)): Path<(String, String)>) -> Response {
    match (namespace.as_str(), project.as_str()) {
        ("farm", "camelids") => Json(json!({"project": camelids()})).into_response(),
        _ => not_found(&project),
    }
}

async fn models(Path((namespace, project)): Path<(String, String)>) -> Response {
    if (namespace.as_str(), project.as_str()) != ("farm", "camelids") {
        return not_found(&project);
    }
    let mut model = camelids()["config"]["runtime"]["models"][0].clone();
    model["default"] = true.into();
    Json(json!({"total": 1, "models": [model]})).into_response()
}

async fn project_chat(
    State(shared): State<Arc<Shared>>,
    Path((namespace, project)): Path<(String, String)>,
    headers: HeaderMap,
    body: Json<Value>,
) -> Response {
    if (namespace.as_str(), project.as_str()) != ("farm", "camelids") {
        return not_found(&project);
    }
    if !headers.contains_key("x-no-session") {
        // The real one would make and keep a session; a gateway that causes that has a bug.
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"detail": "a gateway must ask for no session"})))
            .into_response();
    }
    completions(State(shared), headers, body).await
}
