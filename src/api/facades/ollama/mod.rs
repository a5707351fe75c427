//! Ollama's routes, on a port of their own: everything that speaks only Ollama works on the whole mesh.
//!
//! A model is what some node of the mesh has, so that those routes that manage the models of one machine (pull, create,
//! copy, delete) say who does that instead.

mod models;
mod run;

pub(crate) use models::{ps, show, tags};
pub(crate) use run::{chat, embed, embeddings, generate};

use std::time::SystemTime;

use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::api::error::ApiError;

/// The version of Ollama whose API this is. Clients ask for it to know which fields they may use.
const API_LEVEL: &str = "0.12.6";

/// What every client looks for at the root.
pub(crate) async fn root() -> &'static str {
    "Ollama is running"
}

pub(crate) async fn version() -> Response {
    Json(json!({"version": API_LEVEL, "atmosphere": env!("CARGO_PKG_VERSION")})).into_response()
}

/// Routes that change the models of a machine.
pub(crate) async fn not_here(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    let message = format!(
        "{method} {path} changes the models of one machine, and this is a whole mesh: do it with the Ollama of the \
         machine that shall have the model, and the mesh sees it at once"
    );
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", message)
}

/// A time as Ollama writes it.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}
