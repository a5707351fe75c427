//! Every route, in one table. The OpenAPI document lists the same ones; a test compares.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{MethodRouter, delete, get, post};

use super::app::App;
use super::error::ApiError;
use super::facades::{self, ollama};
use super::face::Face;
use super::{doctor, members, mesh, meta, openai, pairing, stream};

/// Label of requests to no route.
const UNMATCHED: &str = "unmatched";

/// A route: its method, its pattern, and who answers.
struct Route {
    method: &'static str,
    pattern: &'static str,
    handler: fn() -> MethodRouter<Arc<App>>,
}

const fn at(method: &'static str, pattern: &'static str, handler: fn() -> MethodRouter<Arc<App>>) -> Route {
    Route { method, pattern, handler }
}

const ROUTES: &[Route] = &[
    at("POST", "/v1/chat/completions", || post(openai::chat)),
    at("POST", "/v1/completions", || post(openai::complete)),
    at("POST", "/v1/embeddings", || post(openai::embed)),
    at("POST", "/v1/responses", || post(facades::responses)),
    at("POST", "/v1/messages", || post(facades::messages)),
    at("POST", "/v1/messages/count_tokens", || post(facades::count_tokens)),
    at("GET", "/v1/models", || get(openai::models)),
    // Names hold slashes, colons and at signs.
    at("GET", "/v1/models/{*id}", || get(openai::model)),
    at("GET", "/v1/capabilities", || get(mesh::capabilities)),
    at("GET", "/v1/health", || get(meta::health)),
    at("GET", "/v1/stream", || get(stream::stream)),
    at("GET", "/v1/mesh/nodes", || get(mesh::nodes)),
    at("GET", "/v1/mesh/topology", || get(mesh::topology)),
    at("GET", "/v1/mesh/capabilities", || get(mesh::capabilities)),
    at("GET", "/v1/mesh/decisions", || get(mesh::decisions)),
    at("GET", "/v1/mesh/decisions/{id}", || get(mesh::decision)),
    at("GET", "/v1/mesh/doctor", || get(doctor::doctor)),
    at("POST", "/v1/mesh/route", || post(mesh::route)),
    at("POST", "/v1/mesh/join", || post(mesh::join)),
    at("GET", "/v1/mesh/members", || get(members::list)),
    at("POST", "/v1/mesh/invite", || post(members::invite)),
    at("POST", "/v1/mesh/pair", || post(pairing::begin)),
    at("GET", "/v1/mesh/pair/{id}", || get(pairing::look)),
    at("POST", "/v1/mesh/pair/{id}/answer", || post(pairing::answer)),
    at("POST", "/v1/mesh/revoke", || post(members::revoke)),
    at("POST", "/v1/mesh/create", || post(members::create)),
    at("POST", "/v1/mesh/leave", || post(members::leave)),
    at("GET", "/healthz", || get(meta::healthz)),
    at("GET", "/readyz", || get(meta::readyz)),
    at("GET", "/metrics", || get(meta::metrics)),
    at("GET", "/openapi.json", || get(meta::openapi)),
    at("GET", "/", || get(meta::landing)),
];

/// What a client of Ollama finds on the port that is for those, besides all of `/v1`.
const OLLAMA: &[Route] = &[
    at("GET", "/", || get(ollama::root)),
    at("POST", "/api/chat", || post(ollama::chat)),
    at("POST", "/api/generate", || post(ollama::generate)),
    at("POST", "/api/embed", || post(ollama::embed)),
    at("POST", "/api/embeddings", || post(ollama::embeddings)),
    at("GET", "/api/tags", || get(ollama::tags)),
    at("GET", "/api/ps", || get(ollama::ps)),
    at("POST", "/api/show", || post(ollama::show)),
    at("GET", "/api/version", || get(ollama::version)),
    at("POST", "/api/pull", || post(ollama::not_here)),
    at("POST", "/api/push", || post(ollama::not_here)),
    at("POST", "/api/create", || post(ollama::not_here)),
    at("POST", "/api/copy", || post(ollama::not_here)),
    at("DELETE", "/api/delete", || delete(ollama::not_here)),
];

/// What a port has.
fn routes_of(face: Face) -> impl Iterator<Item = &'static Route> {
    let own: &[Route] = match face {
        Face::Api => &[],
        Face::Ollama => OLLAMA,
    };
    // What both have is the port's own.
    own.iter().chain(ROUTES.iter().filter(|route| !own.iter().any(|other| other.pattern == route.pattern)))
}

/// All routes as `(method, pattern)`.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().map(|route| (route.method, route.pattern))
}

pub(super) fn router(app: Arc<App>, face: Face) -> Router {
    let router = Router::new();
    let router = routes_of(face).fold(router, |router, route| {
        tracing::trace!(method = route.method, pattern = route.pattern, "route");
        router.route(route.pattern, (route.handler)())
    });
    router.fallback(not_found).method_not_allowed_fallback(wrong_method).with_state(app)
}

/// The pattern of the route that serves this path: a bounded label for metrics and logs.
pub(super) fn pattern_of(face: Face, path: &str) -> &'static str {
    let matches = |pattern: &str| match pattern.split_once('{') {
        None => path == pattern,
        Some((prefix, _)) => path.len() > prefix.len() && path.starts_with(prefix),
    };
    let mut routes = routes_of(face);
    routes.find(|route| matches(route.pattern)).map_or(UNMATCHED, |route| route.pattern)
}

/// Whether a path is answered without a key: probes of supervisors have none, and learn nothing.
pub(super) fn is_free(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

async fn not_found(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("there is no {method} {path} here; GET /openapi.json lists what there is");
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    let message = format!("{method} is not what {path} answers; the Allow header says what is");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
